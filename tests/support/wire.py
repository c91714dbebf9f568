"""Bytes on a socket, for requests that no HTTP client would make."""

import re
import socket
import time
from contextlib import suppress


def address_of(url: str) -> tuple[str, int]:
    """Host and port of an http URL."""
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


def head(*lines: str) -> bytes:
    """The head of a request."""
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def say(
    url: str,
    *pieces: bytes,
    pause: float = 0.0,
    seconds: float = 30.0,
    silence: float | None = None,
    over: bool = False,
) -> bytes:
    """Send bytes, read until the other side closes or stays silent.

    Args:
        seconds: what sending, and waiting for the first byte, may take.
        silence: seconds after which no more is expected; None waits for the first byte, and then 2 s for more.
        over: nothing more will be sent, and the other side sees that.
    """
    received = b""
    with socket.create_connection(address_of(url), timeout=seconds) as connection:
        with suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
            if over:
                connection.shutdown(socket.SHUT_WR)
        with suppress(TimeoutError, ConnectionError):
            connection.settimeout(seconds if silence is None else silence)
            while data := connection.recv(65536):
                received += data
                connection.settimeout(2.0 if silence is None else silence)
    return received


def statuses(received: bytes) -> list[int]:
    """Statuses of the answers in what was received."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]
