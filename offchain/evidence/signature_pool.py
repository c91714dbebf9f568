"""The signers of answers. Recovering them is by far the most expensive part of verifying evidence, so large documents are
split among processes.
"""

import multiprocessing
import os
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

from offchain.crypto.recovery import recover_key
from offchain.domain.eip712 import keccak256, signing_prefix, word
from offchain.domain.evidence_entries import answer_bytes, receipt_hash
from offchain.domain.measurement.schedule import ProbeSchedule
from offchain.domain.messages import SLOT_RECEIPT_TYPEHASH
from offchain.domain.types import Epoch, NodeId
from offchain.runtime.child_processes import die_with

ALONE_BELOW = 20_000
"""A document with fewer answers is checked in this process: starting others takes about a second."""
CHUNK = 2_000
"""Answers that a process gets at a time."""
_PAD28 = bytes(28)
# `startedAtMs` and `finishedAtMs` of a packed answer; docs/wire.md has the offsets.
_TIMES = slice(176, 192)
_FOUND = struct.Struct(">32s20s20sII32sQQQ")
_NOBODY = bytes(20)


class Signed(NamedTuple):
    """What verifying needs of an answer. Addresses are 20 bytes, all zero for a malformed signature.

    `due_ms`: when the probe was due by the keeper's schedule, Unix milliseconds; 0 for a slot that the epoch lacks.
    """

    struct_hash: bytes
    node_signer: bytes
    keeper_signer: bytes
    slot: int
    node_id: int
    request_id: bytes
    started_at_ms: int
    finished_at_ms: int
    due_ms: int


class Recovery:
    """Recovers the signers of one epoch's answers. Close it when done: it may have started processes.

    Args:
        epoch: the epoch in the structs that keepers signed.
        attestation, market: EIP-712 domain separators.
        processes: how many work on large documents; by default one for each core.
    """

    def __init__(self, epoch: Epoch, attestation: bytes, market: bytes, processes: int | None = None) -> None:
        self._one = partial(signers_of, epoch, attestation, market)
        # Not the number of cores: a container may be kept to a few of them.
        self._processes = processes or len(os.sched_getaffinity(0))
        self._pool: ProcessPoolExecutor | None = None

    def signers(self, texts: Sequence[str], schedule: ProbeSchedule) -> Iterator[Signed]:
        """For each packed answer of a document, in order. Raises EvidenceError at the first malformed one."""
        chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
        one = partial(self._one, schedule)
        alone = len(texts) < ALONE_BELOW or self._processes == 1
        for found in map(one, chunks) if alone else self._workers().map(one, chunks):
            yield from map(Signed._make, _FOUND.iter_unpack(found))

    def close(self) -> None:
        """End the processes, even if they still work on a document that was rejected meanwhile."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _workers(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Not fork: the keeper has threads, and a lock that one of them holds would stay locked in the child.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__])
            self._pool = ProcessPoolExecutor(self._processes, context, initializer=_follow_parent)
        return self._pool


def signers_of(
    epoch: Epoch, attestation: bytes, market: bytes, schedule: ProbeSchedule, texts: Sequence[str]
) -> bytes:
    """`Signed` of each packed answer, packed. Raises EvidenceError for a malformed entry.

    Hashes are taken over slices of the packed bytes, which hold the very words that EIP-712 hashes. Decoding into objects
    first would take three times as long.
    """
    market_head, attestation_head = signing_prefix(market), signing_prefix(attestation)
    slot_head = SLOT_RECEIPT_TYPEHASH + word(epoch)
    found = bytearray()
    for text in texts:
        raw = answer_bytes(text)
        slot, node = raw[:4], raw[4:8]
        number = int.from_bytes(slot, "big")
        known = number < schedule.clock.slots
        due_ms = schedule.due_ms(NodeId(int.from_bytes(node, "big")), number) if known else 0
        struct_hash = receipt_hash(raw)
        slot_hash = keccak256(slot_head + _PAD28 + slot + _PAD28 + node + struct_hash)
        node_signer = account_of(keccak256(market_head + struct_hash), raw[-130:-65]) or _NOBODY
        keeper_signer = account_of(keccak256(attestation_head + slot_hash), raw[-65:]) or _NOBODY
        found += (
            struct_hash + node_signer + keeper_signer + raw[:40] + raw[_TIMES] + due_ms.to_bytes(8, "big")
        )
    return bytes(found)


def account_of(digest: bytes, signature: bytes) -> bytes | None:
    """The 20 bytes of the account that signed a digest; None for a signature that `recover_key` refuses."""
    try:
        return keccak256(recover_key(digest, signature))[12:]
    except ValueError:
        return None


def _follow_parent() -> None:
    """In a process of the pool: die with the fork server, which ends when the keeper's process ends."""
    die_with(os.getppid())
