"""The status line of every page: block and age of the index, the running epoch, and how long it still lasts."""

from collections.abc import Callable
from dataclasses import dataclass

from offchain.domain.epochs import EpochClock
from offchain.domain.types import BlockRef, Epoch
from webapp.index import Head

STALE_SECONDS = 120
"""An index whose head is older than this says so in a banner."""


@dataclass(frozen=True, slots=True)
class EpochView:
    """The running epoch; times in Unix seconds."""

    number: int
    started_at: int
    ends_at: int
    length_seconds: int
    slots: int
    remaining_seconds: int

    @property
    def elapsed_permille(self) -> int:
        """How much of the epoch is over, in thousandths."""
        return min(1000, (self.length_seconds - self.remaining_seconds) * 1000 // self.length_seconds)


@dataclass(frozen=True, slots=True)
class Status:
    """Where the figures of a page come from.

    Attributes:
        block, block_hash: head of the index; 0 and "" while it is empty.
        block_timestamp: Unix seconds of that block.
        age_seconds: `now` minus `block_timestamp`.
        final_block: newest block that can no longer be reorganised away.
        now: Unix seconds: the wall clock's, or `block_timestamp` where the chain's clock is ahead.
        epoch: the running epoch; None before genesis.
        chain_id, network: the chain.
        stale: whether the head is older than STALE_SECONDS.
    """

    block: int
    block_hash: str
    block_timestamp: int
    age_seconds: int
    final_block: int
    now: int
    epoch: EpochView | None
    chain_id: int
    network: str
    stale: bool

    @property
    def current_epoch(self) -> int:
        """Number of the running epoch; 0 before genesis."""
        return self.epoch.number if self.epoch else 0

    @property
    def empty(self) -> bool:
        """Whether the index has not read its first block."""
        return not self.block_hash

    @property
    def ref(self) -> BlockRef | None:
        """The block as reads of the chain name it; None while the index is empty."""
        return None if self.empty else BlockRef(self.block, self.block_hash, self.block_timestamp)


def status_of(
    head: Head | None, clock: EpochClock, chain_id: int, network: str, time: Callable[[], float]
) -> Status:
    """The status that belongs to a head; `time` gives Unix seconds."""
    wall = int(time())
    now = max(wall, head.timestamp) if head else wall
    epoch = None
    if now >= clock.genesis:
        number = clock.epoch_at(now)
        start, end = clock.start(number), clock.end(number)
        epoch = EpochView(number, start, end, clock.length_seconds, clock.slots, end - now)
    if head is None:
        return Status(0, "", 0, 0, 0, now, epoch, chain_id, network, False)
    age = now - head.timestamp
    place = head.block, head.block_hash, head.timestamp, age, head.final_block
    return Status(*place, now, epoch, chain_id, network, age > STALE_SECONDS)


def latest_slots(clock: EpochClock, now: int, count: int = 3) -> list[tuple[int, int]]:
    """The running slot and those before it, as (epoch, slot), newest first; none from before genesis."""
    if now < clock.genesis:
        return []
    epoch, slot = clock.slot_at(now)
    found: list[tuple[int, int]] = []
    while len(found) < count and epoch >= 0:
        found.append((epoch, slot))
        epoch, slot = (epoch, slot - 1) if slot else (Epoch(epoch - 1), clock.slots - 1)
    return found


def slot_start(clock: EpochClock, epoch: int, slot: int) -> int:
    """Unix second at which a slot begins."""
    return clock.slot_bounds_ms(Epoch(epoch), slot)[0] // 1000
