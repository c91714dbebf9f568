"""What gateways exchange of their tenants' quotas, over a real Valkey and a clock that is moved by hand."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from offchain.gateway.cluster import ClusterState
from offchain.gateway.tenants.authenticator import Authenticator
from offchain.scheduler.quotas import QuotaExceededError, Quotas, TenantLimits

LIMITS = TenantLimits(requests_per_minute=10, tokens_per_minute=1_000)


class Gateways:
    """Two that share a Redis."""

    def __init__(self, redis: Redis, folder: Path) -> None:
        self.redis = redis
        self.now = 6_000.0
        authenticator = Authenticator(folder / "keys.json", b"s")
        self.quotas = [Quotas(lambda: self.now) for _ in range(2)]
        self.shared = [
            ClusterState(redis, quotas, authenticator, lambda report, age: None, lambda: int(self.now * 1000))
            for quotas in self.quotas
        ]

    async def exchange(self) -> None:
        """Both, one after the other, twice a second: both have heard of both."""
        for shared in (*self.shared, *self.shared):
            await shared.exchange()
        self.now += 0.5

    def room(self, gateway: int) -> int:
        """How many requests it would still let through in this minute."""
        usage = self.quotas[gateway].usage("t")
        return int(10 - usage.requests.estimate(self.now))


@pytest.fixture
async def gateways(redis_url: str, tmp_path: Path) -> AsyncIterator[Gateways]:
    (tmp_path / "keys.json").write_text("{}")
    (tmp_path / "keys.json").chmod(0o600)
    async with Redis.from_url(redis_url) as redis:
        await redis.flushall()
        yield Gateways(redis, tmp_path)


async def test_exchange__requests_at_one__count_at_the_other(gateways: Gateways) -> None:
    for _ in range(10):
        gateways.quotas[0].admit("t", LIMITS, 1)
    gateways.quotas[1].usage("t")
    gateways.quotas[1].admit("t", LIMITS, 1)  # it cannot know yet
    await gateways.exchange()
    assert gateways.room(1) < 0
    with pytest.raises(QuotaExceededError):
        gateways.quotas[1].admit("t", LIMITS, 1)


async def test_exchange__tokens_corrected_below_the_estimate__are_given_back_everywhere(
    gateways: Gateways,
) -> None:
    gateways.quotas[0].admit("t", LIMITS, 900)
    gateways.quotas[1].admit("t", LIMITS, 10)
    await gateways.exchange()
    with pytest.raises(QuotaExceededError):
        gateways.quotas[1].admit("t", LIMITS, 100)
    gateways.quotas[0].correct("t", 900, 5)
    await gateways.exchange()
    for quotas in gateways.quotas:
        assert quotas.usage("t").tokens.estimate(gateways.now) == 15
    gateways.quotas[1].admit("t", LIMITS, 900)


async def test_exchange__last_half_second_of_a_minute__counts_at_the_other_in_the_next(
    gateways: Gateways,
) -> None:
    gateways.quotas[1].admit("t", LIMITS, 1)
    gateways.now = 6_059.4
    await gateways.exchange()
    for _ in range(9):
        gateways.quotas[0].admit("t", LIMITS, 1)
    gateways.now = 6_060.3
    assert gateways.room(1) == 9
    await gateways.exchange()
    assert gateways.quotas[1].usage("t").requests.previous_window == 10
    assert gateways.room(1) == 0
    assert gateways.quotas[0].usage("t").requests.previous_window == 10


@pytest.mark.parametrize("now", [6_030.0, 6_061.0])
async def test_exchange__redis_comes_back_empty__is_told_again_and_nothing_is_forgotten(
    gateways: Gateways, now: float
) -> None:
    for gateway, requests in ((0, 6), (1, 3)):
        for _ in range(requests):
            gateways.quotas[gateway].admit("t", LIMITS, 1)
    await gateways.exchange()
    gateways.now = now
    await gateways.exchange()
    known = [quotas.usage("t").requests.estimate(now) for quotas in gateways.quotas]
    await gateways.redis.flushall()
    for _ in range(3):
        for shared in gateways.shared:
            await shared.exchange()
            assert [quotas.usage("t").requests.estimate(now) for quotas in gateways.quotas] == known


async def test_exchange__redis_away_over_the_minutes_end__it_is_told_when_it_is_back(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateways.quotas[1].admit("t", LIMITS, 1)
    await gateways.exchange()
    for _ in range(5):
        gateways.quotas[0].admit("t", LIMITS, 1)
    gateways.now = 6_075.0
    await gateways.shared[0].exchange()
    found = await gateways.redis.hvals("parallelix:minute:t:requests:100")  # type: ignore[misc]
    assert sorted(map(int, found)) == [1, 5]
