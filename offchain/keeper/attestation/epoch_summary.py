"""What this keeper publishes about an epoch: the chain's report, uptime by node, signatures, refusals."""

from typing import Any

from sqlalchemy import select

from offchain.db.database import Database
from offchain.db.models import Job, SlotRecord
from offchain.db.rewards import report as accepted_report
from offchain.domain.types import Address, Epoch
from offchain.keeper import store


def epoch_summary(database: Database, epoch: Epoch, me: Address) -> dict[str, Any]:
    """The document behind GET /v1/epochs/<e>."""
    with database.read() as session:
        accepted = accepted_report(session, epoch)
        own = store.own_report(session, epoch, me)
        signatures = store.signatures(session, epoch)
        slots = session.scalars(
            select(SlotRecord).where(SlotRecord.epoch == epoch).order_by(SlotRecord.node_id)
        ).all()
        refusals = session.scalars(
            select(Job).where(Job.kind == store.REFUSAL, Job.ref.startswith(f"{epoch}:")).order_by(Job.ref)
        ).all()
        outcome = store.result_of(session, "closed", str(epoch)).get("outcome")
        named = "" if accepted is None else accepted.bundle_hash
        events = store.result_of(session, "slots", f"{epoch}:{named}").get("networkEvents", [])
    return {
        "epoch": int(epoch),
        "keeper": me,
        "status": str(outcome or ("open" if accepted is None else "pending")),
        "report": None
        if accepted is None
        else {
            "uptimeRoot": accepted.uptime_root,
            "nodeCount": accepted.node_count,
            "executionRoot": accepted.execution_root,
            "bundleHash": accepted.bundle_hash,
            "signerBitmap": str(accepted.signer_bitmap),
            "submittedAt": accepted.submitted_at,
            "finalAt": accepted.final_at,
            "txHash": accepted.tx_hash,
        },
        "signed": None if own is None else {"report": own[0], "signature": own[1]},
        "signatures": [
            {
                "signer": row.signer,
                "bundleHash": row.report.get("bundleHash"),
                "uptimeRoot": row.report.get("uptimeRoot"),
                "signature": row.signature,
            }
            for row in signatures
        ],
        "nodes": [{"nodeId": row.node_id, "uptimeBps": row.uptime_bps, "slots": row.states} for row in slots],
        "networkEvents": events,
        "disagreements": [row.result for row in refusals],
    }
