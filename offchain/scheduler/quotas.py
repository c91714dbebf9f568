"""Who may come in, and who goes first.

*Quotas* bound what a tenant may ask for in a minute. *Fairness* orders those who wait: inside a priority class the tenant
that has been given the least work (virtual token counter: Sheng et al., "Fairness in Serving Large Language Models",
OSDI 2024) goes first; a tenant that comes back from idling starts level with the others, so idling saves nothing up.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from offchain.errors import TransientError
from offchain.scheduler.work import Priority

WINDOW_SECONDS = 60


class QuotaExceededError(TransientError):
    """A tenant has asked for more than it may.

    Attributes:
        what: `requests`, `tokens`, `concurrency` or `credit`.
        retry_after_seconds: when there is room again; for credit never by itself.
    """

    def __init__(self, what: str, limit: int, retry_after_seconds: float) -> None:
        if what == "credit":
            message = f"the credit of {limit} wei is used up"
        elif what == "concurrency":
            message = f"the limit of {limit} requests at the same time is reached"
        else:
            message = f"the limit of {limit} {what} per minute is reached"
        super().__init__(message)
        self.what = what
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What a tenant may do; None is no limit.

    Attributes:
        credit_wei: what all its answers since the first may cost together.
    """

    priority: Priority = Priority.INTERACTIVE
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None
    credit_wei: int | None = None


@dataclass(slots=True)
class SlidingCount:
    """Amount of the last minute, from two fixed windows: the older one counts by the share of it that is still inside.

    Attributes:
        window: number of the current window.
        mine, others: what this process added in it, and what other processes did, as far as is known.
        told: of `mine` the others were told this; None when nothing yet.
        before: what all added in the window before it; of that `mine_before` was this process's, and `told_before` is what
            the others know of it.
    """

    window: int = 0
    mine: int = 0
    others: int = 0
    told: int | None = None
    before: int = 0
    mine_before: int = 0
    told_before: int | None = None

    def roll(self, now: float) -> None:
        """Go on to the window that holds `now` (Unix seconds)."""
        window = now // WINDOW_SECONDS
        if window != self.window:
            if window == self.window + 1:
                self.before = self.mine + self.others
                self.mine_before, self.told_before = self.mine, self.told
            else:
                self.before, self.mine_before, self.told_before = 0, 0, None
            self.window, self.mine, self.others, self.told = int(window), 0, 0, None

    def estimate(self, now: float) -> float:
        """Amount of the last minute."""
        self.roll(now)
        share = 1 - now % WINDOW_SECONDS / WINDOW_SECONDS
        return self.mine + self.others + self.before * share

    def add(self, amount: int, now: float) -> None:
        """Count an amount; a negative one takes back what was counted too much."""
        if now // WINDOW_SECONDS != self.window:
            self.roll(now)
        self.mine += amount

    def until_room(self, limit: int, amount: int, now: float) -> float:
        """Seconds until `amount` fits under `limit`, if nothing more is added; an upper bound of one window."""
        left = WINDOW_SECONDS - now % WINDOW_SECONDS
        current = self.mine + self.others
        if current + amount <= limit and self.before:
            surplus = self.estimate(now) + amount - limit
            return min(left, max(0.0, surplus / self.before * WINDOW_SECONDS))
        if current == 0:
            return left
        return left + max(0.0, WINDOW_SECONDS * (1 - max(0, limit - amount) / current))


@dataclass(slots=True)
class Usage:
    """What a tenant uses now.

    Attributes:
        spent_wei: what its answers here have cost.
        spent_elsewhere_wei: what those of other processes have, as far as is known.
    """

    requests: SlidingCount = field(default_factory=SlidingCount)
    tokens: SlidingCount = field(default_factory=SlidingCount)
    running: int = 0
    spent_wei: int = 0
    spent_elsewhere_wei: int = 0


class Quotas:
    """Usage of all tenants, and the checks against their limits. Time is Unix seconds, shared by all gateways."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._usage: dict[str, Usage] = {}

    def usage(self, tenant: str) -> Usage:
        """Usage of a tenant."""
        found = self._usage.get(tenant)
        if found is None:
            found = self._usage[tenant] = Usage()
        return found

    def tenants(self) -> Iterator[tuple[str, Usage]]:
        """All tenants with their usage."""
        return iter(list(self._usage.items()))

    def admit(self, tenant: str, limits: TenantLimits, cost: int) -> None:
        """Count a request in, at its expected cost in tokens. Raises QuotaExceededError; then nothing is counted."""
        usage = self.usage(tenant)
        now = self._now()
        if limits.credit_wei is not None and usage.spent_wei + usage.spent_elsewhere_wei >= limits.credit_wei:
            raise QuotaExceededError("credit", limits.credit_wei, 0.0)
        if limits.max_concurrent is not None and usage.running >= limits.max_concurrent:
            raise QuotaExceededError("concurrency", limits.max_concurrent, 1.0)
        if limits.requests_per_minute is not None:
            _check("requests", usage.requests, limits.requests_per_minute, 1, now)
        if limits.tokens_per_minute is not None:
            _check("tokens", usage.tokens, limits.tokens_per_minute, cost, now)
        usage.requests.add(1, now)
        usage.tokens.add(cost, now)
        usage.running += 1

    def leave(self, tenant: str) -> None:
        """A request has ended."""
        self.usage(tenant).running -= 1

    def settle(self, tenant: str, expected: int, actual: int) -> None:
        """A request that has ended used `actual` tokens."""
        self.usage(tenant).tokens.add(actual - expected, self._now())


def _check(what: str, count: SlidingCount, limit: int, amount: int, now: float) -> None:
    if count.estimate(now) + amount > limit:
        raise QuotaExceededError(what, limit, max(1.0, count.until_room(limit, amount, now)))
