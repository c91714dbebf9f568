"""A node's reputation factor, from 30 days of uptime and 90 days of validated work. It never touches stake.

====================  ==========  ==========================
worst of the two      factor      means
====================  ==========  ==========================
nothing known yet     1.0         new
above 99 %            1.5
95 % to 99 %          1.2
90 % to 95 %          1.0
80 % to 90 %          0.7
below 80 %            0           suspended: gets no requests
====================  ==========  ==========================

Less than a day of slots holds nobody back (adr/0086): until then a node whose uptime would make less than 1.0 of it is new.
"""

from dataclasses import dataclass
from enum import StrEnum

from offchain.domain.types import FULL_BPS, Bps

MIN_SLOTS = 288
"""A day of slots. With fewer, uptime brings no factor below 1.0: minutes of history must not suspend anybody."""
MIN_VALIDATIONS = 10
"""Fewer validations than this say nothing: one float mismatch must not suspend anybody."""


class Band(StrEnum):
    """Band of a node."""

    NEW = "new"
    EXCELLENT = "excellent"
    GOOD = "good"
    FAIR = "fair"
    POOR = "poor"
    SUSPENDED = "suspended"


FACTOR_BPS: dict[Band, Bps] = {
    Band.NEW: Bps(10_000),
    Band.EXCELLENT: Bps(15_000),
    Band.GOOD: Bps(12_000),
    Band.FAIR: Bps(10_000),
    Band.POOR: Bps(7_000),
    Band.SUSPENDED: Bps(0),
}


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a node.

    Attributes:
        slots, missed: probe slots of the last 30 days, and those lost.
        validated, agreed: answers of the last 90 days that were run again, and those that held.
    """

    slots: int = 0
    missed: int = 0
    validated: int = 0
    agreed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.missed <= self.slots or not 0 <= self.agreed <= self.validated:
            raise ValueError("a part is larger than its whole, or negative")

    @property
    def uptime_bps(self) -> Bps | None:
        """Share of slots that were not lost; None without any slot."""
        return None if self.slots == 0 else Bps(FULL_BPS * (self.slots - self.missed) // self.slots)

    @property
    def success_bps(self) -> Bps | None:
        """Share of validations that held; None with too few of them."""
        return None if self.validated < MIN_VALIDATIONS else Bps(FULL_BPS * self.agreed // self.validated)

    @property
    def factor_bps(self) -> Bps:
        """What the band makes of the node in routing."""
        return FACTOR_BPS[self.band]

    @property
    def band(self) -> Band:
        """The worse of the bands of the two shares."""
        known: list[Band] = []
        if self.uptime_bps is not None:
            band = _band(self.uptime_bps)
            enough = self.slots >= MIN_SLOTS or FACTOR_BPS[band] >= FACTOR_BPS[Band.NEW]
            known.append(band if enough else Band.NEW)
        if self.success_bps is not None:
            known.append(_band(self.success_bps))
        return min(known, key=FACTOR_BPS.__getitem__, default=Band.NEW)


def _band(share: Bps) -> Band:
    for floor, band in ((9_901, Band.EXCELLENT), (9_500, Band.GOOD), (9_000, Band.FAIR), (8_000, Band.POOR)):
        if share >= floor:
            return band
    return Band.SUSPENDED
