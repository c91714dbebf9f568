"""Answers as a client connection reads them: every framing, cut at any byte, and what is no HTTP/1.1."""

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offchain.transport.client_connection import MAX_CHUNK_LINE_BYTES, ClientConnection
from offchain.transport.errors import ProtocolError
from offchain.transport.pool import HostPool, HttpExchange

CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nx-trailer: 1\r\n\r\n"
)
LENGTH = b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello world"


class DeafTransport(asyncio.Transport):
    """Takes everything and tells nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        return None

    def abort(self) -> None:
        self.aborted = True


def asked() -> tuple[ClientConnection, HttpExchange, list[ClientConnection]]:
    """A connection that waits for an answer, the exchange that gets it, and connections that became free."""
    free: list[ClientConnection] = []
    connection = ClientConnection(free.append)
    connection.connection_made(DeafTransport())
    exchange = HttpExchange(HostPool("http://127.0.0.1:1", None), b"GET / HTTP/1.1\r\n\r\n", b"")
    exchange.attach(connection)
    return connection, exchange, free


async def body_of(exchange: HttpExchange) -> bytes:
    await exchange.head()
    parts = []
    while data := await exchange.read():
        parts.append(data)
    return b"".join(parts)


@given(st.sampled_from([CHUNKED, LENGTH]), st.lists(st.integers(1, 120), max_size=12))
def test_answer__cut_anywhere__is_whole_and_frees_the_connection(answer: bytes, cuts: list[int]) -> None:
    connection, exchange, free = asked()
    edges = [0, *sorted({cut for cut in cuts if cut < len(answer)}), len(answer)]
    for begin, end in itertools.pairwise(edges):
        connection.data_received(answer[begin:end])
    assert asyncio.run(body_of(exchange)) == b"hello world"
    assert free == [connection]


@pytest.mark.parametrize("answer", [CHUNKED, LENGTH])
def test_answer__byte_by_byte__is_whole(answer: bytes) -> None:
    connection, exchange, free = asked()
    for place in range(len(answer)):
        connection.data_received(answer[place : place + 1])
    assert asyncio.run(body_of(exchange)) == b"hello world"
    assert free == [connection]


def test_answer__until_close__ends_with_the_connection() -> None:
    connection, exchange, free = asked()
    connection.data_received(b"HTTP/1.1 200 OK\r\n\r\nhello")
    connection.connection_lost(None)
    assert asyncio.run(body_of(exchange)) == b"hello"
    assert free == []


@pytest.mark.parametrize(
    "rest",
    [
        b"5\r\nhelloXX",
        b"zz\r\n",
        b"-1\r\n",
        b"1_0\r\n",
        b"5\r\nhello\r\n\r\n",
        b"0" * MAX_CHUNK_LINE_BYTES,
        b"0\r\n" + b"x" * 70_000,
    ],
)
def test_answer__false_chunk__fails_and_drops_the_connection(rest: bytes) -> None:
    connection, exchange, free = asked()
    connection.data_received(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + rest)
    with pytest.raises(ProtocolError):
        asyncio.run(body_of(exchange))
    assert connection.closed
    assert free == []


@pytest.mark.parametrize("length", [b"-1", b"+5", b"1_0", b"five", b"9" * 16])
def test_answer__false_length__fails(length: bytes) -> None:
    connection, exchange, _ = asked()
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: " + length + b"\r\n\r\nhello")
    with pytest.raises(ProtocolError):
        asyncio.run(body_of(exchange))
    assert connection.closed


def test_answer__more_than_announced__is_whole_but_the_connection_is_not_used_again() -> None:
    connection, exchange, free = asked()
    connection.data_received(LENGTH + b"HTTP/1.1 200 OK\r\n")
    assert asyncio.run(body_of(exchange)) == b"hello world"
    assert connection.closed
    assert free == []


@pytest.mark.parametrize("value", [b"a\nset-cookie: b", b"a\rb", b"a\n\nb", b"a\0b", b"a\x7f"])
def test_answer__forbidden_character_in_a_header__fails(value: bytes) -> None:
    connection, exchange, _ = asked()
    connection.data_received(
        b"HTTP/1.1 200 OK\r\nx-parallelix-receipt: " + value + b"\r\ncontent-length: 0\r\n\r\n"
    )
    with pytest.raises(ProtocolError):
        asyncio.run(body_of(exchange))
    assert connection.closed
