"""Which hosts the server may call when an operator names one, in a webhook or a manifest's URI."""

import ipaddress
import socket


class UnreachableHostError(Exception):
    """The host has no address, or none that may be called."""


def resolve(host: str, port: int, allow_private: bool) -> str:
    """The IP address to call for a host.

    Raises:
        UnreachableHostError: no such host, or one of its addresses is private and that is not allowed.
    """
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError:
        raise UnreachableHostError("the host has no address") from None
    if not allow_private and any(not ipaddress.ip_address(address).is_global for address in found):
        raise UnreachableHostError("the host lies in a private network")
    return min(found)
