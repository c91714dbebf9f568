"""Between a gateway and the model server: passes each answer on as it comes and signs a receipt for it.

::

    gateway --body--> agent --body + token ids, usage--> model server
    gateway <--frame-- agent <--frame-- model server        each frame at once, none kept back
    gateway <--receipt-- agent                              then `data: [DONE]`

An answer that breaks off gets no receipt and no `[DONE]`: the connection is cut, so that no client takes the answer for whole.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from offchain.domain.answer_text import StreamedAnswer, answer_result, tokens_of
from offchain.node.agent.receipts import ReceiptMaker, ServedAnswer
from offchain.node.agent.tickets import Admission
from offchain.node.engines.backend import Backend
from offchain.node.engines.model_server import Engine
from offchain.node.errors import ServeError
from offchain.protocol import headers as header_names
from offchain.protocol.receipts import encode_header
from offchain.protocol.server_sent_events import (
    DONE,
    DONE_EVENT,
    RECEIPT,
    EventSplitter,
    read_event,
    write_event,
)
from offchain.transport.errors import TransportError
from offchain.transport.pool import HostPool, HttpExchange
from offchain.transport.server import Request, ServerConnection

COMPLETION_PATHS = ("/v1/chat/completions", "/v1/completions")
EMBEDDING_PATH = "/v1/embeddings"
_MAX_FRAME_BYTES = 4 * 1024 * 1024
_MAX_ANSWER_BYTES = 64 * 1024 * 1024
_STREAM_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


@dataclass(slots=True)
class ServedCounts:
    """Counts of one answer, for metrics and the log. `status` is the HTTP status that the gateway got."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    whole: bool = False
    status: int = 200


@dataclass
class Proxy:
    """Forwards admitted requests over pooled connections to the model servers."""

    backends: Mapping[str, Backend]
    receipts: ReceiptMaker
    now_ms: Callable[[], int]
    _pools: dict[str, HostPool] = field(default_factory=dict, init=False)

    async def serve(
        self, request: Request, connection: ServerConnection, admission: Admission
    ) -> ServedCounts:
        """Answer one admitted request.

        Raises:
            ServeError: the body is malformed, the node does not serve the model, or its server is down; nothing was sent yet.
        """
        started_at_ms = self.now_ms()
        body = request.body
        fields = _fields(body)
        backend = self.backends.get(str(fields.get("model")))
        if backend is None:
            served_here = ", ".join(self.backends)
            raise ServeError(
                404,
                "model_not_found",
                f"this node does not serve {fields.get('model')!r}; it serves {served_here}",
            )
        completes = request.path in COMPLETION_PATHS
        streaming = fields.get("stream") is True and completes
        wants_usage = True
        ours: dict[str, Any] = {}
        if streaming:
            options = fields.get("stream_options") or {}
            if not isinstance(options, dict):
                raise ServeError(400, "invalid_request_error", "stream_options must be an object")
            wants_usage = options.get("include_usage") is True
            # The receipt needs token counts; a gateway continues a cut stream from the ids (ADR 0009).
            if not wants_usage or fields.get("return_token_ids") is not True:
                ours = {"stream_options": {**options, "include_usage": True}, "return_token_ids": True}
        if completes and (salt := request.headers.get(header_names.CACHE_SALT)) is not None:
            ours["cache_salt"] = salt  # tenants share no prefix cache: its timing would tell of their prompts
        with backend.pick() as engine:
            request_id = admission.ticket.request_id
            exchange = self._send(engine, request.path, _with(body, fields, ours), request_id)
            job = _Job(connection, exchange, admission, backend, started_at_ms)
            return await self._relay(job, streaming=streaming, wants_usage=wants_usage)

    async def _relay(self, job: "_Job", *, streaming: bool, wants_usage: bool) -> ServedCounts:
        exchange = job.exchange
        try:
            await exchange.head()
            if exchange.status != 200:
                return await self._refuse(job)
            if streaming:
                return await self._stream(job, wants_usage=wants_usage)
            return await self._whole(job)
        except TransportError as fault:
            raise ServeError(
                503, "model_down", f"the model server broke off ({fault}); use another node"
            ) from None
        finally:
            # Also when the caller has gone: the model server sees the connection drop and can stop.
            exchange.close()

    def close(self) -> None:
        """Close idle connections to the model servers."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()

    def _send(self, engine: Engine, path: str, body: bytes, request_id: bytes) -> HttpExchange:
        pool = self._pools.get(engine.url)
        if pool is None:
            current = {engine.url for backend in self.backends.values() for engine in backend.engines}
            # A restarted server has another port.
            for url in [url for url in self._pools if url not in current]:
                self._pools.pop(url).close()
            pool = self._pools[engine.url] = HostPool(engine.url, None)
        key = "" if engine.api_key is None else f"authorization: Bearer {engine.api_key}\r\n"
        head = (
            f"POST {pool.prefix}{path} HTTP/1.1\r\nhost: {pool.authority}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {request_id.hex()}\r\n{key}\r\n"
        )
        exchange = HttpExchange(pool, head.encode("latin-1"), body)
        pool.dispatch(exchange)
        return exchange

    async def _refuse(self, job: "_Job") -> ServedCounts:
        """Pass on the model server's own answer to a request that it did not accept, in OpenAI's shape."""
        status = job.exchange.status
        data = await _read_all(job.exchange)
        try:
            shaped = isinstance(orjson.loads(data).get("error"), dict)
        except (ValueError, AttributeError):
            shaped = False
        # A 4xx is about the request and goes to its sender; a 5xx is about this server: another node is asked.
        if status >= 500:
            raise ServeError(503, "model_down", f"the model server answered {status}; use another node")
        if not shaped:
            raise ServeError(status, "invalid_request_error", f"the model server answered {status}")
        # A refusal of the request itself carries no receipt.
        job.connection.reply(status, {"content-type": "application/json"}, data)
        return ServedCounts(status=status)

    async def _whole(self, job: "_Job") -> ServedCounts:
        data = await _read_all(job.exchange)
        try:
            answer = orjson.loads(data)
            # Read before a byte goes out: what makes no sense can still become a 503 and another node.
            result = answer_result(answer)
            usage = answer["usage"]
            served = ServedCounts(int(usage["prompt_tokens"]), tokens_of(usage)[1], True)
        except (ValueError, KeyError, TypeError) as error:
            raise ServeError(
                503, "model_down", f"the model server's answer has no usable shape: {error}"
            ) from None
        receipt = encode_header(self.receipts.make(job.served_answer(result, served)))
        headers = {"content-type": "application/json", header_names.RECEIPT: receipt}
        proof = job.admission.prove(data)
        if proof is not None:
            headers[header_names.PROOF] = proof
        job.connection.reply(200, headers, data)
        return served

    async def _stream(self, job: "_Job", *, wants_usage: bool) -> ServedCounts:
        connection, exchange = job.connection, job.exchange
        # The status is sent with this; no ServeError may follow, so later faults cut the connection.
        connection.begin(200, _STREAM_HEADERS)
        answer = StreamedAnswer()
        served = ServedCounts()
        events = EventSplitter()
        passed_on = partial(self._frame, job, answer=answer, served=served, wants_usage=wants_usage)
        try:
            while not served.whole and (chunk := await exchange.read()):
                out = b"".join(map(passed_on, events.feed(chunk)))
                if out and not connection.write(out):
                    await connection.drain()
                if events.unfinished > _MAX_FRAME_BYTES:
                    break
            while served.whole and await exchange.read():
                pass  # so that the connection can be used again
        except (TransportError, ValueError):
            pass
        if served.whole:
            connection.finish()
        else:
            connection.cut()
        return served

    def _frame(
        self, job: "_Job", frame: bytes, *, answer: StreamedAnswer, served: ServedCounts, wants_usage: bool
    ) -> bytes:
        """What the gateway gets for one frame of the model server."""
        name, payload = read_event(frame)
        # An event without data, such as a comment line, is no part of the answer.
        if not payload:
            return frame + b"\n\n"
        if (data := payload.strip()) != DONE:
            chunk = orjson.loads(data)
            answer.add(chunk)
            # Usage was asked for by us, not by the caller.
            if not wants_usage and not chunk.get("choices") and "error" not in chunk:
                return b""
            # a gateway counts what has no name and begins with a brace, and nothing else
            return frame + b"\n\n" if not name and payload[:1] == b"{" else write_event(data)
        if not answer.finished or answer.prompt_tokens is None:
            raise ValueError("the stream ended before its answer did")
        served.prompt_tokens = answer.prompt_tokens
        served.completion_tokens = answer.completion_tokens or 0
        served.whole = True
        receipt = self.receipts.make(job.served_answer(answer.result(), served))
        return write_event(receipt, RECEIPT) + DONE_EVENT


@dataclass(frozen=True, slots=True)
class _Job:
    connection: ServerConnection
    exchange: HttpExchange
    admission: Admission
    backend: Backend
    started_at_ms: int

    def served_answer(self, result: bytes, served: ServedCounts) -> ServedAnswer:
        return ServedAnswer(
            ticket=self.admission.ticket,
            revision_hash=self.backend.model.revision_hash,
            result=result,
            prompt_tokens=served.prompt_tokens,
            completion_tokens=served.completion_tokens,
            started_at_ms=self.started_at_ms,
        )


async def _read_all(exchange: HttpExchange) -> bytes:
    data = bytearray()
    while chunk := await exchange.read():
        data += chunk
        if len(data) > _MAX_ANSWER_BYTES:
            raise ServeError(503, "model_down", "the model server's answer is too large")
    return bytes(data)


def _with(body: bytes, fields: dict[str, Any], ours: dict[str, Any]) -> bytes:
    """The body with fields of ours. New fields are appended to the bytes: parsing and writing a long prompt costs time.

    Args:
        fields: what `body` holds, at least one.
    """
    if not ours:
        return body
    if ours.keys() & fields.keys():
        return orjson.dumps({**fields, **ours})
    # White space may follow the closing brace (RFC 8259, section 2).
    return b"".join((memoryview(body.rstrip())[:-1], b",", memoryview(orjson.dumps(ours))[1:]))


def _fields(body: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(body)
    except ValueError:
        raise ServeError(400, "invalid_request_error", "the body is not JSON") from None
    if not isinstance(fields, dict):
        raise ServeError(400, "invalid_request_error", "the body is not a JSON object")
    return fields
