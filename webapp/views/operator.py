"""The operator page: the nodes of one owner, and what they earned in each epoch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from webapp.index import NodeRow
from webapp.sources.latest_probes import LatestProbe, latest
from webapp.sources.sources import Sources
from webapp.sources.status import Status, latest_slots
from webapp.views.earnings import EpochSum, NodeEpoch, Totals, history_of, yearly_bps
from webapp.views.fleet import STATES
from webapp.web.uptime_strips import Strip, strip_of_row


@dataclass(frozen=True, slots=True)
class NodeLine:
    """One node of the operator; sums are over the window of the page."""

    node_id: int
    tier: int
    state: str
    stake_wei: int
    weight: int
    active_from: int
    active_until: int | None
    unlock_at: int | None
    live: LatestProbe | None
    uptime_bps: int | None
    earned_wei: int
    claimable_wei: int
    claimed_wei: int
    strip: Strip | None


@dataclass(frozen=True, slots=True)
class OperatorTotals:
    """Sums over the operator's nodes; those of rewards are over the window of the page.

    Attributes:
        yield_bps: rewards of the window's reported epochs over the stakes in them, scaled to 365 days; None without any.
        yield_epochs: how many reported epochs `yield_bps` rests on.
    """

    staked_wei: int
    earned_wei: int
    claimed_wei: int
    claimable_wei: int
    pending_wei: int
    lost_wei: int
    uptime_bps: int | None
    online: int
    probed: int
    counting: int
    states: Mapping[str, int]
    yield_bps: int | None
    yield_epochs: int


@dataclass(frozen=True, slots=True)
class OperatorView:
    """The operator page."""

    status: Status
    address: str
    window: int
    nodes: Sequence[NodeLine]
    epochs: Sequence[EpochSum]
    totals: OperatorTotals
    chain_error: str | None


def operator_page(sources: Sources, address: str, window: int) -> OperatorView:
    """The page of a checksummed address over the last `window` epochs; empty for an address without nodes.

    Raises:
        IndexUnavailableError: the index cannot be read.
    """
    with sources.open() as (snapshot, head, status):
        nodes = snapshot.nodes_of(address)
        history = history_of(sources, snapshot, head, status, nodes, window)
        ids = [node.node_id for node in nodes]
        newest = next((entry.epoch for entry in history.entries if entry.uptime_bps is not None), -1)
        rows = snapshot.slots(ids, newest, newest) if newest >= 0 else []
        strips = {row.node_id: strip_of_row(row) for row in rows}
        live = latest(snapshot.probes(latest_slots(sources.clock, status.now), ids))
    by_node = {node.node_id: Totals() for node in nodes}
    by_epoch: dict[int, tuple[Totals, NodeEpoch]] = {}
    for entry in history.entries:
        by_node[entry.node_id].add(entry)
        by_epoch.setdefault(entry.epoch, (Totals(), entry))[0].add(entry)
    epoch = status.current_epoch
    lines = [_node_line(node, epoch, by_node[node.node_id], live, strips) for node in nodes]
    sums = [totals.epoch(number, first) for number, (totals, first) in by_epoch.items()]
    totals = _totals(lines, history.entries, sums, sources.clock.length_seconds)
    return OperatorView(status, address, window, lines, sums, totals, history.known.error)


def _totals(
    lines: Sequence[NodeLine], entries: Sequence[NodeEpoch], sums: Sequence[EpochSum], epoch_seconds: int
) -> OperatorTotals:
    settled = {line.epoch for line in sums if line.reward_wei is not None}
    principal = sum(e.stake_wei for e in entries if e.epoch in settled)
    totals = Totals.of(entries)
    return OperatorTotals(
        staked_wei=sum(line.stake_wei for line in lines if line.state != "retired"),
        earned_wei=totals.reward,
        claimed_wei=totals.claimed,
        claimable_wei=totals.claimable,
        pending_wei=totals.pending,
        lost_wei=totals.lost,
        uptime_bps=totals.uptime_bps,
        online=sum(1 for line in lines if line.live and line.live.online),
        probed=sum(1 for line in lines if line.live),
        counting=sum(1 for line in lines if line.weight),
        states=dict.fromkeys(STATES, 0) | Counter(line.state for line in lines),
        yield_bps=yearly_bps(totals.reward, principal, epoch_seconds),
        yield_epochs=len(settled),
    )


def _node_line(
    node: NodeRow, epoch: int, totals: Totals, live: Mapping[int, LatestProbe], strips: Mapping[int, Strip]
) -> NodeLine:
    return NodeLine(
        node_id=node.node_id,
        tier=node.tier,
        state=node.state_at(epoch),
        stake_wei=node.stake_wei,
        weight=node.weight_at(epoch),
        active_from=node.active_from,
        active_until=node.active_until,
        unlock_at=node.unlock_at,
        live=live.get(node.node_id),
        uptime_bps=totals.uptime_bps,
        earned_wei=totals.reward,
        claimable_wei=totals.claimable,
        claimed_wei=totals.claimed,
        strip=strips.get(node.node_id),
    )
