"""Amounts of PRLX in words, exact: wei are integers, and no digit is lost either way."""

import re

from offchain.errors import UserError

ETHER = 10**18
# [0-9], as \d would also take the digits of other scripts.
_AMOUNT = re.compile(
    r"(?P<whole>[0-9]{1,30}|[0-9]{1,3}(?:,[0-9]{3}){1,9}|[0-9]{1,3}(?:_[0-9]{3}){1,9})(?:\.(?P<part>[0-9]{1,18}))?"
)


def prlx(amount_wei: int) -> str:
    """An amount in PRLX with all its digits, without trailing zeros."""
    whole, part = divmod(amount_wei, ETHER)
    tail = f"{part:018d}".rstrip("0")
    return f"{whole:,}{'.' + tail if tail else ''} PRLX"


def parse_prlx(text: str) -> int:
    """Wei of a decimal amount of PRLX; commas and underscores stand between groups of three digits, nowhere else.

    Raises UserError when it is none (`1,5` could mean two things), or has more than 18 decimals.
    """
    found = _AMOUNT.fullmatch(text)
    if found is None:
        raise UserError(f"{text!r} is not an amount of PRLX; write it like 50000 or 50000.5")
    whole, part = found["whole"].replace(",", "").replace("_", ""), found["part"] or ""
    return int(whole) * ETHER + int(part.ljust(18, "0"))
