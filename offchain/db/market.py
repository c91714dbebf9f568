"""On-chain inference requests."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from offchain.db.models import MarketRequest


def get(session: Session, request_id: str) -> MarketRequest | None:
    """One request by its id (0x-hex)."""
    return session.get(MarketRequest, request_id)


def open_requests(
    session: Session, *, up_to_block: int, now: int, limit: int = 100
) -> Sequence[MarketRequest]:
    """Requests that wait for an answer: in a block at or below `up_to_block`, with a deadline after `now` (Unix s)."""
    query = (
        select(MarketRequest)
        .where(
            MarketRequest.status == "open",
            MarketRequest.requested_block <= up_to_block,
            MarketRequest.deadline > now,
        )
        .order_by(MarketRequest.requested_block, MarketRequest.request_id)
        .limit(limit)
    )
    return session.scalars(query).all()
