"""Circuit breaker of one node.

::

    closed --(faults weigh >= 3)--> open --(open_until passed, or a fresh sign of life)--> half open
      ^                               ^                                                       |
      +------------ success ----------|------------------------ one trial --------------------+
                                      +----------------------- failure, twice as long --------+
"""

from dataclasses import dataclass
from enum import StrEnum

FAULT_LIMIT = 3
"""Sum of `work.FAULT_WEIGHT` that opens a breaker."""
FIRST_OPEN_SECONDS = 1.0
LONGEST_OPEN_SECONDS = 30.0


class BreakerState(StrEnum):
    """Whether a node may be given work."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(slots=True)
class Breaker:
    """Circuit breaker of one node. All times are seconds of the caller's clock."""

    faults: int = 0
    open_until: float = 0.0
    open_seconds: float = 0.0
    state: BreakerState = BreakerState.CLOSED

    def succeeded(self) -> None:
        """An attempt ended well."""
        self.faults = 0
        self.open_seconds = 0.0
        self.state = BreakerState.CLOSED

    def failed(self, weight: int, now: float) -> bool:
        """An attempt failed with a fault of this weight. Returns whether that opened the breaker."""
        self.faults += weight
        if self.state is BreakerState.OPEN:
            return False
        if self.state is BreakerState.CLOSED and self.faults < FAULT_LIMIT:
            return False
        if self.state is BreakerState.HALF_OPEN and weight == 0:  # a full node has not failed its trial
            return False
        self.open_seconds = min(LONGEST_OPEN_SECONDS, max(FIRST_OPEN_SECONDS, 2 * self.open_seconds))
        self.open_until = now + self.open_seconds
        self.state = BreakerState.OPEN
        return True

    def sign_of_life(self, now: float) -> None:
        """A heartbeat came: an open breaker may half-open at once."""
        if self.state is BreakerState.OPEN and now < self.open_until:
            self.open_until = now

    def try_half_open(self, now: float) -> bool:
        """Half-open an open breaker whose time has passed. Returns whether it did."""
        if self.state is BreakerState.OPEN and now >= self.open_until:
            self.state = BreakerState.HALF_OPEN
            return True
        return False
