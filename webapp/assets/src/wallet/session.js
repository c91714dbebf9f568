// The wallet and account of this tab. Only the wallet's id is remembered; the wallet decides which account it reveals.
import { wallets } from "./discovery.js";

const KEY = "parallelix.wallet";
let state = { wallet: null, account: null };

export const session = () => state;

function set(next) {
  state = next;
  document.dispatchEvent(new CustomEvent("walletchange"));
}

function follow(wallet) {
  wallet.provider.on?.("accountsChanged", (accounts) => {
    // Listeners are never removed; that of a wallet which is no longer chosen does nothing.
    if (state.wallet?.id === wallet.id) set({ wallet, account: accounts[0] ?? null });
  });
  wallet.provider.on?.("chainChanged", () => document.dispatchEvent(new CustomEvent("walletchange")));
}

export async function connect(wallet) {
  const accounts = await wallet.provider.request({ method: "eth_requestAccounts" });
  if (!accounts?.length) throw new Error("The wallet gave no account.");
  localStorage.setItem(KEY, wallet.id);
  follow(wallet);
  set({ wallet, account: accounts[0] });
}

export function disconnect() {
  localStorage.removeItem(KEY);
  set({ wallet: null, account: null });
}

// Connects again after a reload, without a prompt: eth_accounts asks the user nothing.
export async function restore() {
  const id = localStorage.getItem(KEY);
  const wallet = id && wallets().find((candidate) => candidate.id === id);
  if (!wallet || state.account) return;
  const accounts = await wallet.provider.request({ method: "eth_accounts" }).catch(() => []);
  // Tested again after the wait: the visitor may have connected meanwhile.
  if (!accounts?.length || state.account) return;
  follow(wallet);
  set({ wallet, account: accounts[0] });
}
