"""Nodes: who owns them, which are active in an epoch, and with what weight."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.orm import Session

from offchain.db.models import Node, NodeInterval
from offchain.domain.tiers import Tier, weight
from offchain.domain.types import Address, Epoch, NodeId, Wei, Weight


@dataclass(frozen=True, slots=True)
class ActiveNode:
    """A node whose weight counts in an epoch.

    Attributes:
        owner, payout: EIP-55; the payout address is the beneficiary.
        key_address: EIP-55 of the key it signs with now.
    """

    node_id: NodeId
    owner: Address
    payout: Address
    key_address: Address
    tier: Tier
    stake_wei: Wei
    weight: Weight


def get(session: Session, node_id: NodeId) -> Node | None:
    """One node, also a withdrawn one."""
    return session.get(Node, node_id)


def by_key(session: Session, key_address: str) -> Node | None:
    """The node that a key (EIP-55) serves now; a withdrawn node's key serves none."""
    return session.scalar(select(Node).where(Node.key_address == key_address, Node.withdrawn.is_(False)))


def by_owner(session: Session, owner: str) -> Sequence[Node]:
    """All nodes of an owner (EIP-55), oldest first."""
    return session.scalars(select(Node).where(Node.owner == owner).order_by(Node.node_id)).all()


def page(session: Session, after: int = 0, limit: int = 100) -> Sequence[Node]:
    """Nodes with ids above `after`, in order."""
    return session.scalars(select(Node).where(Node.node_id > after).order_by(Node.node_id).limit(limit)).all()


def intervals(session: Session, node_id: NodeId) -> Sequence[NodeInterval]:
    """Earlier activity intervals of a node, oldest first; the current one is in the node itself."""
    query = select(NodeInterval).where(NodeInterval.node_id == node_id).order_by(NodeInterval.active_from)
    return session.scalars(query).all()


def active_in(session: Session, epoch: Epoch) -> list[ActiveNode]:
    """Nodes whose weight counts in `epoch`, by id. Immutable once a finalized block lies inside the epoch."""
    query = select(Node).where(_active(epoch)).order_by(Node.node_id)
    return [
        ActiveNode(
            node_id=NodeId(node.node_id),
            owner=Address(node.owner),
            payout=Address(node.beneficiary),
            key_address=Address(node.key_address),
            tier=Tier(node.tier),
            stake_wei=Wei(node.stake_wei),
            weight=weight(Wei(node.stake_wei), Tier(node.tier)),
        )
        for node in session.scalars(query)
    ]


def weights(session: Session, epoch: Epoch) -> dict[NodeId, Weight]:
    """Weight of each node that is active in `epoch`; quicker than `active_in` for large networks."""
    query = select(Node.node_id, Node.stake_wei, Node.tier).where(_active(epoch)).order_by(Node.node_id)
    return {NodeId(node): weight(Wei(stake), Tier(tier)) for node, stake, tier in session.execute(query)}


def count_before(session: Session, timestamp: int) -> int:
    """Highest node id registered before a Unix second: an epoch's node count is the one before its end."""
    return session.scalar(select(func.max(Node.node_id)).where(Node.registered_at < timestamp)) or 0


def count(session: Session) -> int:
    """Nodes ever registered."""
    return session.scalar(select(func.count()).select_from(Node)) or 0


def _active(epoch: Epoch) -> ColumnElement[bool]:
    earlier = exists().where(
        NodeInterval.node_id == Node.node_id,
        NodeInterval.active_from <= epoch,
        NodeInterval.active_until > epoch,
    )
    current = (Node.active_from <= epoch) & or_(Node.active_until.is_(None), Node.active_until > epoch)
    return or_(current, earlier)
