"""Why a node earned what it did in an epoch: each factor, each lost slot with its evidence, and what more uptime pays."""

import csv
import io
from dataclasses import dataclass
from typing import Any

from offchain.audit.verify_epoch import Audit, NodeResult
from offchain.domain.evidence_entries import AnswerEntry, Miss
from offchain.domain.measurement.uptime import SlotState
from offchain.domain.messages import MissReason
from offchain.domain.payout import reward
from offchain.domain.tiers import MULTIPLIER_BPS, Tier
from offchain.domain.types import FULL_BPS, Bps, NodeId, Wei
from offchain.errors import UserError


@dataclass(frozen=True, slots=True)
class Testimony:
    """One keeper's evidence about one slot.

    Attributes:
        at_ms: Unix milliseconds when the answer was complete (node's clock) or the miss was observed (keeper's clock).
        reason: reason of a miss; None for an answer.
    """

    keeper: str
    region: str
    at_ms: int
    reason: MissReason | None

    @property
    def miss(self) -> str:
        """The reason in words, empty for an answer."""
        return "" if self.reason is None else self.reason.name.lower()


@dataclass(frozen=True, slots=True)
class SlotLine:
    """One slot of the node."""

    slot: int
    state: SlotState
    testimonies: tuple[Testimony, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """A node's account of one epoch.

    Attributes:
        one_percent_wei: what 100 basis points more uptime would have paid, 0 when it was full.
    """

    audit: Audit
    node: NodeResult
    stake_wei: Wei
    tier: Tier
    slots: tuple[SlotLine, ...]
    one_percent_wei: Wei

    def to_json(self) -> dict[str, Any]:
        """For machines; amounts are decimal text in wei."""
        account = self.audit.account
        return {
            "epoch": int(self.audit.epoch),
            "nodeId": int(self.node.node_id),
            "status": self.audit.status.name.lower(),
            "poolWei": str(account.funded),
            "stakeWei": str(self.stake_wei),
            "tier": int(self.tier),
            "multiplierBps": MULTIPLIER_BPS[self.tier],
            "weight": str(self.node.weight),
            "totalWeight": str(self.audit.total_weight),
            "attestedBps": self.node.attested,
            "uptimeBps": self.node.uptime,
            "earnedWei": str(self.node.earned),
            "paidWei": str(self.node.paid),
            "onePercentMoreWei": str(self.one_percent_wei),
            "slots": [
                {
                    "slot": line.slot,
                    "state": line.state.value,
                    "evidence": [
                        {
                            "keeper": said.keeper,
                            "region": said.region,
                            "atMs": said.at_ms,
                            "miss": said.miss or None,
                        }
                        for said in line.testimonies
                    ],
                }
                for line in self.slots
            ],
        }

    def to_csv(self) -> str:
        """One line for each testimony; a slot without testimony has one line without a keeper."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["epoch", "node", "slot", "state", "keeper", "region", "at_ms", "miss"])
        for line in self.slots:
            head = [int(self.audit.epoch), int(self.node.node_id), line.slot, line.state.value]
            for said in line.testimonies:
                writer.writerow([*head, said.keeper, said.region, said.at_ms, said.miss])
            if not line.testimonies:
                writer.writerow([*head, "", "", "", ""])
        return out.getvalue()


def statement(audit: Audit, node_id: NodeId) -> Statement:
    """The statement of a node. Raises UserError when the node had no weight in the epoch."""
    found = next((node for node in audit.nodes if node.node_id == node_id), None)
    if found is None:
        raise UserError(f"node {node_id} had no weight in epoch {audit.epoch}; there is nothing to state")
    info = audit.context.nodes[node_id]
    testimonies = _testimonies(audit, node_id)
    states = audit.verdict.table.states[node_id]
    better = Bps(min(FULL_BPS, found.uptime + 100))
    would = reward(audit.account.funded, found.weight, audit.total_weight, better)
    return Statement(
        audit=audit,
        node=found,
        stake_wei=info.stake_wei,
        tier=Tier(info.tier),
        slots=tuple(
            SlotLine(slot, state, tuple(testimonies.get(slot, ()))) for slot, state in enumerate(states)
        ),
        one_percent_wei=Wei(would - found.earned),
    )


def _testimonies(audit: Audit, node_id: NodeId) -> dict[int, list[Testimony]]:
    found: dict[int, list[Testimony]] = {}
    for document in audit.bundle.evidence:
        keeper = audit.context.keeper(document.signer)
        if keeper is None:
            continue
        for answer in map(AnswerEntry.unpack, document.answers):
            if answer.receipt.node_id == node_id:
                said = Testimony(keeper.signer, keeper.region, answer.receipt.finished_at_ms, None)
                found.setdefault(answer.slot, []).append(said)
        for miss in map(Miss.unpack, document.misses):
            if miss.node_id == node_id:
                said = Testimony(keeper.signer, keeper.region, miss.observed_at_ms, miss.reason)
                found.setdefault(miss.slot, []).append(said)
    return found
