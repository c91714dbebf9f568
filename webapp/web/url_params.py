"""Checks of the text that visitors give in paths, queries and forms."""

import re

from flask import request

from offchain.crypto.addresses import checksum
from offchain.domain.types import MAX_NODES, Address
from webapp.web.errors import PageError

WINDOWS = (7, 30, 365)
"""Numbers of epochs that a page can show."""
_KEY = re.compile(r"[\x21-\x7e]{0,200}")


def address_of(text: str) -> Address:
    """The EIP-55 spelling of 0x and 40 hexadecimal digits. Raises PageError 400."""
    wrong = PageError(400, "That is not an address", "An address is 0x and 40 hexadecimal digits.")
    if not text.lower().startswith("0x"):
        raise wrong
    try:
        return checksum("0x" + text[2:])
    except ValueError:
        raise wrong from None


def node_id_of(text: str) -> int:
    """A node id. Raises PageError 400."""
    # isdigit() alone is true of a superscript two, which int() refuses.
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= MAX_NODES or len(text) > 6:
        raise PageError(400, "That is not a node id", f"Node ids are whole numbers from 1 to {MAX_NODES:,}.")
    return int(text)


def epoch_of(text: str) -> int:
    """An epoch number. Raises PageError 400."""
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) >= 2**32:
        raise PageError(400, "That is not an epoch", "Epochs are whole numbers from 0.")
    return int(text)


def api_key_of(text: str) -> str:
    """An API key as it travels in a header; empty when none is given. Raises PageError 400."""
    if not _KEY.fullmatch(text):
        raise PageError(400, "That is not an API key", "A key is one word of plain letters and digits.")
    return text


def window() -> int:
    """`?epochs=`, one of WINDOWS; 30 when it is anything else."""
    text = request.args.get("epochs", "30")
    return int(text) if text in {str(count) for count in WINDOWS} else 30
