"""Random bytes of the system for what each request needs: its id and its seed."""

import os

_PAGE = 4096


class Entropy:
    """Fetches a page of random bytes at a time: one system call for a hundred requests instead of two for each.

    A process that forks must not use it: both processes would go on with the same bytes.
    """

    __slots__ = ("_at", "_page")

    def __init__(self) -> None:
        self._page = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        """Fresh bytes, a page at the most."""
        begin, end = self._at, self._at + size
        if end > len(self._page):
            self._page, begin, end = os.urandom(_PAGE), 0, size
        self._at = end
        return self._page[begin:end]

    def bits(self) -> int:
        """64 fresh bits."""
        return int.from_bytes(self.take(8), "big")
