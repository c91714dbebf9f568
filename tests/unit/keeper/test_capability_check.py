"""What a keeper finds in a manifest that a node serves."""

import pytest

from offchain.domain.eip712 import keccak256
from offchain.domain.types import NodeId
from offchain.keeper.probing.capability_check import check_node
from offchain.scheduler.fleet import NodeReport
from tests.support.factories import make_node


@pytest.mark.parametrize(
    "served",
    [b"[" * 300 + b"]" * 300, b"[" * 100_000, b"\xff", b'{"version":1}'],
    ids=["nested", "unclosed", "not text", "no models"],
)
def test_check_node__strangers_bytes_whose_hash_is_on_chain__is_a_finding(served: bytes) -> None:
    node = make_node(1, manifest_hash="0x" + keccak256(served).hex())
    report = NodeReport(NodeId(1), url="", region="eu", tier=1, offers={}, slots=1, free_slots=1)
    finding = check_node(served, node, report)
    assert finding["found"]
    assert finding["revisions"] == {}
