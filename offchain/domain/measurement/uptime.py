"""From signed evidence to uptimes: the state of each slot of each node.

A slot is *up* when any keeper holds a dual-signed receipt for it, *missed* when keepers of at least two regions signed a
miss and nobody holds a receipt, *unconfirmed* when misses come from one region only, and *abstained* when nobody probed.
The last two count as up: one region's word and absence of evidence are not downtime.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from offchain.domain.types import FULL_BPS, Bps, NodeId

REGIONS_FOR_A_MISS = 2
COVERAGE_NUMERATOR, COVERAGE_DENOMINATOR = 2, 3


class SlotState(StrEnum):
    """What the evidence says of one (node, slot)."""

    UP = "up"
    MISSED = "missed"
    UNCONFIRMED = "unconfirmed"
    ABSTAINED = "abstained"


@dataclass(frozen=True, slots=True)
class Observation:
    """One keeper's verified evidence about one slot of one node.

    Attributes:
        node: node id.
        slot: slot of the epoch.
        region: the keeper's region as the registry has it.
        answered: True for a dual-signed receipt, False for a signed miss.
    """

    node: NodeId
    slot: int
    region: str
    answered: bool


@dataclass(frozen=True, slots=True)
class UptimeTable:
    """Slot states and uptimes of an epoch.

    Attributes:
        slots: slots of the epoch.
        states: for each node a tuple of `slots` states.
    """

    slots: int
    states: Mapping[NodeId, tuple[SlotState, ...]]

    def missed(self, node: NodeId) -> tuple[int, ...]:
        """Slots that the node lost."""
        return tuple(i for i, state in enumerate(self.states[node]) if state is SlotState.MISSED)

    def uptime(self, node: NodeId) -> Bps:
        """`10,000 x (slots - missed) / slots`, rounded down."""
        return Bps(FULL_BPS * (self.slots - len(self.missed(node))) // self.slots)

    def uptimes(self) -> dict[NodeId, Bps]:
        """Uptime of every node of the table."""
        return {node: self.uptime(node) for node in self.states}

    def covered(self) -> bool:
        """Whether at least two thirds of all (node, slot) pairs were probed; else no keeper may sign."""
        pairs = self.slots * len(self.states)
        probed = sum(state is not SlotState.ABSTAINED for states in self.states.values() for state in states)
        return probed * COVERAGE_DENOMINATOR >= pairs * COVERAGE_NUMERATOR


def tabulate(nodes: Iterable[NodeId], slots: int, observations: Iterable[Observation]) -> UptimeTable:
    """Table of the epoch from verified evidence. Evidence for nodes or slots outside the epoch is ignored."""
    answered: dict[NodeId, set[int]] = {node: set() for node in nodes}
    misses: dict[NodeId, dict[int, set[str]]] = {node: {} for node in answered}
    for seen in observations:
        if seen.node not in answered or not 0 <= seen.slot < slots:
            continue
        if seen.answered:
            answered[seen.node].add(seen.slot)
        else:
            misses[seen.node].setdefault(seen.slot, set()).add(seen.region)
    return UptimeTable(
        slots,
        {
            node: tuple(_state(slot, answered[node], misses[node]) for slot in range(slots))
            for node in sorted(answered)
        },
    )


def _state(slot: int, answered: set[int], misses: Mapping[int, set[str]]) -> SlotState:
    # Asked first: a receipt is proof, a miss only testimony (ADR 0002).
    if slot in answered:
        return SlotState.UP
    regions = len(misses.get(slot, ()))
    if regions >= REGIONS_FOR_A_MISS:
        return SlotState.MISSED
    return SlotState.UNCONFIRMED if regions else SlotState.ABSTAINED
