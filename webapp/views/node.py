"""The node page: one node's stake, its uptime slot by slot, and its rewards."""

from collections.abc import Sequence
from dataclasses import dataclass

from offchain.domain.tiers import Tier
from webapp.index import NodeRow
from webapp.sources.latest_probes import LatestProbe, latest, percentile
from webapp.sources.manifests import Capabilities, capabilities_of
from webapp.sources.sources import Sources
from webapp.sources.status import Status
from webapp.store import Store
from webapp.views.earnings import NodeEpoch, Totals, history_of
from webapp.views.fleet import TIER_NAMES
from webapp.web.chart import UptimeChart, uptime_chart
from webapp.web.uptime_strips import Strip, live_strip, strip_of

STRIPS = 14
"""Number of attested epochs whose slots the page shows."""


@dataclass(frozen=True, slots=True)
class NodePage:
    """The node page.

    Attributes:
        share_weight: the node's weight in the running epoch, wei-basis-points; `total_weight` is the network's.
        strips: newest epoch first; the strip of the running epoch is provisional.
        probes: number of probes by the index's own keeper in the running epoch.
        chart: uptime over the attested epochs of the window; None for fewer than two.
        served: number of on-chain requests that the node ever answered; `served_wei` was paid for them.
    """

    status: Status
    node: NodeRow
    tier_name: str
    state: str
    share_weight: int
    total_weight: int | None
    live: LatestProbe | None
    probes: int
    p50_ms: int | None
    p95_ms: int | None
    uptime_bps: int | None
    chart: UptimeChart | None
    served: int
    served_wei: int
    strips: Sequence[Strip]
    epochs: Sequence[NodeEpoch]
    earned_wei: int
    claimed_wei: int
    claimable_wei: int
    pending_wei: int
    window: int
    capabilities: Capabilities | None
    manifest_problem: str | None
    chain_error: str | None


class NodePageBuilder:
    """Builds the node page."""

    def __init__(self, sources: Sources, store: Store) -> None:
        self._sources = sources
        self._store = store

    def view(self, node_id: int, window: int) -> NodePage | None:
        """The page of a node over the last `window` epochs; None when there is no such node.

        Raises:
            IndexUnavailableError: the index cannot be read.
        """
        with self._sources.open() as (snapshot, head, status):
            node = snapshot.node(node_id)
            if node is None:
                return None
            history = history_of(self._sources, snapshot, head, status, [node], window)
            epoch = status.epoch.number if status.epoch else 0
            slots = snapshot.slots([node_id], max(0, epoch - STRIPS), epoch)
            reached = self._sources.clock.slot_at(status.now)[1] if status.epoch else 0
            running = [(epoch, slot) for slot in range(reached + 1)] if status.epoch else []
            probes = snapshot.probes(running, [node_id])
            served, served_wei = snapshot.served(node_id)
        strips = [strip_of(row.epoch, row.node_id, row.states, row.uptime_bps) for row in slots]
        strips.sort(key=lambda strip: strip.epoch, reverse=True)
        if status.epoch is not None and node.weight_at(epoch):
            strips.insert(0, live_strip(epoch, node_id, self._sources.clock.slots, reached, probes))
        latest_by_node = latest(probes)
        times = [probe.latency_ms for probe in probes if probe.latency_ms is not None]
        entries = history.entries
        totals = Totals.of(entries)
        chain_epoch = history.known.epochs.get(epoch)
        copy = self._store.manifest(node.manifest_hash) if node.manifest_hash else None
        return NodePage(
            status,
            node,
            TIER_NAMES[Tier(node.tier)],
            node.state_at(epoch),
            node.weight_at(epoch),
            chain_epoch.total_weight if chain_epoch else None,
            latest_by_node.get(node_id),
            len(probes),
            percentile(times, 50),
            percentile(times, 95),
            totals.uptime_bps,
            uptime_chart((e.epoch, e.uptime_bps) for e in entries if e.uptime_bps is not None),
            served,
            served_wei,
            strips,
            entries,
            totals.reward,
            totals.claimed,
            totals.claimable,
            totals.pending,
            window,
            capabilities_of(copy.body) if copy and copy.body else None,
            copy.problem if copy else None,
            history.known.error,
        )
