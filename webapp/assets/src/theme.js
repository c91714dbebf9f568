// The themes auto, light and dark. The choice is kept in a cookie, so that the server renders the page in it.
const ORDER = ["auto", "light", "dark"];

export function startTheme() {
  const button = document.getElementById("theme");
  if (!button) return;
  button.hidden = false;
  button.addEventListener("click", () => {
    const root = document.documentElement;
    const next = ORDER[(ORDER.indexOf(root.dataset.theme) + 1) % ORDER.length];
    root.dataset.theme = next;
    button.setAttribute("aria-label", `Colour theme: ${next}`);
    document.cookie = `theme=${next}; path=/; max-age=31536000; samesite=lax`;
    document.dispatchEvent(new CustomEvent("themechange"));
  });
}
