"""Keccak-256 and EIP-712 hashing without a framework: fixed-size static types only, which is all we sign."""

from dataclasses import dataclass

from sha3 import keccak_256  # type: ignore[import-untyped]

DOMAIN_NAME = "ParalleliX"
DOMAIN_VERSION = "1"


def keccak256(data: bytes) -> bytes:
    """Keccak-256 of `data`, 32 bytes."""
    # Not hashlib's sha3_256: FIPS 202 pads differently from the Keccak that Ethereum took.
    return keccak_256(data).digest()  # type: ignore[no-any-return]


def word(value: int) -> bytes:
    """An unsigned integer as one 32-byte big-endian ABI word. Raises OverflowError outside uint256."""
    return value.to_bytes(32, "big")


def hex_bytes(text: str, size: int) -> bytes:
    """`size` bytes of hex text, with or without 0x. Raises ValueError."""
    raw = bytes.fromhex(text.removeprefix("0x"))
    if len(raw) != size:
        raise ValueError(f"{text!r} is not {size} bytes of hex")
    return raw


def address_bytes(address: str) -> bytes:
    """20 bytes of 0x-hex address text. Raises ValueError when it is not 20 bytes of hex."""
    return hex_bytes(address, 20)


@dataclass(frozen=True, slots=True)
class SigningDomain:
    """EIP-712 domain: https://eips.ethereum.org/EIPS/eip-712#definition-of-domainseparator.

    Attributes:
        chain_id: EIP-155 chain id.
        verifying_contract: address, 0x-hex.
    """

    chain_id: int
    verifying_contract: str

    def separator(self) -> bytes:
        """The 32-byte domain separator."""
        return keccak256(
            _DOMAIN_TYPEHASH
            + keccak256(DOMAIN_NAME.encode())
            + keccak256(DOMAIN_VERSION.encode())
            + word(self.chain_id)
            + bytes(12)
            + address_bytes(self.verifying_contract)
        )

    def digest(self, struct_hash: bytes) -> bytes:
        """The 32 bytes that are signed for a struct hash: `keccak256` of its `message`."""
        return keccak256(self.message(struct_hash))

    def message(self, struct_hash: bytes) -> bytes:
        """The 66 bytes whose hash is signed: `0x1901 || separator || structHash`."""
        return signing_prefix(self.separator()) + struct_hash


_DOMAIN_TYPEHASH = keccak256(
    b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)


def signing_prefix(separator: bytes) -> bytes:
    """What stands before each struct hash that is signed in a domain: `0x1901 || separator`, 34 bytes."""
    # EIP-191: nothing that begins with 0x19 is an encoded transaction; version 0x01 is EIP-712.
    return b"\x19\x01" + separator


class DigestMaker:
    """`SigningDomain.digest` with the domain separator computed once."""

    __slots__ = ("_prefix",)

    def __init__(self, domain: SigningDomain) -> None:
        self._prefix = signing_prefix(domain.separator())

    def __call__(self, struct_hash: bytes) -> bytes:
        return keccak256(self._prefix + struct_hash)
