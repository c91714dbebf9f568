// The contracts' custom errors in words: what is wrong, and what to do.
import { prlx } from "./units.js";

const when = (seconds) => new Date(Number(seconds) * 1000).toISOString().replace("T", " ").slice(0, 16) + " UTC";
const EPOCH_STATES = ["open", "pending", "final", "lapsed"];
const STATES = ["unknown", "idle", "active", "cooling", "retired"];

const SENTENCES = {
  StakeOutOfRange: ([stake, min]) => `A stake of ${prlx(stake)} PRLX is not allowed; the least is ${prlx(min)} PRLX.`,
  InvalidTier: ([tier]) => `There is no tier ${tier}; choose 1 to 4.`,
  InvalidNodeKey: () => "That is not a node key hash, or it is the owner’s own wallet. Make a key on the machine.",
  NodeKeyInUse: ([, node]) => `This node key already serves node ${node}. Make another one on the machine.`,
  NodeLimitReached: ([limit]) => `The network is full: ${limit} nodes are registered.`,
  UnknownNode: ([node]) => `There is no node ${node}.`,
  NotNodeOwner: ([node, , owner]) => `Node ${node} belongs to ${owner}. Connect that wallet.`,
  WrongState: ([node, state]) =>
    `Node ${node} is ${STATES[state] ?? "in another state"}; the page is out of date, reload it.`,
  StillCooling: ([node, unlockAt]) => `Node ${node} still cools down; it can be withdrawn from ${when(unlockAt)} on.`,
  ERC20InsufficientBalance: ([, balance, needed]) =>
    `The account holds ${prlx(balance)} PRLX and needs ${prlx(needed)} PRLX.`,
  ERC20InsufficientAllowance: ([, allowance, needed]) =>
    `The locker may take ${prlx(allowance)} PRLX and needs ${prlx(needed)} PRLX. Sign again.`,
  ERC2612ExpiredSignature: () => "The permit has expired. Sign again.",
  ERC2612InvalidSigner: () => "The permit was signed by another account. Sign again with the connected one.",
  EpochNotFinal: ([epoch]) => `Epoch ${epoch} is not final yet; claim it when its challenge window has closed.`,
  AlreadyClaimed: ([node, epoch]) => `Node ${node} was already paid for epoch ${epoch}. Reload the page.`,
  ClaimExpired: ([epoch, deadline]) => `The claim of epoch ${epoch} expired on ${when(deadline)}.`,
  NoWeight: ([node, epoch]) => `Node ${node} had no weight in epoch ${epoch}.`,
  InvalidProof: ([epoch, node]) =>
    `The proof for node ${node} in epoch ${epoch} does not fit the report. Reload the page.`,
  EpochSettled: ([epoch]) => `The pool of epoch ${epoch} was carried on or swept.`,
  WithinTolerance: ([attested, recounted]) =>
    `The receipts prove ${recounted / 100} %, and ${attested / 100} % are attested: an appeal must prove more than 1 % above it.`,
  WrongStatus: ([epoch, status]) =>
    `Epoch ${epoch} is ${EPOCH_STATES[status] ?? "in another state"}; an appeal needs an open challenge window.`,
  InvalidNodeEvidence: ([slot]) => `The receipt of slot ${slot} is not signed by a key of this node.`,
  InvalidKeeperEvidence: ([slot]) => `The receipt of slot ${slot} is not signed by a keeper of that epoch.`,
  WrongSlotOrder: ([, slot]) => `Slot ${slot} does not exist, or comes twice.`,
  ZeroAmount: () => "The amount is zero.",
  AmountTooLarge: ([, most]) => `The vault takes at most ${prlx(most)} PRLX more.`,
  InsufficientBalance: ([, balance, needed]) =>
    `The vault holds ${prlx(balance)} PRLX of this account; you ask for ${prlx(needed)} PRLX.`,
  NothingThawing: () => "Nothing was asked back; the page is out of date, reload it.",
  StillThawing: ([, thawedAt]) => `The credits still thaw; they can be withdrawn from ${when(thawedAt)} on.`,
  UnexpectedTransferAmount: () => "The token moved another amount than asked for.",
  EnforcedPause: () => "The contract is paused just now. Withdrawing and claiming never are.",
};

export function sentenceOf(name, args) {
  const make = SENTENCES[name];
  return make ? make(args) : `The contract refuses: ${name}(${args.join(", ")})`;
}
