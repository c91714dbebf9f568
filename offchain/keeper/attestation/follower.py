"""Following: a keeper checks a leader's proposal against its bundle and against what it saw itself, and then signs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from offchain.db.database import Database
from offchain.domain.evidence_entries import EvidenceError
from offchain.domain.messages import EpochReport
from offchain.domain.types import Epoch
from offchain.evidence.bundle import BundleVerdict, EvidenceBundle, read, verify_bundle
from offchain.evidence.epoch_context import EpochContext
from offchain.evidence.epoch_context_reader import NotReadyError
from offchain.evidence.keeper_peers import Peers
from offchain.evidence.report import differences, report_from_json, signature_bytes, signer_of
from offchain.keeper import store
from offchain.keeper.attestation.ballot import Ballot, BallotRefusedError
from offchain.keeper.attestation.lease import Fence, unfenced
from offchain.keeper.attestation.open_epochs import OpenEpoch, OpenEpochs
from offchain.keeper.attestation.own_document import OwnDocument
from offchain.runtime.clock import Clock, seconds
from offchain.runtime.crash_points import CrashPoint, nowhere


@dataclass(eq=False)
class Follower:
    """One keeper's answers to the leaders of turns."""

    database: Database
    open_epochs: OpenEpochs
    own_document: OwnDocument
    ballot: Ballot
    clock: Clock
    peers: Peers
    reached: CrashPoint = nowhere

    def answer_proposal(self, epoch: Epoch, data: Any) -> str:
        """Verify a leader's proposal and sign it.

        Returns:
            The signature as 0x-hex.

        Raises:
            BallotRefusedError: this keeper does not agree, or it is too early.
        """
        try:
            open_epoch = self.open_epochs.of(epoch)
        except NotReadyError as waiting:
            raise BallotRefusedError(str(waiting)) from None
        if open_epoch is None:
            raise BallotRefusedError("this keeper is not in the epoch's set")
        now = seconds(self.clock)
        if now < open_epoch.frozen_at:
            raise BallotRefusedError("the epoch's evidence is not frozen yet")
        try:
            report = report_from_json(data["report"])
            signature = signature_bytes(data["signature"])
        except (KeyError, TypeError, ValueError) as error:
            raise BallotRefusedError(f"the proposal is malformed: {error}") from None
        # The proposal also names its leader; only the signature tells who that is.
        leader = signer_of(open_epoch.context, report, signature)
        turn = open_epoch.turn(now)
        # The leader before may still be gathering signatures when its turn has just ended.
        if leader is None or leader not in {open_epoch.leader(turn), open_epoch.leader(max(0, turn - 1))}:
            raise BallotRefusedError("the proposal is not signed by the leader of this turn")
        if report.epoch != epoch:
            raise BallotRefusedError("the report is of another epoch")
        try:
            own = self.endorse(open_epoch, report, [leader.url, *open_epoch.urls], unfenced)
        # Too early is no disagreement: nothing is published, and the leader asks again.
        except NotReadyError as waiting:
            raise BallotRefusedError(str(waiting)) from None
        except (BallotRefusedError, EvidenceError) as error:
            self.ballot.publish(epoch, report, error)
            if isinstance(error, BallotRefusedError):
                raise
            raise BallotRefusedError(str(error)) from error
        self.ballot.keep(open_epoch.context, report, [signature])
        return own

    def endorse(self, open_epoch: OpenEpoch, report: EpochReport, urls: Sequence[str], fence: Fence) -> str:
        """Check a report against its bundle and this keeper's own document, and sign it. Returns the signature as 0x-hex.

        Raises:
            BallotRefusedError, EvidenceError: this keeper does not sign; the text says why.
            NotReadyError: this keeper's own document cannot be made yet.
        """
        context = open_epoch.context
        earlier = self.ballot.own(context.epoch)
        # Before any check: a leader that asks again costs no second verification.
        if earlier is not None:
            signed, signature = earlier
            if signed == report:
                return signature
            raise BallotRefusedError(
                "this keeper has signed another report of the epoch", differences(signed, report)
            )
        bundle, verdict = self.verified_bundle(context, "0x" + report.bundle_hash.hex(), urls)
        own = self.own_document.of(context)
        included = [item for item in bundle.evidence if item.signer.lower() == own.signer.lower()]
        # A keeper that observed nothing may be left out of the bundle.
        if included != [own] and (own.answers or own.misses or included):
            raise BallotRefusedError("the bundle does not hold this keeper's evidence as it is")
        if verdict.report != report:
            raise BallotRefusedError(
                "the report does not follow from its bundle", differences(verdict.report, report)
            )
        if not verdict.table.covered():
            raise BallotRefusedError("fewer than two thirds of the slots were probed")
        signature = self.ballot.sign(context, report, bundle, fence)
        self.reached("report-endorsed")
        return signature

    def verified_bundle(
        self, context: EpochContext, bundle_hash: str, urls: Sequence[str]
    ) -> tuple[EvidenceBundle, BundleVerdict]:
        """A bundle from this keeper's database or from peers, verified. Raises BallotRefusedError or EvidenceError."""
        with self.database.read() as session:
            raw = store.load_bundle(session, bundle_hash)
        if raw is None:
            raw = self.peers.bundle([url for url in dict.fromkeys(urls) if url], bundle_hash)
        if raw is None:
            raise BallotRefusedError("the bundle cannot be had from anybody")
        bundle = read(raw, context)
        # Also a bundle from the own database: a keeper signs only what it has just checked (ADR 0043).
        return bundle, verify_bundle(context, bundle)
