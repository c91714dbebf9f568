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
WINDOW = 14
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
    """All news of an operator within WINDOW epochs. Raises IndexUnavailableError."""
    with sources.open() as (snapshot, head, status):
        nodes = [node for node in snapshot.nodes_of(address) if not node.withdrawn]
        if not nodes or status.epoch is None:
            return []
        return [
            *_online(sources, snapshot, store, status, nodes),
            *_stakes(snapshot, status, nodes),
            *_epochs(sources, snapshot, head, status, nodes),
        ]


def _online(
    sources: Sources, snapshot: Snapshot, store: Store, status: Status, nodes: list[NodeRow]
) -> Iterator[News]:
    lives = latest(snapshot.probes(latest_slots(sources.clock, status.now), [node.node_id for node in nodes]))
    for node_id, live in lives.items():
        turned = store.turned(node_id, live.online)
        if turned is not None:
            event = "node.online" if live.online else "node.offline"
            words = "answers again" if live.online else "missed its latest probe"
            yield News(
                f"{event}:{node_id}:{turned}", event, turned, f"Node {node_id} {words}.", {"node_id": node_id}
            )


def _stakes(snapshot: Snapshot, status: Status, nodes: list[NodeRow]) -> Iterator[News]:
    for node in nodes:
        if node.active_until is None or node.unlock_at is None:
            continue
        data = {"node_id": node.node_id, "stake_wei": str(node.stake_wei), "unlock_at": node.unlock_at}
        asked = snapshot.events(1, node=node.node_id, names=("UnstakeRequested",))
        at = asked[0].timestamp if asked else status.now
        stake = f"{money.exact(node.stake_wei)} PRLX"
        yield News(
            f"cooldown.started:{node.node_id}:{node.unlock_at}",
            "cooldown.started",
            at,
            f"An unstake of node {node.node_id} was asked for; {stake} are withdrawable later.",
            data,
        )
        if node.unlock_at <= status.now:
            yield News(
                f"stake.withdrawable:{node.node_id}:{node.unlock_at}",
                "stake.withdrawable",
                node.unlock_at,
                f"{stake} of node {node.node_id} can be withdrawn now.",
                data,
            )


def _epochs(
    sources: Sources, snapshot: Snapshot, head: Head | None, status: Status, nodes: list[NodeRow]
) -> Iterator[News]:
    current = status.epoch.number if status.epoch else 0
    first = max(0, current - WINDOW)
    ids = [node.node_id for node in nodes]
    reports = snapshot.reports(first, current)
    for row in snapshot.slots(ids, first, current):
        report, missed = reports.get(row.epoch), row.states.count("m")
        if report is None or not missed:
            continue
        data = {"node_id": row.node_id, "epoch": row.epoch, "missed": missed, "uptime_bps": row.uptime_bps}
        text = f"Node {row.node_id} lost {missed} slots in epoch {row.epoch}; its uptime is {money.percent(row.uptime_bps)}."
        yield News(f"slot.missed:{row.node_id}:{row.epoch}", "slot.missed", report.submitted_at, text, data)
        if row.uptime_bps < LOW_UPTIME_BPS:
            yield News(f"uptime.low:{row.node_id}:{row.epoch}", "uptime.low", report.submitted_at, text, data)
    for claim in snapshot.claims(ids, first):
        yield News(
            f"epoch.paid:{claim.node_id}:{claim.epoch}",
            "epoch.paid",
            claim.paid_at,
            f"Node {claim.node_id} was paid {money.exact(claim.amount_wei)} PRLX for epoch {claim.epoch}.",
            {
                "node_id": claim.node_id,
                "epoch": claim.epoch,
                "amount_wei": str(claim.amount_wei),
                "tx": claim.tx_hash,
            },
        )
    yield from _expiring(sources, snapshot, head, status, nodes)


def _expiring(
    sources: Sources, snapshot: Snapshot, head: Head | None, status: Status, nodes: list[NodeRow]
) -> Iterator[News]:
    constants = sources.constants()
    if constants is None:
        return
    claim_window = constants.claim_window_seconds
    back = claim_window // sources.clock.length_seconds + WINDOW
    for entry in history_of(sources, snapshot, head, status, nodes, min(back, 400)).entries:
        if entry.stage is not Stage.CLAIMABLE or entry.final_at is None:
            continue
        deadline = entry.final_at + claim_window
        warn_at = deadline - claim_window // 10
        if status.now >= warn_at:
            yield News(
                f"claim.expiring:{entry.node_id}:{entry.epoch}",
                "claim.expiring",
                warn_at,
                f"{money.exact(entry.claimable_wei)} PRLX of node {entry.node_id} for epoch {entry.epoch} expire in "
                f"{money.duration(deadline - status.now)}.",
                {
                    "node_id": entry.node_id,
                    "epoch": entry.epoch,
                    "amount_wei": str(entry.claimable_wei),
                    "deadline": deadline,
                },
            )
