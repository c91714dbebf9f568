"""What commands on the agent's own machine can find out about the running agent."""

import json
from dataclasses import dataclass
from typing import Any

import httpx

from offchain.node.machine.tls import local_context
from offchain.node.settings import NodeSettings

_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Running:
    """What the agent's ready file says.

    Attributes:
        url: at which this machine reaches the agent.
        pid: the agent's process id; None when the settings name no ready_file.
        since_ms: Unix milliseconds at which the agent began to take traffic.
    """

    url: str
    pid: int | None = None
    since_ms: int = 0


def agent_state(settings: NodeSettings) -> dict[str, Any] | None:
    """The body of the agent's `/ready`, with its `url`; None when no agent answers."""
    found = running(settings)
    if found is None:
        return None
    try:
        state = fetch(settings, f"{found.url}/ready").json()
    except (httpx.HTTPError, OSError, ValueError):
        return None
    return {"url": found.url, **state} if isinstance(state, dict) else None


def fetch(settings: NodeSettings, url: str) -> httpx.Response:
    """GET from the agent on this machine; only the certificate in the settings is trusted. Raises httpx.HTTPError, OSError."""
    certificate = settings.tls_certificate
    verify = local_context(certificate) if certificate is not None and url.startswith("https:") else True
    return httpx.get(url, timeout=_TIMEOUT_SECONDS, verify=verify)


def running(settings: NodeSettings) -> Running | None:
    """Where the agent listens, from its ready file or a fixed port; None when neither is there."""
    if settings.ready_file is not None and settings.ready_file.exists():
        try:
            data = json.loads(settings.ready_file.read_text())
            return Running(str(data["local_url"]), int(data["pid"]), int(data["since_ms"]))
        except (OSError, ValueError, KeyError):
            return None
    scheme = "http" if settings.tls_certificate is None else "https"
    return Running(f"{scheme}://{settings.host}:{settings.port}") if settings.port else None


def engine_access(settings: NodeSettings) -> tuple[str, str] | None:
    """URL and API key of the first model server that the agent started; None when there is none."""
    try:
        found = json.loads(settings.engine_access_file.read_text())
        return str(found["url"]), str(found["api_key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
