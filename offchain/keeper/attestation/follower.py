"""Following: a proposal is judged by its bundle and by everything that this keeper knows, and then signed."""

from collections.abc import Sequence
from typing import Any

from offchain.db.database import Database
from offchain.domain.evidence_entries import EvidenceError
from offchain.domain.messages import EpochReport
from offchain.domain.types import Epoch
from offchain.evidence.bundle import BundleVerdict, EvidenceBundle, judge, read
from offchain.evidence.epoch_context import EpochContext
from offchain.evidence.epoch_context_reader import NotReadyError
from offchain.evidence.keeper_peers import Peers
from offchain.evidence.report import differences, report_from_json, signature_bytes, signer_of
from offchain.keeper import store
from offchain.keeper.attestation.ballot import Ballot, BallotRefusedError
from offchain.keeper.attestation.lease import Fence, unfenced
from offchain.keeper.attestation.open_epochs import OpenEpoch, OpenEpochs
from offchain.keeper.attestation.own_document import OwnEvidence
from offchain.runtime.clock import Clock, seconds
from offchain.runtime.crash_points import CrashPoint, nowhere


class Follower:
    """One keeper's answers to leaders."""

    def __init__(
        self,
        database: Database,
        closings: OpenEpochs,
        evidence: OwnEvidence,
        ballot: Ballot,
        clock: Clock,
        peers: Peers,
        reached: CrashPoint = nowhere,
    ) -> None:
        self._database = database
        self._closings = closings
        self._evidence = evidence
        self._ballot = ballot
        self._clock = clock
        self._peers = peers
        self._reached = reached

    def answer_proposal(self, epoch: Epoch, data: Any) -> str:
        """Judge a leader's proposal and sign it.

        Returns:
            The signature as 0x-hex.

        Raises:
            RefusedError: this keeper does not agree, or it is too early.
        """
        try:
            closing = self._closings.of(epoch)
        except NotReadyError as waiting:
            raise BallotRefusedError(str(waiting)) from None
        if closing is None:
            raise BallotRefusedError("this keeper is not in the epoch's set")
        now = seconds(self._clock)
        if now < closing.frozen_at:
            raise BallotRefusedError("the epoch's evidence is not frozen yet")
        try:
            report = report_from_json(data["report"])
            signature = signature_bytes(data["signature"])
        except (KeyError, TypeError, ValueError) as error:
            raise BallotRefusedError(f"the proposal is malformed: {error}") from None
        leader = signer_of(closing.context, report, signature)
        turn = closing.turn(now)
        if leader is None or leader not in {closing.leader(turn), closing.leader(max(0, turn - 1))}:
            raise BallotRefusedError("the proposal is not signed by the leader of this turn")
        if report.epoch != epoch:
            raise BallotRefusedError("the report is of another epoch")
        try:
            own = self.endorse(closing, report, [leader.url, *closing.urls], unfenced)
        except NotReadyError as waiting:
            raise BallotRefusedError(str(waiting)) from None
        except (BallotRefusedError, EvidenceError) as error:
            self._ballot.publish(epoch, report, error)
            if isinstance(error, BallotRefusedError):
                raise
            raise BallotRefusedError(str(error)) from error
        self._ballot.keep(closing.context, report, [signature])
        return own

    def endorse(self, closing: OpenEpoch, report: EpochReport, urls: Sequence[str], fence: Fence) -> str:
        """Check a report against its bundle and against everything this keeper knows, and sign it."""
        context = closing.context
        own = self._ballot.own(context.epoch)
        if own is not None:
            signed, signature = own
            if signed == report:
                return signature
            raise BallotRefusedError(
                "this keeper has signed another report of the epoch", differences(signed, report)
            )
        bundle, verdict = self.judged_bundle(context, "0x" + report.bundle_hash.hex(), urls)
        mine = self._evidence.of(context)
        included = [item for item in bundle.evidence if item.signer.lower() == mine.signer.lower()]
        if included != [mine] and (mine.answers or mine.misses or included):
            raise BallotRefusedError("the bundle does not hold this keeper's evidence as it is")
        if verdict.report != report:
            raise BallotRefusedError(
                "the report does not follow from its bundle", differences(verdict.report, report)
            )
        if not verdict.table.covered():
            raise BallotRefusedError("fewer than two thirds of the slots were probed")
        signature = self._ballot.sign(context, report, bundle, fence)
        self._reached("report-endorsed")
        return signature

    def judged_bundle(
        self, context: EpochContext, bundle_hash: str, urls: Sequence[str]
    ) -> tuple[EvidenceBundle, BundleVerdict]:
        """A bundle from the own store or from peers, with what it says. Raises RefusedError or EvidenceError."""
        with self._database.read() as session:
            raw = store.load_bundle(session, bundle_hash)
        if raw is None:
            raw = self._peers.bundle([url for url in dict.fromkeys(urls) if url], bundle_hash)
        if raw is None:
            raise BallotRefusedError("the bundle cannot be had from anybody")
        bundle = read(raw, context)
        return bundle, judge(context, bundle)
