"""Sums of entries, by node and by epoch."""

from dataclasses import dataclass

from webapp.views.earnings import NodeEpoch, Stage


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


_ORDER = {
    stage: place
    for place, stage in enumerate(
        (
            Stage.OPEN,
            Stage.AWAITING,
            Stage.UNKNOWN,
            Stage.CHALLENGE,
            Stage.CLAIMABLE,
            Stage.EXPIRED,
            Stage.LAPSED,
            Stage.CLAIMED,
            Stage.NOTHING,
        )
    )
}
_STAGES = tuple(_ORDER)


class Totals:
    """Sums over entries, taken in one pass: a year of ten nodes is 3,650 of them."""

    __slots__ = (
        "claimable",
        "claimed",
        "count",
        "lost",
        "pending",
        "reward",
        "rewards",
        "share",
        "shares",
        "stage",
        "up_sum",
        "up_weight",
        "weight",
    )

    def __init__(self) -> None:
        self.count = self.weight = self.share = self.shares = self.lost = self.reward = self.rewards = 0
        self.claimable = self.claimed = self.pending = self.up_sum = self.up_weight = 0
        self.stage = len(_STAGES) - 1

    def add(self, entry: NodeEpoch) -> None:
        """Count one entry."""
        weight, stage = entry.weight, entry.stage
        self.count += 1
        self.weight += weight
        self.stage = min(self.stage, _ORDER[stage])
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
            epoch,
            _STAGES[self.stage],
            self.count,
            self.weight,
            first.total_weight,
            first.pool_wei,
            self.uptime_bps,
            self.share if self.shares else None,
            self.lost if self.rewards else None,
            self.reward if self.rewards else None,
            self.claimable,
            self.claimed,
        )
