"""Reputation of nodes, from attested slots and validations."""

from typing import Final

from sqlalchemy import func, select

from offchain.db.database import Database
from offchain.db.models import Job, SlotRecord
from offchain.domain.epochs import EpochClock
from offchain.domain.measurement.reputation import Record
from offchain.domain.types import NodeId

VALIDATE: Final = "validate"
"""Kind of the jobs that run answers again; their results name who agreed and who was flagged."""
UPTIME_SECONDS: Final = 30 * 86_400
VALIDATION_SECONDS: Final = 90 * 86_400


def reputations(database: Database, clock: EpochClock, now: int) -> dict[NodeId, Record]:
    """Record of every node with slots or validations, at a Unix second. The database adds up the slots."""
    since = clock.epoch_at(max(clock.genesis, now - UPTIME_SECONDS)) if now >= clock.genesis else 0
    letters = func.length(SlotRecord.states)
    # One letter a slot: the database counts without sending the states.
    missed = letters - func.length(func.replace(SlotRecord.states, "m", ""))
    checks: dict[int, tuple[int, int]] = {}
    with database.read() as session:
        slots = {
            node: (int(total), int(lost))
            for node, total, lost in session.execute(
                select(SlotRecord.node_id, func.sum(letters), func.sum(missed))
                .where(SlotRecord.epoch >= since)
                .group_by(SlotRecord.node_id)
            )
        }
        results = session.scalars(
            select(Job.result).where(
                Job.kind == VALIDATE, Job.status == "done", Job.created_at >= now - VALIDATION_SECONDS
            )
        )
        for result in results:
            for name, held in (("agreed", 1), ("flagged", 0)):
                for node in (result or {}).get(name, ()):
                    validated, agreed = checks.get(node, (0, 0))
                    checks[node] = validated + 1, agreed + held
    return {
        NodeId(node): Record(*slots.get(node, (0, 0)), *checks.get(node, (0, 0)))
        for node in sorted({*slots, *checks})
    }
