"""What became of recent requests, for receipts and explanations. Bounded; the oldest are forgotten."""

from collections import OrderedDict
from operator import attrgetter
from typing import Any

import orjson

from offchain.protocol.receipts import SignedReceipt
from offchain.scheduler.pick import Candidate, Decision
from offchain.scheduler.weighted_pool import Draw
from offchain.scheduler.work import Attempt, RequestTrace


class RequestRecord:
    """One request.

    Attributes:
        status: `answered`, `failed`, `refused` or `cancelled`.
        created_ms: Unix milliseconds.
        total_ms: from acceptance to the end.
        raw_receipt: `receipt` as the node wrote it, JSON.
    """

    __slots__ = (
        "created_ms",
        "model",
        "raw_receipt",
        "receipt",
        "revision",
        "status",
        "tenant",
        "total_ms",
        "trail",
        "usage",
    )

    def __init__(
        self,
        trail: RequestTrace,
        tenant: str,
        model: str,
        created_ms: int,
        status: str = "running",
        total_ms: float = 0.0,
        usage: tuple[int, int] = (0, 0),
        receipt: SignedReceipt | None = None,
        raw_receipt: bytes = b"null",
        revision: str = "",
    ) -> None:
        self.trail = trail
        self.tenant = tenant
        self.model = model
        self.created_ms = created_ms
        self.status = status
        self.total_ms = total_ms
        self.usage = usage
        self.receipt = receipt
        self.raw_receipt = raw_receipt
        self.revision = revision

    def to_json(self) -> dict[str, Any]:
        """The record as `GET /v1/receipts/{id}` shows it."""
        trail = self.trail
        return {
            "request_id": "0x" + trail.request_id.hex(),
            "object": "route_receipt",
            "status": self.status,
            "tenant": self.tenant,
            "model": self.model,
            "revision": self.revision,
            "node_id": trail.node_id,
            "created_ms": self.created_ms,
            "queue_ms": round(trail.queue_ms, 3),
            "total_ms": round(self.total_ms, 3),
            "usage": {"prompt_tokens": self.usage[0], "completion_tokens": self.usage[1]},
            "attempts": [attempt.to_json() for attempt in trail.attempts],
            "decisions": [d.to_json() for d in trail.decisions if isinstance(d, Decision)],
            "receipt": None if self.receipt is None else self.receipt.to_json(),
        }

    def pack(self) -> bytes:
        """What `unpack` makes the same entry of: JSON with few names, less work and memory than what `to_json` shows."""
        trail = self.trail
        return orjson.dumps(
            (
                self.tenant,
                self.model,
                self.created_ms,
                self.status,
                self.total_ms,
                self.usage,
                orjson.Fragment(self.raw_receipt),
                self.revision,
                trail.queue_ms,
                [_attempt_row(one) for one in trail.attempts],
                [_decision_row(one) for one in trail.decisions if isinstance(one, Decision)],
            ),
            default=tuple,
        )

    @classmethod
    def unpack(cls, request_id: bytes, packed: bytes) -> "RequestRecord":
        """Inverse of `pack`. Raises ValueError when it is something else."""
        try:
            tenant, model, created_ms, status, total_ms, usage, receipt, revision, *trail = orjson.loads(
                packed
            )
            queue_ms, attempts, decisions = trail
            entry = cls(
                RequestTrace(request_id, queue_ms), tenant, model, created_ms, status, total_ms, tuple(usage)
            )
            entry.trail.attempts += [Attempt(*attempt) for attempt in attempts]
            entry.trail.decisions += [_decision(*decision) for decision in decisions]
            entry.revision, entry.raw_receipt = revision, orjson.dumps(receipt)
            if receipt is not None:
                entry.receipt = SignedReceipt.parse(entry.raw_receipt)
        except TypeError as error:
            raise ValueError(f"not a packed entry: {error}") from None
        return entry


_attempt_row = attrgetter(
    "node_id", "number", "started_ms", "outcome", "reason", "detail", "ms", "first_byte_ms", "resumed_from"
)
_decision_row = attrgetter("draws", "candidates", "seed", "region", "tier", "shape", "chosen")


def _decision(draws: list[Any], candidates: list[Any], *others: Any) -> Decision:
    seed, region, tier, shape, chosen = others
    return Decision(
        seed,
        region,
        tier,
        [(limit, count, weight) for limit, count, weight in shape],
        [Draw(*one) for one in draws],
        [Candidate(*one) for one in candidates],
        chosen,
    )


class RequestLog:
    """Requests that run, and the last `limit` that have ended, by id.

    Of an ended one only its packed form stays: one object instead of some forty, which would be cold when they are read or
    freed.
    """

    def __init__(self, limit: int = 5_000) -> None:
        self._limit = limit
        self._running: dict[bytes, RequestRecord] = {}
        self._ended: OrderedDict[bytes, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._running) + len(self._ended)

    def open(self, entry: RequestRecord) -> None:
        """Take in a new request; its end must be told to `close`."""
        self._running[entry.trail.request_id] = entry

    def close(self, entry: RequestRecord) -> bytes:
        """A request has ended. Returns its packed record."""
        request_id = entry.trail.request_id
        self._running.pop(request_id, None)
        record = self._ended[request_id] = entry.pack()
        if len(self._ended) > self._limit:
            self._ended.popitem(last=False)
        return record

    def get(self, request_id: bytes) -> dict[str, Any] | None:
        """The record of a request that runs or ended lately, or None."""
        running = self._running.get(request_id)
        if running is not None:
            return running.to_json()
        packed = self._ended.get(request_id)
        return None if packed is None else RequestRecord.unpack(request_id, packed).to_json()
