"""Who answers just now, from the latest finished probe of each node by this index's keeper."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from webapp.index import ProbeRow


@dataclass(frozen=True, slots=True)
class Live:
    """A node's latest probe.

    Attributes:
        online: whether it was answered.
        seen_at: Unix seconds at which it was due.
        latency_ms: time to the full answer; None after a miss.
    """

    node_id: int
    online: bool
    seen_at: int
    latency_ms: int | None


def latest(probes: Iterable[ProbeRow]) -> dict[int, Live]:
    """Latest probe by node; probes come oldest first."""
    return {
        probe.node_id: Live(probe.node_id, probe.answered, probe.due_at_ms // 1000, probe.latency_ms)
        for probe in probes
    }


def percentile(values: Iterable[int], per_cent: int) -> int | None:
    """Nearest-rank percentile; None of nothing."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * per_cent // 100) - 1)] if ordered else None


def weighted_percentile(counts: Sequence[tuple[int, int]], per_cent: int) -> int | None:
    """Nearest-rank percentile of (value, how many) in ascending order; None of nothing."""
    rank = -(-sum(count for _, count in counts) * per_cent // 100)
    seen = 0
    for value, count in counts:
        seen += count
        if seen >= max(1, rank):
            return value
    return None
