"""The signatures of keepers under reports: each keeper signs one report an epoch, ever."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from offchain.db.database import Database
from offchain.domain.messages import EpochReport
from offchain.domain.types import Epoch
from offchain.evidence.bundle import EvidenceBundle
from offchain.evidence.document import MessageSigner
from offchain.evidence.epoch_context import EpochContext
from offchain.evidence.report import report_from_json, report_json, signer_of
from offchain.keeper import store
from offchain.keeper.attestation.lease import Fence
from offchain.runtime.clock import Clock, seconds

log = structlog.get_logger(__name__)


class BallotRefusedError(Exception):
    """This keeper does not sign. `disagreement`: the fields in which its own report differs, when it has one."""

    def __init__(self, reason: str, disagreement: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.disagreement = dict(disagreement or {})


@dataclass(eq=False)
class Ballot:
    """Signs for one keeper, and stores its own signatures and refusals and the other keepers' signatures."""

    database: Database
    signer: MessageSigner
    clock: Clock

    def own(self, epoch: Epoch) -> tuple[EpochReport, str] | None:
        """The report of an epoch that this keeper has signed, and its signature as 0x-hex."""
        with self.database.read() as session:
            found = store.own_report(session, epoch, self.signer.address)
        return None if found is None else (report_from_json(found[0]), found[1])

    def sign(self, context: EpochContext, report: EpochReport, bundle: EvidenceBundle, fence: Fence) -> str:
        """Sign a report and store its bundle. Returns the signature as 0x-hex.

        Raises:
            BallotRefusedError: this keeper has signed another report of the epoch.
            LeaseLostError: `fence` found that another process leads now.
        """
        # Outside the transaction: a remote key may be slow, and SQLite has one writer (ADR 0076).
        signature = "0x" + self.signer.sign(context.attestation.message(report.struct_hash())).hex()
        with self.database.write() as session:
            fence(session)
            store.save_bundle(session, context.epoch, bundle.hash, bundle.raw)
            # Leader and follower may come here at once: the row decides, not the read in `own`.
            kept = store.add_signature(
                session, context.epoch, self.signer.address, report_json(report), signature
            )
            if not kept:
                # Raised inside the transaction, which takes the bundle back as well.
                raise BallotRefusedError("this keeper has signed another report of the epoch")
        log.info("report_signed", epoch=context.epoch, root=report.uptime_root.hex(), bundle=bundle.hash)
        return signature

    def publish(self, epoch: Epoch, report: EpochReport, error: Exception) -> None:
        """Store a refusal so that everybody can read it under GET /v1/epochs/<e>."""
        disagreement = error.disagreement if isinstance(error, BallotRefusedError) else {}
        log.error("report_refused", epoch=epoch, reason=str(error), disagreement=disagreement)
        with self.database.write() as session:
            # One row for a bundle, however often its leader proposes it.
            ref = f"{epoch}:0x{report.bundle_hash.hex()}"
            why = {"reason": str(error), "report": report_json(report), "disagreement": disagreement}
            store.mark(session, store.REFUSAL, ref, seconds(self.clock), why)

    def keep(
        self, context: EpochContext, report: EpochReport, signatures: Sequence[bytes]
    ) -> dict[str, bytes]:
        """Store those signatures that keepers of the set gave under this report. Returns them by signer."""
        found = {}
        for signature in signatures:
            keeper = signer_of(context, report, signature)
            if keeper is None:
                continue
            found[keeper.signer.lower()] = signature
            text = "0x" + signature.hex()
            with self.database.write() as session:
                # On chain two signatures cost the whole bond: UptimeAttestation.proveEquivocation.
                if not store.add_signature(session, context.epoch, keeper.signer, report_json(report), text):
                    log.error("keeper_signed_two_reports", epoch=context.epoch, keeper=keeper.signer)
        return found
