"""The operator page: one owner's nodes, what they earn and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from offchain.domain.types import FULL_BPS
from webapp.index import ClaimRow, Head, NodeRow, OverrideRow, ReportRow, Snapshot
from webapp.sources.epoch_facts import FactSet
from webapp.sources.latest_probes import Live, latest
from webapp.sources.sources import Sources
from webapp.sources.status import Status, latest_slots
from webapp.views.earnings import NodeEpoch, OperatorEarnings, node_epochs
from webapp.views.totals import EpochSum, Totals
from webapp.web.uptime_strips import Strip, strip_of

WINDOWS = (7, 30, 365)
YEAR_SECONDS = 365 * 86_400


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
    live: Live | None
    uptime_bps: int | None
    earned_wei: int
    claimable_wei: int
    claimed_wei: int
    strip: Strip | None


@dataclass(frozen=True, slots=True)
class OperatorTotals:
    """Sums over the operator's nodes; those of rewards are over the window of the page.

    Attributes:
        yield_bps: rewards of the window's settled epochs, scaled to 365 days, over the principal; None without any.
        yield_epochs: how many epochs that rests on.
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


@dataclass(frozen=True, slots=True)
class History:
    """Every (node, epoch) of some nodes in a range, newest epoch first, with what it was built from."""

    entries: Sequence[NodeEpoch]
    facts: FactSet
    reports: Mapping[int, ReportRow]
    overrides: Sequence[OverrideRow]


def history_of(
    desk: Sources,
    snapshot: Snapshot,
    head: Head | None,
    status: Status,
    nodes: Sequence[NodeRow],
    window: int,
    until: int | None = None,
) -> History:
    """Entries of `nodes` over the present epoch and `window` epochs before it, or those of them up to `until`."""
    if status.epoch is None or not nodes:
        return History([], FactSet({}, frozenset(), None), {}, [])
    current = status.epoch.number
    starts = [node.active_from for node in nodes] + [start for node in nodes for start, _ in node.earlier]
    first = min(current, max(0, current - window, min(starts)))
    ids = [node.node_id for node in nodes]
    last = current if until is None else min(current, until)
    first = min(first, last)
    epochs = list(range(last, first - 1, -1))
    reports = snapshot.reports(first, last)
    unreported = [e for e in epochs if e < current and e not in reports]
    facts = desk.facts.load(head, epochs, unreported)
    claims: dict[tuple[int, int], ClaimRow] = {
        (claim.node_id, claim.epoch): claim for claim in snapshot.claims(ids, first, last)
    }
    # a paid reward carries its uptime; slots are looked up for the others alone
    unpaid = [
        e for e in reports if any((node.node_id, e) not in claims and node.weight_at(e) for node in nodes)
    ]
    uptimes = snapshot.uptimes(ids, unpaid)
    overrides = [
        row
        for row in snapshot.overrides(first, last, ids)
        if (report := reports.get(row.epoch)) is not None and row.stands(report)
    ]
    for row in overrides:
        uptimes[row.node_id, row.epoch] = row.recounted_bps
    constants = desk.constants()
    ledger = OperatorEarnings(
        current,
        status.now,
        reports,
        facts.lapsed,
        facts.epochs,
        uptimes,
        claims,
        constants.claim_window_seconds if constants else None,
    )
    return History(node_epochs(nodes, epochs, ledger), facts, reports, overrides)


class OperatorService:
    """Builds the operator page."""

    def __init__(self, desk: Sources) -> None:
        self._desk = desk

    def view(self, address: str, window: int) -> OperatorView:
        """The page of a checksummed address, over one of WINDOWS. An address without nodes gives an empty view.

        Raises:
            IndexUnavailableError: the index cannot be read.
        """
        with self._desk.open() as (snapshot, head, status):
            nodes = snapshot.nodes_of(address)
            history = history_of(self._desk, snapshot, head, status, nodes, window)
            ids = [node.node_id for node in nodes]
            attested = [entry.epoch for entry in history.entries if entry.uptime_bps is not None]
            newest = attested[0] if attested else -1
            strips = {row.node_id: row for row in snapshot.slots(ids, newest, newest)} if attested else {}
            lives = latest(snapshot.probes(latest_slots(self._desk.clock, status.now), ids))
        by_node = {node.node_id: Totals() for node in nodes}
        by_epoch: dict[int, tuple[Totals, NodeEpoch]] = {}
        for entry in history.entries:
            by_node[entry.node_id].add(entry)
            if entry.epoch not in by_epoch:
                by_epoch[entry.epoch] = (Totals(), entry)
            by_epoch[entry.epoch][0].add(entry)
        epoch = status.epoch.number if status.epoch else 0
        lines = []
        for node in nodes:
            row = strips.get(node.node_id)
            strip = strip_of(row.epoch, row.node_id, row.states, row.uptime_bps) if row else None
            lines.append(_node_line(node, epoch, by_node[node.node_id], lives.get(node.node_id), strip))
        sums = [tally.epoch(number, first) for number, (tally, first) in by_epoch.items()]
        return OperatorView(
            status,
            address,
            window,
            lines,
            sums,
            self._totals(lines, history.entries, list(by_node.values()), sums),
            history.facts.error,
        )

    def _totals(
        self,
        lines: Sequence[NodeLine],
        entries: Sequence[NodeEpoch],
        tallies: Sequence[Totals],
        sums: Sequence[EpochSum],
    ) -> OperatorTotals:
        states = dict.fromkeys(("active", "idle", "cooling", "retired"), 0)
        for line in lines:
            states[line.state] += 1
        settled = [line for line in sums if line.reward_wei is not None]
        settled_ids = {line.epoch for line in settled}
        principal = sum(e.stake_wei for e in entries if e.epoch in settled_ids)
        earned = sum(line.reward_wei or 0 for line in settled)
        up_weight = sum(tally.up_weight for tally in tallies)
        # reward per staked wei and epoch, times the epochs of a year
        yield_bps = (
            earned * FULL_BPS * YEAR_SECONDS // (principal * self._desk.clock.length_seconds)
            if principal
            else None
        )
        return OperatorTotals(
            sum(line.stake_wei for line in lines if line.state != "retired"),
            earned,
            sum(tally.claimed for tally in tallies),
            sum(tally.claimable for tally in tallies),
            sum(tally.pending for tally in tallies),
            sum(tally.lost for tally in tallies),
            sum(tally.up_sum for tally in tallies) // up_weight if up_weight else None,
            sum(1 for line in lines if line.live and line.live.online),
            sum(1 for line in lines if line.live),
            sum(1 for line in lines if line.weight),
            states,
            yield_bps,
            len(settled),
        )


def mean_uptime(entries: Sequence[NodeEpoch]) -> int | None:
    """Mean over attested (node, epoch) pairs, weighted by weight, basis points rounded down; None without any."""
    attested = [(entry.uptime_bps, entry.weight) for entry in entries if entry.uptime_bps is not None]
    weight = sum(w for _, w in attested)
    return sum(u * w for u, w in attested) // weight if weight else None


def _node_line(node: NodeRow, epoch: int, tally: Totals, live: Live | None, strip: Strip | None) -> NodeLine:
    return NodeLine(
        node.node_id,
        node.tier,
        node.state_at(epoch),
        node.stake_wei,
        node.weight_at(epoch),
        node.active_from,
        node.active_until,
        node.unlock_at,
        live,
        tally.uptime_bps,
        tally.reward,
        tally.claimable,
        tally.claimed,
        strip,
    )
