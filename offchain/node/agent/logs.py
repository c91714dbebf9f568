"""Log lines of the agent: one event a line with its fields, to a rotated file and, unless a view is shown, to stderr."""

import logging
import sys
from pathlib import Path

import structlog

from offchain.node.rotating_file import RotatingFile
from offchain.runtime.logs import redact

_MAX_BYTES = 16 * 1024 * 1024
_KEEP = 5
_READABLE_BY_UMASK = 0o666


def agent_log(data_dir: Path) -> Path:
    """Where the agent's own lines go."""
    return data_dir / "logs" / "agent.log"


def configure(level: str, data_dir: Path, *, echo: bool) -> None:
    """Set structlog up for this process. An unknown level counts as info.

    Args:
        echo: print each line to stderr, too.
    """
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    lines = logging.getLogger("offchain")
    lines.setLevel(number)
    lines.propagate = False
    lines.handlers[:] = [RotatingFile(agent_log(data_dir), _MAX_BYTES, _KEEP, _READABLE_BY_UMASK)]
    if echo:
        lines.addHandler(logging.StreamHandler(sys.stderr))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            # After exceptions became text, since that may hold URLs with keys.
            redact,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
