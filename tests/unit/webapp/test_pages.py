"""Pages and their JSON twins over a seeded index."""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from offchain.domain.payout import reward
from offchain.domain.types import Bps, Wei, Weight
from offchain.errors import UserError
from tests.support.webapp.queries import counting
from tests.support.webapp.seed import SeededNetwork, app_of

PAGES = (
    "/",
    "/operators",
    "/operators/{owner}",
    "/nodes/1",
    "/nodes/5?epochs=7",
    "/nodes/5/epochs/33",
    "/credits/{owner}",
    "/keys",
)


def data(client: FlaskClient, path: str) -> dict:
    answer = client.get(path + ("&" if "?" in path else "?") + "format=json")
    assert answer.status_code == 200, answer.text
    return json.loads(answer.data)


@pytest.mark.parametrize("path", PAGES)
def test_pages__seeded__say_their_block_and_age(
    client: FlaskClient, seeded: SeededNetwork, path: str
) -> None:
    answer = client.get(path.format(owner=seeded.owners[0]))
    assert answer.status_code == 200
    assert "indexed to block <b>90,040</b>" in answer.text
    assert "3\u202fs" in answer.text


@pytest.mark.parametrize("path", PAGES)
def test_pages__any__run_nothing_inline(client: FlaskClient, seeded: SeededNetwork, path: str) -> None:
    answer = client.get(path.format(owner=seeded.owners[0]))
    assert not re.search(r"<[^>]+\s(?:style|on\w+)=", answer.text)
    assert not re.search(r"<script(?![^>]*(?:src=|type=\"application/json\"))", answer.text)
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy


def test_network__final_epochs__account_balances_to_the_wei(client: FlaskClient) -> None:
    view = data(client, "/")
    final = [e for e in view["epochs"] if e["stage"] == "final"]
    assert len(final) >= 8
    for e in final:
        assert int(e["paid_wei"]) + int(e["claimable_wei"]) + int(e["carried_wei"]) == int(e["pool_wei"])


def test_network__lapsed_epoch__carries_its_whole_pool(client: FlaskClient) -> None:
    lapsed = [e for e in data(client, "/")["epochs"] if e["stage"] == "lapsed"]
    assert [e["carried_wei"] == e["pool_wei"] for e in lapsed] == [True]


def test_network__weight_of_the_fleet__is_the_chains_total(
    client: FlaskClient, seeded: SeededNetwork
) -> None:
    assert int(data(client, "/")["fleet"]["weight"]) == seeded.totals[seeded.epoch]


def test_operator__rewards__are_the_contracts_formula(client: FlaskClient, seeded: SeededNetwork) -> None:
    view = data(client, "/nodes/2?epochs=30")
    checked = 0
    for e in view["epochs"]:
        if e["uptime_bps"] is None:
            continue
        pool, total = seeded.pools[e["epoch"]], seeded.totals[e["epoch"]]
        full = reward(Wei(pool), Weight(int(e["weight"])), Weight(total), Bps(10_000))
        paid = reward(Wei(pool), Weight(int(e["weight"])), Weight(total), Bps(e["uptime_bps"]))
        assert (int(e["share_wei"]), int(e["reward_wei"]), int(e["lost_wei"])) == (full, paid, full - paid)
        checked += 1
    assert checked > 20


def test_operator__sums__are_those_of_its_nodes(client: FlaskClient, seeded: SeededNetwork) -> None:
    owner = seeded.owners[0]
    view = data(client, f"/operators/{owner}")
    nodes = [data(client, f"/nodes/{line['node_id']}") for line in view["nodes"]]
    assert {n["node"]["owner"] for n in nodes} == {owner}
    for name in ("claimable_wei", "claimed_wei", "pending_wei"):
        assert int(view["totals"][name]) == sum(int(n[name]) for n in nodes)
    assert int(view["totals"]["claimable_wei"]) > 0
    assert sum(int(e["claimable_wei"]) for e in view["epochs"]) == int(view["totals"]["claimable_wei"])


def test_operator__claims__are_the_index_rows(client: FlaskClient, seeded: SeededNetwork) -> None:
    with closing(sqlite3.connect(seeded.folder / "index.db")) as db:
        rows = db.execute(
            "select amount_wei from claims where node_id = 1 and epoch >= ?", (seeded.epoch - 30,)
        )
        total = sum(int(amount) for (amount,) in rows)
    assert int(data(client, "/nodes/1")["claimed_wei"]) == total


def test_node__lost_slots__are_named(client: FlaskClient) -> None:
    strips = [s for s in data(client, "/nodes/5")["strips"] if s["missed"]]
    assert strips
    assert f"{len(strips[0]['missed'])} lost:" in client.get("/nodes/5").text


def test_node__running_epoch__is_marked_provisional(client: FlaskClient, seeded: SeededNetwork) -> None:
    first = data(client, "/nodes/1")["strips"][0]
    assert first["epoch"] == seeded.epoch
    assert first["provisional"] is True
    assert sum(run["length"] for run in first["runs"]) == seeded.slots


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/nodes/999", 404, "There is no node 999"),
        ("/nodes/0", 400, "not a node id"),
        ("/nodes/-1", 400, "not a node id"),
        ("/nodes/1e3", 400, "not a node id"),
        ("/nodes/131072", 400, "not a node id"),
        ("/nodes/99999999999999999999", 400, "not a node id"),
        ("/nodes/%F0%9D%9F%8F", 400, "not a node id"),
        ("/operators/0x12", 400, "not an address"),
        ("/operators/" + "g" * 42, 400, "not an address"),
        ("/operators?address=<script>", 400, "not an address"),
        ("/nowhere", 404, "no such page"),
    ],
)
def test_pages__bad_input__proper_page_and_status(
    client: FlaskClient, path: str, status: int, words: str
) -> None:
    html = client.get(path)
    assert html.status_code == status
    assert words in html.text
    twin = client.get(path + ("&" if "?" in path else "?") + "format=json")
    assert twin.status_code == status
    assert words in json.loads(twin.data)["error"]["message"]


def test_operator__unknown_address__shows_how_to_start(client: FlaskClient) -> None:
    answer = client.get("/operators/0x000000000000000000000000000000000000dEaD")
    assert answer.status_code == 200
    assert "No node belongs to this address" in answer.text


def test_operator__lower_case__goes_to_the_checksummed_page(
    client: FlaskClient, seeded: SeededNetwork
) -> None:
    answer = client.get(f"/operators/{seeded.owners[0].lower()}?epochs=7")
    assert answer.status_code == 301
    assert answer.headers["Location"] == f"/operators/{seeded.owners[0]}?epochs=7"


def test_find__address_with_spaces__is_shown(client: FlaskClient, seeded: SeededNetwork) -> None:
    answer = client.get("/operators", query_string={"address": f" {seeded.owners[1]} "})
    assert answer.headers["Location"] == f"/operators/{seeded.owners[1]}"


@pytest.mark.parametrize("path", ["/", "/operators", "/operators/0x000000000000000000000000000000000000dEaD"])
def test_pages__empty_index__still_work(empty_net: SeededNetwork, path: str) -> None:
    with empty_net.chain() as url:
        answer = app_of(empty_net, url).test_client().get(path)
    assert answer.status_code == 200
    assert "The index has read no block yet" in answer.text


def test_pages__no_database__say_what_is_missing(empty_net: SeededNetwork) -> None:
    app = app_of(empty_net, "http://127.0.0.1:1", database_url=f"sqlite:///{empty_net.folder}/none.db")
    answer = app.test_client().get("/")
    assert answer.status_code == 503
    assert "The index is not there yet" in answer.text
    assert app.test_client().get("/ready").status_code == 503
    assert app.test_client().get("/health").status_code == 200


def test_pages__no_tables__say_what_is_missing(empty_net: SeededNetwork) -> None:
    with closing(sqlite3.connect(empty_net.folder / "bare.db")) as db:
        db.execute("create table t (x)")
    app = app_of(empty_net, "http://127.0.0.1:1", database_url=f"sqlite:///{empty_net.folder}/bare.db")
    assert app.test_client().get("/").status_code == 503


def test_pages__chain_down__show_what_the_index_knows(seeded: SeededNetwork, built_assets: Path) -> None:
    client = app_of(seeded, "http://127.0.0.1:1").test_client()
    for path in ("/", f"/operators/{seeded.owners[0]}", "/nodes/1"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "The chain cannot be read just now" in answer.text
    view = data(client, "/nodes/1")
    assert view["epochs"][1]["uptime_bps"] is not None
    assert int(view["claimed_wei"]) > 0


def test_pages__all__few_queries(seeded_app: Flask, seeded: SeededNetwork) -> None:
    index = seeded_app.extensions["sources"].index
    for path in PAGES:
        with counting(index) as queries:
            seeded_app.test_client().get(path.format(owner=seeded.owners[0]))
        assert 1 <= len(queries) <= 10, path


def test_facts__second_visit__asks_the_chain_less(seeded: SeededNetwork, built_assets: Path) -> None:
    with seeded.chain() as url:
        client = app_of(seeded, url).test_client()
        client.get("/nodes/1?epochs=365")
        before = seeded.calls
        client.get("/nodes/1?epochs=365")
        assert seeded.calls == before


def test_assets__browser_that_takes_brotli__gets_it_for_ever(client: FlaskClient) -> None:
    path = re.search(r'src="(/assets/main[^"]+\.js)"', client.get("/").text)
    assert path
    answer = client.get(path[1], headers={"Accept-Encoding": "br, gzip"})
    assert answer.headers["Content-Encoding"] == "br"
    assert "immutable" in answer.headers["Cache-Control"]
    assert answer.headers["Content-Type"].startswith("text/javascript")
    answer.close()


@pytest.mark.parametrize("name", ["manifest.json", "..%2fmanifest.json", "main.js", "..%2f..%2f__init__.py"])
def test_assets__anything_else__is_not_served(client: FlaskClient, name: str) -> None:
    assert client.get(f"/assets/{name}").status_code == 404


def test_create_app__assets_not_built__says_what_to_run(empty_net: SeededNetwork, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make web-assets"):
        app_of(empty_net, "http://127.0.0.1:1", assets_dir=tmp_path / "nothing")


def test_create_app__no_deployment__says_so(empty_net: SeededNetwork, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        app_of(empty_net, "http://127.0.0.1:1", deployment=tmp_path / "none.json")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/html,*/*;q=0.8", "text/html"),
        ("application/json", "application/json"),
        ("*/*", "text/html"),
        ("", "text/html"),
    ],
)
def test_pages__accept_header__chooses_the_twin(client: FlaskClient, accept: str, kind: str) -> None:
    assert client.get("/nodes/1", headers={"Accept": accept}).mimetype == kind
