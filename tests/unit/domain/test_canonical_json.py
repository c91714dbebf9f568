"""Canonical JSON: RFC 8785 for every document, in one module."""

import re
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from offchain.domain.canonical_json import MAX_SAFE_INTEGER, canonical, parse

ROOT = Path(__file__).resolve().parents[3]
TEXT = st.text(st.characters(exclude_categories=("Cs",)))


def documents(floats: st.SearchStrategy[float]) -> st.SearchStrategy[Any]:
    """Anything that JSON holds, with integers that RFC 8785 allows."""
    integers = st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
    scalars = st.none() | st.booleans() | integers | floats | TEXT
    return st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner))


@given(documents(st.floats(allow_nan=False, allow_infinity=False)))
def test_canonical__any_document__is_rfc_8785(document: Any) -> None:
    assert canonical(document) == rfc8785.dumps(document)


@given(documents(st.floats(-1000, 1000)))
def test_parse__canonical_bytes__come_back(document: Any) -> None:
    assert canonical(parse(canonical(document))) == canonical(document)


def test_canonical__keys_beyond_ascii__are_ordered_by_utf_16() -> None:
    assert canonical({"\uff5e": 1, "\U0001f600": 2}) == '{"\U0001f600":2,"\uff5e":1}'.encode()


@pytest.mark.parametrize("document", [2**53, {"a": [2**60]}, float("nan"), {1: 2}, "\ud800", {"a": object()}])
def test_canonical__no_form__is_refused(document: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        canonical(document)


@pytest.mark.parametrize(
    "raw", [b"[" * 300 + b"]" * 300, b"[" * 5000 + b"]" * 5000, b'{"b":1,"a":2}', b"1.0", b"{"]
)
def test_parse__strangers_bytes__are_refused_as_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(raw)


def test_canonical_json__has_one_body() -> None:
    own = re.compile(r"\brfc8785\b\.|OPT_SORT_KEYS")
    found = {
        str(path.relative_to(ROOT))
        for room in ("offchain", "webapp")
        for path in (ROOT / room).rglob("*.py")
        if own.search(path.read_text())
    }
    assert found == {"offchain/domain/canonical_json.py"}
