"""The evidence bundle of an epoch, and the one way from it to a report.

::

    evidence of each keeper --assemble--> bundle --verify--> table --> tree --> report

A bundle holds whole evidence documents. It is valid only if every document in it is valid, entry by entry. Everybody who
verifies it in the same `EpochContext` then gets the same table, tree and report.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from offchain.domain.canonical_json import canonical, content_hash, parse
from offchain.domain.eip712 import SigningDomain, address_bytes, keccak256, signing_prefix
from offchain.domain.evidence_entries import EvidenceError, Execution, Miss, SignedExecutionBatch
from offchain.domain.execution_tree import ExecutionTree
from offchain.domain.measurement.network_event import NetworkEvent, network_events, regions_of, without
from offchain.domain.measurement.schedule import ProbeSchedule, probe_challenge, seed_of
from offchain.domain.measurement.uptime import Observation, UptimeTable, tabulate
from offchain.domain.messages import EpochReport
from offchain.domain.types import Epoch, NodeId
from offchain.domain.uptime_tree import UptimeTree
from offchain.evidence.document import Evidence
from offchain.evidence.epoch_context import EpochContext, KeeperInfo
from offchain.evidence.execution_batches import MAX_BATCHES, ListedBatch, check_batch
from offchain.evidence.signature_pool import Recovery, Signed, account_of
from offchain.protocol.receipts import ReceiptError, check_signature

VERSION = 1
CLOCK_TOLERANCE_MS = 5_000
"""Milliseconds by which a node's clock may be off without its receipts falling out of their slot."""
_OUT_OF_ORDER = "out of order, or twice"
_NOWHERE = "the epoch has no such node or slot"
_OWN = "a keeper gives no evidence about its own operator's node"


@dataclass(frozen=True, slots=True)
class EvidenceBundle:
    """Documents of an epoch with their canonical bytes and the content address (0x-hex) of these."""

    raw: bytes
    hash: str
    epoch: Epoch
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True)
class BundleVerdict:
    """What follows from a valid bundle.

    Attributes:
        table: the state of each slot of each node.
        tree: packed uptime tree.
        executions: tree of the bundle's execution records and of the gateways' batches.
        report: the report that keepers sign.
        suspended: regions and slots in which the network failed rather than the nodes; see `domain.measurement.network_event`.
        batches: the batches in the tree, once for each gateway that signed one, ascending by (gateway, epoch, root).
    """

    table: UptimeTable
    tree: UptimeTree
    executions: ExecutionTree
    report: EpochReport
    suspended: tuple[NetworkEvent, ...] = ()
    batches: tuple[ListedBatch, ...] = ()

    @property
    def records(self) -> int:
        """Number of records that the bundle itself holds, without those in batches."""
        # A set: two gateways with the same commitment share one leaf.
        return len(self.executions) - len({batch.commitment for batch in self.batches})


def assemble(context: EpochContext, evidence: Iterable[Evidence]) -> EvidenceBundle:
    """The bundle of these documents, in any order, at most one of each keeper."""
    documents = sorted(evidence, key=lambda item: item.signer.lower())
    raw = canonical(
        {
            "version": VERSION,
            "chainId": context.attestation.chain_id,
            "attestation": context.attestation.verifying_contract.lower(),
            "epoch": int(context.epoch),
            "evidence": [item.to_json() for item in documents],
        }
    )
    return EvidenceBundle(raw, content_hash(raw), context.epoch, tuple(documents))


def read(raw: bytes, context: EpochContext) -> EvidenceBundle:
    """Parse a bundle of the context's epoch; `verify_bundle` checks its content. Raises EvidenceError."""
    return parse_bundle(raw, context.epoch, context.attestation)


def parse_bundle(raw: bytes, epoch: Epoch, attestation: SigningDomain) -> EvidenceBundle:
    """Parse a bundle of an epoch and contract; no signature is checked here. Raises EvidenceError."""
    try:
        data: Any = parse(raw)
    except ValueError as error:
        raise EvidenceError(f"bundle cannot be read: {error}") from None
    if not isinstance(data, dict) or set(data) != {"version", "chainId", "attestation", "epoch", "evidence"}:
        raise EvidenceError("this is not a bundle")
    if data["version"] != VERSION or not isinstance(data["evidence"], list):
        raise EvidenceError(f"bundle version {data['version']!r} is unknown")
    if data["epoch"] != epoch or data["chainId"] != attestation.chain_id:
        raise EvidenceError("the bundle is of another epoch or chain")
    if data["attestation"] != attestation.verifying_contract.lower():
        raise EvidenceError("the bundle is of another contract")
    documents = tuple(Evidence.from_json(item, attestation) for item in data["evidence"])
    return EvidenceBundle(raw, content_hash(raw), epoch, documents)


def verify_bundle(context: EpochContext, bundle: EvidenceBundle) -> BundleVerdict:
    """Check every document and every entry of a bundle, and rebuild table, trees and report.

    Raises:
        EvidenceError: something in the bundle does not hold; the text names the first such entry.
    """
    signers = [document.signer.lower() for document in bundle.evidence]
    # One order only, or the same documents would have bundles of several hashes.
    if signers != sorted(set(signers)):
        raise EvidenceError("documents are not in order of their signers, or a keeper occurs twice")
    with Checker(context) as checker:
        for document in bundle.evidence:
            checker.check(document)
    return conclude(context, bundle.hash, checker)


def conclude(context: EpochContext, bundle_hash: str, checker: "Checker") -> BundleVerdict:
    """Table, trees and report of all documents that a checker accepted."""
    regions = regions_of(checker.regions, {node: info.owner for node, info in context.nodes.items()})
    homes = {keeper.region for keeper in context.keepers}
    suspended = network_events(checker.seen, len(context.keepers), regions, homes)
    table = tabulate(context.nodes, context.clock.slots, without(checker.seen, suspended, regions))
    tree = UptimeTree(context.epoch, context.node_count, table.uptimes())
    batches = sorted(
        checker.batches, key=lambda one: (one.gateway, one.commitment.epoch, one.commitment.root)
    )
    leaves = [batch.commitment.struct_hash() for batch in batches]
    executions = ExecutionTree(context.epoch, [*checker.records, *leaves])
    report = EpochReport(
        epoch=context.epoch,
        uptime_root=tree.root,
        node_count=context.node_count,
        execution_root=executions.root,
        bundle_hash=bytes.fromhex(bundle_hash[2:]),
        keeper_set_digest=context.set_digest,
    )
    return BundleVerdict(table, tree, executions, report, suspended, tuple(batches))


class Checker:
    """Checks documents of one epoch, one after another. A probe's request id may occur once in all of them together.

    Use it as a context manager: it may start processes for large documents.

    ::

        with Checker(context) as checker:
            for document in documents:
                checker.check(document)
        verdict = conclude(context, bundle_hash, checker)
    """

    def __init__(self, context: EpochContext) -> None:
        self._context = context
        self._attestation = context.attestation.separator()
        self._market = context.market.separator()
        self._recovery = Recovery(context.epoch, self._attestation, self._market)
        self._slot_ends = [
            context.clock.slot_bounds_ms(context.epoch, n)[1] for n in range(context.clock.slots)
        ]
        self._requests: set[bytes] = set()
        self._pending_requests: set[bytes] = set()
        self._pending_records: list[bytes] = []
        self.seen: dict[int, list[Observation]] = {}
        """Observations of the accepted documents, by their keeper's index."""
        self.regions: list[Mapping[str, Sequence[int]]] = []
        """Nodes by region, as each accepted document has them."""
        self.records: list[bytes] = []
        """Struct hashes of all receipts of the accepted documents."""
        self.batches = set[ListedBatch]()
        """Batches of the accepted documents."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._recovery.close()

    def check(self, document: Evidence) -> None:
        """Check a document and add what it proves.

        Raises:
            EvidenceError: an entry does not hold. Nothing of the document is added then.
        """
        context = self._context
        keeper = context.keeper(document.signer)
        if keeper is None:
            raise EvidenceError(f"{document.signer} is no keeper of epoch {context.epoch}")
        if document.epoch != context.epoch or document.seed_block != context.seed_block:
            raise EvidenceError(f"evidence of {document.signer} is of another epoch or seed block")
        signer = address_bytes(document.signer)
        if not signed_by(signer, document.digest(), document.signature):
            raise EvidenceError(f"evidence of {document.signer} is not signed by it")
        challenge = probe_challenge(context.epoch, bytes.fromhex(context.seed_block.hash[2:]))
        # Else a keeper could choose its seed, and with it when it probes whom.
        if not signed_by(signer, challenge, document.seed_signature):
            raise EvidenceError(f"the schedule of {document.signer} does not follow from its signature")
        schedule = ProbeSchedule(context.clock, context.epoch, seed_of(document.seed_signature))
        # Collected apart until the whole document holds: a leader leaves a bad one out and goes on with the others.
        self._pending_requests, self._pending_records = set[bytes](), list[bytes]()
        observations = self._answers(document.answers, keeper, signer, schedule)
        observations += self._misses(document.misses, keeper, signer, schedule)
        pairs = {(seen.slot, seen.node) for seen in observations}
        if len(pairs) != len(observations):
            raise EvidenceError(f"evidence of {document.signer} answers and misses one slot")
        for text in document.executions:
            self._execution(Execution.unpack(text))
        batches = self._batches(document)
        self._requests |= self._pending_requests
        self.records += self._pending_records
        self.batches |= batches
        self.seen[keeper.index] = observations
        self.regions.append(document.regions)

    def _answers(
        self, texts: Sequence[str], keeper: KeeperInfo, signer: bytes, schedule: ProbeSchedule
    ) -> list[Observation]:
        seen: list[Observation] = []
        # Entries stand in one order only, so that the same evidence has the same hash everywhere.
        last = (-1, -1)
        for answer in self._recovery.signers(texts, schedule):
            place = (answer.slot, answer.node_id)
            fault = self._fault(answer, place > last, keeper, signer)
            if fault:
                raise EvidenceError(
                    f"answer of node {place[1]} in slot {place[0]} by {keeper.signer}: {fault}"
                )
            last = place
            self._pending_requests.add(answer.request_id)
            self._pending_records.append(answer.struct_hash)
            seen.append(Observation(NodeId(answer.node_id), answer.slot, keeper.region, True))
        return seen

    def _fault(self, answer: Signed, in_order: bool, keeper: KeeperInfo, signer: bytes) -> str:
        """Why an answer does not hold, empty when it does."""
        if not in_order:
            return _OUT_OF_ORDER
        node = self._context.nodes.get(NodeId(answer.node_id))
        if node is None or answer.slot >= len(self._slot_ends):
            return _NOWHERE
        if not self._context.evidence_counts(keeper, node):
            return _OWN
        if not answer.due_ms - CLOCK_TOLERANCE_MS <= answer.started_at_ms <= answer.finished_at_ms:
            return "it began before it was due"
        if answer.finished_at_ms > self._slot_ends[answer.slot] + CLOCK_TOLERANCE_MS:
            return "it ended after its slot"
        # One answer must not serve two slots, nor two keepers.
        if answer.request_id in self._requests or answer.request_id in self._pending_requests:
            return "its request occurs twice"
        if answer.node_signer not in node.keys:
            return "the node did not sign it"
        return "" if answer.keeper_signer == signer else "the keeper did not sign it"

    def _misses(
        self, texts: Sequence[str], keeper: KeeperInfo, signer: bytes, schedule: ProbeSchedule
    ) -> list[Observation]:
        seen: list[Observation] = []
        last = (-1, -1)
        for text in texts:
            miss = Miss.unpack(text)
            place = (miss.slot, int(miss.node_id))
            where = f"miss of node {place[1]} in slot {place[0]} by {keeper.signer}"
            node = self._context.nodes.get(miss.node_id)
            if place <= last:
                raise EvidenceError(f"{where}: {_OUT_OF_ORDER}")
            if node is None or miss.slot >= len(self._slot_ends):
                raise EvidenceError(f"{where}: {_NOWHERE}")
            if not self._context.evidence_counts(keeper, node):
                raise EvidenceError(f"{where}: {_OWN}")
            last, begin, end = place, schedule.due_ms(miss.node_id, miss.slot), self._slot_ends[miss.slot]
            # No tolerance at the beginning: both times are those of one clock, the keeper's own.
            if not begin <= miss.observed_at_ms <= end + CLOCK_TOLERANCE_MS:
                raise EvidenceError(f"{where}: observed outside its time")
            struct_hash = miss.slot_miss(self._context.epoch).struct_hash()
            if not signed_by(signer, _digest(self._attestation, struct_hash), miss.keeper_signature):
                raise EvidenceError(f"{where}: the keeper did not sign it")
            seen.append(Observation(miss.node_id, miss.slot, keeper.region, False))
        return seen

    def _batches(self, document: Evidence) -> set[ListedBatch]:
        """Two batches of one gateway and epoch both count: the gateway is exposed, and the epoch still closes."""
        texts = document.batches
        if list(texts) != sorted(set(texts)) or len(texts) > MAX_BATCHES:
            raise EvidenceError(f"batches of {document.signer} are {_OUT_OF_ORDER}, or too many")
        return {check_batch(self._context, SignedExecutionBatch.unpack(text)) for text in texts}

    def _execution(self, execution: Execution) -> None:
        receipt = execution.receipt
        where = f"execution on node {receipt.node_id}"
        start_ms = self._context.clock.start(self._context.epoch) * 1000
        end_ms = self._context.clock.end(self._context.epoch) * 1000
        if not start_ms - CLOCK_TOLERANCE_MS <= receipt.finished_at_ms < end_ms + CLOCK_TOLERANCE_MS:
            raise EvidenceError(f"{where}: it ended outside the epoch")
        node = self._context.nodes.get(receipt.node_id)
        if node is None:
            raise EvidenceError(f"{where}: the node has no weight in epoch {self._context.epoch}")
        try:
            check_signature(
                receipt, execution.node_signature, partial(_digest, self._market), account_of, node.keys
            )
        except ReceiptError:
            raise EvidenceError(f"{where}: the node did not sign it") from None
        self._pending_records.append(receipt.struct_hash())


def signed_by(address: bytes, digest: bytes, signature: bytes) -> bool:
    """Whether the account with these 20 bytes signed the digest."""
    return account_of(digest, signature) == address


def _digest(separator: bytes, struct_hash: bytes) -> bytes:
    return keccak256(signing_prefix(separator) + struct_hash)
