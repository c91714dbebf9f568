// Arguments of an appeal: receipts that the dashboard has, and receipts from evidence documents that the operator adds.
import { post } from "../csrf.js";
import { json, Stop } from "./chain.js";

const MAX_ANSWERS = 288;

// Packed answers of one node in a keeper's evidence document or in a bundle; one a slot.
function answersIn(document, node) {
  const found = new Map();
  for (const part of document.evidence ?? [document]) {
    for (const text of Array.isArray(part.answers) ? part.answers : []) {
      // An entry begins with slot and node, 4 bytes each, big-endian; 12 letters of base64 hold them.
      const head = Uint8Array.from(atob(String(text).slice(0, 12)), (letter) => letter.charCodeAt(0));
      const view = new DataView(head.buffer);
      if (view.getUint32(4) === node && !found.has(view.getUint32(0))) found.set(view.getUint32(0), text);
    }
  }
  return [...found.values()].slice(0, MAX_ANSWERS);
}

async function brought(url, file, node) {
  let answers;
  try {
    answers = answersIn(JSON.parse(await file.text()), node);
  } catch {
    throw new Stop(`${file.name} is not an evidence document of a keeper.`);
  }
  if (!answers.length) throw new Stop(`${file.name} holds no receipt of node ${node}.`);
  const reply = await post(url, { answers });
  const data = await reply.json();
  if (!reply.ok) throw new Stop(`${data.error.message}. ${data.error.advice}`);
  return data;
}

export async function appealOf(node, epoch, files, say) {
  const url = `/api/v1/nodes/${node}/epochs/${epoch}/appeal`;
  say("Gathering and checking the receipts…");
  const views = [await json(url)];
  for (const file of files) views.push(await brought(url, file, node));
  const [first] = views;
  if (!first.proof.length) throw new Stop(first.problem);
  const bySlot = new Map(views.flatMap((view) => view.evidence).map((one) => [one.slot, one]));
  // Receipts that prove too little alone may prove enough together; then the contract decides.
  if (views.every((view) => view.problem) && bySlot.size <= Math.max(...views.map((view) => view.evidence.length)))
    throw new Stop(views.at(-1).problem);
  const evidence = [...bySlot.values()]
    // The contract wants rising slots, each once (WrongSlotOrder).
    .sort((a, b) => a.slot - b.slot)
    .map((one) => ({
      slot: one.slot,
      keeperIndex: one.keeper_index,
      receiptStructHash: one.receipt_struct_hash,
      nodeR: one.node_r,
      nodeVs: one.node_vs,
      keeperR: one.keeper_r,
      keeperVs: one.keeper_vs,
    }));
  say(`${evidence.length} of ${first.slots} slots are proven. Checking on the chain that it would work…`);
  return [epoch, node, first.packed_leaf, first.proof, evidence];
}
