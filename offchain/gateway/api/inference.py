"""A request for inference, from its admission to its record in the request log.

::

    parse, quotas --> dispatcher.answer --> answer is out ==> caller
                                                 |
                                                 +-- up to 8 requests or 1 ms later: check receipts, count, record
"""

import asyncio
from collections import deque

from offchain.dispatch.dispatcher import DeliveredAnswer
from offchain.dispatch.task import Sink
from offchain.domain.types import NodeId
from offchain.gateway.dependencies import GatewayDependencies
from offchain.gateway.errors import ApiError, from_caller_fault, from_no_capacity, from_quota, unavailable
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

VERIFY_DELAY_SECONDS = 0.001
MAX_UNVERIFIED = 8
"""Checking receipts in a batch is cheaper than one by one between requests (warm caches). No caller waits for this check."""


class _StreamSink:
    """Writes a stream to the caller. The answer's head goes out with its first bytes: an error before that still gets a
    status of its own."""

    __slots__ = ("_connection", "_request_id", "_trace")

    def __init__(self, connection: ServerConnection, request_id: bytes, trace: RequestTrace) -> None:
        self._connection = connection
        self._request_id = request_id
        self._trace = trace

    def write(self, data: bytes) -> bool:
        if not self._connection.started:
            headers = {
                "content-type": "text/event-stream; charset=utf-8",
                "cache-control": "no-cache",
                "x-accel-buffering": "no",  # nginx would hold events back
                "x-request-id": "0x" + self._request_id.hex(),
                header_names.NODE: str(self._trace.node_id),
            }
            self._connection.begin(200, headers)
        return self._connection.write(data)

    async def drain(self) -> None:
        await self._connection.drain()


class _WholeSink:
    """Writes the head and the body of a whole answer to the caller."""

    __slots__ = ("_connection", "_request_id", "_task", "_trace")

    def __init__(
        self, connection: ServerConnection, request_id: bytes, trace: RequestTrace, task: PlainTask
    ) -> None:
        self._connection = connection
        self._request_id = request_id
        self._trace = trace
        self._task = task

    def write(self, data: bytes) -> bool:
        headers = {
            "content-type": "application/json",
            "x-request-id": "0x" + self._request_id.hex(),
            header_names.NODE: str(self._trace.node_id),
        }
        if self._task.receipt_header is not None:
            headers[header_names.RECEIPT] = self._task.receipt_header
        self._connection.reply(200, headers, data)
        return True

    async def drain(self) -> None:
        return None


class _Ended:
    """A request that has ended or is about to end, and waits for its check and its record.

    Attributes:
        status: HTTP status that the caller got; 499 when the caller left, or an error was the answer.
        answered, task: the answer and what made it; None when there is none.
    """

    __slots__ = ("answered", "cost", "kind", "record", "status", "task")

    def __init__(self, kind: Kind, cost: int, record: RequestRecord) -> None:
        self.kind = kind
        self.cost = cost
        self.record = record
        self.status = 499
        self.answered: DeliveredAnswer | None = None
        self.task: PlainTask | StreamTask | None = None


_EMBEDDING = Kind.EMBEDDING
_NO_HEADERS: dict[str, str] = {}


class Inference:
    """The endpoints that nodes answer: chat, completions, embeddings."""

    def __init__(self, deps: GatewayDependencies) -> None:
        self._deps = deps
        self._ended: deque[_Ended] = deque()
        self._later: asyncio.Handle | None = None  # the one pending call of `verify_and_record`
        deps.dispatcher.on_attempt = self._count_attempt

    async def answer(
        self, kind: Kind, request: Request, connection: ServerConnection, tenant: Tenant
    ) -> None:
        """Answer one request for inference. Raises ApiError as long as nothing was sent to the caller."""
        deps = self._deps
        began = deps.clock()
        try:
            work = parse(kind, request.body)
        except InvalidRequestError as invalid:
            raise ApiError(invalid.status, str(invalid), param=invalid.param, code=invalid.code) from None
        cost, node_id = work.cost, _pinned(request)
        try:
            deps.quotas.admit(tenant.name, tenant.limits, cost)
        except QuotaExceededError as exceeded:
            raise from_quota(exceeded) from None
        headers = _NO_HEADERS
        if kind is not _EMBEDDING:
            # a header, not a field of the body: the node's receipt binds the bytes that the caller sent
            salt = deps.authenticator.salt_of(tenant.name, work.fields.get("cache_salt"))
            headers = {header_names.CACHE_SALT: salt}
        request_id = deps.new_id()
        unit = WorkUnit(
            request_id,
            Requirements(work.model, context_size=work.max_tokens or 0, node_id=node_id),
            tenant.name,
            tenant.limits.priority,
            cost,
            work.timing_class,
            work.affinity(tenant.name),
        )
        if self._ended and not deps.dispatcher.running:
            self._verify_at(0.0)  # runs as soon as this request is sent, while its node works
        trace = RequestTrace(request_id)
        record = RequestRecord(trace, tenant.name, work.model, deps.now_ms(), status="cancelled")
        deps.request_log.open(record)
        ended = _Ended(kind, cost, record)
        try:
            await self._run(work, headers, unit, ended, connection)
        except ApiError as refusal:
            record.status = "refused" if refusal.status < 429 else "failed"
            refusal.headers.setdefault("x-request-id", "0x" + request_id.hex())
            raise
        finally:
            record.total_ms = (deps.clock() - began) * 1000
            deps.quotas.leave(tenant.name)
            self._ended.append(ended)
            self._verify_soon()

    def _verify_soon(self) -> None:
        """Have ended requests checked and recorded within 1 ms, several at once: the caller's next request goes first."""
        if len(self._ended) >= MAX_UNVERIFIED:
            self._verify_at(0.0)
        elif self._later is None:
            self._verify_at(VERIFY_DELAY_SECONDS)

    def _verify_at(self, seconds: float) -> None:
        if self._later is not None:
            self._later.cancel()
        loop = asyncio.get_running_loop()
        self._later = (
            loop.call_later(seconds, self.verify_and_record)
            if seconds
            else loop.call_soon(self.verify_and_record)
        )

    def verify_and_record(self) -> None:
        """Check, count and record every request that has ended.

        Call this before reading counters, credit or execution records: finished requests appear in them only afterwards.
        """
        if self._later is not None:
            self._later.cancel()
            self._later = None
        try:
            while self._ended:
                self._verify_and_record(self._ended.popleft())
        finally:
            if self._ended:  # one request whose check raises must not keep the others unrecorded
                self._verify_soon()

    def _verify_and_record(self, ended: "_Ended") -> None:
        deps, record = self._deps, ended.record
        if ended.answered is not None:
            deps.dispatcher.verify_and_record(ended.answered)
        if ended.task is not None:
            self._take(record, ended.task)
        deps.metrics.seconds.observe(record.total_ms / 1000)
        # an ApiError leaves 499 here: `GatewayService.handle` counts it with its own status
        if ended.status != 499 or record.status == "cancelled":
            deps.metrics.requests[ended.kind, ended.status] += 1
        deps.quotas.correct(record.tenant, ended.cost, sum(record.usage))
        packed = deps.request_log.close(record)
        if deps.cluster is not None:
            deps.cluster.finished(record, packed)
        if record.receipt is not None:
            deps.executions.add(record.receipt)
        deps.metrics.prompt_tokens += record.usage[0]
        deps.metrics.completion_tokens += record.usage[1]

    async def _run(
        self,
        work: InferenceRequest,
        sent: dict[str, str],
        unit: WorkUnit,
        ended: "_Ended",
        connection: ServerConnection,
    ) -> None:
        """Dispatch a request until its answer is out. Raises ApiError as long as nothing was sent to the caller."""
        deps, record = self._deps, ended.record
        task: StreamTask | PlainTask
        sink: Sink
        if work.stream:
            task = StreamTask(
                work,
                work.body,
                unit.request_id,
                deps.receipts,
                lambda node_id: self._context_length(node_id, work.model),
                deps.first_byte_seconds,
                headers=sent,
            )
            sink = _StreamSink(connection, unit.request_id, record.trace)
        else:
            task = PlainTask(
                work, work.body, unit.request_id, deps.receipts, headers=sent, proved=deps.proved
            )
            sink = _WholeSink(connection, unit.request_id, record.trace, task)
        try:
            ended.answered = await deps.dispatcher.answer(unit, task, sink, record.trace)
        except (CallerError, NoCapacityError, NotResumableError) as error:
            if not connection.started:
                raise self._refusal(work, error) from None
            record.status = "failed"
            connection.write(write_event(_last_event(error)))
            connection.finish()
            ended.status = 200
            return
        if isinstance(task, StreamTask):
            connection.finish()
        record.status = "answered"
        ended.status, ended.task = 200, task

    def _take(self, record: RequestRecord, task: PlainTask | StreamTask) -> None:
        """Copy usage, receipt and model revision of an answer into its record."""
        record.usage = task.usage
        if task.receipt is not None:
            record.receipt, record.raw_receipt = task.receipt, task.raw_receipt
        attempts = record.trace.attempts
        node = self._deps.fleet.get(attempts[-1].node_id) if attempts else None
        if node is not None and (offer := node.report.offers.get(record.model)) is not None:
            record.revision = offer.revision

    def _context_length(self, node_id: NodeId, model: str) -> int | None:
        node = self._deps.fleet.get(node_id)
        offer = None if node is None else node.report.offers.get(model)
        return None if offer is None else offer.context_size

    def _refusal(
        self, work: InferenceRequest, error: CallerError | NoCapacityError | NotResumableError
    ) -> ApiError:
        """The error for a request without an answer. It is the caller's fault, too, when `max_tokens` exceeds every node's context."""
        if isinstance(error, CallerError):
            return from_caller_fault(error)
        if isinstance(error, NotResumableError):
            return unavailable(str(error), "stream_interrupted")
        nodes = self._deps.fleet.capable(work.model).values()
        longest = max((node.report.offers[work.model].context_size for node in nodes), default=0)
        if not longest or (work.max_tokens or 0) <= longest:
            return from_no_capacity(error)
        asked = f"max_tokens asks for {work.max_tokens}. Ask for fewer."
        message = f"This model's maximum context length is {longest} tokens; {asked}"
        return ApiError(400, message, param="max_tokens", code="context_length_exceeded")

    def _count_attempt(self, unit: WorkUnit, attempt: Attempt) -> None:
        metrics = self._deps.metrics
        metrics.attempts[attempt.outcome, attempt.reason] += 1
        if attempt.first_byte_ms is not None:
            metrics.first_byte_seconds.observe(attempt.first_byte_ms / 1000)


def _last_event(error: CallerError | NoCapacityError | NotResumableError) -> bytes:
    """Data of the error event that ends a stream which cannot go on."""
    if isinstance(error, CallerError):
        return from_caller_fault(error).body
    return error_body(f"the answer was interrupted: {error}", "server_error", code="stream_interrupted")


def _pinned(request: Request) -> NodeId | None:
    text = request.headers.get(header_names.NODE)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        message = "X-Parallelix-Node must be a node id"
        raise ApiError(400, message, param=header_names.NODE, code="invalid_header")
    return NodeId(int(text))
