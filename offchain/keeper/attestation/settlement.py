"""After the vote: an accepted report becomes slot records, and the pool of an epoch without a report rolls over."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import structlog

from offchain.db.database import Database
from offchain.db.models import Report
from offchain.db.rewards import report as accepted_report
from offchain.domain.evidence_entries import EvidenceError
from offchain.domain.types import Epoch
from offchain.evidence.chain_view import ChainView, EpochStatus
from offchain.evidence.epoch_context_reader import NotReadyError
from offchain.evidence.execution_batches import equivocations
from offchain.keeper import store
from offchain.keeper.attestation.ballot import BallotRefusedError
from offchain.keeper.attestation.service import AttestService
from offchain.keeper.transactions import Intents
from offchain.runtime.clock import Clock, seconds
from offchain.runtime.crash_points import CrashPoint, nowhere

log = structlog.get_logger(__name__)

ROLLOVER_STAGGER_SECONDS = 10
"""Seconds between the tries of two keepers, so that usually one transaction is sent and not one for each keeper."""
PROBES_KEPT_EPOCHS = 7
"""Probes of older epochs are deleted: their bundles hold all that counts."""


@dataclass(eq=False)
class EpochSettlement:
    """Settles each epoch that is over, once: records what its report says, or rolls its pool over."""

    database: Database
    view: ChainView
    attest: AttestService
    outbox: Intents
    clock: Clock
    peer_urls: Sequence[str] = ()
    reached: CrashPoint = nowhere

    def step(self) -> None:
        """Settle those of the last epochs that can be. Safe to run twice."""
        for epoch in self.attest.open_epochs.unsettled():
            status = self.view.status(epoch)
            # A pending report may still be rejected: its slots are kept, but only `final` settles it.
            if status in (EpochStatus.PENDING, EpochStatus.FINAL):
                self._record(epoch, final=status is EpochStatus.FINAL)
            elif status is EpochStatus.LAPSED:
                self._lapse(epoch, seconds(self.clock))

    def _record(self, epoch: Epoch, *, final: bool) -> None:
        with self.database.read() as session:
            report = accepted_report(session, epoch)
            if report is None:
                return
            # By bundle: after a rejection the epoch may get another report.
            known = store.is_marked(session, "slots", f"{epoch}:{report.bundle_hash}")
        if not known and not self._record_slots(epoch, report):
            return
        if final:
            self._mark(epoch, "final")

    def _record_slots(self, epoch: Epoch, report: Report) -> bool:
        """Verify the accepted report's bundle and store its slots. Returns whether the report stands."""
        try:
            context = self.attest.open_epochs.context(epoch)
            urls = self.peer_urls or [keeper.url.rstrip("/") for keeper in context.keepers]
            bundle, verdict = self.attest.follower.verified_bundle(context, report.bundle_hash, urls)
        except (NotReadyError, BallotRefusedError) as waiting:
            log.info("close_waits", epoch=epoch, reason=str(waiting))
            return False
        except EvidenceError as error:
            log.exception("accepted_bundle_invalid", epoch=epoch, error=str(error))
            self._mark(epoch, "invalid")
            return False
        if "0x" + verdict.report.uptime_root.hex() != report.uptime_root:
            log.error("accepted_root_differs", epoch=epoch, root=report.uptime_root)
            self._mark(epoch, "differs")
            return False
        events = [asdict(event) for event in verdict.suspended]
        if events:
            log.warning("network_event", epoch=epoch, where=events)
        now = seconds(self.clock)
        with self.database.write() as session:
            for gateway, of in equivocations(verdict.batches):
                log.error("gateway_signed_two_batches", epoch=epoch, gateway="0x" + gateway.hex(), of=of)
                store.mark(session, store.TWO_BATCHES, f"0x{gateway.hex()}:{of}", now)
            store.save_bundle(session, epoch, bundle.hash, bundle.raw)
            store.save_slots(session, epoch, verdict.table)
            hashes = ["0x" + batch.commitment.struct_hash().hex() for batch in verdict.batches]
            # `batches_of` reads these: a batch under an accepted report is not listed again (ADR 0083).
            found = {"networkEvents": events, "batches": hashes}
            store.mark(session, "slots", f"{epoch}:{report.bundle_hash}", now, found)
        self.reached("slots-saved")
        return True

    def _lapse(self, epoch: Epoch, now: int) -> None:
        """Roll the pool of an epoch without a report over, when it is this keeper's time to try."""
        try:
            open_epoch = self.attest.open_epochs.of(epoch)
        except NotReadyError:
            return
        if open_epoch is not None:
            size = len(open_epoch.context.keepers)
            rank = (open_epoch.me.index - epoch) % size
            deadline = self.view.submit_deadline(epoch)
            if now < deadline + rank * ROLLOVER_STAGGER_SECONDS:
                return
            if self.view.pool(epoch) > 0:
                with self.database.write() as session:
                    self.outbox.roll_over(session, epoch)
                self.reached("rollover-enqueued")
        self._mark(epoch, "lapsed")

    def _mark(self, epoch: Epoch, outcome: str) -> None:
        with self.database.write() as session:
            store.mark(session, "closed", str(epoch), seconds(self.clock), {"outcome": outcome})
            store.drop_probes(session, Epoch(epoch - PROBES_KEPT_EPOCHS))
            store.drop_frozen(session, Epoch(epoch - PROBES_KEPT_EPOCHS))
        self.reached("epoch-closed")
        log.info("epoch_closed", epoch=epoch, outcome=outcome)
