"""The live nodes in Redis, shared by all processes of one operator.

    parallelix:fleet:<node id>   JSON of the node's report; expires after 10 s
    parallelix:fleet             sorted set: node id by the Unix millisecond of its last report

The sorted set is the index: live nodes are read from it, never by a scan of all keys.

A process that receives heartbeats writes; one that dispatches (a second gateway, a Celery worker) reads::

    store = FleetStore(redis.Redis.from_url(url))
    store.write(report)                    # after HeartbeatVerifier.verify
    for report, age in store.read_all():   # (NodeReport, seconds since it was written)
        fleet.update(report, now - age)

A node whose last report is older than 10 s counts as silent. Every call is one or two round trips and raises
`redis.RedisError` when Redis cannot be reached; callers then go on with the nodes they knew last.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import orjson

from offchain.scheduler.fleet import NodeReport, Offer

PREFIX = "parallelix:fleet:"
INDEX = "parallelix:fleet"
TTL_SECONDS = 10
_FORGET_MS = 60_000
_AS_IT_IS = ("node_id", "url", "region", "tier", "slots", "free_slots", "queue")


def encode(report: NodeReport, now_ms: int) -> bytes:
    """A report as stored in Redis, with the Unix milliseconds at which it was heard."""
    stored: dict[str, Any] = {name: getattr(report, name) for name in _AS_IT_IS}
    stored["models"] = [
        {"name": name, "revision": offer.revision, "context_length": offer.context_size}
        for name, offer in report.offers.items()
    ]
    stored["price_per_token_wei"] = str(report.price_per_token_wei)  # may be beyond the 64 bits of orjson
    stored["seen_at_ms"] = now_ms
    return orjson.dumps(stored)


def decode(raw: bytes) -> tuple[NodeReport, int]:
    """Inverse of `encode`: the report, and when it was heard in Unix milliseconds. Raises ValueError."""
    try:
        data: dict[str, Any] = orjson.loads(raw)
        offers = {m["name"]: Offer(m["revision"], m["context_length"]) for m in data["models"]}
        price_wei = int(data["price_per_token_wei"])
        as_it_is = {name: data[name] for name in _AS_IT_IS}
        report = NodeReport(**as_it_is, offers=offers, price_per_token_wei=price_wei)
        return report, int(data["seen_at_ms"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a fleet record: {error!r}") from None


def decode_all(values: Iterable[bytes | None], now_ms: int) -> list[tuple[NodeReport, float]]:
    """Reports with their age in seconds. Expired (None) and malformed values are left out."""
    found: list[tuple[NodeReport, float]] = []
    for raw in values:
        with suppress(ValueError):
            report, seen_at_ms = decode(raw or b"null")
            found.append((report, max(0.0, (now_ms - seen_at_ms) / 1000)))
    return found


class FleetStore:
    """The live nodes through a blocking `redis.Redis` with `decode_responses=False` (Celery workers, keeper APIs)."""

    def __init__(self, redis: Any, now_ms: Callable[[], int]) -> None:
        self._redis = redis
        self._now_ms = now_ms

    def write(self, report: NodeReport) -> None:
        """Publish a report that `HeartbeatVerifier` returned."""
        pipeline = self._redis.pipeline(transaction=False)
        _write(pipeline, report, self._now_ms())
        pipeline.execute()

    def read_all(self) -> list[tuple[NodeReport, float]]:
        """Every live node with the age of its report in seconds."""
        now_ms = self._now_ms()
        names: list[bytes] = self._redis.zrangebyscore(INDEX, now_ms - TTL_SECONDS * 1000, "+inf")
        return decode_all(self._redis.mget([_key(name) for name in names]), now_ms) if names else []


class AsyncFleetStore:
    """The live nodes through `redis.asyncio.Redis`; reads only reports that came since the last call."""

    def __init__(self, redis: Any, now_ms: Callable[[], int]) -> None:
        self._redis = redis
        self._now_ms = now_ms
        self._known: dict[bytes, float] = {}

    async def write_all(self, reports: Iterable[tuple[NodeReport, int]]) -> None:
        """Publish reports, each with the Unix millisecond at which it was heard, in one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        for report, heard_ms in reports:
            _write(pipeline, report, heard_ms)
        await pipeline.execute()

    async def read_changed(self) -> list[tuple[NodeReport, float]]:
        """Live nodes that reported since the last call, with the age of the report in seconds."""
        now_ms = self._now_ms()
        live: list[tuple[bytes, float]] = await self._redis.zrangebyscore(
            INDEX, now_ms - TTL_SECONDS * 1000, "+inf", withscores=True
        )
        names = [name for name, score in live if self._known.get(name) != score]
        found = decode_all(await self._redis.mget([_key(name) for name in names]), now_ms) if names else []
        self._known = dict(live)
        return found


def _write(pipeline: Any, report: NodeReport, heard_ms: int) -> None:
    pipeline.set(PREFIX + str(report.node_id), encode(report, heard_ms), ex=TTL_SECONDS)
    pipeline.zadd(INDEX, {str(report.node_id): heard_ms})
    pipeline.zremrangebyscore(INDEX, "-inf", heard_ms - _FORGET_MS)


def _key(name: bytes) -> str:
    return PREFIX + name.decode()
