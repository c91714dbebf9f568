"""The gateways that keepers list. The order of an epoch's signers is the contract's; see `chain.reader`."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from offchain.db.models import Gateway


def gateways(session: Session) -> Sequence[Gateway]:
    """All listed gateways, by signer."""
    return session.scalars(select(Gateway).order_by(Gateway.signer)).all()
