"""Amounts of PRLX as text: exact, or rounded down with the exact amount in the element's title. Integers only."""

from functools import lru_cache

from markupsafe import Markup

from offchain.domain.amounts import prlx

DECIMALS = 18
_ONE = 10**DECIMALS


def exact(wei: int) -> str:
    """All significant digits, thousands grouped: `1,234.5`, `0.000000000000000001`, `-2`."""
    return ("-" if wei < 0 else "") + prlx(abs(wei)).removesuffix(" PRLX")


def plain(wei: int) -> str:
    """All significant digits without grouping, for machines."""
    return exact(wei).replace(",", "")


def rounded(wei: int, places: int = 2) -> str:
    """Rounded down to `places` decimals; an amount below the last place keeps its first two significant digits."""
    sign, size = ("-", -wei) if wei < 0 else ("", wei)
    whole, part = divmod(size, _ONE)
    digits = f"{part:018d}"
    if size and not whole and not int(digits[:places] or "0"):
        lead = len(digits) - len(digits.lstrip("0"))
        places = min(DECIMALS, lead + 2)
        kept = digits[:places].rstrip("0")
        return f"{sign}0.{kept}"
    return f"{sign}{whole:,}" + (f".{digits[:places]}" if places else "")


@lru_cache(maxsize=16_384)
def render(wei: int, places: int = 2, unit: bool = True) -> Markup:
    """A `<data>` element with the rounded amount; its title and value hold the exact amount."""
    suffix = '<span class="unit"> PRLX</span>' if unit else ""
    if wei == 0:
        return Markup(f'<data class="amount zero" value="0" title="0 PRLX">0{suffix}</data>')  # noqa: S704  digits only
    short = rounded(wei, places)
    whole, dot, part = short.partition(".")
    full = exact(wei)
    plain_full = full.replace(",", "")
    cut = (short.replace(",", "").rstrip("0").rstrip(".") if dot else short.replace(",", "")) != plain_full
    fraction = f'<span class="frac">.{part}</span>' if dot else ""
    return Markup(  # noqa: S704  digits only
        f'<data class="amount" value="{plain_full}" title="{full} PRLX{" exactly" if cut else ""}">'
        f"{whole}{fraction}{suffix}</data>"
    )


def percent(bps: int) -> str:
    """Basis points as per cent without superfluous digits: `100 %`, `99.65 %`."""
    whole, part = divmod(bps, 100)
    return (f"{whole}.{part:02d}" if part else f"{whole}") + "\u202f%"


def share(part: int, whole: int) -> str:
    """`part` of `whole` as per cent, rounded down to two decimals; `0 %` when the whole is 0."""
    if whole <= 0:
        return "0\u202f%"
    bps = part * 10_000 // whole
    return "<0.01\u202f%" if part and not bps else percent(bps)


def duration(seconds: int) -> str:
    """Seconds in their two largest units: `2 d 4 h`, `3 min 20 s`, `12 s`."""
    left = max(0, seconds)
    parts: list[str] = []
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if count or (size == 1 and not parts):
            parts.append(f"{count}\u202f{name}")
        elif parts:
            break
        if len(parts) == 2:
            break
    return " ".join(parts)
