"""Canonical JSON (RFC 8785): the one byte form of a document, so that a hash or a signature over it means the same to everybody."""

from typing import Any

import orjson
import rfc8785

from offchain.domain.eip712 import keccak256

# RFC 8785 writes numbers as IEEE 754 doubles, which hold each integer up to this one.
MAX_SAFE_INTEGER = 2**53 - 1


def canonical(document: Any) -> bytes:
    """The bytes of a document: keys sorted, no white space. `{"b": 1, "a": "x"}` gives `{"a":"x","b":1}`.

    Raises:
        ValueError: RFC 8785 has no form for the document, such as an integer over 2^53 - 1, or it is nested too deeply.
    """
    try:
        if _is_plain(document):
            # A bundle of a large network has 100 MB; rfc8785 is written in Python and takes minutes for as much.
            # For such documents the two give the same bytes: keys sorted by code point, no escapes beyond RFC 8785.
            return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
        return rfc8785.dumps(document)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"the document has no canonical form: {error}") from None


def parse(raw: bytes) -> Any:
    """Read a document. Raises ValueError when it is not JSON, or not in its canonical form."""
    document = orjson.loads(raw)
    if canonical(document) != raw:
        raise ValueError("the document is not in canonical form")
    return document


def content_hash(raw: bytes) -> str:
    """Content address of canonical bytes: keccak256 as 0x-hex."""
    return "0x" + keccak256(raw).hex()


def _is_plain(document: Any) -> bool:
    """Whether orjson's sorted output is RFC 8785: ASCII keys and no other numbers than integers up to 2^53 - 1."""
    waiting = [document]
    while waiting:  # no recursion: strangers decide how deeply a document is nested
        value = waiting.pop()
        if isinstance(value, str) or value is None:
            continue
        if isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, dict):
            if not all(isinstance(key, str) and key.isascii() for key in value):
                return False
            waiting += value.values()
        elif not isinstance(value, int) or not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
            return False
    return True
