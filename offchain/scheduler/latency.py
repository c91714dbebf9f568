"""Running quantiles of measured times to the first byte: how long is usual, and from when on is a node slow?"""

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Window:
    """The last `size` values. A quantile is recomputed at most once in `refresh` values, so that asking is cheap."""

    size: int = 256
    refresh: int = 16
    values: deque[float] = field(default_factory=deque)
    _since: int = 0
    _cached: dict[int, float] = field(default_factory=dict)

    def add(self, value: float) -> None:
        """Add a value; the oldest is dropped when the window is full."""
        self.values.append(value)
        if len(self.values) > self.size:
            self.values.popleft()
        self._since += 1
        if self._since >= self.refresh or len(self.values) <= self.refresh:
            self._since = 0
            self._cached.clear()

    def percentile(self, percent: int) -> float | None:
        """The value that `percent` % do not exceed (nearest rank), or None while the window is empty."""
        if not self.values:
            return None
        found = self._cached.get(percent)
        if found is None:
            ordered = sorted(self.values)
            # -(-a // b) rounds up, in integers
            found = self._cached[percent] = ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
        return found


@dataclass(slots=True)
class Timings:
    """Times to the first byte, by timing class.

    Attributes:
        floor_seconds: `patience` is never less than this.
        enough: values of a class below which nothing is said about it.
        limit: most classes that are kept; the oldest is dropped.
    """

    floor_seconds: float = 0.9
    enough: int = 20
    classes: dict[str, Window] = field(default_factory=dict)
    limit: int = 4096

    def observe(self, timing_class: str, seconds: float) -> None:
        """A first byte came after `seconds`."""
        window = self.classes.get(timing_class)
        if window is None:
            if len(self.classes) >= self.limit:
                self.classes.pop(next(iter(self.classes)))
            window = self.classes[timing_class] = Window()
        window.add(seconds)

    def p95(self, timing_class: str) -> float | None:
        """95th percentile of the class in seconds, or None while too little is known."""
        window = self.classes.get(timing_class)
        if window is None or len(window.values) < self.enough:
            return None
        return window.percentile(95)

    def patience(self, timing_class: str, initial_seconds: float) -> float:
        """Seconds to wait for a first byte before the unit goes elsewhere: `max(floor, 3 x p95)`.

        Args:
            initial_seconds: returned while fewer than `enough` values are known.
        """
        p95 = self.p95(timing_class)
        return initial_seconds if p95 is None else max(self.floor_seconds, 3 * p95)
