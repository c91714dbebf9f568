"""Works on one batch: reads its lines, sends each to a gateway, stores each answer once, writes the result files.

::

    validating -> in_progress -> finalizing -> completed
        |             |  \\-- after 24 h ----> finalizing -> expired
        |             +-- cancelling ---------> cancelled
        +-> failed (the file is malformed; no line is sent)

A worker may die at any moment. The next worker on the batch reads its file again and sends the lines that have no answer yet. A
line whose answer was under way is sent again; of two answers the one stored first counts.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
import structlog
from redis.exceptions import LockError, RedisError

from offchain.gateway.batches.store import MAX_RESULT_BYTES, OVER, Batch, BatchStore, Changes

log = structlog.get_logger("gateway.batch")

LEASE_SECONDS = 3.0
SLICE_SECONDS = 60.0
MAX_LINES = 50_000
MAX_ERRORS = 20
MAX_TRIES = 5
"""Tries of a line whose nodes fail. A line that merely finds no free node is tried until the batch expires."""
# Beyond the 120 s that a gateway gives a node for a whole answer (PLAIN_PATIENCE_SECONDS).
_PATIENCE = httpx.Timeout(150.0, connect=2.0)
_GOOD, _BAD = b"1", b"0"


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch; `number` counts from 1."""

    number: int
    custom_id: str
    body: bytes


class _LineError(Exception):
    """A line is malformed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def read_lines(content: bytes, endpoint: str) -> tuple[list[Line], list[dict[str, Any]]]:
    """The requests of a file, and its first `MAX_ERRORS` errors in OpenAI's shape."""
    lines: list[Line] = []
    errors: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, raw in enumerate(content.split(b"\n"), 1):
        if not raw.strip():
            continue
        if len(lines) >= MAX_LINES:
            errors.append(_fault("too_many_requests", f"at most {MAX_LINES} lines are accepted", number))
            break
        try:
            made = _read_line(raw, number, endpoint, seen)
        except _LineError as error:
            errors.append(_fault(error.code, str(error), number))
            if len(errors) >= MAX_ERRORS:
                break
            continue
        seen.add(made.custom_id)
        lines.append(made)
    if not lines and not errors:
        errors.append(_fault("empty_file", "the file holds no request", None))
    return lines, errors


def _read_line(raw: bytes, number: int, endpoint: str, seen: set[str]) -> Line:
    """Raises _LineError."""
    try:
        data = orjson.loads(raw)
    except ValueError:
        raise _LineError("invalid_json_line", "the line is not JSON") from None
    if not isinstance(data, dict):
        raise _LineError("invalid_json_line", "the line is not a JSON object")
    custom_id, body = data.get("custom_id"), data.get("body")
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= 512:
        raise _LineError("missing_required_parameter", "custom_id must be a text of 1 to 512 characters")
    if custom_id in seen:
        raise _LineError("duplicate_custom_id", "custom_id is used twice")
    if data.get("method") != "POST":
        raise _LineError("invalid_method", "method must be POST")
    if data.get("url") != endpoint:
        raise _LineError("mismatched_endpoint", f"url must be the batch's endpoint {endpoint}")
    if not isinstance(body, dict):
        raise _LineError("missing_required_parameter", "body must be an object")
    if body.get("stream"):
        raise _LineError("invalid_request", "a batch has no streams")
    return Line(number, custom_id, orjson.dumps(body))


def _fault(code: str, message: str, line: int | None) -> dict[str, Any]:
    return {"code": code, "message": message, "line": line, "param": None}


class BatchRunner:
    """Works on batches; safe to call from several threads, and from several processes on one Redis.

    Args:
        token: tenant -> bearer token for its requests, see `authenticator.batch_token`.
        concurrency: lines of one batch that are sent at the same time.
    """

    def __init__(self, store: BatchStore, token: Callable[[str], str], concurrency: int = 8) -> None:
        self._store = store
        self._token = token
        self._concurrency = concurrency
        self._client = httpx.Client(timeout=_PATIENCE, limits=httpx.Limits(max_connections=None))

    def run(self, tenant: str, batch_id: str) -> None:
        """Work on a batch for up to `SLICE_SECONDS`, unless another worker has it. Raises RedisError."""
        lease = self._store.lease(batch_id, LEASE_SECONDS)
        if not lease.acquire():
            return
        with _kept(lease) as lost:
            batch = self._store.batch(tenant, batch_id)
            if batch is not None and batch.status not in OVER:
                run = _Run(self._store, self._client, lambda: self._token(tenant), batch, lost)
                run.go(self._concurrency)
            elif batch is not None:
                self._store.done(batch)


@contextmanager
def _kept(lease: Any) -> Iterator[threading.Event]:
    """Renew a lease until the block ends. Yields an event that is set when the lease is lost."""
    lost, over = threading.Event(), threading.Event()

    def renew() -> None:
        # Two renewals in a row may fail before the lease runs out.
        while not over.wait(LEASE_SECONDS / 3):
            try:
                lease.extend(LEASE_SECONDS, replace_ttl=True)
            # not ours any more: another worker may be at it already
            except LockError:
                lost.set()
                return
            except RedisError:
                continue

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        over.set()
        thread.join()
        with suppress(RedisError):
            # if Redis is away, the lease runs out by itself
            lease.release()


@dataclass
class _Run:
    """One worker's turn on one batch, until it is over or `_stop` is set: then the lease is lost."""

    _store: BatchStore
    _client: httpx.Client
    _token: Callable[[], str]
    _batch: Batch
    _stop: threading.Event
    _gateways: list[str] = field(default_factory=list)
    _turn: int = 0
    _kept_bytes: int = 0

    def go(self, concurrency: int) -> None:
        store, batch = self._store, self._batch
        content = store.content(batch.tenant, batch.request["input_file_id"])
        lines, errors = read_lines(content or b"", batch.request["endpoint"])
        if content is None:
            errors = [_fault("file_not_found", "the input file was deleted", None)]
        if errors:
            failed: Changes = {"status": "failed", "failed_at": store.now(), "errors": orjson.dumps(errors)}
            store.change(batch.id, failed)
            store.done(batch)
            return
        if batch.status == "validating":
            begun: Changes = {"status": "in_progress", "in_progress_at": store.now(), "total": len(lines)}
            store.change(batch.id, begun)
        results = store.results(batch.id)
        self._kept_bytes = sum(map(len, results.values()))
        end = self._ask_all([line for line in lines if line.number not in results], concurrency)
        if end is not None and not self._stop.is_set():
            self._finish(lines, end)

    # ------------------------------------------------------------------------------------------------ the lines

    def _ask_all(self, lines: list[Line], concurrency: int) -> str | None:
        """Send lines until all have answers or the turn is over. Returns the batch's final status; None: not finished."""
        store, batch = self._store, self._batch
        turn_ends = time.monotonic() + SLICE_SECONDS
        outcome: str | None = "completed"
        waiting = iter(lines)
        over = threading.Event()
        with ThreadPoolExecutor(concurrency, "line") as pool:
            running: set[Future[None]] = set()
            try:
                while True:
                    status = (store.batch(batch.tenant, batch.id) or batch).status
                    if status in ("cancelling", *OVER):
                        outcome = "cancelled"
                    elif store.now() >= batch.request["expires_at"]:
                        outcome = "expired"
                    elif time.monotonic() > turn_ends or self._stop.is_set():
                        outcome = None
                    if outcome != "completed":
                        break
                    self._gateways = store.gateways() or self._gateways
                    look_again = time.monotonic() + 0.5
                    while (left := look_again - time.monotonic()) > 0:
                        while len(running) < concurrency and (line := next(waiting, None)) is not None:
                            running.add(pool.submit(self._answer, line, over))
                        if not running:
                            return outcome
                        done, running = wait(running, left, "FIRST_COMPLETED")
                        for future in done:
                            future.result()
            finally:
                # Before the pool's exit, which waits for its threads: lines that pause end at once.
                over.set()
        return outcome

    def _answer(self, line: Line, over: threading.Event) -> None:
        """Send a line until it has a final answer, and store that."""
        tries = 0
        while not over.is_set() and not self._stop.is_set():
            if self._kept_bytes > MAX_RESULT_BYTES:
                message = "the batch's answers are too large together"
                self._keep(line, _BAD, _output(line, None, "batch_output_too_large", message))
                return
            pause = 0.5
            try:
                answer = self._ask(line)
            except httpx.HTTPError as error:
                log.info("batch.gateway_failed", batch=self._batch.id, error=type(error).__name__)
            else:
                if answer is not None:
                    tries += _code(answer) == "nodes_failed"
                    # no free node, or a gateway that is going down: the line has a day
                    if answer.status_code not in (429, 500, 502, 503, 504) or tries >= MAX_TRIES:
                        good = _GOOD if answer.status_code == 200 else _BAD
                        self._keep(line, good, _output(line, answer))
                        return
                    pause = min(5.0, float(answer.headers.get("retry-after", 1)))
            over.wait(pause)

    def _ask(self, line: Line) -> httpx.Response | None:
        gateways = self._gateways
        if not gateways:
            return None
        # Threads count without a lock: a lost step only sends two lines to one gateway.
        self._turn += 1
        return self._client.post(
            gateways[self._turn % len(gateways)] + self._batch.request["endpoint"],
            content=line.body,
            headers={"Authorization": "Bearer " + self._token(), "Content-Type": "application/json"},
        )

    def _keep(self, line: Line, good: bytes, output: bytes) -> None:
        if not self._stop.is_set() and self._store.commit(self._batch.id, line.number, good + output):
            self._kept_bytes += len(output)

    # ---------------------------------------------------------------------------------------------- the end

    def _finish(self, lines: list[Line], end: str) -> None:
        store, batch = self._store, self._batch
        if end != "cancelled":
            store.change(batch.id, {"status": "finalizing", "finalizing_at": store.now()})
        results = store.results(batch.id)
        good = [results[n.number][1:] for n in lines if results.get(n.number, b"")[:1] == _GOOD]
        bad = [results[n.number][1:] for n in lines if results.get(n.number, b"")[:1] == _BAD]
        bad += [
            _output(n, None, f"batch_{end}", f"the batch was {end} before this request had an answer")
            for n in lines
            if n.number not in results
        ]
        changes: dict[str, str | int | bytes] = {"completed": len(good), "failed": len(bad)}
        suffix = batch.id.removeprefix("batch_")
        for name, rows in (("output", good), ("error", bad)):
            if rows:
                file_id = f"file-{suffix}-{name}"  # the same for every worker: a second one writes the same file again
                content, filename = b"\n".join(rows) + b"\n", f"{batch.id}_{name}.jsonl"
                store.put_file(batch.tenant, content, filename, "batch_output", file_id)
                changes[f"{name}_file_id"] = file_id
        # After the files: whoever reads the final status must find them.
        store.change(batch.id, {**changes, "status": end, f"{end}_at": store.now()})
        store.done(batch)
        log.info("batch.over", batch=batch.id, status=end, completed=len(good), failed=len(bad))


def _code(answer: httpx.Response) -> object:
    with suppress(ValueError, KeyError, TypeError):
        return orjson.loads(answer.content)["error"]["code"]
    return None


def _output(line: Line, answer: httpx.Response | None, code: str = "", message: str = "") -> bytes:
    """A line of a result file."""
    response: dict[str, Any] | None = None
    if answer is not None:
        request_id = answer.headers.get("x-request-id", "")
        response = {"status_code": answer.status_code, "request_id": request_id, "body": None}
        with suppress(ValueError):
            response["body"] = orjson.loads(answer.content)
    error = {"code": code, "message": message} if answer is None else None
    ids = {"id": f"batch_req_{line.number}", "custom_id": line.custom_id}
    return orjson.dumps({**ids, "response": response, "error": error})
