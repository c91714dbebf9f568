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
    seconds: float = 5.0,
    silence: float = 1.0,
    over: bool = False,
) -> bytes:
    """Send bytes, read until the other side closes or stays silent for `silence` seconds.

    Args:
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
        connection.settimeout(silence)
        with suppress(TimeoutError, ConnectionError):
            while data := connection.recv(65536):
                received += data
    return received


def statuses(received: bytes) -> list[int]:
    """Statuses of the answers in what was received."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]
