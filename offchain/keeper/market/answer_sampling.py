"""Validation of real work: a drawn share of the answers is run again on an independent node.

::

    fulfilled in block b --b + DRAW_DEPTH final--> drawn? --no--> done
                                                     | yes
                            second node of another owner, --agree--> both held
                                                     | differ
                            third node --> majority; the odd one out, or all three, are flagged

Answers that were paid on chain are drawn by one keeper each; every keeper draws from its own probes, which travel
through gateways like everything else. Only answers that can be compared are drawn: temperature 0 and one choice.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from sqlalchemy import select

from offchain.db import jobs
from offchain.db.cursors import position
from offchain.db.database import Database
from offchain.db.models import Event, Job, MarketRequest, Probe
from offchain.db.reputation import VALIDATE
from offchain.domain.answer_text import answer_texts
from offchain.domain.eip712 import keccak256
from offchain.domain.epochs import EpochClock
from offchain.domain.measurement.answer_sampling import Outcome, SampleFinding, compare, drawn, rate
from offchain.domain.types import Bps, Epoch, NodeId
from offchain.evidence.chain_view import ChainView
from offchain.keeper import store
from offchain.keeper.lookups import independent_nodes
from offchain.keeper.probing.gateway_client import Asker, ReplyKind
from offchain.keeper.store import DueProbe
from offchain.runtime.clock import Clock, seconds
from offchain.runtime.crash_points import CrashPoint, nowhere

log = structlog.get_logger(__name__)

DRAW_DEPTH = 1
"""Blocks after the answer whose hash draws it."""
LEASE_SECONDS = 60
RETRY_SECONDS = 20
MAX_ATTEMPTS = 10
"""Then the validation is given up: no independent node could answer."""
RECENT = 200
"""So many of the last validations decide how large a share is drawn."""
SLOT_DRAWN = "validate-slot"
LOOKED_AT = 500
"""So many of the last answered requests are looked at in one step."""


@dataclass(frozen=True, slots=True)
class ServedRequest:
    """An answer whose request can be sent again. `ref`: an on-chain request's id, or `probe:<epoch>:<slot>:<node>`."""

    ref: str
    node_id: NodeId
    payload: bytes
    result: bytes


@dataclass(eq=False)
class ValidateService:
    """Draws answers and validates them.

    Attributes:
        open_gateway: client for pinned requests.
        alive: ids of nodes that could answer now.
        is_own: whether this keeper checks a request (0x-hex id); one keeper checks each request.
        epochs: the network's epochs and slots.
        body: gives the request body of one of this keeper's probes.
    """

    database: Database
    view: ChainView
    open_gateway: Callable[[], AbstractAsyncContextManager[Asker]]
    alive: Callable[[], Sequence[NodeId]]
    clock: Clock
    is_own: Callable[[str], bool]
    epochs: EpochClock
    body: Callable[[DueProbe], bytes]
    reached: CrashPoint = nowhere

    def step(self) -> None:
        """Draw from answers that became final, then validate one drawn answer. Safe to run twice."""
        self._draw()
        self._draw_probes()
        self.reached("validation-drawn")
        with self.database.read() as session:
            # One a step: the queue is shared with requests that somebody has paid for.
            due = jobs.due(session, VALIDATE, seconds(self.clock), limit=1)
        for request_id in due:
            self._work(request_id)

    def _draw(self) -> None:
        with self.database.read() as session:
            final = position(session, "finalized")
            if final is None:
                return
            seen = set(session.scalars(select(Job.ref).where(Job.kind == VALIDATE)))
            events = session.scalars(
                select(Event)
                .where(Event.name == "InferenceFulfilled", Event.block_number + DRAW_DEPTH <= final.number)
                .order_by(Event.block_number.desc())
                .limit(LOOKED_AT)
            ).all()
        share = self._rate()
        for event in events:
            request_id = str(event.args["requestId"])
            if request_id in seen:
                continue
            # Of a later block: the node could not know whether its answer would be drawn.
            block_hash = bytes.fromhex(self.view.block(event.block_number + DRAW_DEPTH).hash[2:])
            served = self._served(request_id)
            chosen = (
                served is not None
                and comparable(served.payload)
                and self.is_own(request_id)
                and drawn(bytes.fromhex(request_id[2:]), block_hash, share)
            )
            now = seconds(self.clock)
            with self.database.write() as session:
                if chosen:
                    jobs.enqueue(session, VALIDATE, request_id, now)
                else:
                    # Marked as well, else the next step would draw it again, by another share.
                    store.mark(session, VALIDATE, request_id, now)

    def _draw_probes(self) -> None:
        """Draw from this keeper's answered probes of the last slot that lies below the newest final block."""
        with self.database.read() as session:
            final = position(session, "finalized")
        if final is None or final.timestamp <= self.epochs.genesis:
            return
        epoch, slot = self.epochs.slot_at(final.timestamp)
        epoch, slot = (epoch, slot - 1) if slot else (Epoch(epoch - 1), self.epochs.slots - 1)
        # The block is later than the slot: nobody could know its hash while the slot ran.
        ref, block_hash, share = f"{epoch}:{slot}", bytes.fromhex(final.hash[2:]), self._rate()
        with self.database.read() as session:
            if epoch < 0 or store.is_marked(session, SLOT_DRAWN, ref):
                return
            nodes = session.scalars(
                select(Probe.node_id).where(
                    Probe.epoch == epoch, Probe.slot == slot, Probe.outcome == "answered"
                )
            ).all()
        chosen = [
            name
            for name in (f"probe:{epoch}:{slot}:{node}" for node in nodes)
            if drawn(keccak256(name.encode()), block_hash, share)
        ]
        now = seconds(self.clock)
        with self.database.write() as session:
            store.mark(session, SLOT_DRAWN, ref, now)
            for name in chosen:
                jobs.enqueue(session, VALIDATE, name, now)

    def _rate(self) -> Bps:
        with self.database.read() as session:
            recent = session.scalars(
                select(Job.result)
                .where(Job.kind == VALIDATE, Job.status == "done")
                .order_by(Job.created_at.desc())
                .limit(RECENT)
            ).all()
        # Rows without a result are answers that were not drawn.
        outcomes = [row.get("outcome") for row in recent if row]
        return rate(len(outcomes), sum(1 for item in outcomes if item != Outcome.AGREED))

    def _served(self, ref: str) -> ServedRequest | None:
        if ref.startswith("probe:"):
            return self._served_probe(ref)
        with self.database.read() as session:
            row = session.get(MarketRequest, ref)
        if row is None or row.node_id is None or row.result is None:
            return None
        return ServedRequest(ref, NodeId(row.node_id), bytes(row.payload), bytes(row.result))

    def _served_probe(self, ref: str) -> ServedRequest | None:
        epoch, slot, node = (int(part) for part in ref.split(":")[1:])
        with self.database.read() as session:
            row = session.get(Probe, (epoch, slot, node))
        text = (row.evidence or {}).get("text") if row is not None else None
        if row is None or text is None:
            return None
        body = self.body(DueProbe(Epoch(epoch), slot, NodeId(node), row.due_at_ms))
        return ServedRequest(ref, NodeId(node), body, str(text).encode())

    def _work(self, request_id: str) -> None:
        now = seconds(self.clock)
        with self.database.write() as session:
            attempt = jobs.lease(session, VALIDATE, request_id, now, LEASE_SECONDS)
        if attempt is None:
            return
        self.reached("validation-leased")
        served = self._served(request_id)
        if served is None:
            with self.database.write() as session:
                jobs.fail(session, VALIDATE, request_id, attempt, "the request is gone")
            return
        finding = asyncio.run(self._compare(served))
        self.reached("validation-compared")
        if finding is None:
            why, retry_at = "no independent node could answer", seconds(self.clock) + RETRY_SECONDS
            with self.database.write() as session:
                if attempt >= MAX_ATTEMPTS:
                    jobs.fail(session, VALIDATE, request_id, attempt, why)
                else:
                    jobs.release(session, VALIDATE, request_id, attempt, why, retry_at)
            return
        result = {
            "outcome": finding.outcome.value,
            "agreed": [int(node) for node in finding.agreed],
            "flagged": [int(node) for node in finding.flagged],
        }
        with self.database.write() as session:
            jobs.finish(session, VALIDATE, request_id, attempt, result)
        log.info("answer_validated", request=request_id, **result)

    async def _compare(self, served: ServedRequest) -> SampleFinding | None:
        """Ask a second node and, if its answer differs, a third; None when too few nodes answered."""
        answers: dict[NodeId, Sequence[str]] = {served.node_id: words(served.result.decode(errors="replace"))}
        async with self.open_gateway() as gateway:
            for node in independent_nodes(
                self.database,
                self.alive(),
                served.node_id,
                lambda node: keccak256(f"{served.ref}{node}".encode()),
            ):
                reply = await gateway.ask(node, served.payload)
                if reply.kind is not ReplyKind.ANSWER:
                    continue
                try:
                    answers[node] = words("\x1e".join(answer_texts(reply.answer)))
                except ValueError:
                    continue
                finding = compare(answers)
                if finding is not None:
                    return finding
        return None


def comparable(payload: bytes) -> bool:
    """Whether two honest nodes must give the same answer to this body."""
    try:
        body: Any = orjson.loads(payload)
    except ValueError:
        return False
    return isinstance(body, Mapping) and body.get("temperature") == 0 and body.get("n", 1) == 1


def words(text: str) -> list[str]:
    """The words of an answer, which are compared instead of tokens: the chain carries text only."""
    return text.split()
