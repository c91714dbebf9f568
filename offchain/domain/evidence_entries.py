"""Entries of an evidence document: receipts that node and keeper both signed, signed misses, and records of real work:
receipts of what keepers dispatched themselves, and commitments of gateways to what they served.

They are packed binary in base64, because an epoch of a large network holds hundreds of thousands of them:

=========  ======================================================================================================
answer     slot:4 node:4 requestId:32 requestHash:32 resultHash:32 poe:32 modelRevision:32 promptTokens:4
           completionTokens:4 startedAtMs:8 finishedAtMs:8 priceWei:32 nodeSignature:65 keeperSignature:65
miss       slot:4 node:4 observedAtMs:8 reason:1 keeperSignature:65
execution  node:4 and requestId .. priceWei as in an answer, nodeSignature:65
batch      epoch:4 count:4 root:32 gatewaySignature:65
=========  ======================================================================================================

All integers are big-endian.
"""

import struct
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from offchain.domain.eip712 import hex_bytes, keccak256
from offchain.domain.messages import (
    SERVICE_RECEIPT_TYPEHASH,
    ExecutionBatch,
    MissReason,
    ServiceReceipt,
    SlotMiss,
    SlotReceipt,
)
from offchain.domain.types import Epoch, NodeId

_PLACE = struct.Struct(">II")
# Without the node, which stands before it: in `_PLACE`, or in 4 bytes of an execution.
_RECEIPT = struct.Struct(">32s32s32s32s32sIIQQ32s")
_MISS = struct.Struct(">IIQB65s")
_BATCH = struct.Struct(">II32s65s")
_SIGNATURE = 65

_PAD28, _PAD24 = bytes(28), bytes(24)
BATCH_SIZE = _BATCH.size
_ANSWER_SIZE = _PLACE.size + _RECEIPT.size + 2 * _SIGNATURE
EXECUTION_SIZE = 4 + _RECEIPT.size + _SIGNATURE


class EvidenceError(ValueError):
    """Evidence that does not hold; the text says which entry and why."""


@dataclass(frozen=True, slots=True)
class AnswerEntry:
    """A dual-signed receipt: the node signed its answer, and the keeper signed in which slot that answer came."""

    slot: int
    receipt: ServiceReceipt
    node_signature: bytes
    keeper_signature: bytes

    def slot_receipt(self, epoch: Epoch) -> SlotReceipt:
        """The struct that the keeper signed."""
        return SlotReceipt(epoch, self.slot, self.receipt.node_id, self.receipt.struct_hash())

    def pack(self) -> str:
        """The entry as it stands in a document."""
        place = _PLACE.pack(self.slot, self.receipt.node_id)
        body = place + _pack_receipt(self.receipt) + self.node_signature + self.keeper_signature
        return b64encode(body).decode()

    @classmethod
    def unpack(cls, text: str) -> "AnswerEntry":
        """Inverse of `pack`. Raises EvidenceError when malformed."""
        raw = answer_bytes(text)
        slot, node = _PLACE.unpack_from(raw)
        receipt = _unpack_receipt(node, raw, _PLACE.size)
        return cls(slot, receipt, raw[-2 * _SIGNATURE : -_SIGNATURE], raw[-_SIGNATURE:])


@dataclass(frozen=True, slots=True)
class Miss:
    """A keeper's signed statement that a probe was not answered."""

    slot: int
    node_id: NodeId
    observed_at_ms: int
    reason: MissReason
    keeper_signature: bytes

    def slot_miss(self, epoch: Epoch) -> SlotMiss:
        """The struct that the keeper signed."""
        return SlotMiss(epoch, self.slot, self.node_id, self.observed_at_ms, self.reason)

    def pack(self) -> str:
        """The entry as it stands in a document."""
        body = _MISS.pack(self.slot, self.node_id, self.observed_at_ms, self.reason, self.keeper_signature)
        return b64encode(body).decode()

    @classmethod
    def unpack(cls, text: str) -> "Miss":
        """Inverse of `pack`. Raises EvidenceError when malformed."""
        slot, node, observed, reason, signature = _MISS.unpack(_decode(text, _MISS.size, "miss"))
        try:
            return cls(slot, NodeId(node), observed, MissReason(reason), signature)
        except ValueError:
            where = f"miss of node {node} in slot {slot}"
            raise EvidenceError(f"{where} has the unknown reason {reason}") from None


@dataclass(frozen=True, slots=True)
class Execution:
    """A node-signed receipt of real work; a record, not evidence about uptime."""

    receipt: ServiceReceipt
    node_signature: bytes

    def pack(self) -> str:
        """The entry as it stands in a document."""
        return b64encode(self.to_bytes()).decode()

    @classmethod
    def unpack(cls, text: str) -> "Execution":
        """Inverse of `pack`. Raises EvidenceError when malformed."""
        return cls.from_bytes(_decode(text, EXECUTION_SIZE, "execution"))

    def to_bytes(self) -> bytes:
        """`EXECUTION_SIZE` bytes, as the module lays them out."""
        return self.receipt.node_id.to_bytes(4, "big") + _pack_receipt(self.receipt) + self.node_signature

    @classmethod
    def from_bytes(cls, raw: bytes) -> "Execution":
        """Inverse of `to_bytes`."""
        return cls(_unpack_receipt(int.from_bytes(raw[:4], "big"), raw, 4), raw[-_SIGNATURE:])


@dataclass(frozen=True, slots=True)
class SignedExecutionBatch:
    """A gateway's signed commitment to the records of an epoch."""

    commitment: ExecutionBatch
    signature: bytes

    def pack(self) -> str:
        """The entry as it stands in a document."""
        return b64encode(self.to_bytes()).decode()

    @classmethod
    def unpack(cls, text: str) -> "SignedExecutionBatch":
        """Inverse of `pack`. Raises EvidenceError when malformed."""
        return cls.from_bytes(_decode(text, BATCH_SIZE, "batch"))

    def to_bytes(self) -> bytes:
        """`BATCH_SIZE` bytes, as the module lays them out."""
        said = self.commitment
        return _BATCH.pack(said.epoch, said.count, said.root, self.signature)

    @classmethod
    def from_bytes(cls, raw: bytes) -> "SignedExecutionBatch":
        """Inverse of `to_bytes`."""
        epoch, count, root, signature = _BATCH.unpack(raw)
        return cls(ExecutionBatch(Epoch(epoch), count, root), signature)

    def to_json(self) -> dict[str, object]:
        """As gateways serve it."""
        return {**self.commitment.to_json(), "signature": "0x" + self.signature.hex()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "SignedExecutionBatch":
        """Inverse of `to_json`; other fields do not matter. Raises EvidenceError when malformed."""
        try:
            epoch, count = data["epoch"], data["count"]
            root, signature = hex_bytes(data["root"], 32), hex_bytes(data["signature"], _SIGNATURE)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise EvidenceError("a batch is malformed") from None
        if not all(isinstance(number, int) and 0 <= number < 2**32 for number in (epoch, count)):
            raise EvidenceError("a batch is malformed")
        return cls(ExecutionBatch(Epoch(epoch), count, root), signature)


def request_of(raw: bytes) -> bytes:
    """Request id of a packed execution."""
    return raw[4:36]


def node_of(text: str) -> int:
    """The node of a packed answer or miss, without decoding the rest. Raises EvidenceError when malformed."""
    try:
        # 12 characters are 9 bytes, of which the first 8 are slot and node.
        _, node = _PLACE.unpack_from(b64decode(text[:12], validate=True))
    except (ValueError, struct.error):
        raise EvidenceError("an entry is malformed") from None
    return int(node)


def receipt_hash(raw: bytes) -> bytes:
    """EIP-712 struct hash of the receipt in an answer's packed bytes; equal to `ServiceReceipt.struct_hash`.

    Those of an execution lack the slot before them: `bytes(4) + raw`.
    """
    # By number and not by `_RECEIPT`, for speed (ADR 0043): who changes one changes both.
    request_id, node, hashes = raw[8:40], raw[4:8], raw[40:168]
    head = SERVICE_RECEIPT_TYPEHASH + request_id + _PAD28 + node + hashes
    counts = _PAD28 + raw[168:172] + _PAD28 + raw[172:176]
    return keccak256(head + counts + _PAD24 + raw[176:184] + _PAD24 + raw[184:224])


def answer_bytes(text: str) -> bytes:
    """The packed bytes of an answer's text, laid out as the module says. Raises EvidenceError when malformed."""
    return _decode(text, _ANSWER_SIZE, "answer")


def _pack_receipt(receipt: ServiceReceipt) -> bytes:
    request_id, _node, *fields, price = receipt
    return _RECEIPT.pack(request_id, *fields, price.to_bytes(32, "big"))


def _unpack_receipt(node: int, raw: bytes, offset: int) -> ServiceReceipt:
    request_id, *fields, price = _RECEIPT.unpack_from(raw, offset)
    return ServiceReceipt._make((request_id, node, *fields, int.from_bytes(price, "big")))


def _decode(text: str, size: int, what: str) -> bytes:
    try:
        raw = b64decode(text, validate=True)
    except ValueError:
        raise EvidenceError(f"the {what} is not base64") from None
    # Base64 has several texts for the same bytes; an entry must have one, else one document has several hashes.
    if len(raw) != size or b64encode(raw).decode() != text:
        raise EvidenceError(f"the {what} has {len(raw)} bytes instead of {size}, or an odd encoding")
    return raw
