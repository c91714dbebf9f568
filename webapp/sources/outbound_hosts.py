"""Which hosts the server may call when an operator names one, in a webhook or a manifest's URI."""

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx


class UnreachableHostError(Exception):
    """The host has no address, or none that may be called."""


def resolve(host: str, port: int, allow_private: bool) -> str:
    """The IP address to call for a host.

    Raises:
        UnreachableHostError: no such host, or one of its addresses is private and that is not allowed.
    """
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):  # UnicodeError: an empty label, `a..b`, or one above 63 letters
        raise UnreachableHostError("the host has no address") from None
    # is_global, not `not is_private`: it leaves out shared addresses (RFC 6598), too.
    if not allow_private and any(not ipaddress.ip_address(address).is_global for address in found):
        raise UnreachableHostError("the host lies in a private network")
    return min(found)


@contextmanager
def exchange(
    method: str,
    url: str,
    allow_private: bool,
    timeout: float,
    *,
    headers: dict[str, str] | None = None,
    **body: Any,
) -> Iterator[httpx.Response]:
    """One streamed answer of a host that an operator named; redirects and the environment's proxies are not followed.

    Calls the very address that was checked: a second look-up of the name could give a private one (DNS rebinding).

    Raises:
        UnreachableHostError: as `resolve`.
        httpx.HTTPError, httpx.InvalidURL: the call failed, or the URL is malformed.
    """
    target = httpx.URL(url)
    host = target.raw_host.decode("ascii")  # IDNA: a header or an SNI with other letters raises UnicodeError
    address = resolve(host, target.port or (443 if target.scheme == "https" else 80), allow_private)
    pinned = target.copy_with(host=f"[{address}]" if ":" in address else address)
    # The URL names the address, so Host and SNI name the host; TLS checks the certificate against the SNI.
    sent = {"Host": target.netloc.decode("ascii"), **(headers or {})}
    with (
        httpx.Client(timeout=timeout, follow_redirects=False, trust_env=False) as client,
        client.stream(method, pinned, headers=sent, extensions={"sni_hostname": host}, **body) as answer,
    ):
        yield answer
