"""Node records from the keeper's index, kept in memory and read again when a new block was indexed."""

import time
from collections.abc import Callable

from sqlalchemy import select

from offchain.db.database import Database
from offchain.db.models import Cursor, Node
from offchain.db.reputation import reputations
from offchain.domain.epochs import EpochClock
from offchain.domain.types import NodeId
from offchain.protocol.heartbeats import NodeRecord

HANDOVER_SECONDS = 30.0
"""After a key rotation, receipts signed with the old key are accepted for this many seconds, so that running answers can end."""


class NodeDirectory:
    """Node records by id. `refresh` runs in a thread; lookups are plain dictionary reads."""

    def __init__(self, database: Database, epochs: EpochClock, now: Callable[[], float] = time.time) -> None:
        """`database` is a keeper's index, read only; `now` Unix seconds."""
        self._database = database
        self._epochs = epochs
        self._now = now
        self._records: dict[NodeId, NodeRecord] = {}
        self._former: dict[NodeId, tuple[str, float]] = {}
        self._head: tuple[str, int] | None = None
        self.loaded = False

    def __len__(self) -> int:
        return len(self._records)

    def get(self, node_id: NodeId) -> NodeRecord | None:
        """A node's record, or None when it is not registered (or not indexed yet)."""
        return self._records.get(node_id)

    def keys_of(self, node_id: NodeId) -> tuple[str, ...]:
        """Addresses of a node's key and, for `HANDOVER_SECONDS` after a rotation, of its old key; empty for an unknown node."""
        record = self._records.get(node_id)
        if record is None:
            return ()
        if node_id not in self._former:
            return (record.key_address,)
        former, until = self._former[node_id]
        return (record.key_address, former) if self._now() < until else (record.key_address,)

    def reputation(self) -> dict[NodeId, int]:
        """Reputation in basis points of every node that has one. Reads 30 days of slots, so call it rarely.

        Raises:
            TransientError: the database does not answer.
        """
        found = reputations(self._database, self._epochs, int(self._now()))
        return {node_id: record.factor_bps for node_id, record in found.items()}

    def refresh(self) -> bool:
        """Read the index again if a new block or epoch came. Returns whether records may have changed.

        Raises:
            TransientError: the database does not answer; the last known records stay.
        """
        epoch = self._epochs.epoch_at(max(int(self._now()), self._epochs.genesis))
        with self._database.read() as session:
            block_hash = session.scalar(select(Cursor.block_hash).where(Cursor.name == "head")) or ""
            # The epoch, too: it alone decides when a node that leaves stops being routable, block or none.
            head = (block_hash, epoch)
            if self.loaded and head == self._head and block_hash:  # no hash: nothing is indexed yet
                return False
            columns = (Node.node_id, Node.key_address, Node.tier, Node.active_until, Node.withdrawn)
            rows = session.execute(select(*columns)).all()
        fresh = dict[NodeId, NodeRecord]()
        for node_id, key_address, tier, active_until, withdrawn in rows:
            routable = not withdrawn and (active_until is None or epoch < active_until)
            fresh[NodeId(node_id)] = NodeRecord(NodeId(node_id), key_address, tier, routable)
        self._former = {node_id: held for node_id, held in self._former.items() if self._now() < held[1]}
        for node_id, record in self._records.items():
            if node_id in fresh and fresh[node_id].key_address != record.key_address:
                self._former[node_id] = (record.key_address, self._now() + HANDOVER_SECONDS)
        self._records = fresh
        self._head = head
        self.loaded = True
        return True
