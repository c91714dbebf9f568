"""What the engine asks of a class of work, and of the place where its output goes."""

from collections.abc import Mapping
from typing import Protocol

from offchain.dispatch.upstream import Call
from offchain.domain.types import NodeId
from offchain.scheduler.work import NodeError


class Task(Protocol):
    """A unit's class-specific side: what to send, what the answer means, how to go on after a cut."""

    initial_patience_seconds: float
    """For a first byte, while nothing is known of the timing class."""

    @property
    def delivered(self) -> int:
        """Units of output that have gone to the caller; once over 0 the unit can only be resumed."""

    def call(self, node_id: NodeId) -> Call:
        """What to send in the next attempt. Raises NotResumableError when that cannot be exact."""

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """The answer begins, with a good status. Raises NodeError when it is not what was asked for."""

    def feed(self, data: bytes) -> bytes:
        """Bytes of the answer came; returns what goes to the caller now. Raises NodeError."""

    def settled(self) -> bytes | None:
        """After a failed attempt: what still has to go out when the answer was in truth complete, else None."""

    def end(self) -> bytes:
        """The answer's end came; returns the rest. Raises NodeError when the answer is short or false."""

    def verdict(self) -> NodeError | None:
        """What is left to check once the rest has gone out: a fault of the node, which no longer spoils the answer."""


class Sink(Protocol):
    """Where a unit's output goes."""

    def write(self, data: bytes) -> bool:
        """Take bytes; False when `drain` has to be awaited before the next."""

    async def drain(self) -> None:
        """Wait until the caller has taken enough."""
