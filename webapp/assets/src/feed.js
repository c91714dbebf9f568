// The activity feed: the server sends rows as HTML, with all text escaped.
export function follow(list) {
  const state = document.getElementById("feed-state");
  const url = new URL(list.dataset.stream, location.href);
  url.searchParams.set("after", list.dataset.after);
  const source = new EventSource(url);
  source.addEventListener("open", () => (state.textContent = "Live"));
  // EventSource reports an error also before it reconnects by itself; only CLOSED is final.
  source.addEventListener("error", () => {
    state.textContent = source.readyState === EventSource.CLOSED ? "Not live: reload the page" : "Reconnecting…";
  });
  source.addEventListener("activity", (event) => {
    document.getElementById("feed-empty")?.remove();
    const template = document.createElement("template");
    template.innerHTML = event.data;
    const row = template.content.firstElementChild;
    row.classList.add("fresh");
    list.prepend(row);
    while (list.children.length > 200) list.lastElementChild.remove();
  });
  // A page in the back/forward cache must not hold a stream, which is a thread of the server.
  addEventListener("pagehide", () => source.close());
}
