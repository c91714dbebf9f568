"""What keepers signed about the slots of one node in one epoch, out of the bundle that the report names.

The bundle lies in the index under its hash; the signatures are checked again here, so that a page shows nothing that
does not hold. Entries are packed as `offchain.domain.evidence_entries` describes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from offchain.crypto.recovery import recover
from offchain.domain.eip712 import keccak256
from offchain.domain.evidence_entries import AnswerEntry, Miss, node_of
from offchain.domain.messages import MissReason, SlotMiss
from offchain.domain.types import Epoch
from webapp.index import NodeRow, OverrideRow
from webapp.sources.sources import Sources
from webapp.sources.status import Status, slot_start
from webapp.views.earnings import NodeEpoch
from webapp.views.operator import history_of
from webapp.web.uptime_strips import STATE_NAMES, Strip, strip_of

REASONS = {
    MissReason.UNREACHABLE: "could not be reached",
    MissReason.TIMEOUT: "did not answer in time",
    MissReason.BAD_RECEIPT: "gave a receipt that does not hold",
    MissReason.BELOW_FLOOR: "was slower than its tier allows",
    MissReason.WRONG_ANSWER: "gave a wrong answer",
    MissReason.SLOW_FIRST_TOKEN: "began later than its tier allows",
    MissReason.FALSE_MANIFEST: "is not what its capability manifest declares",
}


@dataclass(frozen=True, slots=True)
class Saw:
    """One keeper's entry about a slot.

    Attributes:
        answered: a dual-signed answer, or a signed miss.
        at: Unix seconds at which it was seen.
        reason: why it counts as missed; None for an answer.
        holds: whether the keeper's signature is good; answers are checked by `parallelix epoch verify`, not here.
    """

    signer: str
    region: str
    answered: bool
    at: int
    reason: str | None
    holds: bool | None


@dataclass(frozen=True, slots=True)
class SlotView:
    """A slot that is worth a look: lost, or of one region's word only."""

    slot: int
    state: str
    begins_at: int
    saw: Sequence[Saw]


@dataclass(frozen=True, slots=True)
class NodeEpochView:
    """One node in one epoch.

    Attributes:
        bundle: hash of the evidence bundle; its bytes give this hash when `bundle_here` is true.
        appeal_until: Unix second at which the report becomes final; None without one.
        overrides: uptimes that appeals put in the place of the attested one.
    """

    status: Status
    node: NodeRow
    epoch: int
    strip: Strip | None
    entry: NodeEpoch | None
    slots: Sequence[SlotView]
    bundle: str | None
    bundle_here: bool
    appeal_until: int | None
    overrides: Sequence[OverrideRow]
    chain_error: str | None


class EvidenceService:
    """Builds the page of a node's epoch."""

    def __init__(self, desk: Sources) -> None:
        self._desk = desk
        self._domain = desk.deployment.signing_domain("UptimeAttestation")

    def view(self, node_id: int, epoch: int) -> NodeEpochView | None:
        """The page; None when there is no such node. Raises IndexUnavailableError."""
        with self._desk.open() as (snapshot, head, status):
            node = snapshot.node(node_id)
            if node is None:
                return None
            current = status.epoch.number if status.epoch else 0
            back = max(1, current - epoch)
            history = history_of(self._desk, snapshot, head, status, [node], back, until=epoch)
            rows = snapshot.slots([node_id], epoch, epoch)
            report = history.reports.get(epoch)
            regions = {keeper.signer.lower(): keeper.region for keeper in snapshot.keepers()}
            body = snapshot.bundle(report.bundle_hash) if report else None
        strip = strip_of(epoch, node_id, rows[0].states, rows[0].uptime_bps) if rows else None
        here = bool(report and body and "0x" + keccak256(body).hex() == report.bundle_hash.lower())
        saw = self._read(body, node_id, epoch, regions) if here and body else {}
        letters = rows[0].states if rows else ""
        slots = [
            SlotView(slot, STATE_NAMES[letter], slot_start(self._desk.clock, epoch, slot), saw.get(slot, ()))
            for slot, letter in enumerate(letters)
            if letter in "mn" and slot < self._desk.clock.slots
        ]
        return NodeEpochView(
            status,
            node,
            epoch,
            strip,
            next((entry for entry in history.entries if entry.epoch == epoch), None),
            slots,
            report.bundle_hash if report else None,
            here,
            report.final_at if report else None,
            [row for row in history.overrides if row.epoch == epoch],
            None,
        )

    def _read(self, body: bytes, node_id: int, epoch: int, regions: dict[str, str]) -> dict[int, list[Saw]]:
        found: dict[int, list[Saw]] = {}
        try:
            documents: list[dict[str, Any]] = json.loads(body)["evidence"]
            for document in documents:
                signer = str(document["signer"]).lower()
                region = regions.get(signer, "unknown region")
                for text in document["misses"]:
                    if node_of(text) == node_id:
                        miss = Miss.unpack(text)
                        holds = self._holds(signer, miss.slot_miss(Epoch(epoch)), miss.keeper_signature)
                        saw = Saw(
                            signer, region, False, miss.observed_at_ms // 1000, REASONS[miss.reason], holds
                        )
                        found.setdefault(miss.slot, []).append(saw)
                for text in document["answers"]:
                    if node_of(text) == node_id:
                        answer = AnswerEntry.unpack(text)
                        at = answer.receipt.finished_at_ms // 1000
                        found.setdefault(answer.slot, []).append(Saw(signer, region, True, at, None, None))
        except (ValueError, KeyError, TypeError):
            return found
        return found

    def _holds(self, signer: str, miss: SlotMiss, signature: bytes) -> bool:
        try:
            return recover(self._domain.digest(miss.struct_hash()), signature).lower() == signer
        except ValueError:
            return False
