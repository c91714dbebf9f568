"""Uptime strips: the slots of an epoch in a row, coloured by state and drawn as runs of equal state."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from webapp.index import ProbeRow, SlotRow

STATE_NAMES = {"u": "up", "m": "missed", "n": "unconfirmed", "a": "not probed", ".": "still to come"}


@dataclass(frozen=True, slots=True)
class Run:
    """Slots `start` to `start + length - 1`, all in the same state, a letter of STATE_NAMES."""

    start: int
    length: int
    state: str


@dataclass(frozen=True, slots=True)
class Strip:
    """The slots of one node in one epoch.

    Attributes:
        missed: numbers of the missed slots.
        provisional: True while only one keeper's probes are known, before the report.
    """

    epoch: int
    node_id: int
    slots: int
    runs: tuple[Run, ...]
    missed: tuple[int, ...]
    uptime_bps: int | None
    provisional: bool

    @property
    def lost_runs(self) -> tuple[Run, ...]:
        """Runs of missed slots."""
        return tuple(run for run in self.runs if run.state == "m")

    @property
    def counts(self) -> dict[str, int]:
        """Number of slots by the name of their state; states without a slot are left out."""
        sums = dict.fromkeys(STATE_NAMES, 0)
        for run in self.runs:
            sums[run.state] += run.length
        return {STATE_NAMES[state]: count for state, count in sums.items() if count}


def strip_of(
    epoch: int, node_id: int, states: str, uptime_bps: int | None, provisional: bool = False
) -> Strip:
    """The strip of one letter a slot; an unknown letter counts as not probed."""
    letters = "".join(letter if letter in STATE_NAMES else "a" for letter in states)
    runs: list[Run] = []
    for state, group in groupby(letters):
        length = sum(1 for _ in group)
        start = runs[-1].start + runs[-1].length if runs else 0
        runs.append(Run(start, length, state))
    missed = tuple(i for i, letter in enumerate(letters) if letter == "m")
    return Strip(epoch, node_id, len(letters), tuple(runs), missed, uptime_bps, provisional)


def strip_of_row(row: SlotRow) -> Strip:
    """The strip of an attested epoch."""
    return strip_of(row.epoch, row.node_id, row.states, row.uptime_bps)


def live_strip(epoch: int, node_id: int, slots: int, reached: int, probes: Iterable[ProbeRow]) -> Strip:
    """The strip of the running epoch by one keeper's probes; `reached` is the slot that runs now."""
    letters = ["a" if slot < reached else "." for slot in range(slots)]
    for probe in probes:
        if probe.epoch == epoch and probe.node_id == node_id and 0 <= probe.slot < slots:
            # A miss that one region saw is no downtime yet: unconfirmed until keepers of a second region say so.
            letters[probe.slot] = "u" if probe.answered else "n"
    return strip_of(epoch, node_id, "".join(letters), None, provisional=True)
