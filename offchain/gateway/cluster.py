"""What the gateways of one operator share through Redis, exchanged twice a second and never on a request's path.

    parallelix:fleet:<node>                     see dispatch/fleet_store.py
    parallelix:minute:<tenant>:<what>:<minute>  hash of amounts by the gateway process that counted them, kept for three minutes
    parallelix:usage:<tenant>:<day>             hash of totals, kept for 400 days
    parallelix:spent:<tenant>                   hash of wei by the gateway process that counted them; each writes its own sum
    parallelix:receipts:<minute>                hash of request id -> packed record, kept for an hour; an id begins with its minute

A gateway counts at once for itself and learns of the others' counts half a second later, so a quota can be overshot by
what the others admit in that time. The last half second of a minute is told and learned in the first seconds of the
next. Each writes its own sum and reads the others', so that telling it twice, taking back what was counted too much, and
a Redis that comes back empty all end in the same sum.
"""

import contextlib
import secrets
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
"""For so long into a minute the counts of the one before are exchanged, too."""
RECEIPTS = "parallelix:receipts:"
SPENT = "parallelix:spent:"
MAX_UNSHARED = 20_000
MAX_AT_ONCE = 10_000
"""Records of one exchange, of which there are two a second: more than a gateway can answer."""
_WEI_PART = 10**9
"""A price is summed in two parts, because a sum in Redis has 63 bits: of some 9 billion requests a day, or 9 billion tokens."""
_FIELDS = ("requests", "prompt_tokens", "completion_tokens", "price_high", "price_low")


@dataclass(slots=True)
class _Totals:
    """What a tenant used in a day, as far as it was not told to Redis."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    price_wei: int = 0

    def amounts(self) -> tuple[int, ...]:
        """In the order of `_FIELDS`."""
        return self.requests, self.prompt_tokens, self.completion_tokens, *divmod(self.price_wei, _WEI_PART)

    def add(self, more: "_Totals") -> None:
        """Take others in."""
        self.requests += more.requests
        self.prompt_tokens += more.prompt_tokens
        self.completion_tokens += more.completion_tokens
        self.price_wei += more.price_wei


def new_request_id(now_ms: int, random: Callable[[int], bytes] = secrets.token_bytes) -> bytes:
    """A request id: 4 bytes of its Unix minute, so that its record can be found, and 28 random ones."""
    return (now_ms // 60_000).to_bytes(4, "big") + random(28)


def minute_of(request_id: bytes) -> int:
    """The Unix minute of an id made here."""
    return int.from_bytes(request_id[:4], "big")


def _to_tell(count: SlidingCount, now: float) -> Iterator[tuple[int, int]]:
    """Windows of a count whose amounts are to be exchanged, with our part."""
    if count.mine_before != (count.told_before or 0) or (
        count.before and now % WINDOW_SECONDS < LATE_SECONDS
    ):
        yield count.window - 1, count.mine_before
    if count.mine or count.others or count.before or count.told:
        yield count.window, count.mine


def _by_minute(records: list[tuple[bytes, bytes]]) -> dict[int, list[bytes]]:
    """Records as the arguments of one HSET a minute: one command for thousands of requests."""
    found: dict[int, list[bytes]] = defaultdict(list)
    for record in records:
        found[minute_of(record[0])] += record
    return found


class ClusterState:
    """One gateway's side of it. `exchange` is called in a loop; everything else only notes down."""

    def __init__(
        self,
        redis: Redis,
        quotas: Quotas,
        keys: Authenticator,
        heard: Callable[[NodeReport, float], None],
        now_ms: Callable[[], int],
        outward: Callable[[NodeReport], NodeReport] = lambda report: report,
    ) -> None:
        """
        Args:
            heard: told of every node that Redis knows, with the age of its report in seconds.
            outward: makes of a report what it means to others.
        """
        self._redis = redis
        self._fleet = AsyncFleetStore(redis, now_ms)
        self._quotas = quotas
        self._keys = keys
        self._heard = heard
        self._now_ms = now_ms
        self._outward = outward
        self._version: bytes | None = b"?"
        self._reports: dict[NodeId, tuple[NodeReport, int]] = {}
        self._records: deque[tuple[bytes, bytes]] = deque(maxlen=MAX_UNSHARED)
        self._usage: defaultdict[tuple[str, int], _Totals] = defaultdict(_Totals)
        self._told_wei: dict[str, int] = {}
        self._name = secrets.token_hex(8)
        self._down = False
        self.url = ""
        """Our base URL, for batch workers; empty until it is known."""

    def report(self, report: NodeReport) -> None:
        """A heartbeat came here."""
        self._reports[report.node_id] = (self._outward(report), self._now_ms())

    def finished(self, entry: RequestRecord, record: bytes) -> None:
        """A request has ended: its packed record and its usage are to be shared."""
        self._records.append((entry.trail.request_id, record))
        if entry.status != "answered":
            return
        day = int(self._now_ms() // 86_400_000)
        totals = self._usage[entry.tenant, day]
        totals.requests += 1
        totals.prompt_tokens += entry.usage[0]
        totals.completion_tokens += entry.usage[1]
        if entry.receipt is not None:
            price = entry.receipt.receipt.price_wei
            totals.price_wei += price
            self._quotas.usage(entry.tenant).spent_wei += price

    async def exchange(self) -> None:
        """Give and take once. A Redis that does not answer is logged once, and nothing is lost."""
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
            raw: dict[bytes, bytes] = await self._redis.hgetall(  # type: ignore[misc]
                f"parallelix:usage:{tenant}:{day}"
            )
            if raw:
                values = {name: int(raw.get(name.encode(), 0)) for name in _FIELDS}
                price = values.pop("price_high") * _WEI_PART + values.pop("price_low")
                found.append({"day": day * 86400, **values, "price_wei": str(price)})
        return found

    async def _give(self) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        reports, self._reports = self._reports, {}
        records = [self._records.popleft() for _ in range(min(len(self._records), MAX_AT_ONCE))]
        usage, self._usage = self._usage, defaultdict(_Totals)
        try:
            if reports:
                await self._fleet.write_all(reports.values())
            for minute, documents in _by_minute(records).items():
                pipeline.execute_command("HSET", RECEIPTS + str(minute), *documents)
                pipeline.expire(RECEIPTS + str(minute), RECEIPT_SECONDS)
            for (tenant, day), totals in usage.items():
                key = f"parallelix:usage:{tenant}:{day}"
                for name, amount in zip(_FIELDS, totals.amounts(), strict=True):
                    pipeline.hincrby(key, name, amount)
                pipeline.expire(key, USAGE_SECONDS)
            if len(pipeline):
                await pipeline.execute()
        except (RedisError, OSError, TimeoutError):
            self._reports = {**reports, **self._reports}
            self._records.extendleft(reversed(records))
            for untold, totals in usage.items():
                self._usage[untold].add(totals)
            raise
        await self._exchange_quotas()
        await self._exchange_spent()

    async def _exchange_spent(self) -> None:
        """Write down what was spent here, learn what was elsewhere by those who have a credit. Saying it twice changes nothing."""
        pipeline = self._redis.pipeline(transaction=False)
        told: dict[str, int] = {}
        for tenant, usage in self._quotas.tenants():
            if usage.spent_wei != self._told_wei.get(tenant, 0):
                told[tenant] = usage.spent_wei
                pipeline.hset(SPENT + tenant, self._name, str(usage.spent_wei))
        credited = self._keys.credited()
        for tenant in credited:
            pipeline.hgetall(SPENT + tenant)
        if not len(pipeline):
            return
        answers: list[dict[bytes, bytes]] = (await pipeline.execute())[len(told) :]
        self._told_wei |= told
        for tenant, parts in zip(credited, answers, strict=True):
            if parts.pop(self._name.encode(), None) is None:
                self._told_wei.pop(tenant, None)  # a Redis that has lost it is told again
            usage = self._quotas.usage(tenant)
            usage.spent_elsewhere_wei = max(usage.spent_elsewhere_wei, sum(map(int, parts.values())))

    async def _exchange_quotas(self) -> None:
        """Write down what we counted, learn what others did. A field of ours that is gone means that Redis lost the others', too."""
        pipeline = self._redis.pipeline(transaction=False)
        now = self._now_ms() / 1000
        told: list[tuple[SlidingCount, int, int]] = []
        for tenant, usage in self._quotas.tenants():
            for what, count in (("requests", usage.requests), ("tokens", usage.tokens)):
                count.roll(now)
                for window, mine in _to_tell(count, now):
                    key = f"parallelix:minute:{tenant}:{what}:{window}"
                    told.append((count, window, mine))
                    pipeline.hset(key, self._name, str(mine))
                    pipeline.expire(key, QUOTA_SECONDS)
                    pipeline.hgetall(key)
        if not told:
            return
        answers: list[Any] = await pipeline.execute()
        for (count, window, mine), new, fields in zip(told, answers[::3], answers[2::3], strict=True):
            everybody = sum(map(int, fields.values()))
            if window == count.window:
                if not new or count.told is None:
                    count.others = everybody - mine
                count.told = mine
            elif window == count.window - 1:
                if not new or count.told_before is None:
                    count.before = everybody
                count.told_before = mine

    async def _be_found(self) -> None:
        """Tell batch workers where we are, and learn how they prove themselves."""
        if not self.url:
            return
        now = self._now_ms() // 1000
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zadd(GATEWAYS, {self.url: now})
        pipeline.zremrangebyscore(GATEWAYS, 0, now - 3600)
        pipeline.set(BATCH_SECRET, secrets.token_bytes(32), nx=True)
        pipeline.get(BATCH_SECRET)
        self._keys.batch_secret = (await pipeline.execute())[-1]

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
                self._keys.take_shared(keys, tenants)
            self._version = version
