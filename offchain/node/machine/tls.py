"""The certificate of a node that gateways connect to, replaced while the node serves.

::

    files change -> the next heartbeats name both certificates -> new handshakes show the new one -> heartbeats name it alone
"""

import asyncio
import os
import ssl
from collections.abc import Callable
from pathlib import Path

import structlog

from offchain.errors import UserError
from offchain.transport.certificate_pins import fingerprint, pinned

_log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0
_ANNOUNCE_SECONDS = 3.0
"""More than a heartbeat's interval: each receiver has heard of the new certificate before a connection shows it."""
_END = "-----END CERTIFICATE-----"


class Certificate:
    """Certificate and key of the agent.

    Attributes:
        context: for the server; shows the current certificate to each client.
        announced: fingerprints that heartbeats name, newest last.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises UserError when the files are no certificate chain and its key."""
        self._files = (certificate, key)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # Gateways and nodes speak TLS 1.3 alone (ADR 0050, docs/wire.md).
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            # Before the content is read: a change between the two is seen by `watch`.
            self._stamp = self._stamps()
            pair = self._read()
            _load(self.context, pair)
            self.announced: tuple[str, ...] = (_fingerprint(pair),)
        except (OSError, ValueError) as error:
            raise UserError(
                f"tls_certificate {certificate} and tls_key {key} cannot be used: {_reason(error)}; "
                "name a PEM certificate and its unencrypted key"
            ) from None

    def pinned(self, url: str) -> str:
        """An address with the certificate's fingerprint, as heartbeats name it."""
        return pinned(url, *self.announced)

    async def watch(self, changed: Callable[[], None], look_seconds: float = _LOOK_SECONDS) -> None:
        """Take up changed files until cancelled. A certificate and a key that do not fit are logged once and not used.

        Args:
            changed: called whenever `announced` has changed.
        """
        while True:
            await asyncio.sleep(look_seconds)
            try:
                stamp = self._stamps()
                if stamp == self._stamp:
                    continue
                # Also when the files do not fit, so that this is logged once and not each second.
                self._stamp = stamp
                pair = self._read()
                # A trial: half of a pair may be written yet.
                _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pair)
                fresh = _fingerprint(pair)
                if fresh == self.announced[-1]:
                    continue
                self.announced = (self.announced[-1], fresh)
                changed()
                await asyncio.sleep(_ANNOUNCE_SECONDS)
                _load(self.context, pair)
                self.announced = (fresh,)
                changed()
                _log.info("certificate replaced", sha256=fresh)
            except (OSError, ValueError) as error:
                _log.warning("the certificate stays", reason=_reason(error))

    def _read(self) -> bytes:
        """Certificate chain, then key, both read once: the announced certificate is the one shown. Raises OSError."""
        return b"\n".join(file.read_bytes() for file in self._files)

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        """Time of change and size of both files. Raises OSError."""
        return tuple((status.st_mtime_ns, status.st_size) for status in (file.stat() for file in self._files))


def _load(context: ssl.SSLContext, pair: bytes) -> None:
    """Raises OSError (ssl.SSLError among them) when the key does not fit the certificate."""
    with os.fdopen(os.memfd_create("certificate"), "wb") as file:  # load_cert_chain takes files only
        file.write(pair)
        file.flush()
        # An encrypted key must fail, not ask at a terminal.
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}", password=lambda: "")


def _fingerprint(pair: bytes) -> str:
    """SHA-256 of the first certificate, in hex. Raises ValueError."""
    text = pair.decode()
    return fingerprint(ssl.PEM_cert_to_DER_cert(text[: text.index(_END) + len(_END)].lstrip()))


def local_context(certificate: Path) -> ssl.SSLContext:
    """For commands on the agent's own machine: trusts that certificate and no other. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the certificate itself is pinned
    # Without it OpenSSL takes no certificate as the anchor that an authority has signed.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(certificate)
    return context


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
