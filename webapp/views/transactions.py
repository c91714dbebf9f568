"""What became of a transaction, read from the chain by the server: no page says "done" on a wallet's word alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offchain.chain.abi import ContractAbi, MalformedDataError
from offchain.chain.deployment import Deployment
from offchain.chain.rpc import RpcError
from offchain.domain.eip712 import keccak256
from offchain.errors import TransientError
from webapp.sources.chain import ChainUnavailableError
from webapp.sources.sources import Sources
from webapp.sources.status import Status
from webapp.web import money


@dataclass(frozen=True, slots=True)
class TxEvent:
    """A decoded event of one of our contracts, with a sentence for people."""

    contract: str
    name: str
    args: Mapping[str, Any]
    sentence: str
    node_id: int | None


@dataclass(frozen=True, slots=True)
class TxView:
    """A transaction.

    Attributes:
        state: unknown (no endpoint knows it), pending, failed, confirmed (mined), or done (mined and in the index).
        block: its block; None while pending.
        final: whether that block can no longer be reorganised away.
        sender: the account that signed it.
        function: our function that it calls; None for anything else.
        error: why it failed, decoded.
    """

    status: Status
    hash: str
    state: str
    block: int | None
    final: bool
    sender: str | None
    contract: str | None
    function: str | None
    gas_used: int | None
    events: Sequence[TxEvent]
    error: str | None
    chain_error: str | None

    @property
    def settled(self) -> bool:
        """Whether nothing more will change without a reorganisation."""
        return self.state in ("done", "failed")

    @property
    def nodes(self) -> list[int]:
        """Nodes that it bore on."""
        return sorted({event.node_id for event in self.events if event.node_id})


class TransactionReader:
    """Reads transactions for pages."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        deployment: Deployment = sources.deployment
        self._by_address = {ref.address.lower(): name for name, ref in deployment.contracts.items()}
        self._abis = {name: ContractAbi(ref.abi) for name, ref in deployment.contracts.items()}
        self._selectors = {name: selectors(ref.abi) for name, ref in deployment.contracts.items()}

    def view(self, tx_hash: str) -> TxView:
        """The transaction as the chain shows it now. Raises IndexUnavailableError."""
        with self._sources.open() as (_, _, status):
            pass
        try:
            transaction = self._call("eth_getTransactionByHash", tx_hash)
            receipt = self._call("eth_getTransactionReceipt", tx_hash) if transaction else None
        except ChainUnavailableError as failure:
            return self._view(status, tx_hash, "unknown", chain_error=str(failure))
        if transaction is None:
            return self._view(status, tx_hash, "unknown")
        target = self._by_address.get(str(transaction.get("to") or "").lower())
        function = self._selectors[target].get(str(transaction["input"])[:10]) if target else None
        common: dict[str, Any] = {"sender": transaction["from"], "contract": target, "function": function}
        if receipt is None:
            return self._view(status, tx_hash, "pending", **common)
        block = int(receipt["blockNumber"], 16)
        common |= {
            "block": block,
            "final": block <= status.final_block,
            "gas_used": int(receipt["gasUsed"], 16),
        }
        if int(receipt["status"], 16) != 1:
            return self._view(status, tx_hash, "failed", error=self._reason(transaction, block), **common)
        state = "done" if status.block >= block else "confirmed"
        return self._view(status, tx_hash, state, events=self._events(receipt["logs"]), **common)

    def _view(self, status: Status, tx_hash: str, state: str, **fields: Any) -> TxView:
        defaults: dict[str, Any] = {
            "block": None,
            "final": False,
            "sender": None,
            "contract": None,
            "function": None,
            "gas_used": None,
            "events": (),
            "error": None,
            "chain_error": None,
        }
        return TxView(status=status, hash=tx_hash, state=state, **{**defaults, **fields})

    def _call(self, method: str, *params: Any) -> Any:
        try:
            return self._sources.chain.reader.rpc.call(method, *params)
        except RpcError as error:
            raise ChainUnavailableError(error.message) from error
        except TransientError as error:
            raise ChainUnavailableError(str(error)) from error

    def _events(self, logs: Sequence[Mapping[str, Any]]) -> list[TxEvent]:
        found = []
        for log in logs:
            contract = self._by_address.get(str(log["address"]).lower())
            if contract is None:
                continue
            topics = [bytes.fromhex(topic[2:]) for topic in log["topics"]]
            try:
                event = self._abis[contract].decode_event(topics, bytes.fromhex(log["data"][2:]))
            except MalformedDataError:
                continue
            if event is None:
                continue
            node = event.args.get("nodeId")
            found.append(
                TxEvent(
                    contract,
                    event.name,
                    event.args,
                    sentence(event.name, event.args),
                    int(node) if node is not None else None,
                )
            )
        return found

    def _reason(self, transaction: Mapping[str, Any], block: int) -> str:
        call = {"from": transaction["from"], "to": transaction.get("to"), "data": transaction["input"]}
        try:
            self._sources.chain.reader.rpc.call("eth_call", call, hex(max(0, block - 1)))
        except RpcError as error:
            return self._sources.chain.reader.errors.decode(error.data)
        except TransientError:
            return "the chain does not say why"
        return "it ran out of gas, or the state changed before it was mined"


def selectors(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Function names by selector, 0x-hex."""
    found = {}
    for entry in entries:
        if entry.get("type") == "function":
            signature = f"{entry['name']}({','.join(_type(item) for item in entry['inputs'])})"
            found["0x" + keccak256(signature.encode())[:4].hex()] = str(entry["name"])
    return found


def _type(entry: Mapping[str, Any]) -> str:
    kind = str(entry["type"])
    if not kind.startswith("tuple"):
        return kind
    return f"({','.join(_type(item) for item in entry['components'])}){kind.removeprefix('tuple')}"


def sentence(name: str, args: Mapping[str, Any]) -> str:
    """One event in words. Unknown ones say their name."""

    def prlx(key: str) -> str:
        return f"{money.exact(int(args[key]))} PRLX"

    match name:
        case "NodeRegistered":
            return (
                f"Node {args['nodeId']} is registered in tier {args['tier']} with {prlx('stake')}; "
                f"it counts from epoch {args['activeFrom']} on."
            )
        case "UnstakeRequested":
            return f"Node {args['nodeId']} asked for its stake; it counts until epoch {args['activeUntil']} begins."
        case "UnstakeCancelled":
            return f"Node {args['nodeId']} stays; it counts from epoch {args['activeFrom']} on."
        case "StakeWithdrawn":
            return f"Node {args['nodeId']} is retired; {prlx('stake')} went back to its owner."
        case "RewardClaimed":
            return f"Node {args['nodeId']} was paid {prlx('amount')} for epoch {args['epoch']}."
        case "BeneficiarySet":
            return f"Node {args['nodeId']} is paid to {args['beneficiary']} from now on."
        case "CapabilitiesSet":
            return f"Node {args['nodeId']} declared its capabilities."
        case "NodeKeyRotated":
            return f"Node {args['nodeId']} has another node key."
        case "UptimeOverridden":
            return (
                f"Node {args['nodeId']} is paid by {int(args['recounted']) / 100:g} % uptime for epoch {args['epoch']}, "
                f"not by {int(args['attested']) / 100:g} %."
            )
        case "Deposited":
            return f"{prlx('amount')} of credits for {args['payer']}."
        case "WithdrawalRequested":
            return f"{prlx('amount')} of credits thaw and can be withdrawn afterwards."
        case "WithdrawalCancelled":
            return "The credits stay; nothing thaws any more."
        case "Withdrawn":
            return f"{prlx('amount')} of credits went back to {args['payer']}."
        case "ReportSubmitted":
            return f"The report of epoch {args['epoch']} was accepted."
        case "Approval":
            return f"The locker may take {prlx('value')} of the owner's tokens."
        case "Transfer":
            return f"{prlx('value')} moved."
        case "Funded":
            return f"{prlx('amount')} of fees went into the pool of epoch {args['epoch']}."
        case "PoolRolledOver":
            return f"{prlx('amount')} of epoch {args['fromEpoch']} were carried to epoch {args['toEpoch']}."
        case "EpochSwept":
            return f"{prlx('amount')} of epoch {args['epoch']} went back to the reserve."
        case "InferenceRequested":
            return f"A request came in with up to {prlx('priceCeiling')} in escrow."
        case "InferenceFulfilled":
            return f"Node {args['nodeId']} answered a request for {prlx('priceWei')}."
        case "InferenceRefunded":
            return f"A request went unanswered; {prlx('amount')} went back."
        case "KeeperJoined":
            return f"Keeper {args['keeperId']} joined with a bond of {prlx('bond')}."
        case "KeeperLeaving":
            return f"Keeper {args['keeperId']} leaves."
        case "TotalWeightChanged":
            return f"The total weight changed from epoch {args['epoch']} on."
    return name
