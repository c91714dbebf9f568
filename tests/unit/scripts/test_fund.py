"""Amounts that `ape run fund` is given."""

import pytest

from offchain.errors import UserError
from scripts.fund import to_wei


@pytest.mark.parametrize(
    ("text", "wei"),
    [("60000", 60_000 * 10**18), ("1_000.5", 1_000 * 10**18 + 5 * 10**17), ("123456789012345678901234567.000000000000000001", 123456789012345678901234567 * 10**18 + 1)],
)  # fmt: skip
def test_fund__amount__is_read_to_the_wei(text: str, wei: int) -> None:
    assert to_wei("--prlx", text) == wei


@pytest.mark.parametrize("text", ["0.0000000000000000019", "-1", "NaN", "Infinity", "1e3", ""])
def test_fund__less_than_a_wei_or_no_amount__is_refused_by_the_options_name(text: str) -> None:
    with pytest.raises(UserError, match=r"--ether .* is not an amount"):
        to_wei("--ether", text)
