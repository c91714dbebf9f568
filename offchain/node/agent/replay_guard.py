"""Which tickets were used already: a ticket admits one request."""

import os
import struct
from pathlib import Path

from offchain.node.errors import ServeError

MAX_LIFETIME_MS = 5 * 60_000
"""No ticket may live longer."""
MAX_SKEW_MS = 5_000
"""A gateway's clock may be this much ahead of the node's."""


class TicketError(ServeError):
    """The request's ticket is missing, wrong or used."""


class ReplayGuard:
    """Remembers every accepted ticket until it expires; survives SIGKILL through an append-only journal.

    Two generations, each at least as long as a ticket can live: when the current one is old enough, the previous one is
    dropped, so memory and both files are bounded.
    """

    _ENTRY = struct.Struct(">32sQ")

    def __init__(self, folder: Path | None, now_ms: int, capacity: int = 500_000) -> None:
        self._capacity = capacity
        self._current: dict[bytes, int] = {}
        self._previous: dict[bytes, int] = {}
        # A ticket may be issued this far ahead and then live this long: after both, none can still be good.
        self._turn_ms = now_ms + MAX_LIFETIME_MS + MAX_SKEW_MS
        self._file = -1
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            # Both go into one generation, which is kept for a full ticket's life from now.
            for name in ("tickets.old", "tickets.log"):
                self._load(folder / name, now_ms)
            self._previous, self._current = self._current, {}
            self._begin(folder)
        self._folder = folder

    def _load(self, path: Path, now_ms: int) -> None:
        if not path.exists():
            return
        data = path.read_bytes()
        whole = len(data) - len(data) % self._ENTRY.size  # SIGKILL may leave half an entry
        for digest, expires_ms in self._ENTRY.iter_unpack(data[:whole]):
            if expires_ms > now_ms:
                self._current[digest] = expires_ms

    def _begin(self, folder: Path) -> None:
        """Begin a new journal, after writing the previous generation to a file of its own."""
        old = folder / "tickets.old.new"
        old.write_bytes(b"".join(self._ENTRY.pack(key, expires) for key, expires in self._previous.items()))
        # Before the new journal truncates the other file: no ticket is ever in neither.
        old.replace(folder / "tickets.old")
        self._file = os.open(
            folder / "tickets.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600
        )

    def admit(self, digest: bytes, expires_ms: int, now_ms: int) -> None:
        """Remember a ticket as used.

        Raises:
            TicketError: it was used before (409), or more tickets are alive than can be remembered (429).
        """
        if now_ms >= self._turn_ms:
            self._turn(now_ms)
        if digest in self._current or digest in self._previous:
            raise TicketError(
                409, "replayed_ticket", "this ticket was used before; send a new one for each attempt"
            )
        if len(self._current) >= self._capacity:
            raise TicketError(429, "no_slot", "too many tickets are alive on this node; use another node")
        self._current[digest] = expires_ms
        if self._file >= 0:
            # Unbuffered: the kernel keeps it through SIGKILL.
            os.write(self._file, self._ENTRY.pack(digest, expires_ms))

    def _turn(self, now_ms: int) -> None:
        self._previous, self._current = self._current, {}
        self._turn_ms = now_ms + MAX_LIFETIME_MS + MAX_SKEW_MS
        if self._folder is not None:
            os.close(self._file)
            self._begin(self._folder)

    def close(self) -> None:
        """Close the journal."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
