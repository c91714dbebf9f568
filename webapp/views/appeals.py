"""An appeal against an attested uptime: receipts that the node and a keeper signed, as the contract takes them.

Receipts come from the keeper of this index, from the report's bundle, and from documents that the operator brings.
Whatever they come from, a receipt is offered only if both signatures hold: the contract would refuse all for one.
Answers are packed as `offchain.domain.evidence_entries` describes.

::

    receipts for distinct slots / slots   a lower bound of the uptime
      > attested + 1 %                    the contract puts it in the attested one's place
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from offchain.chain.reader import Read
from offchain.crypto.recovery import recover
from offchain.domain.evidence_entries import AnswerEntry, node_of
from offchain.domain.types import FULL_BPS, Epoch, NodeId
from webapp.index import ReportRow, Snapshot
from webapp.sources.sources import Sources
from webapp.sources.status import Status
from webapp.sources.uptime_trees import Trees

TOLERANCE_BPS = 100
MAX_ANSWERS = 288
_DEPTH = 13


@dataclass(frozen=True, slots=True)
class SlotProof:
    """One slot's receipt, in the contract's shape (EIP-2098 signatures). Bytes as 0x-hex."""

    slot: int
    keeper_index: int
    receipt_struct_hash: str
    node_r: str
    node_vs: str
    keeper_r: str
    keeper_vs: str


@dataclass(frozen=True, slots=True)
class AppealView:
    """Arguments of `appeal`, and what they come to.

    Attributes:
        attested_bps: by the report's tree, or by an appeal before this one.
        recounted_bps: what the receipts prove at least.
        problem: why there is nothing to send; None when the contract would take it.
    """

    status: Status
    node_id: int
    epoch: int
    slots: int
    attested_bps: int
    recounted_bps: int
    packed_leaf: str
    proof: Sequence[str]
    evidence: Sequence[SlotProof]
    problem: str | None


class AppealService:
    """Gathers and checks the receipts of one node and epoch."""

    def __init__(self, desk: Sources, trees: Trees) -> None:
        self._desk = desk
        self._trees = trees
        self._slot_domain = desk.deployment.signing_domain("UptimeAttestation")
        self._receipt_domain = desk.deployment.signing_domain("InferenceMarket")

    def view(self, node_id: int, epoch: int, brought: Sequence[str] = ()) -> AppealView | None:
        """The appeal with the receipts known here and those `brought` (packed answers, base64); None when there is
        no such node.

        Raises:
            IndexUnavailableError: the index cannot be read.
            ChainUnavailableError: the chain cannot be read.
        """
        with self._desk.open() as (snapshot, _, status):
            if snapshot.node(node_id) is None:
                return None
            report = snapshot.reports(epoch, epoch).get(epoch)
            if report is None:
                return self._none(status, node_id, epoch, "Nothing is attested of this epoch yet.")
            if status.now >= report.final_at:
                return self._none(status, node_id, epoch, "The challenge window of this epoch is over.")
            tree = self._trees.of(snapshot, report)
            if tree is None and node_id <= report.node_count:
                return self._none(status, node_id, epoch, "The index’s uptimes do not match the report.")
            overrides = [row for row in snapshot.overrides(epoch, epoch, [node_id]) if row.stands(report)]
            known = chain(
                snapshot.own_answers(epoch, self._desk.clock.slots, node_id),
                _bundled(snapshot, report),
                brought[:MAX_ANSWERS],
            )
            answers = list(_unpacked(known, node_id, self._desk.clock.slots))
        covered = tree is not None and node_id <= report.node_count
        attested = int(tree.uptime(NodeId(node_id))) if tree is not None and covered else 0
        if overrides:
            attested = overrides[-1].recounted_bps
        evidence = self._checked(Epoch(epoch), node_id, answers, status.block_hash)
        recounted = FULL_BPS * len(evidence) // self._desk.clock.slots
        problem = None
        if recounted <= attested + TOLERANCE_BPS:
            problem = (
                f"{len(evidence)} of {self._desk.clock.slots} slots have a receipt that the node and a keeper signed: "
                f"that proves {recounted / 100:g} %, and {attested / 100:g} % are attested. An appeal must prove more "
                "than 1 % above it."
            )
        return AppealView(
            status,
            node_id,
            epoch,
            self._desk.clock.slots,
            attested,
            recounted,
            "0x" + (tree.leaf(NodeId(node_id)) if tree is not None and covered else bytes(32)).hex(),
            ["0x" + part.hex() for part in tree.proof(NodeId(node_id))]
            if tree is not None and covered
            else ["0x" + "00" * 32] * _DEPTH,
            evidence,
            problem,
        )

    def _none(self, status: Status, node_id: int, epoch: int, problem: str) -> AppealView:
        return AppealView(status, node_id, epoch, self._desk.clock.slots, 0, 0, "0x", [], [], problem)

    def _checked(
        self, epoch: Epoch, node_id: int, answers: Sequence[AnswerEntry], block_hash: str
    ) -> list[SlotProof]:
        """One proof a slot, in rising order."""
        signers = self._desk.chain.read([Read("KeeperRegistry", "signersAt", (epoch,))], block_hash or None)[
            0
        ]
        places = {str(signer).lower(): place for place, signer in enumerate(signers or ())}
        found: dict[int, SlotProof] = {}
        bound: dict[str, bool] = {}
        for answer in answers:
            if answer.slot in found:
                continue
            struct_hash = answer.receipt.struct_hash()
            try:
                key = recover(self._receipt_domain.digest(struct_hash), answer.node_signature)
                seen = self._slot_domain.digest(answer.slot_receipt(epoch).struct_hash())
                place = places.get(recover(seen, answer.keeper_signature).lower())
            except ValueError:
                continue
            if key not in bound:
                read = Read("NodeRegistryLocker", "boundNodeOf", (key,))
                bound[key] = self._desk.chain.read([read], block_hash or None)[0] == node_id
            if place is None or not bound[key]:
                continue
            node_r, node_vs = _compact(answer.node_signature)
            keeper_r, keeper_vs = _compact(answer.keeper_signature)
            found[answer.slot] = SlotProof(
                answer.slot, place, "0x" + struct_hash.hex(), node_r, node_vs, keeper_r, keeper_vs
            )
        return [found[slot] for slot in sorted(found)]


def _bundled(snapshot: Snapshot, report: ReportRow) -> Iterable[str]:
    """Packed answers in the report's bundle, when this index keeps it; of all nodes."""
    body = snapshot.bundle(report.bundle_hash)
    if body is None:
        return
    try:
        for document in json.loads(body)["evidence"]:
            yield from document["answers"]
    except (ValueError, KeyError, TypeError):
        return


def _unpacked(texts: Iterable[str], node_id: int, slots: int) -> Iterable[AnswerEntry]:
    for text in texts:
        try:
            if node_of(text) != node_id:
                continue
            answer = AnswerEntry.unpack(text)
        except (ValueError, TypeError):
            continue
        if answer.slot < slots:
            yield answer


def _compact(signature: bytes) -> tuple[str, str]:
    """EIP-2098: r, and s with the parity of v in its highest bit."""
    s = int.from_bytes(signature[32:64], "big") | (signature[64] - 27) << 255
    return "0x" + signature[:32].hex(), f"0x{s:064x}"


def answers_of(data: object) -> list[str]:
    """The packed answers in a request's JSON body. Raises ValueError when it is something else."""
    answers = data.get("answers") if isinstance(data, Mapping) else None
    if (
        not isinstance(answers, list)
        or len(answers) > MAX_ANSWERS
        or not all(isinstance(item, str) and len(item) < 1_000 for item in answers)
    ):
        raise ValueError(f"answers are a list of at most {MAX_ANSWERS} packed answers")
    return answers
