"""Whether this keeper's clock can be trusted, held against the chain's.

A block says when it was made, and the index sees it a moment later: the youngest of the last few, when first seen, is
about as old as the clocks are apart. A clock that is behind sees blocks from the future. A clock that is ahead and an
endpoint that is late look alike, and call for the same: with either, an honest node's receipt seems to be from another
time, so the keeper abstains until its clock fits again. Absence of evidence is not downtime; a false miss would be.
"""

from typing import Any

from sqlalchemy.orm import Session

from offchain.db.database import Database
from offchain.db.models import Job
from offchain.domain.types import BlockRef
from offchain.keeper import store
from offchain.runtime.clock import Clock

CLOCK = "clock"
BEHIND_MS, AHEAD_MS = 5_000, 10_000
"""What is tolerated: nodes' and keepers' clocks may be 5 s apart; a new block may take some seconds to be seen."""
KEPT_BLOCKS = 4


class ClockCheck:
    """Notes how old new blocks are by this keeper's clock; every process of the keeper reads the same notes."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def saw(self, head: BlockRef) -> None:
        """Note the newest indexed block; one that is noted already changes nothing."""
        now_ms = self._clock.now_ms()
        with self._database.read() as session:
            ages = _ages(session)
        if ages and head.number <= ages[-1][0]:
            return
        ages = [*ages, (head.number, now_ms - head.timestamp * 1000)][-KEPT_BLOCKS:]
        with self._database.write() as session:
            store.replace_mark(
                session, CLOCK, "ages", now_ms // 1000, {"ages": [list(pair) for pair in ages]}
            )

    def why_not(self) -> str:
        """Why this keeper must not judge by its clock now, in words; empty when it may."""
        with self._database.read() as session:
            skew = skew_ms(session)
        if skew is None:
            return "no new block was seen yet"
        if skew < -BEHIND_MS:
            return f"this clock is {-skew // 1000} s behind the newest blocks"
        if skew > AHEAD_MS:
            return f"new blocks are {skew // 1000} s old: this clock is ahead, or the RPC endpoint late"
        return ""


def skew_ms(session: Session) -> int | None:
    """Milliseconds by which this clock is ahead of the chain, or the index late; None before a block was seen."""
    return min((age for _, age in _ages(session)), default=None)


def _ages(session: Session) -> list[tuple[int, int]]:
    row = session.get(Job, (CLOCK, "ages"))
    found: Any = (row.result if row is not None else None) or {}
    return [(int(number), int(age)) for number, age in found.get("ages", [])]
