"""The HTTP server's bounds in time and number, over real sockets with short limits."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from offchain.transport.server import HttpLimits, HttpServer, Request, ServerConnection

LIMITS = HttpLimits(
    head_seconds=0.3,
    body_seconds=0.3,
    idle_seconds=0.3,
    write_seconds=0.3,
    linger_seconds=0.3,
    max_connections=5,
    max_buffered=16 * 1024,
    max_unfinished=64 * 1024,
)


class Server:
    """A server with a few routes, and what became of its handlers."""

    def __init__(self, limits: HttpLimits = LIMITS) -> None:
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.errors: list[BaseException] = []
        self.server = HttpServer(self.handle, limits, self.errors.append)
        self.port = 0

    async def handle(self, request: Request, connection: ServerConnection) -> None:
        self.entered.set()
        try:
            if request.path == "/endless":
                connection.begin(200, {})
                while True:
                    if not connection.write(b"x" * 8192):
                        await connection.drain()
                    await asyncio.sleep(0)
            if request.path == "/slow":
                await asyncio.sleep(0.5)
            if request.path == "/stuck":
                await asyncio.sleep(600)
            if request.path == "/tidy":
                try:
                    await asyncio.sleep(600)
                finally:
                    await asyncio.sleep(0.05)
            if request.path == "/broken":
                raise RuntimeError("a fault of ours")
            connection.reply(200, {}, request.body)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def say(self, raw: bytes) -> bytes:
        reader, writer = await self.open()
        writer.write(raw)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return answer


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    made.port = await made.server.start("127.0.0.1", 0)
    yield made
    await made.server.stop(0.1)


@pytest.fixture
async def patient() -> AsyncIterator[Server]:
    """One that gives a request's body more time than the test takes, however slow the machine."""
    made = Server(replace(LIMITS, body_seconds=60))
    made.port = await made.server.start("127.0.0.1", 0)
    yield made
    await made.server.stop(0.1)


@pytest.mark.parametrize(
    "raw", [b"GET / HT", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab"], ids=["head", "body"]
)
async def test_server__request_never_complete__is_told_and_closed(server: Server, raw: bytes) -> None:
    assert (await server.say(raw)).startswith(b"HTTP/1.1 408 ")


async def test_server__idle_connection__is_closed(server: Server) -> None:
    assert (
        await server.say(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        == b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    )


async def test_server__client_that_takes_nothing__is_cut(server: Server) -> None:
    _, writer = await server.open()
    writer.write(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
    await asyncio.wait_for(server.cancelled.wait(), 5)
    writer.transport.abort()


async def test_server__client_that_leaves__cancels_the_handler(server: Server) -> None:
    _, writer = await server.open()
    writer.write(b"GET /stuck HTTP/1.1\r\nhost: x\r\n\r\n")
    await server.entered.wait()
    writer.close()
    await asyncio.wait_for(server.cancelled.wait(), 30)


async def test_server__requests_sent_at_once__are_answered_in_order_by_one_task(server: Server) -> None:
    reader, writer = await server.open()
    tasks = len(asyncio.all_tasks())
    for first in (b"1", b"4"):
        bodies = [bytes([first[0] + i]) for i in range(3)]
        writer.write(
            b"".join(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n" + body for body in bodies)
        )
        for body in bodies:
            assert (await reader.readuntil(b"content-length: 1\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
            assert await reader.readexactly(1) == body
        assert len(asyncio.all_tasks()) == tasks + 1
    writer.close()
    await asyncio.sleep(0.05)
    assert len(asyncio.all_tasks()) == tasks
    assert not server.cancelled.is_set()


async def test_server__too_many_connections__are_refused(server: Server) -> None:
    held = [await server.open() for _ in range(5)]
    await asyncio.sleep(0.05)
    assert (await server.say(b"")).startswith(b"HTTP/1.1 503 ")
    for _, writer in held:
        writer.close()


@pytest.mark.parametrize("coding", ["content-length: 50000", "transfer-encoding: chunked"])
async def test_server__unfinished_requests_hold_too_much__the_next_is_refused_and_later_ones_are_not(
    patient: Server, coding: str
) -> None:
    server = patient
    part = b"x" * 40_000 if "length" in coding else b"9c40\r\n" + b"x" * 40_000 + b"\r\n"
    rest = b"x" * 10_000 if "length" in coding else b"0\r\n\r\n"
    raw = f"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{coding}\r\n\r\n".encode() + part
    reader, writer = await server.open()
    writer.write(raw)
    for _ in range(5000):
        if server.server.unfinished >= 40_000:
            break
        await asyncio.sleep(0.001)
    assert (await server.say(raw)).startswith(b"HTTP/1.1 503 ")
    assert 40_000 <= server.server.unfinished < 64_000
    writer.write(rest)
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    assert server.server.unfinished == 0
    writer.close()
    assert (await server.say(raw + rest)).startswith(b"HTTP/1.1 200 ")


async def test_server__handlers_fault__is_a_500_without_details(server: Server) -> None:
    answer = await server.say(b"GET /broken HTTP/1.1\r\nhost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"fault of ours" not in answer
    assert len(server.errors) == 1


async def test_server__stop__running_answer_ends_and_new_ones_are_refused(server: Server) -> None:
    reader, writer = await server.open()
    writer.write(b"POST /slow HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi")
    await server.entered.wait()
    await server.server.stop(30)
    assert (await reader.read()).endswith(b"connection: close\r\n\r\nhi")
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await server.open()


@pytest.mark.parametrize("client_leaves", [False, True])
async def test_stop__answers_that_are_cut__have_ended_when_it_returns(
    server: Server, client_leaves: bool
) -> None:
    _, writer = await server.open()
    writer.write(b"GET /tidy HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.wait_for(server.entered.wait(), 5)
    stopping = asyncio.create_task(server.server.stop(30 if client_leaves else 0.05))
    await asyncio.sleep(0)
    if client_leaves:
        writer.close()
    await asyncio.wait_for(stopping, 5)
    assert server.cancelled.is_set()
    writer.close()


@pytest.mark.parametrize(
    "chunked",
    [
        b"5;\nabc\r\nhello\r\n0\r\n\r\n",
        b"5;\rabc\r\nhello\r\n0\r\n\r\n",
        b"0\r\nx: a\nb\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
    ],
    ids=["LF in an extension", "CR in an extension", "LF in a trailer", "a size with a prefix"],
)
async def test_server__chunk_line_that_a_proxy_may_read_otherwise__is_refused(
    server: Server, chunked: bytes
) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    assert (await server.say(head + chunked)).startswith(b"HTTP/1.1 400 ")
