"""Which gateway signers bonded keepers list on chain, with a cache: a request must not wait for the RPC endpoint."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from offchain.domain.types import Address
from offchain.errors import TransientError


@dataclass(slots=True)
class _Known:
    listed: bool
    asked_at: float


@dataclass
class GatewayList:
    """`isGateway` with a bounded cache: answers from memory, refreshes in the background, and keeps the last answer while
    the RPC endpoint is down.

    Attributes:
        fresh_seconds: the chain is asked about a listed signer again after this long; the request does not wait.
        stale_seconds: a listed signer is no longer trusted when the chain has not answered for this long.
        refuse_seconds: the chain is asked about an unlisted signer again only after this long.
        questions_per_second: unknown signers beyond this rate are refused unasked, so that forged tickets (each of
            which recovers to another address) cannot flood the RPC endpoint.
    """

    lookup: Callable[[Address], Awaitable[bool]]
    clock: Callable[[], float] = time.monotonic
    fresh_seconds: float = 15.0
    stale_seconds: float = 3600.0
    refuse_seconds: float = 2.0
    capacity: int = 1024
    questions_per_second: float = 20.0
    _known: dict[Address, _Known] = field(default_factory=dict, init=False)
    _asking: dict[Address, asyncio.Task[bool]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._allowance = self.questions_per_second
        self._allowed_at = self.clock()

    async def __call__(self, signer: Address) -> bool:
        """Whether the signer is listed; False when that cannot be found out."""
        known = self._known.get(signer)
        now = self.clock()
        if known is not None:
            age = now - known.asked_at
            if known.listed and age < self.stale_seconds:
                if age >= self.fresh_seconds:
                    self._ask(signer)
                return True
            if not known.listed and age < self.refuse_seconds:
                return False
        if not self._may_ask(now):
            return False
        try:
            # Others wait for the same task; one caller that leaves must not end it.
            return await asyncio.shield(self._ask(signer))
        except TransientError:
            return False

    def _may_ask(self, now: float) -> bool:
        # A token bucket that holds the questions of one second at most.
        rate = self.questions_per_second
        self._allowance = min(rate, self._allowance + (now - self._allowed_at) * rate)
        self._allowed_at = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    def _ask(self, signer: Address) -> asyncio.Task[bool]:
        # One question at a time about each signer, however many requests wait for its answer.
        task = self._asking.get(signer)
        if task is None:
            task = self._asking[signer] = asyncio.ensure_future(self._find(signer))
            task.add_done_callback(lambda done: self._asked(signer, done))
        return task

    def _asked(self, signer: Address, task: asyncio.Task[bool]) -> None:
        self._asking.pop(signer, None)
        if not task.cancelled():
            task.exception()  # a failed refresh is retried by the next request

    async def _find(self, signer: Address) -> bool:
        listed = await self.lookup(signer)
        if len(self._known) >= self.capacity and signer not in self._known:
            unlisted = next((key for key, known in self._known.items() if not known.listed), None)
            # Forgers fill the cache with unlisted signers: those go first.
            self._known.pop(unlisted if unlisted is not None else next(iter(self._known)))
        self._known[signer] = _Known(listed, self.clock())
        return listed
