"""The execution record of every answered request, and the batch that commits to an epoch's records.

::

    requests    x  x x   x x | x  x
    written      |    |    | |  |         twice a second, in a thread
    epoch  e ----------------|-|------- e+1
                               `- close: all written records that are in no batch become the batch of e, in a child process

A record is a node's signed receipt. Gateways that share a Redis sign one execution batch per epoch: the first to close it
signs. An epoch is closed in the first ten seconds after its end, when keepers ask for the batch. If nobody closes an epoch, its
records go into the next batch.
"""

import asyncio
import struct
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from redis.exceptions import RedisError

from offchain.crypto.recovery import recover
from offchain.domain.eip712 import SigningDomain
from offchain.domain.epochs import EpochClock
from offchain.domain.evidence_entries import Execution, SignedExecutionBatch
from offchain.domain.types import Epoch
from offchain.gateway.records import execution_batch_file as files
from offchain.gateway.records.execution_batch_process import ExecutionBatchProcess
from offchain.gateway.records.pending_executions import Pending
from offchain.protocol.receipts import SignedReceipt

log = structlog.get_logger("gateway")

WRITE_SECONDS = 0.5
"""Seconds between two writes. A gateway that is killed loses the records of its last so many seconds."""
CLOSE_AFTER_SECONDS, CLOSE_UNTIL_SECONDS = 1, 10
"""Seconds after an epoch's end between which its batch is made: after 1 s the other gateways' last records are written."""
KEEP_SECONDS = 30 * 86400
LOOK_SECONDS = 10
MAX_UNWRITTEN = 100_000
MAX_AT_ONCE = 10_000
MAX_LISTED = 64
MAX_SEARCHED = 64


class ExecutionLog:
    """One gateway's execution records. `add` only queues; `run` writes and makes batches, in threads.

    Args:
        folder: this gateway's own folder for the files of batches.
        domain: EIP-712 domain of UptimeAttestation.
        sign: signs messages with the gateway's key.
        begin: starts the child process that makes an epoch's batch.
    """

    def __init__(
        self,
        folder: Path,
        pending: Pending,
        clock: EpochClock,
        domain: SigningDomain,
        sign: Callable[[bytes], bytes],
        now_ms: Callable[[], int],
        begin: Callable[[Epoch], ExecutionBatchProcess],
    ) -> None:
        self._folder = folder
        self._pending = pending
        self._clock = clock
        self._domain = domain
        self._sign = sign
        self._now_ms = now_ms
        self._begin = begin
        self._new: deque[bytes] = deque(maxlen=MAX_UNWRITTEN)
        self._batches = files.stored(folder)
        self._signed: dict[Epoch, SignedExecutionBatch] = {}
        self.making = False
        """Whether a batch is being made that is not in `listed` yet."""
        self._process: ExecutionBatchProcess | None = None
        self._stopped = False
        self._gateways: dict[bytes, str] = {}
        self._storing, self._closing = threading.Lock(), threading.Lock()
        self._failing = set[str]()
        self._unsure = False
        self._closed: Epoch | None = None
        self._look_at = 0
        self.lost = 0
        """Records that were dropped: the store was unavailable for too long, or the receipt's numbers do not fit a record."""

    def add(self, signed: SignedReceipt) -> None:
        """Queue the record of an answered request."""
        try:
            record = Execution(signed.receipt, signed.signature).to_bytes()
        except (struct.error, OverflowError):
            self.lost += 1  # a node may sign any numbers; a record has room for 32 or 64 bits
            return
        if len(self._new) == MAX_UNWRITTEN:
            self.lost += 1
        self._new.append(record)

    def stop(self) -> None:
        """Make no more batches. One that is being made is given up; another gateway or the next start makes it."""
        # The flag before the kill: `_make` tests it after it has shown the process.
        self._stopped = True
        if self._process is not None:
            self._process.kill()

    async def run(self) -> None:
        """Write and make batches until cancelled. Both at the same time: writing must not wait for a batch."""
        await asyncio.gather(self._every(self.write_new), self._every(self.close_over))

    def write_new(self) -> None:
        """Write queued records. A store that does not answer is logged once."""
        with self._storing:
            self._attempt("write", self.write)

    def close_over(self) -> None:
        """Close the epoch that ended last. A store that does not answer is logged once."""
        with self._closing:
            self._attempt("close", self.close)

    async def _every(self, work: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            await asyncio.to_thread(work)

    def _attempt(self, what: str, work: Callable[[], None]) -> None:
        try:
            work()
        except (RedisError, OSError) as error:
            if what not in self._failing:
                kind = type(error).__name__
                log.warning("executions.unavailable", what=what, error=kind, reason=str(error))
            self._failing.add(what)
        else:
            if what in self._failing:
                log.info("executions.back", what=what)
            self._failing.discard(what)

    def write(self) -> None:
        """Write queued records. Raises OSError or RedisError; then they stay queued."""
        while self._new:
            records = [self._new.popleft() for _ in range(min(len(self._new), MAX_AT_ONCE))]
            try:
                self._pending.add(records, self._over() if self._unsure else None)
            except (RedisError, OSError):
                self.lost += max(0, len(self._new) + len(records) - MAX_UNWRITTEN)
                self._new.extendleft(reversed(records))
                # The failed write may have arrived: its records may be in a batch made since.
                self._unsure = True
                raise
            self._unsure = False

    def close(self) -> None:
        """Make the batch of the epoch that ended last, and batches whose file this gateway lacks."""
        epoch = self._over()
        if epoch is None or self._stopped:
            return
        if epoch != self._closed:
            # Later, keepers no longer ask for it: the records wait for the next epoch's batch (ADR 0083).
            in_time = self._now_ms() // 1000 < self._clock.end(epoch) + CLOSE_UNTIL_SECONDS
            if in_time and epoch not in self._batches and self._take(epoch):
                self._make(epoch)
                self._drop_copied(epoch)
            self._forget(epoch)
            self._closed = epoch
        if self._now_ms() >= self._look_at:
            self._look_at = self._now_ms() + LOOK_SECONDS * 1000
            for number in self._pending.unfinished():
                if Epoch(number) not in self._batches:
                    self._make(Epoch(number))
                self._drop_copied(Epoch(number))

    def listed(self, since: int) -> list[dict[str, Any]]:
        """Commitments of epochs from `since` on: the newest `MAX_LISTED`, oldest first."""
        known = {**self._batches, **self._signed}
        newest = sorted(epoch for epoch in known if epoch >= since)[-MAX_LISTED:]
        return [self._json(known[epoch]) for epoch in newest]

    def find(self, request_id: bytes) -> dict[str, Any] | None:
        """A request's record with its Merkle proof; None when no batch of this gateway has it. Blocks for some file reads."""
        begun = int.from_bytes(request_id[:4], "big") * 60  # an id begins with its minute
        first = self._clock.epoch_at(max(begun, self._clock.genesis)) - 1
        known = self._batches
        for epoch in sorted(epoch for epoch in known if epoch >= first)[:MAX_SEARCHED]:
            try:
                found = files.find(self._folder, known[epoch], request_id)
            except FileNotFoundError:
                continue  # another thread has just removed it
            if found is not None:
                return {
                    "object": "execution",
                    "request_id": "0x" + request_id.hex(),
                    "receipt": found.execution.receipt.to_json(),
                    "signature": "0x" + found.execution.node_signature.hex(),
                    "batch": self._json(found.batch),
                    "index": found.proof.index,
                    "count": found.proof.count,
                    "siblings": ["0x" + item.hex() for item in found.proof.siblings],
                }
        return None

    def _over(self) -> Epoch | None:
        settled = self._now_ms() // 1000 - CLOSE_AFTER_SECONDS
        if settled < self._clock.end(Epoch(0)):
            return None
        return Epoch(self._clock.epoch_at(settled) - 1)

    def _take(self, epoch: Epoch) -> bool:
        with self._storing:  # records written while the file is renamed would be in neither batch
            return self._pending.take(epoch)

    def _make(self, epoch: Epoch) -> None:
        self.making = True
        try:
            with self._begin(epoch) as self._process:
                if not self._stopped:  # tested after `stop` can see the process, so that one of both kills it
                    self._commit(epoch, self._process)
        except OSError:
            if not self._stopped:
                raise
        finally:
            self.making = False
            self._process = None
            self._signed = {}

    def _commit(self, epoch: Epoch, process: ExecutionBatchProcess) -> None:
        """Sign an epoch's batch, list it at once (keepers wait for it), then have its file written."""
        commitment = process.draft()
        if not commitment.count:
            return
        message = self._domain.message(commitment.struct_hash())
        signed = SignedExecutionBatch(commitment, self._sign(message))
        # Another gateway may have been first: its signature counts, if it is over the same records.
        published = SignedExecutionBatch.from_bytes(self._pending.commit(epoch, signed.to_bytes()))
        if published.commitment != commitment:
            log.error("executions.differ", epoch=epoch)
            return
        self._signed = {epoch: published}
        self.making = False
        process.write(published)
        self._batches = {**self._batches, epoch: published}  # a new dict: `find` iterates in another thread
        log.info("executions.committed", epoch=epoch, records=commitment.count)

    def _drop_copied(self, epoch: Epoch) -> None:
        """Drop an epoch's records from the store when every gateway has had time to copy them to its files."""
        until = self._clock.end(epoch) + self._pending.copy_seconds
        if epoch in self._batches and self._now_ms() // 1000 >= until:
            self._pending.done(epoch)

    def _forget(self, over: Epoch) -> None:
        oldest = Epoch(over - KEEP_SECONDS // self._clock.length_seconds)
        for batch in [batch for epoch, batch in self._batches.items() if epoch < oldest]:
            files.remove(self._folder, batch)
        self._batches = {epoch: batch for epoch, batch in self._batches.items() if epoch >= oldest}
        self._gateways = {}
        self._pending.forget(oldest)

    def _json(self, batch: SignedExecutionBatch) -> dict[str, Any]:
        gateway = self._gateways.get(batch.signature)
        if gateway is None:
            gateway = recover(self._domain.digest(batch.commitment.struct_hash()), batch.signature)
            self._gateways[batch.signature] = gateway
        return {**batch.to_json(), "gateway": gateway}
