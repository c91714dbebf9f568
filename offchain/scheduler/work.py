"""The unit of work, its attempts, and what can go wrong with them. Nothing here depends on the class of work."""

from enum import IntEnum, StrEnum
from typing import NamedTuple

from offchain.domain.types import NodeId
from offchain.errors import SkipError, TransientError


class Priority(IntEnum):
    """Admission classes, most urgent first."""

    INTERACTIVE = 0
    STANDARD = 1
    BATCH = 2


class Requirements(NamedTuple):
    """What a node must offer to be given a unit.

    Attributes:
        capability: what the node must offer, e.g. the model `meta-llama/Llama-3-8B`.
        revision: exact revision of the capability, or None for any.
        context_size: tokens that the offer's context must hold.
        min_tier: lowest hardware tier that will do.
        region: preferred region; others are used when no node of it is free. None: the router's own regions.
        max_price_wei: highest accepted price of a token in wei, or None.
        node_id: the only node allowed, or None. Such a pinned unit never goes on on another node.
    """

    capability: str
    revision: str | None = None
    context_size: int = 0
    min_tier: int = 1
    region: str | None = None
    max_price_wei: int | None = None
    node_id: NodeId | None = None


class WorkUnit(NamedTuple):
    """One indivisible piece of work.

    Attributes:
        request_id: 32 bytes, unique.
        tenant: the customer who is served and billed.
        cost: expected tokens, for fairness and hedging.
        timing_class: units of one class have comparable times to the first byte.
        affinity: hashes of growing prefixes of the input, shortest first; a node that lately saw them answers sooner.
    """

    request_id: bytes
    requirements: Requirements
    tenant: str = ""
    priority: Priority = Priority.STANDARD
    cost: int = 1
    timing_class: str = ""
    affinity: tuple[int, ...] = ()


class FaultKind(StrEnum):
    """Why an attempt ended without an answer; the value stands in records and metrics."""

    UNREACHABLE = "unreachable"
    RESET = "connection_lost"
    TRUNCATED = "truncated"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    STALLED = "stalled"
    SERVER_ERROR = "server_error"
    NO_SLOT = "no_slot"
    REFUSED = "ticket_refused"
    BAD_ANSWER = "bad_answer"
    BAD_RECEIPT = "bad_receipt"
    SILENT = "heartbeats_stopped"
    CANCELLED = "cancelled"
    HEDGE_LOST = "hedge_lost"


FAULT_WEIGHT: dict[FaultKind, int] = {
    **dict.fromkeys((FaultKind.NO_SLOT, FaultKind.CANCELLED, FaultKind.HEDGE_LOST), 0),
    **dict.fromkeys((FaultKind.SERVER_ERROR, FaultKind.REFUSED), 1),
    **dict.fromkeys((FaultKind.FIRST_BYTE_TIMEOUT, FaultKind.BAD_ANSWER, FaultKind.BAD_RECEIPT), 2),
    **dict.fromkeys((FaultKind.UNREACHABLE, FaultKind.RESET, FaultKind.TRUNCATED), 3),
    **dict.fromkeys((FaultKind.STALLED, FaultKind.SILENT), 3),
}
"""How much each fault counts against its node; a breaker opens when the sum reaches 3."""


class NodeError(TransientError):
    """An attempt failed because of its node or the connection to it; another node may do better."""

    def __init__(self, kind: FaultKind, detail: str = "") -> None:
        super().__init__(f"{kind.value}: {detail}" if detail else kind.value)
        self.kind = kind
        self.detail = detail


class CallerError(SkipError):
    """The node refused the request as wrong. Every node would, so the refusal goes back to the caller."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"the request was refused with status {status}")
        self.status = status
        self.body = body


class NoCapacityError(TransientError):
    """No node can take the unit.

    Attributes:
        reason: `unknown_capability`, `no_capable_node`, `full`, `node_unavailable` or `failed` (attempts were made).
        retry_after_seconds: after which the caller should try again.
        expected_until: until when a node for the unit is expected back, in seconds of the router's clock; 0: none is.
    """

    def __init__(
        self, reason: str, message: str, retry_after_seconds: float = 1.0, expected_until: float = 0.0
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds
        self.expected_until = expected_until


class NotResumableError(TransientError):
    """The caller has part of the answer, and it cannot be continued exactly on another node."""


class Attempt:
    """One try of a unit on a node, as the request's record shows it. Times are milliseconds.

    Attributes:
        outcome: `running`, `ok`, `failed`, `cancelled`, or `refused` (for the caller's fault).
        reason: a `FaultKind` value, or empty.
        first_byte_ms: from the attempt's beginning to the first byte of the answer; None when none came.
        resumed_from: events of output that the caller had from earlier attempts.
    """

    __slots__ = (
        "detail", "first_byte_ms", "ms", "node_id", "number", "outcome", "reason", "resumed_from", "started_ms",
    )  # fmt: skip

    def __init__(
        self,
        node_id: NodeId,
        number: int,
        started_ms: float,
        outcome: str = "running",
        reason: str = "",
        detail: str = "",
        ms: float = 0.0,
        first_byte_ms: float | None = None,
        resumed_from: int = 0,
    ) -> None:
        self.node_id = node_id
        self.number = number
        self.started_ms = started_ms
        self.outcome = outcome
        self.reason = reason
        self.detail = detail
        self.ms = ms
        self.first_byte_ms = first_byte_ms
        self.resumed_from = resumed_from

    def to_json(self) -> dict[str, object]:
        """The attempt as route receipts show it."""
        return {
            "node_id": int(self.node_id),
            "outcome": self.outcome,
            "reason": self.reason,
            "detail": self.detail,
            "ms": round(self.ms, 3),
            "first_byte_ms": None if self.first_byte_ms is None else round(self.first_byte_ms, 3),
            "resumed_from": self.resumed_from,
        }


class RequestTrace:
    """What happened to one unit: filled in while it happens, kept for route receipts and explanations."""

    __slots__ = ("attempts", "decisions", "queue_ms", "request_id")

    def __init__(self, request_id: bytes, queue_ms: float = 0.0) -> None:
        self.request_id = request_id
        self.queue_ms = queue_ms
        self.attempts: list[Attempt] = []
        self.decisions: list[object] = []

    @property
    def node_id(self) -> NodeId | None:
        """The node that answered last, or None before any attempt."""
        return self.attempts[-1].node_id if self.attempts else None
