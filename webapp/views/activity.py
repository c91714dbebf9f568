"""Events of all contracts, newest first, with filters, and as a stream."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from webapp.index import EventRow
from webapp.sources.sources import Sources
from webapp.sources.status import Status
from webapp.views.event_sentences import sentence

PAGE_EVENTS = 50
KINDS: dict[str, tuple[str, ...]] = {
    "stake": ("NodeRegistered", "UnstakeRequested", "UnstakeCancelled", "StakeWithdrawn"),
    "rewards": ("RewardClaimed", "Funded", "PoolRolledOver", "EpochSwept", "EmissionScheduled"),
    "reports": ("ReportSubmitted", "ReportRejected", "UptimeOverridden"),
    "nodes": ("NodeKeyRotated", "BeneficiarySet", "CapabilitiesSet"),
    "requests": ("InferenceRequested", "InferenceFulfilled", "InferenceRefunded"),
    "keepers": ("KeeperJoined", "KeeperLeaving", "BondWithdrawn", "GatewayListed", "GatewayRemoved"),
}


@dataclass(frozen=True, slots=True)
class ActivityLine:
    """One event in words; `place` is where a stream resumes after it."""

    place: str
    block: int
    at: int
    kind: str
    name: str
    sentence: str
    node_id: int | None
    epoch: int | None
    tx_hash: str


@dataclass(frozen=True, slots=True)
class ActivityView:
    """The activity page; `older` is the place that the next page begins after, None on the last page."""

    status: Status
    kind: str | None
    node: int | None
    epoch: int | None
    lines: Sequence[ActivityLine]
    older: str | None


class EventFilters(NamedTuple):
    """Limits of the events shown; None sets no limit."""

    kind: str | None
    node: int | None
    epoch: int | None


def activity_page(sources: Sources, filters: EventFilters, before: tuple[int, int] | None) -> ActivityView:
    """A page of events. Raises IndexUnavailableError."""
    with sources.open() as (snapshot, _, status):
        rows = snapshot.events(PAGE_EVENTS + 1, before, None, *filters[1:], _names(filters.kind))
    older = rows[PAGE_EVENTS - 1].place if len(rows) > PAGE_EVENTS else None
    return ActivityView(status, *filters, [_line(row) for row in rows[:PAGE_EVENTS]], older)


def events_since(sources: Sources, filters: EventFilters, place: tuple[int, int]) -> list[ActivityLine]:
    """Events after a place, oldest first, at most PAGE_EVENTS. Raises IndexUnavailableError."""
    with sources.open() as (snapshot, _, _):
        rows = snapshot.events(PAGE_EVENTS, None, place, *filters[1:], _names(filters.kind))
    return [_line(row) for row in reversed(rows)]


def _names(kind: str | None) -> tuple[str, ...]:
    # Without TotalWeightChanged: it comes with every change of stake, and its sentence adds nothing.
    every = tuple(name for names in KINDS.values() for name in names)
    return KINDS[kind] if kind else every


def _line(row: EventRow) -> ActivityLine:
    kind = next((kind for kind, names in KINDS.items() if row.name in names), "other")
    what = kind, row.name, sentence(row.name, row.args)
    return ActivityLine(row.place, row.block, row.timestamp, *what, row.node_id, row.epoch, row.tx_hash)
