"""The chain reads of keeper services, as a seam: `ReaderView` reads pinned blocks through `ChainReader`; tests script it."""

from dataclasses import dataclass
from typing import Protocol

from offchain.chain.reader import ChainReader, EpochStatus, KeeperSet
from offchain.domain.types import BlockRef, Epoch, Wei

__all__ = ["ChainView", "EpochStatus", "KeeperSet", "ReaderView", "last_block_until"]


class ChainView(Protocol):
    """The reads that a keeper needs beside its index. Each one raises TransientError when the RPC fails."""

    def latest(self) -> BlockRef:
        """The newest block."""

    def block(self, number: int) -> BlockRef:
        """A canonical block by height."""

    def keeper_set(self, epoch: Epoch, at: BlockRef) -> KeeperSet:
        """Signers of an epoch in bitmap order, quorum and digest."""

    def status(self, epoch: Epoch) -> EpochStatus:
        """Where the epoch's report stands now."""

    def submit_deadline(self, epoch: Epoch) -> int:
        """Unix second until which the contract accepts a report, as far as known now."""

    def pool(self, epoch: Epoch) -> Wei:
        """The epoch's reward pool now."""


@dataclass(frozen=True)
class ReaderView:
    """`ChainView` over a `ChainReader`."""

    reader: ChainReader

    def latest(self) -> BlockRef:
        return self.reader.head_block()

    def block(self, number: int) -> BlockRef:
        return self.reader.blocks.at(number).ref

    def keeper_set(self, epoch: Epoch, at: BlockRef) -> KeeperSet:
        return self.reader.at(at).keeper_set(epoch)

    def status(self, epoch: Epoch) -> EpochStatus:
        return self.reader.at(self.latest()).report(epoch).status

    def submit_deadline(self, epoch: Epoch) -> int:
        return self.reader.at(self.latest()).submit_deadline(epoch)

    def pool(self, epoch: Epoch) -> Wei:
        return self.reader.at(self.latest()).pool(epoch)


def last_block_until(view: ChainView, timestamp: int, newest: BlockRef) -> BlockRef | None:
    """The last block whose timestamp (Unix seconds) is at most `timestamp`, by binary search below `newest`.

    Returns None when `newest` is not later than `timestamp` (a later block may still be the one), or when no block is
    that early.
    """
    if newest.timestamp <= timestamp:
        return None
    low, high = 0, newest.number  # block(high) is later than `timestamp`
    best = view.block(0)
    if best.timestamp > timestamp:
        return None
    while high - low > 1:
        middle = view.block((low + high) // 2)
        if middle.timestamp <= timestamp:
            low, best = middle.number, middle
        else:
            high = middle.number
    return best
