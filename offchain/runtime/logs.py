"""Structured logs: one JSON object a line on stderr, with ids; never a secret, a prompt or RPC credentials."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_SECRET_KEYS = frozenset(
    {"password", "secret", "api_key", "authorization", "private_key", "prompt", "messages"}
)
_CREDENTIALS = re.compile(r"(?<=://)[^\s/'\"]*@")
_NOISY = (
    "urllib3",
    "web3",
    "kombu",
    "aiohttp.access",
    "httpx",
    "asyncio",
    "redbeat",
    "celery.beat",
    "celery.redirected",
)


def configure_logs(level: str, process: str) -> None:
    """Set up structlog and the standard library's logging for this process.

    Args:
        level: debug, info, warning or error; an unknown word means info.
        process: name that every line carries.
    """
    number = getattr(logging, level.upper(), logging.INFO)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.ExceptionRenderer(
            # A frame's local variables may be keys and prompts: places are told, values never.
            structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=20)
        ),
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(process=process)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[_drop_meta, structlog.processors.JSONRenderer()]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.INFO))
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace what must not be logged, however deep: secrets by their key's name, credentials inside URLs."""
    for key, value in event.items():
        if key != "_record":
            event[key] = "[redacted]" if key.lower() in _SECRET_KEYS else _redacted(value)
    return event


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, dict):
        return {k: "[redacted]" if str(k).lower() in _SECRET_KEYS else _redacted(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(item) for item in value]
    return value


def without_credentials(text: str) -> str:
    """The text, its URLs without user and password."""
    return _CREDENTIALS.sub("", text)


def _drop_meta(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.pop("_record", None)
    event.pop("_from_structlog", None)
    return event
