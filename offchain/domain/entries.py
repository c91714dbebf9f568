"""Entries of an evidence document: receipts that node and keeper both signed, signed misses, and records of real work.

They are packed binary in base64, because an epoch of a large network holds hundreds of thousands of them:

=========  ======================================================================================================
answer     slot:4 node:4 requestId:32 requestHash:32 resultHash:32 poe:32 modelRevision:32 promptTokens:4
           completionTokens:4 startedAtMs:8 finishedAtMs:8 priceWei:32 nodeSignature:65 keeperSignature:65
miss       slot:4 node:4 observedAtMs:8 reason:1 keeperSignature:65
execution  node:4 and requestId .. priceWei as in an answer, nodeSignature:65
=========  ======================================================================================================

All integers are big-endian.
"""

import struct
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass

from offchain.domain.messages import MissReason, ServiceReceipt, SlotMiss, SlotReceipt
from offchain.domain.types import Epoch, NodeId, Wei

_PLACE = struct.Struct(">II")
_RECEIPT = struct.Struct(">32s32s32s32s32sIIQQ32s")
_MISS = struct.Struct(">IIQB65s")
_SIGNATURE = 65
_ANSWER_SIZE = _PLACE.size + _RECEIPT.size + 2 * _SIGNATURE
_EXECUTION_SIZE = 4 + _RECEIPT.size + _SIGNATURE


class EvidenceError(ValueError):
    """Evidence that does not hold; the text says which entry and why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A dual-signed receipt: the node signed what it answered, the keeper when it was asked."""

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
    def unpack(cls, text: str) -> "Answer":
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
            raise EvidenceError(
                f"miss of node {node} in slot {slot} has the unknown reason {reason}"
            ) from None


@dataclass(frozen=True, slots=True)
class Execution:
    """A node-signed receipt of real work that this keeper dispatched; a record, not evidence about uptime."""

    receipt: ServiceReceipt
    node_signature: bytes

    def pack(self) -> str:
        """The entry as it stands in a document."""
        body = self.receipt.node_id.to_bytes(4, "big") + _pack_receipt(self.receipt) + self.node_signature
        return b64encode(body).decode()

    @classmethod
    def unpack(cls, text: str) -> "Execution":
        """Inverse of `pack`. Raises EvidenceError when malformed."""
        raw = _decode(text, _EXECUTION_SIZE, "execution")
        return cls(_unpack_receipt(int.from_bytes(raw[:4], "big"), raw, 4), raw[-_SIGNATURE:])


def node_of(text: str) -> int:
    """The node of a packed answer or miss, without decoding the rest. Raises EvidenceError when malformed."""
    try:
        _, node = _PLACE.unpack_from(b64decode(text[:12], validate=True))
    except (ValueError, struct.error):
        raise EvidenceError("an entry is malformed") from None
    return int(node)


def answer_bytes(text: str) -> bytes:
    """The packed bytes of an answer's text, laid out as the module says. Raises EvidenceError when malformed."""
    return _decode(text, _ANSWER_SIZE, "answer")


def in_order(answers: Iterable[Answer]) -> tuple[str, ...]:
    """Packed answers in document order."""
    return tuple(item.pack() for item in sorted(answers, key=lambda item: (item.slot, item.receipt.node_id)))


def misses_in_order(misses: Iterable[Miss]) -> tuple[str, ...]:
    """Packed misses in document order."""
    return tuple(item.pack() for item in sorted(misses, key=lambda item: (item.slot, item.node_id)))


def _pack_receipt(receipt: ServiceReceipt) -> bytes:
    return _RECEIPT.pack(
        receipt.request_id,
        receipt.request_hash,
        receipt.result_hash,
        receipt.poe,
        receipt.model_revision,
        receipt.prompt_tokens,
        receipt.completion_tokens,
        receipt.started_at_ms,
        receipt.finished_at_ms,
        receipt.price_wei.to_bytes(32, "big"),
    )


def _unpack_receipt(node: int, raw: bytes, offset: int) -> ServiceReceipt:
    request, body, result, poe, revision, prompt, completion, started, finished, price = _RECEIPT.unpack_from(
        raw, offset
    )
    return ServiceReceipt(
        request_id=request,
        node_id=NodeId(node),
        request_hash=body,
        result_hash=result,
        poe=poe,
        model_revision=revision,
        prompt_tokens=prompt,
        completion_tokens=completion,
        started_at_ms=started,
        finished_at_ms=finished,
        price_wei=Wei(int.from_bytes(price, "big")),
    )


def _decode(text: str, size: int, what: str) -> bytes:
    try:
        raw = b64decode(text, validate=True)
    except ValueError:
        raise EvidenceError(f"an {what} is not base64") from None
    if len(raw) != size or b64encode(raw).decode() != text:
        raise EvidenceError(f"an {what} has {len(raw)} bytes instead of {size}, or an odd encoding")
    return raw
