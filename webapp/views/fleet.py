"""The fleet in numbers, by tier and by state."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from offchain.domain.tiers import MULTIPLIER_BPS, Tier
from webapp.index import FleetGroup

TIER_NAMES = {
    Tier.CPU: "CPU",
    Tier.MID_GPU: "Mid GPU",
    Tier.HEAVY_GPU: "Heavy GPU",
    Tier.SPECIALISED: "Specialised",
}
STATES = ("active", "idle", "cooling", "retired")


@dataclass(frozen=True, slots=True)
class TierLine:
    """The nodes of a tier that were not withdrawn; `counting` of them have weight in the epoch, together `weight`."""

    tier: int
    name: str
    multiplier_bps: int
    nodes: int
    counting: int
    staked_wei: int
    weight: int


@dataclass(frozen=True, slots=True)
class FleetView:
    """The fleet at an epoch.

    Attributes:
        states: number of nodes by state.
        staked_wei: principal in the locker.
        weight: total weight of the epoch, wei-basis-points.
        total: number of nodes ever registered.
    """

    states: Mapping[str, int]
    tiers: Sequence[TierLine]
    staked_wei: int
    weight: int
    total: int

    @property
    def present(self) -> int:
        """Nodes that were not withdrawn."""
        return self.total - self.states["retired"]


def fleet_of(groups: Iterable[FleetGroup], epoch: int) -> FleetView:
    """The fleet at an epoch."""
    states: Counter[str] = Counter(dict.fromkeys(STATES, 0))
    nodes, counting, staked, weight = (Counter[int]() for _ in range(4))
    for group in groups:
        state = group.state_at(epoch)
        states[state] += group.count
        if state != "retired":
            nodes[group.tier] += group.count
            staked[group.tier] += group.count * group.stake_wei
        if group.counts_in(epoch):
            counting[group.tier] += group.count
            weight[group.tier] += group.count * group.weight
    tiers = [
        TierLine(t, TIER_NAMES[t], MULTIPLIER_BPS[t], nodes[t], counting[t], staked[t], weight[t])
        for t in Tier
    ]
    return FleetView(dict(states), tiers, sum(staked.values()), sum(weight.values()), sum(states.values()))
