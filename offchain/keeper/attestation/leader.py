"""Leading: in its turn a keeper proposes a report to the others until a quorum has signed, then enqueues its submission."""

from dataclasses import dataclass

import structlog

from offchain.db.database import Database
from offchain.domain.evidence_entries import EvidenceError
from offchain.domain.messages import EpochReport
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
from offchain.keeper.attestation.own_document import OwnDocument
from offchain.keeper.transactions import Intents
from offchain.runtime.clock import Clock, seconds
from offchain.runtime.crash_points import CrashPoint, nowhere

log = structlog.get_logger(__name__)

_MAX_KEEPERS = 256
"""Signatures read from one peer's answer; the contract's bitmap has 256 bits."""


@dataclass(eq=False)
class Leader:
    """What a keeper does in the turns in which it leads."""

    database: Database
    open_epochs: OpenEpochs
    own_document: OwnDocument
    ballot: Ballot
    follower: Follower
    signer: MessageSigner
    clock: Clock
    peers: Peers
    submitter: Intents
    reached: CrashPoint = nowhere

    def step(self, fence: Fence) -> None:
        """Lead every recent epoch that still needs a report and in which it is this keeper's turn. Safe to run twice.

        Raises:
            LeaseLostError: `fence` found that another process of this keeper leads now.
        """
        for epoch in self.open_epochs.awaiting_report():
            try:
                open_epoch = self.open_epochs.of(epoch)
                if open_epoch is None:
                    continue
                now = seconds(self.clock)
                turn = open_epoch.turn(now)
                if open_epoch.leader(turn) == open_epoch.me:
                    self._lead(open_epoch, now - open_epoch.frozen_at - turn * open_epoch.turn_seconds, fence)
            except NotReadyError as waiting:
                log.debug("attest_waits", epoch=epoch, reason=str(waiting))

    def _lead(self, open_epoch: OpenEpoch, into_turn_seconds: int, fence: Fence) -> None:
        """Propose a report and enqueue its submission once the quorum has signed it."""
        context = open_epoch.context
        own = self.ballot.own(context.epoch)
        # What this keeper or a peer has signed goes before a fresh report: nobody signs a second one.
        report = own[0] if own is not None else self._signed_elsewhere(open_epoch, fence)
        if report is None:
            report = self._fresh(open_epoch, into_turn_seconds, fence)
        if report is None:
            return
        signatures = self._gather(open_epoch, report)
        log.info("report_proposed", epoch=context.epoch, signatures=len(signatures), quorum=context.quorum)
        self.reached("signatures-kept")
        if len(signatures) >= context.quorum:
            bitmap, packed = pack_signatures(context, signatures)
            with self.database.write() as session:
                fence(session)
                # Every step until it is mined comes here: the intent is there then, and stays.
                self.submitter.submit_report(session, context.epoch, report, bitmap, packed)
            self.reached("report-enqueued")

    def _signed_elsewhere(self, open_epoch: OpenEpoch, fence: Fence) -> EpochReport | None:
        """The report that most peers have signed and that holds, which this keeper then signs too; None when there is none.

        A keeper signs one report an epoch, ever. A second report would split the vote, and the epoch would lapse.
        """
        context, votes = open_epoch.context, dict[EpochReport, list[str]]()
        seen: list[bytes] = []
        for url, data in self.peers.epoch(open_epoch.urls, context.epoch).items():
            try:
                report = report_from_json(data["signed"]["report"])
                signature = signature_bytes(data["signed"]["signature"])
                seen += [signature_bytes(item["signature"]) for item in data["signatures"][:_MAX_KEEPERS]]
            except (KeyError, TypeError, ValueError):
                continue
            if report.epoch == context.epoch and signer_of(context, report, signature) is not None:
                votes.setdefault(report, []).append(url)
        # The hash breaks ties: leaders that see the same votes take up the same report.
        for report in sorted(votes, key=lambda item: (-len(votes[item]), item.bundle_hash)):
            try:
                self.follower.endorse(open_epoch, report, votes[report], fence)
            except (BallotRefusedError, EvidenceError) as error:
                self.ballot.publish(context.epoch, report, error)
                continue
            # `seen` is unchecked; `keep` takes only what keepers of the set signed under this report.
            self.ballot.keep(context, report, seen)
            return report
        return None

    def _fresh(self, open_epoch: OpenEpoch, into_turn_seconds: int, fence: Fence) -> EpochReport | None:
        """The report of a new bundle of all documents to be had. Waits half a turn for keepers that do not answer."""
        context, documents = open_epoch.context, list[Evidence]()
        # An invalid document is left out as a whole: one bad peer must not stop the epoch.
        peers = self.peers.evidence(open_epoch.urls, context.epoch)
        with Checker(context) as checker:
            # The own document first, so that one which a peer serves in its name cannot displace it.
            for url, data in [("", self.own_document.of(context).to_json()), *peers.items()]:
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
        if len(documents) < context.quorum or (missing and into_turn_seconds * 2 < open_epoch.turn_seconds):
            log.info("evidence_missing", epoch=context.epoch, documents=len(documents), missing=missing)
            return None
        bundle = assemble(context, documents)
        verdict = conclude(context, bundle.hash, checker)
        if not verdict.table.covered():
            log.error("coverage_too_low", epoch=context.epoch)
            return None
        self.ballot.sign(context, verdict.report, bundle, fence)
        self.reached("report-signed")
        return verdict.report

    def _gather(self, open_epoch: OpenEpoch, report: EpochReport) -> dict[str, bytes]:
        """Valid signatures under the report, by signer (lower-case): own, stored, and those that peers give now."""
        context = open_epoch.context
        own = self.signer.sign(context.attestation.message(report.struct_hash()))
        with self.database.read() as session:
            known = {
                row.signer: signature_bytes(row.signature)
                for row in store.signatures(session, context.epoch)
                if row.report == report_json(report)
            }
        known[self.signer.address.lower()] = own
        if len(known) >= len(context.keepers):
            return known
        proposal = {
            "report": report_json(report),
            "bundle_hash": "0x" + report.bundle_hash.hex(),
            "leader": self.signer.address,
            "signature": "0x" + own.hex(),
        }
        for reply in self.peers.propose(open_epoch.urls, context.epoch, proposal):
            try:
                signature = signature_bytes(reply.signature)
            except ValueError:
                log.warning("keeper_did_not_sign", epoch=context.epoch, url=reply.url, error=reply.error)
                continue
            kept = self.ballot.keep(context, report, [signature])
            if not kept:
                log.error("keeper_signature_invalid", epoch=context.epoch, url=reply.url)
            known.update(kept)
        return known
