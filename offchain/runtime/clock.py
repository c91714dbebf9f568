"""Time as services see it; tests hand in their own."""

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time."""

    def now_ms(self) -> int:
        """Unix milliseconds."""


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


def seconds(clock: Clock) -> int:
    """Unix seconds, rounded down."""
    return clock.now_ms() // 1000
