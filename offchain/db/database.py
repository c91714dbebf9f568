"""Connections to the database: SQLite in WAL mode, or PostgreSQL; short read and write transactions.

A write transaction on SQLite takes the write lock when it begins, so it never fails half-way because another writer
was faster; a read transaction sees one snapshot and never blocks a writer. PostgreSQL gives the same promises through
row locks and REPEATABLE READ.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session

from offchain.errors import TransientError, UserError

BUSY_TIMEOUT_SECONDS = 10
_WRITE = "parallelix_write"


class Database:
    """One database, with the two kinds of transaction that are used. Safe to share between threads, not forks."""

    def __init__(self, engine: Engine, *, read_only: bool = False) -> None:
        self.engine = engine
        self.read_only = read_only
        self._writer: Engine = engine.execution_options(**{_WRITE: True})
        snapshot = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        postgresql = engine.dialect.name == "postgresql"
        self._reader: Engine = engine.execution_options(**snapshot) if postgresql else engine

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one snapshot; nothing it does is kept.

        Raises:
            TransientError: the database did not answer in time.
        """
        # Rows stay readable after the session, where callers use them.
        with _mapped_errors(), Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose changes are committed together on leaving, or not at all when an error leaves.

        Raises:
            TransientError: the database did not answer or stayed locked; nothing was written.
        """
        if self.read_only:
            raise RuntimeError("this database was opened read-only")
        with _mapped_errors(), Session(self._writer, expire_on_commit=False) as session, session.begin():
            # Takes SQLite's write lock before the first read of the decision.
            session.connection()
            yield session

    def close(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()


def open_database(url: str, *, read_only: bool = False) -> Database:
    """Open a database by SQLAlchemy URL, e.g. `sqlite:////var/lib/keeper/index.db` or `postgresql://host/name`.

    Args:
        url: the URL; `postgresql://` means psycopg 3.
        read_only: for the gateway and the dashboard, which read a keeper's index: SQLite's `mode=ro`, PostgreSQL's
            read-only transactions.

    Raises:
        UserError: the URL is malformed, of another kind, or names a SQLite file that is not there (read-only).
    """
    parsed = _parse(url)
    if parsed.drivername == "sqlite":
        engine = _open_sqlite(parsed, read_only=read_only)
    else:
        # Pre-ping: a server that was restarted leaves dead connections in the pool.
        engine = create_engine(
            parsed, pool_pre_ping=True, pool_timeout=BUSY_TIMEOUT_SECONDS, connect_args={"connect_timeout": 5}
        )
    return Database(engine, read_only=read_only)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError):
        raise UserError(
            "database_url is malformed; write sqlite:////path/to/file.db or postgresql://host/name"
        ) from None
    if parsed.drivername not in ("sqlite", "postgresql+psycopg"):
        raise UserError(f"database_url has kind {parsed.drivername}; sqlite and postgresql are supported")
    if parsed.drivername == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise UserError(
            "database_url names no file; several processes share the index, so it cannot be in memory"
        )
    return parsed


def _open_sqlite(url: URL, *, read_only: bool) -> Engine:
    path = Path(str(url.database))
    if read_only:
        if not path.exists():
            raise UserError(f"index database {path} does not exist; start the keeper that fills it first")
        target = URL.create(
            "sqlite", database=f"file:{quote(str(path))}", query={"mode": "ro", "uri": "true"}
        )
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        target = url
    engine = create_engine(target, connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not guessed by the driver
        cursor = connection.cursor()
        if not read_only:
            cursor.execute("PRAGMA journal_mode=WAL")
            # In WAL mode NORMAL survives a crash of the process; FULL also keeps the last commit through a power cut,
            # and the outbox's "stored before broadcast" needs that.
            cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA temp_store=MEMORY")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        write = connection.get_execution_options().get(_WRITE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


@contextmanager
def _mapped_errors() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if error.connection_invalidated or type(error).__name__ == "OperationalError":
            first_line = (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0]
            raise TransientError(f"the database does not answer: {first_line}") from error
        raise
