"""Sums over entries, by node or by epoch."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from offchain.domain.types import FULL_BPS
from webapp.views.earnings.node_epochs import NodeEpoch, Stage

_YEAR_SECONDS = 365 * 86_400
_FURTHEST_FIRST = [
    "OPEN",
    "AWAITING",
    "UNKNOWN",
    "CHALLENGE",
    "CLAIMABLE",
    "EXPIRED",
    "LAPSED",
    "CLAIMED",
    "NOTHING",
]
"""Stages from the one that is furthest from being paid to those at which nothing more will be paid."""
_DISTANCE = {Stage[name]: index for index, name in enumerate(_FURTHEST_FIRST)}


@dataclass(frozen=True, slots=True)
class EpochSum:
    """One epoch over all nodes of the operator."""

    epoch: int
    stage: str
    nodes: int
    weight: int
    total_weight: int | None
    pool_wei: int | None
    uptime_bps: int | None
    share_wei: int | None
    lost_wei: int | None
    reward_wei: int | None
    claimable_wei: int
    claimed_wei: int


class Totals:
    """Sums over entries, taken in one pass: a year of ten nodes is 3,650 entries. Amounts in wei.

    Example: `Totals.of(history.entries).claimable`.
    """

    def __init__(self) -> None:
        self.count = self.weight = self.share = self.shares = self.lost = self.reward = self.rewards = 0
        self.claimable = self.claimed = self.pending = self.up_sum = self.up_weight = 0
        self.stage = Stage.NOTHING

    @classmethod
    def of(cls, entries: Iterable[NodeEpoch]) -> Self:
        """The sums of these entries."""
        totals = cls()
        for entry in entries:
            totals.add(entry)
        return totals

    def add(self, entry: NodeEpoch) -> None:
        """Count one entry."""
        weight, stage = entry.weight, entry.stage
        self.count += 1
        self.weight += weight
        if _DISTANCE[stage] < _DISTANCE[self.stage]:
            self.stage = stage
        if entry.share_wei is not None:
            self.shares += 1
            self.share += entry.share_wei
        if entry.uptime_bps is not None:
            self.up_weight += weight
            self.up_sum += entry.uptime_bps * weight
        amount = entry.reward_wei
        if amount is not None:
            self.rewards += 1
            self.reward += amount
            self.lost += entry.lost_wei or 0
            if stage is Stage.CLAIMED:
                self.claimed += amount
            elif stage is Stage.CLAIMABLE:
                self.claimable += amount
            elif stage is Stage.CHALLENGE:
                self.pending += amount

    @property
    def uptime_bps(self) -> int | None:
        """Mean uptime weighted by weight, rounded down; None without an attested entry."""
        return self.up_sum // self.up_weight if self.up_weight else None

    def epoch(self, epoch: int, first: NodeEpoch) -> EpochSum:
        """The sums as those of one epoch; its stage is that of the node that is furthest from being paid."""
        return EpochSum(
            epoch=epoch,
            stage=self.stage,
            nodes=self.count,
            weight=self.weight,
            total_weight=first.total_weight,
            pool_wei=first.pool_wei,
            uptime_bps=self.uptime_bps,
            share_wei=self.share if self.shares else None,
            lost_wei=self.lost if self.rewards else None,
            reward_wei=self.reward if self.rewards else None,
            claimable_wei=self.claimable,
            claimed_wei=self.claimed,
        )


def yearly_bps(reward_wei: int, stake_wei: int, epoch_seconds: int) -> int | None:
    """Rewards of one epoch over the stake that earned them, scaled to 365 days, in basis points; None without a stake.

    Of several epochs: their rewards together, over the sum of the stakes of each epoch.
    """
    if not stake_wei:
        return None
    return reward_wei * FULL_BPS * _YEAR_SECONDS // (stake_wei * epoch_seconds)
