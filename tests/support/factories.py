"""Rows with sensible fields, for tests of what reads them."""

from typing import Any

from offchain.db.models import Node

OWNER = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"


def make_node(node_id: int, **changes: Any) -> Node:
    """A node of 100 tokens in tier 1, active from epoch 1."""
    fields: dict[str, Any] = {
        "node_id": node_id,
        "owner": OWNER,
        "beneficiary": OWNER,
        "key_address": f"0x{node_id:040x}",
        "key_hash": f"0x{node_id:064x}",
        "tier": 1,
        "stake_wei": 100 * 10**18,
        "active_from": 1,
        "registered_block": node_id,
        "registered_at": 1_000 + node_id,
        **changes,
    }
    return Node(**fields)
