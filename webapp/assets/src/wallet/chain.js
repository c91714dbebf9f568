// What a wallet does on the chain: switch to it, read, simulate, sign permits, send. A call that would revert is not sent.
import {
  BaseError,
  ContractFunctionRevertedError,
  createClient,
  custom,
  defineChain,
  getAddress,
  parseSignature,
} from "viem";
import {
  getBlock,
  getChainId,
  readContract,
  signTypedData,
  simulateContract,
  waitForTransactionReceipt,
  writeContract,
} from "viem/actions";
import { prlx } from "./units.js";

export class Stop extends Error {
  constructor(words) {
    super(words);
    this.words = words;
  }
}

const PERMIT_MINUTES = 30;
// The order of the fields is part of the hash that is signed (ERC-2612).
const PERMIT = ["address owner", "address spender", "uint256 value", "uint256 nonce", "uint256 deadline"].map(
  (field) => {
    const [type, name] = field.split(" ");
    return { name, type };
  },
);
let network;

export async function json(path) {
  const answer = await fetch(path, { headers: { Accept: "application/json" } });
  const data = await answer.json().catch(() => ({}));
  if (!answer.ok)
    throw new Stop(
      data.error ? `${data.error.message}. ${data.error.advice}` : "The dashboard does not answer; try again.",
    );
  return data;
}

function rejected(error) {
  // EIP-1193's code of a user's refusal, wherever viem or the wallet has wrapped it.
  const codes = [error?.code, error?.cause?.code, error?.walk?.((cause) => cause?.code === 4001)?.code];
  return codes.includes(4001);
}

// What the contract's refusal means: the server decodes it and has the words.
async function wordsOf(revert) {
  const data = revert.raw ?? "0x";
  const { words } = await json(`/api/v1/reverts/${data}`).catch(() => ({ words: "The contract refuses." }));
  return words;
}

// The error with `words` for people, whatever failed: our own check, the wallet, or the contract.
export async function translate(error) {
  if (error instanceof Stop) return error;
  if (rejected(error)) return new Stop("Rejected by you. Nothing was sent.");
  if (error instanceof BaseError) {
    const revert = error.walk((cause) => cause instanceof ContractFunctionRevertedError);
    if (revert) return new Stop(await wordsOf(revert));
    if (/insufficient funds/i.test(error.message))
      return new Stop(`The account has too little ${network?.currency ?? "of the chain’s currency"} to pay for gas.`);
    return new Stop(`The wallet says: ${error.shortMessage}`);
  }
  return error;
}

export async function connectChain(provider, account, say) {
  network ??= await json("/api/v1/wallet");
  await onRightChain(provider, say);
  const client = clientOf(provider, getAddress(account));
  // Asked once more: what is signed goes to the chain that the wallet is on now.
  if ((await getChainId(client)) !== network.chain_id) throw new Stop("The wallet changed chains. Nothing was sent.");
  return client;
}

const gas = () => ({ name: network.currency, symbol: network.currency, decimals: 18 });

async function onRightChain(provider, say) {
  const wanted = `0x${network.chain_id.toString(16)}`;
  const current = await provider.request({ method: "eth_chainId" });
  if (Number(current) === network.chain_id) return;
  const ours = `${network.chain_name} (chain ${network.chain_id})`;
  say(`Your wallet is on chain ${Number(current)}. Asking it to switch to ${ours}…`);
  try {
    await provider.request({ method: "wallet_switchEthereumChain", params: [{ chainId: wanted }] });
  } catch (error) {
    if (rejected(error)) throw new Stop(`Your wallet stays on another chain; this needs ${ours}. Nothing was sent.`);
    // EIP-3085's code for a chain that the wallet does not know; MetaMask's mobile app wraps it.
    const unknown = error?.code === 4902 || error?.data?.originalError?.code === 4902;
    if (!unknown || !network.rpc_url) throw new Stop(`Switch your wallet to ${ours}, then try again.`);
    const added = { chainId: wanted, chainName: network.chain_name, rpcUrls: [network.rpc_url], nativeCurrency: gas() };
    if (network.explorer) added.blockExplorerUrls = [network.explorer];
    await provider.request({ method: "wallet_addEthereumChain", params: [added] });
  }
  // A wallet that added a chain (EIP-3085) need not have switched to it.
  const now = await provider.request({ method: "eth_chainId" });
  if (Number(now) !== network.chain_id)
    throw new Stop(`The wallet is still on chain ${Number(now)}. Nothing was sent.`);
}

function clientOf(provider, account) {
  const chain = defineChain({
    id: network.chain_id,
    name: network.chain_name,
    nativeCurrency: gas(),
    // Everything goes through the wallet: the page's security policy lets it call no other host.
    rpcUrls: { default: { http: [] } },
  });
  // No retries: a second request would open the wallet's window a second time.
  return createClient({ account, chain, transport: custom(provider, { retryCount: 0 }), pollingInterval: 500 });
}

export function contract(name) {
  const found = network.contracts[name];
  if (!found) throw new Stop(`This network has no ${name}.`);
  return found;
}

export async function send(client, name, functionName, args, say) {
  say("Checking on the chain that it would work…");
  const { address, abi } = contract(name);
  const { request } = await simulateContract(client, { address, abi, functionName, args, account: client.account });
  say("Confirm in your wallet…");
  return writeContract(client, request);
}

export const token = (client, functionName, ...args) =>
  readContract(client, { ...contract("ParallelixToken"), functionName, args });

async function permitOf(client, spender, value, purpose, say) {
  const owner = client.account.address;
  // The token's own domain (ERC-5267): a version or chain written here could be a wrong one.
  const reads = [token(client, "eip712Domain"), token(client, "nonces", owner), getBlock(client)];
  const [[, name, version, chainId, verifyingContract], nonce, block] = await Promise.all(reads);
  // By the chain's clock: the visitor's may be wrong by more than a permit's life.
  const deadline = block.timestamp + BigInt(PERMIT_MINUTES * 60);
  say(`Sign the permit in your wallet: it lets ${purpose}…`);
  const signature = await signTypedData(client, {
    account: client.account,
    domain: { name, version, chainId: Number(chainId), verifyingContract },
    types: { Permit: PERMIT },
    primaryType: "Permit",
    message: { owner, spender, value, nonce, deadline },
  });
  // viem leaves v out when the wallet gave 0 or 1 in its place.
  const { r, s, v, yParity } = parseSignature(signature);
  return [deadline, Number(v ?? BigInt(27 + yParity)), r, s];
}

// Makes a call of a contract that takes tokens, [function, arguments]: the plain one with the present allowance, else the
// permitted one, whose arguments a permit follows, in one transaction, else the plain one after an approval.
export async function pay(client, name, value, purpose, plain, permitted, say) {
  const owner = client.account.address;
  const spender = contract(name).address;
  const [balance, allowance] = await Promise.all([
    token(client, "balanceOf", owner),
    token(client, "allowance", owner, spender),
  ]);
  if (balance < value)
    throw new Stop(`The account holds ${prlx(balance)} PRLX; this needs ${prlx(value)} PRLX. Nothing was sent.`);
  if (allowance >= value) return send(client, name, ...plain, say);
  let permit;
  try {
    permit = await permitOf(client, spender, value, purpose, say);
  } catch (error) {
    // Who refuses the permit refuses the payment; no approval is asked for behind it.
    if (rejected(error)) throw error;
    say("This wallet cannot sign a permit. Approving the amount first…");
    // Exactly this amount: an allowance without bound would outlive the payment.
    const hash = await send(client, "ParallelixToken", "approve", [spender, value], say);
    say("The approval is on its way…");
    const receipt = await waitForTransactionReceipt(client, { hash });
    if (receipt.status !== "success") throw new Stop("The approval failed. Nothing else was sent.");
    return send(client, name, ...plain, say);
  }
  const [functionName, args] = permitted;
  return send(client, name, functionName, [...args, ...permit], say);
}
