"""Keeping a lease while long work runs: short enough that a killed worker's work is taken over soon."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from offchain.errors import TransientError

log = structlog.get_logger(__name__)


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
