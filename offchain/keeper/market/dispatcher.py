"""The dispatch core for blocking callers, such as Celery tasks: one whole answer with its receipt.

::

    dispatcher = BlockingDispatcher(
        fleet_store=FleetStore(redis, now_ms), sign=signer.sign, recover=recover, key_of=key_of,
        nodes_domain=deployment.signing_domain("NodeRegistryLocker"),
        market_domain=deployment.signing_domain("InferenceMarket"), now_ms=now_ms, regions=["eu"],
    )
    answer = dispatcher.dispatch(chat_unit(request_id, payload), payload)

The payload goes to the node byte for byte, so that the receipt's request hash is the payload's. Nothing is delivered
before the answer is whole, so every retry is a whole new attempt. Safe to use from several threads.
"""

import asyncio
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from offchain.dispatch.dispatcher import Dispatcher
from offchain.dispatch.fleet_store import FleetStore
from offchain.dispatch.http_upstream import HttpUpstream
from offchain.domain.eip712 import SigningDomain
from offchain.domain.types import NodeId
from offchain.protocol.receipts import ReceiptVerifier, Recover, SignedReceipt
from offchain.protocol.tickets import SignMessage, TicketSigner
from offchain.scheduler.fleet import Fleet, NodeReport
from offchain.scheduler.router import Router, RouterLimits
from offchain.scheduler.work import (
    FaultKind,
    NodeError,
    Priority,
    RequestTrace,
    Requirements,
    WorkUnit,
)
from offchain.workloads.inference.request import InvalidRequestError, Kind, parse
from offchain.workloads.inference.whole_answer import PlainTask

MAX_ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class DispatchedAnswer:
    """A whole answer.

    Attributes:
        result: the bytes that the receipt binds (`messages.result_bytes`); what `InferenceMarket.fulfil` wants.
        receipt: verified: of this node, this request, these bytes, the node's current key.
        node_id: the node that answered.
    """

    result: bytes
    receipt: SignedReceipt
    node_id: NodeId


def chat_unit(request_id: bytes, payload: bytes) -> WorkUnit:
    """Work unit of a chat request.

    Args:
        request_id: 32 bytes.
        payload: UTF-8 JSON body of an OpenAI chat request, not streamed.

    Raises:
        SkipError: the payload is no such request, so that no node could ever serve it.
    """
    request = parse(Kind.CHAT, payload)
    if request.stream:
        raise InvalidRequestError("an on-chain request cannot be streamed", "stream")
    wants, cost = Requirements(request.model), request.cost
    return WorkUnit(request_id, wants, "chain", Priority.STANDARD, cost, request.timing_class)


class _NoSink:
    def write(self, data: bytes) -> bool:
        return True

    async def drain(self) -> None:
        return None


class BlockingDispatcher:
    """Dispatches whole requests to the nodes whose heartbeats the keeper's API stores in Redis.

    What one call learns of a node (breakers, latency) serves the later calls of the same process.
    """

    def __init__(
        self,
        *,
        fleet_store: FleetStore,
        sign: SignMessage,
        recover: Recover,
        key_of: Callable[[NodeId], str | None],
        nodes_domain: SigningDomain,
        market_domain: SigningDomain,
        now_ms: Callable[[], int],
        regions: Sequence[str] = (),
        queue_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        entropy: Callable[[], int] = lambda: secrets.randbits(64),
    ) -> None:
        """
        Args:
            sign: of a key that a bonded keeper has listed as gateway.
            key_of: a node's current key address, or None.
            now_ms: Unix milliseconds.
        """
        self._store = fleet_store
        self._ticket = TicketSigner(nodes_domain, sign, now_ms)
        self._verifier = ReceiptVerifier(
            market_domain, recover, lambda node_id: [key for key in (key_of(node_id),) if key is not None]
        )
        self._clock = clock
        # As long as FleetStore keeps a report (ADR 0004).
        self._fleet = Fleet(silence_seconds=10.0)
        self._router = Router(
            self._fleet, tuple(regions), clock, entropy, RouterLimits(queue_seconds=queue_seconds)
        )
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dispatcher: Dispatcher | None = None
        self._upstream: HttpUpstream | None = None
        self._worker: threading.Thread | None = None
        self._pid = 0

    def dispatch(self, unit: WorkUnit, payload: bytes, timeout_seconds: float = 120.0) -> DispatchedAnswer:
        """Get an answer from some capable node.

        Raises:
            NoCapacityError: nobody can serve it now, or everybody who could failed; try again later (transient).
            CallerError: a node refused the payload for its own fault (skip: it would be refused anywhere).
            InvalidRequestError: the payload is no such request (skip).
            TimeoutError: no answer in time.
            redis.RedisError: the fleet cannot be read.
        """
        request = parse(Kind.CHAT, payload)
        nodes = self._store.read_all()
        task = PlainTask(request, payload, unit.request_id, self._verifier)
        trace = RequestTrace(unit.request_id)
        loop, dispatcher = self._running_loop()

        async def run() -> None:
            self._refresh(nodes)
            async with asyncio.timeout(timeout_seconds):
                await dispatcher.run(unit, task, _NoSink(), trace)

        # The timeout inside ends the attempts in order; the one outside only guards against a loop that stands still.
        asyncio.run_coroutine_threadsafe(run(), loop).result(timeout_seconds + 5)
        if task.receipt is None or trace.node_id is None:
            raise NodeError(FaultKind.BAD_RECEIPT, "the answer came without a receipt")
        return DispatchedAnswer(task.result(), task.receipt, trace.node_id)

    def _refresh(self, nodes: list[tuple[NodeReport, float]]) -> None:
        now = self._clock()
        for report, age in nodes:
            known = self._fleet.get(report.node_id)
            # The age of one report, computed anew, differs by milliseconds; that is no news.
            if known is None or now - age > known.seen_at + 0.05:
                self._fleet.update(report, now - age)
        self._fleet.expire(now)

    def _running_loop(self) -> tuple[asyncio.AbstractEventLoop, Dispatcher]:
        """The event loop and the dispatcher in it, in a thread of this process; made anew after a fork."""
        with self._lock:
            if self._loop is None or self._dispatcher is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self._loop = asyncio.new_event_loop()
                self._upstream = HttpUpstream(self._ticket)
                self._dispatcher = Dispatcher(
                    self._router, self._upstream, max_attempts=MAX_ATTEMPTS, record_decisions=False
                )
                self._worker = threading.Thread(target=self._loop.run_forever, name="dispatch", daemon=True)
                self._worker.start()
            return self._loop, self._dispatcher

    def close(self) -> None:
        """Close all connections and end the thread."""
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is None or self._pid != os.getpid() or self._worker is None or self._upstream is None:
                return
            loop.call_soon_threadsafe(self._upstream.close)
            # A turn of the loop later: the transports that `close` ends call back in the next one.
            loop.call_soon_threadsafe(loop.call_soon, loop.stop)
            self._worker.join(5)
            loop.close()
