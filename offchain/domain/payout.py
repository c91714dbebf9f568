"""What an epoch pays, to the last wei.

`reward = pool x weight x uptime / (10_000 x totalWeight)`, rounded down. The denominator is the checkpointed total of
all nodes, not the sum of those attested, so nobody gains when somebody else is reported down.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from offchain.domain.types import FULL_BPS, Bps, NodeId, Wei, Weight


def reward(pool: Wei, weight: Weight, total_weight: Weight, uptime: Bps) -> Wei:
    """Reward of one node in one epoch, in wei; 0 when nothing is staked. Raises ValueError for an uptime over 10,000."""
    if not 0 <= uptime <= FULL_BPS:
        raise ValueError(f"uptime {uptime} is not in 0..{FULL_BPS} basis points")
    if total_weight == 0:
        return Wei(0)
    return Wei(pool * weight * uptime // (FULL_BPS * total_weight))


@dataclass(frozen=True, slots=True)
class EpochAccount:
    """Where every wei of an epoch's pool is. Always `paid + claimable + carried == funded`.

    Attributes:
        funded: the pool, frozen when the epoch began.
        paid: already claimed.
        claimable: earned and not yet claimed.
        carried: unearned by downtime, and dust; goes back to the reserve after the claim deadline.
    """

    funded: Wei
    paid: Wei
    claimable: Wei
    carried: Wei

    def __post_init__(self) -> None:
        if self.paid + self.claimable + self.carried != self.funded:
            raise ValueError("paid + claimable + carried differs from funded")
        if min(self.funded, self.paid, self.claimable, self.carried) < 0:
            raise ValueError("an account holds no negative amount")


def epoch_account(pool: Wei, earned: Mapping[NodeId, Wei], claimed: Mapping[NodeId, Wei]) -> EpochAccount:
    """Account of an epoch from what each node earned and what the chain says was paid to it.

    Raises:
        ValueError: a node was paid something else than it earned, or more is earned than the pool holds.
    """
    for node, amount in claimed.items():
        if earned.get(node, 0) != amount:
            raise ValueError(f"node {node} was paid {amount} wei but earned {earned.get(node, 0)} wei")
    total = sum(earned.values())
    if total > pool:
        raise ValueError(f"earned {total} wei exceeds the pool of {pool} wei")
    paid = sum(claimed.values())
    return EpochAccount(pool, Wei(paid), Wei(total - paid), Wei(pool - total))
