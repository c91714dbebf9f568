"""Gateways' batches of execution records: which ones a keeper puts into its evidence, and where it gets them.

A batch that missed the report of its epoch (the gateway was away, or the epoch lapsed) may stand in the report of one of
the next `LATE_EPOCHS` epochs. A keeper lists the batch until an accepted report has it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import structlog
from sqlalchemy.orm import Session

from offchain.db.models import Job
from offchain.db.rewards import report as accepted_report
from offchain.domain.evidence_entries import EvidenceError, SignedExecutionBatch
from offchain.domain.messages import ExecutionBatch
from offchain.domain.types import Epoch
from offchain.evidence.epoch_context import LATE_EPOCHS, EpochContext
from offchain.evidence.keeper_peers import get_small
from offchain.evidence.signature_pool import account_of

log = structlog.get_logger(__name__)

MAX_BATCHES = 256
"""Of one document. A gateway signs one batch an epoch; the bound keeps one that signs many from bloating the bundle."""


@dataclass(frozen=True, slots=True)
class GatewayAnswer:
    """A gateway's batches, none when the gateway is away. `making`: it is making another one now; asking again may help."""

    batches: Sequence[SignedExecutionBatch] = ()
    making: bool = False


BatchSource = Callable[[Epoch], GatewayAnswer]
"""Asks a gateway for its batches of this epoch and later ones."""


@dataclass(frozen=True, slots=True)
class ListedBatch:
    """A valid batch, and the gateway (20 bytes) that signed it."""

    gateway: bytes
    commitment: ExecutionBatch

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {"gateway": "0x" + self.gateway.hex(), **self.commitment.to_json()}


def check_batch(context: EpochContext, batch: SignedExecutionBatch) -> ListedBatch:
    """The batch, if the epoch's report may hold it. Raises EvidenceError."""
    said = batch.commitment
    if not context.epoch - LATE_EPOCHS <= said.epoch <= context.epoch or not said.count:
        what = f"a batch of {said.count} records in epoch {said.epoch}"
        raise EvidenceError(f"{what} is not for epoch {context.epoch}")
    gateway = account_of(context.attestation.digest(said.struct_hash()), batch.signature)
    if gateway is None or gateway not in context.gateways:
        who = "nobody" if gateway is None else "0x" + gateway.hex()
        raise EvidenceError(
            f"a batch of epoch {said.epoch} is signed by {who}, whom no keeper lists as a gateway"
        )
    return ListedBatch(gateway, said)


def equivocations(batches: Sequence[ListedBatch]) -> list[tuple[bytes, Epoch]]:
    """Gateways (20 bytes) that signed more than one batch of an epoch, with that epoch."""
    seen, twice = set[tuple[bytes, Epoch]](), set[tuple[bytes, Epoch]]()
    for batch in batches:
        place = (batch.gateway, batch.commitment.epoch)
        (twice if place in seen else seen).add(place)
    return sorted(twice)


def batches_of(session: Session, context: EpochContext, found: Sequence[SignedExecutionBatch]) -> list[str]:
    """Packed batches for a keeper's document, ascending, without those that other keepers would reject."""
    reported, packed = _reported(session, context.epoch), set[str]()
    for batch in found:
        try:
            check_batch(context, batch)
        except EvidenceError as error:
            log.warning("batch_invalid", epoch=context.epoch, error=str(error))
            continue
        if batch.commitment.struct_hash() not in reported:
            packed.add(batch.pack())
    return sorted(packed)[:MAX_BATCHES]


def _reported(session: Session, epoch: Epoch) -> set[bytes]:
    """Struct hashes of batches in accepted reports of the epochs before, as far as this keeper has recorded them."""
    found = set[bytes]()
    for number in range(max(0, epoch - LATE_EPOCHS), epoch):
        report = accepted_report(session, Epoch(number))
        # A rejected report proves nothing: its batches go into a later one.
        if report is not None and not report.rejected:
            recorded = session.get(Job, ("slots", f"{number}:{report.bundle_hash}"))
            hashes = [] if recorded is None else (recorded.result or {}).get("batches", [])
            found |= {bytes.fromhex(item[2:]) for item in hashes}
    return found


class GatewayBatches:
    """`BatchSource` over HTTP."""

    def __init__(self, url: str, timeout_seconds: float = 2.0) -> None:
        self._url = url.rstrip("/") + "/v1/executions"
        self._timeout = timeout_seconds

    def __call__(self, since: Epoch) -> GatewayAnswer:
        try:
            listed = orjson.loads(get_small(f"{self._url}?since={since}", self._timeout))
            batches = [SignedExecutionBatch.from_json(item) for item in listed["data"]]
            return GatewayAnswer(batches, listed["making"] is True)
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            log.warning("gateway_batches_unavailable", url=self._url, error=type(error).__name__)
            return GatewayAnswer()
