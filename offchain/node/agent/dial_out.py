"""Outward connections to gateways, through which requests come to a node that no gateway can connect to.

The other end is `offchain/gateway/nodes/dial_in.py`, which draws the exchange. The agent keeps a few idle connections to
each gateway that takes them, and opens another as soon as one is taken. A heartbeat receiver that takes none, such as a
keeper, is asked again every minute.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import orjson
import structlog

from offchain.crypto.keys import Signer
from offchain.domain.eip712 import SigningDomain
from offchain.domain.types import NodeId
from offchain.errors import TransientError
from offchain.node.agent.heartbeats import receiver_label, signed_header
from offchain.protocol import headers as header_names
from offchain.transport.pool import HostPool, HttpExchange
from offchain.transport.server import HttpServer, ServerConnection

_log = structlog.get_logger(__name__)

DIAL_PATH = "/internal/dial"
# Idle connections; a request that finds none waits a round trip for the next one (ADR 0060).
_RESERVE = 2
_TIMEOUT_SECONDS = 5.0
_LOOK_SECONDS = 0.5
_FIRST_BACKOFF_SECONDS = 0.2
_MAX_BACKOFF_SECONDS = 15.0
_UNSUPPORTED_SECONDS = 60.0
_MAX_ANSWER_BYTES = 16 * 1024


def dialled_url(node_id: NodeId) -> str:
    """The address under which a gateway that holds connections of a node finds it."""
    # No resolver ever knows a name below .invalid (RFC 2606, section 2).
    return f"http://node-{node_id}.dial.invalid"


class DialError(Exception):
    """A gateway could not be dialled. `supported` is False when it takes no connections at all."""

    def __init__(self, message: str, *, supported: bool = True) -> None:
        super().__init__(message)
        self.supported = supported


@dataclass(slots=True)
class DialOut:
    """Keeps connections to gateways until cancelled.

    Attributes:
        receivers: base URLs of gateways and keepers.
        server: answers what comes down the connections.
        slots: requests that may run at once; at most that many connections and the reserve are kept to a gateway.
        changed: called when the first connection to a gateway stands, and when the last one is lost.
    """

    node_id: NodeId
    signer: Signer
    domain: SigningDomain
    receivers: Sequence[str]
    server: HttpServer
    slots: int
    now_ms: Callable[[], int]
    changed: Callable[[], None] = lambda: None
    _held: dict[str, list[ServerConnection]] = field(default_factory=dict, init=False)
    _look: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def nudge(self) -> None:
        """Call when a request has come: opens a connection where too few are idle."""
        if any(self._is_short(held) for held in self._held.values()):
            self._look.set()

    def _is_short(self, held: Sequence[ServerConnection]) -> bool:
        # Counting ends at the reserve: `nudge` runs for each request.
        idle = itertools.islice((connection for connection in held if connection.idle), _RESERVE)
        return sum(1 for _ in idle) < _RESERVE and len(held) < self.slots + _RESERVE

    def holds(self, receiver: str) -> bool:
        """Whether a gateway has connections of ours."""
        return any(connection.transport is not None for connection in self._held.get(receiver, ()))

    def url_for(self, receiver: str, inbound_url: str | None) -> str | None:
        """The node's address for one receiver: dialled, relayed by a gateway, or inbound; None while there is none."""
        if self.holds(receiver):
            return dialled_url(self.node_id)
        relay = next((other for other in self.receivers if self.holds(other)), None)
        return inbound_url if relay is None else f"{relay.rstrip('/')}{DIAL_PATH}/{self.node_id}"

    async def run(self) -> None:
        """Dial all receivers until cancelled."""
        async with asyncio.TaskGroup() as group:
            for receiver in self.receivers:
                self._held[receiver] = []
                group.create_task(self._keep(receiver))

    async def _keep(self, receiver: str) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        held = self._held[receiver]
        was_held = False
        while True:
            held[:] = [connection for connection in held if connection.transport is not None]
            pause = _LOOK_SECONDS
            try:
                if self._is_short(held):
                    async with asyncio.timeout(_TIMEOUT_SECONDS):
                        held.append(await self._dial(receiver))
                    backoff = _FIRST_BACKOFF_SECONDS
                    # Look again at once: more than one may be missing.
                    pause = 0.0
            except (DialError, TransientError, OSError, TimeoutError, ValueError) as error:
                unsupported = isinstance(error, DialError) and not error.supported
                pause = _UNSUPPORTED_SECONDS if unsupported else backoff
                if not unsupported and backoff <= _FIRST_BACKOFF_SECONDS:
                    reason = str(error) or type(error).__name__
                    _log.warning("cannot dial", gateway=receiver_label(receiver), reason=reason)
                # Doubles after the log line, so that only the first try is logged.
                backoff = min(_MAX_BACKOFF_SECONDS, backoff * 2)
            # Only the first connection and the loss of the last one change what heartbeats say.
            if self.holds(receiver) is not was_held:
                was_held = not was_held
                event = "dialled" if was_held else "dialled connections lost"
                _log.info(event, gateway=receiver_label(receiver))
                self.changed()
            if pause:
                with contextlib.suppress(TimeoutError):
                    # not wait_for: before Python 3.12 it may lose a cancellation that comes with the event
                    async with asyncio.timeout(pause):
                        await self._look.wait()
                    self._look.clear()

    async def _dial(self, receiver: str) -> ServerConnection:
        """Open a connection, prove the node key on it, and have the server answer what comes down it."""
        try:
            # A pool for this one exchange: the connection leaves it and becomes one of our server's.
            pool = HostPool(receiver, None)
        except ValueError:
            raise DialError("it is not an http(s) URL") from None
        try:
            upgrade = await self._prove(pool, receiver)
            transport, surplus = upgrade.take_over()
        finally:
            pool.close()
        if transport is None or transport.is_closing():
            raise DialError("the gateway broke off")
        connection = ServerConnection(self.server)
        transport.set_protocol(connection)  # from here on the gateway is the client
        connection.connection_made(transport)
        if surplus:
            connection.data_received(surplus)  # a request may have come right behind the 101
        return connection

    async def _prove(self, pool: HostPool, receiver: str) -> HttpExchange:
        """Answer the gateway's challenge with the node key; the exchange that ended with 101. Raises DialError."""
        challenge = _send(pool, "GET", b"")
        answer = await _read(challenge)
        # Receivers that are no gateways, such as keepers, have no such path.
        if challenge.status in (404, 405):
            raise DialError("the gateway takes no connections", supported=False)
        text = str(orjson.loads(answer)["challenge"]) if challenge.status == 200 else ""
        # The gateway's own address is signed, so no other gateway can pass the challenge on (ADR 0060).
        body = orjson.dumps({"node_id": int(self.node_id), "challenge": text, "front": receiver.rstrip("/")})
        header = signed_header(self.node_id, self.signer, self.domain, body, self.now_ms())
        upgrade = _send(pool, "POST", body, f"{header_names.HEARTBEAT}: {header}\r\n")
        try:
            await upgrade.head()
            if upgrade.status == 101:
                return upgrade
            refusal = await _read(upgrade)
        except BaseException:  # cancellation too: nobody else would close it
            upgrade.close()
            raise
        raise DialError(f"the gateway refused: {upgrade.status} {refusal[:200].decode(errors='replace')}")


def _send(pool: HostPool, method: str, body: bytes, header: str = "") -> HttpExchange:
    head = (
        f"{method} {pool.prefix}{DIAL_PATH} HTTP/1.1\r\nhost: {pool.authority}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n{header}\r\n"
    )
    exchange = HttpExchange(pool, head.encode("latin-1"), body)
    pool.dispatch(exchange)
    return exchange


async def _read(exchange: HttpExchange) -> bytes:
    """The body of an answer. Raises DialError when it is too long."""
    answer = b""
    try:
        await exchange.head()
        while data := await exchange.read():
            answer += data
            if len(answer) > _MAX_ANSWER_BYTES:
                raise DialError("the gateway's answer is too long")
    finally:
        exchange.close()
    return answer
