"""Tickets: a gateway's proof to a node that this request may be served."""

from collections.abc import Callable

from offchain.domain.eip712 import SigningDomain
from offchain.domain.messages import Ticket
from offchain.domain.types import NodeId

SignMessage = Callable[[bytes], bytes]
"""Message -> 65-byte signature over its Keccak-256."""

TICKET_SECONDS = 60
"""Lifetime of a ticket."""


class TicketSigner:
    """Makes values of the `x-parallelix-ticket` header: 0x-hex of uint64 issuedAtMs, uint64 expiresAtMs, and the proof.

    The proof is a 65-byte signature or, for a node whose public key is known, a MAC with our public key (see `pair_mac`).
    """

    __slots__ = ("_mac", "_now_ms", "_prefix", "_sign")

    def __init__(
        self,
        nodes_domain: SigningDomain,
        sign: SignMessage,
        now_ms: Callable[[], int],
        mac: Callable[[NodeId, bytes], bytes | None] = lambda _node_id, _message: None,
    ) -> None:
        """`nodes_domain` is that of NodeRegistryLocker. `sign` uses a key that a bonded keeper has listed as its gateway, and
        `mac` is `pair_mac.GatewayMacs.ticket` of the same key."""
        self._prefix = nodes_domain.message(b"")
        self._sign = sign
        self._now_ms = now_ms
        self._mac = mac

    def __call__(self, node_id: NodeId, request_id: bytes, request_hash: bytes) -> str:
        """The header's value for one attempt. `request_hash` is Keccak-256 of the body that is sent."""
        issued = self._now_ms()
        expires = issued + TICKET_SECONDS * 1000
        ticket = Ticket(request_id, node_id, request_hash, issued, expires)
        # 1 us where the node's public key is known, else 25 us for a signature
        proof = self._mac(node_id, self._prefix + ticket.encoded())
        if proof is None:
            proof = self._sign(self._prefix + ticket.struct_hash())
        return f"0x{issued:016x}{expires:016x}{proof.hex()}"
