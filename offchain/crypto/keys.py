"""Secp256k1 keys: encrypted keystore files, signatures over 32-byte digests, recovery.

A signature is 65 bytes `r || s || v` with v in {27, 28} and low s, as OpenZeppelin's ECDSA demands. Signing is
deterministic (RFC 6979), so the same digest always gives the same bytes.
"""

import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from coincurve import PrivateKey
from eth_account import Account
from eth_keyfile.keyfile import create_keyfile_json, decode_keyfile_json

from offchain.crypto.addresses import address_of
from offchain.crypto.recovery import SECP256K1_ORDER
from offchain.domain.eip712 import SigningDomain, keccak256
from offchain.domain.types import Address
from offchain.errors import UserError

_PRIVATE_BITS = stat.S_IRWXG | stat.S_IRWXO


class TransactionSigner(Protocol):
    """A key that signs messages and transactions: `Signer` holds it in memory, `web3signer.Web3Signer` asks a service."""

    @property
    def address(self) -> Address:
        """EIP-55 text."""

    def sign(self, message: bytes) -> bytes:
        """65 bytes over the Keccak-256 of a message, the same at every call."""

    def sign_transaction(self, transaction: Mapping[str, Any]) -> tuple[bytes, str]:
        """Sign an EIP-1559 transaction with web3's field names. Returns the raw bytes and the hash as 0x-hex."""


class Signer:
    """Holds one private key in memory and signs with it. Its `repr` shows the address only."""

    __slots__ = ("_key", "address", "public_key")

    address: Address
    """EIP-55 text."""
    public_key: bytes
    """64 bytes."""

    def __init__(self, key: PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key.format(compressed=False)[1:]
        self.address = address_of(self.public_key)

    @classmethod
    def from_key(cls, key: bytes) -> "Signer":
        """A signer of a raw 32-byte private key.

        Raises:
            ValueError: not 32 bytes, zero, or not below the curve's order.
        """
        if len(key) != 32 or not 0 < int.from_bytes(key, "big") < SECP256K1_ORDER:
            raise ValueError("a private key is 32 bytes, above zero and below the curve's order")
        return cls(PrivateKey(key))

    @classmethod
    def load(cls, keystore: Path, password_file: Path) -> "Signer":
        """The key of an encrypted V3 keystore; takes ~0.3 s on purpose (key stretching).

        Raises:
            UserError: a file is missing, is readable by group or others, is no V3 keystore, or the password is wrong.
        """
        password = _read_private(password_file, "password file").rstrip("\r\n")
        text = _read_private(keystore, "keystore")
        try:
            data = json.loads(text)
        except ValueError:
            data = None
        if not isinstance(data, dict) or data.get("version") != 3:
            raise UserError(f"{keystore} is not a V3 keystore; make one with `parallelix keeper key`")
        try:
            key = decode_keyfile_json(data, _stretchable(password))
        except ValueError:
            raise UserError(f"the password in {password_file} does not open {keystore}") from None
        except (KeyError, TypeError, AttributeError, NotImplementedError):
            raise UserError(f"{keystore} is not a V3 keystore; its fields are damaged") from None
        return cls.from_key(key)

    def sign_digest(self, digest: bytes) -> bytes:
        """65 bytes over a 32-byte digest, ~25 us. Raises ValueError when the digest is not 32 bytes."""
        if len(digest) != 32:
            raise ValueError("a digest is 32 bytes")
        raw = self._key.sign_recoverable(digest, hasher=None)
        # Ethereum's v is the recovery id + 27
        return raw[:64] + bytes((raw[64] + 27,))

    def sign(self, message: bytes) -> bytes:
        """65 bytes over the Keccak-256 of a message."""
        return self.sign_digest(keccak256(message))

    def agree(self, public_key: bytes) -> bytes:
        """32 bytes that only we and the owner of a 64-byte public key can compute (ECDH, SHA-256 of the shared point).

        Raises:
            ValueError: it is no point on the curve.
        """
        shared: bytes = self._key.ecdh(b"\x04" + public_key)
        return shared

    def sign_struct(self, domain: SigningDomain, struct_hash: bytes) -> bytes:
        """65 bytes over an EIP-712 struct hash in a domain."""
        return self.sign(domain.message(struct_hash))

    def sign_transaction(self, transaction: Mapping[str, Any]) -> tuple[bytes, str]:
        """Sign a transaction with web3's field names, complete with nonce, gas and fees.

        Returns:
            The raw bytes to broadcast and the transaction's hash as 0x-hex.
        """
        signed = Account.sign_transaction(dict(transaction), self._key.secret)
        return bytes(signed.raw_transaction), "0x" + bytes(signed.hash).hex()

    def __repr__(self) -> str:
        return f"Signer({self.address})"


def create_keystore(path: Path, password_file: Path, key: bytes | None = None) -> Address:
    """Write a V3 keystore of a key (a new random one by default), readable by its owner alone; never overwrites.

    A password file that does not exist is made with a random password, also for its owner alone.

    Returns:
        The key's address.

    Raises:
        UserError: the keystore exists already, or a file cannot be written or is readable by others.
    """
    if path.exists():
        raise UserError(f"keystore {path} exists already; choose another path or remove it yourself")
    if not password_file.exists():
        _write_private(password_file, secrets.token_urlsafe(32) + "\n")
    password = _read_private(password_file, "password file").rstrip("\r\n")
    secret = key if key is not None else _random_key()
    signer = Signer.from_key(secret)
    data = create_keyfile_json(secret, _stretchable(password))
    _write_private(path, json.dumps(data) + "\n")
    return signer.address


def _random_key() -> bytes:
    while True:
        key = secrets.token_bytes(32)
        if 0 < int.from_bytes(key, "big") < SECP256K1_ORDER:
            return key


def _stretchable(password: str) -> Any:
    return password.encode()  # eth_keyfile is annotated with str but needs bytes


def _read_private(path: Path, what: str) -> str:
    try:
        if path.stat().st_mode & _PRIVATE_BITS:
            raise UserError(f"{what} {path} can be read by others; run `chmod 600 {path}`")
        return path.read_text()
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path} cannot be read: {error}") from None


def _write_private(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # O_EXCL and the mode at once: the file is never readable by others, and never overwritten
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
