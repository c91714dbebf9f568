"""Reads a keeper's public API; whatever it says is checked against the chain by the caller."""

from typing import Any

import httpx

from offchain.domain.types import Bps, NodeId
from offchain.errors import TransientError, UserError

_TIMEOUT_SECONDS = 10.0


def epoch_uptimes(keeper_url: str, epoch: int) -> dict[NodeId, Bps]:
    """Uptime of every node in an epoch, in basis points, as this keeper has it.

    Raises:
        UserError: the keeper has no table of the epoch.
        TransientError: the keeper does not answer.
    """
    url = f"{keeper_url.rstrip('/')}/v1/epochs/{epoch}"
    try:
        answer = httpx.get(url, timeout=_TIMEOUT_SECONDS)
        data = answer.json() if answer.status_code == 200 else None
    except (httpx.HTTPError, ValueError) as error:
        raise TransientError(
            f"keeper {keeper_url} does not answer: {type(error).__name__}; name another"
        ) from error
    if answer.status_code != 200:
        raise UserError(
            f"keeper {keeper_url} has no table of epoch {epoch} ({answer.status_code}); ask another or later"
        )
    try:
        return _uptimes(data)
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"keeper {keeper_url} answered epoch {epoch} in a shape that is not known; ask another"
        ) from None


def _uptimes(data: Any) -> dict[NodeId, Bps]:
    rows = [row for row in data["nodes"] if row["uptimeBps"] is not None]
    return {NodeId(int(row["nodeId"])): Bps(int(row["uptimeBps"])) for row in rows}
