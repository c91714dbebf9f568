"""What became of recent requests, for route receipts and explanations. Bounded: the oldest are dropped."""

from collections import OrderedDict
from operator import attrgetter
from typing import Any

import orjson

from offchain.protocol.receipts import SignedReceipt
from offchain.scheduler.pick import Candidate, Decision
from offchain.scheduler.weighted_pool import WeightedSample
from offchain.scheduler.work import Attempt, RequestTrace


class RequestRecord:
    """What became of one request.

    Attributes:
        status: `answered`, `failed`, `refused` or `cancelled`.
        created_ms: Unix milliseconds.
        total_ms: from parsing to the end of the answer.
        raw_receipt: `receipt` as the node wrote it: JSON, or `null`.
    """

    __slots__ = (
        "created_ms", "model", "raw_receipt", "receipt", "revision", "status", "tenant", "total_ms", "trace", "usage",
    )  # fmt: skip

    def __init__(
        self,
        trace: RequestTrace,
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
        self.trace = trace
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
        trace = self.trace
        return {
            "request_id": "0x" + trace.request_id.hex(),
            "object": "route_receipt",
            "status": self.status,
            "tenant": self.tenant,
            "model": self.model,
            "revision": self.revision,
            "node_id": trace.node_id,
            "created_ms": self.created_ms,
            "queue_ms": round(trace.queue_ms, 3),
            "total_ms": round(self.total_ms, 3),
            "usage": {"prompt_tokens": self.usage[0], "completion_tokens": self.usage[1]},
            "attempts": [attempt.to_json() for attempt in trace.attempts],
            "decisions": [d.to_json() for d in trace.decisions if isinstance(d, Decision)],
            "receipt": None if self.receipt is None else self.receipt.to_json(),
        }

    def pack(self) -> bytes:
        """The record for `unpack`: JSON arrays without field names, which take less time and memory than `to_json`."""
        trace = self.trace
        return orjson.dumps(
            (
                self.tenant,
                self.model,
                self.created_ms,
                self.status,
                self.total_ms,
                self.usage,
                orjson.Fragment(self.raw_receipt),  # the node's own bytes, not parsed and written anew
                self.revision,
                trace.queue_ms,
                [_attempt_row(one) for one in trace.attempts],
                [_decision_row(one) for one in trace.decisions if isinstance(one, Decision)],
            ),
            default=tuple,
        )

    @classmethod
    def unpack(cls, request_id: bytes, packed: bytes) -> "RequestRecord":
        """Inverse of `pack`. Raises ValueError."""
        try:
            tenant, model, created_ms, status, total_ms, usage, *rest = orjson.loads(packed)
            receipt, revision, queue_ms, attempts, decisions = rest
            trace = RequestTrace(request_id, queue_ms)
            record = cls(trace, tenant, model, created_ms, status, total_ms, tuple(usage))
            record.trace.attempts += [Attempt(*attempt) for attempt in attempts]
            record.trace.decisions += [_decision(*decision) for decision in decisions]
            record.revision, record.raw_receipt = revision, orjson.dumps(receipt)
            if receipt is not None:
                record.receipt = SignedReceipt.parse(record.raw_receipt)
        except TypeError as error:
            raise ValueError(f"not a packed record: {error}") from None
        return record


_attempt_row = attrgetter(
    "node_id", "number", "started_ms", "outcome", "reason", "detail", "ms", "first_byte_ms", "resumed_from"
)
_decision_row = attrgetter("samples", "candidates", "seed", "region", "tier", "shape", "chosen")


def _decision(samples: list[Any], candidates: list[Any], *others: Any) -> Decision:
    seed, region, tier, shape, chosen = others
    buckets = [(limit, count, weight) for limit, count, weight in shape]
    sampled = [WeightedSample(*one) for one in samples]
    return Decision(seed, region, tier, buckets, sampled, [Candidate(*one) for one in candidates], chosen)


class RequestLog:
    """Requests that run, and the last `limit` that have ended, by id.

    Of a request that has ended only the packed record stays: one object instead of some forty, which would no longer be in the
    CPU's cache when they are freed.
    """

    def __init__(self, limit: int = 5_000) -> None:
        self._limit = limit
        self._running: dict[bytes, RequestRecord] = {}
        self._ended: OrderedDict[bytes, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._running) + len(self._ended)

    def open(self, record: RequestRecord) -> None:
        """Add a request that begins. Call `close` when it has ended."""
        self._running[record.trace.request_id] = record

    def close(self, record: RequestRecord) -> bytes:
        """A request has ended. Returns its packed record."""
        request_id = record.trace.request_id
        self._running.pop(request_id, None)
        packed = self._ended[request_id] = record.pack()
        if len(self._ended) > self._limit:
            self._ended.popitem(last=False)
        return packed

    def get(self, request_id: bytes) -> dict[str, Any] | None:
        """The record of a request that runs or ended lately, or None."""
        running = self._running.get(request_id)
        if running is not None:
            return running.to_json()
        packed = self._ended.get(request_id)
        return None if packed is None else RequestRecord.unpack(request_id, packed).to_json()
