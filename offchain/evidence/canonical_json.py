"""Canonical JSON (RFC 8785) of our documents, which hold ASCII text, small integers, lists and objects only."""

from typing import Any

import orjson

from offchain.domain.eip712 import keccak256

MAX_SAFE_INTEGER = 2**53 - 1


def canonical(document: Any) -> bytes:
    """The one byte form of a document: keys sorted, no white space.

    For ASCII keys and integers up to 2^53 - 1 orjson's sorted output is exactly RFC 8785; documents hold nothing else.
    """
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


def parse(raw: bytes) -> Any:
    """Read a document. Raises ValueError when it is not JSON, or not in its canonical form."""
    document = orjson.loads(raw)
    if canonical(document) != raw:
        raise ValueError("the document is not in canonical form")
    return document


def content_hash(raw: bytes) -> str:
    """Content address of canonical bytes: keccak256 as 0x-hex."""
    return "0x" + keccak256(raw).hex()
