"""Load on an OpenAI-compatible URL with as little client as possible, in a process of its own.

`python -m bench.gateway.load '{"mode": ..., ...}'` prints one JSON document of results. Modes:

- `closed`: `connections` callers send `requests` in all, each the next when its answer is whole
- `poisson`: requests at `rate` a second for `seconds`, at random, whether earlier ones are answered or not
- `stream`: as `closed`, with streams: time to the first chunk, and whether each stream is complete

`limit_seconds` ends a run whose answers do not come; requests that still wait then count as lost.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import orjson
import uvloop


class Client(asyncio.Protocol):
    """One connection: sends a request, resolves when the answer is whole."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.buffer = bytearray()
        self.done: asyncio.Future[None] | None = None
        self.first = 0.0
        self.status = 0
        self.length = -1
        self.body_at = -1
        self.broken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.broken = True
        self.transport = None
        if self.done is not None and not self.done.done():
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.body_at < 0:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self.buffer[:end]).decode("latin-1").lower()
            self.status = int(head[9:12])
            self.body_at = end + 4
            at = head.find("content-length:")
            self.length = int(head[at + 15 :].split("\r\n", 1)[0]) if at >= 0 else -1
        if not self.first and len(self.buffer) > self.body_at:
            self.first = time.perf_counter()
        whole = (
            len(self.buffer) >= self.body_at + self.length
            if self.length >= 0
            else self.buffer.endswith(b"\r\n0\r\n\r\n") or self.buffer.endswith(b"0\r\n\r\n")
        )
        if whole and self.done is not None and not self.done.done():
            self.done.set_result(None)

    async def ask(self, request: bytes) -> tuple[float, float]:
        """(seconds to the first byte of the body, seconds in all)."""
        self.buffer.clear()
        self.first, self.body_at, self.length, self.status = 0.0, -1, -1, 0
        self.done = asyncio.get_running_loop().create_future()
        begun = time.perf_counter()
        self.transport.write(request)
        await self.done
        end = time.perf_counter()
        return (self.first or end) - begun, end - begun

    def body(self) -> bytes:
        """The body without chunk framing."""
        raw = bytes(self.buffer[max(0, self.body_at) :])
        if self.length >= 0:
            return raw
        parts = []
        while raw:
            size, _, rest = raw.partition(b"\r\n")
            try:
                count = int(size, 16)
            except ValueError:
                break
            parts.append(rest[:count])
            raw = rest[count + 2 :]
        return b"".join(parts)


async def connect(spec: dict[str, Any]) -> Client:
    parts = urlsplit(spec["url"])
    _, client = await asyncio.get_running_loop().create_connection(Client, parts.hostname, parts.port)
    return client


def request_bytes(spec: dict[str, Any], **fields: Any) -> bytes:
    parts = urlsplit(spec["url"])
    content = "hello there" + "x" * int(spec.get("prompt_bytes", 0))
    body = orjson.dumps(
        {
            "model": spec.get("model", "bench-model"), "max_tokens": spec.get("max_tokens", 16),
            "messages": [{"role": "user", "content": content}], **spec.get("fields", {}), **fields,
        }
    )  # fmt: skip
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {spec.get('key', 'none')}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def together(spec: dict[str, Any], worker: Callable[[], Awaitable[None]]) -> int:
    """Let a worker for each connection run to its end. Returns how many still waited for an answer at the limit."""
    tasks = [asyncio.ensure_future(worker()) for _ in range(int(spec["connections"]))]
    done, late = await asyncio.wait(tasks, timeout=float(spec.get("limit_seconds", 300)))
    for task in late:
        task.cancel()
    for task in done:
        task.result()
    return len(late)


async def closed(spec: dict[str, Any]) -> dict[str, Any]:
    """Every connection asks again as soon as it has its answer."""
    request = request_bytes(spec)
    took: list[float] = []
    bad = 0
    left = int(spec["requests"])

    async def worker() -> None:
        nonlocal left, bad
        client = await connect(spec)
        while left > 0:
            left -= 1
            _, seconds = await client.ask(request)
            took.append(seconds)
            if client.status != 200:
                bad += 1
            if client.broken:
                bad += 1
                client = await connect(spec)
        client.transport.close()

    begun = time.perf_counter()
    hung = await together(spec, worker)
    elapsed = time.perf_counter() - begun
    return {**summary(took), "bad": bad + hung, "hung": hung, "rps": len(took) / elapsed}


async def poisson(spec: dict[str, Any]) -> dict[str, Any]:
    """Requests arrive at random at a fixed mean rate, whether earlier ones are answered or not."""
    request = request_bytes(spec)
    chance = random.Random(spec.get("seed", 1))
    idle: list[Client] = []
    took: list[float] = []
    bad = 0

    async def one() -> None:
        nonlocal bad
        client = idle.pop() if idle else await connect(spec)
        begun = time.perf_counter()
        await client.ask(request)
        took.append(time.perf_counter() - begun)
        if client.status != 200:
            bad += 1
        if not client.broken:
            idle.append(client)

    tasks: set[asyncio.Task[None]] = set()
    end = time.perf_counter() + float(spec["seconds"])
    due = time.perf_counter()
    while due < end:
        due += chance.expovariate(float(spec["rate"]))
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return {**summary(took), "bad": bad}


async def stream(spec: dict[str, Any]) -> dict[str, Any]:
    """Streams, checked chunk by chunk against what the stub must have said."""
    request = request_bytes(spec, stream=True)
    expected = "".join(f" tok{i % 512:03d}" for i in range(int(spec.get("max_tokens", 16))))
    first: list[float] = []
    took: list[float] = []
    counts = {"whole": 0, "lost": 0, "truncated": 0, "duplicated": 0, "error_event": 0, "unjudged": 0}
    left = int(spec["requests"])

    async def worker() -> None:
        nonlocal left
        client = None
        while left > 0:
            left -= 1
            try:
                if client is None or client.broken:
                    client = await connect(spec)
            except OSError:
                counts["lost"] += 1
                continue
            ttft, seconds = await client.ask(request)
            first.append(ttft)
            took.append(seconds)
            counts[judge(client, expected) if spec.get("judge", True) else "unjudged"] += 1

    hung = await together(spec, worker)
    counts["lost"] += hung
    return {**summary(took), "ttft": summary(first), "hung": hung, **counts}


def judge(client: Client, expected: str) -> str:
    """What became of one stream: `whole`, `lost`, `truncated`, `duplicated` or `error_event`."""
    if client.status != 200:
        return "lost"
    text, done, error = "", False, False
    for event in client.body().split(b"\n\n"):
        if event == b"data: [DONE]":
            done = True
        elif event.startswith(b"data: {"):
            chunk = orjson.loads(event[6:])
            if "error" in chunk:
                error = True
            for choice in chunk.get("choices", ()):
                text += choice["delta"].get("content") or ""
    if text == expected and done:
        return "whole"
    if error:
        return "error_event"
    tokens = text.split()
    return "duplicated" if len(tokens) != len(set(tokens)) else "truncated"


def summary(values: list[float]) -> dict[str, Any]:
    ordered = sorted(values)
    if not ordered:
        return {"n": 0}

    def at(percent: float) -> float:
        return round(1000 * ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))], 4)

    return {"n": len(ordered), "p50_ms": at(50), "p95_ms": at(95), "p99_ms": at(99), "max_ms": at(100)}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    result = uvloop.run({"closed": closed, "poisson": poisson, "stream": stream}[asked["mode"]](asked))
    sys.stdout.write(json.dumps(result) + "\n")
