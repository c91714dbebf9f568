"""Keepers and the gateways that they list. The order of an epoch's signers is the contract's; see `chain.reader`."""

from collections.abc import Sequence

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from offchain.db.models import Gateway, Keeper
from offchain.domain.types import Epoch


def active_in(session: Session, epoch: Epoch) -> Sequence[Keeper]:
    """Keepers that are members in `epoch`, by id."""
    query = (
        select(Keeper)
        .where(Keeper.active_from <= epoch, or_(Keeper.active_until.is_(None), Keeper.active_until > epoch))
        .order_by(Keeper.keeper_id)
    )
    return session.scalars(query).all()


def by_signer(session: Session, signer: str) -> Keeper | None:
    """The newest keeper with a signing key (EIP-55)."""
    query = select(Keeper).where(Keeper.signer == signer).order_by(Keeper.keeper_id.desc()).limit(1)
    return session.scalar(query)


def regions(session: Session, epoch: Epoch) -> dict[str, str]:
    """Region of each signer (EIP-55) that is a member in `epoch`."""
    return {keeper.signer: keeper.region for keeper in active_in(session, epoch)}


def gateways(session: Session) -> Sequence[Gateway]:
    """All listed gateways, by signer."""
    return session.scalars(select(Gateway).order_by(Gateway.signer)).all()


def gateway(session: Session, signer: str) -> Gateway | None:
    """The listed gateway of a ticket signer (EIP-55)."""
    return session.get(Gateway, signer)
