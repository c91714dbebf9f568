"""Schema migrations: `upgrade(url)` brings a database to the newest tables; safe to call by many processes at once."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from offchain.db.database import Database, open_database
from offchain.errors import FatalError

_LOCK = 0x50524C58  # any constant: the advisory lock that migrations of this package share


def upgrade(url: str) -> None:
    """Create or migrate the tables of the database at `url`, in one transaction.

    Raises:
        UserError: the URL is malformed.
        TransientError: the database does not answer.
        FatalError: the database was migrated by a newer version of this package.
    """
    database = open_database(url)
    try:
        _upgrade(database)
    finally:
        database.close()


def _upgrade(database: Database) -> None:
    config = Config()
    # Alembic's options are a ConfigParser's, in which a lone % is an error.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    with database.write() as session:
        connection = session.connection()
        if connection.dialect.name == "postgresql":
            # SQLite needs none: a write transaction holds its one write lock from the beginning.
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        _refuse_newer(config, connection)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _refuse_newer(config: Config, connection: Connection) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    current = MigrationContext.configure(connection).get_current_heads()
    unknown = set(current) - known
    if unknown:
        raise FatalError(
            f"the database has schema {min(unknown)}, which this version does not know; upgrade the program"
        )
