"""News for an operator, found in the index. Each piece of news has a key, and a channel gets each key once."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from webapp.index import Head, NodeRow, Snapshot
from webapp.sources.latest_probes import latest
from webapp.sources.sources import Sources
from webapp.sources.status import Status, latest_slots
from webapp.store import Store
from webapp.views.earnings import Stage, history_of
from webapp.web import money

LOW_UPTIME_BPS = 9_500
WINDOW_EPOCHS = 14
"""Number of past epochs that are searched for news."""


@dataclass(frozen=True, slots=True)
class News:
    """One piece of news.

    Attributes:
        key: unique for the operator, e.g. `slot.missed:7:41`.
        event: one of `webapp.store.EVENTS`.
        at: Unix seconds at which it happened.
        text: one sentence.
        data: ids and amounts; wei as text.
    """

    key: str
    event: str
    at: int
    text: str
    data: dict[str, Any]


def news_of(sources: Sources, store: Store, address: str) -> list[News]:
    """All news of an operator within WINDOW_EPOCHS epochs. Raises IndexUnavailableError."""
    with sources.open() as (snapshot, head, status):
        nodes = [node for node in snapshot.nodes_of(address) if not node.withdrawn]
        if not nodes or status.epoch is None:
            return []
        return [
            *_online(sources, snapshot, store, status, nodes),
            *_stakes(snapshot, status, nodes),
            *_epochs(sources, snapshot, head, status, nodes),
        ]


def _news(event: str, node_id: int, number: int, at: int, text: str, **data: Any) -> News:
    """News of a node; `number` tells it from earlier news of the same event, e.g. the epoch."""
    return News(f"{event}:{node_id}:{number}", event, at, text, {"node_id": node_id, **data})


def _online(
    sources: Sources, snapshot: Snapshot, store: Store, status: Status, nodes: list[NodeRow]
) -> Iterator[News]:
    slots = latest_slots(sources.clock, status.now)
    for node_id, live in latest(snapshot.probes(slots, [node.node_id for node in nodes])).items():
        turned = store.turned(node_id, live.online)
        if turned is not None:
            event = "node.online" if live.online else "node.offline"
            words = "answers again" if live.online else "missed its latest probe"
            yield _news(event, node_id, turned, turned, f"Node {node_id} {words}.")


def _stakes(snapshot: Snapshot, status: Status, nodes: list[NodeRow]) -> Iterator[News]:
    for node in nodes:
        unlock_at = node.unlock_at
        if node.active_until is None or unlock_at is None:
            continue
        asked = snapshot.events(1, node=node.node_id, names=("UnstakeRequested",))
        at = asked[0].timestamp if asked else status.now
        stake = f"{money.exact(node.stake_wei)} PRLX"
        data = {"stake_wei": str(node.stake_wei), "unlock_at": unlock_at}
        text = f"An unstake of node {node.node_id} was asked for; {stake} are withdrawable later."
        # Numbered by its end: an unstake that was called off and asked for again is news again.
        yield _news("cooldown.started", node.node_id, unlock_at, at, text, **data)
        if unlock_at <= status.now:
            text = f"{stake} of node {node.node_id} can be withdrawn now."
            yield _news("stake.withdrawable", node.node_id, unlock_at, unlock_at, text, **data)


def _epochs(
    sources: Sources, snapshot: Snapshot, head: Head | None, status: Status, nodes: list[NodeRow]
) -> Iterator[News]:
    current = status.current_epoch
    first = max(0, current - WINDOW_EPOCHS)
    ids = [node.node_id for node in nodes]
    reports = snapshot.reports(first, current)
    for row in snapshot.slots(ids, first, current):
        report, missed = reports.get(row.epoch), row.states.count("m")
        if report is None or not missed:
            continue
        text = (
            f"Node {row.node_id} lost {missed} slots in epoch {row.epoch}; "
            f"its uptime is {money.percent(row.uptime_bps)}."
        )
        for event in ("slot.missed", "uptime.low") if row.uptime_bps < LOW_UPTIME_BPS else ("slot.missed",):
            data: dict[str, Any] = {"epoch": row.epoch, "missed": missed, "uptime_bps": row.uptime_bps}
            yield _news(event, row.node_id, row.epoch, report.submitted_at, text, **data)
    for claim in snapshot.claims(ids, first):
        amount = money.exact(claim.amount_wei)
        text = f"Node {claim.node_id} was paid {amount} PRLX for epoch {claim.epoch}."
        data = {"epoch": claim.epoch, "amount_wei": str(claim.amount_wei), "tx": claim.tx_hash}
        yield _news("epoch.paid", claim.node_id, claim.epoch, claim.paid_at, text, **data)
    yield from _expiring(sources, snapshot, head, status, nodes)


def _expiring(
    sources: Sources, snapshot: Snapshot, head: Head | None, status: Status, nodes: list[NodeRow]
) -> Iterator[News]:
    """Rewards whose claim window ends within a tenth of its length."""
    constants = sources.constants()
    if constants is None:
        return
    claim_window = constants.claim_window_seconds
    back = claim_window // sources.clock.length_seconds + WINDOW_EPOCHS
    for entry in history_of(sources, snapshot, head, status, nodes, min(back, 400)).entries:
        if entry.stage is not Stage.CLAIMABLE or entry.final_at is None:
            continue
        deadline = entry.final_at + claim_window
        warn_at = deadline - claim_window // 10
        if status.now >= warn_at:
            text = (
                f"{money.exact(entry.claimable_wei)} PRLX of node {entry.node_id} for epoch {entry.epoch} expire in "
                f"{money.duration(deadline - status.now)}."
            )
            data = {"epoch": entry.epoch, "amount_wei": str(entry.claimable_wei), "deadline": deadline}
            yield _news("claim.expiring", entry.node_id, entry.epoch, warn_at, text, **data)
