"""Whether this keeper's clock can be trusted: it is compared with the time in new blocks.

A block says when it was made, and the index sees it a moment later. The smallest age of the last few blocks, when first
seen, is therefore about the distance of the two clocks. A clock that is behind sees blocks from the future. A clock that
is ahead and an RPC endpoint that is late look alike and have the same remedy: an honest node's receipt would seem to be
from another time, so the keeper makes no probes until its clock fits again. Its missing evidence costs nobody a slot; a
false miss would.
"""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from offchain.db.database import Database
from offchain.domain.types import BlockRef
from offchain.keeper import store
from offchain.runtime.clock import Clock

CLOCK = "clock"
BEHIND_MS, AHEAD_MS = 5_000, 10_000
"""Tolerance: clocks of nodes and keepers may be 5 s apart, and a new block may be seen some seconds late."""
KEPT_BLOCKS = 4
"""The smallest age of so many blocks decides: a single late block must not end probing."""


@dataclass(eq=False)
class ClockCheck:
    """Stores how old new blocks are by this keeper's clock, in the database, for all processes of the keeper."""

    database: Database
    clock: Clock

    def saw(self, head: BlockRef) -> None:
        """Store the age of the newest indexed block; a block that is stored already changes nothing."""
        now_ms = self.clock.now_ms()
        with self.database.read() as session:
            ages = _ages(session)
        newest = max((number for number, _ in ages), default=-1)
        # First sight only: a block of a fork, in the place of a known one, would seem old.
        if head.number <= newest:
            return
        ages = [*ages, (head.number, now_ms - head.timestamp * 1000)][-KEPT_BLOCKS:]
        with self.database.write() as session:
            store.replace_mark(
                session, CLOCK, "ages", now_ms // 1000, {"ages": [list(pair) for pair in ages]}
            )

    def why_not(self) -> str:
        """Why this keeper must not sign evidence by its clock now, in words; empty when it may."""
        with self.database.read() as session:
            offset = clock_offset_ms(session)
        if offset is None:
            return "no new block was seen yet"
        if offset < -BEHIND_MS:
            return f"this clock is {-offset // 1000} s behind the newest blocks"
        if offset > AHEAD_MS:
            return f"new blocks are {offset // 1000} s old: this clock is ahead, or the RPC endpoint late"
        return ""


def clock_offset_ms(session: Session) -> int | None:
    """Milliseconds by which this clock is ahead of the chain, or the index late; None before a block was seen."""
    # The minimum: every delay on the way makes a block look older, none younger.
    return min((age for _, age in _ages(session)), default=None)


def _ages(session: Session) -> list[tuple[int, int]]:
    found = store.result_of(session, CLOCK, "ages").get("ages", [])
    return [(int(number), int(age)) for number, age in found]
