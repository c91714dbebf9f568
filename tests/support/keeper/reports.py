"""Signed epoch reports for tests: valid for the contract, about nothing in particular."""

from typing import Any

from offchain.domain.eip712 import keccak256
from offchain.domain.messages import EpochReport
from offchain.domain.types import Epoch
from tests.support.services.contracts import Network


def report_arguments(network: Network, epoch: int, signers: list[int]) -> tuple[dict[str, Any], int, bytes]:
    """Arguments of `UptimeAttestation.submit` for an epoch that is over, signed by keepers' test accounts."""
    reads = network.chain.at(network.chain.head_block())
    keepers = reads.keeper_set(Epoch(epoch))
    report = EpochReport(
        epoch=Epoch(epoch),
        uptime_root=keccak256(b"uptime"),
        node_count=reads.node_count(),
        execution_root=keccak256(b"execution"),
        bundle_hash=keccak256(b"bundle"),
        keeper_set_digest=keepers.digest,
    )
    domain = network.deployment.signing_domain("UptimeAttestation")
    by_index = sorted(
        (keepers.signers.index(network.signers[account].address), account) for account in signers
    )
    bitmap = sum(1 << index for index, _ in by_index)
    signatures = [
        network.signers[account].sign_struct(domain, report.struct_hash()) for _, account in by_index
    ]
    fields = {
        "epoch": report.epoch,
        "uptimeRoot": report.uptime_root,
        "nodeCount": report.node_count,
        "executionRoot": report.execution_root,
        "bundleHash": report.bundle_hash,
        "keeperSetDigest": report.keeper_set_digest,
    }
    return fields, bitmap, b"".join(signatures)
