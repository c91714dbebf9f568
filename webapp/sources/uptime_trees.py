"""Uptime trees: rebuilt from the index, and used for proofs only when their root is the report's."""

import threading

from cachetools import LRUCache

from offchain.domain.types import Bps, Epoch, NodeId
from offchain.domain.uptime_tree import UptimeTree
from webapp.index import ReportRow, Snapshot


class Trees:
    """Cache of the trees of reports, shared by all threads."""

    def __init__(self) -> None:
        self._kept: LRUCache[tuple[int, str], UptimeTree] = LRUCache(64)
        self._lock = threading.Lock()

    def of(self, snapshot: Snapshot, report: ReportRow) -> UptimeTree | None:
        """The tree of a report; None when the uptimes in the index do not give the report's root."""
        key = (report.epoch, report.uptime_root)
        # Reading, too, moves an entry to the front, and cachetools has no lock of its own.
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                return kept
        uptimes = {NodeId(n): Bps(u) for n, u in snapshot.epoch_uptimes(report.epoch).items()}
        try:
            tree = UptimeTree(Epoch(report.epoch), report.node_count, uptimes)
        except ValueError:
            return None
        if "0x" + tree.root.hex() != report.uptime_root.lower():
            return None
        with self._lock:
            self._kept[key] = tree
        return tree
