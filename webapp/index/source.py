"""Opens a keeper's database read only."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError

from offchain.db.database import Database, open_database
from offchain.errors import TransientError, UserError
from webapp.index.snapshot import Snapshot


class IndexUnavailableError(TransientError):
    """The database is missing, is locked, or has no tables yet."""


class Index:
    """A keeper's database, read only.

    The first page opens it: gunicorn forks before, and the dashboard may be started before the keeper.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._database: Database | None = None
        self._lock = threading.Lock()

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """One consistent view, for the length of a page. Raises IndexUnavailableError."""
        try:
            with self._open().read() as session:
                yield Snapshot(session.connection())
        except DBAPIError as error:
            raise IndexUnavailableError(f"the index cannot be read: {_reason(error)}") from error
        except IndexUnavailableError:
            raise
        except TransientError as error:
            raise IndexUnavailableError(str(error)) from error

    def close(self) -> None:
        """Close the pool; the next page opens it again."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def _open(self) -> Database:
        with self._lock:
            if self._database is None:
                try:
                    # A failure is not remembered: the next page tries again, so the keeper may come later.
                    self._database = open_database(self._url, read_only=True)
                except UserError as error:
                    raise IndexUnavailableError(str(error)) from error
            return self._database


def _reason(error: DBAPIError) -> str:
    return (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0]
