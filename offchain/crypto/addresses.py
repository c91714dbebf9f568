"""Ethereum addresses of public keys, and their EIP-55 text."""

from functools import lru_cache

from coincurve import PublicKey

from offchain.domain.eip712 import keccak256
from offchain.domain.types import Address


def public_key_address(key: bytes) -> Address:
    """Address of a public key of 64 bytes, as Web3Signer names them. Raises ValueError when it is no point."""
    if len(key) != 64:
        raise ValueError("a public key is 64 bytes")
    return address_of(PublicKey(b"\x04" + key).format(compressed=False)[1:])


@lru_cache(maxsize=8192)
def checksum(address: str) -> Address:
    """EIP-55 text of 0x-hex address text. Raises ValueError when it is not 20 bytes of hex."""
    lower = address.removeprefix("0x").lower()
    if len(lower) != 40:
        raise ValueError(f"{address!r} is not a 20-byte address")
    int(lower, 16)  # raises ValueError for other letters
    pairs = zip(lower, keccak256(lower.encode()).hex(), strict=False)  # 40 letters, 64 digits
    return Address("0x" + "".join(c.upper() if int(d, 16) >= 8 else c for c, d in pairs))


def address_of(public_key: bytes) -> Address:
    """The address of a 64-byte public key, EIP-55."""
    return checksum("0x" + keccak256(public_key)[12:].hex())
