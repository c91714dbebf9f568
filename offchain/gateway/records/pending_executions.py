"""Where execution records wait for their batch: in the Redis that gateways share, or in a file of one that runs alone.

::

    add --> pending --take(e), at an epoch's end, once--> taken(e) --commit, the first one stays--> done(e)

`take` moves everything by one rename: a record is in a batch or waits for the next one, never both and never neither,
whichever gateway does it and wherever one is killed. All of it blocks, and runs in a thread of its own.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, cast

from redis import Redis
from redis.exceptions import ResponseError

from offchain.domain.evidence_entries import EXECUTION_SIZE, request_of

_KEY = "parallelix:{executions}:"
PENDING, TAKEN, EPOCHS, SIGNED = _KEY + "pending", _KEY + "taken:", _KEY + "epochs", _KEY + "signed"
_SCAN = 500


class Pending(Protocol):
    """Records that no batch has taken, and those of batches in the making. Every call raises OSError or RedisError.

    Attributes:
        copy_seconds: for so long after its end an epoch's records stay, so that gateways that were away can copy them.
    """

    copy_seconds: int

    def add(self, records: Sequence[bytes], unless_taken: int | None = None) -> None:
        """Keep packed records; after a call that failed, once more, but not those that the batch `unless_taken` has."""

    def take(self, epoch: int) -> bool:
        """Close an epoch's batch over all that waits, unless that was done. Returns whether it has records."""

    def taken(self, epoch: int) -> Iterator[bytes]:
        """Records of a batch, in any order; one may come twice."""

    def commit(self, epoch: int, signed: bytes) -> bytes:
        """Publish a batch's packed commitment. Returns the one that stands: the first."""

    def done(self, epoch: int) -> None:
        """Drop a batch's records, which are in a file of this gateway."""

    def unfinished(self) -> Sequence[int]:
        """Epochs whose records are still here, ascending."""

    def forget(self, before: int) -> None:
        """Drop what is remembered of epochs before this one."""


def open_pending(folder: Path, redis_url: str | None) -> Pending:
    """The records of a gateway with these settings; nothing is connected before it is needed."""
    if redis_url is None:
        return FilePending(folder)
    return RedisPending(Redis.from_url(redis_url, socket_timeout=5.0, socket_connect_timeout=2.0))


class FilePending:
    """Of a gateway that runs alone. A record that was added survives SIGKILL; not the machine's power."""

    copy_seconds = 0

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "pending"

    def add(self, records: Sequence[bytes], unless_taken: int | None = None) -> None:
        raw = b"".join(records)
        with self._path.open("ab", buffering=0) as file:
            whole = file.tell() - file.tell() % EXECUTION_SIZE  # a write that was killed may have left a part
            file.truncate(whole)
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
    """Of all gateways on one Redis; as durable as that is.

    parallelix:{executions}:pending         hash of request id -> packed record, of those that no batch has taken
    parallelix:{executions}:taken:<epoch>   the same of a batch, for `copy_seconds`
    parallelix:{executions}:epochs          set of epochs that had a batch
    parallelix:{executions}:signed          hash of epoch -> packed commitment
    """

    copy_seconds = 6 * 3600

    def __init__(self, redis: "Redis") -> None:
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
        self._redis.sadd(EPOCHS, epoch)  # before the rename, which nobody might remember else
        if not self._redis.hexists(SIGNED, str(epoch)):  # else its records may be gone, and their place free
            with suppress(ResponseError):  # nothing waits
                self._redis.renamenx(PENDING, TAKEN + str(epoch))
        return bool(self._redis.exists(TAKEN + str(epoch)))

    def taken(self, epoch: int) -> Iterator[bytes]:
        for _, record in self._redis.hscan_iter(TAKEN + str(epoch), count=_SCAN):
            yield record

    def commit(self, epoch: int, signed: bytes) -> bytes:
        self._redis.hsetnx(SIGNED, str(epoch), signed)  # type: ignore[arg-type]
        return cast("bytes", self._redis.hget(SIGNED, str(epoch)))

    def done(self, epoch: int) -> None:
        self._redis.unlink(
            TAKEN + str(epoch)
        )  # a DEL, or an expiry, of a million fields would hold up all others

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
