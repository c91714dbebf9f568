"""Closing an epoch: own evidence, the leader's bundle, everybody's own check of it, signatures, one submission.

::

    end(e)      frozen                          submit deadline
      |--settle--|-- turn 0 --|-- turn 1 --| ... |
                  leader e%n   leader (e+1)%n

In its turn a leader proposes a report until the quorum has signed, and then enqueues its submission. A keeper signs one
report an epoch, ever: a later leader therefore takes up a report that somebody has signed already, if its bundle
holds, so that a leader which withholds costs one turn and not the epoch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from sqlalchemy.orm import Session

from offchain.crash import CrashPoint, nowhere
from offchain.db.cursors import position
from offchain.db.engine import Database
from offchain.domain.entries import EvidenceError
from offchain.domain.epochs import EpochClock
from offchain.domain.messages import EpochReport
from offchain.domain.types import Address, Epoch
from offchain.keeper import store
from offchain.keeper.batches import BatchSource, GatewayAnswer, batches_of
from offchain.keeper.bundle import (
    CLOCK_TOLERANCE_MS,
    Bundle,
    Checker,
    Verdict,
    assemble,
    conclude,
    judge,
    read,
)
from offchain.keeper.chain_view import ChainView, EpochStatus
from offchain.keeper.clock import Clock, seconds
from offchain.keeper.context import LATE_EPOCHS, EpochContext, KeeperInfo
from offchain.keeper.evidence import Evidence, MessageSigner
from offchain.keeper.executions import executions_of
from offchain.keeper.frame import FrameReader, NotReadyError
from offchain.keeper.peers import Peers
from offchain.keeper.plan import seed_signature
from offchain.keeper.renewal import Fence, unfenced
from offchain.keeper.reports import (
    differences,
    pack_signatures,
    report_from_json,
    report_json,
    signature_bytes,
    signer_of,
)

log = structlog.get_logger(__name__)

SETTLE_SECONDS = CLOCK_TOLERANCE_MS // 1000 + 1
"""From an epoch's end until its evidence cannot change any more."""
MAX_BATCH_WAIT_SECONDS = 300
"""For so long, and no more than a quarter of a turn, a keeper waits for a gateway that is making its batch."""
MIN_TURN_SECONDS, MAX_TURN_SECONDS = 5, 3_600
EPOCHS_BACK = 12
"""Finished epochs that are looked after; submit and challenge windows of short epochs span several of them."""
_MOST_KEEPERS = 256


class RefusedError(Exception):
    """This keeper does not sign. `disagreement` says in which fields its own report differs, if it got that far."""

    def __init__(self, reason: str, disagreement: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.disagreement = dict(disagreement or {})


class Submitter(Protocol):
    """The way to the outbox."""

    def submit_report(
        self, session: Session, epoch: Epoch, report: EpochReport, bitmap: int, signatures: bytes
    ) -> None:
        """Write the intent `attest:<epoch>` in the caller's transaction; twice is once."""


@dataclass(frozen=True, slots=True)
class Closing:
    """An epoch that is over, with the frame to judge it."""

    context: EpochContext
    me: KeeperInfo
    urls: tuple[str, ...]
    frozen_at: int
    turn_seconds: int

    def turn(self, now: int) -> int:
        """Number of the present turn, from 0."""
        return max(0, now - self.frozen_at) // self.turn_seconds

    def leader(self, turn: int) -> KeeperInfo:
        """Who leads in a turn."""
        return self.context.keepers[(self.context.epoch + turn) % len(self.context.keepers)]


class AttestService:
    """One keeper's part in closing epochs. `step` leads, `answer_proposal` follows; both may run at the same time.

    Args:
        peer_urls: base URLs of the other keepers; empty means those that the registry names.
        batches: asks this keeper's gateway for its batches; one that is away costs a document nothing but them.
    """

    def __init__(
        self,
        database: Database,
        view: ChainView,
        frames: FrameReader,
        signer: MessageSigner,
        clock: Clock,
        peers: Peers,
        submitter: Submitter,
        peer_urls: Sequence[str] = (),
        *,
        batches: BatchSource = lambda _since: GatewayAnswer(),
        reached: CrashPoint = nowhere,
    ) -> None:
        self._database = database
        self._view = view
        self._frames = frames
        self._batches = batches
        self._signer = signer
        self._clock = clock
        self._peers = peers
        self._submitter = submitter
        self._peer_urls = tuple(url.rstrip("/") for url in peer_urls)
        self._own: dict[Epoch, Evidence] = {}
        self._reached = reached

    # ------------------------------------------------------------------------------------------------------- leading

    def step(self, fence: Fence = unfenced) -> None:
        """Lead every recent epoch that is open and in which it is this keeper's turn. Safe to run twice.

        Raises:
            LeaseLostError: of `fence`; another process of this keeper leads now.
        """
        for epoch in self.open_epochs():
            try:
                closing = self.closing(epoch)
                if closing is None:
                    continue
                now = seconds(self._clock)
                turn = closing.turn(now)
                if closing.leader(turn) == closing.me:
                    self.lead(closing, now - closing.frozen_at - turn * closing.turn_seconds, fence)
            except NotReadyError as waiting:
                log.debug("attest_waits", epoch=epoch, reason=str(waiting))

    def open_epochs(self) -> list[Epoch]:
        """Recent epochs that are over, whose evidence is frozen and for which the chain still takes a report."""
        epochs, now = self._frames.clock, seconds(self._clock)
        if now < epochs.genesis:
            return []
        last = epochs.epoch_at(now) - 1
        return [
            Epoch(number)
            for number in range(max(1, last - EPOCHS_BACK + 1), last + 1)
            if now >= frozen_at(epochs, Epoch(number))
            and not self._over(Epoch(number))
            and self._view.status(Epoch(number)) is EpochStatus.OPEN
        ]

    def _over(self, epoch: Epoch) -> bool:
        with self._database.read() as session:
            return store.is_marked(session, "closed", str(epoch))

    def closing(self, epoch: Epoch) -> Closing | None:
        """The frame of a finished epoch; None when this keeper is not in its set or nobody had weight.

        Raises:
            NotReadyError: the epoch is not over in final blocks.
        """
        context = self.context(epoch)
        me = context.keeper(self._signer.address)
        if me is None or not context.nodes:
            return None
        urls = self._peer_urls or tuple(
            keeper.url.rstrip("/") for keeper in context.keepers if keeper != me and keeper.url
        )
        return Closing(context, me, urls, frozen_at(context.clock, epoch), self._turn_seconds(context))

    def _turn_seconds(self, context: EpochContext) -> int:
        window = self._view.submit_deadline(context.epoch) - context.clock.end(context.epoch)
        return min(max(MIN_TURN_SECONDS, window // (2 * len(context.keepers))), MAX_TURN_SECONDS)

    def context(self, epoch: Epoch) -> EpochContext:
        """The frame of a finished epoch. Raises NotReadyError."""
        with self._database.read() as session:
            indexed = position(session, "finalized")
        if indexed is None:
            raise NotReadyError("nothing is indexed yet")
        return self._frames.read(epoch, indexed)

    def lead(self, closing: Closing, into_turn_seconds: int, fence: Fence = unfenced) -> None:
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

    def _signed_before(self, closing: Closing) -> tuple[EpochReport, str] | None:
        with self._database.read() as session:
            own = store.own_report(session, closing.context.epoch, self._signer.address)
        if own is None:
            return None
        report = report_from_json(own[0])
        return report, "0x" + report.bundle_hash.hex()

    def _signed_elsewhere(self, closing: Closing, fence: Fence) -> tuple[EpochReport, str] | None:
        """A report that peers have signed, the most signed first, if it holds; this keeper signs it too."""
        context, votes = closing.context, dict[EpochReport, list[str]]()
        seen: list[bytes] = []
        for url, data in self._peers.epoch(closing.urls, context.epoch).items():
            try:
                report = report_from_json(data["signed"]["report"])
                signature = signature_bytes(data["signed"]["signature"])
                seen += [signature_bytes(item["signature"]) for item in data["signatures"][:_MOST_KEEPERS]]
            except (KeyError, TypeError, ValueError):
                continue
            if report.epoch == context.epoch and signer_of(context, report, signature) is not None:
                votes.setdefault(report, []).append(url)
        for report in sorted(votes, key=lambda item: (-len(votes[item]), item.bundle_hash)):
            try:
                self._endorse(closing, report, votes[report], fence)
            except (RefusedError, EvidenceError) as error:
                self._publish(context.epoch, report, error)
                continue
            self._keep(context, report, seen)
            return report, "0x" + report.bundle_hash.hex()
        return None

    def _fresh(
        self, closing: Closing, into_turn_seconds: int, fence: Fence
    ) -> tuple[EpochReport, str] | None:
        """A new bundle of the evidence that there is. Waits half a turn for keepers that do not answer."""
        context, documents = closing.context, list[Evidence]()
        peers = self._peers.evidence(closing.urls, context.epoch)
        with Checker(context) as checker:
            for url, data in [("", self.own_evidence(context).to_json()), *peers.items()]:
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
        self._sign(context, verdict.report, bundle, fence)
        self._reached("report-signed")
        return verdict.report, bundle.hash

    def _gather(self, closing: Closing, report: EpochReport) -> dict[str, bytes]:
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
            kept = self._keep(context, report, [signature])
            if not kept:
                log.error("keeper_signature_invalid", epoch=context.epoch, url=reply.url)
            known.update(kept)
        return known

    def _keep(
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
            with self._database.write() as session:
                if not store.add_signature(session, context.epoch, keeper.signer, report_json(report), text):
                    log.error("keeper_signed_two_reports", epoch=context.epoch, keeper=keeper.signer)
        return found

    # ----------------------------------------------------------------------------------------------------- following

    def own_evidence(self, context: EpochContext) -> Evidence:
        """This keeper's signed document of a frozen epoch; the same bytes at every call.

        Raises:
            NotReadyError: its gateway is making the epoch's batch, and there is time to wait for it.
        """
        if context.epoch in self._own:
            return self._own[context.epoch]
        with self._database.read() as session:
            answers = store.finished_probes(session, context.epoch, "answered")
            misses = store.finished_probes(session, context.epoch, "missed")
            executions = executions_of(session, context)
        batches = self._frozen_batches(context)
        with self._database.write() as session:
            regions = store.frozen_regions(session, context.epoch, context.nodes, seconds(self._clock))
        document = Evidence(
            domain=context.attestation,
            epoch=context.epoch,
            signer=Address(self._signer.address.lower()),
            seed_block=context.seed_block,
            seed_signature=seed_signature(context, self._signer),
            answers=tuple(answers),
            misses=tuple(misses),
            executions=tuple(executions),
            regions={region: tuple(ids) for region, ids in regions.items()},
            batches=tuple(batches),
        ).sign(self._signer)
        self._own = {context.epoch: document}
        return document

    def _frozen_batches(self, context: EpochContext) -> list[str]:
        """What the gateway gave at the first call for it; the document must not change after somebody has seen it."""
        with self._database.read() as session:
            frozen = store.frozen_batches(session, context.epoch)
        if frozen is not None:
            return frozen
        answer = self._batches(Epoch(max(0, context.epoch - LATE_EPOCHS)))
        if answer.making:
            patience = min(self._turn_seconds(context) // 4, MAX_BATCH_WAIT_SECONDS)
            if seconds(self._clock) < frozen_at(context.clock, context.epoch) + patience:
                raise NotReadyError(f"the gateway is making its batch of epoch {context.epoch}")
        with self._database.write() as session:
            fresh = batches_of(session, context, answer.batches)
            return store.freeze_batches(session, context.epoch, fresh, seconds(self._clock))

    def frozen_evidence(self, epoch: Epoch) -> Evidence:
        """Own evidence for others to see. Raises NotReadyError before it is frozen: probes stay secret till then."""
        if seconds(self._clock) < frozen_at(self._frames.clock, epoch):
            raise NotReadyError(f"evidence of epoch {epoch} is not frozen yet")
        return self.own_evidence(self.context(epoch))

    def answer_proposal(self, epoch: Epoch, data: Any) -> str:
        """Judge a leader's proposal and sign it.

        Returns:
            The signature as 0x-hex.

        Raises:
            RefusedError: this keeper does not agree, or it is too early.
        """
        try:
            closing = self.closing(epoch)
        except NotReadyError as waiting:
            raise RefusedError(str(waiting)) from None
        if closing is None:
            raise RefusedError("this keeper is not in the epoch's set")
        now = seconds(self._clock)
        if now < closing.frozen_at:
            raise RefusedError("the epoch's evidence is not frozen yet")
        try:
            report = report_from_json(data["report"])
            signature = signature_bytes(data["signature"])
        except (KeyError, TypeError, ValueError) as error:
            raise RefusedError(f"the proposal is malformed: {error}") from None
        leader = signer_of(closing.context, report, signature)
        turn = closing.turn(now)
        if leader is None or leader not in {closing.leader(turn), closing.leader(max(0, turn - 1))}:
            raise RefusedError("the proposal is not signed by the leader of this turn")
        if report.epoch != epoch:
            raise RefusedError("the report is of another epoch")
        try:
            own = self._endorse(closing, report, [leader.url, *closing.urls])
        except NotReadyError as waiting:
            raise RefusedError(str(waiting)) from None
        except (RefusedError, EvidenceError) as error:
            self._publish(epoch, report, error)
            if isinstance(error, RefusedError):
                raise
            raise RefusedError(str(error)) from error
        self._keep(closing.context, report, [signature])
        return own

    def _endorse(
        self, closing: Closing, report: EpochReport, urls: Sequence[str], fence: Fence = unfenced
    ) -> str:
        """Check a report against its bundle and against everything this keeper knows, and sign it."""
        context = closing.context
        with self._database.read() as session:
            own = store.own_report(session, context.epoch, self._signer.address)
        if own is not None:
            if own[0] == report_json(report):
                return own[1]
            raise RefusedError(
                "this keeper has signed another report of the epoch",
                differences(report_from_json(own[0]), report),
            )
        bundle, verdict = self.judged_bundle(context, "0x" + report.bundle_hash.hex(), urls)
        mine = self.own_evidence(context)
        included = [item for item in bundle.evidence if item.signer.lower() == mine.signer.lower()]
        if included != [mine] and (mine.answers or mine.misses or included):
            raise RefusedError("the bundle does not hold this keeper's evidence as it is")
        if verdict.report != report:
            raise RefusedError(
                "the report does not follow from its bundle", differences(verdict.report, report)
            )
        if not verdict.table.covered():
            raise RefusedError("fewer than two thirds of the slots were probed")
        signature = self._sign(context, report, bundle, fence)
        self._reached("report-endorsed")
        return signature

    def judged_bundle(
        self, context: EpochContext, bundle_hash: str, urls: Sequence[str]
    ) -> tuple[Bundle, Verdict]:
        """A bundle from the own store or from peers, with what it says. Raises RefusedError or EvidenceError."""
        with self._database.read() as session:
            raw = store.load_bundle(session, bundle_hash)
        if raw is None:
            raw = self._peers.bundle([url for url in dict.fromkeys(urls) if url], bundle_hash)
        if raw is None:
            raise RefusedError("the bundle cannot be had from anybody")
        bundle = read(raw, context)
        return bundle, judge(context, bundle)

    def _sign(
        self, context: EpochContext, report: EpochReport, bundle: Bundle, fence: Fence = unfenced
    ) -> str:
        signature = "0x" + self._signer.sign(context.attestation.message(report.struct_hash())).hex()
        with self._database.write() as session:
            fence(session)
            store.save_bundle(session, context.epoch, bundle.hash, bundle.raw)
            kept = store.add_signature(
                session, context.epoch, self._signer.address, report_json(report), signature
            )
            if not kept:
                raise RefusedError("this keeper has signed another report of the epoch")
        log.info("report_signed", epoch=context.epoch, root=report.uptime_root.hex(), bundle=bundle.hash)
        return signature

    def _publish(self, epoch: Epoch, report: EpochReport, error: Exception) -> None:
        """Keep a refusal where everybody can read it (GET /v1/epochs/<e>)."""
        disagreement = error.disagreement if isinstance(error, RefusedError) else {}
        log.error("report_refused", epoch=epoch, reason=str(error), disagreement=disagreement)
        with self._database.write() as session:
            store.mark(
                session,
                "refusal",
                f"{epoch}:0x{report.bundle_hash.hex()}",
                seconds(self._clock),
                {"reason": str(error), "report": report_json(report), "disagreement": disagreement},
            )


def frozen_at(clock: EpochClock, epoch: Epoch) -> int:
    """Unix second from which the epoch's evidence cannot change."""
    return clock.end(epoch) + SETTLE_SECONDS
