"""Quotas: what a tenant may ask for in a minute, at the same time, and in all.

A minute is measured by a sliding count over two fixed windows (see `SlidingCount`), so a gateway keeps two numbers a tenant
and gateways can add theirs up through Redis (`gateway.cluster`). The order of waiting tenants is in `fair_queue`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from offchain.errors import TransientError
from offchain.scheduler.work import Priority

WINDOW_SECONDS = 60


class QuotaExceededError(TransientError):
    """A tenant asked for more than its limits allow.

    Attributes:
        what: `requests`, `tokens`, `concurrency` or `credit`.
        retry_after_seconds: when the request may be admitted; 0 for `credit`, which only the operator can raise.
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
    """Limits of a tenant; None is no limit.

    Attributes:
        credit_wei: what all answers of the tenant together may cost.
    """

    priority: Priority = Priority.INTERACTIVE
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None
    credit_wei: int | None = None


@dataclass(slots=True)
class SlidingCount:
    """Amount of the last 60 s, from two fixed windows. The older one counts by its share that is still inside::

        |---- previous_window ----|---- own + others ----|
                     |<---------- last 60 s -------->| now

    Attributes:
        window: number of the current window: Unix seconds // 60.
        own: what this process added in the current window.
        others: what the other processes added in it, as far as this one knows.
        published: the part of `own` that the other processes already know; None when they know nothing of it.
        previous_window: what all processes added in the previous window.
        own_previous, published_previous: `own` and `published` of the previous window.
    """

    window: int = 0
    own: int = 0
    others: int = 0
    published: int | None = None
    previous_window: int = 0
    own_previous: int = 0
    published_previous: int | None = None

    def roll(self, now: float) -> None:
        """Move on to the window that holds `now` (Unix seconds)."""
        window = now // WINDOW_SECONDS
        if window != self.window:
            if window == self.window + 1:
                self.previous_window = self.own + self.others
                self.own_previous, self.published_previous = self.own, self.published
            else:
                self.previous_window, self.own_previous, self.published_previous = 0, 0, None
            self.window, self.own, self.others, self.published = int(window), 0, 0, None

    def estimate(self, now: float) -> float:
        """Amount of the last 60 s."""
        self.roll(now)
        share = 1 - now % WINDOW_SECONDS / WINDOW_SECONDS
        return self.own + self.others + self.previous_window * share

    def add(self, amount: int, now: float) -> None:
        """Count an amount; a negative one corrects what was counted too much."""
        if now // WINDOW_SECONDS != self.window:
            self.roll(now)
        self.own += amount

    def until_room(self, limit: int, amount: int, now: float) -> float:
        """Seconds until `amount` fits under `limit` if nothing more is added: an upper bound, within two windows."""
        left = WINDOW_SECONDS - now % WINDOW_SECONDS
        current = self.own + self.others
        if current + amount <= limit and self.previous_window:
            surplus = self.estimate(now) + amount - limit
            return min(left, max(0.0, surplus / self.previous_window * WINDOW_SECONDS))
        if current == 0:
            return left
        return left + max(0.0, WINDOW_SECONDS * (1 - max(0, limit - amount) / current))


@dataclass(slots=True)
class Usage:
    """Usage of a tenant.

    Attributes:
        spent_wei: what answers of this process have cost.
        spent_elsewhere_wei: what answers of other processes have cost, as far as this one knows.
    """

    requests: SlidingCount = field(default_factory=SlidingCount)
    tokens: SlidingCount = field(default_factory=SlidingCount)
    running: int = 0
    spent_wei: int = 0
    spent_elsewhere_wei: int = 0


class Quotas:
    """Usage of all tenants, and the checks against their limits. Windows begin at whole Unix minutes on all gateways."""

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
        return iter(list(self._usage.items()))  # a copy: the exchange waits for Redis while requests come in

    def admit(self, tenant: str, limits: TenantLimits, cost: int) -> None:
        """Admit a request of this expected cost (tokens) and count it. Raises QuotaExceededError; then nothing is counted."""
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
        """A request has ended; it no longer counts as running."""
        self.usage(tenant).running -= 1

    def correct(self, tenant: str, expected: int, actual: int) -> None:
        """Replace the expected tokens of a request that has ended by its actual ones."""
        self.usage(tenant).tokens.add(actual - expected, self._now())


def _check(what: str, count: SlidingCount, limit: int, amount: int, now: float) -> None:
    if count.estimate(now) + amount > limit:
        raise QuotaExceededError(what, limit, max(1.0, count.until_room(limit, amount, now)))
