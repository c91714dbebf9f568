"""Receipts: what a node signs under each answer, how it travels, and how everybody checks it.

The check has one body: `check_binding` (is it about this node, request and answer?) and `check_signature` (did the node sign it?).
Keys and signature recovery are handed in.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

import orjson
import pybase64

from offchain.domain.eip712 import DigestMaker, SigningDomain, keccak256
from offchain.domain.messages import ServiceReceipt, proof_of_execution
from offchain.domain.types import NodeId

Recover = Callable[[bytes, bytes], str]
"""(32-byte digest, 65-byte signature) -> EIP-55 address of the signer; raises ValueError."""

MAX_RECEIPT_BYTES = 4096
"""Several times the size of any receipt: a bound for those who keep receipts as they came."""


class ReceiptError(ValueError):
    """A receipt does not bind this answer, or this node did not sign it."""


class SignedReceipt(NamedTuple):
    """A receipt with its signature (65 bytes), and the address of its key as the node claims."""

    receipt: ServiceReceipt
    signature: bytes
    node_key: str

    def to_json(self) -> dict[str, object]:
        """The JSON form, as it travels in `x-parallelix-receipt`."""
        signature = "0x" + self.signature.hex()
        return {"receipt": self.receipt.to_json(), "signature": signature, "nodeKey": self.node_key}

    @classmethod
    def parse(cls, raw: bytes | str) -> "SignedReceipt":
        """Read the JSON text of a receipt. Raises ValueError when it is malformed."""
        if len(raw) > MAX_RECEIPT_BYTES:  # before it is parsed
            raise ValueError("a receipt too long to be one")
        try:
            data = orjson.loads(raw)
            signature = bytes.fromhex(data["signature"].removeprefix("0x"))
            return cls(ServiceReceipt.from_json(data["receipt"]), signature, str(data["nodeKey"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a signed receipt: {error!r}") from None


def encode_header(receipt: bytes) -> str:
    """A receipt's JSON as the value of `X-Parallelix-Receipt`: base64url without padding."""
    return pybase64.b64encode_as_string(receipt, b"-_").rstrip("=")


def decode_header(header: str) -> bytes:
    """The JSON in `X-Parallelix-Receipt`. Raises ValueError when it is not base64url."""
    try:
        return pybase64.b64decode(header + "=" * (-len(header) % 4), b"-_", validate=True)
    except ValueError:
        raise ValueError("the receipt header is not base64url") from None


def check_binding(
    receipt: ServiceReceipt, node_id: NodeId, request_id: bytes, request_hash: bytes, result: bytes | None
) -> None:
    """Raise ReceiptError unless a receipt is about this node, request and answer.

    Args:
        node_id: of the node that was asked.
        request_hash: Keccak-256 of the body that the node was sent.
        result: `messages.result_bytes` of the answer; None when the answer has no text of its own (an embedding).
    """
    if receipt.node_id != node_id or receipt.request_id != request_id:
        raise ReceiptError("it is of another node or request")
    if receipt.request_hash != request_hash:
        raise ReceiptError("it is of another request body")
    if result is not None:
        check_result(receipt, result)


def check_result(receipt: ServiceReceipt, result: bytes) -> None:
    """Raise ReceiptError unless a receipt binds this result, see `check_binding`."""
    if receipt.result_hash != keccak256(result):
        raise ReceiptError("it is of another answer")
    if receipt.poe != proof_of_execution(receipt.request_id, result, receipt.node_id):
        raise ReceiptError("its proof of execution does not hold")


def check_signature(
    receipt: ServiceReceipt,
    signature: bytes,
    digest: Callable[[bytes], bytes],
    recover: Callable[[bytes, bytes], object],
    keys: Collection[object],
) -> None:
    """Raise ReceiptError unless a receipt is signed with one of these keys.

    Args:
        digest: EIP-712 digest of a struct hash in the domain of InferenceMarket.
        recover: (digest, signature) -> the signer in the same form as `keys`; ValueError or None when there is none.
        keys: those of the receipt's node.
    """
    if not keys:
        raise ReceiptError("the node is not registered")
    try:
        signer = recover(digest(receipt.struct_hash()), signature)
    except ValueError as error:
        raise ReceiptError(str(error)) from None
    if signer not in keys:
        shown = "0x" + signer.hex() if isinstance(signer, bytes) else signer
        raise ReceiptError(f"it is signed by {shown}, not by the node's key")


class ReceiptVerifier:
    """Checks that a receipt binds an answer and is signed with the node's key."""

    __slots__ = ("_digest", "_keys_of", "_recover")

    def __init__(
        self, market_domain: SigningDomain, recover: Recover, keys_of: Callable[[NodeId], Collection[str]]
    ) -> None:
        """`market_domain` is that of InferenceMarket. `keys_of` gives EIP-55 addresses of a node's key and, shortly after a
        rotation, of its old one; none for an unknown node."""
        self._digest = DigestMaker(market_domain)
        self._recover = recover
        self._keys_of = keys_of

    def check(
        self,
        signed: SignedReceipt,
        node_id: NodeId,
        request_id: bytes,
        request_hash: bytes,
        result: bytes | None,
    ) -> None:
        """Raise ReceiptError unless the receipt is right. For the parameters see `check_binding`."""
        check_binding(signed.receipt, node_id, request_id, request_hash, result)
        check_signature(signed.receipt, signed.signature, self._digest, self._recover, self._keys_of(node_id))
