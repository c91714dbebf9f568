"""Rights that one process holds at a time, e.g. to send for a signer. They are rows, so they also work between machines."""

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from offchain.db.models import ProcessLease
from offchain.db.upsert import changed, insert_or_ignore
from offchain.errors import TransientError


class LeaseLostError(TransientError):
    """Another process holds the lease now; it goes on from what is stored."""


def acquire(session: Session, name: str, holder: str, now_ms: int, for_ms: int) -> bool:
    """Take or renew a lease; False while another holder's has not run out."""
    until = now_ms + for_ms
    if insert_or_ignore(session, ProcessLease, {"name": name, "holder": holder, "until_ms": until}):
        return True
    # Its own lease too: taking is also renewing.
    free = or_(ProcessLease.holder == holder, ProcessLease.until_ms <= now_ms)
    taken = update(ProcessLease).where(ProcessLease.name == name, free).values(holder=holder, until_ms=until)
    return changed(session, taken) == 1


def held(session: Session, name: str, holder: str) -> bool:
    """Whether `holder` still has the lease. The row stays locked to the end of the transaction, so the answer stays true."""
    query = select(ProcessLease.holder).where(ProcessLease.name == name).with_for_update()
    return session.scalar(query) == holder


def fence(session: Session, name: str, holder: str) -> None:
    """Call this first in a write transaction that only the lease's holder may complete. Raises LeaseLostError."""
    if not held(session, name, holder):
        raise LeaseLostError(f"another process holds the lease {name} now")


def release(session: Session, name: str, holder: str) -> None:
    """Give a lease back early."""
    # Only our own: after a takeover the row is another holder's.
    session.execute(delete(ProcessLease).where(ProcessLease.name == name, ProcessLease.holder == holder))
