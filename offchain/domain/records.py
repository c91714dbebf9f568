"""Execution records of an epoch: every answer that the epoch's evidence knows, under one Merkle root.

::

    root  = keccak256(0x02 || epoch:4 || count:4 || top)
    inner = keccak256(0x01 || left || right); a last node without a partner goes up unchanged
    leaf  = keccak256(0x00 || "parallelix.execution.v1" hash || epoch:4 || structHash)

Leaves stand in ascending order of the ServiceReceipt's EIP-712 struct hash, each once, so the same set of receipts has
one root whoever collects it. The struct hash binds request, answer, node, proof of execution, counts, times and price.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

from offchain.domain.hashing import keccak256
from offchain.domain.types import Epoch

_TAG = keccak256(b"parallelix.execution.v1")


@dataclass(frozen=True, slots=True)
class ExecutionProof:
    """Where a record stands and the hashes beside its way up.

    Attributes:
        index: place of the record, from 0.
        count: records of the epoch.
        siblings: 32-byte hashes, lowest first; levels without a partner have none.
    """

    index: int
    count: int
    siblings: tuple[bytes, ...]


class ExecutionTree:
    """Merkle tree over the struct hashes (32 bytes each) of an epoch's receipts; duplicates count once."""

    def __init__(self, epoch: Epoch, struct_hashes: Iterable[bytes]) -> None:
        self.epoch = epoch
        self._hashes = sorted(set(struct_hashes))
        if any(len(item) != 32 for item in self._hashes):
            raise ValueError("a struct hash is 32 bytes")
        level = [_leaf(epoch, item) for item in self._hashes]
        self._levels = [level]
        while len(level) > 1:
            level = [
                keccak256(b"\x01" + level[i] + level[i + 1]) if i + 1 < len(level) else level[i]
                for i in range(0, len(level), 2)
            ]
            self._levels.append(level)

    def __len__(self) -> int:
        return len(self._hashes)

    @property
    def root(self) -> bytes:
        """The 32 bytes that a report carries; an epoch without records has a root of its own."""
        top = self._levels[-1][0] if self._hashes else bytes(32)
        return _root(self.epoch, len(self._hashes), top)

    def proof(self, struct_hash: bytes) -> ExecutionProof:
        """Proof of inclusion. Raises KeyError for a record that the epoch does not have."""
        index = bisect_left(self._hashes, struct_hash)
        if index == len(self._hashes) or self._hashes[index] != struct_hash:
            raise KeyError("the epoch has no such record")
        siblings, place = [], index
        for level in self._levels[:-1]:
            if place ^ 1 < len(level):
                siblings.append(level[place ^ 1])
            place >>= 1
        return ExecutionProof(index, len(self._hashes), tuple(siblings))


def verify(root: bytes, epoch: Epoch, struct_hash: bytes, proof: ExecutionProof) -> bool:
    """Whether the record stands at its place under `root`."""
    if not 0 <= proof.index < proof.count:
        return False
    value, place, width, siblings = _leaf(epoch, struct_hash), proof.index, proof.count, list(proof.siblings)
    while width > 1:
        if place ^ 1 < width:
            if not siblings:
                return False
            sibling = siblings.pop(0)
            value = keccak256(b"\x01" + (sibling + value if place & 1 else value + sibling))
        place, width = place >> 1, (width + 1) >> 1
    return not siblings and root == _root(epoch, proof.count, value)


def _leaf(epoch: Epoch, struct_hash: bytes) -> bytes:
    return keccak256(b"\x00" + _TAG + epoch.to_bytes(4, "big") + struct_hash)


def _root(epoch: Epoch, count: int, top: bytes) -> bytes:
    return keccak256(b"\x02" + epoch.to_bytes(4, "big") + count.to_bytes(4, "big") + top)
