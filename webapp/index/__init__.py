"""A keeper's index, read only. Each page reads one snapshot, so that all figures of a page belong to one block."""

from webapp.index.rows import (
    ClaimRow,
    EventRow,
    FleetGroup,
    Head,
    KeeperRow,
    NodeRow,
    OverrideRow,
    PaidGroup,
    ProbeRow,
    ReportRow,
    SlotRow,
)
from webapp.index.snapshot import Snapshot
from webapp.index.source import Index, IndexUnavailableError

__all__ = [
    "ClaimRow",
    "EventRow",
    "FleetGroup",
    "Head",
    "Index",
    "IndexUnavailableError",
    "KeeperRow",
    "NodeRow",
    "OverrideRow",
    "PaidGroup",
    "ProbeRow",
    "ReportRow",
    "SlotRow",
    "Snapshot",
]
