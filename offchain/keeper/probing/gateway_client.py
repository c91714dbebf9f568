"""Sends probes to a gateway as any requester would, for one named node, and tells whether the gateway or the node failed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, Self

import aiohttp
import orjson

from offchain.domain.answer_text import StreamedAnswer
from offchain.domain.eip712 import hex_bytes
from offchain.domain.types import NodeId
from offchain.protocol import headers as header_names
from offchain.protocol.receipts import decode_header
from offchain.protocol.server_sent_events import CONTENT_TYPE, DONE, EventSplitter, read_event

REQUEST_ID_HEADER = "X-Request-Id"
NODE_UNAVAILABLE = "node_unavailable"
_HEALTH_SECONDS = 1.0
_MAX_ANSWER_BYTES = 1 << 20
_RECEIPT_TRIES, _RECEIPT_PAUSE_SECONDS = 10, 0.05
"""The gateway writes a stream's record a moment after the stream has ended."""
_BUSY_REASONS = frozenset({"no_slot", "busy", "full"})


class ReplyKind(StrEnum):
    """What a reply says about the node."""

    ANSWER = "answer"
    NODE_FAILED = "node_failed"
    """The gateway says that the node could not be reached, failed, or is not known to be alive."""
    TIMED_OUT = "timed_out"
    """No answer in time, though the gateway itself answers."""
    GATEWAY_FAILED = "gateway_failed"
    """The gateway failed, or refused for reasons of its own; the reply says nothing about the node."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A gateway's reply.

    Attributes:
        request_id: 32 bytes, empty when there is none.
        answer: decoded body of an answer.
        envelope: decoded receipt envelope, None when the header is missing or malformed.
        elapsed_ms: as this keeper measured it.
        first_token_ms: time to the first piece of text of a streamed answer, None for a whole one.
        detail: for logs.
    """

    kind: ReplyKind
    elapsed_ms: int
    request_id: bytes = b""
    answer: Any = None
    envelope: Any = None
    detail: str = ""
    first_token_ms: int | None = None


class Asker(Protocol):
    """Sends one request to one node. `GatewayClient` does it over HTTP; tests script the replies."""

    async def ask(self, node: NodeId, body: bytes) -> Reply:
        """Send one chat request to one node; a body with `stream` is read as a stream."""


class GatewayClient:
    """One pooled connection to a gateway; use as an async context manager.

    Args:
        url: base URL.
        api_key: this keeper's key at the gateway; never logged.
        timeout_seconds: for one whole request.
    """

    def __init__(self, url: str, api_key: str, timeout_seconds: float) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        self._timeout = timeout_seconds
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # No timeout here: each request has its own, which covers all of the exchange.
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=128))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(self, node: NodeId, body: bytes) -> Reply:
        loop = asyncio.get_running_loop()
        # Monotonic: a step of the wall clock must not look like a slow node.
        began = loop.time()

        def elapsed() -> int:
            return int((loop.time() - began) * 1000)

        status = 0
        try:
            # With the gateway's ticket: a node must not tell a probe by its ticket (ADR 0004).
            async with self._open().post(
                f"{self._url}/v1/chat/completions",
                data=body,
                headers={**self._headers, header_names.NODE: str(node)},
                timeout=aiohttp.ClientTimeout(total=self._timeout),
            ) as response:
                status, headers = response.status, response.headers
                streamed = status == 200 and headers.get("Content-Type", "").startswith(CONTENT_TYPE)
                stream = await _Stream().read(response, elapsed) if streamed else None
                raw = b"" if streamed else await read_body(response)
        except TimeoutError:  # is it the node or the gateway that hangs?
            if await self._get("/health") is not None:
                return Reply(ReplyKind.TIMED_OUT, elapsed())
            return Reply(ReplyKind.GATEWAY_FAILED, elapsed(), detail="no answer, nor from /health")
        # Only the connection to the gateway broke; the node behind it may be well.
        except (aiohttp.ClientError, OSError) as error:
            return Reply(ReplyKind.GATEWAY_FAILED, elapsed(), detail=type(error).__name__)
        except ValueError as error:  # the node wrote it; were it an abstention, nonsense would count as up
            kind = ReplyKind.NODE_FAILED if status == 200 else ReplyKind.GATEWAY_FAILED
            return Reply(kind, elapsed(), detail=str(error))
        took = elapsed()
        request_id = _request_id(headers.get(REQUEST_ID_HEADER, ""))
        if stream is not None:
            return await self._streamed(stream, request_id, took)
        data = _json(raw)
        if status == 200:
            envelope = decode_envelope(headers.get(header_names.RECEIPT, ""))
            return Reply(ReplyKind.ANSWER, took, request_id, data, envelope)
        code = error_code(data)
        if status == 503 and code == NODE_UNAVAILABLE:
            if await self._was_busy(headers.get(REQUEST_ID_HEADER, "")):
                return Reply(ReplyKind.GATEWAY_FAILED, took, request_id, detail="the node's slots are taken")
            return Reply(ReplyKind.NODE_FAILED, took, request_id, detail=code)
        return Reply(ReplyKind.GATEWAY_FAILED, took, request_id, detail=f"HTTP {status} {code}")

    async def _streamed(self, stream: "_Stream", request_id: bytes, took: int) -> Reply:
        """The reply of a stream that was read. Streams carry no receipt, so the gateway is asked for its record of it."""
        if stream.error:
            return Reply(ReplyKind.NODE_FAILED, took, request_id, detail=stream.error)
        # Neither an end nor an error event: the gateway itself went away.
        if not stream.done:
            return Reply(ReplyKind.GATEWAY_FAILED, took, request_id, detail="the stream has no end")
        for _ in range(_RECEIPT_TRIES):
            record = await self._record("0x" + request_id.hex())
            if record is not None and record.get("status") == "answered":
                break
            await asyncio.sleep(_RECEIPT_PAUSE_SECONDS)
        else:
            return Reply(ReplyKind.GATEWAY_FAILED, took, request_id, detail="no record of the request")
        try:
            texts = stream.answer.texts()
        except ValueError as error:
            return Reply(ReplyKind.NODE_FAILED, took, request_id, detail=str(error))
        choices = [{"index": i, "text": text} for i, text in enumerate(texts)]
        return Reply(
            ReplyKind.ANSWER,
            took,
            request_id,
            {"choices": choices},
            record.get("receipt"),
            first_token_ms=took if stream.first_token_ms is None else stream.first_token_ms,
        )

    async def _was_busy(self, request_id: str) -> bool:
        """Whether the gateway found no free slot on the node, which is no failure of the node."""
        data = await self._record(request_id)
        attempts = None if data is None else data.get("attempts")
        if not isinstance(attempts, list) or not attempts:
            return False
        reasons = {str(item.get("reason")) for item in attempts if isinstance(item, dict)}
        return bool(reasons & _BUSY_REASONS)

    async def _record(self, request_id: str) -> dict[str, Any] | None:
        """The gateway's record of a request, None when it cannot be had."""
        data = _json(await self._get(f"/v1/receipts/{request_id}", self._headers) or b"")
        return data if isinstance(data, dict) else None

    async def _get(self, path: str, headers: dict[str, str] | None = None) -> bytes | None:
        timeout = aiohttp.ClientTimeout(total=_HEALTH_SECONDS)
        try:
            async with self._open().get(self._url + path, headers=headers, timeout=timeout) as response:
                return await read_body(response) if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("use GatewayClient as an async context manager")
        return self._session


class _Stream:
    """Reads a streamed answer and measures when its first text came.

    Attributes:
        error: the gateway's error code when the answer broke off, else empty.
        done: the stream's end marker came.
    """

    def __init__(self) -> None:
        self.answer = StreamedAnswer()
        self.first_token_ms: int | None = None
        self.error = ""
        self.done = False

    async def read(self, response: aiohttp.ClientResponse, elapsed: Callable[[], int]) -> Self:
        """Read to the end. Raises ValueError when this is no stream of chunks, or too long."""
        events = EventSplitter()
        async for piece in _bounded(response):
            for block in events.feed(piece):
                self._take(read_event(block)[1], elapsed)
        return self

    def _take(self, payload: bytes, elapsed: Callable[[], int]) -> None:
        if payload == DONE:
            self.done = True
        elif payload:
            chunk = orjson.loads(payload)
            self.answer.add(chunk)
            if chunk.get("error"):
                self.error = error_code(chunk) or "interrupted"
            elif self.first_token_ms is None and self.answer.begun:
                self.first_token_ms = elapsed()


async def read_body(response: aiohttp.ClientResponse) -> bytes:
    """The whole body. Raises ValueError when it is longer than 1 MiB."""
    return b"".join([piece async for piece in _bounded(response)])


async def _bounded(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    size = 0
    async for piece in response.content.iter_any():
        size += len(piece)  # after decompression, so a small gzip cannot fill the memory
        if size > _MAX_ANSWER_BYTES:
            raise ValueError("the answer is too large")
        yield piece


def decode_envelope(header: str) -> Any:
    """The receipt envelope in a header's base64url, None when the header is malformed."""
    try:
        return _json(decode_header(header))
    except ValueError:
        return None


def error_code(data: Any) -> str:
    """`code` or `type` of an OpenAI error body."""
    error = data.get("error") if isinstance(data, dict) else None
    if not isinstance(error, dict):
        return ""
    return str(error.get("code") or error.get("type") or "")


def _request_id(text: str) -> bytes:
    try:
        return hex_bytes(text, 32)
    except ValueError:
        return b""


def _json(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except ValueError:
        return None
