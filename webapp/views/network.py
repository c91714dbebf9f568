"""The network page: the fleet, the keepers, and for each recent epoch how much of its pool was paid, is claimable, or is carried."""

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cachetools import LRUCache

from offchain.chain.reader import Read
from offchain.domain.types import FULL_BPS, BlockRef
from webapp.index import KeeperRow, NodeRow, OverrideRow, PaidGroup, ReportRow, Snapshot
from webapp.sources.chain import ChainEpoch, ChainUnavailableError
from webapp.sources.epoch_facts import KnownEpochs
from webapp.sources.gateway import GatewayApi, GatewayLoad
from webapp.sources.latest_probes import LatestProbe, latest, percentile, weighted_percentile
from webapp.sources.manifests import regions
from webapp.sources.sources import Sources
from webapp.sources.status import Status, latest_slots
from webapp.store import Store
from webapp.views.earnings import Stage, unsettled_stage
from webapp.views.fleet import FleetView, fleet_of

RECENT_EPOCHS = 12
KEEP_SECONDS = 1.0
"""A view is shown to all visitors for this long before the next one is built."""
GRID_NODES = 400
"""A fleet of at most this many nodes is shown as a grid with a cell for each node."""


@dataclass(frozen=True, slots=True)
class EpochLine:
    """Account of one epoch: `paid + claimable + carried = pool` once it is final.

    Attributes:
        stage: open, awaiting report, in challenge window, final or lapsed.
        uptime_bps: mean uptime of the attested nodes, rounded down; None before the report.
        earned_wei: sum of all rewards; `paid_wei` of it was claimed, `claimable_wei` was not.
        carried_wei: part of the pool that nobody earned, by downtime and rounding; all of it when the epoch lapsed.
    """

    epoch: int
    stage: str
    pool_wei: int | None
    total_weight: int | None
    nodes: int | None
    full_nodes: int | None
    uptime_bps: int | None
    earned_wei: int | None
    paid_wei: int | None
    claimable_wei: int | None
    carried_wei: int | None
    signers: int | None
    final_at: int | None


@dataclass(frozen=True, slots=True)
class KeeperLine:
    """A keeper, and how many reports it signed.

    Attributes:
        counts: whether it is in the signer set of the running epoch.
        reports: number of recent reports whose signer set it was in; it signed `signed` of them.
    """

    keeper_id: int
    signer: str
    region: str
    url: str
    bond_wei: int
    counts: bool
    active_from: int
    signed: int
    reports: int


@dataclass(frozen=True, slots=True)
class GridCell:
    """One node on the fleet grid; `online` is None when no recent probe of it is known."""

    node_id: int
    tier: int
    state: str
    online: bool | None


@dataclass(frozen=True, slots=True)
class NetworkView:
    """The network page."""

    status: Status
    fleet: FleetView
    grid: Sequence[GridCell]
    regions: Mapping[str, int]
    online: int
    probed: int
    p50_ms: int | None
    p95_ms: int | None
    keepers: Sequence[KeeperLine]
    epochs: Sequence[EpochLine]
    pool_wei: int | None
    load: GatewayLoad | None
    chain_error: str | None


@dataclass(frozen=True, slots=True)
class _Attested:
    nodes: int
    full: int
    uptime_bps: int
    earned_wei: int


class _LiveFigures(NamedTuple):
    nodes: Mapping[int, LatestProbe]
    online: int
    probed: int
    p50_ms: int | None
    p95_ms: int | None


class NetworkPageBuilder:
    """Builds the network page. The sums over an accepted report are computed once per report and kept."""

    def __init__(self, sources: Sources, gateway: GatewayApi, store: Store) -> None:
        self._sources = sources
        self._gateway = gateway
        self._store = store
        self._lock = threading.Lock()
        self._view: NetworkView | None = None
        self._viewed = 0.0
        self._attested: LRUCache[tuple[int, str, ChainEpoch], _Attested] = LRUCache(512)

    def view(self) -> NetworkView:
        """The page at the index's head, at most a second old. Raises IndexUnavailableError."""
        with self._lock:  # visitors who ask at the same time share one view
            if self._view is None or time.monotonic() - self._viewed >= KEEP_SECONDS:
                self._view, self._viewed = self._build(), time.monotonic()
            return self._view

    def _build(self) -> NetworkView:
        with self._sources.open() as (snapshot, head, status):
            epoch = status.current_epoch
            fleet = fleet_of(snapshot.fleet(), epoch)
            cells = snapshot.nodes(GRID_NODES) if 0 < fleet.total <= GRID_NODES else []
            keepers = snapshot.keepers()
            places = regions(snapshot, self._store, fleet.present) if fleet.present else {}
            first = max(0, epoch - RECENT_EPOCHS)
            reports = snapshot.reports(first, epoch)
            numbers = list(range(epoch, first - 1, -1)) if head and status.epoch else []
            live = self._live(snapshot, status, small=fleet.total <= GRID_NODES)
            known = self._sources.epoch_facts.load(
                head, numbers, [e for e in numbers if e < epoch and e not in reports]
            )
            attested = self._attest(snapshot, reports, known)
            appealed = _appealed(snapshot.overrides(first, epoch), reports, known)
            paid, error = self._paid([e for e in numbers if e in reports], status.ref, known)
        epochs = [
            self._line(e, status, known, reports.get(e), attested.get(e), appealed.get(e, 0), paid.get(e))
            for e in numbers
        ]
        current = known.epochs.get(epoch)
        grid = [_cell(node, epoch, live.nodes) for node in cells if not node.withdrawn]
        signers = [_keeper(row, epoch, keepers, reports.values()) for row in keepers]
        pool = current.pool_wei if current else None
        return NetworkView(
            status, fleet, grid, places, *live[1:], signers, epochs, pool, self._gateway.load(), error
        )

    def _live(self, snapshot: Snapshot, status: Status, *, small: bool) -> _LiveFigures:
        slots = latest_slots(self._sources.clock, status.now)
        if small:
            # The latest slots together: a probe may fall anywhere in its slot, so the running slot lacks many nodes.
            nodes = latest(snapshot.probes(slots))
            times = [live.latency_ms for live in nodes.values() if live.latency_ms is not None]
            online = sum(live.online for live in nodes.values())
            return _LiveFigures(nodes, online, len(nodes), percentile(times, 50), percentile(times, 95))
        # A large fleet is counted by the database, in the newest slot that has ended.
        histogram = snapshot.probe_histogram(*slots[1]) if len(slots) > 1 else []
        online = sum(count for answered, _, count in histogram if answered)
        probed = sum(count for _, _, count in histogram)
        counts = sorted((ms, count) for answered, ms, count in histogram if answered and ms is not None)
        return _LiveFigures({}, online, probed, *(weighted_percentile(counts, share) for share in (50, 95)))

    def _paid(
        self, epochs: Sequence[int], block: BlockRef | None, known: KnownEpochs
    ) -> tuple[Mapping[int, int], str | None]:
        """What was claimed of each epoch's pool, wei; or why the chain could not be asked."""
        if known.error:
            return {}, known.error
        reads = [Read("RewardDistributor", "paidOf", (e,)) for e in epochs]
        try:
            results = self._sources.chain.read(reads, block)
        except ChainUnavailableError as failure:
            return {}, str(failure)
        return {e: paid for e, paid in zip(epochs, results, strict=True) if paid is not None}, None

    def _attest(
        self, snapshot: Snapshot, reports: Mapping[int, ReportRow], known: KnownEpochs
    ) -> dict[int, _Attested]:
        keys = {e: (row.uptime_root, known.epochs[e]) for e, row in reports.items() if e in known.epochs}
        missing = [e for e, key in keys.items() if (e, *key) not in self._attested]
        groups: dict[int, list[PaidGroup]] = {}
        for group in snapshot.paid_groups(missing):
            groups.setdefault(group.epoch, []).append(group)
        for epoch, members in groups.items():
            self._attested[epoch, *keys[epoch]] = _sum_up(members, known.epochs[epoch])
        return {e: found for e, key in keys.items() if (found := self._attested.get((e, *key))) is not None}

    def _line(
        self,
        epoch: int,
        status: Status,
        known: KnownEpochs,
        report: ReportRow | None,
        attested: _Attested | None,
        appealed: int,
        paid: int | None,
    ) -> EpochLine:
        chain_epoch = known.epochs.get(epoch)
        pool = chain_epoch.pool_wei if chain_epoch else None
        stage = unsettled_stage(epoch, report, status.current_epoch, status.now, known.lapsed)
        earned = attested.earned_wei + appealed if attested else None
        carried = pool - earned if pool is not None and earned is not None else None
        if stage is Stage.LAPSED:
            carried, paid = pool, 0
        return EpochLine(
            epoch=epoch,
            stage=stage.value if stage else "final",
            pool_wei=pool,
            total_weight=chain_epoch.total_weight if chain_epoch else None,
            nodes=attested.nodes if attested else None,
            full_nodes=attested.full if attested else None,
            uptime_bps=attested.uptime_bps if attested else None,
            earned_wei=earned,
            paid_wei=paid,
            claimable_wei=earned - paid if earned is not None and paid is not None else None,
            carried_wei=carried,
            signers=report.signers if report else None,
            final_at=report.final_at if report else None,
        )


def _sum_up(groups: Sequence[PaidGroup], chain_epoch: ChainEpoch) -> _Attested:
    nodes = full = uptime = earned = 0
    for group in groups:
        nodes += group.count
        full += group.count if group.uptime_bps == FULL_BPS else 0
        uptime += group.count * group.uptime_bps
        earned += group.count * chain_epoch.reward(group.weight, group.uptime_bps)
    return _Attested(nodes, full, uptime // nodes if nodes else 0, earned)


def _appealed(
    overrides: Sequence[OverrideRow], reports: Mapping[int, ReportRow], known: KnownEpochs
) -> dict[int, int]:
    """What appeals added to the rewards of each epoch, wei."""
    chains: dict[tuple[int, int], tuple[int, OverrideRow]] = {}
    for row in overrides:
        if (report := reports.get(row.epoch)) is not None and row.stands(report):
            # A second appeal starts from the first one's result, so the report's own value is the first one's start.
            reported_bps, _ = chains.get((row.epoch, row.node_id), (row.attested_bps, row))
            chains[row.epoch, row.node_id] = (reported_bps, row)
    added: dict[int, int] = {}
    for (epoch, _), (reported_bps, newest) in chains.items():
        if (chain_epoch := known.epochs.get(epoch)) is not None:
            gain = chain_epoch.reward(newest.weight, newest.recounted_bps)
            gain -= chain_epoch.reward(newest.weight, reported_bps)
            added[epoch] = added.get(epoch, 0) + gain
    return added


def _cell(node: NodeRow, epoch: int, latest_by_node: Mapping[int, LatestProbe]) -> GridCell:
    live = latest_by_node.get(node.node_id)
    return GridCell(node.node_id, node.tier, node.state_at(epoch), live.online if live else None)


def _keeper(
    row: KeeperRow, epoch: int, keepers: Sequence[KeeperRow], reports: Collection[ReportRow]
) -> KeeperLine:
    signed = total = 0
    for report in reports:
        # An epoch's signer set is its active keepers by rising id; bit i of the bitmap is the i-th of them.
        members = [k.keeper_id for k in keepers if k.counts_in(report.epoch)]
        if row.keeper_id in members:
            total += 1
            signed += report.signer_bitmap >> members.index(row.keeper_id) & 1
    who = row.keeper_id, row.signer, row.region, row.url, row.bond_wei
    return KeeperLine(*who, row.counts_in(epoch), row.active_from, signed, total)
