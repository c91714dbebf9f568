"""Logs of our contracts, fetched with mistrust.

What an endpoint says is checked before it is used: every log lies in the asked range, belongs to the block that the
header names, is of one of our contracts, and comes once. In blocks that may still change, the headers' bloom filters
also tell whether logs were left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from offchain.chain.abi import ContractAbi, MalformedDataError
from offchain.chain.blocks import Blocks, Header
from offchain.chain.deployment import Deployment
from offchain.chain.rpc import Rpc, RpcError
from offchain.domain.eip712 import address_bytes, keccak256
from offchain.errors import TransientError

INDEXED_CONTRACTS = (
    "NodeRegistryLocker", "KeeperRegistry", "UptimeAttestation", "RewardDistributor", "InferenceMarket",
    "CreditVault", "VoucherCollector",
)  # fmt: skip
"""Contracts whose events make the index; a deployment may lack some."""


@dataclass(frozen=True, slots=True)
class ChainEvent:
    """One decoded log. `args` are JSON-ready: integers as decimal text, bytes as 0x-hex, addresses EIP-55."""

    block_number: int
    block_hash: str
    block_timestamp: int
    tx_hash: str
    log_index: int
    contract: str
    name: str
    args: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ScannedRange:
    """Everything about a range of blocks.

    Attributes:
        headers: of every block, or only of those with logs and the last one when the range was final already.
        events: in chain order.
    """

    headers: tuple[Header, ...]
    events: tuple[ChainEvent, ...]

    @property
    def last(self) -> Header:
        """Header of the range's last block."""
        return self.headers[-1]


@dataclass(frozen=True, slots=True)
class _Log:
    block: int
    block_hash: str
    index: int
    tx_hash: str
    contract: str
    topics: tuple[bytes, ...]
    data: bytes


class LogSource:
    """Reads ranges of blocks. Every method raises TransientError when an answer is missing or cannot be right."""

    def __init__(self, rpc: Rpc, blocks: Blocks, deployment: Deployment) -> None:
        self._rpc = rpc
        self._blocks = blocks
        refs = [deployment.contracts[name] for name in INDEXED_CONTRACTS if name in deployment.contracts]
        self._addresses = [ref.address for ref in refs]
        self._names = {ref.address.lower(): ref.name for ref in refs}
        self._abis = {ref.name: ContractAbi(ref.abi) for ref in refs}
        self._bloom_bits = [_bloom_bits(address_bytes(ref.address)) for ref in refs]

    def final_range(self, first: int, last: int) -> ScannedRange:
        """A range that can no longer change: only headers of blocks with logs are fetched.

        Raises:
            RangeTooLargeError: the endpoint refuses so much at once.
            TransientError: the answer is missing or cannot be right.
        """
        # Without all headers there are no blooms to compare; omissions show as gaps in ids (ADR 0042).
        logs = self._logs(first, last)
        # The last one too: the index's cursor moves there, by number and hash.
        wanted = sorted({log.block for log in logs} | {last})
        headers = self._blocks.many(wanted)
        return ScannedRange(tuple(headers), self._events(headers, logs))

    def open_range(self, first: int, last: int, parent_hash: str) -> ScannedRange:
        """A range that may still change: every header is fetched and must continue `parent_hash`.

        Raises:
            RangeTooLargeError: the endpoint refuses so much at once.
            TransientError: the answer is missing, cannot be right, or the chain changed meanwhile.
        """
        # Before the logs: those of a block that took another's place meanwhile then name another hash.
        headers = self._blocks.many(list(range(first, last + 1)))
        for header in headers:
            if header.parent_hash != parent_hash:  # a fork between two answers of a batch
                raise TransientError(f"the chain changed below block {header.number} while it was read")
            parent_hash = header.hash
        logs = self._logs(first, last)
        self._refuse_omissions(headers, {log.block for log in logs})
        return ScannedRange(tuple(headers), self._events(headers, logs))

    def identities(self, first: int, last: int) -> dict[str, set[tuple[str, int]]]:
        """(block hash, log index) of every event in a range, by endpoint, from up to two endpoints."""
        answers = self._rpc.batch_each([("eth_getLogs", [self._filter(first, last)])])
        return {
            name: {
                (log.block_hash, log.index)
                for log in self._parse(answer, first, last)
                # The index holds no events that the ABI does not know, so they are not compared.
                if self._abis[log.contract].knows(log.topics)
            }
            for name, (answer,) in answers.items()
        }

    def _filter(self, first: int, last: int) -> dict[str, Any]:
        return {"fromBlock": hex(first), "toBlock": hex(last), "address": self._addresses}

    def _logs(self, first: int, last: int) -> list[_Log]:
        return self._parse(self._rpc.call("eth_getLogs", self._filter(first, last)), first, last)

    def _parse(self, answer: Any, first: int, last: int) -> list[_Log]:
        if isinstance(answer, RpcError):
            raise TransientError(f"the RPC endpoint refuses logs {first}..{last}: {answer.message}")
        if not isinstance(answer, list):
            raise TransientError(f"the RPC endpoint gave no list of logs for {first}..{last}")
        logs = [self._log(item) for item in answer]
        logs.sort(key=lambda log: (log.block, log.index))  # checked here, not trusted
        if logs and not (first <= logs[0].block and logs[-1].block <= last):
            raise TransientError(f"the RPC endpoint gave logs outside the asked range {first}..{last}")
        for one, other in pairwise(logs):
            if (one.block, one.index) == (other.block, other.index):
                raise TransientError(f"the RPC endpoint gave log {one.index} of block {one.block} twice")
        return logs

    def _log(self, item: Any) -> _Log:
        try:
            if item.get("removed"):  # only subscriptions should name such logs
                raise TransientError("the RPC endpoint gave a log that a reorganisation removed")
            contract = self._names.get(item["address"].lower())
            if contract is None:
                raise TransientError(
                    f"the RPC endpoint gave a log of {item['address']}, which was not asked for"
                )
            return _Log(
                block=int(item["blockNumber"], 16),
                block_hash=item["blockHash"],
                index=int(item["logIndex"], 16),
                tx_hash=item["transactionHash"],
                contract=contract,
                topics=tuple(_bytes(topic) for topic in item["topics"]),
                data=_bytes(item["data"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TransientError("the RPC endpoint gave a malformed log") from error

    def _events(self, headers: Sequence[Header], logs: Sequence[_Log]) -> tuple[ChainEvent, ...]:
        by_number = {header.number: header for header in headers}
        events: list[ChainEvent] = []
        for log in logs:
            header = by_number[log.block]
            if header.hash != log.block_hash:
                raise TransientError(
                    f"a log names another block {log.block} than its header; the chain changed or it lies"
                )
            try:
                decoded = self._abis[log.contract].decode_event(log.topics, log.data)
            except MalformedDataError as error:
                raise TransientError(f"the RPC endpoint gave a log that cannot be: {error}") from error
            if decoded is not None:
                events.append(
                    ChainEvent(
                        block_number=log.block,
                        block_hash=log.block_hash,
                        block_timestamp=header.timestamp,
                        tx_hash=log.tx_hash,
                        log_index=log.index,
                        contract=log.contract,
                        name=decoded.name,
                        args=decoded.args,
                    )
                )
        return tuple(events)

    def _refuse_omissions(self, headers: Sequence[Header], with_logs: set[int]) -> None:
        """Where a bloom filter says that there may be logs of ours but none came, ask for that block alone."""
        for header in headers:
            if header.number in with_logs or not any(
                _may_hold(header.logs_bloom, bits) for bits in self._bloom_bits
            ):
                continue
            # By hash (EIP-234): the answer is about the very block whose bloom filter was read.
            answer = self._rpc.call("eth_getLogs", {"blockHash": header.hash, "address": self._addresses})
            if self._parse(answer, header.number, header.number):
                raise TransientError(f"the RPC endpoint left out logs of block {header.number}")


def _bytes(text: str) -> bytes:
    if not text.startswith("0x"):
        raise ValueError("bytes without 0x")
    return bytes.fromhex(text[2:])


def _bloom_bits(value: bytes) -> int:
    """The three bits of a 2048-bit logs bloom that a value sets (Ethereum yellow paper, section 4.3.1)."""
    digest = keccak256(value)
    bits = 0
    for offset in (0, 2, 4):
        bits |= 1 << (int.from_bytes(digest[offset : offset + 2], "big") & 2047)
    return bits


def _may_hold(bloom: bytes, bits: int) -> bool:
    return int.from_bytes(bloom, "big") & bits == bits  # may say yes wrongly, never no
