"""What the gateways of one operator share through Redis: exchanged twice a second, never while a request waits.

    parallelix:fleet:<node>                     see dispatch/fleet_store.py
    parallelix:minute:<tenant>:<what>:<minute>  hash: gateway process -> amount that it counted; kept for three minutes
    parallelix:usage:<tenant>:<day>             hash of totals; kept for 400 days
    parallelix:spent:<tenant>                   hash: gateway process -> wei that its answers cost
    parallelix:receipts:<minute>                hash: request id -> packed record; kept for an hour (an id begins with its minute)

A gateway counts its own requests at once and learns of the others' half a second later, so a quota can be overshot by what
the others admit in that time. Counts of a minute's last half second are exchanged in the first `LATE_SECONDS` of the next
minute. Each gateway writes its own sum, not a difference, and reads the others' sums. So publishing it twice, correcting it
downwards, and a Redis that comes back empty all lead to the same total.
"""

import contextlib
import secrets
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from offchain.dispatch.fleet_store import AsyncFleetStore
from offchain.domain.types import NodeId
from offchain.gateway.batches.store import GATEWAYS
from offchain.gateway.records.request_log import RequestRecord
from offchain.gateway.tenants.authenticator import BATCH_SECRET, Authenticator
from offchain.gateway.tenants.registry import KEYS, TENANT, VERSION, decode_tenants
from offchain.scheduler.fleet import NodeReport
from offchain.scheduler.quotas import WINDOW_SECONDS, Quotas, SlidingCount

log = structlog.get_logger("gateway")

RECEIPT_SECONDS = 3600
USAGE_SECONDS = 400 * 86400
QUOTA_SECONDS = 180
LATE_SECONDS = 5
"""Seconds into a minute during which the counts of the previous minute are exchanged, too."""
RECEIPTS = "parallelix:receipts:"
SPENT = "parallelix:spent:"
MAX_UNSHARED = 20_000
MAX_AT_ONCE = 10_000
"""Records that one exchange writes. There are two exchanges a second: more than a gateway can answer requests."""
_WEI_PART = 10**9
"""A price is summed in two parts: a Redis integer has 63 bits, which 10 tokens at 10^18 wei would overflow."""
_COUNTED = ("requests", "prompt_tokens", "completion_tokens")


def new_request_id(now_ms: int, random: Callable[[int], bytes] = secrets.token_bytes) -> bytes:
    """A request id, 32 bytes: its Unix minute in 4, by which its record is found, then 28 random ones."""
    return (now_ms // 60_000).to_bytes(4, "big") + random(28)


def minute_of(request_id: bytes) -> int:
    """The Unix minute in a request id of `new_request_id`."""
    return int.from_bytes(request_id[:4], "big")


def _to_publish(count: SlidingCount, now: float) -> Iterator[tuple[int, int]]:
    """Windows of a count that are to be exchanged now, each with this process's amount."""
    if count.own_previous != (count.published_previous or 0) or (
        count.previous_window and now % WINDOW_SECONDS < LATE_SECONDS
    ):
        yield count.window - 1, count.own_previous
    if count.own or count.others or count.previous_window or count.published:
        yield count.window, count.own


def _by_minute(records: list[tuple[bytes, bytes]]) -> dict[int, list[bytes]]:
    """Records by minute, as the arguments of one HSET: one command for thousands of requests."""
    found: dict[int, list[bytes]] = defaultdict(list)
    for record in records:
        found[minute_of(record[0])] += record
    return found


class ClusterState:
    """One gateway's side of the exchange. `exchange` runs in a loop; `report` and `finished` only take notes for it."""

    def __init__(
        self,
        redis: Redis,
        quotas: Quotas,
        authenticator: Authenticator,
        heard: Callable[[NodeReport, float], None],
        now_ms: Callable[[], int],
        outward: Callable[[NodeReport], NodeReport] = lambda report: report,
    ) -> None:
        """`heard` is called with every report that another gateway published, and its age in seconds. `outward` changes a
        report for other processes, e.g. the address of a node that dialled in."""
        self._redis = redis
        self._fleet = AsyncFleetStore(redis, now_ms)
        self._quotas = quotas
        self._authenticator = authenticator
        self._heard = heard
        self._now_ms = now_ms
        self._outward = outward
        # no version of Redis: the first exchange reads all tenants
        self._version: bytes | None = b"?"
        self._reports: dict[NodeId, tuple[NodeReport, int]] = {}
        self._records: deque[tuple[bytes, bytes]] = deque(maxlen=MAX_UNSHARED)
        self._usage: defaultdict[tuple[str, int], Counter[str]] = defaultdict(Counter)
        """(tenant, Unix day) -> what is not in Redis yet: `_COUNTED` and `price_wei`."""
        self._published_wei: dict[str, int] = {}
        self._name = secrets.token_hex(8)
        self._down = False
        self.url = ""
        """Our base URL, for batch workers; empty until it is known."""

    def report(self, report: NodeReport) -> None:
        """A heartbeat came to this gateway: publish its report."""
        self._reports[report.node_id] = (self._outward(report), self._now_ms())

    def finished(self, record: RequestRecord, packed: bytes) -> None:
        """A request has ended: publish its packed record and its usage."""
        self._records.append((record.trace.request_id, packed))
        if record.status != "answered":
            return
        totals = self._usage[record.tenant, int(self._now_ms() // 86_400_000)]
        totals["requests"] += 1
        totals["prompt_tokens"] += record.usage[0]
        totals["completion_tokens"] += record.usage[1]
        if record.receipt is not None:
            price = record.receipt.receipt.price_wei
            totals["price_wei"] += price
            self._quotas.usage(record.tenant).spent_wei += price

    async def exchange(self) -> None:
        """Write and read once. A Redis that does not answer is logged once; what was not written is kept for the next time."""
        try:
            await self._give()
            await self._take()
            await self._be_found()
            if self._down:
                log.info("redis.back")
            self._down = False
        except (RedisError, OSError, TimeoutError) as error:
            if not self._down:
                log.warning("redis.unavailable", error=type(error).__name__)
            self._down = True

    async def record(self, request_id: bytes) -> dict[str, Any] | None:
        """The record of a request that another gateway served, or None."""
        with contextlib.suppress(RedisError, OSError, TimeoutError, ValueError):
            raw = await self._redis.hget(RECEIPTS + str(minute_of(request_id)), request_id)  # type: ignore[arg-type, misc]
            if raw is not None:
                return RequestRecord.unpack(request_id, raw).to_json()
        return None

    async def usage(self, tenant: str, days: int) -> list[dict[str, Any]]:
        """Totals of a tenant for the last `days` days, newest first. Raises RedisError."""
        await self._give()
        today = int(self._now_ms() // 86_400_000)
        found = []
        for day in range(today, today - days, -1):
            key = f"parallelix:usage:{tenant}:{day}"
            raw: dict[bytes, bytes] = await self._redis.hgetall(key)  # type: ignore[misc]
            if raw:
                values = {name: int(raw.get(name.encode(), 0)) for name in _COUNTED}
                price = int(raw.get(b"price_high", 0)) * _WEI_PART + int(raw.get(b"price_low", 0))
                found.append({"day": day * 86400, **values, "price_wei": str(price)})
        return found

    async def _give(self) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        reports, self._reports = self._reports, {}
        records = [self._records.popleft() for _ in range(min(len(self._records), MAX_AT_ONCE))]
        usage, self._usage = self._usage, defaultdict(Counter)
        try:
            if reports:
                await self._fleet.write_all(reports.values())
            for minute, documents in _by_minute(records).items():
                pipeline.execute_command("HSET", RECEIPTS + str(minute), *documents)
                pipeline.expire(RECEIPTS + str(minute), RECEIPT_SECONDS)
            for (tenant, day), totals in usage.items():
                key = f"parallelix:usage:{tenant}:{day}"
                for name in _COUNTED:
                    pipeline.hincrby(key, name, totals[name])
                high, low = divmod(totals["price_wei"], _WEI_PART)
                pipeline.hincrby(key, "price_high", high)
                pipeline.hincrby(key, "price_low", low)
                pipeline.expire(key, USAGE_SECONDS)
            if len(pipeline):
                await pipeline.execute()
        except (RedisError, OSError, TimeoutError):
            self._reports = {**reports, **self._reports}  # a report that came meanwhile is the newer one
            self._records.extendleft(reversed(records))
            for unwritten, totals in usage.items():
                self._usage[unwritten].update(totals)
            raise
        await self._exchange_quotas()
        await self._exchange_spent()

    async def _exchange_spent(self) -> None:
        """Write what tenants spent here; read what those with a limited credit spent elsewhere. Safe to repeat."""
        pipeline = self._redis.pipeline(transaction=False)
        published: dict[str, int] = {}
        for tenant, usage in self._quotas.tenants():
            if usage.spent_wei != self._published_wei.get(tenant, 0):
                published[tenant] = usage.spent_wei
                pipeline.hset(SPENT + tenant, self._name, str(usage.spent_wei))
        credited = self._authenticator.credited()
        for tenant in credited:
            pipeline.hgetall(SPENT + tenant)
        if not len(pipeline):
            return
        # the answers of the HSETs come first
        answers: list[dict[bytes, bytes]] = (await pipeline.execute())[len(published) :]
        self._published_wei |= published
        for tenant, parts in zip(credited, answers, strict=True):
            if parts.pop(self._name.encode(), None) is None:
                self._published_wei.pop(tenant, None)  # Redis has lost our sum: write it again next time
            usage = self._quotas.usage(tenant)
            # a Redis that came back empty must not give credit back
            usage.spent_elsewhere_wei = max(usage.spent_elsewhere_wei, sum(map(int, parts.values())))

    async def _exchange_quotas(self) -> None:
        """Write this process's counts and read the others'. If our field is gone, Redis has lost the others' counts, too."""
        pipeline = self._redis.pipeline(transaction=False)
        now = self._now_ms() / 1000
        exchanged: list[tuple[SlidingCount, int, int]] = []
        for tenant, usage in self._quotas.tenants():
            for what, count in (("requests", usage.requests), ("tokens", usage.tokens)):
                count.roll(now)
                for window, own in _to_publish(count, now):
                    key = f"parallelix:minute:{tenant}:{what}:{window}"
                    exchanged.append((count, window, own))
                    pipeline.hset(key, self._name, str(own))
                    pipeline.expire(key, QUOTA_SECONDS)
                    pipeline.hgetall(key)
        if not exchanged:
            return
        answers: list[Any] = await pipeline.execute()
        # of HSET, EXPIRE and HGETALL for each: whether our field is new, and everybody's fields
        for (count, window, own), new, fields in zip(exchanged, answers[::3], answers[2::3], strict=True):
            everybody = sum(map(int, fields.values()))
            if window == count.window:
                if not new or count.published is None:
                    count.others = everybody - own
                count.published = own
            elif window == count.window - 1:
                if not new or count.published_previous is None:
                    count.previous_window = everybody
                count.published_previous = own

    async def _be_found(self) -> None:
        """Publish our address for batch workers, and read the secret with which they authenticate."""
        if not self.url:
            return
        now = self._now_ms() // 1000
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zadd(GATEWAYS, {self.url: now})
        pipeline.zremrangebyscore(GATEWAYS, 0, now - 3600)
        pipeline.set(BATCH_SECRET, secrets.token_bytes(32), nx=True)  # the first one stays
        pipeline.get(BATCH_SECRET)
        self._authenticator.batch_secret = (await pipeline.execute())[-1]

    async def _take(self) -> None:
        for report, age in await self._fleet.read_changed():
            self._heard(report, age)
        version = await self._redis.get(VERSION)
        if version != self._version:
            names = [key async for key in self._redis.scan_iter(match=TENANT + "*", count=1000)]
            tenants = decode_tenants(await self._redis.mget(names)) if names else {}
            raw: dict[bytes, bytes] = await self._redis.hgetall(KEYS)  # type: ignore[misc]
            keys = {digest.decode(): name.decode() for digest, name in raw.items()}
            if keys or tenants or self._version == b"?":
                self._authenticator.take_shared(keys, tenants)
            self._version = version
