"""The live nodes and what each can serve now: the index that the router samples from.

A node is *capable* of a capability (e.g. a model) while it is registered, sends heartbeats and offers it. It is *available*
while it also has a free slot, a reputation above 0 and no open breaker. The pools hold available nodes only, so a sample
never meets a full one. Every change costs O(offers of the node), whatever the size of the fleet.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from offchain.domain.types import FULL_BPS, NodeId
from offchain.scheduler.breaker import Breaker, BreakerState
from offchain.scheduler.weighted_pool import WeightedPool

SILENCE_SECONDS = 6.0
"""Seconds without a heartbeat (three of them) after which a node is removed and gets no work."""
MAX_NAMES = 10_000
"""Capability names remembered after their last node has left. A bound, because nodes choose the names they offer."""
_CLOSED = BreakerState.CLOSED
"""Looked up once: Python 3.11 takes 0.3 us for a member of an enumeration."""
SMOOTHING = 0.2
"""Weight of a new measurement in a running mean."""
FORGETTING = 0.97
"""Factor on a node's mean time to the first byte at each of its heartbeats, so that a node that was slow once is tried again."""


def _smoothed(mean: float, value: float) -> float:
    return value if mean == 0.0 else mean + SMOOTHING * (value - mean)


@dataclass(frozen=True, slots=True)
class Offer:
    """One capability that a node offers: its revision, and the context size in tokens."""

    revision: str
    context_size: int


@dataclass(frozen=True, slots=True)
class NodeReport:
    """A node's verified heartbeat, with the hardware tier that is registered on chain.

    Attributes:
        url: base URL of the agent.
        region: e.g. `eu-west`.
        tier: 1 to 4.
        offers: by the name of the capability.
        slots, free_slots: units that the node can work on at once, and how many more when it sent the heartbeat.
        queue: units that wait inside the node.
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
    """A live node and what this process knows of it.

    Attributes:
        leases: slots that this process uses now; peak_leases: the most since the last heartbeat.
        foreign: slots that other processes use, estimated from the last heartbeat.
        reputation_bps: 10,000 for a node without a record; a node with 0 gets no work.
        succeeded, failed: attempts of this process that ended so, since the node's first heartbeat.
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
    breaker: Breaker = field(default_factory=Breaker)
    prefixes: "OrderedDict[int, None]" = field(default_factory=OrderedDict)

    @property
    def free(self) -> int:
        """Slots that this process may lease now."""
        return self.report.slots - self.leases - self.foreign

    def first_byte_took(self, seconds: float) -> None:
        """Fold a measured time to the first byte into the running mean."""
        self.first_byte_seconds = _smoothed(self.first_byte_seconds, seconds)

    def round_trip_took(self, seconds: float) -> None:
        """Fold a measured round trip into the running mean."""
        self.rtt_seconds = _smoothed(self.rtt_seconds, seconds)

    def remember_prefixes(self, hashes: tuple[int, ...], limit: int = 512) -> None:
        """Remember the prefixes of an input that this node has just worked on: its prefix cache is warm for them."""
        for value in hashes:
            self.prefixes[value] = None
            self.prefixes.move_to_end(value)
        while len(self.prefixes) > limit:
            self.prefixes.popitem(last=False)


class Fleet:
    """The index of live nodes. Methods do no I/O; `now` is seconds of the caller's monotonic clock."""

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
        """When a node that has left, and that offered this capability, sent its last heartbeat; None when none ever did."""
        return self._heard.get(capability)

    def pools(self, capability: str) -> dict[str, dict[int, WeightedPool]]:
        """Region -> tier -> pool of available nodes."""
        return self._pools.get(capability, {})

    # ---------------------------------------------------------------------------------------------------- changes

    def update(self, report: NodeReport, now: float) -> LiveNode:
        """Take in a report: the node becomes live, or its offers, slots and load change."""
        node = self._nodes.get(report.node_id)
        if node is None:
            node = self._nodes[report.node_id] = LiveNode(report, now)
            node.foreign = max(0, report.slots - report.free_slots)
            node.reputation_bps = self._reputation.get(report.node_id, FULL_BPS)
            self._join(node)
            return node
        self._nodes.move_to_end(report.node_id)  # oldest heartbeat first: `expire` reads from the front
        node.seen_at = now
        node.first_byte_seconds *= FORGETTING
        node.breaker.sign_of_life(now)
        busy = report.slots - report.free_slots
        # the heartbeat was sent before now: slots that we have released since are in `busy`, and not foreign
        node.foreign = max(0, busy - max(node.leases, node.peak_leases))
        node.peak_leases = node.leases
        old, new = node.report, report
        if (old.offers, old.region, old.tier, old.slots) != (new.offers, new.region, new.tier, new.slots):
            self._leave(node)
            node.report = report
            self._join(node)
        else:
            node.report = report
            self.refresh(node)
        return node

    def rate(self, reputation: Mapping[NodeId, int]) -> None:
        """Take in the reputation of all nodes in basis points. A node that is not named has 10,000."""
        self._reputation = reputation
        for node in self:
            rated = reputation.get(node.report.node_id, FULL_BPS)
            if rated != node.reputation_bps:
                node.reputation_bps = rated
                self.refresh(node)

    def remove(self, node_id: NodeId) -> None:
        """Remove a node (withdrawn or silent), if it is live."""
        node = self._nodes.pop(node_id, None)
        if node is not None:
            self._leave(node)
            self._open.pop(node_id, None)

    def expire(self, now: float) -> list[LiveNode]:
        """Remove and return the nodes without a heartbeat for `silence_seconds`."""
        gone: list[LiveNode] = []
        while self._nodes:
            node = next(iter(self._nodes.values()))
            if now - node.seen_at <= self._silence_seconds:
                break
            self.remove(node.report.node_id)
            gone.append(node)
        return gone

    def reopen(self, now: float) -> None:
        """Half-open every breaker that was open for long enough: its node may be tried again."""
        for node in list(self._open.values()):
            if node.breaker.try_half_open(now):
                self._open.pop(node.report.node_id, None)
                self.refresh(node)

    def leased(self, node: LiveNode) -> None:
        """This process leased a slot of the node."""
        node.leases += 1
        node.peak_leases = max(node.peak_leases, node.leases)
        if node.free <= 0 or node.breaker.state is not _CLOSED:
            self.refresh(node)

    def released(self, node: LiveNode) -> None:
        """This process released a slot of the node."""
        node.leases -= 1
        if node.free == 1 or node.breaker.state is not _CLOSED:  # 1: it was full and in no pool
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
        """The node answered that no slot is free: until its next heartbeat other processes count as using the rest."""
        node.foreign = max(0, node.report.slots - node.leases)
        self.refresh(node)

    # ------------------------------------------------------------------------------------------------------ inside

    def refresh(self, node: LiveNode) -> None:
        """Add the node to the pools of its capabilities if it is available, else remove it from them."""
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
        if node.free <= 0 or not node.reputation_bps:
            return False
        state = node.breaker.state
        # half open: one trial at a time
        return state is BreakerState.CLOSED or (state is BreakerState.HALF_OPEN and node.leases == 0)

    def _pool(self, capability: str, region: str, tier: int) -> WeightedPool:
        tiers = self._pools.setdefault(capability, {}).setdefault(region, {})
        pool = tiers.get(tier)
        if pool is None:
            pool = tiers[tier] = WeightedPool()
            # sorted: `pick` takes the lowest tier first
            self._pools[capability][region] = dict(sorted(tiers.items()))
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
            else:  # the last node that offered this name has left: keep no pool for it
                self._capable.pop(capability, None)
                self._pools.pop(capability, None)
