"""Certificate pins in a node's address: `https://host:port#sha256=<fingerprint>[,<fingerprint>]`.

A node announces its address in heartbeats, which it signs with its key on chain. So a fingerprint in the address is as good as
that key, and the node needs neither a DNS name nor a certificate authority. Two fingerprints: the certificate is being
replaced. A URL's fragment is never sent in a request (RFC 9110, section 4.2.4), and it stays with the address wherever that
is stored.
"""

import functools
import hashlib
import ssl

FRAGMENT = r"#sha256=[0-9a-f]{64}(?:,[0-9a-f]{64})?"
"""Regular expression of the fragment of a pinned address."""
_PREFIX = "sha256="


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate in DER form, in hex."""
    return hashlib.sha256(der).hexdigest()


def pinned(url: str, *fingerprints: str) -> str:
    """The address with fingerprints, e.g. `https://h:1#sha256=ab..`."""
    return f"{url}#{_PREFIX}{','.join(fingerprints)}"


def unpinned(url: str) -> tuple[str, frozenset[str]]:
    """The address without its fragment, and the fingerprints in that."""
    bare, _, fragment = url.partition("#")
    return bare, pins_of(fragment)


def pins_of(fragment: str) -> frozenset[str]:
    """The fingerprints in an address's fragment; empty when the certificate must be signed by an authority instead."""
    if not fragment.startswith(_PREFIX):
        return frozenset()
    return frozenset(fragment.removeprefix(_PREFIX).split(","))


def holds(tls: ssl.SSLObject | None, certificate_pins: frozenset[str]) -> bool:
    """Whether the server showed one of the pinned certificates; call it after the handshake."""
    der = None if tls is None else tls.getpeercert(binary_form=True)
    return der is not None and fingerprint(der) in certificate_pins


@functools.cache
def pinning_context() -> ssl.SSLContext:
    """TLS context for pinned addresses: the certificate is compared by `holds` before anything is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@functools.cache
def trusting_context() -> ssl.SSLContext:
    """TLS context for all other addresses, with the system's authorities. Made once, because it takes milliseconds."""
    return ssl.create_default_context()
