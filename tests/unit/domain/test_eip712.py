"""EIP-712: what is signed agrees with eth_account's encoder, and the prefix is joined in one module."""

import re
from pathlib import Path

from eth_account.messages import encode_typed_data
from hypothesis import given
from hypothesis import strategies as st

from offchain.domain.eip712 import (
    DOMAIN_NAME,
    DOMAIN_VERSION,
    DigestMaker,
    SigningDomain,
    keccak256,
    signing_prefix,
    word,
)

ROOT = Path(__file__).resolve().parents[3]
CONTRACT = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"


@given(st.integers(1, 2**64), st.integers(0, 2**256 - 1))
def test_digest__any_struct__is_eth_accounts(chain_id: int, value: int) -> None:
    domain = SigningDomain(chain_id, CONTRACT)
    struct_hash = keccak256(keccak256(b"One(uint256 value)") + word(value))
    named = {
        "name": DOMAIN_NAME,
        "version": DOMAIN_VERSION,
        "chainId": chain_id,
        "verifyingContract": CONTRACT,
    }
    theirs = encode_typed_data(named, {"One": [{"name": "value", "type": "uint256"}]}, {"value": value})
    expected = keccak256(b"\x19" + theirs.version + theirs.header + theirs.body)
    assert domain.digest(struct_hash) == DigestMaker(domain)(struct_hash) == expected
    assert domain.message(struct_hash) == signing_prefix(domain.separator()) + struct_hash


def test_prefix__in_the_tree__is_joined_in_one_module() -> None:
    pattern = re.compile(r"\\x19(?!Ethereum)|fromhex\(.(0x)?1901|bytes\(\(0x19|bytes\(\[0x19")
    found = {
        str(path.relative_to(ROOT))
        for room in ("offchain", "scripts", "webapp")
        for path in (ROOT / room).rglob("*.py")
        if pattern.search(path.read_text())
    }
    assert found == {"offchain/domain/eip712.py"}
