"""Which nodes answer now, by the latest finished probe of each node by the index's own keeper."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from webapp.index import ProbeRow


@dataclass(frozen=True, slots=True)
class LatestProbe:
    """A node's latest probe.

    Attributes:
        online: whether the node answered.
        seen_at: Unix seconds at which the probe was due.
        latency_ms: time to the full answer; None after a miss.
    """

    node_id: int
    online: bool
    seen_at: int
    latency_ms: int | None


def latest(probes: Iterable[ProbeRow]) -> dict[int, LatestProbe]:
    """Latest probe by node; `probes` are given oldest first."""
    return {
        probe.node_id: LatestProbe(probe.node_id, probe.answered, probe.due_at_ms // 1000, probe.latency_ms)
        for probe in probes
    }


def percentile(values: Iterable[int], per_cent: int) -> int | None:
    """Nearest-rank percentile, e.g. `per_cent=95`; None without values."""
    return weighted_percentile([(value, 1) for value in sorted(values)], per_cent)


def weighted_percentile(counts: Sequence[tuple[int, int]], per_cent: int) -> int | None:
    """Nearest-rank percentile of (value, number of times) in ascending order; None without values."""
    rank = -(-sum(count for _, count in counts) * per_cent // 100)
    seen = 0
    for value, count in counts:
        seen += count
        if seen >= max(1, rank):
            return value
    return None
