"""A file that is bounded: when it is full it becomes `name.1`, the one before `name.2`, and the oldest goes.

Only the standard library: `offchain/node/engines/launcher.py` runs in an interpreter without any package.
"""

import contextlib
import logging
import os
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path


class RotatingFile(RotatingFileHandler):
    """A log handler, and a file to append bytes to. A full disk loses lines; nothing is raised and nothing stops.

    Each record is handed to the system before the call returns, so SIGKILL loses none.

    Example:
        >>> log = RotatingFile(Path("receipts.jsonl"), max_bytes=64 * 1024 * 1024, keep=7)
        >>> log.append(b'{"receipt": 1}\\n')
    """

    def __init__(self, path: Path, max_bytes: int, keep: int, mode: int = 0o600) -> None:
        """
        Args:
            max_bytes: size of one file at most.
            keep: older files beside the current one.
            mode: permissions of a new file, before the umask.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._permissions = mode
        super().__init__(
            path, maxBytes=max_bytes, backupCount=keep, encoding="utf-8", errors="surrogateescape"
        )

    def append(self, data: bytes) -> None:
        """Append bytes as they are."""
        self.terminator = ""
        # `surrogateescape` brings bytes that are not UTF-8 through the handler unchanged.
        self.emit(logging.makeLogRecord({"msg": data.decode("utf-8", "surrogateescape")}))

    def _open(self) -> TextIOWrapper:
        # Opened with its permissions: set afterwards, they would leave a moment to read it.
        handle = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, self._permissions)
        return os.fdopen(handle, "a", encoding=self.encoding, errors=self.errors)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (the standard library's name)
        """A line could not be written: the next one opens the file again."""
        stream, self.stream = self.stream, None
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.close()
