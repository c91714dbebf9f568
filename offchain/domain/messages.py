"""Everything that is signed in the network, as EIP-712 structs; the contracts hash the same types.

Verifying contract of each: `EpochReport`, `SlotReceipt`, `SlotMiss`, `ExecutionBatch`: UptimeAttestation;
`ServiceReceipt`: InferenceMarket; `Ticket`, `Heartbeat`: NodeRegistryLocker.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from operator import itemgetter
from struct import Struct
from struct import error as StructError  # noqa: N812
from typing import NamedTuple

from offchain.domain.eip712 import keccak256, word
from offchain.domain.types import Epoch, NodeId, Wei

CHOICE_SEPARATOR = b"\x1e"


def typehash(encoded_type: str) -> bytes:
    """EIP-712 typeHash of an encoded type, 32 bytes."""
    return keccak256(encoded_type.encode())


def result_bytes(choices: Sequence[str]) -> bytes:
    """What a receipt binds: the generated text of each choice in index order, UTF-8, joined by 0x1e."""
    return CHOICE_SEPARATOR.join([text.encode() for text in choices])


def proof_of_execution(request_id: bytes, result: bytes, node_id: NodeId) -> bytes:
    """`SHA-256(request_id || result || node_id)`, node id as 4 bytes big-endian. Binds; does not prove honesty."""
    return hashlib.sha256(request_id + result + node_id.to_bytes(4, "big")).digest()


SERVICE_RECEIPT_TYPEHASH = typehash(
    "ServiceReceipt(bytes32 requestId,uint32 nodeId,bytes32 requestHash,bytes32 resultHash,bytes32 poe,"
    "bytes32 modelRevision,uint32 promptTokens,uint32 completionTokens,uint64 startedAtMs,uint64 finishedAtMs,"
    "uint256 priceWei)"
)


class ServiceReceipt(NamedTuple):
    """What a node signs for every answer it gives, on chain or off.

    Attributes:
        request_id: 32 bytes.
        request_hash: keccak256 of the request body's bytes.
        result_hash: keccak256 of `result_bytes`.
        poe: proof of execution, 32 bytes.
        model_revision: 32 bytes; keccak256 of the revision text in the node's manifest.
        started_at_ms, finished_at_ms: Unix milliseconds by the node's clock.
        price_wei: what the node asks for this answer.
    """

    request_id: bytes
    node_id: NodeId
    request_hash: bytes
    result_hash: bytes
    poe: bytes
    model_revision: bytes
    prompt_tokens: int
    completion_tokens: int
    started_at_ms: int
    finished_at_ms: int
    price_wei: Wei

    def struct_hash(self) -> bytes:
        """EIP-712 hashStruct, 32 bytes."""
        return keccak256(
            _RECEIPT_WORDS.pack(
                SERVICE_RECEIPT_TYPEHASH,  # not `*self`: native code would build a list and a tuple first
                self.request_id,
                self.node_id,
                self.request_hash,
                self.result_hash,
                self.poe,
                self.model_revision,
                self.prompt_tokens,
                self.completion_tokens,
                self.started_at_ms,
                self.finished_at_ms,
                word(self.price_wei),
            )
        )

    def to_json(self) -> dict[str, object]:
        """The receipt with the contract's field names; bytes as 0x-hex, price as decimal text."""
        return {
            "requestId": _hex(self.request_id),
            "nodeId": int(self.node_id),
            "requestHash": _hex(self.request_hash),
            "resultHash": _hex(self.result_hash),
            "poe": _hex(self.poe),
            "modelRevision": _hex(self.model_revision),
            "promptTokens": self.prompt_tokens,
            "completionTokens": self.completion_tokens,
            "startedAtMs": self.started_at_ms,
            "finishedAtMs": self.finished_at_ms,
            "priceWei": str(self.price_wei),
        }

    @classmethod
    def from_json(cls, data: dict[str, object]) -> "ServiceReceipt":
        """Inverse of `to_json`. Raises ValueError when a field is missing or malformed."""
        try:
            request_id, request_hash, result_hash, poe, revision, *numbers, price = _RECEIPT_FIELDS(data)
            words = _words(request_id, request_hash, result_hash, poe, revision)
            # Packing refuses what is no integer of the field's size.
            node_id, prompt, completion, start, end = _RECEIPT_NUMBERS.unpack(_RECEIPT_NUMBERS.pack(*numbers))
        except KeyError as missing:
            raise ValueError(f"receipt lacks {missing}") from None
        except (StructError, TypeError) as error:
            raise ValueError(f"a field of the receipt is not what it must be: {error}") from None
        return cls(
            words[:32],
            node_id,
            words[32:64],
            words[64:96],
            words[96:128],
            words[128:],
            prompt,
            completion,
            start,
            end,
            Wei(_uint256(price)),
        )


_RECEIPT_WORDS = Struct(">32s 32s 28xI 32s 32s 32s 32s 28xI 28xI 24xQ 24xQ 32s")
"""ABI encoding of a receipt's struct, its type hash first: one word of 32 bytes a field."""
_RECEIPT_NUMBERS = Struct(">IIIQQ")
_RECEIPT_FIELDS = itemgetter(
    "requestId", "requestHash", "resultHash", "poe", "modelRevision",
    "nodeId", "promptTokens", "completionTokens", "startedAtMs", "finishedAtMs", "priceWei",
)  # fmt: skip


EPOCH_REPORT_TYPEHASH = typehash(
    "EpochReport(uint32 epoch,bytes32 uptimeRoot,uint32 nodeCount,bytes32 executionRoot,bytes32 bundleHash,"
    "bytes32 keeperSetDigest)"
)


class EpochReport(NamedTuple):
    """What a quorum of keepers signs about an epoch."""

    epoch: Epoch
    uptime_root: bytes
    node_count: int
    execution_root: bytes
    bundle_hash: bytes
    keeper_set_digest: bytes

    def struct_hash(self) -> bytes:
        """EIP-712 hashStruct, 32 bytes."""
        return _struct_hash(EPOCH_REPORT_TYPEHASH, self)


SLOT_RECEIPT_TYPEHASH = typehash(
    "SlotReceipt(uint32 epoch,uint32 slot,uint32 nodeId,bytes32 receiptStructHash)"
)


class SlotReceipt(NamedTuple):
    """A keeper's signature under a node's receipt: "this answer came in this slot". The pair is dual-signed."""

    epoch: Epoch
    slot: int
    node_id: NodeId
    receipt_struct_hash: bytes

    def struct_hash(self) -> bytes:
        """EIP-712 hashStruct, 32 bytes."""
        return _struct_hash(SLOT_RECEIPT_TYPEHASH, self)


# The numbers are signed and packed: none may ever change its meaning.
class MissReason(IntEnum):
    """Why a keeper counts a probe as missed."""

    UNREACHABLE = 1
    TIMEOUT = 2
    BAD_RECEIPT = 3
    BELOW_FLOOR = 4
    WRONG_ANSWER = 5
    SLOW_FIRST_TOKEN = 6
    FALSE_MANIFEST = 7


SLOT_MISS_TYPEHASH = typehash(
    "SlotMiss(uint32 epoch,uint32 slot,uint32 nodeId,uint64 observedAtMs,uint8 reason)"
)


class SlotMiss(NamedTuple):
    """A keeper's signed statement that a node did not answer its probe in a slot."""

    epoch: Epoch
    slot: int
    node_id: NodeId
    observed_at_ms: int
    reason: MissReason

    def struct_hash(self) -> bytes:
        """EIP-712 hashStruct, 32 bytes."""
        return _struct_hash(SLOT_MISS_TYPEHASH, self)


EXECUTION_BATCH_TYPEHASH = typehash("ExecutionBatch(uint32 epoch,uint32 count,bytes32 root)")


@dataclass(frozen=True, slots=True)
class ExecutionBatch:
    """A gateway's commitment to the receipts of all requests that it served, signed with its ticket key.

    Attributes:
        epoch: at whose end the batch was made.
        count: receipts in it, at least one.
        root: of their tree, `domain.execution_tree` with the tag `BATCH`.
    """

    epoch: Epoch
    count: int
    root: bytes

    def struct_hash(self) -> bytes:
        """EIP-712 hashStruct, 32 bytes."""
        return keccak256(EXECUTION_BATCH_TYPEHASH + word(self.epoch) + word(self.count) + self.root)

    def to_json(self) -> dict[str, object]:
        """The batch with the contract's field names."""
        return {"epoch": int(self.epoch), "count": self.count, "root": _hex(self.root)}


TICKET_TYPEHASH = typehash(
    "Ticket(bytes32 requestId,uint32 nodeId,bytes32 requestHash,uint64 issuedAtMs,uint64 expiresAtMs)"
)


class Ticket(NamedTuple):
    """A gateway's permission for one node to serve one request body once, before it expires (Unix ms)."""

    request_id: bytes
    node_id: NodeId
    request_hash: bytes
    issued_at_ms: int
    expires_at_ms: int

    def encoded(self) -> bytes:
        """EIP-712 typeHash and encodeData, 192 bytes: what a signature is made over by way of hashes, and a MAC directly."""
        return _TICKET_WORDS.pack(
            TICKET_TYPEHASH,
            self.request_id,
            self.node_id,
            self.request_hash,
            self.issued_at_ms,
            self.expires_at_ms,
        )

    def struct_hash(self) -> bytes:
        """EIP-712 hashStruct, 32 bytes."""
        return keccak256(self.encoded())


_TICKET_WORDS = Struct(">32s 32s 28xI 32s 24xQ 24xQ")


HEARTBEAT_TYPEHASH = typehash("Heartbeat(uint32 nodeId,bytes32 bodyHash,uint64 sentAtMs)")


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A node's signature under the body of its heartbeat, sent at a Unix millisecond."""

    node_id: NodeId
    body_hash: bytes
    sent_at_ms: int

    def struct_hash(self) -> bytes:
        """EIP-712 hashStruct, 32 bytes."""
        return keccak256(HEARTBEAT_TYPEHASH + word(self.node_id) + self.body_hash + word(self.sent_at_ms))


def _struct_hash(type_hash: bytes, fields: Iterable[bytes | int]) -> bytes:
    # Words of any size, not Struct: a stranger's epoch over 32 bits must give a wrong signature, not an error.
    return keccak256(type_hash + b"".join(item if isinstance(item, bytes) else word(item) for item in fields))


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _words(*values: str) -> bytes:
    """Words of 0x-hex as bytes, all at once. Raises ValueError, and TypeError for what is no text."""
    text, count = "".join(values), len(values)
    raw = bytes.fromhex(text.replace("0x", ""))  # passes over blanks
    heads = text[::66] + text[1::66]
    if len(text) != 66 * count or len(raw) != 32 * count or heads != "0" * count + "x" * count:
        raise ValueError(f"{values!r} are not 32 bytes of 0x-hex each")
    return raw


def _uint256(value: object) -> int:
    number = int(value) if isinstance(value, str) else value
    # Not isinstance: `true` is no price.
    if type(number) is not int or not 0 <= number < 1 << 256:
        raise ValueError(f"{value!r} is not an unsigned integer of 256 bits")
    return number
