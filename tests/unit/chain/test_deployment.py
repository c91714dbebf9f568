"""The deployment file: what is refused, and with which line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from offchain.chain.deployment import Deployment
from offchain.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
HASH = "0x" + "ab" * 32


def document(**changes: Any) -> dict[str, Any]:
    contract = {
        "address": "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266", "block": 2, "tx_hash": HASH, "abi_hash": HASH,
        "code_hash": HASH, "abi": [{"type": "function", "name": "x"}],
    }  # fmt: skip
    return {
        "version": 1, "chain_id": 31337, "network": "local", "deployed_at_block": 2, "genesis": 1_000,
        "epoch_length": 60, "slots_per_epoch": 6, "contracts": {"NodeRegistryLocker": contract}, **changes,
    }  # fmt: skip


def write(path: Path, data: Any) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_deployment__good_file__gives_clock_and_domain(tmp_path: Path) -> None:
    deployment = Deployment.load(write(tmp_path / "d.json", document()))
    assert deployment.clock().epoch_at(1_061) == 1
    domain = deployment.signing_domain("NodeRegistryLocker")
    assert (domain.chain_id, domain.verifying_contract) == (
        31337,
        "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
    )
    with pytest.raises(UserError, match="no contract Other"):
        deployment.contract("Other")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("{", "cannot be read"),
        ("[]", "not a deployment file"),
        ({"a": 1}, "not a deployment file"),
        (document(version=2), "format version 2"),
        (document(genesis="x"), "not a natural number"),
        (document(slots_per_epoch=0), "slots"),
        (document(contracts={"A": {}}), "'address' is missing"),
        (document(contracts={"A": {"address": "0x1"}}), "20-byte"),
        ({k: v for k, v in document().items() if k != "genesis"}, "'genesis' is missing"),
    ],
)
def test_deployment__bad_file__is_one_line(tmp_path: Path, content: Any, line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        Deployment.load(write(tmp_path / "d.json", content))
    assert "\n" not in str(caught.value)


def test_deployment__missing_file__says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="deploy the contracts first"):
        Deployment.load(tmp_path / "none.json")


def test_check_of_a_chain__in_the_tree__has_one_body() -> None:
    pattern = re.compile(r"\.code_hash\b|eth_getCode|eth_chainId")
    found = {
        str(path.relative_to(ROOT))
        for room in ("offchain", "webapp")
        for path in (ROOT / room).rglob("*.py")
        if pattern.search(path.read_text())
    }
    assert found - {"offchain/node/agent/registry.py"} == {"offchain/chain/reader.py"}
