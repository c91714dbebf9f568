"""A small, strict HTTP/1.1 server on asyncio: what the hot path needs and nothing else.

Measured on the same handler, it takes a fraction of the CPU of granian and aiohttp a request and a streamed event (docs/adr),
and a handler learns at once that its client has gone. The server refuses what it does not support: absolute or asterisk
targets, folded headers, both `Content-Length` and `Transfer-Encoding`, any transfer coding but chunked. For HTTP/2 put a proxy
in front.

A connection serves one request at a time. Of a second request that is sent early, at most `max_head` bytes are read. Example::

    async def hello(request: Request, connection: ServerConnection) -> None:
        connection.reply(200, {"content-type": "text/plain"}, b"hello")

    server = HttpServer(hello, HttpLimits(), on_error=log.error)
    port = await server.start("127.0.0.1", 0)
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson

from offchain.transport.request_parser import Chunks, Request, RequestRefusedError, parse_head

__all__ = ["Handler", "HttpLimits", "HttpServer", "Request", "ServerConnection"]

_JSON = {"content-type": "application/json"}
_HEAD_END = b"\r\n\r\n"
_NEVER = float("inf")
_UNWIND_SECONDS = 1.0


def _status_line(status: int, phrase: str = "Unknown") -> str:
    return f"HTTP/1.1 {status} {phrase}\r\n"


_STATUS_LINES = {status.value: _status_line(status.value, status.phrase) for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of a server. Times are seconds, sizes bytes.

    Attributes:
        head_seconds: from the first byte of a request to the end of its head (against slow-loris attacks).
        body_seconds: from the end of the head to the end of the body.
        idle_seconds: between two requests of a connection.
        write_seconds: for which a client may read nothing while an answer waits to be sent.
        max_buffered: unsent bytes of an answer from which on `write` returns False.
        max_unfinished: bytes that all incomplete requests together may hold.
    """

    max_head: int = 32 * 1024
    max_headers: int = 100
    max_body: int = 4 * 1024 * 1024
    max_connections: int = 10_000
    max_buffered: int = 256 * 1024
    max_unfinished: int = 256 * 1024 * 1024
    head_seconds: float = 10.0
    body_seconds: float = 60.0
    idle_seconds: float = 75.0
    write_seconds: float = 30.0
    linger_seconds: float = 2.0


Handler = Callable[[Request, "ServerConnection"], Awaitable[None]]

RenderError = Callable[[int, str], bytes]
"""(status, message for the client) -> JSON body."""


def plain_error(status: int, message: str) -> bytes:
    """The default `RenderError`: status and message as a JSON object."""
    return orjson.dumps({"status": status, "error": message})


class HttpServer:
    """Listens and calls a handler with each request; the handler answers through the `ServerConnection`."""

    def __init__(
        self,
        handler: Handler,
        limits: HttpLimits,
        on_error: Callable[[BaseException], None],
        render_error: RenderError = plain_error,
    ) -> None:
        """`render_error` makes the JSON body of the server's own answers, e.g. 408. `on_error` is called with an exception that
        the handler raised; the client gets status 500."""
        self.handler = handler
        self.limits = limits
        self.on_error = on_error
        self.render_error = render_error
        self.connections: set[ServerConnection] = set()
        self.draining = False
        self.unfinished = 0
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._serving = set[asyncio.Task[None]]()

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listen. Returns the port, which the system chooses for port 0. Raises OSError."""
        loop = asyncio.get_running_loop()
        handshake_seconds = None if tls is None else self.limits.head_seconds
        # Any: native code would insist on the tuple that typeshed promises, and uvloop's server has a list of sockets.
        server: Any = await loop.create_server(
            lambda: ServerConnection(self),
            host,
            port,
            ssl=tls,
            ssl_handshake_timeout=handshake_seconds,
            backlog=1024,
        )
        self._server = server
        self._sweep()
        return int(server.sockets[0].getsockname()[1])

    async def stop(self, grace_seconds: float) -> None:
        """Accept nothing new, give running answers `grace_seconds` to end, then cut the rest."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.close_if_idle()
        if self.connections:
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), grace_seconds)
            except TimeoutError:
                for connection in list(self.connections):
                    connection.cut()
        if self._serving:  # handlers of cut connections clean up before this returns
            await asyncio.wait(self._serving, timeout=_UNWIND_SECONDS)
        if self._sweeper is not None:
            self._sweeper.cancel()

    def serve(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a connection's work as a task that `stop` waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        return task

    def left(self, connection: "ServerConnection") -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        if not self.connections:
            self._idle.set()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self.connections):
            if now >= connection.deadline:
                connection.expire()
        self._sweeper = loop.call_later(0.5, self._sweep)


class ServerConnection(asyncio.Protocol):
    """One client connection; a handler answers through it."""

    __slots__ = (
        "_awaited", "_buffer", "_chunked", "_drained", "_held", "_keep", "_loop", "_request", "_server", "_state", "_task", "_unfinished", "_wanted",
        "deadline", "paused", "started", "transport",
    )  # fmt: skip

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._state = "head"  # head, body, busy, linger
        self._request: Request | None = None
        self._wanted = 0
        self._unfinished = 0
        self._chunked: Chunks | None = None
        self._task: asyncio.Task[None] | None = None
        self._awaited: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._keep = True
        self._held = False
        self.paused = False
        self.started = False
        self.transport: asyncio.Transport | None = None
        self.deadline = self._loop.time() + server.limits.head_seconds

    # ------------------------------------------------------------------------------------------- what a handler uses

    def reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole answer."""
        if self.started or self.transport is None:
            return
        self.started = True
        self.transport.write(self._head(status, headers, f"content-length: {len(body)}\r\n") + body)

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Start an answer whose body follows by `write`, and ends by `finish`."""
        if self.started or self.transport is None:
            return
        self.started = True
        self.transport.write(self._head(status, headers, "transfer-encoding: chunked\r\n"))

    def write(self, data: bytes) -> bool:
        """Send a piece of the body. False when `drain` must be awaited before the next one."""
        if self.transport is not None and data:
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return not self.paused

    async def drain(self) -> None:
        """Wait until the client has read enough of what was written."""
        if not self.paused:
            return
        self.deadline = self._loop.time() + self._server.limits.write_seconds
        self._drained = self._loop.create_future()
        try:
            await self._drained
        finally:
            self._drained = None
            self.deadline = _NEVER

    def finish(self) -> None:
        """End an answer that was started with `begin`."""
        if self.transport is not None:
            self.transport.write(b"0\r\n\r\n")

    @property
    def idle(self) -> bool:
        """Whether the connection is open and has no request, not even the beginning of one."""
        return self.transport is not None and self._state == "head" and not self._buffer

    def detach(self) -> asyncio.Transport | None:
        """Take the transport out of the server, inside a handler: another protocol uses it from now on."""
        transport, self.transport = self.transport, None
        self._server.left(self)
        return transport

    def cut(self) -> None:
        """Abort the connection, so that the client cannot take a part of the answer for the whole."""
        if self.transport is not None:
            self.transport.abort()

    # ---------------------------------------------------------------------------------------------- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        made: asyncio.Transport = transport  # type: ignore[assignment]
        self.transport = made
        self._server.connections.add(self)
        if len(self._server.connections) > self._server.limits.max_connections:
            self._refuse(503, "too many connections; try again later")
            return
        # asyncio calls pause_writing above this and resume_writing below a quarter of it
        made.set_write_buffer_limits(high=self._server.limits.max_buffered)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._server.left(self)
        self._server.unfinished -= self._unfinished
        if self._task is not None:
            self._task.cancel()  # the client has gone, so its node should stop
        if self._drained is not None and not self._drained.done():
            self._drained.cancel()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._state == "linger":
            return
        if self._state == "busy":
            self._buffer += data
            if len(self._buffer) > self._server.limits.max_head and not self._held:
                self._held = True
                if self.transport is not None:
                    self.transport.pause_reading()
            return
        first = not self._buffer and self._state == "head"
        self._buffer += data
        self._advance()
        if first and self._state == "head":
            self.deadline = self._loop.time() + self._server.limits.head_seconds
        if self._unfinished or self._state == "body":
            self._count_unfinished()

    def expire(self) -> None:
        """The deadline has passed: close an idle connection, answer 408 to a slow request, cut a client that does not read."""
        if self._state == "head" and not self._buffer:
            self.close_if_idle()
        elif self._state in ("head", "body"):
            self._refuse(408, "the request did not arrive in time")
        else:
            self.cut()

    def close_if_idle(self) -> None:
        """Close the connection unless a request is being read or answered."""
        if self.transport is not None and self._state == "head" and not self._buffer:
            self.transport.close()

    # ------------------------------------------------------------------------------------------------------- inside

    def _head(self, status: int, headers: Mapping[str, str], framing: str) -> bytes:
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        closing = "" if self._keep and not self._server.draining else "connection: close\r\n"
        first = _STATUS_LINES.get(status) or _status_line(status)
        return f"{first}{lines}{framing}{closing}\r\n".encode("latin-1")

    def _advance(self) -> None:
        try:
            if self._state == "head":
                head = self._take_head()
                if head is None:
                    return
                self._begin_body(parse_head(head, self._server.limits.max_headers))
            if self._request is not None:
                self._read_body(self._request)
        except RequestRefusedError as refused:
            self._refuse(refused.status, str(refused))

    def _take_head(self) -> bytearray | None:
        end = self._buffer.find(_HEAD_END)
        if (end if end >= 0 else len(self._buffer)) > self._server.limits.max_head:
            raise RequestRefusedError(431, "the request's head is too large")
        if end < 0:
            return None
        head = self._buffer[:end]
        del self._buffer[: end + 4]
        return head

    def _begin_body(self, request: Request) -> None:
        headers = request.headers
        limit = self._server.limits.max_body
        coding = headers.get("transfer-encoding")
        length = headers.get("content-length")
        self._chunked, self._wanted = None, 0
        if coding is not None:
            if length is not None or coding.lower() != "chunked":
                code = 400 if length is not None else 501  # both: RFC 9112, section 6.1, a sign of smuggling
                raise RequestRefusedError(code, "this transfer coding is not supported")
            self._chunked = Chunks(limit)
        elif length is not None:
            if not length.isascii() or not length.isdigit() or len(length) > 15:
                raise RequestRefusedError(400, "Content-Length is malformed")
            self._wanted = int(length)
            if self._wanted > limit:
                raise RequestRefusedError(
                    413, f"the request is larger than the {limit} bytes that are accepted"
                )
        self._request = request
        self._keep = request.keep_alive
        self._state = "body"
        if self._chunked is None and len(self._buffer) >= self._wanted:
            return
        self.deadline = self._loop.time() + self._server.limits.body_seconds
        # RFC 9110, section 10.1.1: curl waits a second for this before it sends a large body
        if headers.get("expect", "").lower() == "100-continue" and self.transport is not None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _read_body(self, request: Request) -> None:
        if self._chunked is not None:
            if not self._chunked.feed(self._buffer):
                return
            request.body = bytes(self._chunked.body)
        elif len(self._buffer) < self._wanted:
            return
        elif len(self._buffer) == self._wanted:
            request.body = bytes(self._buffer)
            self._buffer.clear()
        else:
            # closed before `del`: a bytearray with an open view cannot shrink
            with memoryview(self._buffer) as view:
                request.body = bytes(view[: self._wanted])
            del self._buffer[: self._wanted]
        self._state = "busy"
        self.deadline = _NEVER
        self.started = False
        if self._task is None:
            self._task = self._server.serve(self._serve())
        elif self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)

    async def _serve(self) -> None:
        """Answer the connection's requests one after another. One task for all: waking a task costs less than making one."""
        while self._request is not None and self._state == "busy":
            await self._answer(self._request)
            if not self._next():
                return
            if self._state != "busy":
                self._awaited = self._loop.create_future()
                await self._awaited
                self._awaited = None

    async def _answer(self, request: Request) -> None:
        try:
            await self._server.handler(request, self)
        except asyncio.CancelledError:
            if self.transport is not None:
                raise
            return  # `connection_lost` cancelled us: the client has gone
        except Exception as error:  # noqa: BLE001  the last line: the client gets an answer, the operator the error
            self._server.on_error(error)
            if self.started:
                self.cut()
            else:
                self._keep = False
                self.reply(500, _JSON, self._server.render_error(500, "internal error"))

    def _next(self) -> bool:
        """Get ready for the next request, which may be in the buffer already. Returns whether there can be one."""
        if self.transport is None:
            return False
        if not self._keep or self._server.draining:
            self.transport.close()
            return False
        self._state = "head"
        self._request = None
        limits = self._server.limits
        self.deadline = self._loop.time() + (limits.head_seconds if self._buffer else limits.idle_seconds)
        if self._held:
            self._held = False
            self.transport.resume_reading()
        if self._buffer:
            self._advance()
        return True

    def _count_unfinished(self) -> None:
        """Update the sum of bytes of incomplete requests; a request that brings it over the bound is refused."""
        held = 0
        if self._state == "body":
            held = len(self._buffer) + (0 if self._chunked is None else len(self._chunked.body))
        self._server.unfinished += held - self._unfinished
        self._unfinished = held
        if held and self._server.unfinished > self._server.limits.max_unfinished:
            self._chunked = None
            self._refuse(503, "too many large requests arrive at the same time; try again")
            self._count_unfinished()

    def _refuse(self, status: int, message: str) -> None:
        """Refuse a request and close. Goes on reading for a moment: closing at once could reset the answer away."""
        self._keep = False
        self.started = False
        self._state = "linger"
        self._buffer.clear()
        self.reply(status, _JSON, self._server.render_error(status, message))
        self.deadline = self._loop.time() + self._server.limits.linger_seconds
        # TLS has no half-close
        if self.transport is not None and self.transport.can_write_eof():
            self.transport.write_eof()
