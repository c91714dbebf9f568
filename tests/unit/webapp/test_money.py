"""Amounts as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.web import money

PRLX = 10**18


@pytest.mark.parametrize(
    ("wei", "text"),
    [
        (0, "0"),
        (1, "0.000000000000000001"),
        (PRLX, "1"),
        (1_234_567 * PRLX + PRLX // 2, "1,234,567.5"),
        (-3 * PRLX // 2, "-1.5"),
    ],
)
def test_exact__amounts__keep_every_digit(wei: int, text: str) -> None:
    assert money.exact(wei) == text


@given(st.integers(-(10**30), 10**30))
def test_plain__any_amount__reads_back_to_the_wei(wei: int) -> None:
    sign, text = (-1, money.plain(wei)[1:]) if wei < 0 else (1, money.plain(wei))
    whole, _, part = text.partition(".")
    assert sign * (int(whole) * PRLX + int(part.ljust(18, "0"))) == wei


@given(st.integers(0, 10**30), st.integers(0, 18))
def test_rounded__any_amount__never_shows_more_than_there_is(wei: int, places: int) -> None:
    text = money.rounded(wei, places).replace(",", "")
    whole, _, part = text.partition(".")
    assert int(whole) * PRLX + int(part.ljust(18, "0")) <= wei


@pytest.mark.parametrize(
    ("wei", "text"), [(PRLX // 1000, "0.001"), (123, "0.00000000000000012"), (2 * PRLX, "2.00"), (0, "0.00")]
)
def test_rounded__small_amounts__keep_two_digits(wei: int, text: str) -> None:
    assert money.rounded(wei) == text


def test_render__rounded_figure__carries_the_exact_one() -> None:
    html = money.render(10**18 + 1)
    assert 'title="1.000000000000000001 PRLX exactly"' in html
    assert 'value="1.000000000000000001"' in html


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0\u202fs"),
        (59, "59\u202fs"),
        (3_661, "1\u202fh 1\u202fmin"),
        (-5, "0\u202fs"),
        (90_061, "1\u202fd 1\u202fh"),
    ],
)
def test_duration__seconds__two_largest_units(seconds: int, text: str) -> None:
    assert money.duration(seconds) == text


def test_share__tiny_part__is_not_shown_as_nothing() -> None:
    assert money.share(1, 10**9) == "<0.01\u202f%"
    assert money.share(0, 0) == "0\u202f%"
