"""The earnings page: the entries of an operator that filters leave, their sums as a waterfall, and the CSV export."""

import csv
import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from offchain.domain.epochs import EpochClock
from offchain.domain.types import Epoch
from webapp.sources.sources import Sources
from webapp.sources.status import Status
from webapp.views.earnings.history import history_of
from webapp.views.earnings.node_epochs import NodeEpoch, Stage
from webapp.web import money

PAGE_ROWS = 60
_COLUMNS: dict[str, Callable[[NodeEpoch, EpochClock], object]] = {
    "epoch": lambda e, _: e.epoch,
    "epoch_start_utc": lambda e, clock: _utc(clock.start(Epoch(e.epoch))),
    "node_id": lambda e, _: e.node_id,
    "stage": lambda e, _: e.stage.value,
    "tier": lambda e, _: e.tier,
    "stake_prlx": lambda e, _: money.plain(e.stake_wei),
    "weight": lambda e, _: e.weight,
    "total_weight": lambda e, _: e.total_weight,
    "pool_prlx": lambda e, _: _plain(e.pool_wei),
    "uptime_bps": lambda e, _: e.uptime_bps,
    "at_full_uptime_prlx": lambda e, _: _plain(e.share_wei),
    "lost_prlx": lambda e, _: _plain(e.lost_wei),
    "reward_prlx": lambda e, _: _plain(e.reward_wei),
    "reward_wei": lambda e, _: e.reward_wei,
    "claim_tx": lambda e, _: e.claim_tx,
}
"""Columns of the CSV export, each with its value in the row of an entry."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Limits of what is shown; None sets no limit."""

    first: int | None = None
    last: int | None = None
    node: int | None = None
    stage: str | None = None


@dataclass(frozen=True, slots=True)
class Waterfall:
    """From the pools of the attested epochs shown to the amounts paid; the sums hold to the wei.

    `pool = others + share`, `share = lost + reward`, `reward = claimed + claimable + pending + expired`.
    """

    pool_wei: int
    others_wei: int
    share_wei: int
    lost_wei: int
    reward_wei: int
    claimed_wei: int
    claimable_wei: int
    pending_wei: int
    expired_wei: int
    epochs: int


@dataclass(frozen=True, slots=True)
class EarningsView:
    """The earnings page; `rows` are the entries of page `page`, `total_rows` the number that the filters leave."""

    status: Status
    address: str
    filters: Filters
    first_epoch: int
    last_epoch: int
    nodes: Sequence[int]
    waterfall: Waterfall
    rows: Sequence[NodeEpoch]
    total_rows: int
    page: int
    pages: int
    chain_error: str | None


def earnings_page(
    sources: Sources, address: str, filters: Filters, page: int = 1, rows: int = PAGE_ROWS
) -> EarningsView:
    """The page of a checksummed address; `page` counts from 1. Raises IndexUnavailableError."""
    with sources.open() as (snapshot, head, status):
        nodes = snapshot.nodes_of(address)
        current = status.current_epoch
        last = min(current, filters.last) if filters.last is not None else current
        first = filters.first if filters.first is not None else max(0, last - 30)
        wanted = [n for n in nodes if filters.node is None or n.node_id == filters.node]
        back = max(0, current - max(first, current - 3_660))
        history = history_of(sources, snapshot, head, status, wanted, back, until=last)
    entries = [
        e
        for e in history.entries
        if first <= e.epoch <= last and (filters.stage is None or e.stage.value == filters.stage)
    ]
    pages = max(1, -(-len(entries) // rows))
    page = min(max(1, page), pages)
    return EarningsView(
        status=status,
        address=address,
        filters=filters,
        first_epoch=first,
        last_epoch=last,
        nodes=[n.node_id for n in nodes],
        waterfall=waterfall_of(entries),
        rows=entries[(page - 1) * rows : page * rows],
        total_rows=len(entries),
        page=page,
        pages=pages,
        chain_error=history.known.error,
    )


def csv_lines(view: EarningsView, clock: EpochClock) -> Iterator[str]:
    """The rows of a view as CSV lines (RFC 4180); amounts in PRLX with all digits."""
    yield _line(_COLUMNS)
    for entry in view.rows:
        yield _line(value(entry, clock) for value in _COLUMNS.values())


def waterfall_of(entries: Sequence[NodeEpoch]) -> Waterfall:
    """Sums over the attested entries; the pool of an epoch counts once, however many nodes it paid."""
    attested = [e for e in entries if e.reward_wei is not None and e.share_wei is not None]
    pools = {e.epoch: e.pool_wei or 0 for e in attested}
    pool, share = sum(pools.values()), sum(e.share_wei or 0 for e in attested)
    reward = sum(e.reward_wei or 0 for e in attested)
    ends = (Stage.CLAIMED, Stage.CLAIMABLE, Stage.CHALLENGE, Stage.EXPIRED)
    claimed, claimable, pending, expired = (
        sum(e.reward_wei or 0 for e in attested if e.stage is stage) for stage in ends
    )
    sums = pool - share, share, share - reward, reward, claimed, claimable, pending, expired
    return Waterfall(pool, *sums, len(pools))


def _plain(wei: int | None) -> str | None:
    return None if wei is None else money.plain(wei)


def _utc(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _line(values: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue()
