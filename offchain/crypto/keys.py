"""Secp256k1 keys: encrypted keystore files, signatures over 32-byte digests, recovery.

A signature is 65 bytes `r || s || v` with v in {27, 28} and low s, as OpenZeppelin's ECDSA demands. Signing is
deterministic (RFC 6979), so the same digest always gives the same bytes.
"""

import json
import os
import secrets
import stat
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from coincurve import PrivateKey, PublicKey
from coincurve._libsecp256k1 import ffi, lib
from coincurve.context import GLOBAL_CONTEXT
from eth_account import Account
from eth_keyfile.keyfile import create_keyfile_json, decode_keyfile_json

from offchain.domain.eip712 import SigningDomain, keccak256
from offchain.domain.types import Address
from offchain.errors import UserError

SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_HALF_ORDER = (SECP256K1_ORDER // 2).to_bytes(32, "big")
_POINT = ffi.typeof("secp256k1_pubkey *")
_RECOVERABLE = ffi.typeof("secp256k1_ecdsa_recoverable_signature *")
_PRIVATE_BITS = stat.S_IRWXG | stat.S_IRWXO


class TransactionSigner(Protocol):
    """A key that signs messages and transactions, wherever it is kept: `Signer` or `web3signer.Web3Signer`."""

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


def recover(digest: bytes, signature: bytes) -> Address:
    """The address that signed a digest, EIP-55. Raises ValueError as `recover_key`."""
    return address_of(recover_key(digest, signature))


def recover_key(digest: bytes, signature: bytes) -> bytes:
    """The 64-byte public key that signed a digest. Raises ValueError as `recover_point`."""
    return key_of_point(recover_point(digest, signature))


def recover_point(digest: bytes, signature: bytes) -> bytes:
    """The public key that signed a digest, in libsecp256k1's own form: good for comparing in this process, no further.

    The library's two calls and nothing around them: coincurve's objects cost an eighth of a recovery.

    Raises:
        ValueError: wrong length, s in the upper half, v not 27 or 28, or no point on the curve.
    """
    if len(digest) != 32 or len(signature) != 65:
        raise ValueError("a digest is 32 bytes and a signature 65")
    if signature[64] not in (27, 28):
        raise ValueError("v is not 27 or 28")
    if signature[32:64] > _HALF_ORDER:
        raise ValueError("s is in the upper half of the order")
    context, parsed, point = GLOBAL_CONTEXT.ctx, ffi.new(_RECOVERABLE), ffi.new(_POINT)
    if not (
        lib.secp256k1_ecdsa_recoverable_signature_parse_compact(
            context, parsed, signature, signature[64] - 27
        )
        and lib.secp256k1_ecdsa_recover(context, point, parsed, digest)
    ):
        raise ValueError("the signature recovers to no key")
    return bytes(ffi.buffer(point))


def key_of_point(point: bytes) -> bytes:
    """The 64-byte public key of what `recover_point` gives."""
    key: bytes = PublicKey(ffi.from_buffer(_POINT, point)).format(compressed=False)[1:]
    return key


def public_key_address(key: bytes) -> Address:
    """Address of a public key of 64 bytes, as Web3Signer names them. Raises ValueError when it is no point."""
    if len(key) != 64:
        raise ValueError("a public key is 64 bytes")
    return address_of(PublicKey(b"\x04" + key).format(compressed=False)[1:])


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


@lru_cache(maxsize=8192)
def checksum(address: str) -> Address:
    """EIP-55 text of 0x-hex address text. Raises ValueError when it is not 20 bytes of hex."""
    lower = address.removeprefix("0x").lower()
    if len(lower) != 40:
        raise ValueError(f"{address!r} is not a 20-byte address")
    int(lower, 16)
    digest = keccak256(lower.encode()).hex()
    return Address(
        "0x" + "".join(c.upper() if int(d, 16) >= 8 else c for c, d in zip(lower, digest, strict=False))
    )


def address_of(public_key: bytes) -> Address:
    """The address of a 64-byte public key, EIP-55."""
    return checksum("0x" + keccak256(public_key)[12:].hex())


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
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
