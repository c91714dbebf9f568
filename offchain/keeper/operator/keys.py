"""The keeper's key: in an encrypted keystore, or held by a Web3Signer service."""

from pathlib import Path

from offchain.crypto.keys import Signer, TransactionSigner
from offchain.crypto.web3signer import Web3Signer
from offchain.errors import UserError
from offchain.keeper.settings import KeeperSettings


def load_signer(settings: KeeperSettings) -> TransactionSigner:
    """The key that the settings name.

    Raises:
        UserError: the keystore does not open, or the service does not have the key or does not answer.
    """
    if settings.web3signer_url is not None and settings.web3signer_address is not None:
        return Web3Signer.connect(settings.web3signer_url, settings.web3signer_address)
    if settings.keystore is None or settings.password_file is None:
        raise AssertionError("KeeperSettings refuses settings without a key")
    return Signer.load(settings.keystore, settings.password_file)


def read_api_key(settings: KeeperSettings) -> str:
    """This keeper's key at its gateway. Raises UserError when the file is missing or empty."""
    return read_secret(settings.gateway_api_key_file, "gateway_api_key_file")


def read_secret(path: Path, field: str) -> str:
    """The one line of a file that a setting names. Raises UserError when it is missing or empty."""
    try:
        key = path.read_text().strip()
    except OSError as error:
        raise UserError(f"{field} {path} cannot be read: {error.strerror}") from None
    if not key:
        raise UserError(f"{field} {path} is empty; write the key into it")
    return key
