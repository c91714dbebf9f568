"""The keeper's transactions, each an intent in the outbox with a unique key, such as `attest:12`."""

from typing import Any

from sqlalchemy.orm import Session

from offchain.domain.messages import EpochReport, ServiceReceipt
from offchain.domain.types import Epoch
from offchain.outbox import Outbox


class Intents:
    """Writes intents in the caller's database transaction; an intent whose key exists already stays as it is."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def submit_report(
        self, session: Session, epoch: Epoch, report: EpochReport, bitmap: int, signatures: bytes
    ) -> None:
        self._outbox.enqueue(
            session,
            f"attest:{epoch}",
            "UptimeAttestation",
            "submit",
            (report_tuple(report), bitmap, signatures),
        )

    def roll_over(self, session: Session, epoch: Epoch) -> None:
        self._outbox.enqueue(session, f"rollover:{epoch}", "RewardDistributor", "rollover", (epoch,))

    def fulfil(
        self, session: Session, request_id: str, receipt: ServiceReceipt, signature: bytes, result: bytes
    ) -> None:
        self._outbox.enqueue(
            session,
            f"fulfil:{request_id}",
            "InferenceMarket",
            "fulfil",
            (receipt_tuple(receipt), signature, result),
        )


def report_tuple(report: EpochReport) -> tuple[Any, ...]:
    """The report in the order of the contract's struct."""
    return (
        report.epoch,
        report.uptime_root,
        report.node_count,
        report.execution_root,
        report.bundle_hash,
        report.keeper_set_digest,
    )


def receipt_tuple(receipt: ServiceReceipt) -> tuple[Any, ...]:
    """The receipt in the order of the contract's struct."""
    return (
        receipt.request_id,
        receipt.node_id,
        receipt.request_hash,
        receipt.result_hash,
        receipt.poe,
        receipt.model_revision,
        receipt.prompt_tokens,
        receipt.completion_tokens,
        receipt.started_at_ms,
        receipt.finished_at_ms,
        receipt.price_wei,
    )
