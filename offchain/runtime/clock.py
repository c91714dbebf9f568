"""The clock that services take through their constructors; tests pass one of their own."""

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
