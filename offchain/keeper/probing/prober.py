"""Probing: due probes go through the gateway as ordinary requests; replies become signed evidence.

A probe ends in one of three ways:

- *answer*: the node's receipt holds in every respect and came within the time of the node's tier.
- *miss*: the node failed, timed out, signed something false, answered wrongly, or is not what it declared.
- *abstention*: the reply says nothing about the node. The probe is tried again until its slot ends.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import KW_ONLY, dataclass
from typing import Protocol

import structlog
from sqlalchemy import select

from offchain.db.database import Database
from offchain.db.models import Node
from offchain.domain.answer_text import answer_result
from offchain.domain.eip712 import SigningDomain, address_bytes, keccak256
from offchain.domain.epochs import EpochClock
from offchain.domain.evidence_entries import AnswerEntry, Miss
from offchain.domain.measurement.tier_floors import FLOORS
from offchain.domain.messages import MissReason, ServiceReceipt, SlotMiss, SlotReceipt
from offchain.domain.tiers import Tier
from offchain.domain.types import NodeId
from offchain.errors import TransientError
from offchain.evidence.bundle import CLOCK_TOLERANCE_MS
from offchain.evidence.document import MessageSigner
from offchain.evidence.signature_pool import account_of
from offchain.keeper import store
from offchain.keeper.probing.gateway_client import Asker, Reply, ReplyKind
from offchain.keeper.probing.prompts import probe_body
from offchain.keeper.store import DueProbe
from offchain.protocol.receipts import ReceiptError, check_binding, check_signature
from offchain.runtime.clock import Clock
from offchain.runtime.crash_points import CrashPoint, nowhere

log = structlog.get_logger(__name__)

MAX_COMPLETION_TOKENS = 64
RETRY_MS = 1_000
"""Pause before a probe that ended in an abstention is tried again."""
MAX_KEPT_TEXT = 2_000
"""Characters of an answer that are stored, for validating a sample of the answers later."""
_ASKS_IN_A_ROW = 6
"""Requests that one probe may make in a row: itself and two rounds of references, and the same for a second prompt."""


@dataclass(frozen=True, slots=True)
class ProbedNode:
    """A node as the index has it now."""

    node_id: NodeId
    key: bytes
    tier: Tier


@dataclass(frozen=True, slots=True)
class ProbeOutcome:
    """Result of one probe: an accepted receipt, a reason for a miss, or neither (abstained).

    Attributes:
        why: for logs.
        result: the answer's bytes, kept for validation.
    """

    receipt: ServiceReceipt | None = None
    node_signature: bytes = b""
    miss: MissReason | None = None
    why: str = ""
    result: bytes = b""


def assess_reply(
    reply: Reply, body: bytes, node: ProbedNode, market: SigningDomain, now_ms: int
) -> ProbeOutcome:
    """The outcome that follows from a reply. Pure.

    Args:
        body: the request's bytes, whose hash the receipt must bind.
        now_ms: Unix milliseconds by this keeper's clock, when the reply was complete.
    """
    if reply.kind is ReplyKind.GATEWAY_FAILED:
        return ProbeOutcome(why=reply.detail)
    if reply.kind is ReplyKind.NODE_FAILED:
        return ProbeOutcome(miss=MissReason.UNREACHABLE, why=reply.detail)
    if reply.kind is ReplyKind.TIMED_OUT:
        return ProbeOutcome(miss=MissReason.TIMEOUT, why="timed out")
    try:
        receipt = ServiceReceipt.from_json(reply.envelope["receipt"])
        signature = bytes.fromhex(str(reply.envelope["signature"]).removeprefix("0x"))
        result = answer_result(reply.answer)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return ProbeOutcome(miss=MissReason.BAD_RECEIPT, why=f"malformed: {error}")
    try:
        check_binding(receipt, node.node_id, reply.request_id, keccak256(body), result)
        # The current key alone: a rotated one counts for a while at gateways only (ADR 0051).
        check_signature(receipt, signature, market.digest, account_of, (node.key,))
        _check_tokens_and_times(receipt, now_ms - reply.elapsed_ms, now_ms)
    except ReceiptError as error:
        return ProbeOutcome(miss=MissReason.BAD_RECEIPT, why=f"receipt: {error}")
    floor = FLOORS[node.tier]
    if reply.first_token_ms is not None and reply.first_token_ms > floor.first_token_ms:
        return ProbeOutcome(
            miss=MissReason.SLOW_FIRST_TOKEN, why=f"first token after {reply.first_token_ms} ms"
        )
    if reply.elapsed_ms > floor.allowed_ms(receipt.completion_tokens):
        return ProbeOutcome(miss=MissReason.BELOW_FLOOR, why=f"{reply.elapsed_ms} ms")
    return ProbeOutcome(receipt, signature, result=result)


def _check_tokens_and_times(receipt: ServiceReceipt, began_ms: int, now_ms: int) -> None:
    """Raise ReceiptError unless a receipt tells of a probe's tokens and of the time in which we waited for it."""
    # The node counts its tokens itself, and the floor allows it more time for more tokens.
    if not 0 < receipt.completion_tokens <= MAX_COMPLETION_TOKENS:
        raise ReceiptError(f"{receipt.completion_tokens} tokens are no answer to a probe")
    # Else a node could choose its times (ADR 0077).
    earliest, latest = began_ms - CLOCK_TOLERANCE_MS, now_ms + CLOCK_TOLERANCE_MS
    if not earliest <= receipt.started_at_ms <= receipt.finished_at_ms <= latest:
        raise ReceiptError("it is from another time")


class WrongAnswer(Protocol):
    """Says whether a probe was answered wrongly; `answer_check.AnswerCheck` does."""

    async def wrong(self, gateway: Asker, probe: DueProbe, node: ProbedNode, found: ProbeOutcome) -> str:
        """Why the answer is wrong; empty when it is not."""


@dataclass(eq=False)
class ProbeService:
    """Runs due probes.

    Attributes:
        check: compares answers with a reference; None: answers are not compared.
        contradiction: given a node and the model revision (32 bytes) in its receipt, what contradicts the node's
            declared manifest; empty for nothing.
        distrust: why this keeper must not sign evidence now; empty when it may.
        open_gateway: gives a gateway client for one batch of probes.
        signer: this keeper's key.
        model: name of the model that is asked for.
        timeout_ms: for one request.
        batch: how many probes one step makes at most.
    """

    database: Database
    epochs: EpochClock
    open_gateway: Callable[[], AbstractAsyncContextManager[Asker]]
    signer: MessageSigner
    attestation: SigningDomain
    market: SigningDomain
    clock: Clock
    _: KW_ONLY
    model: str
    timeout_ms: int
    check: WrongAnswer | None = None
    contradiction: Callable[[NodeId, bytes], str] = lambda _node, _revision: ""
    distrust: Callable[[], str] = lambda: ""
    batch: int = 64
    width: int = 32
    reached: CrashPoint = nowhere

    def step(self) -> int:
        """Make a batch of due probes. Returns how many; after a full batch call it again at once.

        While the clock cannot be trusted no probe is made, and this keeper abstains from those slots.
        """
        if why := self.distrust():
            log.warning("probing_suspended", why=why)
            return 0
        now_ms = self.clock.now_ms()
        # A probe's lease outlasts all requests that the probe may make in a row.
        lease_ms = self.timeout_ms * (1 if self.check is None else _ASKS_IN_A_ROW) + 2_000
        slot_ms = self.epochs.length_seconds * 1000 // self.epochs.slots
        with self.database.write() as session:
            due = store.lease_due_probes(session, now_ms, now_ms - slot_ms, lease_ms, self.batch)
            nodes = {
                NodeId(row.node_id): ProbedNode(
                    NodeId(row.node_id), address_bytes(row.key_address), Tier(row.tier)
                )
                for row in session.scalars(
                    select(Node).where(Node.node_id.in_({probe.node_id for probe in due}))
                )
            }
        due = [probe for probe in due if probe.node_id in nodes and now_ms < self._slot_end(probe)]
        if due:
            self.reached("probe-leased")
            asyncio.run(self._run(due, nodes))
        return len(due)

    async def _run(self, due: Sequence[DueProbe], nodes: dict[NodeId, ProbedNode]) -> None:
        limit = asyncio.Semaphore(self.width)
        async with self.open_gateway() as gateway:

            async def one(probe: DueProbe) -> None:
                async with limit:
                    try:
                        await self._probe(gateway, probe, nodes[probe.node_id])
                    except TransientError as error:  # the key or the database failed; the other probes go on
                        self._abstain(probe, str(error), self.clock.now_ms())

            async with asyncio.TaskGroup() as group:
                for probe in due:
                    group.create_task(one(probe))

    async def _probe(self, gateway: Asker, probe: DueProbe, node: ProbedNode) -> None:
        if self.clock.now_ms() >= self._slot_end(probe):
            return
        body = body_of(probe, self.model, self.signer)
        reply = await gateway.ask(probe.node_id, body)
        self.reached("probe-answered")
        now_ms = self.clock.now_ms()
        found = assess_reply(reply, body, node, self.market, now_ms)
        # One entry from after its slot, and others reject the whole document.
        if now_ms > self._slot_end(probe) + CLOCK_TOLERANCE_MS:
            return
        if found.receipt is not None:
            found = await self._cross_checked(gateway, probe, node, found, found.receipt.model_revision)
        self._record(probe, reply, found, self.clock.now_ms() if found.miss else now_ms)

    async def _cross_checked(
        self, gateway: Asker, probe: DueProbe, node: ProbedNode, found: ProbeOutcome, revision: bytes
    ) -> ProbeOutcome:
        """A miss if the answer is wrong or the node is not what it declared; else, or when the slot is over, `found`."""
        reason, why = MissReason.FALSE_MANIFEST, self.contradiction(node.node_id, revision)
        if not why and self.check is not None:
            reason, why = MissReason.WRONG_ANSWER, await self.check.wrong(gateway, probe, node, found)
        if not why or self.clock.now_ms() > self._slot_end(probe):
            return found
        return ProbeOutcome(miss=reason, why=why)

    def _record(self, probe: DueProbe, reply: Reply, found: ProbeOutcome, now_ms: int) -> None:
        if found.receipt is not None:
            # Signed before the transaction: a remote key may be slow (ADR 0076).
            outcome, entry = "answered", self._answer(probe, found.receipt, found.node_signature).pack()
        elif found.miss is not None:
            outcome, entry = "missed", self._miss(probe, found.miss, now_ms).pack()
        else:
            self._abstain(probe, found.why, now_ms)
            return
        kept = {"entry": entry}
        if found.miss is not None:
            kept["reason"] = found.miss.name.lower()
        if found.result:
            kept["text"] = found.result.decode(errors="replace")[:MAX_KEPT_TEXT]
        with self.database.write() as session:
            store.record_probe(session, probe, outcome, kept, reply.elapsed_ms)
        self.reached("probe-recorded")
        where = {"epoch": probe.epoch, "slot": probe.slot, "node": probe.node_id, "outcome": outcome}
        log.info(
            "probe_finished", **where, reason=kept.get("reason"), why=found.why or None, ms=reply.elapsed_ms
        )

    def _abstain(self, probe: DueProbe, why: str, now_ms: int) -> None:
        log.warning("probe_abstained", epoch=probe.epoch, slot=probe.slot, node=probe.node_id, why=why)
        # If this fails too, the lease runs out.
        with suppress(TransientError), self.database.write() as session:
            store.release_probes(session, [probe], now_ms + RETRY_MS)

    def _answer(self, probe: DueProbe, receipt: ServiceReceipt, node_signature: bytes) -> AnswerEntry:
        struct = SlotReceipt(probe.epoch, probe.slot, probe.node_id, receipt.struct_hash())
        return AnswerEntry(probe.slot, receipt, node_signature, self._sign(struct))

    def _miss(self, probe: DueProbe, reason: MissReason, now_ms: int) -> Miss:
        struct = SlotMiss(probe.epoch, probe.slot, probe.node_id, now_ms, reason)
        return Miss(probe.slot, probe.node_id, now_ms, reason, self._sign(struct))

    def _sign(self, struct: SlotReceipt | SlotMiss) -> bytes:
        return self.signer.sign(self.attestation.message(struct.struct_hash()))

    def _slot_end(self, probe: DueProbe) -> int:
        return self.epochs.slot_bounds_ms(probe.epoch, probe.slot)[1]


def probe_seed(probe: DueProbe, signer: MessageSigner) -> bytes:
    """A secret of this keeper for a probe, 32 bytes, the same at every call.

    Only the key's holder can compute it; the due time, which follows from the schedule's seed, ties it to the probe.
    """
    secret = signer.sign(b"parallelix.probe.prompt" + probe.epoch.to_bytes(4, "big"))
    return keccak256(secret + probe.due_at_ms.to_bytes(8, "big"))


def body_of(probe: DueProbe, model: str, signer: MessageSigner, *, again: bool = False) -> bytes:
    """The request body of a probe, or of the second prompt after a doubtful answer; the same at every call."""
    seed = probe_seed(probe, signer)
    return probe_body(model, keccak256(b"again" + seed) if again else seed, probe.node_id, probe.slot)
