"""Uptimes that an appeal set, on the pages that pay by them; and what the appeal's data answers to bad input."""

import json
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import create_engine, insert, text

from offchain.db.models import Event
from offchain.domain.payout import reward
from offchain.domain.types import Bps, Wei, Weight
from tests.support.webapp.account import csrf
from tests.support.webapp.chain import SeededNetwork, hash_of
from tests.support.webapp.seed import app_of
from webapp.web.chart import uptime_chart

NODE = 1


def data(app: Flask, path: str) -> Any:
    answer = app.test_client().get(path, headers={"Accept": "application/json"})
    assert answer.status_code == 200, answer.text
    return json.loads(answer.data)


def overrule(net: SeededNetwork, epoch: int, attested: int, recounted: int, *, late: int = 60) -> None:
    """The event of an appeal, `late` seconds after the report."""
    engine = create_engine(net.url)
    with engine.begin() as db:
        submitted = db.execute(
            text("select submitted_at from reports where epoch = :e"), {"e": epoch}
        ).scalar()
        number = db.execute(text("select count(*) from events")).scalar() or 0
        args = {"epoch": epoch, "nodeId": NODE, "attested": attested, "recounted": recounted}
        db.execute(
            insert(Event),
            {
                "block_hash": hash_of(f"appeal {number}"),
                "log_index": 0,
                "block_number": 95_000 + number,
                "block_timestamp": int(submitted or 0) + late,
                "tx_hash": hash_of(f"appeal tx {number}"),
                "contract": "UptimeAttestation",
                "name": "UptimeOverridden",
                "args": {name: str(value) for name, value in args.items()},
                "node_id": NODE,
                "epoch": epoch,
                "entity": None,
            },
        )
    engine.dispose()


def down(net: SeededNetwork, epoch: int, bps: int) -> None:
    """The report attests `bps` of the node in the epoch, and nobody claimed it."""
    engine = create_engine(net.url)
    with engine.begin() as db:
        where = {"e": epoch, "n": NODE, "b": bps}
        db.execute(text("update slot_records set uptime_bps = :b where epoch = :e and node_id = :n"), where)
        db.execute(text("delete from claims where epoch = :e and node_id = :n"), {"e": epoch, "n": NODE})
    engine.dispose()


def test_override__of_the_standing_report__is_what_the_node_is_paid_by(
    net: SeededNetwork, app: Flask
) -> None:
    epoch = net.epoch - 1
    down(net, epoch, 2_000)
    overrule(net, epoch, 2_000, 5_000)
    overrule(net, epoch, 5_000, 9_000)
    view = data(app, f"/nodes/{NODE}/epochs/{epoch}")
    entry = view["entry"]
    assert entry["uptime_bps"] == 9_000
    assert int(entry["reward_wei"]) == reward(
        Wei(net.pools[epoch]), Weight(int(entry["weight"])), Weight(net.totals[epoch]), Bps(9_000)
    )
    assert [row["recounted_bps"] for row in view["overrides"]] == [5_000, 9_000]
    page = app.test_client().get(f"/nodes/{NODE}/epochs/{epoch}").text
    assert page.count("An appeal put") == 2


def test_override__from_before_a_rejected_report__counts_no_more(net: SeededNetwork, app: Flask) -> None:
    epoch = net.epoch - 1
    down(net, epoch, 2_000)
    overrule(net, epoch, 2_000, 9_000, late=-60)
    view = data(app, f"/nodes/{NODE}/epochs/{epoch}")
    assert view["entry"]["uptime_bps"] == 2_000
    assert view["overrides"] == []


def test_override__two_of_one_node__the_epochs_account_still_balances(net: SeededNetwork, app: Flask) -> None:
    epoch = net.epoch - 3
    down(net, epoch, 2_000)
    with net.chain() as rpc:
        before = next(e for e in data(app_of(net, rpc), "/")["epochs"] if e["epoch"] == epoch)
        overrule(net, epoch, 2_000, 5_000)
        overrule(net, epoch, 5_000, 9_000)
        after = next(e for e in data(app_of(net, rpc), "/")["epochs"] if e["epoch"] == epoch)
    node = data(app, f"/nodes/{NODE}/epochs/{epoch}")["entry"]
    assert after["stage"] == "final"
    parts = [int(after[name]) for name in ("paid_wei", "claimable_wei", "carried_wei")]
    assert sum(parts) == int(after["pool_wei"])
    assert min(parts) >= 0
    weights = Weight(int(node["weight"])), Weight(net.totals[epoch])
    attested = reward(Wei(net.pools[epoch]), *weights, Bps(2_000))
    assert int(after["earned_wei"]) - int(before["earned_wei"]) == int(node["reward_wei"]) - attested


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/api/v1/nodes/1/epochs/9999/appeal", "Nothing is attested of this epoch yet."),
        ("/api/v1/nodes/1/epochs/3/appeal", "The challenge window of this epoch is over."),
    ],
)
def test_appeal__outside_of_the_window__says_why(app: Flask, path: str, problem: str) -> None:
    view = data(app, path)
    assert view["problem"] == problem
    assert view["evidence"] == view["proof"] == []


def test_appeal__unknown_node__is_json_404(app: Flask) -> None:
    answer = app.test_client().get("/api/v1/nodes/9999/epochs/1/appeal")
    assert answer.status_code == 404
    assert "no node 9999" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [[], {}, {"answers": 5}, {"answers": [5]}, {"answers": ["x" * 1_000]}, {"answers": [""] * 289}],
)
def test_appeal__malformed_receipts__are_refused(net: SeededNetwork, app: Flask, body: Any) -> None:
    client = app.test_client()
    path = f"/api/v1/nodes/1/epochs/{net.epoch - 1}/appeal"
    answer = client.post(path, json=body, headers={"X-CSRFToken": csrf(client)})
    assert answer.status_code == 400
    assert "malformed" in answer.json["error"]["message"]


def test_uptime_chart__gap_and_lowest__are_drawn_and_named() -> None:
    chart = uptime_chart([(3, 10_000), (1, 10_000), (2, 9_600), (7, 9_200), (5, 10_000)])
    assert chart is not None
    assert (chart.first, chart.last, chart.count) == (1, 7, 5)
    assert (chart.worst_epoch, chart.worst_bps, chart.floor_bps) == (7, 9_200, 9_000)
    assert chart.paths == ("M0 0h0L166 40L333 0", "M666 0h0", "M1000 80h0")


@pytest.mark.parametrize("points", [[], [(1, 10_000)]])
def test_uptime_chart__fewer_than_two_epochs__is_none(points: list[tuple[int, int]]) -> None:
    assert uptime_chart(points) is None
