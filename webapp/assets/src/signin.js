// Sign-In with Ethereum: the server writes the message, the wallet signs exactly it.
import { post } from "./csrf.js";
import { session } from "./wallet/session.js";

const hex = (text) =>
  "0x" + [...new TextEncoder().encode(text)].map((byte) => byte.toString(16).padStart(2, "0")).join("");

export function startSignIn(action) {
  const button = action.querySelector("button");
  const words = action.querySelector(".action-words");
  const show = () => {
    button.disabled = !session().account;
    if (session().account && words.textContent.startsWith("Connect")) words.textContent = "";
  };
  show();
  document.addEventListener("walletchange", show);
  button.addEventListener("click", async () => {
    button.disabled = true;
    words.className = "action-words busy";
    try {
      const { account, wallet } = session();
      words.textContent = "Sign the message in your wallet…";
      const asked = await post("/account/message", { address: account });
      const { nonce, message, error } = await asked.json();
      if (!asked.ok) throw new Error(error.message);
      // personal_sign takes data, then account; eth_sign had them the other way round.
      const signature = await wallet.provider.request({ method: "personal_sign", params: [hex(message), account] });
      const answer = await post("/account/sign-in", { nonce, signature });
      if (!answer.ok) throw new Error((await answer.json()).error.message);
      location.assign("/account");
    } catch (error) {
      words.className = "action-words bad";
      words.textContent = error?.code === 4001 ? "Rejected by you. You are not signed in." : `${error.message}.`;
      button.disabled = false;
    }
  });
}
