"""Which node holds which unit. A result counts once: only while the lease of (request id, attempt) is held."""

from typing import NamedTuple

from offchain.domain.types import NodeId


class Lease(NamedTuple):
    """A unit placed on a node; `attempt` counts from 0."""

    request_id: bytes
    attempt: int
    node_id: NodeId


class LeaseTable:
    """Leases of one dispatcher's running attempts. A hedged unit holds two."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[tuple[bytes, int], Lease] = {}

    def __len__(self) -> int:
        return len(self._held)

    def grant(self, lease: Lease) -> None:
        """Record a placement. Raises ValueError when this attempt holds a lease already."""
        key = (lease.request_id, lease.attempt)
        if key in self._held:
            raise ValueError(f"attempt {lease.attempt} of {lease.request_id.hex()} is leased already")
        self._held[key] = lease

    def release(self, request_id: bytes, attempt: int) -> Lease | None:
        """End a lease and return it. None when it was not held (any more): then the result must not be counted again."""
        return self._held.pop((request_id, attempt), None)
