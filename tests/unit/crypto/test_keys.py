"""Keys: file permissions, signatures that the contracts accept, recovery that refuses what they refuse."""

import re
import time
from pathlib import Path

import pytest
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from offchain.crypto.addresses import checksum
from offchain.crypto.keys import Signer, create_keystore
from offchain.crypto.recovery import SECP256K1_ORDER, recover
from offchain.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
KEY = bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
ADDRESS = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"


@given(st.binary(min_size=32, max_size=32))
def test_signer__any_digest__recovers_deterministic_and_low_s(digest: bytes) -> None:
    signer = Signer.from_key(KEY)
    signature = signer.sign_digest(digest)
    assert signature == signer.sign_digest(digest)
    assert signature[64] in (27, 28)
    assert int.from_bytes(signature[32:64], "big") <= SECP256K1_ORDER // 2
    assert recover(digest, signature) == signer.address == ADDRESS


def test_signer__one_signature__takes_less_than_100_microseconds() -> None:
    signer, digest = Signer.from_key(KEY), b"\7" * 32
    begin = time.process_time()
    for _ in range(200):
        signer.sign_digest(digest)
    assert (time.process_time() - begin) / 200 < 100e-6


def test_recover__high_s_bad_v_bad_length__is_refused() -> None:
    digest = b"\3" * 32
    good = Signer.from_key(KEY).sign_digest(digest)
    high = good[:32] + (SECP256K1_ORDER - int.from_bytes(good[32:64], "big")).to_bytes(32, "big")
    for bad, why in [
        (high + bytes((55 - good[64],)), "upper half"),
        (good[:64] + b"\0", "v is not"),
        (good[:64], "65"),
        (bytes(64) + b"\x1b", "no key"),
    ]:
        with pytest.raises(ValueError, match=why):
            recover(digest, bad)


@pytest.mark.parametrize("key", [b"", bytes(32), SECP256K1_ORDER.to_bytes(32, "big"), b"\1" * 31])
def test_signer__key_out_of_range__is_refused(key: bytes) -> None:
    with pytest.raises(ValueError, match="private key"):
        Signer.from_key(key)


def test_signer__transaction__is_what_eth_account_signs() -> None:
    fields = {
        "type": 2, "chainId": 31337, "nonce": 3, "to": ADDRESS, "value": 1, "gas": 21_000,
        "maxFeePerGas": 10, "maxPriorityFeePerGas": 1, "data": b"",
    }  # fmt: skip
    raw, tx_hash = Signer.from_key(KEY).sign_transaction(fields)
    assert Account.recover_transaction(raw) == ADDRESS
    assert len(tx_hash) == 66


def test_keystore__made_and_loaded__gives_the_same_address(tmp_path: Path) -> None:
    path, password = tmp_path / "keys" / "keeper.json", tmp_path / "keys" / "password"
    address = create_keystore(path, password)
    assert path.stat().st_mode & 0o777 == password.stat().st_mode & 0o777 == 0o600
    assert Signer.load(path, password).address == address
    assert address in repr(Signer.load(path, password))
    with pytest.raises(UserError, match="exists already"):
        create_keystore(path, password)


def test_keystore__readable_by_others_wrong_password_or_no_keystore__is_one_line(tmp_path: Path) -> None:
    path, password = tmp_path / "k.json", tmp_path / "p"
    create_keystore(path, password, key=KEY)
    for name in (path, password):
        name.chmod(0o640)
        with pytest.raises(UserError, match="chmod 600"):
            Signer.load(path, password)
        name.chmod(0o600)
    with pytest.raises(UserError, match="does not exist"):
        Signer.load(tmp_path / "none", password)
    password.write_text("wrong")
    with pytest.raises(UserError, match="does not open"):
        Signer.load(path, password)
    for junk in ("{}", "no json", '{"version": 3}', '{"version": 3, "crypto": {"kdf": "x"}}'):
        path.write_text(junk)
        with pytest.raises(UserError, match="not a V3 keystore"):
            Signer.load(path, password)


def test_checksum__any_case__is_eip55() -> None:
    assert checksum(ADDRESS.lower()) == checksum(ADDRESS) == ADDRESS
    for bad in ("0x12", "0x" + "g" * 40):
        with pytest.raises(ValueError, match=r"address|base 16"):
            checksum(bad)


def test_signature_rule__in_the_tree__has_one_body() -> None:
    pattern = re.compile(r"\(27, 28\)|HALF_ORDER|5D576E7357A4501D|from_signature_and_message")
    rooms = [path for path in (ROOT / "offchain").iterdir() if path.is_dir() and path.name != "evidence"]
    found = {
        str(path.relative_to(ROOT))
        for room in (*rooms, ROOT / "scripts", ROOT / "webapp")  # evidence: tests/unit/evidence holds it
        for path in room.rglob("*.py")
        if pattern.search(path.read_text())
    }
    assert found == {"offchain/crypto/recovery.py"}
