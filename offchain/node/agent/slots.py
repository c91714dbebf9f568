"""How many requests run at once, and since when the node takes no more."""

import asyncio
import contextlib
from types import TracebackType


class Slots:
    """A counter with a limit, not a queue: fronts queue, nodes refuse. One event loop only."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def free(self) -> int:
        """Slots that a front may fill; 0 while draining."""
        return 0 if self.draining else self.limit - self.used

    def take(self) -> "_Held | None":
        """A slot, to be used as a context manager; None when there is none."""
        if self.free <= 0:
            return None
        self.used += 1
        self._idle.clear()
        return _Held(self)

    def give_back(self) -> None:
        """A slot is free again; called by leaving the slot's context."""
        self.used -= 1
        if self.used == 0:
            self._idle.set()

    async def drain(self, seconds: float) -> int:
        """Take no more, and wait until all is answered. Returns how many requests were still running in the end."""
        self.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        return self.used


class _Held:
    __slots__ = ("_slots",)

    def __init__(self, slots: Slots) -> None:
        self._slots = slots

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slots.give_back()
