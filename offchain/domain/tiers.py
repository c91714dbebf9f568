"""Hardware tiers and the weight that a stake has in them."""

from enum import IntEnum

from offchain.domain.types import Bps, Wei, Weight


class Tier(IntEnum):
    """Declared at registration, proven by the floors that probes demand."""

    CPU = 1
    MID_GPU = 2
    HEAVY_GPU = 3
    SPECIALISED = 4


MULTIPLIER_BPS: dict[Tier, Bps] = {
    Tier.CPU: Bps(10_000),
    Tier.MID_GPU: Bps(15_000),
    Tier.HEAVY_GPU: Bps(25_000),
    Tier.SPECIALISED: Bps(30_000),
}


def weight(stake: Wei, tier: Tier) -> Weight:
    """Weight of a node in wei-basis-points: `stake x multiplier`, without division."""
    return Weight(stake * MULTIPLIER_BPS[tier])
