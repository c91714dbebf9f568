// EIP-6963: wallets announce themselves; an injected window.ethereum is the fallback.
const found = new Map();

addEventListener("eip6963:announceProvider", (event) => {
  const { info, provider } = event.detail ?? {};
  if (!info?.uuid || typeof provider?.request !== "function") return;
  found.set(info.rdns || info.uuid, {
    name: String(info.name ?? "Wallet").slice(0, 40),
    icon: info.icon,
    id: info.rdns || info.uuid,
    provider,
  });
  document.dispatchEvent(new CustomEvent("walletfound"));
});
dispatchEvent(new Event("eip6963:requestProvider"));

export function wallets() {
  if (!found.size && typeof window.ethereum?.request === "function") {
    return [{ name: "Browser wallet", id: "injected", provider: window.ethereum }];
  }
  return [...found.values()];
}
