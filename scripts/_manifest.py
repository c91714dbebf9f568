"""The deployment manifest `deployments/<chain_id>.json`: what every other part reads its addresses and ABIs from."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from offchain.domain.eip712 import keccak256
from offchain.runtime.files import write_atomically

MANIFEST_VERSION = 1


def contract_entry(
    address: str, block: int, tx_hash: str, abi: Sequence[Mapping[str, Any]], runtime_code: bytes
) -> dict[str, Any]:
    """A contract's entry. `abi_hash` is keccak256 of the ABI as compact JSON with sorted keys, `code_hash` of the code
    on chain."""
    canonical = json.dumps(abi, sort_keys=True, separators=(",", ":")).encode()
    return {
        "address": address,
        "block": block,
        "tx_hash": tx_hash,
        "abi_hash": "0x" + keccak256(canonical).hex(),
        "code_hash": "0x" + keccak256(runtime_code).hex(),
        "abi": list(abi),
    }


def write(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest whole or not at all."""
    write_atomically(path, json.dumps(manifest, indent=1) + "\n", mode=0o644)
