"""Everything that is signed in the network, as EIP-712 structs; the contracts hash the same types.

Verifying contract of each: `EpochReport`, `SlotReceipt`, `SlotMiss`, `ExecutionBatch`: UptimeAttestation;
`ServiceReceipt`: InferenceMarket; `Ticket`, `Heartbeat`: NodeRegistryLocker.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from offchain.domain.hashing import keccak256, word
from offchain.domain.types import Epoch, NodeId, Wei

CHOICE_SEPARATOR = b"\x1e"


def result_bytes(choices: Sequence[str]) -> bytes:
    """What a receipt binds: the generated text of each choice in index order, UTF-8, joined by 0x1e."""
    return CHOICE_SEPARATOR.join(text.encode() for text in choices)


def proof_of_execution(request_id: bytes, result: bytes, node_id: NodeId) -> bytes:
    """`SHA-256(request_id || result || node_id)`, node id as 4 bytes big-endian. Binds; does not prove honesty."""
    return hashlib.sha256(request_id + result + node_id.to_bytes(4, "big")).digest()


@dataclass(frozen=True, slots=True)
class ServiceReceipt:
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

    TYPE = (
        "ServiceReceipt(bytes32 requestId,uint32 nodeId,bytes32 requestHash,bytes32 resultHash,bytes32 poe,"
        "bytes32 modelRevision,uint32 promptTokens,uint32 completionTokens,uint64 startedAtMs,uint64 finishedAtMs,"
        "uint256 priceWei)"
    )

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
            typehash(self.TYPE)
            + self.request_id
            + word(self.node_id)
            + self.request_hash
            + self.result_hash
            + self.poe
            + self.model_revision
            + word(self.prompt_tokens)
            + word(self.completion_tokens)
            + word(self.started_at_ms)
            + word(self.finished_at_ms)
            + word(self.price_wei)
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
            return cls(
                request_id=_bytes32(data["requestId"]),
                node_id=NodeId(_uint(data["nodeId"])),
                request_hash=_bytes32(data["requestHash"]),
                result_hash=_bytes32(data["resultHash"]),
                poe=_bytes32(data["poe"]),
                model_revision=_bytes32(data["modelRevision"]),
                prompt_tokens=_uint(data["promptTokens"]),
                completion_tokens=_uint(data["completionTokens"]),
                started_at_ms=_uint(data["startedAtMs"]),
                finished_at_ms=_uint(data["finishedAtMs"]),
                price_wei=Wei(_uint(data["priceWei"])),
            )
        except KeyError as missing:
            raise ValueError(f"receipt lacks {missing}") from None


@dataclass(frozen=True, slots=True)
class EpochReport:
    """What a quorum of keepers signs about an epoch."""

    TYPE = (
        "EpochReport(uint32 epoch,bytes32 uptimeRoot,uint32 nodeCount,bytes32 executionRoot,bytes32 bundleHash,"
        "bytes32 keeperSetDigest)"
    )

    epoch: Epoch
    uptime_root: bytes
    node_count: int
    execution_root: bytes
    bundle_hash: bytes
    keeper_set_digest: bytes

    def struct_hash(self) -> bytes:
        """EIP-712 hashStruct, 32 bytes."""
        return keccak256(
            typehash(self.TYPE)
            + word(self.epoch)
            + self.uptime_root
            + word(self.node_count)
            + self.execution_root
            + self.bundle_hash
            + self.keeper_set_digest
        )


@dataclass(frozen=True, slots=True)
class SlotReceipt:
    """A keeper's signature under a node's receipt: "this answer came in this slot". The pair is dual-signed."""

    TYPE = "SlotReceipt(uint32 epoch,uint32 slot,uint32 nodeId,bytes32 receiptStructHash)"

    epoch: Epoch
    slot: int
    node_id: NodeId
    receipt_struct_hash: bytes

    def struct_hash(self) -> bytes:
        """EIP-712 hashStruct, 32 bytes."""
        return keccak256(
            typehash(self.TYPE)
            + word(self.epoch)
            + word(self.slot)
            + word(self.node_id)
            + self.receipt_struct_hash
        )


class MissReason(IntEnum):
    """Why a keeper counts a probe as missed."""

    UNREACHABLE = 1
    TIMEOUT = 2
    BAD_RECEIPT = 3
    BELOW_FLOOR = 4
    WRONG_ANSWER = 5
    SLOW_FIRST_TOKEN = 6
    FALSE_MANIFEST = 7


@dataclass(frozen=True, slots=True)
class SlotMiss:
    """A keeper's signed statement that a node did not answer its probe in a slot."""

    TYPE = "SlotMiss(uint32 epoch,uint32 slot,uint32 nodeId,uint64 observedAtMs,uint8 reason)"

    epoch: Epoch
    slot: int
    node_id: NodeId
    observed_at_ms: int
    reason: MissReason

    def struct_hash(self) -> bytes:
        """EIP-712 hashStruct, 32 bytes."""
        return keccak256(
            typehash(self.TYPE)
            + word(self.epoch)
            + word(self.slot)
            + word(self.node_id)
            + word(self.observed_at_ms)
            + word(self.reason)
        )


@dataclass(frozen=True, slots=True)
class ExecutionBatch:
    """A gateway's commitment to the receipts of all requests that it served, signed with its ticket key.

    Attributes:
        epoch: at whose end the batch was made.
        count: receipts in it, at least one.
        root: of their tree, `domain.records` with the tag `BATCH`.
    """

    TYPE = "ExecutionBatch(uint32 epoch,uint32 count,bytes32 root)"

    epoch: Epoch
    count: int
    root: bytes

    def struct_hash(self) -> bytes:
        """EIP-712 hashStruct, 32 bytes."""
        return keccak256(typehash(self.TYPE) + word(self.epoch) + word(self.count) + self.root)


@dataclass(frozen=True, slots=True)
class Ticket:
    """A front's permission for one node to serve one request body once, before it expires (Unix ms)."""

    TYPE = "Ticket(bytes32 requestId,uint32 nodeId,bytes32 requestHash,uint64 issuedAtMs,uint64 expiresAtMs)"

    request_id: bytes
    node_id: NodeId
    request_hash: bytes
    issued_at_ms: int
    expires_at_ms: int

    def struct_hash(self) -> bytes:
        """EIP-712 hashStruct, 32 bytes."""
        return keccak256(
            typehash(self.TYPE)
            + self.request_id
            + word(self.node_id)
            + self.request_hash
            + word(self.issued_at_ms)
            + word(self.expires_at_ms)
        )


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A node's signature under the body of its heartbeat, sent at a Unix millisecond."""

    TYPE = "Heartbeat(uint32 nodeId,bytes32 bodyHash,uint64 sentAtMs)"

    node_id: NodeId
    body_hash: bytes
    sent_at_ms: int

    def struct_hash(self) -> bytes:
        """EIP-712 hashStruct, 32 bytes."""
        return keccak256(typehash(self.TYPE) + word(self.node_id) + self.body_hash + word(self.sent_at_ms))


_TYPEHASHES: dict[str, bytes] = {}


def typehash(encoded_type: str) -> bytes:
    """EIP-712 typeHash of an encoded type, 32 bytes."""
    found = _TYPEHASHES.get(encoded_type)
    if found is None:
        found = _TYPEHASHES[encoded_type] = keccak256(encoded_type.encode())
    return found


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _bytes32(value: object) -> bytes:
    if not isinstance(value, str) or len(value) != 66 or not value.startswith("0x"):
        raise ValueError(f"{value!r} is not 32 bytes of 0x-hex")
    return bytes.fromhex(value[2:])


def _uint(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is not an unsigned integer")  # noqa: TRY004  one error type for bad JSON
    number = int(value)
    if number < 0:
        raise ValueError(f"{value!r} is negative")
    return number
