"""What a node earned in an epoch and why: how much of the pool was within its reach, and what downtime took from it.

::

    share     what the node would be paid at full uptime
    - lost    share minus reward: what missed slots cost
    = reward  what the contract pays, by `offchain.domain.payout.reward`
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from offchain.domain.types import FULL_BPS
from webapp.index import ClaimRow, NodeRow, ReportRow
from webapp.sources.chain import ChainEpoch


class Stage(StrEnum):
    """Where an epoch's reward is on its way to the operator."""

    OPEN = "open"
    """The epoch runs."""
    AWAITING = "awaiting report"
    CHALLENGE = "in challenge window"
    CLAIMABLE = "claimable"
    CLAIMED = "claimed"
    NOTHING = "nothing earned"
    EXPIRED = "claim expired"
    LAPSED = "lapsed"
    """No report in time; the pool was carried forward."""
    UNKNOWN = "not known"
    """The chain cannot be asked for the pool just now, or the index has no uptimes."""


class NodeEpoch(NamedTuple):
    """One node in one epoch. A tuple, because a year of an operator is thousands of them.

    Attributes:
        share_wei: what full uptime would have paid; None while the pool is unknown.
        lost_wei: share minus reward.
        reward_wei: what the contract pays; None until uptimes are attested.
    """

    node_id: int
    epoch: int
    stage: Stage
    stake_wei: int
    tier: int
    weight: int
    total_weight: int | None
    pool_wei: int | None
    uptime_bps: int | None
    share_wei: int | None
    lost_wei: int | None
    reward_wei: int | None
    claim_tx: str | None
    final_at: int | None

    @property
    def claimable_wei(self) -> int:
        """Reward that can be claimed now."""
        return self.reward_wei or 0 if self.stage is Stage.CLAIMABLE else 0


@dataclass(frozen=True, slots=True)
class EarningsInputs:
    """What `node_epochs` computes entries from.

    Attributes:
        now: Unix seconds.
        lapsed: epochs that no report can come for any more.
        chain_epochs: pool and total weight by epoch; an epoch is absent while the chain cannot be asked.
        uptimes: attested basis points by (node, epoch), after appeals.
        claims: paid rewards by (node, epoch).
        claim_window_seconds: how long a final reward can be claimed; None while the chain cannot be asked.
    """

    current_epoch: int
    now: int
    reports: Mapping[int, ReportRow]
    lapsed: Collection[int]
    chain_epochs: Mapping[int, ChainEpoch]
    uptimes: Mapping[tuple[int, int], int]
    claims: Mapping[tuple[int, int], ClaimRow]
    claim_window_seconds: int | None


def node_epochs(nodes: Sequence[NodeRow], epochs: Sequence[int], inputs: EarningsInputs) -> list[NodeEpoch]:
    """One entry for each (epoch, node) in which the node had weight, in the order given."""
    return [
        _entry(node, epoch, weight, inputs)
        for epoch in epochs
        for node in nodes
        if (weight := node.weight_at(epoch)) > 0
    ]


def _entry(node: NodeRow, epoch: int, weight: int, inputs: EarningsInputs) -> NodeEpoch:
    report = inputs.reports.get(epoch)
    chain_epoch = inputs.chain_epochs.get(epoch)
    claim = inputs.claims.get((node.node_id, epoch))
    uptime = claim.uptime_bps if claim else inputs.uptimes.get((node.node_id, epoch))
    share_wei = chain_epoch.reward(weight, FULL_BPS) if chain_epoch else None
    reward_wei: int | None = None
    if claim is not None:
        reward_wei = claim.amount_wei
    elif chain_epoch is not None and uptime is not None and report is not None:
        reward_wei = chain_epoch.reward(weight, uptime)
    return NodeEpoch(
        node_id=node.node_id,
        epoch=epoch,
        stage=_stage(epoch, report, claim, reward_wei, inputs),
        stake_wei=node.stake_wei,
        tier=node.tier,
        weight=weight,
        total_weight=chain_epoch.total_weight if chain_epoch else None,
        pool_wei=chain_epoch.pool_wei if chain_epoch else None,
        uptime_bps=uptime,
        share_wei=share_wei,
        lost_wei=share_wei - reward_wei if share_wei is not None and reward_wei is not None else None,
        reward_wei=reward_wei,
        claim_tx=claim.tx_hash if claim else None,
        final_at=report.final_at if report else None,
    )


def unsettled_stage(
    epoch: int, report: ReportRow | None, current: int, now: int, lapsed: Collection[int]
) -> Stage | None:
    """The stage of an epoch whose report is missing or not final, for all its nodes alike; None once it is final."""
    if report is not None:
        return Stage.CHALLENGE if now < report.final_at else None
    if epoch >= current:
        return Stage.OPEN
    return Stage.LAPSED if epoch in lapsed else Stage.AWAITING


def _stage(
    epoch: int,
    report: ReportRow | None,
    claim: ClaimRow | None,
    reward_wei: int | None,
    inputs: EarningsInputs,
) -> Stage:
    if claim is not None:
        return Stage.CLAIMED
    unsettled = unsettled_stage(epoch, report, inputs.current_epoch, inputs.now, inputs.lapsed)
    if unsettled is not None:
        return unsettled
    if reward_wei is None:
        return Stage.UNKNOWN
    if reward_wei == 0:
        return Stage.NOTHING
    window = inputs.claim_window_seconds
    # As in RewardDistributor: the second of the deadline itself still pays.
    if report is not None and window is not None and inputs.now > report.final_at + window:
        return Stage.EXPIRED
    return Stage.CLAIMABLE
