"""Nodes behind NAT: they connect to the gateway and prove their key; then the gateway sends requests down that connection.

::

    agent                                   gateway
      | GET  /internal/dial                    |
      | <- {"challenge"}                       |     once, for 30 s
      | POST /internal/dial  signed            |     node key over challenge, node id and our address
      | <- 101                                 |
      | <============ requests ==============  |     plain HTTP/1.1 with tickets, one at a time a connection
      | ============= answers ==============>  |

After the 101 the gateway is the HTTP client. A dialled connection lies in the node's pool like one that the gateway opened
itself, so dispatch (leases, rescue, cancellation) treats both alike. The agent opens a new connection whenever the gateway
takes one. Such a node's heartbeats name an address that exists in no DNS, `http://node-<id>.dial.invalid`, to the gateways
that hold its connections. Other processes (a keeper's workers) reach the node through the gateway's relay:
`POST /internal/dial/<id>/v1/...` passes a request on, and the node checks its ticket; `GET /internal/dial/<id>/manifest`
shows what the node declares.

A connection belongs to the key that was proved on it. After a key rotation the first connection proved with the new key
replaces the idle ones of the old key; these are dropped in any case once receipts of the old key are no longer accepted.

The signature binds the gateway's address. So another gateway that the node also dials cannot forward our challenge to the
node and pass for the node here.
"""

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Collection

import orjson

from offchain.dispatch.http_upstream import HttpUpstream
from offchain.domain.eip712 import DigestMaker, SigningDomain, keccak256
from offchain.domain.messages import Heartbeat
from offchain.domain.types import NodeId
from offchain.protocol import headers as header_names
from offchain.protocol.heartbeats import NodeRecord, read_header
from offchain.protocol.openai_errors import error_body
from offchain.protocol.receipts import Recover
from offchain.transport.client_connection import ClientConnection
from offchain.transport.errors import ConnectError, TransportError
from offchain.transport.pool import HostPool, HttpExchange
from offchain.transport.server import Handler, Request, ServerConnection

PATH = "/internal/dial"
WAIT_SECONDS = 1.0
CHALLENGE_SECONDS = 30.0
MAX_CHALLENGES = 10_000
_MAX_WAITING = 1024
_RELAY = re.compile(PATH + r"/(\d{1,10})(/manifest|/v1/(?:chat/completions|completions|embeddings))")
_JSON = {"content-type": "application/json"}
# No other header of a node is passed on: it could change how our own answer is read.
_PASSED = ("content-type", "cache-control", header_names.RECEIPT, header_names.PROOF, "retry-after")
_SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: parallelix-dial\r\n\r\n"


def dialed_url(node_id: int) -> str:
    """The address under which this gateway knows a node that has dialled in, e.g. `http://node-7.dial.invalid`."""
    return f"http://node-{node_id}.dial.invalid"


def is_dialed(url: str) -> bool:
    """Whether an address is one of `dialed_url`; only the gateway that holds the connections can use it."""
    return url.endswith(".dial.invalid")


def node_of(url: str) -> NodeId:
    """The node id in a `dialed_url`."""
    return NodeId(int(url.removeprefix("http://node-").removesuffix(".dial.invalid")))


class _DialedConnection(ClientConnection):
    __slots__ = ("key",)

    def __init__(self, on_free: Callable[[ClientConnection], None], key: str) -> None:
        super().__init__(on_free)
        self.key = key


class DialedPool(HostPool):
    """Connections that a node opened to this gateway. When none is idle, a request waits up to `WAIT_SECONDS` for the next.

    Attributes:
        key: address of the key that the node last proved.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url, None)
        self.key = ""
        self._waiting: list[HttpExchange] = []

    def adopt(self, transport: asyncio.Transport, key: str) -> None:
        """Take a connection over from the HTTP server. Connections that were proved with another key are closed."""
        if key != self.key:
            self.close()
            self.key = key
        connection = _DialedConnection(self.give, key)
        # if the node closed it while it was idle, the request is tried again on another connection
        connection.used = True
        # asyncio calls connection_made for the first protocol only, so the next line does it for this one.
        transport.set_protocol(connection)
        connection.connection_made(transport)
        self.give(connection)

    def connect(self, exchange: HttpExchange) -> None:
        """Wait for a connection; the agent opens one as soon as it sees another taken."""
        if len(self._waiting) >= _MAX_WAITING:
            exchange.fail(ConnectError("too many requests wait for the node to connect"))
            return
        self._waiting.append(exchange)
        asyncio.get_running_loop().call_later(WAIT_SECONDS, self._give_up, exchange)

    def _give_up(self, exchange: HttpExchange) -> None:
        if exchange in self._waiting:
            self._waiting.remove(exchange)
            exchange.fail(ConnectError("the node keeps no connection to this gateway"))

    def give(self, connection: ClientConnection) -> None:
        """Give a connection to the request that has waited longest, or keep it."""
        if isinstance(connection, _DialedConnection) and connection.key != self.key:
            connection.drop()
        elif self._waiting and not connection.closed:
            # an exchange that has ended meanwhile calls `give` with this connection again
            self._waiting.pop(0).attach(connection)
        else:
            super().give(connection)


class DialInUpstream(HttpUpstream):
    """`HttpUpstream` that also reaches nodes which have dialled in."""

    def _open(self, node_id: NodeId, url: str) -> HostPool:
        return DialedPool(url) if is_dialed(url) else super()._open(node_id, url)

    def dialed(self, node_id: int) -> DialedPool:
        """The pool of a node's dialled connections."""
        url = dialed_url(node_id)
        pool = self._pools.get(url)
        if not isinstance(pool, DialedPool):
            pool = self._pools[url] = DialedPool(url)
        return pool

    def revoke(self, keys_of: Callable[[NodeId], Collection[str]]) -> None:
        """Drop idle connections that were proved with a key that no longer belongs to the node."""
        for url, pool in self._pools.items():
            if isinstance(pool, DialedPool) and pool.key and pool.key not in keys_of(node_of(url)):
                pool.key = ""
                pool.close()


class DialIn:
    """The routes under `/internal/dial`, looked at before the gateway's own routes.

    Args:
        own_urls: base URLs under which nodes know this gateway; compared without a trailing slash.
        lookup: the chain's record of a node.
    """

    def __init__(
        self,
        upstream: DialInUpstream,
        nodes_domain: SigningDomain,
        recover: Recover,
        lookup: Callable[[NodeId], NodeRecord | None],
        own_urls: Callable[[], Collection[str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstream = upstream
        self._digest = DigestMaker(nodes_domain)
        self._recover = recover
        self._lookup = lookup
        self._own_urls = own_urls
        self._clock = clock
        self._challenges: dict[str, float] = {}

    def before(self, handler: Handler) -> Handler:
        """A handler that answers paths below `PATH` and leaves all others to `handler`."""

        def handle(request: Request, connection: ServerConnection) -> Awaitable[None]:
            if not request.path.startswith(PATH):
                return handler(request, connection)
            return self._handle(request, connection)

        return handle

    async def _handle(self, request: Request, connection: ServerConnection) -> None:
        if request.path == PATH:
            self._dial(request, connection)
        else:
            await self._relay(request, connection)

    def _dial(self, request: Request, connection: ServerConnection) -> None:
        if request.method == "GET":
            connection.reply(200, _JSON, orjson.dumps({"challenge": self._challenge()}))
            return
        try:
            record = self._check(request)
        except ValueError as error:
            connection.reply(401, _JSON, error_body(str(error), "invalid_request_error", code="invalid_dial"))
            return
        transport = connection.detach()
        if transport is not None:
            # Before the pool has it: a request that waits there would otherwise be written ahead of the 101.
            transport.write(_SWITCH)
            self._upstream.dialed(record.node_id).adopt(transport, record.key_address)

    def _challenge(self) -> str:
        now = self._clock()
        while self._challenges:
            oldest = next(iter(self._challenges))
            if self._challenges[oldest] > now and len(self._challenges) < MAX_CHALLENGES:
                break
            del self._challenges[oldest]
        challenge = "0x" + secrets.token_hex(32)
        self._challenges[challenge] = now + CHALLENGE_SECONDS
        return challenge

    def _check(self, request: Request) -> NodeRecord:
        """The record of the node that signed this request. Raises ValueError with the reason to answer."""
        try:
            data = orjson.loads(request.body)
            node_id, challenge = int(data["node_id"]), str(data["challenge"])
            # `front` is the wire's word for the gateway's address, see docs/wire.md.
            gateway_url = str(data["front"])
        except (ValueError, KeyError, TypeError):
            raise ValueError("the body must name node_id, challenge and front") from None
        # popped whatever follows: a challenge is good for one try
        if self._challenges.pop(challenge, 0.0) <= self._clock():
            raise ValueError("the challenge is unknown, used or too old; ask for another")
        if gateway_url.rstrip("/") not in {url.rstrip("/") for url in self._own_urls()}:
            reason = f"this gateway is not {gateway_url[:200]}"
            raise ValueError(f"{reason}; set its public_url, or the node's heartbeat_receivers")
        record = self._lookup(NodeId(node_id))
        if record is None or not record.routable:
            raise ValueError(f"node {node_id} is not registered, or has left")
        # the same struct as a heartbeat: the challenge in the body keeps one from passing for the other
        sent_at_ms, signature = read_header(request.headers.get(header_names.HEARTBEAT))
        message = Heartbeat(NodeId(node_id), keccak256(request.body), sent_at_ms)
        signer = self._recover(self._digest(message.struct_hash()), signature)
        if signer.lower() != record.key_address.lower():
            raise ValueError(f"it is not signed with node {node_id}'s current key")
        return record

    async def _relay(self, request: Request, connection: ServerConnection) -> None:
        """Pass one request from another process down a dialled connection."""
        found = _RELAY.fullmatch(request.path)
        if found is None or request.method != ("GET" if found[2] == "/manifest" else "POST"):
            connection.reply(404, _JSON, error_body("there is nothing here", "invalid_request_error"))
            return
        record = self._lookup(NodeId(int(found[1])))
        if record is None or not record.routable:
            connection.reply(404, _JSON, error_body(f"there is no node {found[1]}", "invalid_request_error"))
            return
        pool = self._upstream.dialed(record.node_id)
        names = (header_names.REQUEST_ID, header_names.TICKET)
        extra = "".join(f"{name}: {request.headers[name]}\r\n" for name in names if name in request.headers)
        head = (
            f"{request.method} {found[2]} HTTP/1.1\r\nhost: {pool.authority}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(request.body)}\r\n{extra}\r\n"
        )
        exchange = HttpExchange(pool, head.encode("latin-1"), request.body)
        pool.dispatch(exchange)
        try:
            await exchange.head()
            headers = {name: exchange.headers[name] for name in _PASSED if name in exchange.headers}
            connection.begin(exchange.status, headers)
            while data := await exchange.read():
                if not connection.write(data):
                    await connection.drain()
            connection.finish()
        except TransportError as fault:
            # The status is out: only a cut tells the caller that the answer is not whole.
            if connection.started:
                connection.cut()
            else:
                connection.reply(503, _JSON, error_body(str(fault), "server_error", code="node_unavailable"))
        finally:
            exchange.close()
