"""Tickets: a request is served only with a fresh ticket for this node and body, made by a listed gateway, and once."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import blake2b

from offchain.crypto.addresses import address_of
from offchain.crypto.recovery import recover
from offchain.domain.eip712 import SigningDomain, keccak256, signing_prefix
from offchain.domain.messages import Ticket
from offchain.domain.types import Address, NodeId
from offchain.node.agent.replay_guard import MAX_LIFETIME_MS, MAX_SKEW_MS, ReplayGuard, TicketError
from offchain.protocol import headers as header_names
from offchain.protocol.pair_mac import PROOF_BYTES, PUBLIC_KEY_BYTES, AgreedKeys, answer_mac

_TIMES_BYTES = 8 + 8
_SIGNATURE_BYTES = 65


def _invalid(message: str) -> TicketError:
    return TicketError(401, "invalid_ticket", message)


@dataclass
class TicketGate:
    """Checks tickets.

    Attributes:
        is_gateway: whether a bonded keeper lists an address as a gateway's signer now.
        agree: ECDH of the node key, see `offchain/protocol/pair_mac.py`.
    """

    node_id: NodeId
    domain: SigningDomain
    is_gateway: Callable[[Address], Awaitable[bool]]
    guard: ReplayGuard
    now_ms: Callable[[], int]
    agree: Callable[[bytes], bytes]

    def __post_init__(self) -> None:
        self._prefix = signing_prefix(self.domain.separator())
        self._agreed = AgreedKeys(self.agree)

    async def check(self, request_id: str | None, ticket: str | None, body: bytes) -> "Admission":
        """Check a request's ticket. The ticket is used up only by `Admission.use`.

        Args:
            request_id: `X-Parallelix-Request-Id`.
            ticket: `X-Parallelix-Ticket`.
            body: the request's raw bytes, which the ticket binds.

        Raises:
            TicketError: with the HTTP status and error type to answer.
        """
        if request_id is None or ticket is None:
            raise _invalid(
                "X-Parallelix-Request-Id or X-Parallelix-Ticket is missing; requests come through a gateway"
            )
        raw_id = _from_hex(request_id, 32, header_names.REQUEST_ID)
        # The proofs differ in length, and nothing else says which one it is (ADR 0088).
        is_mac = len(ticket) == 2 + 2 * (_TIMES_BYTES + PROOF_BYTES)
        size = _TIMES_BYTES + (PROOF_BYTES if is_mac else _SIGNATURE_BYTES)
        raw = _from_hex(ticket, size, header_names.TICKET)
        # Node id and body hash are our own values: a ticket for another node or body fails its proof.
        found = Ticket(
            request_id=raw_id,
            node_id=self.node_id,
            request_hash=keccak256(body),
            issued_at_ms=int.from_bytes(raw[:8], "big"),
            expires_at_ms=int.from_bytes(raw[8:16], "big"),
        )
        now_ms = self.now_ms()
        if found.expires_at_ms <= now_ms:  # times first: they cost nothing, a signature does
            raise _invalid("the ticket has expired; check both clocks and send a new one")
        if found.issued_at_ms > now_ms + MAX_SKEW_MS:
            raise _invalid("the ticket was issued in the future; the gateway's or this node's clock is wrong")
        if not 0 < found.expires_at_ms - found.issued_at_ms <= MAX_LIFETIME_MS:
            raise _invalid(f"a ticket lives at most {MAX_LIFETIME_MS // 1000} s; issue a shorter one")
        message, proof = self._prefix + found.encoded(), raw[_TIMES_BYTES:]
        if is_mac:
            # Claimed by the sender; the MAC below shows that it holds the key.
            gateway = address_of(proof[:PUBLIC_KEY_BYTES])
        else:
            try:
                gateway = recover(keccak256(self._prefix + found.struct_hash()), proof)
            except ValueError:
                raise _invalid("the ticket's signature is malformed") from None
        # The list first: made-up public keys would cost an ECDH each and push real keys out of `AgreedKeys`.
        if not await self.is_gateway(gateway) or (is_mac and not self._agreed.holds(message, proof)):
            raise _invalid(
                "the ticket is not for this node, this body or this network, or no bonded keeper lists its signer as a gateway"
            )
        key = self._agreed.key(proof[:PUBLIC_KEY_BYTES]) if is_mac else None
        # Over the message, not the proof: ECDSA signatures can be varied.
        return Admission(found, blake2b(message, digest_size=32).digest(), self.guard, key)


@dataclass(frozen=True, slots=True)
class Admission:
    """A good ticket, not yet used."""

    ticket: Ticket
    _digest: bytes
    _guard: ReplayGuard
    _key: bytes | None

    def use(self, now_ms: int) -> None:
        """Use the ticket up. Raises TicketError when it was used before."""
        self._guard.admit(self._digest, self.ticket.expires_at_ms, now_ms)

    def prove(self, body: bytes) -> str | None:
        """`X-Parallelix-Proof` of a whole answer; None when the gateway signed its ticket instead of making a MAC."""
        if self._key is None:
            return None
        return answer_mac(self._key, self.ticket.request_id, body).hex()


def _from_hex(text: str, length: int, what: str) -> bytes:
    if len(text) != 2 + 2 * length or not text.startswith("0x"):
        raise _invalid(f"{what} must be 0x and {2 * length} hex digits")
    try:
        return bytes.fromhex(text[2:])
    except ValueError:
        raise _invalid(f"{what} must be 0x and {2 * length} hex digits") from None
