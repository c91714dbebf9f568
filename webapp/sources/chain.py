"""Reads of the contracts at the block that the index stands at, so that all figures of a page belong to one block.

One page costs one HTTP round trip: all its calls travel in one JSON-RPC batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from offchain.chain.deployment import Deployment
from offchain.chain.reader import ChainReader, PinnedReads, Read
from offchain.chain.rpc import Rpc
from offchain.domain.payout import reward
from offchain.domain.types import BlockRef, Bps, Wei, Weight
from offchain.errors import SkipError, TransientError


class ChainUnavailableError(TransientError):
    """The RPC endpoint did not answer, or does not know the block."""


@dataclass(frozen=True, slots=True)
class ChainEpoch:
    """What the contracts freeze when an epoch begins.

    Attributes:
        pool_wei: what the epoch pays out at most.
        total_weight: sum of all nodes' weights, wei-basis-points.
    """

    pool_wei: int
    total_weight: int

    def reward(self, weight: int, uptime_bps: int) -> int:
        """What the contract pays a node of this weight and uptime, wei."""
        return reward(Wei(self.pool_wei), Weight(weight), Weight(self.total_weight), Bps(uptime_bps))


class _PageReads(PinnedReads):
    """Pinned reads for a page that shows what it can: None stands for a call that gave nothing.

    A call gives nothing when it reverted, or when its contract had no code at the block yet.
    """

    def _decode(self, read: Read, answer: Any) -> Any:
        try:
            return None if answer == "0x" else super()._decode(read, answer)
        except SkipError:
            return None


class ChainSource:
    """The contracts of one deployment, as pages read them. Sends nothing before the first read: servers fork earlier.

    Args:
        rpc_url: HTTP endpoints, separated by commas; never sent to browsers.
        deployment: addresses and ABIs.
        timeout_seconds: bound of one batch.
    """

    def __init__(self, rpc_url: str, deployment: Deployment, timeout_seconds: float = 2.0) -> None:
        self.reader = ChainReader(Rpc(rpc_url, timeout_seconds=timeout_seconds), deployment)

    def close(self) -> None:
        """Close the connections."""
        self.reader.rpc.close()

    def read(self, reads: Sequence[Read], block: BlockRef | None = None) -> list[Any]:
        """Results in the order of the reads; None where a call reverted or the contract was not deployed yet.

        Without a block, the newest one is asked for and read, for one round trip more.

        Raises:
            ChainUnavailableError: no answer in time, or the block is unknown (pruned, or reorganised away).
            UserError: the deployment has no such contract.
        """
        if not reads:
            return []
        try:
            return _PageReads(self.reader, block or self.reader.head_block()).many(reads)
        except TransientError as error:
            raise ChainUnavailableError(str(error)) from error
