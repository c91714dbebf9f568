"""The chart of uptime over epochs, as SVG path data that the server computes: it works without scripts."""

from collections.abc import Iterable
from dataclasses import dataclass

from offchain.domain.types import FULL_BPS

_STEPS = (9_900, 9_500, 9_000, 8_000, 5_000, 0)
"""Possible lower ends of the axis, basis points; the highest one below all points is taken."""


@dataclass(frozen=True, slots=True)
class UptimeChart:
    """A line in a box of 1000 x 100.

    Attributes:
        floor_bps: the box's lower edge; its upper edge is 100 %.
        paths: SVG path data, one for each stretch of epochs without a gap.
        first, last: epochs at the left and the right edge.
        worst_epoch, worst_bps: the lowest point.
        count: attested epochs.
    """

    floor_bps: int
    paths: tuple[str, ...]
    first: int
    last: int
    worst_epoch: int
    worst_bps: int
    count: int


def uptime_chart(points: Iterable[tuple[int, int]]) -> UptimeChart | None:
    """The chart of points (epoch, uptime in basis points); None for fewer than two points."""
    ordered = sorted(points)
    if len(ordered) < 2:
        return None
    first, last = ordered[0][0], ordered[-1][0]
    worst_epoch, worst = min(ordered, key=lambda point: point[1])
    floor = next(step for step in _STEPS if step <= worst)
    paths: list[list[str]] = []
    previous = None
    for epoch, bps in ordered:
        x, y = (epoch - first) * 1000 // (last - first), 100 - (bps - floor) * 100 // (FULL_BPS - floor)
        if previous is None or epoch != previous + 1:
            paths.append([f"M{x} {y}h0"])  # a stretch of one epoch is a dot
        else:
            paths[-1].append(f"L{x} {y}")
        previous = epoch
    return UptimeChart(
        floor, tuple("".join(path) for path in paths), first, last, worst_epoch, worst, len(ordered)
    )
