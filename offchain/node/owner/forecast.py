"""What a node may expect to earn, with its assumptions in words. Pure arithmetic."""

from dataclasses import asdict, dataclass
from fractions import Fraction

from offchain.domain.payout import reward
from offchain.domain.tiers import Tier, weight
from offchain.domain.types import Bps, Wei, Weight

_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Forecast:
    """Expected reward of one node. Amounts in wei of PRLX.

    Attributes:
        per_epoch_wei: reward of one epoch at the assumed uptime.
        share_bps: the node's share of all weight after it has joined, in basis points.
        per_percent_wei: reward of one per cent of uptime in an epoch.
        break_even_price: price of one PRLX at which the reward pays for the machine; None without a cost.
        covers_cost: whether the assumed price is at least `break_even_price`; None without a price.
    """

    per_epoch_wei: Wei
    per_day_wei: Wei
    share_bps: int
    per_percent_wei: Wei
    covers_cost: bool | None
    break_even_price: Fraction | None
    assumptions: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """For `--json`; amounts as decimal text."""
        price = self.break_even_price
        return {
            **asdict(self),
            **{
                name: str(getattr(self, name)) for name in ("per_epoch_wei", "per_day_wei", "per_percent_wei")
            },
            "break_even_price": None if price is None else f"{float(price):.6g}",
        }


def forecast(
    pool: Wei,
    total_weight: Weight,
    stake: Wei,
    tier: Tier,
    uptime: Bps,
    epoch_seconds: int,
    cost_per_day: Fraction | None = None,
    token_price: Fraction | None = None,
) -> Forecast:
    """Reward of a node that joins now.

    Args:
        pool: reward pool of an epoch, in wei.
        total_weight: weight of all nodes without this one.
        uptime: expected uptime in basis points.
        epoch_seconds: length of an epoch.
        cost_per_day: of the machine, in any currency.
        token_price: of one PRLX in the same currency.
    """
    own = weight(stake, tier)
    total = Weight(total_weight + own)
    per_epoch = reward(pool, own, total, uptime)
    per_day = Wei(per_epoch * _DAY // epoch_seconds)
    break_even = None if cost_per_day is None or per_day == 0 else cost_per_day * 10**18 / per_day
    covers = None
    if break_even is not None and token_price is not None:
        covers = token_price >= break_even
    assumptions = [
        f"the pool of an epoch stays at {pool / 10**18:,.2f} PRLX",
        # 10^18 wei a token times 10^4 basis points: a weight is never divided (ADR 0001).
        f"the others' weight stays at {total_weight / 10**22:,.0f} PRLX (x tier)",
        f"uptime {uptime / 100:.2f} %",
        f"an epoch lasts {epoch_seconds} s",
        "usage fees come on top and are not counted",
    ]
    if cost_per_day is not None:
        assumptions.append(f"the machine costs {float(cost_per_day):g} a day")
    return Forecast(
        per_epoch,
        per_day,
        own * 10_000 // total,
        Wei(reward(pool, own, total, Bps(10_000)) // 100),
        covers,
        break_even,
        tuple(assumptions),
    )
