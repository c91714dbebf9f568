// EIP-6963: wallets announce themselves; an injected window.ethereum is the fallback.
const found = new Map();

addEventListener("eip6963:announceProvider", (event) => {
  const { info, provider } = event.detail ?? {};
  if (!info?.uuid || typeof provider?.request !== "function") return;
  const id = info.rdns || info.uuid; // the uuid is new at each load, so it could not be remembered
  found.set(id, { name: String(info.name ?? "Wallet").slice(0, 40), icon: info.icon, id, provider });
  document.dispatchEvent(new CustomEvent("walletfound"));
});
// After the listener: wallets that are there answer before this call returns.
dispatchEvent(new Event("eip6963:requestProvider"));

export function wallets() {
  // Not beside announced ones: of several wallets, whichever loaded last has window.ethereum.
  if (!found.size && typeof window.ethereum?.request === "function") {
    return [{ name: "Browser wallet", id: "injected", provider: window.ethereum }];
  }
  return [...found.values()];
}
