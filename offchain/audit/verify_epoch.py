"""Recomputes what an epoch paid from public chain data and a bundle alone, and trusts no keeper.

::

    chain events --> context --+
    bundle --hash--> evidence -+--> table --> tree --root--> == report on chain
    weights, pool, claims ----------------------+--> payouts --> paid + claimable + carried == funded
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eth_abi.abi import decode as abi_decode

from offchain.chain.deployment import Deployment
from offchain.chain.indexer import Indexer
from offchain.chain.reader import ChainReader, EpochStatus, OnChainReport
from offchain.chain.rpc import Rpc
from offchain.db import rewards
from offchain.db.cursors import position
from offchain.db.database import Database, open_database
from offchain.db.migrations import upgrade
from offchain.db.models import Event, Report
from offchain.domain.canonical_json import content_hash
from offchain.domain.evidence_entries import EvidenceError
from offchain.domain.messages import EpochReport
from offchain.domain.payout import EpochAccount, epoch_account, reward
from offchain.domain.types import BlockRef, Bps, Epoch, NodeId, Wei, Weight
from offchain.errors import ParallelixError, TransientError, UserError
from offchain.evidence.bundle import BundleVerdict, EvidenceBundle, read, verify_bundle
from offchain.evidence.chain_view import ReaderView
from offchain.evidence.epoch_context import EpochContext
from offchain.evidence.epoch_context_reader import EpochContextReader, NotReadyError, node_histories
from offchain.evidence.execution_batches import equivocations
from offchain.evidence.keeper_peers import HttpPeers
from offchain.evidence.report import report_json, signer_of

# Arguments of UptimeAttestation.submit: report, signer bitmap, packed signatures.
_SUBMIT = "((uint32,bytes32,uint32,bytes32,bytes32,bytes32),uint256,bytes)"


class MismatchError(ParallelixError):
    """The chain and the recomputation differ; the text says in which value."""


@dataclass(frozen=True, slots=True)
class NodeResult:
    """The result of an epoch for one node.

    Attributes:
        attested: uptime in the signed tree.
        uptime: the uptime that rewards follow from; differs from `attested` only after an appeal.
    """

    node_id: NodeId
    weight: Weight
    attested: Bps
    uptime: Bps
    missed: tuple[int, ...]
    earned: Wei
    paid: Wei


@dataclass(frozen=True, slots=True)
class Audit:
    """An epoch that was verified and holds."""

    epoch: Epoch
    block: BlockRef
    status: EpochStatus
    report: EpochReport
    signers: tuple[str, ...]
    context: EpochContext
    bundle: EvidenceBundle
    verdict: BundleVerdict
    total_weight: Weight
    nodes: tuple[NodeResult, ...]
    account: EpochAccount
    node_keys: Mapping[NodeId, frozenset[bytes]]
    """20-byte addresses of all keys that each node had until the epoch's end; also nodes without weight in the epoch."""

    def to_json(self) -> dict[str, Any]:
        """For machines; amounts are decimal text in wei."""
        return {
            "epoch": int(self.epoch),
            "ok": True,
            "status": self.status.name.lower(),
            "block": {"number": self.block.number, "hash": self.block.hash},
            "uptimeRoot": "0x" + self.report.uptime_root.hex(),
            "executionRoot": "0x" + self.report.execution_root.hex(),
            "bundleHash": self.bundle.hash,
            "records": self.verdict.records,
            "batches": [batch.to_json() for batch in self.verdict.batches],
            "equivocations": [
                {"gateway": "0x" + gateway.hex(), "epoch": int(of)}
                for gateway, of in equivocations(self.verdict.batches)
            ],
            "networkEvents": [asdict(event) for event in self.verdict.suspended],
            "signers": list(self.signers),
            "quorum": self.context.quorum,
            "totalWeight": str(self.total_weight),
            "nodes": [
                {
                    "nodeId": int(node.node_id),
                    "weight": str(node.weight),
                    "attestedBps": node.attested,
                    "uptimeBps": node.uptime,
                    "missedSlots": list(node.missed),
                    "earnedWei": str(node.earned),
                    "paidWei": str(node.paid),
                }
                for node in self.nodes
            ],
            "account": {f"{name}Wei": str(amount) for name, amount in asdict(self.account).items()},
        }


@contextmanager
def scanned(reader: ChainReader) -> Iterator[Database]:
    """A temporary index of the whole deployment up to the newest final block, read from the chain."""
    with tempfile.TemporaryDirectory(prefix="parallelix-audit-") as folder:
        url = f"sqlite:///{Path(folder) / 'audit.db'}"
        upgrade(url)
        database = open_database(url)
        try:
            # Final blocks only: a reorganisation must not change what an audit says.
            Indexer(database, reader, final_only=True).backfill(lambda _progress: None)
            yield database
        finally:
            database.close()


def verify_epoch(reader: ChainReader, database: Database, epoch: Epoch, source: "BundleSource") -> Audit:
    """Check an epoch in every respect.

    Args:
        database: an index of the chain, such as `scanned` gives.
        source: where the bundle comes from.

    Raises:
        MismatchError: the chain and the recomputation differ.
        UserError: the epoch cannot be verified: no report, no bundle, not final yet.
        TransientError: the chain does not answer.
    """
    with database.read() as session:
        block = position(session, "finalized")
    if block is None:
        raise UserError("the chain has no final block yet; try again later")
    on_chain = reader.at(block).report(epoch)
    if on_chain.status not in (EpochStatus.PENDING, EpochStatus.FINAL):
        raise UserError(
            f"epoch {epoch} has no report in final blocks (status {on_chain.status.name.lower()}); nothing to verify"
        )
    try:
        context = EpochContextReader(database, ReaderView(reader), reader.deployment).read(epoch, block)
    except NotReadyError as waiting:
        raise UserError(f"epoch {epoch} cannot be verified yet: {waiting}") from None
    with database.read() as session:
        accepted = rewards.report(session, epoch)
    if accepted is None:
        raise MismatchError("the report is on the chain but its event is not")
    report = signed_report(context, on_chain, accepted)
    bundle, verdict = check_report(context, report, source)
    signers = _check_signatures(reader, context, report, on_chain, accepted.tx_hash)
    return _balance(reader, database, block, context, bundle, verdict, on_chain, signers)


def signed_report(context: EpochContext, on_chain: OnChainReport, accepted: Report) -> EpochReport:
    """The report as it was signed, from the contract's storage and its event; the stored digest binds both.

    Raises:
        MismatchError: the event's report is not the one whose digest the contract stores.
    """
    report = EpochReport(
        epoch=context.epoch,
        uptime_root=on_chain.uptime_root,
        node_count=on_chain.node_count,
        execution_root=bytes.fromhex(accepted.execution_root[2:]),
        bundle_hash=bytes.fromhex(accepted.bundle_hash[2:]),
        keeper_set_digest=context.set_digest,
    )
    digest = context.attestation.digest(report.struct_hash())
    if digest[: len(on_chain.digest)] != on_chain.digest:  # the contract keeps the first 14 bytes
        raise MismatchError(
            f"the event's report hashes to 0x{digest.hex()}, the contract keeps 0x{on_chain.digest.hex()}"
        )
    return report


def check_report(
    context: EpochContext, report: EpochReport, source: "BundleSource"
) -> tuple[EvidenceBundle, BundleVerdict]:
    """The bundle that the report names, and what follows from it. Raises MismatchError unless the report follows."""
    wanted = "0x" + report.bundle_hash.hex()
    raw = source.fetch(wanted, context)
    if content_hash(raw) != wanted:
        raise MismatchError(f"the bundle's hash is {content_hash(raw)}, the report names {wanted}")
    try:
        bundle = read(raw, context)
        verdict = verify_bundle(context, bundle)
    except EvidenceError as error:
        raise MismatchError(f"the bundle does not hold: {error}") from None
    computed, reported = report_json(verdict.report), report_json(report)
    # Epoch, bundle hash and set digest cannot differ: both reports were made with the same.
    for field, what in (
        ("nodeCount", "node count"),
        ("uptimeRoot", "uptime root"),
        ("executionRoot", "execution root"),
    ):
        if computed[field] != reported[field]:
            follows = f"the {what} follows as {computed[field]} from the evidence"
            raise MismatchError(f"{follows}, the report has {reported[field]}")
    if not verdict.table.covered():
        raise MismatchError("fewer than two thirds of the slots were probed: nobody should have signed")
    return bundle, verdict


def _check_signatures(
    reader: ChainReader, context: EpochContext, report: EpochReport, on_chain: OnChainReport, tx_hash: str
) -> tuple[str, ...]:
    """The signers by the bitmap. Their signatures are checked in the call data, if the call went straight to the contract."""
    signers = tuple(keeper.signer for keeper in context.keepers if on_chain.signer_bitmap >> keeper.index & 1)
    # No bits beyond the set: the contract refuses them, too (`UnknownSigner`).
    if len(signers) < context.quorum or on_chain.signer_bitmap >> len(context.keepers):
        raise MismatchError(f"{len(signers)} keepers signed, the quorum is {context.quorum}")
    sent = reader.rpc.call("eth_getTransactionByHash", tx_hash)
    data = bytes.fromhex(sent["input"][2:]) if isinstance(sent, dict) else b""
    if data[:4] != reader.abi("UptimeAttestation").encode("submit", _EMPTY_CALL)[:4]:
        return signers  # the call came from another contract; ours checked the signatures then
    # The arguments are decoded as one dynamic tuple, which begins with its offset: 32.
    _, bitmap, signatures = abi_decode([_SUBMIT], b"\0" * 31 + b"\x20" + data[4:])[0]
    if bitmap != on_chain.signer_bitmap:
        raise MismatchError("the transaction's signer bitmap is not the report's")
    for place, expected in enumerate(signers):
        found = signer_of(context, report, signatures[65 * place : 65 * place + 65])
        if found is None or found.signer != expected:
            raise MismatchError(f"signature {place} of the report is not that of {expected}")
    return signers


# Encoded for the function's selector alone.
_EMPTY_CALL = ((0, bytes(32), 0, bytes(32), bytes(32), bytes(32)), 0, b"")


def _balance(
    reader: ChainReader,
    database: Database,
    block: BlockRef,
    context: EpochContext,
    bundle: EvidenceBundle,
    verdict: BundleVerdict,
    on_chain: OnChainReport,
    signers: tuple[str, ...],
) -> Audit:
    epoch = context.epoch
    reads = reader.at(block)
    pool, total, paid = reads.pool(epoch), reads.total_weight(epoch), reads.paid(epoch)
    summed = sum(node.weight for node in context.nodes.values())
    # Exact, without a tolerance: weights are products, never divided (ADR 0001).
    if summed != total:
        raise MismatchError(f"weights sum to {summed}, the registry's total is {total}")
    with database.read() as session:
        claims = rewards.claims_of_epoch(session, epoch)
        histories = node_histories(session, context.clock.end(epoch), block.number)
        overridden = _overrides(rewards.events_of_epoch(session, epoch, ["UptimeOverridden"]), block)
    claims = {node: amount for node, amount in claims.items() if amount}
    # After an appeal the contract pays by the recount; the signed tree stays as it is.
    uptimes = {node: overridden.get(node, uptime) for node, uptime in verdict.table.uptimes().items()}
    earned = {
        node: reward(pool, context.nodes[node].weight, total, uptime) for node, uptime in uptimes.items()
    }
    try:
        account = epoch_account(pool, earned, claims)
    except ValueError as error:
        raise MismatchError(str(error)) from None
    if account.paid != paid:
        raise MismatchError(f"claims sum to {account.paid} wei, the distributor says {paid} wei")
    nodes = tuple(
        NodeResult(
            node_id=node,
            weight=context.nodes[node].weight,
            attested=verdict.table.uptime(node),
            uptime=uptimes[node],
            missed=verdict.table.missed(node),
            earned=earned[node],
            paid=claims.get(node, Wei(0)),
        )
        for node in sorted(uptimes)
    )
    return Audit(
        epoch=epoch,
        block=block,
        status=on_chain.status,
        report=verdict.report,
        signers=signers,
        context=context,
        bundle=bundle,
        verdict=verdict,
        total_weight=total,
        nodes=nodes,
        account=account,
        node_keys={node: frozenset(key for _, key in seen.keys) for node, seen in histories.items()},
    )


def _overrides(events: Sequence[Event], block: BlockRef) -> dict[NodeId, Bps]:
    return {
        NodeId(int(event.args["nodeId"])): Bps(int(event.args["recounted"]))
        for event in events
        if event.block_number <= block.number
    }


@dataclass(frozen=True, slots=True)
class BundleSource:
    """Fetches a bundle from a file, a URL, given keepers, or the keepers of the registry.

    Attributes:
        place: path or URL of the bundle itself.
        keeper_urls: base URLs of keepers to ask; empty means those of the registry.
    """

    place: str | None = None
    keeper_urls: Sequence[str] = ()

    def fetch(self, bundle_hash: str, context: EpochContext) -> bytes:
        """The bundle's bytes; the caller checks their hash. Raises UserError when no source has them."""
        if self.place is not None and "://" not in self.place:
            try:
                return Path(self.place).read_bytes()
            except OSError as error:
                raise UserError(f"bundle {self.place} cannot be read: {error.strerror}") from None
        if self.place is not None:
            raw = HttpPeers().fetch(self.place)
            if raw is None:
                raise UserError(f"there is no bundle at {self.place}")
            return raw
        urls = self.keeper_urls or [keeper.url for keeper in context.keepers if keeper.url]
        raw = HttpPeers().bundle([url.rstrip("/") for url in urls], bundle_hash)
        if raw is None:
            raise UserError(
                f"no keeper gives bundle {bundle_hash}; name one with --keeper-url or a file with --bundle"
            )
        return raw


def open_reader(rpc_url: str, deployment_path: Path, confirmations: int = 0) -> ChainReader:
    """A reader of the deployment's chain. Raises UserError or FatalError when the chain is another one."""
    reader = ChainReader(Rpc(rpc_url), Deployment.load(deployment_path), confirmations=confirmations)
    try:
        reader.check()
    except TransientError as error:
        raise UserError(f"{error}; check --rpc") from None
    return reader
