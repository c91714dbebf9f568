"""Amounts of PRLX in words, exact: wei are integers, and no digit is lost either way."""

from offchain.errors import UserError

ETHER = 10**18
_MOST_DIGITS = 30


def prlx(amount_wei: int) -> str:
    """An amount in PRLX with all its digits, without trailing zeros."""
    whole, part = divmod(amount_wei, ETHER)
    tail = f"{part:018d}".rstrip("0")
    return f"{whole:,}{'.' + tail if tail else ''} PRLX"


def parse_prlx(text: str) -> int:
    """Wei of a decimal amount of PRLX. Raises UserError when it is none, or has more than 18 decimals."""
    whole, _, part = text.replace(",", "").replace("_", "").partition(".")
    digits = whole + part
    if (
        not whole
        or not digits.isascii()
        or not digits.isdigit()
        or len(whole) > _MOST_DIGITS
        or len(part) > 18
    ):
        raise UserError(f"{text!r} is not an amount of PRLX; write it like 50000 or 50000.5")
    return int(whole) * ETHER + int(part.ljust(18, "0"))
