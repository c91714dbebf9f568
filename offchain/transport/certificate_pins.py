"""Certificates that a node's own address names: `https://host:port#sha256=<fingerprint>[,<fingerprint>]`.

A node announces its address in heartbeats that it signs with the key which the chain knows, so a fingerprint in it is as
good as that key, and a node needs neither a name nor an authority to vouch for it. Two fingerprints are a certificate that
is being replaced. The part after `#` never travels in a request; wherever the address goes, the pin goes with it.
"""

import functools
import hashlib
import ssl

FRAGMENT = r"#sha256=[0-9a-f]{64}(?:,[0-9a-f]{64})?"
"""A regular expression for the pin in an address."""
_PREFIX = "sha256="


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate, in hex."""
    return hashlib.sha256(der).hexdigest()


def pinned(url: str, *fingerprints: str) -> str:
    """The address with its certificate's fingerprints."""
    return f"{url}#{_PREFIX}{','.join(fingerprints)}"


def unpinned(url: str) -> tuple[str, frozenset[str]]:
    """The address as other clients take it, and the fingerprints it named."""
    bare, _, fragment = url.partition("#")
    return bare, pins_of(fragment)


def pins_of(fragment: str) -> frozenset[str]:
    """The fingerprints in an address's fragment; empty when authorities are to be believed instead."""
    return (
        frozenset(fragment.removeprefix(_PREFIX).split(",")) if fragment.startswith(_PREFIX) else frozenset()
    )


def holds(tls: ssl.SSLObject | None, pins: frozenset[str]) -> bool:
    """Whether the other end of a finished handshake has shown one of the certificates."""
    der = None if tls is None else tls.getpeercert(binary_form=True)
    return der is not None and fingerprint(der) in pins


@functools.cache
def pinning_context() -> ssl.SSLContext:
    """For connections whose certificate is compared by `holds` before anything is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@functools.cache
def trusting_context() -> ssl.SSLContext:
    """For connections whose certificate the machine's authorities vouch for; one for all, as it takes milliseconds."""
    return ssl.create_default_context()
