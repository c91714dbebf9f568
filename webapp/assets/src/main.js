// Runs on every page. Pages work without it: it adds live parts, ticking ages, the wallet, charts and the theme.
import "htmx.org";
import { startClocks } from "./clocks.js";
import { startTheme } from "./theme.js";
import { startActions } from "./wallet/actions.js";
import { startMenu } from "./wallet/menu.js";
import { restore } from "./wallet/session.js";

startTheme();
// Not scrollIntoView: after it the next Tab key would start here, past the skip link.
const here = document.querySelector(".top nav [aria-current]");
const nav = here?.closest("nav");
if (nav) nav.scrollLeft = here.offsetLeft - nav.offsetLeft - (nav.clientWidth - here.offsetWidth) / 2;
startClocks();
startMenu();
startActions();
restore();
document.addEventListener("walletfound", restore);

for (const button of document.querySelectorAll("[data-copy]")) {
  // Browsers give the clipboard to https and localhost only; elsewhere the buttons stay hidden.
  if (!navigator.clipboard) break;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.dataset.copy);
    const label = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = label), 1500);
  });
}

const signIn = document.getElementById("sign-in");
if (signIn) import("./signin.js").then(({ startSignIn }) => startSignIn(signIn));

const playground = document.getElementById("playground");
if (playground) import("./playground.js").then(({ startPlayground }) => startPlayground(playground));

const feed = document.querySelector("[data-stream]");
if (feed && !location.search.includes("before=")) import("./feed.js").then(({ follow }) => follow(feed));

if (document.querySelector("[data-chart]")) {
  import("./charts.js").then((charts) => charts.draw());
}
