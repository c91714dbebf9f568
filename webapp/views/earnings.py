"""What a node earned in an epoch and why: the pool's way to a node, with each loss named.

::

    pool x weight / totalWeight          the share
      - share x (10,000 - uptime)        lost by downtime
      = reward                           floor(pool x weight x uptime / (10,000 x totalWeight)), as the contract pays
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from offchain.domain.payout import reward
from offchain.domain.types import FULL_BPS, Bps, Wei, Weight
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

    @property
    def claimed_wei(self) -> int:
        """Reward that was paid."""
        return self.reward_wei or 0 if self.stage is Stage.CLAIMED else 0

    @property
    def pending_wei(self) -> int:
        """Reward that is attested but can still be challenged."""
        return self.reward_wei or 0 if self.stage is Stage.CHALLENGE else 0


@dataclass(frozen=True, slots=True)
class OperatorEarnings:
    """What `node_epochs` needs to know about the epochs it is asked for."""

    current_epoch: int
    now: int
    reports: Mapping[int, ReportRow]
    lapsed: Collection[int]
    facts: Mapping[int, ChainEpoch]
    uptimes: Mapping[tuple[int, int], int]
    claims: Mapping[tuple[int, int], ClaimRow]
    claim_window_seconds: int | None = None


def node_epochs(nodes: Sequence[NodeRow], epochs: Sequence[int], ledger: OperatorEarnings) -> list[NodeEpoch]:
    """One entry for each (epoch, node) in which the node had weight, in the order given."""
    return [
        _entry(node, epoch, weight, ledger)
        for epoch in epochs
        for node in nodes
        if (weight := node.weight_at(epoch)) > 0
    ]


def _entry(node: NodeRow, epoch: int, weight: int, ledger: OperatorEarnings) -> NodeEpoch:
    report = ledger.reports.get(epoch)
    facts = ledger.facts.get(epoch)
    claim = ledger.claims.get((node.node_id, epoch))
    uptime = ledger.uptimes.get((node.node_id, epoch))
    share_wei: int | None = None
    reward_wei: int | None = None
    if facts is not None:
        share_wei = reward(Wei(facts.pool_wei), Weight(weight), Weight(facts.total_weight), Bps(FULL_BPS))
    if claim is not None:
        reward_wei, uptime = claim.amount_wei, claim.uptime_bps
    elif facts is not None and uptime is not None and report is not None:
        reward_wei = reward(Wei(facts.pool_wei), Weight(weight), Weight(facts.total_weight), Bps(uptime))
    return NodeEpoch(
        node.node_id,
        epoch,
        _stage(epoch, report, claim, reward_wei, ledger),
        node.stake_wei,
        node.tier,
        weight,
        facts.total_weight if facts else None,
        facts.pool_wei if facts else None,
        uptime,
        share_wei,
        share_wei - reward_wei if share_wei is not None and reward_wei is not None else None,
        reward_wei,
        claim.tx_hash if claim else None,
        report.final_at if report else None,
    )


def _stage(
    epoch: int,
    report: ReportRow | None,
    claim: ClaimRow | None,
    reward_wei: int | None,
    ledger: OperatorEarnings,
) -> Stage:
    if claim is not None:
        return Stage.CLAIMED
    if report is None:
        if epoch >= ledger.current_epoch:
            return Stage.OPEN
        return Stage.LAPSED if epoch in ledger.lapsed else Stage.AWAITING
    if ledger.now < report.final_at:
        return Stage.CHALLENGE
    if reward_wei is None:
        return Stage.UNKNOWN
    if reward_wei == 0:
        return Stage.NOTHING
    window = ledger.claim_window_seconds
    if window is not None and ledger.now > report.final_at + window:
        return Stage.EXPIRED
    return Stage.CLAIMABLE
