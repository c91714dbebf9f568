// The wallet button in the header, and its list of wallets.
import { wallets } from "./discovery.js";
import { connect, disconnect, session } from "./session.js";

const short = (address) => `${address.slice(0, 6)}…${address.slice(-4)}`;

function item(tag, text, act) {
  const node = document.createElement(tag);
  node.append(text);
  if (act) node.addEventListener("click", act);
  return node;
}

function fill(list, button) {
  const { account, wallet } = session();
  list.replaceChildren();
  if (account) {
    const mine = item("a", "My nodes");
    mine.href = `/operators/${account}`;
    list.append(
      item("p", `${wallet.name}, ${short(account)}`),
      mine,
      item("button", "Disconnect", () => {
        disconnect();
        list.hidePopover();
      }),
    );
    return;
  }
  const none = "No wallet was found in this browser. Every page also works without one: reading needs only an address.";
  const all = wallets();
  if (!all.length) list.append(item("p", none));
  for (const wallet of all) {
    const node = item("button", "", async () => {
      list.hidePopover();
      button.textContent = "Waiting for the wallet…";
      try {
        await connect(wallet);
      } catch (error) {
        button.textContent = error?.code === 4001 ? "Rejected by you" : "Connect wallet";
      }
    });
    // EIP-6963 asks for a data URI; in an <img> an SVG runs no script.
    if (typeof wallet.icon === "string" && /^data:image\/(svg\+xml|png|webp|jpeg|gif)[;,]/.test(wallet.icon)) {
      const image = document.createElement("img");
      image.src = wallet.icon;
      image.alt = "";
      node.append(image);
    }
    node.append(wallet.name);
    list.append(node);
  }
}

export function startMenu() {
  const button = document.getElementById("wallet");
  const list = document.getElementById("wallet-list");
  if (!button || !list || !("popover" in list)) return;
  button.hidden = false;
  list.addEventListener("beforetoggle", (event) => event.newState === "open" && fill(list, button));
  const show = () => {
    const { account } = session();
    button.textContent = account ? short(account) : "Connect wallet";
    button.classList.toggle("mono", Boolean(account));
    if (account) {
      for (const link of document.querySelectorAll("[data-mine]"))
        link.href = `/operators/${account}${link.dataset.mine}`;
      for (const link of document.querySelectorAll("[data-mine-at]")) link.href = link.dataset.mineAt + account;
    }
    if (list.matches(":popover-open")) fill(list, button);
  };
  document.addEventListener("walletchange", show);
  document.addEventListener("walletfound", () => list.matches(":popover-open") && fill(list, button));
}
