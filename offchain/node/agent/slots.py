"""How many requests run at once, and whether the node takes more."""

import asyncio
import contextlib


class Slots:
    """A counter with a limit, not a queue: gateways queue requests, nodes refuse them. Not thread-safe."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def free(self) -> int:
        """Slots that gateways may fill; 0 while draining."""
        return 0 if self.draining else self.limit - self.used  # gateways stop sending before the port closes

    def take(self) -> contextlib.ExitStack | None:
        """A slot, to be used as a context manager; None when all are taken or the node drains."""
        if self.free <= 0:
            return None
        self.used += 1
        self._idle.clear()
        held = contextlib.ExitStack()
        held.callback(self._give_back)
        return held

    def _give_back(self) -> None:
        self.used -= 1
        if self.used == 0:
            self._idle.set()

    async def drain(self, seconds: float) -> int:
        """Take no more requests, and wait at most `seconds` for running ones. Returns how many were still running then."""
        self.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        return self.used
