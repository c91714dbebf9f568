"""Outward connections to the fronts, through which requests come to a node that nobody can connect to.

The other end is `offchain/gateway/nodes/dial_in.py`, which draws the exchange. To each front that takes them the agent keeps a few
idle connections, and opens another as soon as one is taken; a front that does not take them is asked again now and then.
"""

import asyncio
import contextlib
import itertools
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import orjson
import structlog

from offchain.crypto.keys import Signer
from offchain.domain.eip712 import SigningDomain, keccak256
from offchain.domain.messages import Heartbeat
from offchain.domain.types import NodeId
from offchain.protocol import headers as header_names
from offchain.protocol.heartbeats import write_header
from offchain.transport.server import HttpServer, ServerConnection

_log = structlog.get_logger(__name__)

DIAL_PATH = "/internal/dial"
_RESERVE = 2
_TIMEOUT_SECONDS = 5.0
_LOOK_SECONDS = 0.5
_FIRST_BACKOFF_SECONDS = 0.2
_MAX_BACKOFF_SECONDS = 15.0
_UNSUPPORTED_SECONDS = 60.0
_MAX_HEAD_BYTES = 16 * 1024


def dialled_url(node_id: NodeId) -> str:
    """The address under which a front that holds connections of a node finds it."""
    return f"http://node-{node_id}.dial.invalid"


class DialError(Exception):
    """A front could not be dialled. `supported` is False when it does not take connections at all."""

    def __init__(self, message: str, *, supported: bool = True) -> None:
        super().__init__(message)
        self.supported = supported


class _Handshake(asyncio.Protocol):
    """Plain request and answer on a connection that will then become something else."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._buffer = b""
        self._arrived = asyncio.Event()
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._arrived.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._arrived.set()

    async def ask(self, head: str, body: bytes = b"") -> tuple[int, bytes]:
        """Send a request; (status, body of the answer). Raises DialError."""
        if self.transport is None:
            raise DialError("not connected")
        self.transport.write(head.encode("latin-1") + body)
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            await self._more()
        lines = self._buffer[:end].decode("latin-1").lower().split("\r\n")
        status = int(lines[0].split()[1]) if len(lines[0].split()) > 1 else 0
        length = next((int(line[15:]) for line in lines if line.startswith("content-length:")), 0)
        end += 4
        while len(self._buffer) < end + length:
            await self._more()
        answer, self._buffer = self._buffer[end : end + length], self._buffer[end + length :]
        return status, answer

    def rest(self) -> bytes:
        """What came behind the last answer."""
        return self._buffer

    async def _more(self) -> None:
        self._arrived.clear()
        if self._lost or len(self._buffer) > _MAX_HEAD_BYTES:
            raise DialError("the front broke off")
        await self._arrived.wait()


@dataclass(slots=True)
class DialOut:
    """Keeps connections to the fronts until cancelled.

    Attributes:
        server: answers what comes down the connections.
        slots: requests that may run at once; at most that many connections and the reserve are kept to a front.
        changed: told when a front is held for the first time, or not any more.
    """

    node_id: NodeId
    signer: Signer
    domain: SigningDomain
    fronts: Sequence[str]
    server: HttpServer
    slots: int
    now_ms: Callable[[], int]
    changed: Callable[[], None] = lambda: None
    _held: dict[str, list[ServerConnection]] = field(default_factory=dict, init=False)
    _look: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def nudge(self) -> None:
        """A request has come: see to it that a connection is opened where too few are idle."""
        if any(self._is_short(held) for held in self._held.values()):
            self._look.set()

    def _is_short(self, held: Sequence[ServerConnection]) -> bool:
        idle = itertools.islice((connection for connection in held if connection.idle), _RESERVE)
        return sum(1 for _ in idle) < _RESERVE and len(held) < self.slots + _RESERVE

    def holds(self, front: str) -> bool:
        """Whether a front has connections of ours."""
        return any(connection.transport is not None for connection in self._held.get(front, ()))

    def url_for(self, front: str, inbound_url: str | None) -> str | None:
        """The address to give to a front: dialled, relayed by another front, or inbound; None when there is none yet."""
        if self.holds(front):
            return dialled_url(self.node_id)
        relay = next((other for other in self.fronts if self.holds(other)), None)
        return inbound_url if relay is None else f"{relay.rstrip('/')}{DIAL_PATH}/{self.node_id}"

    async def run(self) -> None:
        """Dial all fronts until cancelled."""
        async with asyncio.TaskGroup() as group:
            for front in self.fronts:
                self._held[front] = []
                group.create_task(self._keep(front))

    async def _keep(self, front: str) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        held = self._held[front]
        was_held = False
        while True:
            held[:] = [connection for connection in held if connection.transport is not None]
            pause = _LOOK_SECONDS
            try:
                if self._is_short(held):
                    async with asyncio.timeout(_TIMEOUT_SECONDS):
                        held.append(await self._dial(front))
                    backoff = _FIRST_BACKOFF_SECONDS
                    pause = 0.0
            except (DialError, OSError, TimeoutError, ValueError) as error:
                unsupported = isinstance(error, DialError) and not error.supported
                pause = _UNSUPPORTED_SECONDS if unsupported else backoff
                if not unsupported and backoff <= _FIRST_BACKOFF_SECONDS:
                    _log.warning("cannot dial", front=front, reason=str(error) or type(error).__name__)
                backoff = min(_MAX_BACKOFF_SECONDS, backoff * 2)
            if self.holds(front) is not was_held:
                was_held = not was_held
                _log.info("dialled" if was_held else "dialled connections lost", front=front)
                self.changed()
            if pause:
                with contextlib.suppress(TimeoutError):
                    # not wait_for: before Python 3.12 it may lose a cancellation that comes with the event
                    async with asyncio.timeout(pause):
                        await self._look.wait()
                    self._look.clear()

    async def _dial(self, front: str) -> ServerConnection:
        parts = urlsplit(front)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DialError(f"{front!r} is not an http(s) URL")
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        tls = ssl.create_default_context() if secure else None
        loop = asyncio.get_running_loop()
        transport, shake = await loop.create_connection(_Handshake, parts.hostname, port, ssl=tls)
        try:
            await self._prove(shake, front)
        except BaseException:
            transport.abort()
            raise
        if transport.is_closing():
            raise DialError("the front broke off")
        connection = ServerConnection(self.server)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if shake.rest():
            connection.data_received(shake.rest())
        return connection

    async def _prove(self, shake: _Handshake, front: str) -> None:
        """Answer the front's challenge with the node key. Raises DialError."""
        parts = urlsplit(front)
        path = f"{parts.path.rstrip('/')}{DIAL_PATH}"
        status, answer = await shake.ask(f"GET {path} HTTP/1.1\r\nhost: {parts.netloc}\r\n\r\n")
        if status in (404, 405):
            raise DialError("the front takes no connections", supported=False)
        challenge = str(orjson.loads(answer)["challenge"]) if status == 200 else ""
        body = orjson.dumps(
            {"node_id": int(self.node_id), "challenge": challenge, "front": front.rstrip("/")}
        )
        sent_at_ms = self.now_ms()
        message = Heartbeat(self.node_id, keccak256(body), sent_at_ms)
        signature = self.signer.sign_digest(self.domain.digest(message.struct_hash()))
        status, answer = await shake.ask(
            f"POST {path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
            f"{header_names.HEARTBEAT}: {write_header(sent_at_ms, signature)}\r\n"
            f"content-length: {len(body)}\r\n\r\n",
            body,
        )
        if status != 101:
            raise DialError(f"the front refused: {status} {answer[:200].decode(errors='replace')}")
