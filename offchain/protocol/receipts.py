"""Tickets that we sign and receipts that nodes sign. Keys and recovery are passed in; nothing here holds a secret."""

from collections.abc import Callable, Collection
from typing import NamedTuple

import orjson
import pybase64

from offchain.dispatch.upstream import Call
from offchain.domain.eip712 import SigningDomain, keccak256
from offchain.domain.messages import ServiceReceipt, Ticket, proof_of_execution
from offchain.domain.types import NodeId
from offchain.scheduler.work import FaultKind, NodeError

SignMessage = Callable[[bytes], bytes]
"""Message -> 65-byte signature over its Keccak-256."""
Recover = Callable[[bytes, bytes], str]
"""(32-byte digest, 65-byte signature) -> address; ValueError when it recovers to none."""

TICKET_SECONDS = 60
MOST_RECEIPT_BYTES = 4096
"""Several times what any receipt takes; who keeps receipts as they came must have a bound."""


class DigestMaker:
    """`SigningDomain.digest` with the domain separator computed once."""

    __slots__ = ("_prefix",)

    def __init__(self, domain: SigningDomain) -> None:
        self._prefix = b"\x19\x01" + domain.separator()

    def __call__(self, struct_hash: bytes) -> bytes:
        return keccak256(self._prefix + struct_hash)


class TicketSigner:
    """Makes the `X-Parallelix-Ticket` header: 0x-hex of uint64 issuedAtMs, uint64 expiresAtMs, and the proof.

    The proof is a 65-byte signature or, for a node whose key is known, what `pair_mac` describes.
    """

    __slots__ = ("_mac", "_now_ms", "_prefix", "_sign")

    def __init__(
        self,
        nodes_domain: SigningDomain,
        sign: SignMessage,
        now_ms: Callable[[], int],
        mac: Callable[[NodeId, bytes], bytes | None] = lambda _node_id, _message: None,
    ) -> None:
        """
        Args:
            nodes_domain: EIP-712 domain of NodeRegistryLocker.
            sign: of a key that a bonded keeper has listed.
            now_ms: Unix milliseconds.
            mac: see `pair_mac.GatewayMacs.ticket`, of the same key.
        """
        self._prefix = nodes_domain.message(b"")
        self._sign = sign
        self._now_ms = now_ms
        self._mac = mac

    def __call__(self, node_id: NodeId, call: Call) -> str:
        """The header's value for one attempt."""
        issued = self._now_ms()
        expires = issued + TICKET_SECONDS * 1000
        ticket = Ticket(call.request_id, node_id, call.request_hash, issued, expires)
        proof = self._mac(node_id, self._prefix + ticket.encoded())
        if proof is None:
            proof = self._sign(self._prefix + ticket.struct_hash())
        return f"0x{issued:016x}{expires:016x}{proof.hex()}"


class SignedReceipt(NamedTuple):
    """A node's receipt as it travels.

    Attributes:
        receipt: what was signed.
        signature: 65 bytes.
        node_key: address that the node says it signed with.
    """

    receipt: ServiceReceipt
    signature: bytes
    node_key: str

    def to_json(self) -> dict[str, object]:
        """The seam's JSON shape."""
        return {
            "receipt": self.receipt.to_json(),
            "signature": "0x" + self.signature.hex(),
            "nodeKey": self.node_key,
        }

    @classmethod
    def parse(cls, raw: bytes | str) -> "SignedReceipt":
        """Read the JSON text of a receipt. Raises ValueError when it is malformed."""
        if len(raw) > MOST_RECEIPT_BYTES:
            raise ValueError("a receipt too long to be one")
        try:
            data = orjson.loads(raw)
            signature = bytes.fromhex(data["signature"].removeprefix("0x"))
            return cls(ServiceReceipt.from_json(data["receipt"]), signature, str(data["nodeKey"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a signed receipt: {error!r}") from None

    @classmethod
    def from_header(cls, header: str) -> "SignedReceipt":
        """Read `X-Parallelix-Receipt`, base64url of the JSON. Raises ValueError when it is malformed."""
        return cls.parse(decode_header(header))

    def to_header(self) -> str:
        """The value of `X-Parallelix-Receipt`."""
        return encode_header(orjson.dumps(self.to_json()))


def encode_header(receipt: bytes) -> str:
    """A receipt's JSON as the value of `X-Parallelix-Receipt`: base64url without padding."""
    return pybase64.b64encode_as_string(receipt, b"-_").rstrip("=")


def decode_header(header: str) -> bytes:
    """The JSON in `X-Parallelix-Receipt`. Raises ValueError when it is not base64url."""
    try:
        return pybase64.b64decode(header + "=" * (-len(header) % 4), b"-_", validate=True)
    except ValueError:
        raise ValueError("the receipt header is not base64url") from None


class ReceiptVerifier:
    """Checks that a receipt binds this very answer and is signed with the node's key."""

    __slots__ = ("_digest", "_keys_of", "_recover")

    def __init__(
        self, market_domain: SigningDomain, recover: Recover, keys_of: Callable[[NodeId], Collection[str]]
    ) -> None:
        """
        Args:
            market_domain: EIP-712 domain of InferenceMarket.
            keys_of: addresses of a node's key and, for a moment, of the one before; empty for an unknown node.
        """
        self._digest = DigestMaker(market_domain)
        self._recover = recover
        self._keys_of = keys_of

    def check(self, signed: SignedReceipt, node_id: NodeId, call: Call, result: bytes | None) -> None:
        """Raise NodeError unless the receipt is right.

        Args:
            node_id: that was asked.
            call: what it was asked.
            result: `messages.result_bytes` of what it answered; None when the answer has no text of its own.
        """
        receipt = signed.receipt
        if receipt.node_id != node_id or receipt.request_id != call.request_id:
            raise NodeError(FaultKind.BAD_RECEIPT, "it is of another node or request")
        if receipt.request_hash != call.request_hash:
            raise NodeError(FaultKind.BAD_RECEIPT, "it is of another request body")
        if result is not None:
            if receipt.result_hash != keccak256(result):
                raise NodeError(FaultKind.BAD_RECEIPT, "it is of another answer")
            if receipt.poe != proof_of_execution(call.request_id, result, node_id):
                raise NodeError(FaultKind.BAD_RECEIPT, "its proof of execution does not hold")
        keys = self._keys_of(node_id)
        if not keys:
            raise NodeError(FaultKind.BAD_RECEIPT, "the node is not registered")
        try:
            signer = self._recover(self._digest(receipt.struct_hash()), signed.signature)
        except ValueError as error:
            raise NodeError(FaultKind.BAD_RECEIPT, str(error)) from None
        if signer not in keys and signer.lower() not in [key.lower() for key in keys]:
            raise NodeError(FaultKind.BAD_RECEIPT, f"it is signed by {signer}, not by the node's key")
