"""Renewing a lease while long work runs. Leases last seconds, so that another process soon takes over from a killed one."""

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

# Seconds: with a minute, a worker killed while it attested kept its keeper from attesting (ADR 0075).
ALONE_MS, ALONE_RENEW_SECONDS = 5_000, 1.0
"""How long the lease of `alone` lasts without renewal, and how often it is renewed."""

Fence = Callable[[Session], None]
"""Call it first in a write transaction. Raises LeaseLostError when another process has taken the work over."""


def unfenced(_session: Session) -> None:
    """No-op fence: for work without a lease, e.g. answering a proposal. The ballot already allows one report an epoch."""


@contextmanager
def alone(database: Database, clock: Clock, name: str) -> Iterator[Fence | None]:
    """Hold a named lease for the block. Gives the fence, or None when another process has the lease.

    A process that was stopped for longer than the lease wakes up in the middle of the block, when another one already
    does the work. Every write in the block must therefore call the fence first.
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
    """Call `renew` every few seconds in a thread while the block runs; the calls end when `renew` says False: lost."""
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
        # A renewal after the release would take the lease again, for nobody.
        thread.join()
