"""Files of one line that hold a secret, named by a setting."""

from pathlib import Path

from offchain.errors import UserError
from offchain.settings import KeeperSettings


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
