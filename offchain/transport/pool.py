"""Pooled HTTP/1.1 connections to one host, one request at a time on each.

Why not a general client: its CPU a request is several times that of the whole rest of the gateway (docs/adr). Nodes and model
servers need only `Content-Length` or chunked answers and keep-alive. Example::

    pool = HostPool("http://10.0.0.2:8000", None)
    exchange = HttpExchange(pool, head, body)  # head: b"GET /health HTTP/1.1" ... and an empty line
    pool.dispatch(exchange)
    await exchange.head()
    body = await exchange.read()
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from urllib.parse import urlsplit

from offchain.transport.certificate_pins import holds, pinning_context, pins_of, trusting_context
from offchain.transport.client_connection import ClientConnection
from offchain.transport.errors import ConnectError, ResetError, TransportError

MAX_QUEUED_BYTES = 1024 * 1024
"""Unread bytes of an answer at which the connection stops reading."""
MAX_IDLE = 64
"""Idle connections that a pool keeps."""


def untranslated(fault: TransportError) -> Exception:
    """No translation: the fault is raised as it is."""
    return fault


class HttpExchange:
    """One request and its answer; what `dispatch.upstream.Exchange` asks for."""

    __slots__ = (
        "_body", "_connection", "_fault", "_finished", "_head", "_pool", "_queued", "_request", "_retried", "_started",
        "_translate", "_waiter", "connected", "headers", "status",
    )  # fmt: skip

    def __init__(
        self,
        pool: "HostPool",
        head: bytes,
        body: bytes,
        translate: Callable[[TransportError], Exception] = untranslated,
    ) -> None:
        """`head` includes the empty line; `translate` makes the exception that `head` and `read` raise of a TransportError."""
        self.status = 0
        self.headers: dict[str, str] = {}
        self.connected = False
        self._pool = pool
        self._request = (head, body)
        self._connection: ClientConnection | None = None
        self._body: deque[bytes] = deque()
        self._queued = 0
        self._head = False
        self._finished = False
        self._retried = False
        self._fault: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._translate = translate

    # called by the pool and the connection

    def attach(self, connection: ClientConnection) -> None:
        """The pool has a connection: send the request."""
        if self._fault is not None or self._finished:
            self._pool.give(connection)
            return
        self._connection = connection
        self.connected = True
        connection.send(self, *self._request)

    def begin(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        self.headers = headers
        self._head = True
        self._wake()

    def push(self, data: bytes) -> None:
        self._body.append(data)
        self._queued += len(data)
        if self._queued > MAX_QUEUED_BYTES and self._connection is not None:
            self._connection.pause()
        self._wake()

    def finish(self) -> None:
        self._finished = True
        self._connection = None
        self._wake()

    def refused(self, stale: bool) -> None:
        """The connection closed before any byte of an answer. A reused one may have timed out idle: try once on a new one."""
        self._connection = None
        if stale and not self._retried:
            self._retried = True
            self.connected = False
            self._pool.connect(self)
            return
        self.fail(ResetError("the connection closed before an answer"))

    def fail(self, fault: TransportError) -> None:
        self._end(self._translate(fault))

    def _end(self, fault: Exception) -> None:
        if self._fault is None and not self._finished:
            self._fault = fault
        self._connection = None
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # called by whoever made the exchange

    async def head(self) -> None:
        while not self._head:
            if self._fault is not None:
                raise self._fault
            await self._news()

    async def read(self) -> bytes:
        while not self._body:
            if self._fault is not None:
                raise self._fault
            if self._finished:
                return b""
            await self._news()
        if len(self._body) == 1:
            data = self._body.popleft()
        else:
            data = b"".join(self._body)
            self._body.clear()
        self._queued = 0
        if self._connection is not None and self._connection.paused:
            self._connection.resume()
        return data

    def _news(self) -> "asyncio.Future[None]":
        """A future that is done when the connection reports something."""
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        return waiter

    def take_over(self) -> tuple[asyncio.Transport | None, bytes]:
        """After a 101: the connection, which is ours from now on, and what has come behind the answer's head.

        The connection is None when it has ended meanwhile.
        """
        connection, self._connection = self._connection, None
        self._finished = True
        surplus = b"".join(self._body)
        self._body.clear()
        if connection is None:
            return None, surplus
        connection.resume()
        return connection.detach(), surplus

    def abort(self, fault: Exception) -> None:
        connection = self._connection
        self._end(fault)
        if connection is not None:
            connection.drop()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        self._finished = True
        if connection is not None:
            connection.drop()


class HostPool:
    """Connections to one host. The most recently used idle one is taken first."""

    def __init__(self, url: str, tls: ssl.SSLContext | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not an http(s) URL")
        self.host = parts.hostname
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.certificate_pins = pins_of(parts.fragment)
        self.tls = None
        if parts.scheme == "https":
            self.tls = pinning_context() if self.certificate_pins else tls or trusting_context()
        self.prefix = parts.path.rstrip("/")
        self.authority = parts.netloc.rpartition("@")[2]
        self.on_round_trip: Callable[[float], None] | None = None
        self._idle: list[ClientConnection] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def dispatch(self, exchange: HttpExchange) -> None:
        """Send an exchange over an idle connection, or over a new one."""
        while self._idle:
            connection = self._idle.pop()  # the one used last: the others time out and the pool shrinks
            transport = connection.transport
            if not connection.closed and transport is not None and not transport.is_closing():
                exchange.attach(connection)
                return
        self.connect(exchange)

    def connect(self, exchange: HttpExchange) -> None:
        """Send an exchange over a new connection."""
        task = asyncio.get_running_loop().create_task(self._connect(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, exchange: HttpExchange) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            transport, connection = await loop.create_connection(
                lambda: ClientConnection(self.give), self.host, self.port, ssl=self.tls
            )
        except OSError as error:
            exchange.fail(ConnectError(error.strerror or type(error).__name__))
            return
        if self.certificate_pins and not holds(transport.get_extra_info("ssl_object"), self.certificate_pins):
            transport.abort()
            exchange.fail(ConnectError("its certificate is not the one that its heartbeat names"))
            return
        if self.on_round_trip is not None:
            # TCP takes one round trip, TLS 1.3 another
            self.on_round_trip((loop.time() - began) / (1 if self.tls is None else 2))
        exchange.attach(connection)

    def give(self, connection: ClientConnection) -> None:
        """Take a free connection back for later requests."""
        if len(self._idle) < MAX_IDLE and not connection.closed:
            self._idle.append(connection)
        else:
            connection.drop()

    def close(self) -> None:
        """Close idle connections and stop connecting."""
        for connection in self._idle:
            connection.drop()
        self._idle.clear()
        for task in list(self._tasks):
            task.cancel()
