"""A key that never enters this process: a Web3Signer service holds it and signs over HTTP.

Its `POST /api/v1/eth1/sign/{public key}` takes the message, not its hash, and signs the Keccak-256 of it; it answers with
65 bytes of 0x-hex. So callers hand over messages, not digests: `0x1901 || ...` of EIP-712, `0x02 || rlp(...)` of a
transaction. Every answer is checked against the address before it is used.
https://docs.web3signer.consensys.io/reference/api/rest
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx

from offchain.crypto.addresses import checksum, public_key_address
from offchain.crypto.recovery import recover
from offchain.domain.eip712 import address_bytes, keccak256
from offchain.domain.types import Address
from offchain.errors import TransientError, UserError
from offchain.runtime.redaction import endpoint_label

TIMEOUT_SECONDS = 3.0
_PROBE = b"parallelix.web3signer.check"
_FIELDS = ("chainId", "nonce", "maxPriorityFeePerGas", "maxFeePerGas", "gas", "to", "value", "data")


class Web3Signer:
    """Signs by asking. Thread-safe, and may be carried over a fork: each process makes its own connections."""

    def __init__(self, url: str, public_key: str) -> None:
        """`public_key`, 64 bytes as 0x-hex, is the service's name for the key. Errors and logs name host and port of `url` only."""
        self.address: Address = public_key_address(bytes.fromhex(public_key.removeprefix("0x")))
        self._label = endpoint_label(url, "web3signer_url")
        self._url = f"{url.rstrip('/')}/api/v1/eth1/sign/{quote(public_key)}"
        self._client: httpx.Client | None = None
        self._client_pid = 0

    @classmethod
    def connect(cls, url: str, address: str) -> "Web3Signer":
        """The service's key of an address, after it has signed something twice.

        Raises:
            UserError: the service does not answer, does not have the key, signs with another one, or gives another
                signature each time (some vaults do): schedules must follow from a key without any choice.
        """
        wanted, label = checksum(address), endpoint_label(url, "web3signer_url")
        try:
            answer = httpx.get(f"{url.rstrip('/')}/api/v1/eth1/publicKeys", timeout=TIMEOUT_SECONDS)
            names = [str(name) for name in answer.raise_for_status().json()]
            signers = (cls(url, name) for name in names)
            signer = next((made for made in signers if made.address == wanted), None)
        except (httpx.HTTPError, ValueError, TypeError) as error:
            raise UserError(f"web3signer at {label} does not list its keys: {type(error).__name__}") from None
        if signer is None:
            raise UserError(f"web3signer at {label} has no key of {wanted}; it has {len(names)} others")
        try:
            first, second = signer.sign(_PROBE), signer.sign(_PROBE)
        except TransientError as error:
            raise UserError(str(error)) from None
        finally:
            signer.close()
        if first != second:
            raise UserError(
                f"web3signer at {label} signs the same message differently each time; keep this key in a file or a "
                "vault that signs deterministically (RFC 6979)"
            )
        return signer

    def sign(self, message: bytes) -> bytes:
        """65 bytes over the Keccak-256 of a message. Raises TransientError when there is no such answer."""
        who = f"web3signer at {self._label}"
        try:
            answer = self._http().post(self._url, json={"data": "0x" + message.hex()})
            signature = bytes.fromhex(answer.raise_for_status().text.strip().removeprefix("0x"))
        except httpx.HTTPStatusError as error:
            raise TransientError(f"{who} answers HTTP {error.response.status_code}") from None
        except (httpx.HTTPError, ValueError) as error:
            raise TransientError(f"{who} does not sign: {type(error).__name__}") from None
        try:
            signed_by = recover(keccak256(message), signature)
        except ValueError as error:
            raise TransientError(f"{who} gave no signature: {error}") from None
        if signed_by != self.address:
            raise TransientError(f"{who} signed with the key of {signed_by}")
        return signature

    def sign_transaction(self, transaction: Mapping[str, Any]) -> tuple[bytes, str]:
        """Sign an EIP-1559 transaction with web3's field names and no access list.

        Returns:
            The raw bytes to broadcast and the transaction's hash as 0x-hex.

        Raises:
            TransientError: as `sign`.
        """
        values = {**transaction, "to": address_bytes(transaction["to"])}
        fields = [*(values[name] for name in _FIELDS), []]
        signature = self.sign(b"\x02" + rlp(fields))
        r, s = (int.from_bytes(part, "big") for part in (signature[:32], signature[32:64]))
        raw = b"\x02" + rlp([*fields, signature[64] - 27, r, s])
        return raw, "0x" + keccak256(raw).hex()

    def close(self) -> None:
        """Close this process's connections; the next signature opens new ones."""
        if self._client is not None and self._client_pid == os.getpid():
            self._client.close()
        self._client = None

    def __repr__(self) -> str:
        return f"Web3Signer({self.address} at {self._label})"

    def _http(self) -> httpx.Client:
        # A forked child must not share its parent's connections.
        if self._client is None or self._client_pid != os.getpid():
            self._client, self._client_pid = httpx.Client(timeout=TIMEOUT_SECONDS), os.getpid()
        return self._client


def rlp(item: int | bytes | Sequence[Any]) -> bytes:
    """Recursive length prefix encoding of natural numbers, bytes and lists of them (Yellow Paper, appendix B)."""
    if isinstance(item, int):
        return rlp(item.to_bytes((item.bit_length() + 7) // 8, "big"))
    if isinstance(item, bytes):
        return item if len(item) == 1 and item[0] < 0x80 else _headed(0x80, item)
    return _headed(0xC0, b"".join(rlp(part) for part in item))


def _headed(kind: int, body: bytes) -> bytes:
    if len(body) < 56:
        return bytes((kind + len(body),)) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes((kind + 55 + len(size),)) + size + body
