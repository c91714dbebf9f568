"""How the dispatcher reaches a node. `HttpUpstream` and `DialInUpstream` use HTTP; tests put scripted nodes here."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from offchain.domain.eip712 import keccak256
from offchain.domain.types import NodeId
from offchain.scheduler.work import NodeError

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Call:
    """What is sent to a node in one attempt.

    Attributes:
        path: e.g. `/v1/chat/completions`.
        body: exactly these bytes are sent, and the receipt binds their hash.
        headers: further ones, besides framing, request id and ticket.
    """

    __slots__ = ("_hash", "body", "headers", "path", "request_id")

    def __init__(
        self, path: str, body: bytes, request_id: bytes, headers: Mapping[str, str] = NO_HEADERS
    ) -> None:
        self.path = path
        self.body = body
        self.request_id = request_id
        self.headers = headers
        self._hash = b""

    @property
    def request_hash(self) -> bytes:
        """keccak256 of the body, computed once: for a long prompt it takes longer than all the rest of dispatch."""
        if not self._hash:
            self._hash = keccak256(self.body)
        return self._hash


class Exchange(Protocol):
    """One attempt's request and its answer."""

    @property
    def status(self) -> int:
        """HTTP status; valid once `head` has returned."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers, names in lower case; valid once `head` has returned."""

    async def head(self) -> None:
        """Wait for the answer's status and headers. Raises NodeError."""

    async def read(self) -> bytes:
        """The next bytes of the answer, as soon as there are any; empty at its end. Raises NodeError."""

    @property
    def connected(self) -> bool:
        """Whether a connection to the node was made."""

    def abort(self, fault: NodeError) -> None:
        """End the exchange; a pending `head` or `read` raises `fault`."""

    def close(self) -> None:
        """End the exchange. An unfinished answer is cut, so that the node stops working on it. Safe to call twice."""


class Upstream(Protocol):
    """Sends requests to nodes."""

    def start(self, node_id: NodeId, url: str, call: Call) -> Exchange:
        """Begin to connect and send. Returns at once; the exchange reports what fails."""
