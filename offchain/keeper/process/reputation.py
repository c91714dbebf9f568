"""The reputation of all nodes as a keeper publishes it."""

from dataclasses import asdict
from typing import Any

from offchain.db.database import Database
from offchain.db.reputation import reputations
from offchain.domain.epochs import EpochClock


def reputation_document(database: Database, clock: EpochClock, now: int) -> dict[str, Any]:
    """The document behind GET /v1/reputation."""
    return {
        "at": now,
        "nodes": [
            {
                "nodeId": int(node),
                "band": record.band.value,
                "factorBps": record.factor_bps,
                "uptimeBps": record.uptime_bps,
                **asdict(record),
            }
            for node, record in reputations(database, clock, now).items()
        ],
    }
