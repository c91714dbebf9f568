"""What `parallelix keeper outbox` shows and does."""

from collections.abc import Sequence
from typing import Any

from offchain.chain.deployment import Deployment
from offchain.db.database import open_database
from offchain.keeper.settings import KeeperSettings
from offchain.outbox.intents import Outbox, listed

_SHOWN = (
    "key", "status", "contract", "function", "nonce", "tx_hash", "mined_block", "gas_used", "attempts", "error",
    "created_at", "updated_at",
)  # fmt: skip


def intents(settings: KeeperSettings, statuses: Sequence[str], limit: int) -> list[dict[str, Any]]:
    """The newest intents as JSON-ready rows. Raises UserError when there is no such database."""
    database = open_database(settings.database_url, read_only=True)
    try:
        with database.read() as session:
            return [{name: getattr(row, name) for name in _SHOWN} for row in listed(session, statuses, limit)]
    finally:
        database.close()


def retry(settings: KeeperSettings, key: str) -> None:
    """Put an intent with a fault back to pending. Raises UserError when the intent has no fault."""
    outbox = Outbox(Deployment.load(settings.deployment), "")
    database = open_database(settings.database_url)
    try:
        with database.write() as session:
            outbox.retry(session, key)
    finally:
        database.close()
