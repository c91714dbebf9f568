"""Signature recovery for the hot path: the address of a public key is computed once and remembered."""

from offchain.crypto.addresses import address_of
from offchain.crypto.recovery import key_of_point, recover_point
from offchain.domain.types import MAX_NODES, Address


class CachedRecovery:
    """`offchain.crypto.recovery.recover`, without encoding and hashing the same key again for each receipt."""

    def __init__(self) -> None:
        self._addresses: dict[bytes, Address] = {}
        self._keys: dict[str, bytes] = {}

    def __call__(self, digest: bytes, signature: bytes) -> Address:
        """The address that signed a digest, EIP-55. Raises ValueError as `recover`."""
        point = recover_point(digest, signature)
        address = self._addresses.get(point)
        if address is None:
            if len(self._addresses) > MAX_NODES:
                self._addresses.clear()
                self._keys.clear()
            key = key_of_point(point)
            address = self._addresses[point] = address_of(key)
            self._keys[address] = self._keys[address.lower()] = key
        return address

    def public_key_of(self, address: str) -> bytes | None:
        """The 64-byte public key of an address that has signed something here; None when none has."""
        return self._keys.get(address) or self._keys.get(address.lower())
