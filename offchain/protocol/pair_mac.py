"""MACs between a gateway and a node: where both know the other's public key, a MAC proves what a signature would.

::

    gateway key g, node key n       K = SHA-256(g x N) = SHA-256(n x G)       ECDH, once for each pair of keys
    proof of a ticket               G (64 bytes) || BLAKE2b-256(K, 0x1901 || domain separator || encoded ticket)
    proof of a whole answer         BLAKE2b-256(K, request id || body)

Only the two hold K. If I did not make this MAC, the other side did. BLAKE2b's `person` differs for tickets and answers, so a MAC
of one kind is never valid for the other.

A ticket binds the same with a MAC as with a signature: node, request, body, time and network; it expires and is used once. A
signature takes 25 us to make and 40 us to recover, a MAC 1 us each. Only a signature convinces a third party, and nobody shows
tickets to third parties. Receipts are shown to third parties, so a node signs them even when it sent a MAC: the MAC lets the
gateway pass the answer on before it has checked the receipt.
"""

import hmac
from collections.abc import Callable
from hashlib import blake2b

from offchain.domain.types import NodeId

PUBLIC_KEY_BYTES = 64
PROOF_BYTES = PUBLIC_KEY_BYTES + 32
_MAX_KEYS = 200_000


def ticket_mac(key: bytes, ticket: bytes) -> bytes:
    """MAC of an encoded ticket in its EIP-712 domain, 32 bytes."""
    return blake2b(ticket, digest_size=32, key=key, person=b"parallelix.tick").digest()


def answer_mac(key: bytes, request_id: bytes, body: bytes) -> bytes:
    """MAC of a whole answer, 32 bytes: the value of `x-parallelix-proof`."""
    mac = blake2b(request_id, digest_size=32, key=key, person=b"parallelix.answ")
    mac.update(body)
    return mac.digest()


class AgreedKeys:
    """The keys K that one private key shares with others' public keys; each is computed once."""

    __slots__ = ("_agree", "_keys")

    def __init__(self, agree: Callable[[bytes], bytes]) -> None:
        """`agree` is ECDH: public key (64 bytes) -> K (32 bytes); it raises ValueError for no point of the curve."""
        self._agree = agree
        self._keys: dict[bytes, bytes] = {}

    def key(self, public_key: bytes) -> bytes:
        """K for a public key, 32 bytes. Raises ValueError for no point of the curve."""
        key = self._keys.get(public_key)
        if key is None:
            if len(self._keys) >= _MAX_KEYS:
                # a bound: callers may send made-up public keys
                self._keys.clear()
            key = self._keys[public_key] = self._agree(public_key)
        return key

    def holds(self, ticket: bytes, proof: bytes) -> bool:
        """Whether a ticket's proof was made by the owner of the public key in it (or by ourselves)."""
        try:
            key = self.key(proof[:PUBLIC_KEY_BYTES])
        except ValueError:
            return False
        return hmac.compare_digest(ticket_mac(key, ticket), proof[PUBLIC_KEY_BYTES:])


class GatewayMacs:
    """A gateway's side: makes MACs of its tickets, and checks those of answers."""

    __slots__ = ("_agreed", "_public_key", "_public_key_of")

    def __init__(
        self,
        public_key: bytes,
        agree: Callable[[bytes], bytes],
        public_key_of: Callable[[NodeId], bytes | None],
    ) -> None:
        """`public_key` is the gateway's, 64 bytes; `public_key_of` a node's, None when it is not known, or being rotated."""
        self._public_key = public_key
        self._agreed = AgreedKeys(agree)
        self._public_key_of = public_key_of

    def ticket(self, node_id: NodeId, ticket: bytes) -> bytes | None:
        """The proof of an encoded ticket for a node; None when the ticket must be signed instead."""
        public_key = self._public_key_of(node_id)
        if public_key is None:
            return None
        return self._public_key + ticket_mac(self._agreed.key(public_key), ticket)

    def proved(self, node_id: NodeId, request_id: bytes, body: bytes, proof: str) -> bool | None:
        """Whether a proof (hex) shows that an answer is the node's; None when the node's public key is not known."""
        public_key = self._public_key_of(node_id)
        if public_key is None:
            return None
        try:
            given = bytes.fromhex(proof)
        except ValueError:
            return False
        return hmac.compare_digest(answer_mac(self._agreed.key(public_key), request_id, body), given)
