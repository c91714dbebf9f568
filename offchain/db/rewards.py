"""Reports that the chain accepted, rewards that it paid, and the events about an epoch's money."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from offchain.db.models import Claim, Event, Report, SlotRecord
from offchain.domain.types import Epoch, NodeId, Wei


def report(session: Session, epoch: Epoch) -> Report | None:
    """The accepted report of an epoch, rejected or not."""
    return session.get(Report, epoch)


def reports(session: Session, limit: int = 50) -> Sequence[Report]:
    """The newest reports, newest first."""
    return session.scalars(select(Report).order_by(Report.epoch.desc()).limit(limit)).all()


def claims_of_epoch(session: Session, epoch: Epoch) -> dict[NodeId, Wei]:
    """What each node was paid for an epoch."""
    query = select(Claim.node_id, Claim.amount_wei).where(Claim.epoch == epoch)
    return {NodeId(node): Wei(amount) for node, amount in session.execute(query)}


def claims_of_nodes(session: Session, nodes: Sequence[NodeId]) -> Sequence[Claim]:
    """All claims of some nodes, newest epoch first."""
    query = select(Claim).where(Claim.node_id.in_(nodes)).order_by(Claim.epoch.desc(), Claim.node_id)
    return session.scalars(query).all()


def slot_records(session: Session, nodes: Sequence[NodeId], since: Epoch) -> Sequence[SlotRecord]:
    """Slot states of some nodes from an epoch on, newest first."""
    query = (
        select(SlotRecord)
        .where(SlotRecord.node_id.in_(nodes), SlotRecord.epoch >= since)
        .order_by(SlotRecord.epoch.desc(), SlotRecord.node_id)
    )
    return session.scalars(query).all()


def events_of_epoch(session: Session, epoch: Epoch, names: Sequence[str] | None = None) -> Sequence[Event]:
    """Events that name an epoch (funded, claimed, swept, ...), in chain order."""
    query = select(Event).where(Event.epoch == epoch).order_by(Event.block_number, Event.log_index)
    if names is not None:
        query = query.where(Event.name.in_(names))
    return session.scalars(query).all()


def events_of_node(session: Session, node_id: NodeId, limit: int = 100) -> Sequence[Event]:
    """The newest events about a node, newest first."""
    query = (
        select(Event)
        .where(Event.node_id == node_id)
        .order_by(Event.block_number.desc(), Event.log_index.desc())
        .limit(limit)
    )
    return session.scalars(query).all()
