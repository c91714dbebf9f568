// Buttons that send a transaction. The wallet library is loaded when a button is used for the first time.
import { session } from "./session.js";

export function say(action, words, tone = "") {
  const line = action.querySelector(".action-words");
  line.textContent = words;
  line.className = `action-words ${tone || "dim"}`;
}

function gate() {
  const { account } = session();
  for (const action of document.querySelectorAll("[data-action]")) {
    const button = action.querySelector("button");
    const owner = action.dataset.owner;
    if (action.dataset.busy) continue;
    const foreign = account && owner && owner.toLowerCase() !== account.toLowerCase();
    const obstacle = foreign ? "Only the owner’s wallet can do this." : account ? "" : "Connect a wallet to do this.";
    button.disabled = Boolean(obstacle);
    // What an earlier press said stays until something else is in the way.
    if (obstacle || !action.dataset.spoke) say(action, obstacle);
  }
}

// The data of the button, and of the input fields beside it.
function dataOf(action) {
  const data = { ...action.dataset };
  for (const field of action.closest(".write")?.querySelectorAll("input[name]") ?? [])
    data[field.name] = field.type === "file" ? [...field.files] : field.value.trim();
  return data;
}

export function startActions() {
  gate();
  document.addEventListener("walletchange", gate);
  document.addEventListener("click", async (event) => {
    const action = event.target.closest?.("[data-action]");
    if (!action || event.target.closest("button") !== action.querySelector("button")) return;
    const button = action.querySelector("button");
    button.disabled = true;
    action.dataset.busy = action.dataset.spoke = "1";
    try {
      const flow = await import("./flow.js");
      const hash = await flow.run(dataOf(action), (words) => say(action, words, "busy"));
      say(action, "Sent. Following it…", "busy");
      // From here on the server asks the chain; no page takes the wallet's word that it is done.
      location.assign(`/tx/${hash}`);
    } catch (error) {
      say(action, error.words ?? `That did not work: ${error.shortMessage ?? error.message ?? error}`, "bad");
      delete action.dataset.busy;
      button.disabled = false;
      gate();
    }
  });
}
