"""A key in a Web3Signer: the same signatures as of the key itself, and no wrong one is ever used."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offchain.crypto.addresses import checksum
from offchain.crypto.keys import Signer
from offchain.crypto.recovery import recover
from offchain.crypto.web3signer import Web3Signer, rlp
from offchain.domain.eip712 import SigningDomain
from offchain.errors import TransientError, UserError
from tests.support.fakes.web3signer import Web3SignerServer, start_web3signer
from tests.support.services.ports import free_port

KEY, OTHER = b"\x11" * 32, b"\x22" * 32
LOCAL = Signer.from_key(KEY)
DOMAIN = SigningDomain(31337, "0x" + "ab" * 20)
UINT = st.integers(min_value=0, max_value=2**64)


@pytest.fixture(scope="module")
def service() -> Iterator[Web3SignerServer]:
    with start_web3signer(OTHER, KEY) as running:
        yield running


@pytest.fixture
def remote(service: Web3SignerServer) -> Iterator[Web3Signer]:
    with closing(Web3Signer.connect(service.url, LOCAL.address.lower())) as signer:
        yield signer
    service.fault = ""


def test_sign__typed_data__is_the_keys_own_signature(remote: Web3Signer) -> None:
    struct_hash = b"\5" * 32
    signature = remote.sign(DOMAIN.message(struct_hash))
    assert signature == LOCAL.sign_digest(DOMAIN.digest(struct_hash))
    assert recover(DOMAIN.digest(struct_hash), signature) == remote.address == LOCAL.address


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    nonce=UINT,
    value=UINT,
    gas=UINT,
    fee=UINT,
    data=st.binary(max_size=300),
    to=st.binary(min_size=20, max_size=20),
)
def test_sign_transaction__any__is_what_the_key_itself_signs(
    remote: Web3Signer, nonce: int, value: int, gas: int, fee: int, data: bytes, to: bytes
) -> None:
    fields = {
        "type": 2, "chainId": 31337, "nonce": nonce, "to": checksum("0x" + to.hex()), "value": value, "data": data, "gas": gas,
        "maxFeePerGas": fee, "maxPriorityFeePerGas": fee // 2,
    }  # fmt: skip
    assert remote.sign_transaction(fields) == LOCAL.sign_transaction(fields)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("status", "HTTP 500"),
        ("text", "does not sign"),
        ("other", "with the key of"),
    ],
)
def test_sign__service_fails_or_signs_with_another_key__is_transient_and_nothing_is_used(
    service: Web3SignerServer, remote: Web3Signer, fault: str, words: str
) -> None:
    service.fault = fault
    with pytest.raises(TransientError, match=words):
        remote.sign(b"message")
    with pytest.raises(UserError, match=words):
        Web3Signer.connect(service.url, LOCAL.address)


def test_connect__signatures_differ_each_time__is_refused(
    service: Web3SignerServer, remote: Web3Signer
) -> None:
    service.fault = "drawn"
    assert remote.sign(b"message") != remote.sign(b"message"), "each is valid"
    with pytest.raises(UserError, match="differently each time"):
        Web3Signer.connect(service.url, LOCAL.address)


def test_connect__no_such_key_or_nobody_there__is_one_line_without_credentials(
    service: Web3SignerServer,
) -> None:
    with pytest.raises(UserError, match=r"has no key of 0x0{40}; it has 2 others"):
        Web3Signer.connect(service.url, "0x" + "00" * 20)
    port = free_port()
    with pytest.raises(UserError, match="does not list its keys") as error:
        Web3Signer.connect(f"http://user:secret@127.0.0.1:{port}", LOCAL.address)
    assert "secret" not in str(error.value)
    with pytest.raises(UserError, match="web3signer_url"):
        Web3Signer.connect("signer.example", LOCAL.address)


@pytest.mark.parametrize(
    ("item", "encoded"),
    [
        (b"dog", "83646f67"), ([b"cat", b"dog"], "c88363617483646f67"), (b"", "80"), ([], "c0"), (0, "80"), (15, "0f"),
        (1024, "820400"), ([[], [[]], [[], [[]]]], "c7c0c1c0c3c0c1c0"), (b"a" * 56, "b838" + "61" * 56),
    ],
)  # fmt: skip
def test_rlp__examples_of_the_yellow_paper__are_encoded(item: object, encoded: str) -> None:
    assert rlp(item).hex() == encoded  # type: ignore[arg-type]
