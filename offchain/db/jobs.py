"""Durable work. The rows of `jobs` are the truth; the broker only carries the news that a job is due.

::

    enqueue -> ready --lease--> leased --finish--> done
                 ^                |  \\--fail----> failed
                 +---lease ran out+
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import and_, or_, select, update
from sqlalchemy.orm import Session

from offchain.db.models import Job
from offchain.db.upsert import changed, insert_or_ignore


def enqueue(session: Session, kind: str, ref: str, now: int) -> bool:
    """Add a job once. Returns whether it is new. `now` in Unix seconds."""
    # `lease_until` of a ready job is the second from which it is due; 0 is at once.
    row = {"kind": kind, "ref": ref, "status": "ready", "lease_until": 0, "attempts": 0, "created_at": now}
    return insert_or_ignore(session, Job, row)


_OPEN = or_(Job.status == "ready", Job.status == "leased")
"""Not over. Nobody holds such a job once its lease has run out."""


def due(session: Session, kind: str, now: int, limit: int = 100) -> Sequence[str]:
    """Refs of the jobs of a kind that no worker holds: ready, or with a lease that has run out. Oldest first."""
    query = (
        select(Job.ref)
        .where(Job.kind == kind, Job.lease_until <= now, _OPEN)
        .order_by(Job.created_at, Job.ref)
        .limit(limit)
    )
    return session.scalars(query).all()


def lease(session: Session, kind: str, ref: str, now: int, seconds: int) -> int | None:
    """Take a due job for some seconds.

    Returns:
        The number of this attempt, from 1, which `finish`, `fail` and `release` ask for; None when somebody else has
        the job or it is over.
    """
    statement = (
        update(Job)
        .where(
            Job.kind == kind,
            Job.ref == ref,
            Job.lease_until <= now,
            _OPEN,
        )
        .values(status="leased", lease_until=now + seconds, attempts=Job.attempts + 1)
        .returning(Job.attempts)
    )
    return session.execute(statement).scalar_one_or_none()


def finish(session: Session, kind: str, ref: str, attempt: int, result: dict[str, Any] | None = None) -> bool:
    """Mark an attempt's job as done. False when the lease was lost to a later attempt: then nothing is written."""
    return _write(session, kind, ref, attempt, {"status": "done", "result": result, "error": None})


def fail(session: Session, kind: str, ref: str, attempt: int, error: str) -> bool:
    """Mark an attempt's job as failed for good. False when the lease was lost."""
    return _write(session, kind, ref, attempt, {"status": "failed", "error": error})


def release(session: Session, kind: str, ref: str, attempt: int, error: str, retry_at: int) -> bool:
    """Give an attempt's job back, due again at `retry_at` (Unix seconds). False when the lease was lost."""
    return _write(session, kind, ref, attempt, {"status": "ready", "error": error, "lease_until": retry_at})


def extend(session: Session, kind: str, ref: str, attempt: int, until: int) -> bool:
    """Keep an attempt's lease until a Unix second. False when the lease was lost."""
    return _write(session, kind, ref, attempt, {"lease_until": until})


def _write(session: Session, kind: str, ref: str, attempt: int, values: dict[str, Any]) -> bool:
    # The attempt's number fences: a worker that was too slow writes nothing.
    held = and_(Job.kind == kind, Job.ref == ref, Job.status == "leased", Job.attempts == attempt)
    return changed(session, update(Job).where(held).values(**values)) == 1
