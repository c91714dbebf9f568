// Ages and countdowns. They start from the server's time, which is the chain's where that is ahead.
const UNITS = [
  [86400, "d"],
  [3600, "h"],
  [60, "min"],
  [1, "s"],
];

export function duration(seconds) {
  let left = Math.max(0, Math.floor(seconds));
  const parts = [];
  for (const [size, name] of UNITS) {
    const count = Math.floor(left / size);
    left %= size;
    if (count || (size === 1 && !parts.length)) parts.push(`${count}\u202f${name}`);
    else if (parts.length) break;
    if (parts.length === 2) break;
  }
  return parts.join(" ");
}

export function startClocks() {
  const loaded = performance.now() / 1000;
  const start = Number(document.body.dataset.now || Date.now() / 1000);
  const tick = () => {
    const now = start + performance.now() / 1000 - loaded;
    for (const node of document.querySelectorAll("[data-since]")) node.textContent = duration(now - node.dataset.since);
    for (const node of document.querySelectorAll("[data-until]")) node.textContent = duration(node.dataset.until - now);
  };
  setInterval(tick, 1000);
  document.addEventListener("htmx:afterSwap", tick);
}
