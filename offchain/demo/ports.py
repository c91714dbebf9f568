"""Free TCP ports of loopback."""

import secrets
import socket

_FIRST, _COUNT = 15_000, 17_000
"""Below what the kernel gives to outgoing connections (32,768 on), so that none of those takes a port meanwhile."""


def free_port() -> int:
    """A TCP port of loopback that was free a moment ago."""
    while True:
        port = _FIRST + secrets.randbelow(_COUNT)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
