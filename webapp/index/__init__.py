"""The index, read only: one snapshot a page, so that all its figures are of the same block."""

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
