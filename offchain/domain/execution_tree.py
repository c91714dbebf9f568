"""Execution records of an epoch: every answer that the epoch's evidence knows, under one Merkle root.

::

    root  = keccak256(0x02 || epoch:4 || count:4 || top)
    inner = keccak256(0x01 || left || right); a last node without a partner goes up unchanged
    leaf  = keccak256(0x00 || tag || epoch:4 || structHash)

Leaves stand in ascending order of EIP-712 struct hashes, each once, so the same set has one root whoever collects it.
Two trees have this shape; their tags keep them apart, and the struct hash says what a leaf is:

::

    report.executionRoot          EXECUTIONS, by the keepers
      |-- ServiceReceipt          a probe or an on-chain request: request, answer, node, counts, times, price
      `-- ExecutionBatch          what a gateway signed: epoch, count, root
            `-- ServiceReceipt    BATCH, by the gateway: a request that it served
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from offchain.domain.eip712 import keccak256
from offchain.domain.types import Epoch

EXECUTIONS = keccak256(b"parallelix.execution.v1")
"""Tag of the tree whose root an epoch's report carries."""
BATCH = keccak256(b"parallelix.execution-batch.v1")
"""Tag of the tree of one gateway."""


@dataclass(frozen=True, slots=True)
class ExecutionProof:
    """A record's index in the tree and its Merkle proof, bottom up.

    Attributes:
        index: place of the record, from 0.
        count: records of the epoch.
        siblings: 32-byte hashes, lowest first; levels without a partner have none.
    """

    index: int
    count: int
    siblings: tuple[bytes, ...]


class ExecutionTree:
    """Merkle tree over struct hashes (32 bytes each) of an epoch; duplicates count once.

    Args:
        tag: `EXECUTIONS` or `BATCH`.
    """

    def __init__(self, epoch: Epoch, struct_hashes: Iterable[bytes], tag: bytes = EXECUTIONS) -> None:
        self.epoch = epoch
        self._hashes = sorted(set(struct_hashes))
        if any(len(item) != 32 for item in self._hashes):
            raise ValueError("a struct hash is 32 bytes")
        level = b"".join(_leaf(epoch, item, tag) for item in self._hashes)
        self._levels = [level]
        while len(level) > 32:
            pairs = (level[at : at + 64] for at in range(0, len(level), 64))
            level = b"".join(keccak256(b"\x01" + pair) if len(pair) == 64 else pair for pair in pairs)
            self._levels.append(level)

    def __len__(self) -> int:
        return len(self._hashes)

    @property
    def root(self) -> bytes:
        """The 32 bytes that a report carries; an epoch without records has a root of its own."""
        # `count` under the root: without it a proof could be read against a tree of another width.
        top = self._levels[-1] if self._hashes else bytes(32)
        return _root(self.epoch, len(self._hashes), top)

    @property
    def levels(self) -> Sequence[bytes]:
        """The hashes of each level, one after another, leaves first; `beside` says where to look."""
        return self._levels

    def index(self, struct_hash: bytes) -> int:
        """Place of a record. Raises KeyError for one that the epoch does not have."""
        index = bisect_left(self._hashes, struct_hash)
        if index == len(self._hashes) or self._hashes[index] != struct_hash:
            raise KeyError("the epoch has no such record")
        return index

    def proof(self, struct_hash: bytes) -> ExecutionProof:
        """Proof of inclusion. Raises KeyError for a record that the epoch does not have."""
        index, count = self.index(struct_hash), len(self._hashes)
        return ExecutionProof(
            index,
            count,
            tuple(self._levels[level][32 * at : 32 * at + 32] for level, at in beside(index, count)),
        )


def beside(index: int, count: int) -> Iterator[tuple[int, int]]:
    """Positions of a record's Merkle proof in the tree, as (level, index in the level), bottom up."""
    level, place, width = 0, index, count
    while width > 1:
        if place ^ 1 < width:  # else the last of an odd level: it goes up without a partner
            yield level, place ^ 1
        level, place, width = level + 1, place >> 1, (width + 1) >> 1


def verify(
    root: bytes, epoch: Epoch, struct_hash: bytes, proof: ExecutionProof, tag: bytes = EXECUTIONS
) -> bool:
    """Whether the record stands at its place under `root`."""
    if not 0 <= proof.index < proof.count < 2**32:
        return False
    value, siblings = _leaf(epoch, struct_hash, tag), list(proof.siblings)
    place, width = proof.index, proof.count
    while width > 1:
        if place ^ 1 < width:
            if not siblings:
                return False
            sibling = siblings.pop(0)
            value = keccak256(b"\x01" + (sibling + value if place & 1 else value + sibling))
        place, width = place >> 1, (width + 1) >> 1
    # No sibling may be left over, so that a proof has one form.
    return not siblings and root == _root(epoch, proof.count, value)


def _leaf(epoch: Epoch, struct_hash: bytes, tag: bytes) -> bytes:
    # Prefixes 0x00 and 0x01 as in RFC 6962, 2.1: a leaf cannot pass for an inner node.
    return keccak256(b"\x00" + tag + epoch.to_bytes(4, "big") + struct_hash)


def _root(epoch: Epoch, count: int, top: bytes) -> bytes:
    return keccak256(b"\x02" + epoch.to_bytes(4, "big") + count.to_bytes(4, "big") + top)
