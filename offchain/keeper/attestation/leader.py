"""Leading: in its turn a keeper proposes a report until the quorum has signed, and then enqueues its submission."""

from typing import Protocol

import structlog
from sqlalchemy.orm import Session

from offchain.db.database import Database
from offchain.domain.evidence_entries import EvidenceError
from offchain.domain.messages import EpochReport
from offchain.domain.types import Epoch
from offchain.evidence.bundle import Checker, assemble, conclude
from offchain.evidence.document import Evidence, MessageSigner
from offchain.evidence.epoch_context_reader import NotReadyError
from offchain.evidence.keeper_peers import Peers
from offchain.evidence.report import (
    pack_signatures,
    report_from_json,
    report_json,
    signature_bytes,
    signer_of,
)
from offchain.keeper import store
from offchain.keeper.attestation.ballot import Ballot, BallotRefusedError
from offchain.keeper.attestation.follower import Follower
from offchain.keeper.attestation.lease import Fence
from offchain.keeper.attestation.open_epochs import OpenEpoch, OpenEpochs
from offchain.keeper.attestation.own_document import OwnEvidence
from offchain.runtime.clock import Clock, seconds
from offchain.runtime.crash_points import CrashPoint, nowhere

log = structlog.get_logger(__name__)

_MAX_KEEPERS = 256


class Submitter(Protocol):
    """The way to the outbox."""

    def submit_report(
        self, session: Session, epoch: Epoch, report: EpochReport, bitmap: int, signatures: bytes
    ) -> None:
        """Write the intent `attest:<epoch>` in the caller's transaction; twice is once."""


class Leader:
    """One keeper's turns."""

    def __init__(
        self,
        database: Database,
        closings: OpenEpochs,
        evidence: OwnEvidence,
        ballot: Ballot,
        follower: Follower,
        signer: MessageSigner,
        clock: Clock,
        peers: Peers,
        submitter: Submitter,
        reached: CrashPoint = nowhere,
    ) -> None:
        self._database = database
        self._closings = closings
        self._evidence = evidence
        self._ballot = ballot
        self._follower = follower
        self._signer = signer
        self._clock = clock
        self._peers = peers
        self._submitter = submitter
        self._reached = reached

    def step(self, fence: Fence) -> None:
        """Lead every recent epoch that is open and in which it is this keeper's turn. Safe to run twice.

        Raises:
            LeaseLostError: of `fence`; another process of this keeper leads now.
        """
        for epoch in self._closings.open_epochs():
            try:
                closing = self._closings.of(epoch)
                if closing is None:
                    continue
                now = seconds(self._clock)
                turn = closing.turn(now)
                if closing.leader(turn) == closing.me:
                    self._lead(closing, now - closing.frozen_at - turn * closing.turn_seconds, fence)
            except NotReadyError as waiting:
                log.debug("attest_waits", epoch=epoch, reason=str(waiting))

    def _lead(self, closing: OpenEpoch, into_turn_seconds: int, fence: Fence) -> None:
        """Propose a report and enqueue its submission once the quorum has signed it."""
        context = closing.context
        found = self._signed_before(closing)
        if found is None:
            found = self._signed_elsewhere(closing, fence)
        if found is None:
            found = self._fresh(closing, into_turn_seconds, fence)
        if found is None:
            return
        report, _bundle_hash = found
        signatures = self._gather(closing, report)
        log.info("report_proposed", epoch=context.epoch, signatures=len(signatures), quorum=context.quorum)
        self._reached("signatures-kept")
        if len(signatures) >= context.quorum:
            bitmap, packed = pack_signatures(context, signatures)
            with self._database.write() as session:
                fence(session)
                self._submitter.submit_report(session, context.epoch, report, bitmap, packed)
            self._reached("report-enqueued")

    def _signed_before(self, closing: OpenEpoch) -> tuple[EpochReport, str] | None:
        own = self._ballot.own(closing.context.epoch)
        if own is None:
            return None
        report, _signature = own
        return report, "0x" + report.bundle_hash.hex()

    def _signed_elsewhere(self, closing: OpenEpoch, fence: Fence) -> tuple[EpochReport, str] | None:
        """A report that peers have signed, the most signed first, if it holds; this keeper signs it too."""
        context, votes = closing.context, dict[EpochReport, list[str]]()
        seen: list[bytes] = []
        for url, data in self._peers.epoch(closing.urls, context.epoch).items():
            try:
                report = report_from_json(data["signed"]["report"])
                signature = signature_bytes(data["signed"]["signature"])
                seen += [signature_bytes(item["signature"]) for item in data["signatures"][:_MAX_KEEPERS]]
            except (KeyError, TypeError, ValueError):
                continue
            if report.epoch == context.epoch and signer_of(context, report, signature) is not None:
                votes.setdefault(report, []).append(url)
        for report in sorted(votes, key=lambda item: (-len(votes[item]), item.bundle_hash)):
            try:
                self._follower.endorse(closing, report, votes[report], fence)
            except (BallotRefusedError, EvidenceError) as error:
                self._ballot.publish(context.epoch, report, error)
                continue
            self._ballot.keep(context, report, seen)
            return report, "0x" + report.bundle_hash.hex()
        return None

    def _fresh(
        self, closing: OpenEpoch, into_turn_seconds: int, fence: Fence
    ) -> tuple[EpochReport, str] | None:
        """A new bundle of the evidence that there is. Waits half a turn for keepers that do not answer."""
        context, documents = closing.context, list[Evidence]()
        peers = self._peers.evidence(closing.urls, context.epoch)
        with Checker(context) as checker:
            for url, data in [("", self._evidence.of(context).to_json()), *peers.items()]:
                try:
                    document = Evidence.from_json(data, context.attestation)
                    if any(document.signer.lower() == known.signer.lower() for known in documents):
                        continue
                    checker.check(document)
                except EvidenceError as error:
                    log.warning("evidence_invalid", epoch=context.epoch, url=url or "own", error=str(error))
                    continue
                documents.append(document)
        missing = len(context.keepers) - len(documents)
        if len(documents) < context.quorum or (missing and into_turn_seconds * 2 < closing.turn_seconds):
            log.info("evidence_missing", epoch=context.epoch, documents=len(documents), missing=missing)
            return None
        bundle = assemble(context, documents)
        verdict = conclude(context, bundle.hash, checker)
        if not verdict.table.covered():
            log.error("coverage_too_low", epoch=context.epoch)
            return None
        self._ballot.sign(context, verdict.report, bundle, fence)
        self._reached("report-signed")
        return verdict.report, bundle.hash

    def _gather(self, closing: OpenEpoch, report: EpochReport) -> dict[str, bytes]:
        context = closing.context
        own = self._signer.sign(context.attestation.message(report.struct_hash()))
        with self._database.read() as session:
            known = {
                row.signer: signature_bytes(row.signature)
                for row in store.signatures(session, context.epoch)
                if row.report == report_json(report)
            }
        known[self._signer.address.lower()] = own
        if len(known) >= len(context.keepers):
            return known
        proposal = {
            "report": report_json(report),
            "bundle_hash": "0x" + report.bundle_hash.hex(),
            "leader": self._signer.address,
            "signature": "0x" + own.hex(),
        }
        for reply in self._peers.propose(closing.urls, context.epoch, proposal):
            try:
                signature = signature_bytes(reply.signature)
            except ValueError:
                log.warning("keeper_did_not_sign", epoch=context.epoch, url=reply.url, error=reply.error)
                continue
            kept = self._ballot.keep(context, report, [signature])
            if not kept:
                log.error("keeper_signature_invalid", epoch=context.epoch, url=reply.url)
            known.update(kept)
        return known
