"""Sign-In with Ethereum. The server writes the message and keeps it; the browser sends back a nonce and a signature only.

The signature is checked over the kept text, so a browser cannot forge any other part of the message. Every field of the
kept text is compared once more: a server whose origin or chain changed meanwhile takes no older message.
"""

import secrets

from offchain.crypto.recovery import recover
from offchain.domain.eip712 import keccak256
from webapp.auth.eip4361 import GOOD_FOR_SECONDS, SignInError, SignInMessage
from webapp.store import Store

STATEMENT = "Sign in to set up your notifications. This costs nothing and allows no transaction."


class SignInService:
    """Writes messages that name one chain, and checks their signatures."""

    def __init__(self, store: Store, chain_id: int) -> None:
        self._store = store
        self._chain_id = chain_id

    def message(self, origin: str, browser: str, address: str) -> tuple[str, str]:
        """Nonce and text of a message for an address to sign; good for this origin, chain and browser, for five minutes."""
        nonce = secrets.token_hex(16)
        scheme, _, domain = origin.partition("://")
        now = int(self._store.now)
        times = now, now + GOOD_FOR_SECONDS, now
        message = SignInMessage(scheme, domain, address, STATEMENT, origin, 1, self._chain_id, nonce, *times)
        self._store.give_nonce(nonce, browser, address, message.text())
        return nonce, message.text()

    def sign_in(self, origin: str, nonce: str, browser: str, signature: str) -> str | None:
        """A token when the address signed the message of this nonce, else None; a nonce works once."""
        # Taken before anything is checked: a wrong signature uses the nonce up and cannot be tried again.
        taken = self._store.take_nonce(nonce, browser)
        if taken is None:
            return None
        address, text = taken
        try:
            SignInMessage.parse(text).check(origin, self._chain_id, nonce, address, self._store.now)
            # Accounts with a key only: a contract wallet (ERC-1271) would have to be asked on chain.
            signer = recover(personal_digest(text), _canonical(signature))
        except (SignInError, ValueError):
            return None
        return self._store.sign_in(address) if signer == address else None


def _canonical(signature: str) -> bytes:
    """65 bytes with v of 27 or 28; some wallets give 0 or 1 instead. Raises ValueError."""
    raw = bytes.fromhex(signature.removeprefix("0x"))
    return raw[:64] + bytes((raw[64] + 27,)) if len(raw) == 65 and raw[64] in (0, 1) else raw


def personal_digest(text: str) -> bytes:
    """The 32 bytes that `personal_sign` signs for a text (EIP-191)."""
    data = text.encode()
    return keccak256(b"\x19Ethereum Signed Message:\n" + str(len(data)).encode() + data)
