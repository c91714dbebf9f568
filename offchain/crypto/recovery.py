"""Which signatures are valid, and who made them. Gateway, node, keeper and audit all read signatures through this module."""

from coincurve import PublicKey
from coincurve._libsecp256k1 import ffi, lib
from coincurve.context import GLOBAL_CONTEXT

from offchain.crypto.addresses import address_of
from offchain.domain.types import Address

SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_HALF_ORDER = (SECP256K1_ORDER // 2).to_bytes(32, "big")
_POINT = ffi.typeof("secp256k1_pubkey *")
_RECOVERABLE = ffi.typeof("secp256k1_ecdsa_recoverable_signature *")


def check_form(signature: bytes) -> None:
    """The form that every signature must have: 65 bytes, v of 27 or 28, s in the lower half of the curve's order.

    The contracts refuse all others (OpenZeppelin's ECDSA). Two byte forms of one signature would let anybody change the
    hash of a signed document.

    Raises:
        ValueError: says what is wrong.
    """
    if len(signature) != 65:
        raise ValueError("a signature is 65 bytes")
    if signature[64] not in (27, 28):
        raise ValueError("v is not 27 or 28")
    if signature[32:64] > _HALF_ORDER:
        raise ValueError("s is in the upper half of the order")


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
    if len(digest) != 32:
        raise ValueError("a digest is 32 bytes")
    check_form(signature)
    context, parsed, point = GLOBAL_CONTEXT.ctx, ffi.new(_RECOVERABLE), ffi.new(_POINT)
    parse, finish = lib.secp256k1_ecdsa_recoverable_signature_parse_compact, lib.secp256k1_ecdsa_recover
    v = signature[64] - 27
    if not (parse(context, parsed, signature, v) and finish(context, point, parsed, digest)):
        raise ValueError("the signature recovers to no key")
    return bytes(ffi.buffer(point))


def key_of_point(point: bytes) -> bytes:
    """The 64-byte public key of what `recover_point` gives."""
    key: bytes = PublicKey(ffi.from_buffer(_POINT, point)).format(compressed=False)[1:]
    return key
