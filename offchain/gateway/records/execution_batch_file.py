"""The file of a batch of execution records. Merkle proofs are read from it, so none is kept in memory.

::

    0            105                    105 + 289 n
    | commitment | n records, by request | hashes of the tree, level by level, leaves first |

    commitment   a packed `SignedExecutionBatch`: epoch, n, root, signature
    record       a packed `Execution` and its index in the tree, 4 bytes

A file appears whole, by a rename, and never changes. A record is found by binary search; its proof takes one read a tree level.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from offchain.domain.evidence_entries import (
    BATCH_SIZE,
    EXECUTION_SIZE,
    Execution,
    SignedExecutionBatch,
    receipt_hash,
    request_of,
)
from offchain.domain.execution_tree import BATCH, ExecutionProof, ExecutionTree, beside
from offchain.domain.messages import ExecutionBatch
from offchain.domain.types import Epoch
from offchain.runtime.files import replacing

_RECORD = EXECUTION_SIZE + 4
_SUFFIX = ".batch"


@dataclass(frozen=True, slots=True)
class BatchedExecution:
    """A record, its batch, and its Merkle proof in the batch's tree."""

    batch: SignedExecutionBatch
    execution: Execution
    proof: ExecutionProof


@dataclass(frozen=True, slots=True)
class Draft:
    """A batch that is not signed yet.

    Attributes:
        raw: file of the packed records.
        keys: for each record its request id and its number in `raw` (4 bytes); ascending, no request twice.
        hashes: struct hashes of the records in `raw`, one after another.
    """

    commitment: ExecutionBatch
    raw: Path
    tree: ExecutionTree
    keys: Sequence[bytes]
    hashes: bytes


@contextmanager
def draft(folder: Path, epoch: Epoch, records: Iterable[bytes]) -> Iterator[Draft]:
    """Make a batch of packed records; one of them may occur twice. Takes some 400 bytes of memory a record."""
    raw = folder / f"{epoch}.raw"
    keys, hashes = list[bytes](), bytearray()
    try:
        with raw.open("wb") as file:
            for number, record in enumerate(records):
                file.write(record)
                keys.append(request_of(record) + number.to_bytes(4, "big"))
                hashes += receipt_hash(bytes(4) + record)
        keys.sort()
        keys = [key for at, key in enumerate(keys) if not at or key[:32] != keys[at - 1][:32]]
        tree = ExecutionTree(epoch, (_hash(hashes, key) for key in keys), BATCH)
        yield Draft(ExecutionBatch(epoch, len(tree), tree.root), raw, tree, keys, bytes(hashes))
    finally:
        raw.unlink(missing_ok=True)


def write(folder: Path, made: Draft, signed: SignedExecutionBatch) -> None:
    """Write the file of a batch."""
    # read back in the order of ids: the records themselves are never in memory together
    with made.raw.open("rb") as raw, replacing(_path(folder, signed), mode=0o644) as file:
        file.write(signed.to_bytes())
        for key in made.keys:
            record = os.pread(raw.fileno(), EXECUTION_SIZE, int.from_bytes(key[32:], "big") * EXECUTION_SIZE)
            file.write(record + made.tree.index(_hash(made.hashes, key)).to_bytes(4, "big"))
        for level in made.tree.levels:
            file.write(level)


def stored(folder: Path) -> dict[Epoch, SignedExecutionBatch]:
    """The commitments of all files in a folder, by epoch. Call it before anything writes there.

    Removes what killed writers left: a batch of 300,000 records is some 87 MB, and each left file has another name.
    """
    for left in folder.glob(f".*{_SUFFIX}.*"):
        left.unlink(missing_ok=True)
    found = {}
    for path in folder.glob("*" + _SUFFIX):
        with path.open("rb") as file:
            head = file.read(BATCH_SIZE)
        if len(head) == BATCH_SIZE:
            batch = SignedExecutionBatch.from_bytes(head)
            found[batch.commitment.epoch] = batch
    return found


def remove(folder: Path, batch: SignedExecutionBatch) -> None:
    """Delete the file of a batch."""
    _path(folder, batch).unlink(missing_ok=True)


def find(folder: Path, batch: SignedExecutionBatch, request_id: bytes) -> BatchedExecution | None:
    """The record of a request in a batch; None when the batch has none. Raises OSError when the file cannot be read."""
    count = batch.commitment.count
    # One handle for the whole search: `remove` may delete the name meanwhile, and the bytes stay readable.
    handle = os.open(_path(folder, batch), os.O_RDONLY)
    try:
        low, high = 0, count
        while low < high:
            middle = (low + high) // 2
            raw = os.pread(handle, _RECORD, BATCH_SIZE + middle * _RECORD)
            here = request_of(raw)
            if here == request_id:
                index = int.from_bytes(raw[EXECUTION_SIZE:], "big")
                proof = ExecutionProof(index, count, _siblings(handle, index, count))
                return BatchedExecution(batch, Execution.from_bytes(raw[:EXECUTION_SIZE]), proof)
            low, high = (middle + 1, high) if here < request_id else (low, middle)
        return None
    finally:
        os.close(handle)


def _siblings(handle: int, index: int, count: int) -> tuple[bytes, ...]:
    starts, width = [BATCH_SIZE + count * _RECORD], count
    while width > 1:
        starts.append(starts[-1] + 32 * width)
        width = (width + 1) >> 1
    return tuple(os.pread(handle, 32, starts[level] + 32 * place) for level, place in beside(index, count))


def _hash(hashes: bytes | bytearray, key: bytes) -> bytes:
    at = 32 * int.from_bytes(key[32:], "big")
    return bytes(hashes[at : at + 32])


def _path(folder: Path, batch: SignedExecutionBatch) -> Path:
    return folder / f"{batch.commitment.epoch}{_SUFFIX}"
