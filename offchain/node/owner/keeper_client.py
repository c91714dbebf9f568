"""Reads a keeper's public API. The caller checks each answer against the chain."""

from typing import Any

import httpx

from offchain.domain.types import Bps, Epoch, NodeId
from offchain.errors import TransientError, UserError
from offchain.runtime.redaction import endpoint_label

_TIMEOUT_SECONDS = 10.0


def epoch_uptimes(keeper_url: str, epoch: Epoch) -> dict[NodeId, Bps]:
    """Uptime of every node in an epoch, in basis points, as this keeper tells it.

    Raises:
        UserError: the keeper has no table of the epoch.
        TransientError: the keeper does not answer.
    """
    keeper = endpoint_label(keeper_url, "keeper_url")
    url = f"{keeper_url.rstrip('/')}/v1/epochs/{epoch}"
    try:
        answer = httpx.get(url, timeout=_TIMEOUT_SECONDS)
        data: Any = answer.json() if answer.status_code == 200 else None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise TransientError(
            f"keeper {keeper} does not answer: {type(error).__name__}; name another"
        ) from error
    if answer.status_code != 200:
        raise UserError(
            f"keeper {keeper} has no table of epoch {epoch} ({answer.status_code}); ask another or later"
        )
    try:
        rows = [row for row in data["nodes"] if row["uptimeBps"] is not None]
        return {NodeId(int(row["nodeId"])): Bps(int(row["uptimeBps"])) for row in rows}
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"keeper {keeper} answered epoch {epoch} in a shape that is not known; ask another"
        ) from None
