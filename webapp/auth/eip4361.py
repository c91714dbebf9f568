"""Messages of Sign-In with Ethereum (EIP-4361): writing, parsing, and checking every field.

::

    <scheme>://<domain> wants you to sign in with your Ethereum account:
    <address, EIP-55>

    <statement>

    URI: <uri>
    Version: 1
    Chain ID: <chain id>
    Nonce: <at least 8 letters and digits>
    Issued At: <RFC 3339>
    Expiration Time: <RFC 3339>
    Not Before: <RFC 3339>
"""

import calendar
import re
import time
from dataclasses import dataclass

GOOD_FOR_SECONDS = 300
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_WHEN = r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)"
# The fields in the order of EIP-4361's ABNF; Request ID and Resources, which we never write, do not match.
_MESSAGE = re.compile(
    r"(https?)://([^\s/?#@]+) wants you to sign in with your Ethereum account:\n"
    r"(0x[0-9a-fA-F]{40})\n\n([^\n]*)\n\n"
    r"URI: (\S+)\nVersion: (\d+)\nChain ID: (\d{1,20})\nNonce: ([0-9a-zA-Z]{8,64})\n"
    rf"Issued At: {_WHEN}\nExpiration Time: {_WHEN}\nNot Before: {_WHEN}"
)


class SignInError(ValueError):
    """The message is malformed, or a field is not as it must be here and now; the text names the field."""


@dataclass(frozen=True, slots=True)
class SignInMessage:
    """One message; times are Unix seconds."""

    scheme: str
    domain: str
    address: str
    statement: str
    uri: str
    version: int
    chain_id: int
    nonce: str
    issued_at: int
    expires_at: int
    not_before: int

    def text(self) -> str:
        """The text that the wallet shows and signs."""
        return (
            f"{self.scheme}://{self.domain} wants you to sign in with your Ethereum account:\n{self.address}\n\n"
            f"{self.statement}\n\nURI: {self.uri}\nVersion: {self.version}\nChain ID: {self.chain_id}\n"
            f"Nonce: {self.nonce}\nIssued At: {_utc(self.issued_at)}\n"
            f"Expiration Time: {_utc(self.expires_at)}\nNot Before: {_utc(self.not_before)}"
        )

    @classmethod
    def parse(cls, text: str) -> "SignInMessage":
        """Inverse of `text`. Raises SignInError."""
        # Not `match` with `$`, which lets a line end behind the last field through.
        match = _MESSAGE.fullmatch(text)
        if match is None:
            raise SignInError("the message is malformed")
        scheme, domain, address, statement, uri, version, chain, nonce, *times = match.groups()
        try:
            issued, expires, begins = (calendar.timegm(time.strptime(when, _TIME)) for when in times)
        except ValueError:
            raise SignInError("the message names a moment that does not exist") from None
        return cls(
            scheme, domain, address, statement, uri, int(version), int(chain), nonce, issued, expires, begins
        )

    def check(self, origin: str, chain_id: int, nonce: str, address: str, now: float) -> None:
        """Compare every field with what it must be. Raises SignInError that names the first one that differs."""
        wrong = {
            "origin": f"{self.scheme}://{self.domain}" != origin,
            "URI": self.uri != origin,
            "version": self.version != 1,
            "chain": self.chain_id != chain_id,
            "nonce": self.nonce != nonce,
            "address": self.address != address,
            "time of issue": self.issued_at > now,
            "expiration time": not now < self.expires_at <= self.issued_at + GOOD_FOR_SECONDS,
            "first moment": now < self.not_before,
        }
        for field, differs in wrong.items():
            if differs:
                raise SignInError(f"the message has the wrong {field}")


def _utc(seconds: int) -> str:
    return time.strftime(_TIME, time.gmtime(seconds))
