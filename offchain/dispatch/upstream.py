"""The way to a node, as the engine sees it. `transport` speaks HTTP; a simulator may put something else here."""

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
        path: of the node's API.
        body: the bytes, exactly.
        request_id: 32 bytes.
        headers: besides those that the transport itself needs.
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
        """keccak256 of the body, computed once: a long prompt's takes longer than all the rest of its dispatch."""
        if not self._hash:
            self._hash = keccak256(self.body)
        return self._hash


class Exchange(Protocol):
    """One attempt's conversation with a node."""

    @property
    def status(self) -> int:
        """HTTP-like status, once `head` has returned."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case, once `head` has returned."""

    async def head(self) -> None:
        """Wait for the beginning of the answer. Raises NodeError."""

    async def read(self) -> bytes:
        """Next bytes of the answer as soon as there are any; empty at its end. Raises NodeError."""

    @property
    def connected(self) -> bool:
        """Whether the node was reached."""

    def abort(self, fault: NodeError) -> None:
        """End it from outside: whoever waits gets `fault`."""

    def close(self) -> None:
        """Let go of it; an unfinished answer is cut, so that the node stops working on it. Safe to call twice."""


class Upstream(Protocol):
    """Opens conversations with nodes."""

    def start(self, node_id: NodeId, url: str, call: Call) -> Exchange:
        """Begin to connect and send; returns at once."""
