"""Amounts in words."""

import pytest

from offchain.domain.amounts import parse_prlx, prlx
from offchain.errors import UserError


@pytest.mark.parametrize(
    ("text", "wei"),
    [
        ("50000", 50_000 * 10**18),
        ("0.5", 5 * 10**17),
        ("50,000.000000000000000001", 50_000 * 10**18 + 1),
        ("123456789012345.000000000000000001", 123_456_789_012_345 * 10**18 + 1),
    ],
)
def test_amount__decimal_text__exact(text: str, wei: int) -> None:
    assert parse_prlx(text) == wei
    assert parse_prlx(prlx(wei).removesuffix(" PRLX")) == wei


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "-1",
        "1e3",
        "1.0000000000000000001",
        "٣",
        "1.²",
        "9" * 5_000,
        "1,5",
        "0,5",
        "1,0000",
        ",000",
        "1__000",
        "1,000_000",
        "1.0_0",
        "1\n",
        ".5",
        "5.",
        "9" * 31,
    ],
)
def test_amount__anything_else__one_line(text: str) -> None:
    with pytest.raises(UserError, match="not an amount"):
        parse_prlx(text)
