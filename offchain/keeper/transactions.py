"""The keeper's transactions, each an intent in the outbox with a unique key, such as `attest:12`."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from offchain.domain.messages import EpochReport, ServiceReceipt
from offchain.domain.types import Epoch
from offchain.outbox import Outbox


@dataclass(eq=False)
class Intents:
    """Writes intents in the caller's database transaction; an intent whose key exists already stays as it is.
    Services get it through their constructors, and tests give them one that only collects.

    Reports and receipts have their fields in the order of the contracts' structs.
    """

    outbox: Outbox

    def submit_report(
        self, session: Session, epoch: Epoch, report: EpochReport, bitmap: int, signatures: bytes
    ) -> None:
        self.outbox.enqueue(
            session, f"attest:{epoch}", "UptimeAttestation", "submit", (tuple(report), bitmap, signatures)
        )

    def roll_over(self, session: Session, epoch: Epoch) -> None:
        self.outbox.enqueue(session, f"rollover:{epoch}", "RewardDistributor", "rollover", (epoch,))

    def fulfil(
        self, session: Session, request_id: str, receipt: ServiceReceipt, signature: bytes, result: bytes
    ) -> None:
        self.outbox.enqueue(
            session, f"fulfil:{request_id}", "InferenceMarket", "fulfil", (tuple(receipt), signature, result)
        )
