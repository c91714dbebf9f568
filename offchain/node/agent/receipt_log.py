"""The node's own copy of every receipt it signed: what it shows when somebody says that it was down."""

import contextlib
import os
from pathlib import Path

_MAX_BYTES = 64 * 1024 * 1024
_KEEP = 7


class ReceiptLog:
    """One JSON receipt a line, in files that are turned by size; bounded, and a full disk stops nothing.

    Each line is written with one system call, so SIGKILL loses none that was answered.
    """

    def __init__(self, folder: Path, max_bytes: int = _MAX_BYTES, keep: int = _KEEP) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "receipts.jsonl"
        self._max_bytes, self._keep = max_bytes, keep
        self._open()

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = os.fstat(self._file).st_size

    def append(self, receipt: bytes) -> None:
        """Keep one receipt."""
        with contextlib.suppress(OSError):
            self._size += os.write(self._file, receipt + b"\n")
            if self._size >= self._max_bytes:
                self._turn()

    def _turn(self) -> None:
        os.close(self._file)
        for number in range(self._keep - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            if older.exists():
                older.replace(self._path.with_name(f"{self._path.name}.{number + 1}"))
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        self._open()

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
