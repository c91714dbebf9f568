"""Requests to node agents over pooled HTTP/1.1 connections; answers are passed on as they come."""

import ssl
from collections.abc import Callable
from functools import partial

from offchain.dispatch.upstream import Call
from offchain.domain.types import NodeId
from offchain.protocol import headers as header_names
from offchain.scheduler.work import FaultKind, NodeError
from offchain.transport.errors import ConnectError, ResetError, TransportError
from offchain.transport.pool import HostPool, HttpExchange

MAX_POOLS = 200_000

MakeTicket = Callable[[NodeId, bytes, bytes], str]
"""(node id, request id, Keccak-256 of the body) -> value of the ticket header."""


def node_error(fault: TransportError) -> NodeError:
    """The NodeError for an exchange that failed."""
    kinds = {ConnectError: FaultKind.UNREACHABLE, ResetError: FaultKind.RESET}
    return NodeError(kinds.get(type(fault), FaultKind.BAD_ANSWER), str(fault))


class HttpUpstream:
    """`upstream.Upstream` over HTTP/1.1.

    Args:
        ticket: makes the ticket header; see `protocol.tickets.TicketSigner`.
        tls: TLS context for agents whose address names no certificate; by default the system's authorities.

    Attributes:
        on_round_trip: called with a node and the seconds of one round trip to it whenever a connection was made.
    """

    def __init__(self, ticket: MakeTicket, tls: ssl.SSLContext | None = None) -> None:
        self.on_round_trip: Callable[[NodeId, float], None] | None = None
        self._ticket = ticket
        self._tls = tls
        self._pools: dict[str, HostPool] = {}

    def start(self, node_id: NodeId, url: str, call: Call) -> HttpExchange:
        """Begin a request. For a malformed URL the exchange that is returned fails with a ConnectError."""
        pool = self._pools.get(url)
        if pool is None:
            if len(self._pools) >= MAX_POOLS:
                self.forget(next(iter(self._pools)))
            try:
                pool = self._pools[url] = self._open(node_id, url)
            except ValueError as error:
                broken = HttpExchange(HostPool("http://0.0.0.0", None), b"", b"", node_error)
                broken.fail(ConnectError(str(error)))
                return broken
        extra = "".join([f"{name}: {value}\r\n" for name, value in call.headers.items()])
        head = (
            f"POST {pool.prefix}{call.path} HTTP/1.1\r\nhost: {pool.authority}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(call.body)}\r\n{header_names.REQUEST_ID}: 0x{call.request_id.hex()}\r\n"
            f"{header_names.TICKET}: {self._ticket(node_id, call.request_id, call.request_hash)}\r\n{extra}\r\n"
        )
        exchange = HttpExchange(pool, head.encode("latin-1"), call.body, node_error)
        pool.dispatch(exchange)
        return exchange

    def _open(self, node_id: NodeId, url: str) -> HostPool:
        """A new pool of connections to a node. Raises ValueError for a malformed URL."""
        pool = HostPool(url, self._tls)
        if self.on_round_trip is not None:
            pool.on_round_trip = partial(self.on_round_trip, node_id)
        return pool

    def forget(self, url: str) -> None:
        """Close idle connections to this URL, e.g. of a node that has left."""
        pool = self._pools.pop(url, None)
        if pool is not None:
            pool.close()

    def close(self) -> None:
        """Close all idle connections."""
        for url in list(self._pools):
            self.forget(url)
