"""Reports that the chain accepted, rewards that it paid, and the events about an epoch's money."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from offchain.db.models import Claim, Event, Report
from offchain.domain.types import Epoch, NodeId, Wei


def report(session: Session, epoch: Epoch) -> Report | None:
    """The accepted report of an epoch, rejected or not."""
    return session.get(Report, epoch)


def claims_of_epoch(session: Session, epoch: Epoch) -> dict[NodeId, Wei]:
    """What each node was paid for an epoch."""
    query = select(Claim.node_id, Claim.amount_wei).where(Claim.epoch == epoch)
    return {NodeId(node): Wei(amount) for node, amount in session.execute(query)}


def events_of_epoch(session: Session, epoch: Epoch, names: Sequence[str] | None = None) -> Sequence[Event]:
    """Events that name an epoch (funded, claimed, swept, ...), in chain order."""
    query = select(Event).where(Event.epoch == epoch).order_by(Event.block_number, Event.log_index)
    if names is not None:
        query = query.where(Event.name.in_(names))
    return session.scalars(query).all()
