"""Structured logs: one JSON object a line on stderr, with ids; never a secret, a prompt or RPC credentials."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from offchain.runtime.redaction import REDACTED, redact_urls

_SECRET_KEYS = frozenset(
    {"password", "secret", "api_key", "authorization", "private_key", "prompt", "messages"}
)
_NOISY = (
    "urllib3", "web3", "kombu", "aiohttp.access", "httpx", "asyncio", "redbeat", "celery.beat", "celery.redirected",
)  # fmt: skip


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
            # A frame's local variables may be keys and prompts: log where it failed, never with which values.
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
        # `_record` is the standard library's own record, which `_drop_meta` takes out afterwards.
        if key != "_record":
            event[key] = _without_secrets(key, value)
    return event


def _without_secrets(key: object, value: Any) -> Any:
    if str(key).lower() in _SECRET_KEYS:
        return REDACTED
    if isinstance(value, str):
        return redact_urls(value)
    if isinstance(value, dict):
        return {name: _without_secrets(name, part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets("", part) for part in value]
    return value


def _drop_meta(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.pop("_record", None)
    event.pop("_from_structlog", None)
    return event
