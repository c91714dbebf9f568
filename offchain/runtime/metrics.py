"""Metrics in Prometheus' text format. Counting is an addition: on a hot path the client library costs ten times that."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

Sample = tuple[str, int]
"""Labels, as `labels` gives them, and a value."""
_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclass(slots=True)
class Histogram:
    """Counts of values by upper bound, in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(_BOUNDS) + 1))
    total: float = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        # Prometheus' bounds are inclusive (`le`), so a value equal to one counts below it.
        self.counts[bisect_left(_BOUNDS, value)] += 1
        self.total += value

    def lines(self, name: str) -> list[str]:
        """The family in text format."""
        out = [f"# TYPE {name} histogram"]
        running = 0
        for bound, count in zip((*(str(b) for b in _BOUNDS), "+Inf"), self.counts, strict=True):
            running += count
            out.append(f'{name}_bucket{{le="{bound}"}} {running}')
        return [*out, f"{name}_sum {self.total:.6f}", f"{name}_count {running}"]


def labels(**values: str | int) -> str:
    """Labels of a sample."""
    return "{" + ",".join(f'{name}="{str(v).translate(_ESCAPES)}"' for name, v in values.items()) + "}"


def family(name: str, kind: str, samples: Iterable[Sample]) -> list[str]:
    """The lines of a counter or gauge."""
    return [f"# TYPE {name} {kind}", *(f"{name}{label} {value}" for label, value in samples)]
