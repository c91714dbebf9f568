"""Log lines of the agent: one event a line with its fields, to a rotated file and, unless a view is shown, to stderr."""

import contextlib
import logging
import sys
from pathlib import Path
from typing import TextIO

import structlog

_MAX_BYTES = 16 * 1024 * 1024
_KEEP = 5


class RotatedFile:
    """What structlog prints to: a file that is turned when it is full, and optionally a stream."""

    def __init__(self, path: Path, echo: TextIO | None, max_bytes: int = _MAX_BYTES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._echo, self._max_bytes = path, echo, max_bytes
        self._file = path.open("a")
        self._size = path.stat().st_size

    def write(self, text: str) -> int:
        """Append; a full disk loses lines, not the node."""
        if self._echo is not None:
            self._echo.write(text)
        with contextlib.suppress(OSError):
            self._file.write(text)
            self._size += len(text)
            if self._size > self._max_bytes and text.endswith("\n"):
                self._turn()
        return len(text)

    def flush(self) -> None:
        """Pass on what was written."""
        if self._echo is not None:
            self._echo.flush()
        with contextlib.suppress(OSError):
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _turn(self) -> None:
        self._file.close()
        for number in range(_KEEP - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            if older.exists():
                older.replace(self._path.with_name(f"{self._path.name}.{number + 1}"))
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        self._file = self._path.open("a")
        self._size = 0


def agent_log(data_dir: Path) -> Path:
    """Where the agent's own lines go."""
    return data_dir / "logs" / "agent.log"


def configure(level: str, data_dir: Path, *, echo: bool) -> None:
    """Set structlog up for this process. An unknown level counts as info."""
    output = RotatedFile(agent_log(data_dir), sys.stderr if echo else None)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
        ),
        logger_factory=structlog.PrintLoggerFactory(output),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
