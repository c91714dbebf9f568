"""The page of one node in one epoch, with what keepers signed about its lost slots.

The keepers' statements come from the evidence bundle that the epoch's report names. The index keeps the bundle under its
hash; the page checks the hash and the signature of each miss again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from offchain.domain.eip712 import address_bytes
from offchain.domain.evidence_entries import AnswerEntry, EvidenceError, Miss, node_of
from offchain.domain.messages import MissReason
from offchain.domain.types import Epoch, NodeId
from offchain.evidence.bundle import EvidenceBundle, parse_bundle, signed_by
from webapp.index import NodeRow, OverrideRow
from webapp.sources.sources import Sources
from webapp.sources.status import Status, slot_start
from webapp.views.earnings import NodeEpoch, history_of
from webapp.web.errors import known_node
from webapp.web.uptime_strips import STATE_NAMES, Strip, strip_of_row

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
class SlotStatement:
    """What one keeper signed about a slot.

    Attributes:
        answered: True for an answer that node and keeper both signed, False for a miss that the keeper signed.
        at: Unix seconds of the end of the answer, or of the keeper's observation of the miss.
        reason: why the slot counts as missed; None for an answer.
        holds: whether the keeper's signature is good; None for an answer, which `parallelix epoch verify` checks.
    """

    signer: str
    region: str
    answered: bool
    at: int
    reason: str | None
    holds: bool | None


@dataclass(frozen=True, slots=True)
class SlotView:
    """A slot that the page lists: a missed one, or an unconfirmed one, which only one region says was missed."""

    slot: int
    state: str
    begins_at: int
    saw: Sequence[SlotStatement]


@dataclass(frozen=True, slots=True)
class NodeEpochView:
    """One node in one epoch.

    Attributes:
        bundle: hash of the evidence bundle, as the report names it.
        bundle_here: whether the index keeps a bundle with that hash.
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


class NodeEpochPageBuilder:
    """Builds the page of a node's epoch."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._domain = sources.deployment.signing_domain("UptimeAttestation")

    def view(self, node_id: int, epoch: int) -> NodeEpochView:
        """The page. Raises PageError for an unknown node, and IndexUnavailableError."""
        with self._sources.open() as (snapshot, head, status):
            node = known_node(snapshot, node_id)
            back = max(1, status.current_epoch - epoch)
            history = history_of(self._sources, snapshot, head, status, [node], back, until=epoch)
            row = next(iter(snapshot.slots([node_id], epoch, epoch)), None)
            report = history.reports.get(epoch)
            regions = {keeper.signer.lower(): keeper.region for keeper in snapshot.keepers()}
            raw = snapshot.bundle(report.bundle_hash) if report else None
        bundle = self._bundle(raw, Epoch(epoch), report.bundle_hash) if raw and report else None
        seen = self._statements(bundle, NodeId(node_id), regions) if bundle else {}
        clock = self._sources.clock
        slots = [
            SlotView(slot, STATE_NAMES[letter], slot_start(clock, epoch, slot), seen.get(slot, ()))
            for slot, letter in enumerate(row.states if row else "")
            if letter in "mn" and slot < clock.slots
        ]
        return NodeEpochView(
            status=status,
            node=node,
            epoch=epoch,
            strip=strip_of_row(row) if row else None,
            entry=next((entry for entry in history.entries if entry.epoch == epoch), None),
            slots=slots,
            bundle=report.bundle_hash if report else None,
            bundle_here=bundle is not None,
            appeal_until=report.final_at if report else None,
            overrides=[row for row in history.overrides if row.epoch == epoch],
            chain_error=None,
        )

    def _bundle(self, raw: bytes, epoch: Epoch, bundle_hash: str) -> EvidenceBundle | None:
        """The bundle in `raw`; None when the bytes are no bundle of the epoch or have another hash."""
        try:
            bundle = parse_bundle(raw, epoch, self._domain)
        except EvidenceError:
            return None
        return bundle if bundle.hash == bundle_hash.lower() else None

    def _statements(
        self, bundle: EvidenceBundle, node_id: NodeId, regions: Mapping[str, str]
    ) -> dict[int, list[SlotStatement]]:
        """What the bundle's keepers stated of the node, by slot; nothing when an entry of the node is malformed."""
        found: dict[int, list[SlotStatement]] = {}
        try:
            for document in bundle.evidence:
                keeper = document.signer.lower()
                region = regions.get(keeper, "unknown region")
                for miss in (Miss.unpack(text) for text in document.misses if node_of(text) == node_id):
                    digest = self._domain.digest(miss.slot_miss(bundle.epoch).struct_hash())
                    holds = signed_by(address_bytes(document.signer), digest, miss.keeper_signature)
                    at, reason = miss.observed_at_ms // 1000, REASONS[miss.reason]
                    statement = SlotStatement(keeper, region, False, at, reason, holds)
                    found.setdefault(miss.slot, []).append(statement)
                for answer in (
                    AnswerEntry.unpack(text) for text in document.answers if node_of(text) == node_id
                ):
                    at = answer.receipt.finished_at_ms // 1000
                    statement = SlotStatement(keeper, region, True, at, None, None)
                    found.setdefault(answer.slot, []).append(statement)
        except EvidenceError:
            return {}
        return found
