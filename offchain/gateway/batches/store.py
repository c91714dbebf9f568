"""Files and batches in Redis, where gateways write them and batch workers read them.

    parallelix:files:<tenant>              hash: file id -> JSON of the file object
    parallelix:file:<tenant>:<file id>     content, kept for 30 days
    parallelix:batches:<tenant>            hash: batch id -> JSON of what the caller asked for
    parallelix:batch:<batch id>            hash: status, times and counts, which change while it runs
    parallelix:results:<batch id>          hash: line number -> JSON of the answer; the first one written counts
    parallelix:due:batches                 sorted set: "<tenant>/<batch id>" by creation, until the batch is over
    parallelix:gateways                    sorted set: base URL of a gateway by the Unix second at which it last wrote here

Every call is a few round trips and raises `redis.RedisError` when Redis cannot be reached. The keys of files and of lists
contain the tenant's name, so no tenant can reach another's.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

KEEP_SECONDS: Final = 30 * 86400
WINDOW_SECONDS: Final = 86400
MAX_FILES: Final = 1_000
MAX_TENANT_BYTES: Final = 256 * 1024 * 1024
MAX_OPEN_BATCHES: Final = 50
MAX_BATCHES: Final = 1_000
MAX_RESULT_BYTES: Final = 64 * 1024 * 1024
"""Bytes of a batch's answers; lines beyond get an error instead of an answer."""
GATEWAY_SECONDS: Final = 10

DUE: Final = "parallelix:due:batches"
GATEWAYS: Final = "parallelix:gateways"
Changes = Mapping[str, str | int | bytes]
OVER: Final = frozenset({"completed", "failed", "expired", "cancelled"})
_ENDINGS: Final = ("finalizing", "completed", "failed", "expired", "cancelling", "cancelled")

# One script checks the room and takes it, so that simultaneous uploads cannot exceed the bound together.
_PUT: Final = """
local bytes, count = tonumber(ARGV[3]), 0
for _, raw in ipairs(redis.call('HVALS', KEYS[1])) do
  local file = cjson.decode(raw)
  if file.expires_at <= tonumber(ARGV[5]) then
    redis.call('HDEL', KEYS[1], file.id)
  else
    bytes, count = bytes + file.bytes, count + 1
  end
end
if ARGV[6] ~= '0' and (count >= tonumber(ARGV[6]) or bytes > tonumber(ARGV[7])) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('SET', KEYS[2], ARGV[4], 'EX', ARGV[8])
return 1
"""
_CREATE: Final = """
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
local open = 0
for _, id in ipairs(redis.call('HKEYS', KEYS[1])) do
  if redis.call('ZSCORE', KEYS[3], ARGV[5] .. '/' .. id) then open = open + 1 end
end
if open >= tonumber(ARGV[4]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], 'status', 'validating')
redis.call('ZADD', KEYS[3], ARGV[6], ARGV[5] .. '/' .. ARGV[1])
return 1
"""
# A batch that has ended never changes, whichever worker comes late.
_CHANGE: Final = """
local status = redis.call('HGET', KEYS[1], 'status')
for over in string.gmatch(ARGV[1], '[^,]+') do if status == over then return 0 end end
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1
"""


class StoreFullError(Exception):
    """A tenant's bound is reached; the message says which."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as it is now.

    Attributes:
        request: id, endpoint, input_file_id, metadata, created_at, expires_at.
        state: status, times and counts so far; values are text.
    """

    tenant: str
    request: dict[str, Any]
    state: dict[str, str]

    @property
    def id(self) -> str:
        """`batch_...`."""
        return str(self.request["id"])

    @property
    def status(self) -> str:
        """Status in OpenAI's words, e.g. `in_progress`."""
        return self.state.get("status", "validating")

    def to_json(self) -> dict[str, Any]:
        """OpenAI's batch object."""

        def number(name: str) -> int | None:
            return int(self.state[name]) if name in self.state else None

        errors = self.state.get("errors")
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.request["endpoint"],
            "errors": None if errors is None else {"object": "list", "data": orjson.loads(errors)},
            "input_file_id": self.request["input_file_id"],
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": self.state.get("output_file_id"),
            "error_file_id": self.state.get("error_file_id"),
            "created_at": self.request["created_at"],
            "in_progress_at": number("in_progress_at"),
            "expires_at": self.request["expires_at"],
            **{f"{what}_at": number(f"{what}_at") for what in _ENDINGS},
            "request_counts": {name: number(name) or 0 for name in ("total", "completed", "failed")},
            "metadata": self.request["metadata"],
        }


class BatchStore:
    """Reads and writes files and batches through a `redis.Redis` with `decode_responses=False`; `now` is Unix seconds."""

    def __init__(self, redis: Any, now: Callable[[], float] = time.time) -> None:
        self.redis = redis
        self._now = now

    def now(self) -> int:
        """Unix seconds."""
        return int(self._now())

    # ------------------------------------------------------------------------------------------------- files

    def put_file(
        self, tenant: str, content: bytes, filename: str, purpose: str, file_id: str | None = None
    ) -> dict[str, Any]:
        """Store a file. Raises StoreFullError.

        Args:
            file_id: id of a result file, which no bound applies to; None: a new id, within the tenant's bounds.
        """
        created = self.now()
        made = {
            "id": file_id or "file-" + secrets.token_hex(16),
            "object": "file",
            "bytes": len(content),
            "created_at": created,
            "expires_at": created + KEEP_SECONDS,
            "filename": filename,
            "purpose": purpose,
            "status": "processed",
        }
        keys = (_key("files", tenant), _key("file", tenant, str(made["id"])))
        arguments = (made["id"], orjson.dumps(made), len(content), content, created)
        bounds = (MAX_FILES if file_id is None else 0, MAX_TENANT_BYTES, KEEP_SECONDS)
        if not self.redis.eval(_PUT, 2, *keys, *arguments, *bounds):
            raise StoreFullError(
                f"at most {MAX_FILES} files of {MAX_TENANT_BYTES >> 20} MiB together are kept; delete some"
            )
        return made

    def files(self, tenant: str) -> list[dict[str, Any]]:
        """A tenant's files, newest first."""
        now = self.now()
        found = [orjson.loads(raw) for raw in self.redis.hvals(_key("files", tenant))]
        found = [file for file in found if file["expires_at"] > now]
        return sorted(found, key=lambda file: (file["created_at"], file["id"]), reverse=True)

    def file(self, tenant: str, file_id: str) -> dict[str, Any] | None:
        """A file object, or None."""
        raw = self.redis.hget(_key("files", tenant), file_id)
        found: dict[str, Any] | None = None if raw is None else orjson.loads(raw)
        return None if found is None or found["expires_at"] <= self.now() else found

    def content(self, tenant: str, file_id: str) -> bytes | None:
        """A file's bytes, or None."""
        raw: bytes | None = self.redis.get(_key("file", tenant, file_id))
        return raw

    def delete_file(self, tenant: str, file_id: str) -> bool:
        """Forget a file. Returns whether there was one."""
        # Content first: if we die between, the file is still listed, and says that its content is gone.
        self.redis.delete(_key("file", tenant, file_id))
        return bool(self.redis.hdel(_key("files", tenant), file_id))

    # ----------------------------------------------------------------------------------------------- batches

    def create(
        self, tenant: str, endpoint: str, input_file_id: str, metadata: dict[str, str] | None
    ) -> Batch:
        """Add a batch. Raises StoreFullError."""
        created = self.now()
        request = {
            "id": "batch_" + secrets.token_hex(16),
            "endpoint": endpoint,
            "input_file_id": input_file_id,
            "metadata": metadata,
            "created_at": created,
            "expires_at": created + WINDOW_SECONDS,
        }
        self._forget_old(tenant, created)
        keys = (_key("batches", tenant), _key("batch", str(request["id"])), DUE)
        arguments = (request["id"], orjson.dumps(request), MAX_BATCHES, MAX_OPEN_BATCHES, tenant, created)
        if not self.redis.eval(_CREATE, 3, *keys, *arguments):
            raise StoreFullError(f"at most {MAX_OPEN_BATCHES} batches may be open; wait for some to end")
        return Batch(tenant, request, {"status": "validating"})

    def batches(self, tenant: str) -> list[Batch]:
        """A tenant's batches, newest first; without their state."""
        found = [orjson.loads(raw) for raw in self.redis.hvals(_key("batches", tenant))]
        found.sort(key=lambda request: (request["created_at"], request["id"]), reverse=True)
        return [Batch(tenant, request, {}) for request in found]

    def with_state(self, batch: Batch) -> Batch:
        """A batch with its present state."""
        raw: dict[bytes, bytes] = self.redis.hgetall(_key("batch", batch.id))
        return Batch(batch.tenant, batch.request, {k.decode(): v.decode() for k, v in raw.items()})

    def batch(self, tenant: str, batch_id: str) -> Batch | None:
        """A batch with its present state, or None."""
        raw = self.redis.hget(_key("batches", tenant), batch_id)
        return None if raw is None else self.with_state(Batch(tenant, orjson.loads(raw), {}))

    def change(self, batch_id: str, changes: Changes) -> bool:
        """Change a batch's state. False, and nothing is written, when the batch has ended."""
        pairs = [item for pair in changes.items() for item in pair]
        return bool(self.redis.eval(_CHANGE, 1, _key("batch", batch_id), ",".join(sorted(OVER)), *pairs))

    def due(self) -> list[tuple[str, str]]:
        """(tenant, batch id) of every batch that has not ended, oldest first."""
        names: list[bytes] = self.redis.zrange(DUE, 0, -1)
        return [(tenant, batch_id) for tenant, _, batch_id in (n.decode().rpartition("/") for n in names)]

    def done(self, batch: Batch) -> None:
        """A batch has ended: no worker needs to look at it again. Its results stay for an hour, for a late worker."""
        self.redis.expire(_key("results", batch.id), 3600)
        self.redis.expire(_key("batch", batch.id), KEEP_SECONDS)
        self.redis.zrem(DUE, f"{batch.tenant}/{batch.id}")

    def lease(self, batch_id: str, seconds: float) -> Any:
        """The lock (`redis.lock.Lock`) of the worker on a batch; a dead worker loses it after `seconds`."""
        # not thread-local: `runner` acquires it in one thread and renews it in another
        return self.redis.lock(_key("lease", batch_id), timeout=seconds, blocking=False, thread_local=False)

    def results(self, batch_id: str) -> dict[int, bytes]:
        """Answers by line number."""
        raw: dict[bytes, bytes] = self.redis.hgetall(_key("results", batch_id))
        return {int(line): answer for line, answer in raw.items()}

    def commit(self, batch_id: str, line: int, answer: bytes) -> bool:
        """Store a line's answer. False when the line has one already, which is kept."""
        new = bool(self.redis.hsetnx(_key("results", batch_id), str(line), answer))
        self.redis.expire(_key("results", batch_id), WINDOW_SECONDS + 3600)
        return new

    def _forget_old(self, tenant: str, now: int) -> None:
        old = [b.id for b in self.batches(tenant) if b.request["created_at"] + KEEP_SECONDS <= now]
        if old:
            self.redis.hdel(_key("batches", tenant), *old)

    # ----------------------------------------------------------------------------------------------- gateways

    def gateways(self) -> list[str]:
        """Base URLs of the live gateways, the one that wrote last first."""
        since = self._now() - GATEWAY_SECONDS
        urls: list[bytes] = self.redis.zrevrangebyscore(GATEWAYS, "+inf", since)
        return [url.decode() for url in urls]


def _key(*names: str) -> str:
    return ":".join(("parallelix", *names))
