"""Execution records of the work that this keeper dispatched: node-signed receipts of on-chain requests."""

from contextlib import suppress
from typing import Any

from sqlalchemy.orm import Session

from offchain.domain.evidence_entries import Execution
from offchain.domain.messages import ServiceReceipt
from offchain.evidence.epoch_context import EpochContext
from offchain.evidence.signature_pool import account_of
from offchain.keeper import store
from offchain.protocol.receipts import ReceiptError, check_signature

FULFIL = "fulfil"
_LONGEST_JOB_SECONDS = 3_600
"""Jobs created so long before the epoch may have ended in the epoch."""


def executions_of(session: Session, context: EpochContext) -> list[str]:
    """Packed executions that ended in the epoch, ascending. Left out are those that other keepers would reject."""
    clock, epoch = context.clock, context.epoch
    found = set()
    for job in store.finished_jobs(session, FULFIL, clock.start(epoch) - _LONGEST_JOB_SECONDS):
        execution = read_execution(job.result)
        if execution is None:
            continue
        receipt = execution.receipt
        node = context.nodes.get(receipt.node_id)
        # No tolerance, unlike the check of a bundle: a record must not stand in two epochs.
        if node is None or not clock.start(epoch) * 1000 <= receipt.finished_at_ms < clock.end(epoch) * 1000:
            continue
        with suppress(ReceiptError):
            check_signature(receipt, execution.node_signature, context.market.digest, account_of, node.keys)
            found.add(execution.pack())
    return sorted(found)


def read_execution(result: Any) -> Execution | None:
    """The execution in a finished job's result, None when the result holds none."""
    try:
        receipt = ServiceReceipt.from_json(result["receipt"])
        return Execution(receipt, bytes.fromhex(result["signature"].removeprefix("0x")))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
