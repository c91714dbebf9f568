"""Block headers, and the rule by which a block counts as final."""

from dataclasses import dataclass
from typing import Any

from offchain.chain.rpc import BlockUnknownError, DisagreementError, Rpc, RpcError
from offchain.domain.types import BlockRef
from offchain.errors import FatalError, TransientError


@dataclass(frozen=True, slots=True)
class Header:
    """What the index needs of a block's header. Hashes are 0x-hex, `timestamp` Unix seconds."""

    number: int
    hash: str
    parent_hash: str
    timestamp: int
    logs_bloom: bytes

    @property
    def ref(self) -> BlockRef:
        """The block as decisions name it."""
        return BlockRef(self.number, self.hash, self.timestamp)


class Blocks:
    """Headers of one chain under a finality policy."""

    def __init__(self, rpc: Rpc, confirmations: int) -> None:
        """Read through `rpc`. `confirmations`: blocks below the newest that count as final; 0 asks for the `finalized` tag."""
        self._rpc = rpc
        self._confirmations = confirmations

    def head(self) -> BlockRef:
        """The newest block that the endpoint knows. Raises TransientError."""
        return _header(self._rpc.call("eth_getBlockByNumber", "latest", False), "latest").ref

    def finalized(self) -> BlockRef:
        """The newest final block; with several endpoints, one that two of them call final and agree on.

        Raises:
            DisagreementError: two endpoints have different final blocks at one height.
            TransientError: no endpoint answered.
            FatalError: the chain has no finality to offer under this policy.
        """
        tag = "latest" if self._confirmations else "finalized"
        answers = self._rpc.batch_each([("eth_getBlockByNumber", [tag, False])])
        # The lowest: the endpoint that lags has that block, too.
        lowest = min(_header(answer, tag).number for (answer,) in answers.values())
        # A chain just begun has fewer blocks than `confirmations`.
        number = hex(max(0, lowest - self._confirmations))
        # Asked by height: both must name one hash.
        answers = self._rpc.batch_each([("eth_getBlockByNumber", [number, False])])
        headers = {name: _header(answer, number) for name, (answer,) in answers.items()}
        if len({header.hash for header in headers.values()}) > 1:
            raise DisagreementError(
                f"RPC endpoints {' and '.join(headers)} have different final blocks at height {int(number, 16)}; "
                "one of them follows another chain"
            )
        return next(iter(headers.values())).ref

    def at(self, number: int) -> Header:
        """The canonical header at a height. Raises BlockUnknownError when the chain is not that high."""
        return self.many([number])[0]

    def many(self, numbers: list[int]) -> list[Header]:
        """The canonical headers at some heights, in order, from one endpoint.

        Raises:
            BlockUnknownError: the chain is not that high.
        """
        answers = self._rpc.batch([("eth_getBlockByNumber", [hex(number), False]) for number in numbers])
        headers = [_header(answer, str(number)) for answer, number in zip(answers, numbers, strict=True)]
        for header, number in zip(headers, numbers, strict=True):
            if header.number != number:  # a caching proxy may answer with another block
                raise TransientError(f"the RPC endpoint gave block {header.number} when asked for {number}")
        return headers


def _header(answer: Any, what: str) -> Header:
    if isinstance(answer, RpcError):
        if what == "finalized":
            raise FatalError("the chain has no `finalized` tag; set confirmations to a depth instead")
        raise TransientError(f"the RPC endpoint refuses block {what}: {answer.message}")
    if answer is None:  # JSON null: behind a load balancer, a node that lags
        raise BlockUnknownError(f"the RPC endpoint does not have block {what}")
    try:
        return Header(
            number=int(answer["number"], 16),
            hash=answer["hash"],
            parent_hash=answer["parentHash"],
            timestamp=int(answer["timestamp"], 16),
            logs_bloom=bytes.fromhex(answer["logsBloom"][2:]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TransientError(f"the RPC endpoint gave a malformed block {what}") from error
