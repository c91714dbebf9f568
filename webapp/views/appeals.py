"""An appeal against an attested uptime: receipts that the node and a keeper signed, as the contract takes them.

Receipts come from the keeper of this index, from the report's bundle, and from documents that the operator brings.
A receipt is offered only if both its signatures hold, because the contract refuses an appeal with one bad receipt.

::

    recounted = slots with a receipt / slots of the epoch      a lower bound of the uptime
    recounted > attested + 1 %    =>    the contract pays by `recounted` instead of by the attested uptime
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from offchain.chain.reader import Read
from offchain.crypto.recovery import recover
from offchain.domain.evidence_entries import AnswerEntry, EvidenceError, node_of
from offchain.domain.types import FULL_BPS, Epoch, NodeId
from offchain.domain.uptime_tree import DEPTH
from offchain.evidence.bundle import parse_bundle
from webapp.index import ReportRow, Snapshot
from webapp.sources.sources import Sources
from webapp.sources.status import Status
from webapp.sources.uptime_trees import Trees
from webapp.web.errors import known_node

TOLERANCE_BPS = 100
"""As UptimeAttestation.TOLERANCE_BPS."""
MAX_ANSWERS = 288


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
        attested_bps: uptime by the report, or by the appeal before this one.
        recounted_bps: uptime that the receipts prove at least.
        problem: why there is nothing to send; None when the contract would take the appeal.
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


class AppealBuilder:
    """Gathers and checks the receipts of one node and epoch."""

    def __init__(self, sources: Sources, trees: Trees) -> None:
        self._sources = sources
        self._trees = trees
        self._slot_domain = sources.deployment.signing_domain("UptimeAttestation")
        self._receipt_domain = sources.deployment.signing_domain("InferenceMarket")

    def view(self, node_id: int, epoch: int, brought: Sequence[str] = ()) -> AppealView:
        """The appeal with the receipts known here and those `brought` (packed answers, base64).

        Raises:
            PageError: there is no such node.
            IndexUnavailableError, ChainUnavailableError: the index or the chain cannot be read.
        """
        slots = self._sources.clock.slots
        with self._sources.open() as (snapshot, _, status):
            known_node(snapshot, node_id)
            report = snapshot.reports(epoch, epoch).get(epoch)
            if report is None:
                return self._none(status, node_id, epoch, "Nothing is attested of this epoch yet.")
            if status.now >= report.final_at:
                return self._none(status, node_id, epoch, "The challenge window of this epoch is over.")
            covered = node_id <= report.node_count
            tree = self._trees.of(snapshot, report) if covered else None
            if covered and tree is None:
                return self._none(status, node_id, epoch, "The index’s uptimes do not match the report.")
            overrides = [row for row in snapshot.overrides(epoch, epoch, [node_id]) if row.stands(report)]
            own = snapshot.own_answers(epoch, slots, node_id)
            known = chain(own, self._bundled(snapshot, report), brought[:MAX_ANSWERS])
            answers = list(_unpacked(known, node_id, slots))
        evidence = self._checked(Epoch(epoch), node_id, answers, status)
        attested = int(tree.uptime(NodeId(node_id))) if tree is not None else 0
        if overrides:
            attested = overrides[-1].recounted_bps
        recounted = FULL_BPS * len(evidence) // slots
        # The contract reads neither leaf nor proof of a node that the report does not cover.
        leaf = tree.leaf(NodeId(node_id)) if tree is not None else bytes(32)
        proof = tree.proof(NodeId(node_id)) if tree is not None else [bytes(32)] * DEPTH
        return AppealView(
            status=status,
            node_id=node_id,
            epoch=epoch,
            slots=slots,
            attested_bps=attested,
            recounted_bps=recounted,
            packed_leaf="0x" + leaf.hex(),
            proof=["0x" + sibling.hex() for sibling in proof],
            evidence=evidence,
            problem=_too_little(len(evidence), slots, recounted, attested),
        )

    def _none(self, status: Status, node_id: int, epoch: int, problem: str) -> AppealView:
        return AppealView(status, node_id, epoch, self._sources.clock.slots, 0, 0, "0x", [], [], problem)

    def _bundled(self, snapshot: Snapshot, report: ReportRow) -> Iterable[str]:
        """Packed answers of all nodes in the report's bundle; none when the index does not keep the bundle."""
        raw = snapshot.bundle(report.bundle_hash)
        if raw is None:
            return ()
        try:
            bundle = parse_bundle(raw, Epoch(report.epoch), self._slot_domain)
        except EvidenceError:
            return ()
        return chain.from_iterable(document.answers for document in bundle.evidence)

    def _checked(
        self, epoch: Epoch, node_id: int, answers: Sequence[AnswerEntry], status: Status
    ) -> list[SlotProof]:
        """One proof a slot, in rising order."""
        (signers,) = self._sources.chain.read([Read("KeeperRegistry", "signersAt", (epoch,))], status.ref)
        indices = {str(signer).lower(): index for index, signer in enumerate(signers or ())}
        found: dict[int, SlotProof] = {}
        bound: dict[str, bool] = {}
        for answer in answers:
            if answer.slot in found:
                continue
            struct_hash = answer.receipt.struct_hash()
            slot_receipt = self._slot_domain.digest(answer.slot_receipt(epoch).struct_hash())
            try:
                key = recover(self._receipt_domain.digest(struct_hash), answer.node_signature)
                keeper = indices.get(recover(slot_receipt, answer.keeper_signature).lower())
            except ValueError:
                continue
            if key not in bound:
                # boundNodeOf, not nodeOfKey: what a node signed before it rotated its key stays good.
                read = Read("NodeRegistryLocker", "boundNodeOf", (key,))
                bound[key] = self._sources.chain.read([read], status.ref)[0] == node_id
            if keeper is None or not bound[key]:
                continue
            signatures = *_compact(answer.node_signature), *_compact(answer.keeper_signature)
            found[answer.slot] = SlotProof(answer.slot, keeper, "0x" + struct_hash.hex(), *signatures)
        return [found[slot] for slot in sorted(found)]


def _too_little(proven: int, slots: int, recounted: int, attested: int) -> str | None:
    if recounted > attested + TOLERANCE_BPS:
        return None
    return (
        f"{proven} of {slots} slots have a receipt that the node and a keeper signed: that proves {recounted / 100:g} %, "
        f"and {attested / 100:g} % are attested. An appeal must prove more than 1 % above it."
    )


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
