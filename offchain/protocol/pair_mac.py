"""What a gateway and a node that know each other's public keys prove to each other by a MAC instead of a signature.

::

    gateway key g, node key n       K = SHA-256(g x N) = SHA-256(n x G)       ECDH, once for each pair of keys
    proof of a ticket               G (64 bytes) || BLAKE2b-256(K, 0x1901 || domain separator || encoded ticket)
    proof of a whole answer         BLAKE2b-256(K, request id || body)

K is known to these two alone, so whichever of them made no proof itself has it from the other. The two kinds differ in BLAKE2b's
person, so that neither is ever the other.

What a ticket binds (node, request, body, time, network), its expiry and its single use are the same for both proofs. A signature
costs 25 us to make and 40 us to recover from, a MAC one of each. Only a signature could be shown to others; nothing in
the network shows tickets. An answer's receipt is shown to others, so it is signed all the same: the proof only tells the gateway
sooner that the node vouches for these bytes.
"""

import hmac
from collections.abc import Callable
from hashlib import blake2b

from offchain.domain.types import NodeId

PUBLIC_KEY_BYTES = 64
PROOF_BYTES = PUBLIC_KEY_BYTES + 32
_MAX_KEYS = 200_000


def ticket_mac(key: bytes, ticket: bytes) -> bytes:
    """32 bytes under an encoded ticket in its domain."""
    return blake2b(ticket, digest_size=32, key=key, person=b"parallelix.tick").digest()


def answer_mac(key: bytes, request_id: bytes, body: bytes) -> bytes:
    """32 bytes under a whole answer."""
    mac = blake2b(request_id, digest_size=32, key=key, person=b"parallelix.answ")
    mac.update(body)
    return mac.digest()


class AgreedKeys:
    """Keys that one private key shares with other public keys; each is computed once."""

    __slots__ = ("_agree", "_keys")

    def __init__(self, agree: Callable[[bytes], bytes]) -> None:
        """
        Args:
            agree: public key (64 bytes) -> 32 bytes that its owner computes too; ValueError when it is none.
        """
        self._agree = agree
        self._keys: dict[bytes, bytes] = {}

    def key(self, public_key: bytes) -> bytes:
        """32 bytes that only we and the public key's owner have. Raises ValueError."""
        key = self._keys.get(public_key)
        if key is None:
            if len(self._keys) >= _MAX_KEYS:
                self._keys.clear()
            key = self._keys[public_key] = self._agree(public_key)
        return key

    def holds(self, ticket: bytes, proof: bytes) -> bool:
        """Whether a ticket's proof was made by the owner of the public key that it names, or by us."""
        try:
            key = self.key(proof[:PUBLIC_KEY_BYTES])
        except ValueError:
            return False
        return hmac.compare_digest(ticket_mac(key, ticket), proof[PUBLIC_KEY_BYTES:])


class GatewayMacs:
    """A gateway's side: proves its tickets, and checks the proofs of answers."""

    __slots__ = ("_agreed", "_public_key", "_public_key_of")

    def __init__(
        self,
        public_key: bytes,
        agree: Callable[[bytes], bytes],
        public_key_of: Callable[[NodeId], bytes | None],
    ) -> None:
        """
        Args:
            public_key: our own, 64 bytes.
            agree: see `AgreedKeys`.
            public_key_of: of the one key that a node can be holding now; None when that is not certain.
        """
        self._public_key = public_key
        self._agreed = AgreedKeys(agree)
        self._public_key_of = public_key_of

    def ticket(self, node_id: NodeId, ticket: bytes) -> bytes | None:
        """The proof of an encoded ticket for a node; None when it must be signed."""
        public_key = self._public_key_of(node_id)
        return (
            None
            if public_key is None
            else self._public_key + ticket_mac(self._agreed.key(public_key), ticket)
        )

    def proved(self, node_id: NodeId, request_id: bytes, body: bytes, proof: str) -> bool | None:
        """Whether a proof (hex) shows that an answer is the node's; None: that cannot be told."""
        public_key = self._public_key_of(node_id)
        if public_key is None:
            return None
        try:
            given = bytes.fromhex(proof)
        except ValueError:
            return False
        return hmac.compare_digest(answer_mac(self._agreed.key(public_key), request_id, body), given)
