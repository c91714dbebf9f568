"""A request for work, from its admission to the record of what became of it."""

import asyncio
from collections import deque

from offchain.dispatch.dispatcher import DeliveredAnswer
from offchain.dispatch.task import Sink
from offchain.domain.types import NodeId
from offchain.gateway.dependencies import GatewayDependencies
from offchain.gateway.errors import (
    ApiError,
    from_caller_fault,
    from_invalid,
    from_no_capacity,
    from_quota,
)
from offchain.gateway.records.request_log import RequestRecord
from offchain.gateway.tenants.registry import Tenant
from offchain.protocol import headers as header_names
from offchain.protocol.openai_errors import error_body
from offchain.protocol.server_sent_events import write_event
from offchain.scheduler.quotas import QuotaExceededError
from offchain.scheduler.work import (
    Attempt,
    CallerError,
    NoCapacityError,
    NotResumableError,
    RequestTrace,
    Requirements,
    WorkUnit,
)
from offchain.transport.server import Request, ServerConnection
from offchain.workloads.inference.request import InferenceRequest, InvalidRequestError, Kind, parse
from offchain.workloads.inference.stream import StreamTask
from offchain.workloads.inference.whole_answer import PlainTask

SETTLE_SECONDS = 0.001
MAX_UNSETTLED = 8
"""Receipts are checked in less time one after another than each between other work; nobody waits for them meanwhile."""


class _StreamSink:
    """Writes a stream to the client; the answer's head goes out with the first bytes, so that errors before them still
    have a status of their own."""

    __slots__ = ("_connection", "_request_id", "_trail")

    def __init__(self, connection: ServerConnection, request_id: bytes, trail: RequestTrace) -> None:
        self._connection = connection
        self._request_id = request_id
        self._trail = trail

    def write(self, data: bytes) -> bool:
        if not self._connection.started:
            self._connection.begin(
                200,
                {
                    "content-type": "text/event-stream; charset=utf-8",
                    "cache-control": "no-cache",
                    "x-accel-buffering": "no",
                    "x-request-id": "0x" + self._request_id.hex(),
                    header_names.NODE: str(self._trail.node_id),
                },
            )
        return self._connection.write(data)

    async def drain(self) -> None:
        await self._connection.drain()


class _WholeSink:
    """Writes a whole answer, its head included, to the client."""

    __slots__ = ("_connection", "_request_id", "_task", "_trail")

    def __init__(
        self, connection: ServerConnection, request_id: bytes, trail: RequestTrace, task: PlainTask
    ) -> None:
        self._connection = connection
        self._request_id = request_id
        self._trail = trail
        self._task = task

    def write(self, data: bytes) -> bool:
        headers = {
            "content-type": "application/json",
            "x-request-id": "0x" + self._request_id.hex(),
            header_names.NODE: str(self._trail.node_id),
        }
        if self._task.receipt_header is not None:
            headers[header_names.RECEIPT] = self._task.receipt_header
        self._connection.reply(200, headers, data)
        return True

    async def drain(self) -> None:
        return None


class _Ended:
    """A request that has ended, or is about to.

    Attributes:
        status: that went out; 499 when the caller left or an error became its answer.
        answered, task: of an answer.
    """

    __slots__ = ("answered", "cost", "entry", "kind", "status", "task")

    def __init__(self, kind: Kind, cost: int, entry: RequestRecord) -> None:
        self.kind = kind
        self.cost = cost
        self.entry = entry
        self.status = 499
        self.answered: DeliveredAnswer | None = None
        self.task: PlainTask | StreamTask | None = None


_EMBEDDING = Kind.EMBEDDING
_NO_HEADERS: dict[str, str] = {}


class Inference:
    """The endpoints that carry work to nodes."""

    def __init__(self, parts: GatewayDependencies) -> None:
        self._p = parts
        self._over: deque[_Ended] = deque()
        self._later: asyncio.Handle | None = None
        parts.engine.on_attempt = self._count_attempt

    async def answer(
        self, kind: Kind, request: Request, connection: ServerConnection, tenant: Tenant
    ) -> None:
        """Answer one request for work. Raises ApiError while nothing was sent yet."""
        parts = self._p
        began = parts.clock()
        try:
            work = parse(kind, request.body)
        except InvalidRequestError as invalid:
            raise from_invalid(invalid) from None
        cost, node_id = work.cost, _pinned(request)
        try:
            parts.quotas.admit(tenant.name, tenant.limits, cost)
        except QuotaExceededError as exceeded:
            raise from_quota(exceeded) from None
        headers = _NO_HEADERS
        if kind is not _EMBEDDING:
            # beside the body and not in it: the node's receipt binds the caller's own bytes
            headers = {
                header_names.CACHE_SALT: parts.keys.salt_of(tenant.name, work.fields.get("cache_salt"))
            }
        request_id = parts.new_id()
        unit = WorkUnit(
            request_id,
            Requirements(work.model, extent=work.max_tokens or 0, node_id=node_id),
            tenant.name,
            tenant.limits.priority,
            cost,
            work.timing_class,
            work.affinity(tenant.name),
        )
        if self._over and not parts.engine.running:
            self._settle_at(0.0)  # as soon as this request is on its way: its node is waited for anyway
        trail = RequestTrace(request_id)
        entry = RequestRecord(trail, tenant.name, work.model, parts.now_ms(), status="cancelled")
        parts.book.open(entry)
        ended = _Ended(kind, cost, entry)
        try:
            await self._run(work, headers, unit, ended, connection)
        except ApiError as refusal:
            entry.status = "refused" if refusal.status < 429 else "failed"
            refusal.headers.setdefault("x-request-id", "0x" + request_id.hex())
            raise
        finally:
            entry.total_ms = (parts.clock() - began) * 1000
            parts.quotas.leave(tenant.name)
            self._over.append(ended)
            self._settle_soon()

    def _settle_soon(self) -> None:
        """Have what has ended settled, several at once, shortly: the next request of the same caller goes first."""
        if len(self._over) >= MAX_UNSETTLED:
            self._settle_at(0.0)
        elif self._later is None:
            self._settle_at(SETTLE_SECONDS)

    def _settle_at(self, seconds: float) -> None:
        if self._later is not None:
            self._later.cancel()
        loop = asyncio.get_running_loop()
        self._later = loop.call_later(seconds, self.settle) if seconds else loop.call_soon(self.settle)

    def settle(self) -> None:
        """Check, count and record all that has ended. Whoever reads what follows from it calls this first."""
        if self._later is not None:
            self._later.cancel()
            self._later = None
        try:
            while self._over:
                self._settle(self._over.popleft())
        finally:
            if self._over:  # one that raises takes no other along
                self._settle_soon()

    def _settle(self, ended: "_Ended") -> None:
        parts, entry = self._p, ended.entry
        if ended.answered is not None:
            parts.engine.settle(ended.answered)
        if ended.task is not None:
            self._take(entry, ended.task)
        parts.metrics.seconds.observe(entry.total_ms / 1000)
        if ended.status != 499 or entry.status == "cancelled":
            parts.metrics.requests[ended.kind, ended.status] += 1
        parts.quotas.settle(entry.tenant, ended.cost, sum(entry.usage))
        record = parts.book.close(entry)
        if parts.shared is not None:
            parts.shared.finished(entry, record)
        if entry.receipt is not None:
            parts.executions.add(entry.receipt)
        parts.metrics.prompt_tokens += entry.usage[0]
        parts.metrics.completion_tokens += entry.usage[1]

    async def _run(
        self,
        work: InferenceRequest,
        sent: dict[str, str],
        unit: WorkUnit,
        ended: "_Ended",
        connection: ServerConnection,
    ) -> None:
        """See a request through. Raises ApiError while nothing was sent yet."""
        parts, entry = self._p, ended.entry
        task: StreamTask | PlainTask
        sink: Sink
        if work.stream:
            task = StreamTask(
                work,
                work.body,
                unit.request_id,
                parts.receipts,
                lambda node_id: self._context_length(node_id, work.model),
                parts.first_byte_seconds,
                headers=sent,
            )
            sink = _StreamSink(connection, unit.request_id, entry.trail)
        else:
            task = PlainTask(
                work, work.body, unit.request_id, parts.receipts, headers=sent, proved=parts.proved
            )
            sink = _WholeSink(connection, unit.request_id, entry.trail, task)
        try:
            ended.answered = await parts.engine.answer(unit, task, sink, entry.trail)
        except (CallerError, NoCapacityError, NotResumableError) as error:
            if not connection.started:
                raise self._refusal(work, error) from None
            entry.status = "failed"
            connection.write(write_event(_last_event(error)))
            connection.finish()
            ended.status = 200
            return
        if isinstance(task, StreamTask):
            connection.finish()
        entry.status = "answered"
        ended.status, ended.task = 200, task

    def _take(self, entry: RequestRecord, task: PlainTask | StreamTask) -> None:
        """Into the record what the answer was."""
        entry.usage = task.usage
        if task.receipt is not None:
            entry.receipt, entry.raw_receipt = task.receipt, task.raw_receipt
        attempts = entry.trail.attempts
        node = self._p.fleet.get(attempts[-1].node_id) if attempts else None
        if node is not None and (offer := node.report.offers.get(entry.model)) is not None:
            entry.revision = offer.revision

    def _context_length(self, node_id: NodeId, model: str) -> int | None:
        node = self._p.fleet.get(node_id)
        offer = None if node is None else node.report.offers.get(model)
        return None if offer is None else offer.extent

    def _refusal(
        self, work: InferenceRequest, error: CallerError | NoCapacityError | NotResumableError
    ) -> ApiError:
        """Why there is no answer: the caller's fault also when no node's context is as long as the answer may be."""
        if isinstance(error, CallerError):
            return from_caller_fault(error)
        if isinstance(error, NotResumableError):
            return ApiError(503, str(error), "server_error", code="stream_interrupted")
        nodes = self._p.fleet.capable(work.model).values()
        longest = max((node.report.offers[work.model].extent for node in nodes), default=0)
        if not longest or (work.max_tokens or 0) <= longest:
            return from_no_capacity(error)
        return ApiError(
            400,
            f"This model's maximum context length is {longest} tokens; max_tokens asks for {work.max_tokens}. Ask for fewer.",
            param="max_tokens",
            code="context_length_exceeded",
        )

    def _count_attempt(self, unit: WorkUnit, attempt: Attempt) -> None:
        metrics = self._p.metrics
        metrics.attempts[attempt.outcome, attempt.reason] += 1
        if attempt.first_byte_ms is not None:
            metrics.first_byte_seconds.observe(attempt.first_byte_ms / 1000)


def _last_event(error: CallerError | NoCapacityError | NotResumableError) -> bytes:
    """What ends a stream that cannot go on."""
    if isinstance(error, CallerError):
        return from_caller_fault(error).body
    return error_body(f"the answer was interrupted: {error}", "server_error", code="stream_interrupted")


def _pinned(request: Request) -> NodeId | None:
    text = request.headers.get(header_names.NODE)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        raise ApiError(
            400, "X-Parallelix-Node must be a node id", param=header_names.NODE, code="invalid_header"
        )
    return NodeId(int(text))
