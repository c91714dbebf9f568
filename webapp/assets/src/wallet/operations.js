// What each button does, by its data-action. Each operation returns the hash of the transaction that it sent.
import { getAddress, isAddress, isHex, keccak256, size } from "viem";
import { json, pay, send, Stop } from "./chain.js";
import { wei } from "./units.js";

const locker = "NodeRegistryLocker";
const vault = "CreditVault";

function address(text) {
  if (!isAddress(text ?? "", { strict: false }))
    throw new Stop("That is not an address: 0x and 40 hexadecimal digits.");
  return getAddress(text);
}

function hash(text, what) {
  if (!isHex(text) || size(text) !== 32) throw new Stop(`That is not ${what}: 0x and 64 hexadecimal digits.`);
  return text;
}

// A node key's hash, given as the hash or as the public key with or without its prefix 04.
function keyHash(text) {
  const hex = text?.startsWith("0x") ? text : `0x${text}`;
  if (isHex(hex) && size(hex) === 65 && hex.startsWith("0x04")) return keccak256(`0x${hex.slice(4)}`);
  if (isHex(hex) && size(hex) === 64) return keccak256(hex);
  return hash(hex, "a node key hash");
}

function amount(text) {
  const found = wei(text ?? "");
  if (!found) throw new Stop("That is not an amount of PRLX, like 250 or 0.5.");
  return found;
}

function uri(text) {
  if (text && (!/^https?:\/\/[^\s]+$/.test(text) || text.length > 500))
    throw new Stop("The place must be an http(s) address of at most 500 characters.");
  return text ?? "";
}

function register(client, data, say) {
  const args = [BigInt(data.stake), Number(data.tier), data.key];
  const plain = ["registerNode", args];
  return pay(
    client,
    locker,
    args[0],
    "the locker take exactly this stake",
    plain,
    ["registerNodeWithPermit", args],
    say,
  );
}

function deposit(client, data, say) {
  const value = amount(data.amount);
  const plain = ["deposit", [client.account.address, value]];
  return pay(client, vault, value, "the vault take exactly this amount", plain, ["depositWithPermit", [value]], say);
}

async function claim(client, path, say) {
  say("Fetching the proofs…");
  const view = await json(path);
  if (!view.claims.length)
    throw new Stop(
      view.broken.length
        ? "The index’s uptimes do not match the report; ask a keeper."
        : "There is nothing to claim: it was claimed meanwhile.",
    );
  const claims = view.claims.map((line) => ({
    nodeId: line.node_id,
    epoch: line.epoch,
    packedLeaf: line.packed_leaf,
    proof: line.proof,
  }));
  if (claims.length === 1) {
    const [{ nodeId, epoch, packedLeaf, proof }] = claims;
    return send(client, "RewardDistributor", "claim", [nodeId, epoch, packedLeaf, proof], say);
  }
  return send(client, "RewardDistributor", "claimMany", [claims], say);
}

async function appeal(client, data, say) {
  const { appealOf } = await import("./appeal.js");
  const args = await appealOf(Number(data.node), Number(data.epoch), data.files ?? [], say);
  return send(client, "UptimeAttestation", "appeal", args, say);
}

const node =
  (name, ...rest) =>
  (client, data, say) =>
    send(client, locker, name, [Number(data.node), ...rest.map((read) => read(data))], say);

export const OPERATIONS = {
  register,
  unstake: node("requestUnstake"),
  cancel: node("cancelUnstake"),
  withdraw: node("withdrawStake"),
  beneficiary: node("setBeneficiary", (data) => address(data.to)),
  "node-key": node("setNodeKey", (data) => keyHash(data.key)),
  capabilities: node(
    "setCapabilities",
    (data) => hash(data.hash, "a manifest hash"),
    (data) => uri(data.uri),
  ),
  "claim-node": (client, data, say) =>
    claim(client, `/api/v1/nodes/${Number(data.node)}/claims${data.epoch ? `?epoch=${Number(data.epoch)}` : ""}`, say),
  "claim-all": (client, data, say) => claim(client, `/api/v1/operators/${getAddress(data.operator)}/claims`, say),
  appeal,
  deposit,
  "credit-thaw": (client, data, say) => send(client, vault, "requestWithdrawal", [amount(data.amount)], say),
  "credit-cancel": (client, _, say) => send(client, vault, "cancelWithdrawal", [], say),
  "credit-withdraw": (client, _, say) => send(client, vault, "withdraw", [], say),
};
