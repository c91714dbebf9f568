"""What every page needs to know first: which block, how old, which epoch, and what is left of it."""

from collections.abc import Callable
from dataclasses import dataclass

from offchain.domain.epochs import EpochClock
from offchain.domain.types import Epoch
from webapp.index import Head

STALE_SECONDS = 120
"""An index whose head is older than this says so in a banner."""


@dataclass(frozen=True, slots=True)
class EpochView:
    """The present epoch; None of this exists before genesis."""

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
        age_seconds: how long ago that block was made.
        final_block: what can no longer be reorganised away.
        now: Unix seconds by the clock that the pages use: the wall clock, or the chain's where it is ahead.
        epoch: the present epoch; None before genesis.
        chain_id, network: the chain.
        stale: whether the index stands still.
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
    def empty(self) -> bool:
        """Whether the index has not read its first block."""
        return not self.block_hash


def status_of(
    head: Head | None, clock: EpochClock, chain_id: int, network: str, time: Callable[[], float]
) -> Status:
    """Status of a snapshot's head."""
    wall = int(time())
    now = max(wall, head.timestamp) if head else wall
    epoch = None
    if now >= clock.genesis:
        number = clock.epoch_at(now)
        epoch = EpochView(
            number,
            clock.start(number),
            clock.end(number),
            clock.length_seconds,
            clock.slots,
            clock.end(number) - now,
        )
    if head is None:
        return Status(0, "", 0, 0, 0, now, epoch, chain_id, network, False)
    age = now - head.timestamp
    return Status(
        head.block,
        head.block_hash,
        head.timestamp,
        age,
        head.final_block,
        now,
        epoch,
        chain_id,
        network,
        age > STALE_SECONDS,
    )


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
