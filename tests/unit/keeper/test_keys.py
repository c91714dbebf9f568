"""Which key a keeper uses: one, and said in full."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from offchain.crypto.keys import Signer, create_keystore
from offchain.crypto.web3signer import Web3Signer
from offchain.errors import UserError
from offchain.keeper.operator.keys import load_signer
from offchain.keeper.settings import KeeperSettings
from tests.support.fakes.web3signer import start_web3signer

KEY = b"\x33" * 32
FIELDS = {
    "data_dir": ".", "rpc_url": "http://127.0.0.1:1", "deployment": "1.json", "database_url": "sqlite:///k.db", "region": "eu",
    "gateway_url": "http://127.0.0.1:1", "gateway_api_key_file": "key", "probe_model": "m",
}  # fmt: skip
KEYSTORE = {"keystore": "k", "password_file": "p"}
REMOTE = {"web3signer_url": "http://signer:9000", "web3signer_address": "0x" + "00" * 20}


def settings(folder: Path, **key: Any) -> KeeperSettings:
    path = folder / "keeper.toml"
    path.write_text(tomli_w.dumps(FIELDS | key))
    return KeeperSettings.load(path)


@pytest.mark.parametrize(
    "key",
    [
        {}, {"keystore": "k"}, {"web3signer_url": "http://signer:9000"}, KEYSTORE | REMOTE,
        KEYSTORE | {"web3signer_address": "0x"}, REMOTE | {"keystore": "k"},
    ],
)  # fmt: skip
def test_settings__no_key_or_two_or_half_a_one__is_one_line(tmp_path: Path, key: dict[str, str]) -> None:
    with pytest.raises(UserError, match="set keystore and password_file, or else web3signer_url") as error:
        settings(tmp_path, **key)
    assert "\n" not in str(error.value)


def test_load_signer__either_place__signs_the_same(tmp_path: Path) -> None:
    keystore, password = tmp_path / "k", tmp_path / "p"
    address = create_keystore(keystore, password, KEY)
    local = load_signer(settings(tmp_path, keystore=str(keystore), password_file=str(password)))
    with start_web3signer(KEY) as service:
        remote = load_signer(settings(tmp_path, web3signer_url=service.url, web3signer_address=address))
        assert isinstance(remote, Web3Signer)
        assert remote.sign(b"message") == local.sign(b"message") == Signer.from_key(KEY).sign(b"message")
        remote.close()
