// Rewards per epoch as stacked bars: earned below, lost by downtime on top. The table below has the same figures.
import uPlot from "uplot";

// A canvas takes no CSS variable, so the colour is read as the browser computes it for the present theme.
function colour(host, name) {
  host.style.color = `var(${name})`;
  const found = getComputedStyle(host).color;
  host.style.color = "";
  return found;
}

function amount(value) {
  return value === null ? "–" : value.toLocaleString("en", { maximumSignificantDigits: 5 });
}

function earned(host) {
  const rows = JSON.parse(host.querySelector("script").textContent);
  if (!rows.epochs.length) return;
  const font = `12px ${getComputedStyle(document.body).fontFamily}`;
  const axis = {
    stroke: colour(host, "--ink-3"),
    font,
    grid: { stroke: colour(host, "--line"), width: 1 },
    ticks: { show: false },
  };
  const bars = uPlot.paths.bars({ size: [0.72, 46, 2], radius: 0.12 });
  const series = (label, name) => {
    const tone = colour(host, name);
    const value = (_, v) => amount(v);
    return { label, fill: tone, stroke: tone, width: 0, paths: bars, points: { show: false }, value };
  };
  // uPlot stacks nothing: the whole bar is drawn first, and the earned part over it.
  const total = rows.earned.map((value, i) => (value === null ? null : value + (rows.lost[i] ?? 0)));
  return new uPlot(
    {
      width: host.clientWidth - 20,
      height: 200,
      padding: [6, 12, 0, 0],
      cursor: { y: false, points: { show: false } },
      legend: { show: true, live: true },
      scales: {
        x: { time: false, range: (_, a, b) => [a - 0.6, b + 0.6] },
        y: { range: (_, __, max) => [0, (max || 1) * 1.08] },
      },
      axes: [
        {
          ...axis,
          grid: { show: false },
          incrs: [1, 2, 5, 10, 20, 50, 100],
          values: (_, ticks) => ticks.map((t) => (Number.isInteger(t) ? t : "")),
        },
        { ...axis, size: 64, values: (_, ticks) => ticks.map(amount) },
      ],
      series: [
        { label: "Epoch", value: (_, v) => v ?? "–" },
        series("At 100 % uptime, PRLX", "--missed"),
        series("Earned, PRLX", "--up"),
      ],
    },
    [rows.epochs, total, rows.earned],
    host,
  );
}

export function draw() {
  const hosts = [...document.querySelectorAll('[data-chart="earned"]')];
  let plots = hosts.map(earned);
  const again = () => {
    for (const plot of plots) plot?.destroy();
    plots = hosts.map(earned);
  };
  document.addEventListener("themechange", again);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  let width = innerWidth;
  addEventListener("resize", () => {
    // A phone's address bar changes the height at every scroll; only the width matters.
    if (innerWidth === width) return;
    width = innerWidth;
    again();
  });
}
