"""Where execution records wait for their batch: in the Redis that gateways share, or in a file of a gateway without Redis.

::

    add --> pending --take(e), at an epoch's end, once--> taken(e) --commit, the first one stays--> done(e)

`take` moves all records by one rename. So a record is either in a batch or waits for the next one, never both and never neither,
whichever gateway renames and wherever it is killed. All calls block; `ExecutionLog` makes them in threads.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, cast

from redis import Redis
from redis.exceptions import ResponseError

from offchain.domain.evidence_entries import EXECUTION_SIZE, request_of

# The braces are a Redis Cluster's hash tag: RENAMENX needs both keys on one server.
_KEY = "parallelix:{executions}:"
PENDING, TAKEN, EPOCHS, SIGNED = _KEY + "pending", _KEY + "taken:", _KEY + "epochs", _KEY + "signed"
_SCAN = 500


class Pending(Protocol):
    """Records that wait for a batch, and those of batches being made. Every call may raise OSError or RedisError.

    Attributes:
        copy_seconds: seconds after an epoch's end for which its records stay, so that gateways that were down can copy them.
    """

    copy_seconds: int

    def add(self, records: Sequence[bytes], unless_taken: int | None = None) -> None:
        """Store packed records. After a call that failed, repeat it with `unless_taken`: records in that epoch's batch are skipped."""

    def take(self, epoch: int) -> bool:
        """Move all waiting records to the epoch's batch, unless that was done before. Returns whether the batch has records."""

    def taken(self, epoch: int) -> Iterator[bytes]:
        """Records of an epoch's batch, in any order; a record may occur twice."""

    def commit(self, epoch: int, signed: bytes) -> bytes:
        """Publish a batch's packed commitment. Returns the commitment that was published first, which counts."""

    def done(self, epoch: int) -> None:
        """Drop an epoch's records, after this gateway has written them to a file."""

    def unfinished(self) -> Sequence[int]:
        """Epochs whose records were taken and not dropped, ascending."""

    def forget(self, before: int) -> None:
        """Drop commitments of epochs before this one."""


def open_pending(folder: Path, redis_url: str | None) -> Pending:
    """The store for a gateway with these settings. Connects at the first call."""
    if redis_url is None:
        return FilePending(folder)
    return RedisPending(Redis.from_url(redis_url, socket_timeout=5.0, socket_connect_timeout=2.0))


class FilePending:
    """The store of a gateway without Redis. Added records survive SIGKILL, but not a power cut."""

    copy_seconds = 0

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "pending"

    def add(self, records: Sequence[bytes], unless_taken: int | None = None) -> None:
        raw = b"".join(records)
        with self._path.open("ab", buffering=0) as file:
            whole = file.tell() - file.tell() % EXECUTION_SIZE
            file.truncate(whole)  # a write that was killed may have left half a record
            written = 0
            try:
                written = file.write(raw)
            finally:
                if written != len(raw):
                    file.truncate(whole)
        if written != len(raw):
            raise OSError("the disk is full")

    def take(self, epoch: int) -> bool:
        taken = self._taken(epoch)
        if not taken.exists() and self._path.exists():
            self._path.rename(taken)
        return taken.exists() and taken.stat().st_size >= EXECUTION_SIZE

    def taken(self, epoch: int) -> Iterator[bytes]:
        with self._taken(epoch).open("rb") as file:
            while len(record := file.read(EXECUTION_SIZE)) == EXECUTION_SIZE:
                yield record

    def commit(self, epoch: int, signed: bytes) -> bytes:
        return signed

    def done(self, epoch: int) -> None:
        self._taken(epoch).unlink(missing_ok=True)

    def unfinished(self) -> Sequence[int]:
        return sorted(int(path.suffix[1:]) for path in self._folder.glob("taken.*"))

    def forget(self, before: int) -> None:
        return None

    def _taken(self, epoch: int) -> Path:
        return self._folder / f"taken.{epoch}"


class RedisPending:
    """The store of all gateways on one Redis; as durable as that Redis.

    parallelix:{executions}:pending         hash: request id -> packed record that waits for a batch
    parallelix:{executions}:taken:<epoch>   the same for an epoch's batch; kept for `copy_seconds`
    parallelix:{executions}:epochs          set of epochs that had a batch
    parallelix:{executions}:signed          hash: epoch -> packed commitment
    """

    copy_seconds = 6 * 3600

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def add(self, records: Sequence[bytes], unless_taken: int | None = None) -> None:
        found = {request_of(record): record for record in records}
        if unless_taken is not None:
            pipeline = self._redis.pipeline(transaction=False)
            for request_id in found:
                pipeline.hexists(TAKEN + str(unless_taken), request_id)  # type: ignore[arg-type]
            known = pipeline.execute()
            found = {name: found[name] for name, is_known in zip(found, known, strict=True) if not is_known}
        if found:
            self._redis.hset(PENDING, mapping=found)

    def take(self, epoch: int) -> bool:
        self._redis.sadd(EPOCHS, epoch)  # before the rename: if we die between, the epoch is known
        if not self._redis.hexists(SIGNED, str(epoch)):
            # once signed, the records may be dropped: a rename would make a second batch
            with suppress(ResponseError):  # nothing waits
                self._redis.renamenx(PENDING, TAKEN + str(epoch))
        return bool(self._redis.exists(TAKEN + str(epoch)))

    def taken(self, epoch: int) -> Iterator[bytes]:
        # HSCAN may give a field twice while the hash changes its form; a batch drops copies.
        for _, record in self._redis.hscan_iter(TAKEN + str(epoch), count=_SCAN):
            yield record

    def commit(self, epoch: int, signed: bytes) -> bytes:
        self._redis.hsetnx(SIGNED, str(epoch), signed)  # type: ignore[arg-type]
        return cast("bytes", self._redis.hget(SIGNED, str(epoch)))

    def done(self, epoch: int) -> None:
        # DEL or expiry of a million fields would block Redis; UNLINK frees them in a thread
        self._redis.unlink(TAKEN + str(epoch))

    def unfinished(self) -> Sequence[int]:
        epochs = self._epochs()
        pipeline = self._redis.pipeline(transaction=False)
        for epoch in epochs:
            pipeline.exists(TAKEN + str(epoch))
        there = pipeline.execute() if epochs else []
        return [epoch for epoch, exists in zip(epochs, there, strict=True) if exists]

    def forget(self, before: int) -> None:
        for epoch in self._epochs():
            if epoch < before and not self._redis.exists(TAKEN + str(epoch)):
                self._redis.hdel(SIGNED, str(epoch))
                self._redis.srem(EPOCHS, epoch)

    def _epochs(self) -> list[int]:
        return sorted(int(epoch) for epoch in cast("set[bytes]", self._redis.smembers(EPOCHS)))
