// The playground: shows tokens as they come, then the route receipt. Everything is put in as text, never as markup.
import { post } from "./csrf.js";

function row(list, term, value) {
  const dt = document.createElement("dt");
  const dd = document.createElement("dd");
  dt.textContent = term;
  dd.textContent = value;
  list.append(dt, dd);
}

function showReceipt(host, data) {
  const heading = document.createElement("h2");
  heading.textContent = "Route receipt";
  const list = document.createElement("dl");
  list.className = "facts";
  row(list, "Request", data.request_id ?? "–");
  for (const [index, { node_id, outcome, reason, ms }] of (data.attempts ?? []).entries()) {
    const words = [outcome, reason, ms === undefined ? "" : `${Math.round(ms)} ms`].filter(Boolean).join(", ");
    row(list, `Attempt ${index + 1}`, `node ${node_id}: ${words}`);
  }
  if (data.queue_ms !== undefined) row(list, "Waited for a node", `${data.queue_ms} ms`);
  if (data.total_ms !== undefined) row(list, "Whole answer", `${Math.round(data.total_ms)} ms`);
  const signed = data.receipt?.receipt;
  if (signed) {
    row(list, "Tokens", `${signed.promptTokens} in, ${signed.completionTokens} out`);
    row(list, "Proof of execution", signed.poe);
    row(list, "Result hash", signed.resultHash);
    row(list, "Signed by node key", data.receipt.nodeKey);
  }
  host.replaceChildren(heading, list);
}

// Name and data of each server-sent event in the answer, as the dashboard writes them.
async function* eventsOf(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const name = /^event: (.*)$/m.exec(block)?.[1];
      const data = /^data: (.*)$/m.exec(block)?.[1];
      if (name && data) yield [name, JSON.parse(data)];
    }
  }
}

// Sends the prompt; throws what went wrong as an Error with a sentence.
async function ask(form, signal) {
  const { model, prompt, max_tokens, key = "" } = Object.fromEntries(new FormData(form));
  const body = { model, prompt, max_tokens: Number(max_tokens), key };
  // Not EventSource, which can only GET: the prompt and the key belong in no URL.
  const reply = await post(form.dataset.url, body, { signal });
  if (reply.ok) return reply;
  const { error } = await reply.json();
  throw new Error(`${error.message}. ${error.advice}`);
}

// Shows the answer as it comes; returns the sentence that says how long it took.
async function show(reply, began, answer, state, route) {
  let tokens = 0;
  for await (const [name, item] of eventsOf(reply)) {
    if (name === "problem") throw new Error(item.message);
    if (name === "route") state.textContent = `Node ${item.node_id ?? "?"} answers…`;
    if (name === "token") {
      if (!tokens++) answer.dataset.first = Math.round(performance.now() - began);
      answer.append(item.text);
    }
    if (name === "receipt") showReceipt(route, item);
  }
  if (!tokens) return "The node gave an empty answer.";
  return `First words after ${answer.dataset.first} ms, all after ${Math.round(performance.now() - began)} ms.`;
}

export function startPlayground(form) {
  const button = form.querySelector("button.primary");
  const stop = document.getElementById("play-stop");
  const result = document.getElementById("play-result");
  const answer = document.getElementById("answer");
  const state = document.getElementById("play-state");
  const route = document.getElementById("route");
  button.disabled = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const abort = new AbortController();
    // Aborting closes the connection, and the gateway passes that on: the node is free again.
    stop.onclick = () => abort.abort();
    button.disabled = true;
    stop.hidden = result.hidden = false;
    answer.textContent = "";
    route.replaceChildren();
    state.textContent = "Looking for a node…";
    const began = performance.now();
    try {
      state.textContent = await show(await ask(form, abort.signal), began, answer, state, route);
    } catch (error) {
      state.textContent = error.name === "AbortError" ? "Stopped by you." : error.message;
    } finally {
      button.disabled = false;
      stop.hidden = true;
    }
  });
}
