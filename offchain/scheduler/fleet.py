"""Who can serve what, now: the live index that placements are drawn from.

A node is *capable* of a capability while it is registered, heard of and offers it; it is *available* while it also has
a free slot and a closed breaker. Only available nodes lie in the pools, so a draw never meets a full node. Every change
costs O(number of the node's offers), whatever the size of the fleet.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from offchain.domain.types import FULL_BPS, NodeId
from offchain.scheduler.breaker import Breaker, BreakerState
from offchain.scheduler.weighted_pool import WeightedPool

SILENCE_SECONDS = 6.0
"""Three heartbeats: a node not heard of for longer is given no work."""
MAX_NAMES = 10_000
"""Capability names that are remembered after their last node has left; whoever registers nodes could invent any number."""
_CLOSED = BreakerState.CLOSED
"""Looked up once: Python 3.11 takes 0.3 us for a member of an enumeration."""
SMOOTHING = 0.2
FORGETTING = 0.97
"""What is left of a measured time to the first byte at each report, so that a node that was slow once is tried again."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One capability of a node: its revision, and the extent it holds (for a model: context tokens)."""

    revision: str
    extent: int


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node said of itself in a verified heartbeat, joined with what the chain says of it.

    Attributes:
        node_id: registered id.
        url: base URL of the agent.
        region: where it is.
        tier: hardware tier as registered.
        offers: capability name -> offer.
        slots: units it can work on at once.
        free_slots: of those, free when it reported.
        queue: units waiting inside the node.
        price_per_token_wei: asked per unit of output.
    """

    node_id: NodeId
    url: str
    region: str
    tier: int
    offers: dict[str, Offer]
    slots: int
    free_slots: int
    queue: int = 0
    price_per_token_wei: int = 0


@dataclass(slots=True)
class LiveNode:
    """A node as the dispatcher sees it.

    Attributes:
        foreign: slots that others use, as far as we know.
        reputation_bps: 10,000 is a node of which nothing is known; 0 gets no work.
        succeeded, failed: attempts that we made since the node was heard of first, by how they ended.
    """

    report: NodeReport
    seen_at: float
    leases: int = 0
    peak_leases: int = 0
    foreign: int = 0
    reputation_bps: int = FULL_BPS
    rtt_seconds: float = 0.0
    first_byte_seconds: float = 0.0
    succeeded: int = 0
    failed: int = 0
    draining: bool = False
    breaker: Breaker = field(default_factory=Breaker)
    prefixes: "OrderedDict[int, None]" = field(default_factory=OrderedDict)

    @property
    def free(self) -> int:
        """Slots that may be leased now."""
        return self.report.slots - self.leases - self.foreign

    def first_byte_took(self, seconds: float) -> None:
        """Fold a measured time to the first byte into the running mean."""
        old = self.first_byte_seconds
        self.first_byte_seconds = seconds if old == 0.0 else old + SMOOTHING * (seconds - old)

    def round_trip_took(self, seconds: float) -> None:
        """Fold a measured round trip into the running mean."""
        old = self.rtt_seconds
        self.rtt_seconds = seconds if old == 0.0 else old + SMOOTHING * (seconds - old)

    def remember_prefixes(self, hashes: tuple[int, ...], limit: int = 512) -> None:
        """Note input prefixes that this node has just worked on; the oldest are forgotten."""
        for value in hashes:
            self.prefixes[value] = None
            self.prefixes.move_to_end(value)
        while len(self.prefixes) > limit:
            self.prefixes.popitem(last=False)


class Fleet:
    """The index. All methods are synchronous and take the time from the caller."""

    def __init__(self, silence_seconds: float = SILENCE_SECONDS) -> None:
        self._silence_seconds = silence_seconds
        self._nodes: OrderedDict[NodeId, LiveNode] = OrderedDict()
        self._capable: dict[str, dict[NodeId, LiveNode]] = {}
        self._pools: dict[str, dict[str, dict[int, WeightedPool]]] = {}
        self._open: dict[NodeId, LiveNode] = {}
        self._heard: dict[str, float] = {}
        self._reputation: Mapping[NodeId, int] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[LiveNode]:
        return iter(self._nodes.values())

    def round_trip_took(self, node_id: NodeId, seconds: float) -> None:
        """A round trip to a node was measured."""
        node = self.get(node_id)
        if node is not None:
            node.round_trip_took(seconds)

    def get(self, node_id: NodeId) -> LiveNode | None:
        """A live node, or None."""
        return self._nodes.get(node_id)

    def at(self, node_id: NodeId) -> LiveNode:
        """A node that is known to be live. Raises KeyError when it is not."""
        return self._nodes[node_id]

    def capabilities(self) -> dict[str, dict[NodeId, LiveNode]]:
        """Capability -> live nodes that offer it."""
        return {name: nodes for name, nodes in self._capable.items() if nodes}

    def capable(self, capability: str) -> dict[NodeId, LiveNode]:
        """Live nodes that offer a capability, available or not."""
        return self._capable.get(capability, {})

    def last_heard(self, capability: str) -> float | None:
        """When a node that has left was heard of last while it offered this; None when none ever did."""
        return self._heard.get(capability)

    def pools(self, capability: str) -> dict[str, dict[int, WeightedPool]]:
        """Region -> tier -> pool of available nodes."""
        return self._pools.get(capability, {})

    # ---------------------------------------------------------------------------------------------------- changes

    def update(self, report: NodeReport, now: float) -> LiveNode:
        """Take in a node's own report. It becomes live, or its offers, slots and load change."""
        node = self._nodes.get(report.node_id)
        if node is None:
            node = self._nodes[report.node_id] = LiveNode(report, now)
            node.foreign = max(0, report.slots - report.free_slots)
            node.reputation_bps = self._reputation.get(report.node_id, FULL_BPS)
            self._join(node)
            return node
        self._nodes.move_to_end(report.node_id)
        node.seen_at = now
        node.first_byte_seconds *= FORGETTING
        node.breaker.sign_of_life(now)
        busy = report.slots - report.free_slots
        node.foreign = max(0, busy - max(node.leases, node.peak_leases))
        node.peak_leases = node.leases
        old = node.report
        if (old.offers, old.region, old.tier, old.slots) != (
            report.offers,
            report.region,
            report.tier,
            report.slots,
        ):
            self._leave(node)
            node.report = report
            self._join(node)
        else:
            node.report = report
            self.refresh(node)
        return node

    def drain(self, node_id: NodeId) -> None:
        """Give a node no new work; what runs there goes on."""
        node = self._nodes.get(node_id)
        if node is not None:
            node.draining = True
            self.refresh(node)

    def rate(self, reputation: Mapping[NodeId, int]) -> None:
        """Take in all nodes' reputation, in basis points; of a node that is not named nothing is known."""
        self._reputation = reputation
        for node in self:
            rated = reputation.get(node.report.node_id, FULL_BPS)
            if rated != node.reputation_bps:
                node.reputation_bps = rated
                self.refresh(node)

    def remove(self, node_id: NodeId) -> LiveNode | None:
        """Forget a node (withdrawn, banned, or silent)."""
        node = self._nodes.pop(node_id, None)
        if node is not None:
            self._leave(node)
            self._open.pop(node_id, None)
        return node

    def expire(self, now: float) -> list[LiveNode]:
        """Remove and return the nodes that have been silent for too long."""
        gone: list[LiveNode] = []
        while self._nodes:
            node = next(iter(self._nodes.values()))
            if now - node.seen_at <= self._silence_seconds:
                break
            self.remove(node.report.node_id)
            gone.append(node)
        return gone

    def reopen(self, now: float) -> list[LiveNode]:
        """Let nodes whose breaker has been open for long enough be tried again; returns them."""
        if not self._open:
            return []
        tried = [node for node in self._open.values() if node.breaker.try_half_open(now)]
        for node in tried:
            self._open.pop(node.report.node_id, None)
            self.refresh(node)
        return tried

    def leased(self, node: LiveNode) -> None:
        """A slot of the node was taken by us."""
        node.leases += 1
        node.peak_leases = max(node.peak_leases, node.leases)
        if node.free <= 0 or node.breaker.state is not _CLOSED:
            self.refresh(node)

    def released(self, node: LiveNode) -> None:
        """A slot that we had taken is free again."""
        node.leases -= 1
        if node.free == 1 or node.breaker.state is not _CLOSED:
            self.refresh(node)

    def succeeded(self, node: LiveNode) -> None:
        """An attempt on the node ended well."""
        node.succeeded += 1
        if node.breaker.state is not _CLOSED or node.breaker.faults:
            node.breaker.succeeded()
            self._open.pop(node.report.node_id, None)
            self.refresh(node)

    def failed(self, node: LiveNode, weight: int, now: float) -> bool:
        """An attempt on the node ended badly. Returns whether its breaker opened."""
        node.failed += 1
        opened = node.breaker.failed(weight, now)
        if opened and node.report.node_id in self._nodes:
            self._open[node.report.node_id] = node
        self.refresh(node)
        return opened

    def occupied(self, node: LiveNode) -> None:
        """The node said that it has no free slot: others hold those that we do not. Holds until its next report."""
        node.foreign = max(0, node.report.slots - node.leases)
        self.refresh(node)

    # ------------------------------------------------------------------------------------------------------ inside

    def refresh(self, node: LiveNode) -> None:
        """Put the node into its pools, or take it out, as its state demands."""
        report = node.report
        if self._nodes.get(report.node_id) is not node:
            return
        available = self._available(node)
        for capability in report.offers:
            pool = self._pool(capability, report.region, report.tier)
            if available:
                pool.add(report.node_id, report.slots)
            else:
                pool.remove(report.node_id)

    @staticmethod
    def _available(node: LiveNode) -> bool:
        if node.draining or node.free <= 0 or not node.reputation_bps:
            return False
        state = node.breaker.state
        return state is BreakerState.CLOSED or (state is BreakerState.HALF_OPEN and node.leases == 0)

    def _pool(self, capability: str, region: str, tier: int) -> WeightedPool:
        tiers = self._pools.setdefault(capability, {}).setdefault(region, {})
        pool = tiers.get(tier)
        if pool is None:
            pool = tiers[tier] = WeightedPool()
            self._pools[capability][region] = dict(sorted(tiers.items()))
            pool = self._pools[capability][region][tier]
        return pool

    def _join(self, node: LiveNode) -> None:
        for capability in node.report.offers:
            self._capable.setdefault(capability, {})[node.report.node_id] = node
        self.refresh(node)

    def _leave(self, node: LiveNode) -> None:
        report = node.report
        for capability in report.offers:
            nodes = self._capable.get(capability, {})
            nodes.pop(report.node_id, None)
            if capability in self._heard or len(self._heard) < MAX_NAMES:
                self._heard[capability] = max(node.seen_at, self._heard.get(capability, 0.0))
            if nodes:
                self._pool(capability, report.region, report.tier).remove(report.node_id)
            else:  # nothing stays of a name that nobody offers any more
                self._capable.pop(capability, None)
                self._pools.pop(capability, None)
