"""Route receipts: a request's record, signed by the gateway.

`signature` is over keccak256("parallelix.route.v1" || canonical JSON (RFC 8785) of the record without `signature`), as a
raw 32-byte digest. Anyone can recover the gateway's address from it and look that up in KeeperRegistry.
"""

from collections.abc import Callable
from typing import Any

from offchain.domain.canonical_json import canonical
from offchain.domain.eip712 import keccak256

_TAG = b"parallelix.route.v1"


def route_digest(record: dict[str, Any]) -> bytes:
    """The 32 bytes that the gateway signs for a record."""
    return keccak256(_TAG + canonical({name: value for name, value in record.items() if name != "signature"}))


class RouteReceiptSigner:
    """Signs records with a gateway's key."""

    def __init__(self, address: str, sign: Callable[[bytes], bytes]) -> None:
        self._address = address
        self._sign = sign

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record with `gateway` and `signature`."""
        signed = {**record, "gateway": self._address}
        signed["signature"] = "0x" + self._sign(route_digest(signed)).hex()
        return signed
