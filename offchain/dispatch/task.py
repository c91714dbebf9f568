"""What the dispatcher needs of a class of work (`Task`), and of the place where its output goes (`Sink`)."""

from collections.abc import Mapping
from typing import Protocol

from offchain.dispatch.upstream import Call
from offchain.domain.types import NodeId
from offchain.scheduler.work import NodeError


class Task(Protocol):
    """One unit's work as its class understands it: what to send, what the answer means, how to go on after a cut.

    Calls in order, for each attempt: `call`, `head`, `feed` (any number), `end`; at last `verdict`. An attempt may fail
    after any of them, and the next one begins with `call`. See `workloads.inference.whole_answer.PlainTask` for the shortest.
    """

    initial_patience_seconds: float
    """Seconds to wait for a first byte while too few times of this timing class were measured."""

    @property
    def delivered(self) -> int:
        """Events of output that the caller has; once over 0 the next attempt has to continue behind them."""

    def call(self, node_id: NodeId) -> Call:
        """What to send to this node. Raises NotResumableError when it could not continue the answer exactly."""

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """An answer with a good status begins. Raises NodeError when it is not what was asked for."""

    def feed(self, data: bytes) -> bytes:
        """Bytes of the answer came. Returns what to write to the caller now. Raises NodeError."""

    def rest_if_complete(self) -> bytes | None:
        """Called when an attempt failed. If the node had already sent the whole answer, returns the bytes that the caller
        lacks; otherwise None, and the unit is tried again."""

    def end(self) -> bytes:
        """The answer ended. Returns the rest for the caller. Raises NodeError when the answer is cut short or false."""

    def verdict(self) -> NodeError | None:
        """Check the receipt after the caller has the answer. Returns the node's fault; it no longer changes the answer."""


class Sink(Protocol):
    """Where a unit's output goes: usually a `ServerConnection`."""

    def write(self, data: bytes) -> bool:
        """Send bytes to the caller. False when `drain` must be awaited before the next call."""

    async def drain(self) -> None:
        """Wait until the caller has read enough of what was written."""
