"""Keeping a lease while long work runs: short enough that a killed worker's work is taken over soon."""

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
from sqlalchemy.orm import Session

from offchain.db import leases
from offchain.db.database import Database
from offchain.errors import TransientError
from offchain.runtime.clock import Clock

log = structlog.get_logger(__name__)

ALONE_MS, ALONE_RENEW_SECONDS = 5_000, 1.0

Fence = Callable[[Session], None]
"""Called first in a write transaction: raises LeaseLostError once another process has taken the work over."""


def unfenced(_session: Session) -> None:
    """The fence of work that needs no lease, as a follower's answer, which the ballot alone keeps to one an epoch."""


@contextmanager
def alone(database: Database, clock: Clock, name: str) -> Iterator[Fence | None]:
    """Hold a named lease for the block; None when somebody else has it.

    A process that was stopped for longer than the lease comes back in the middle of the block: what it writes must go
    through the fence.
    """
    holder = f"{os.getpid()}-{uuid.uuid4().hex}"

    def acquire() -> bool:
        with database.write() as session:
            return leases.acquire(session, name, holder, clock.now_ms(), ALONE_MS)

    if not acquire():
        yield None
        return
    try:
        with renewed(ALONE_RENEW_SECONDS, acquire, name):
            yield lambda session: leases.fence(session, name, holder)
    finally:
        with database.write() as session:
            leases.release(session, name, holder)


@contextmanager
def renewed(every_seconds: float, renew: Callable[[], bool], what: str) -> Iterator[None]:
    """Call `renew` again and again from a thread of its own while the block runs, until it says that the lease is lost."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(every_seconds):
            try:
                if not renew():
                    return
            except TransientError as error:
                log.warning("lease_not_renewed", lease=what, error=str(error))

    thread = threading.Thread(target=run, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
