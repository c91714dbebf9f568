"""Small reads of the index, the fleet and the chain that several services of a keeper share."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sqlalchemy import select

from offchain.db.database import Database
from offchain.db.models import Node
from offchain.dispatch.fleet_store import FleetStore
from offchain.domain.eip712 import keccak256
from offchain.domain.epochs import EpochClock
from offchain.domain.types import Epoch, NodeId
from offchain.evidence.chain_view import ChainView
from offchain.protocol.heartbeats import NodeRecord
from offchain.runtime.clock import Clock, seconds


@dataclass(eq=False)
class Lookups:
    """Reads about single nodes and requests, for one keeper.

    Attributes:
        me: this keeper's signer.
        model: name of the model that is probed.
    """

    database: Database
    fleet: FleetStore
    view: ChainView
    epochs: EpochClock
    clock: Clock
    me: str
    model: str

    def serving(self) -> list[tuple[NodeId, bytes]]:
        """Nodes alive now that serve the probed model, each with the hash of its model revision."""
        model = self.model
        return [
            (report.node_id, keccak256(report.offers[model].revision.encode()))
            for report, _age in self.fleet.read_all()
            if model in report.offers
        ]

    def key_of(self, node_id: NodeId) -> str | None:
        """Address of a node's key; None for an unknown node."""
        with self.database.read() as session:
            row = session.get(Node, node_id)
            return None if row is None else row.key_address

    def record_of(self, node_id: NodeId) -> NodeRecord | None:
        """The index's record of a node, which its heartbeats must match; None for an unknown node."""
        with self.database.read() as session:
            row = session.get(Node, node_id)
        if row is None:
            return None
        now = seconds(self.clock)
        ended = row.active_until is not None and now >= self.epochs.start(Epoch(row.active_until))
        return NodeRecord(node_id, row.key_address, row.tier, routable=not (row.withdrawn or ended))

    def rank(self, request_id: str) -> int:
        """This keeper's place in the queue for an on-chain request (0x-hex id), 0 for the first; the id decides the order."""
        now = seconds(self.clock)
        if now < self.epochs.genesis:
            return 0
        # Not the final block: ranks only stagger work, and nothing is signed from them.
        block = self.view.latest()
        signers = [item.lower() for item in self.view.keeper_set(self.epochs.epoch_at(now), block).signers]
        me = self.me.lower()
        if me not in signers:
            return len(signers)
        return (signers.index(me) - int(request_id, 16)) % len(signers)


def independent_nodes(
    database: Database, alive: Iterable[NodeId], subject: NodeId, order: Callable[[NodeId], bytes]
) -> list[NodeId]:
    """Nodes that may say whether an answer of `subject` is right: of other owners, at most one an owner.

    Args:
        alive: nodes that could answer now.
        order: the nodes come ascending by what this gives.
    """
    candidates = [node for node in alive if node != subject]
    with database.read() as session:
        rows = session.execute(
            select(Node.node_id, Node.owner).where(Node.node_id.in_([*candidates, subject]))
        )
        owners = {NodeId(node): owner for node, owner in rows}
    taken, chosen = {owners.get(subject)}, list[NodeId]()
    for node in sorted(candidates, key=order):
        # A node that is not indexed yet has no known owner: it may belong to the subject.
        if node in owners and owners[node] not in taken:
            taken.add(owners[node])
            chosen.append(node)
    return chosen
