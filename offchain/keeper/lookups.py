"""What a keeper's services ask about single nodes and requests: small reads of the index, the fleet and the chain."""

from offchain.db.database import Database
from offchain.db.models import Node
from offchain.dispatch.fleet_store import FleetStore
from offchain.domain.eip712 import keccak256
from offchain.domain.epochs import EpochClock
from offchain.domain.types import Epoch, NodeId
from offchain.evidence.chain_view import ChainView
from offchain.protocol.heartbeats import NodeRecord
from offchain.runtime.clock import Clock, seconds


class Lookups:
    """Answers as one keeper would give them.

    Args:
        me: this keeper's signer.
        model: that is probed.
    """

    def __init__(
        self,
        database: Database,
        fleet: FleetStore,
        view: ChainView,
        epochs: EpochClock,
        clock: Clock,
        me: str,
        model: str,
    ) -> None:
        self._database = database
        self._fleet = fleet
        self._view = view
        self._epochs = epochs
        self._clock = clock
        self._me = me.lower()
        self._model = model

    def serving(self) -> list[tuple[NodeId, bytes]]:
        """Nodes alive that serve the probed model, with their revision's hash."""
        model = self._model
        return [
            (report.node_id, keccak256(report.offers[model].revision.encode()))
            for report, _age in self._fleet.read_all()
            if model in report.offers
        ]

    def key_of(self, node_id: NodeId) -> str | None:
        """Address of a node's key; None for an unknown node."""
        with self._database.read() as session:
            row = session.get(Node, node_id)
            return None if row is None else row.key_address

    def record_of(self, node_id: NodeId) -> NodeRecord | None:
        """What a heartbeat is held against; None for an unknown node."""
        with self._database.read() as session:
            row = session.get(Node, node_id)
        if row is None:
            return None
        now = seconds(self._clock)
        ended = row.active_until is not None and now >= self._epochs.start(Epoch(row.active_until))
        return NodeRecord(node_id, row.key_address, row.tier, routable=not (row.withdrawn or ended))

    def rank(self, request_id: str) -> int:
        """This keeper's place among the present keepers for a request: they take turns by the request's id."""
        now = seconds(self._clock)
        if now < self._epochs.genesis:
            return 0
        block = self._view.latest()
        signers = [item.lower() for item in self._view.keeper_set(self._epochs.epoch_at(now), block).signers]
        if self._me not in signers:
            return len(signers)
        return (signers.index(self._me) - int(request_id, 16)) % len(signers)
