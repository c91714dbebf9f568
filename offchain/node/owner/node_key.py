"""The node key. The chain knows it by the Keccak-256 of its 64-byte public key, the node key hash."""

import json
from pathlib import Path

from offchain.crypto.addresses import checksum
from offchain.crypto.keys import Signer
from offchain.domain.eip712 import keccak256
from offchain.domain.types import Address
from offchain.errors import UserError


def node_key_hash(signer: Signer) -> bytes:
    """keccak256 of the key's 64-byte public key, 32 bytes: what `registerNode` takes."""
    return keccak256(signer.public_key)


def address_of_key_hash(key_hash: bytes) -> Address:
    """The address of the node key that a 32-byte hash names."""
    return checksum("0x" + key_hash[12:].hex())


def parse_key_hash(text: str) -> bytes:
    """32 bytes of 0x-hex. Raises UserError."""
    try:
        raw = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise UserError(
            f"{text!r} is no node key hash; give the 0x and 64 hex digits that `node keygen` prints"
        )
    return raw


def keystore_address(keystore: Path) -> Address:
    """The address of a keystore, which can be read without the password. Raises UserError."""
    try:
        return checksum(str(json.loads(keystore.read_text())["address"]))
    except FileNotFoundError:
        raise UserError(
            f"keystore {keystore} does not exist; make one with `parallelix node keygen`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{keystore} is not a V3 keystore that names its address") from None
