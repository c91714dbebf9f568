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
from webapp.web.errors import known_node
from webapp.web.uptime_strips import Strip, live_strip, strip_of_row

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


def node_page(sources: Sources, store: Store, node_id: int, window: int) -> NodePage:
    """The page of a node over the last `window` epochs. Raises PageError for an unknown node, and IndexUnavailableError."""
    with sources.open() as (snapshot, head, status):
        node = known_node(snapshot, node_id)
        history = history_of(sources, snapshot, head, status, [node], window)
        epoch = status.current_epoch
        slots = snapshot.slots([node_id], max(0, epoch - STRIPS), epoch)
        reached = sources.clock.slot_at(status.now)[1] if status.epoch else 0
        running = [(epoch, slot) for slot in range(reached + 1)] if status.epoch else []
        probes = snapshot.probes(running, [node_id])
        served, served_wei = snapshot.served(node_id)
    strips = sorted(map(strip_of_row, slots), key=lambda strip: strip.epoch, reverse=True)
    if status.epoch is not None and node.weight_at(epoch):
        strips.insert(0, live_strip(epoch, node_id, sources.clock.slots, reached, probes))
    times = [probe.latency_ms for probe in probes if probe.latency_ms is not None]
    entries = history.entries
    totals = Totals.of(entries)
    chain_epoch = history.known.epochs.get(epoch)
    copy = store.manifest(node.manifest_hash) if node.manifest_hash else None
    return NodePage(
        status=status,
        node=node,
        tier_name=TIER_NAMES[Tier(node.tier)],
        state=node.state_at(epoch),
        share_weight=node.weight_at(epoch),
        total_weight=chain_epoch.total_weight if chain_epoch else None,
        live=latest(probes).get(node_id),
        probes=len(probes),
        p50_ms=percentile(times, 50),
        p95_ms=percentile(times, 95),
        uptime_bps=totals.uptime_bps,
        chart=uptime_chart((e.epoch, e.uptime_bps) for e in entries if e.uptime_bps is not None),
        served=served,
        served_wei=served_wei,
        strips=strips,
        epochs=entries,
        earned_wei=totals.reward,
        claimed_wei=totals.claimed,
        claimable_wei=totals.claimable,
        pending_wei=totals.pending,
        window=window,
        capabilities=capabilities_of(copy.body) if copy and copy.body else None,
        manifest_problem=copy.problem if copy else None,
        chain_error=history.known.error,
    )
