"""Other keepers over HTTP: whoever sends slowly, or without end, costs a bounded time and nothing else."""

import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from offchain.domain.types import Epoch
from offchain.evidence.keeper_peers import MAX_ANSWER_BYTES, HttpPeers, get_small

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
Serve = Callable[[bytes, bytes], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers that send some bytes at once and then others, one every 50 ms, for ten seconds."""
    listeners = list[socket.socket]()

    def answer(listener: socket.socket, at_once: bytes, dripped: bytes) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            try:
                connection.sendall(at_once)
                for place in range(200 if dripped else 0):
                    connection.sendall(dripped[place % len(dripped) :][:1])
                    time.sleep(0.05)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(65_536)  # a body that came late: closing on it would reset the connection
            except OSError:
                return

    def start(at_once: bytes, dripped: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threading.Thread(target=answer, args=(listener, at_once, dripped), daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize("at_once", [HEAD + b"{", b"HTTP/1.1 200 OK\r\nX-Slow: "], ids=["body", "header"])
def test_evidence__a_peer_drips__ends_in_time_and_the_other_is_heard(serve: Serve, at_once: bytes) -> None:
    slow, good = serve(at_once, b" "), serve(HEAD + b'{"version":3}', b"")
    began = time.monotonic()
    found = HttpPeers(document_seconds=0.6).evidence([slow, good], Epoch(7))
    assert found == {good: {"version": 3}}
    assert time.monotonic() - began < 5


def test_propose__reply_drips_or_has_no_end__is_a_refusal(serve: Serve) -> None:
    endless = HEAD + b" " * (MAX_ANSWER_BYTES + 1)
    urls = [serve(HEAD, b" "), serve(endless, b""), serve(HEAD + b'{"signature":"0xaa"}', b"")]
    slow, big, good = HttpPeers(answer_seconds=0.6).propose(urls, Epoch(7), {})
    assert (slow.signature, slow.error) == (None, "ReadTimeout")
    assert (big.signature, big.error) == (None, "ValueError")
    assert good.signature == "0xaa"


def test_get_small__drips_or_is_too_long__is_refused(serve: Serve) -> None:
    with pytest.raises(httpx.ReadTimeout):
        get_small(serve(HEAD, b" "), 0.5)
    with pytest.raises(ValueError, match="more than"):
        get_small(serve(HEAD + b" " * (MAX_ANSWER_BYTES + 1), b""), 5)
    with pytest.raises(httpx.HTTPStatusError):
        get_small(serve(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", b""), 5)
    assert get_small(serve(HEAD + b"{}", b""), 5) == b"{}"
