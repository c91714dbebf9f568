"""The state of a transaction, read from the chain by the server: no page says "done" because a wallet said so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from offchain.chain.abi import MalformedDataError, signature
from offchain.chain.rpc import RpcError
from offchain.domain.eip712 import keccak256
from offchain.errors import TransientError
from webapp.sources.chain import ChainSource, ChainUnavailableError
from webapp.sources.sources import Sources
from webapp.sources.status import Status
from webapp.views.event_sentences import sentence


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
        contract, function: what it calls of ours; None for anything else.
        error: why it failed, in sentences.
        chain_error: why the chain could not be asked.
    """

    status: Status
    hash: str
    state: str = "unknown"
    block: int | None = None
    final: bool = False
    sender: str | None = None
    contract: str | None = None
    function: str | None = None
    gas_used: int | None = None
    events: Sequence[TxEvent] = ()
    error: str | None = None
    chain_error: str | None = None

    @property
    def settled(self) -> bool:
        """Whether only a reorganisation can still change the state."""
        return self.state in ("done", "failed")

    @property
    def nodes(self) -> list[int]:
        """Ids of the nodes that its events name, ascending."""
        return sorted({event.node_id for event in self.events if event.node_id})


class TransactionReader:
    """Reads transactions from the chain for the page of a transaction."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        contracts = sources.deployment.contracts
        self._by_address = {ref.address.lower(): name for name, ref in contracts.items()}
        self._selectors = {name: selectors(ref.abi) for name, ref in contracts.items()}

    def view(self, tx_hash: str) -> TxView:
        """The transaction as the chain shows it now. Raises IndexUnavailableError."""
        status = self._sources.present_status()
        view = TxView(status, tx_hash)
        try:
            transaction = self._call("eth_getTransactionByHash", tx_hash)
            receipt = self._call("eth_getTransactionReceipt", tx_hash) if transaction else None
        except ChainUnavailableError as failure:
            return replace(view, chain_error=str(failure))
        if transaction is None:
            return view
        contract = self._by_address.get(str(transaction.get("to") or "").lower())
        function = self._selectors[contract].get(str(transaction["input"])[:10]) if contract else None
        sender = transaction["from"]
        view = replace(view, state="pending", sender=sender, contract=contract, function=function)
        if receipt is None:
            return view
        block, gas = int(receipt["blockNumber"], 16), int(receipt["gasUsed"], 16)
        view = replace(view, block=block, final=block <= status.final_block, gas_used=gas)
        if int(receipt["status"], 16) != 1:
            return replace(view, state="failed", error=self._reason(transaction, block))
        state = "done" if status.block >= block else "confirmed"
        return replace(view, state=state, events=self._events(receipt["logs"]))

    def _call(self, method: str, *params: Any) -> Any:
        try:
            return self._sources.chain.reader.rpc.call(method, *params)
        except (RpcError, TransientError) as error:
            raise ChainUnavailableError(getattr(error, "message", str(error))) from error

    def _events(self, logs: Sequence[Mapping[str, Any]]) -> list[TxEvent]:
        found = []
        for log in logs:
            contract = self._by_address.get(str(log["address"]).lower())
            if contract is None:
                continue
            topics = [bytes.fromhex(topic[2:]) for topic in log["topics"]]
            try:
                abi = self._sources.chain.reader.abi(contract)
                event = abi.decode_event(topics, bytes.fromhex(log["data"][2:]))
            except MalformedDataError:
                continue
            if event is None:
                continue
            node = event.args.get("nodeId")
            node_id = int(node) if node is not None else None
            found.append(TxEvent(contract, event.name, event.args, sentence(event.name, event.args), node_id))
        return found

    def _reason(self, transaction: Mapping[str, Any], block: int) -> str:
        """Why it failed: the same call at the block before says it again, unless the state changed meanwhile."""
        call = {"from": transaction["from"], "to": transaction.get("to"), "data": transaction["input"]}
        try:
            self._sources.chain.reader.rpc.call("eth_call", call, hex(max(0, block - 1)))
        except RpcError as error:
            return revert_words(self._sources.chain, error.data)
        except TransientError:
            return "The chain does not say why."
        return "It ran out of gas, or the state changed before it was mined."


def revert_words(chain: ChainSource, data: bytes | None) -> str:
    """What a contract's refusal means, in sentences; the only place in the dashboard that words a revert."""
    revert = chain.reader.errors.decode(data)
    return revert.words or f"The contract refuses: {revert.code}."


def selectors(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Function names by selector, 0x-hex."""
    return {
        "0x" + keccak256(signature(entry).encode())[:4].hex(): str(entry["name"])
        for entry in entries
        if entry.get("type") == "function"
    }
