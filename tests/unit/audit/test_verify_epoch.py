"""`epoch verify`: the event's report is believed only as far as the contract's digest binds it."""

import pytest

from offchain.audit.verify_epoch import MismatchError, signed_report
from offchain.chain.reader import EpochStatus, OnChainReport
from offchain.db.models import Report
from offchain.domain.eip712 import keccak256
from offchain.domain.messages import EpochReport
from offchain.domain.types import NodeId
from tests.support.keeper.epoch_factory import EPOCH, EpochWorld


def on_chain(world: EpochWorld) -> tuple[EpochReport, OnChainReport, Report]:
    """A signed report, what the contract keeps of it, and its event."""
    report = EpochReport(
        epoch=EPOCH,
        uptime_root=keccak256(b"root"),
        node_count=NodeId(3),
        execution_root=keccak256(b"execution"),
        bundle_hash=keccak256(b"bundle"),
        keeper_set_digest=world.context.set_digest,
    )
    kept = OnChainReport(
        epoch=EPOCH,
        status=EpochStatus.FINAL,
        uptime_root=report.uptime_root,
        node_count=report.node_count,
        digest=world.context.attestation.digest(report.struct_hash())[:14],
        final_at=1,
        signer_bitmap=7,
    )
    event = Report(
        execution_root="0x" + report.execution_root.hex(), bundle_hash="0x" + report.bundle_hash.hex()
    )
    return report, kept, event


def test_signed_report__event_of_the_contracts_report__is_what_was_signed() -> None:
    world = EpochWorld()
    report, kept, event = on_chain(world)
    assert signed_report(world.context, kept, event) == report


@pytest.mark.parametrize("field", ["execution_root", "bundle_hash"])
def test_signed_report__event_says_something_else__is_a_mismatch(field: str) -> None:
    world = EpochWorld()
    _, kept, event = on_chain(world)
    setattr(event, field, "0x" + keccak256(b"another").hex())
    with pytest.raises(MismatchError, match="the contract keeps 0x"):
        signed_report(world.context, kept, event)
