"""Earnings, exports, evidence, activity and claims over the seeded network."""

import csv
import io
import json

import pytest
from flask.testing import FlaskClient
from sqlalchemy import create_engine, text

from offchain.domain.types import Epoch, NodeId
from offchain.domain.uptime_tree import verify
from tests.support.webapp.seed import PRLX, SeededNetwork, app_of, seed
from webapp.views.register import parse_key, parse_stake


def data(client: FlaskClient, path: str) -> dict:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return json.loads(answer.data)


def earnings(client: FlaskClient, net: SeededNetwork, query: str = "") -> dict:
    return data(client, f"/operators/{net.owners[0]}/earnings?format=json&{query}")


def test_waterfall__any_range__balances_to_the_wei(client: FlaskClient, seeded: SeededNetwork) -> None:
    for query in ("", "from=0", "from=20&to=25", "node=5", "stage=claimable"):
        w = {name: int(v) for name, v in earnings(client, seeded, query)["waterfall"].items()}
        assert w["pool_wei"] == w["others_wei"] + w["share_wei"]
        assert w["share_wei"] == w["lost_wei"] + w["reward_wei"]
        assert w["reward_wei"] == w["claimed_wei"] + w["claimable_wei"] + w["pending_wei"] + w["expired_wei"]
        assert w["reward_wei"] > 0


def test_earnings__filters__leave_what_they_say(client: FlaskClient, seeded: SeededNetwork) -> None:
    rows = earnings(client, seeded, "from=20&to=25&node=2")["rows"]
    assert [(r["epoch"], r["node_id"]) for r in rows] == [(e, 2) for e in range(25, 19, -1)]
    assert {r["stage"] for r in earnings(client, seeded, "stage=lapsed&from=0")["rows"]} == {"lapsed"}


@pytest.mark.parametrize("query", ["from=x", "to=-1", "node=0", "stage=soon", "from=99999999999"])
def test_earnings__malformed_filter__is_refused(
    client: FlaskClient, seeded: SeededNetwork, query: str
) -> None:
    assert client.get(f"/operators/{seeded.owners[0]}/earnings?{query}").status_code == 400


def test_csv__export__has_every_row_and_digit(client: FlaskClient, seeded: SeededNetwork) -> None:
    answer = client.get(f"/operators/{seeded.owners[0]}/earnings.csv?from=0")
    assert answer.mimetype == "text/csv"
    assert "attachment" in answer.headers["Content-Disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    twin = earnings(client, seeded, "from=0")["rows"]
    assert len(rows) == len(twin) > 200
    for row, entry in zip(rows, twin, strict=True):
        assert row["reward_wei"] == (entry["reward_wei"] or "")
        if row["reward_prlx"]:
            whole, _, part = row["reward_prlx"].partition(".")
            assert int(whole) * PRLX + int(part.ljust(18, "0")) == int(entry["reward_wei"])


def test_export__unknown_kind__is_a_page(client: FlaskClient, seeded: SeededNetwork) -> None:
    assert client.get(f"/operators/{seeded.owners[0]}/earnings.xls").status_code == 404


def test_claims__of_operator__prove_against_the_reports(client: FlaskClient, seeded: SeededNetwork) -> None:
    view = data(client, f"/api/v1/operators/{seeded.owners[0]}/claims")
    assert view["claims"]
    assert view["broken"] == []
    engine = create_engine(seeded.url)
    with engine.connect() as db:
        reports = {
            e: (r, n) for e, r, n in db.execute(text("select epoch, uptime_root, node_count from reports"))
        }
    engine.dispose()
    for line in view["claims"]:
        root, count = reports[line["epoch"]]
        assert verify(
            bytes.fromhex(root[2:]),
            Epoch(line["epoch"]),
            count,
            NodeId(line["node_id"]),
            bytes.fromhex(line["packed_leaf"][2:]),
            [bytes.fromhex(item[2:]) for item in line["proof"]],
        )
    assert int(view["total_wei"]) == sum(int(line["amount_wei"]) for line in view["claims"])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/operators/0x1/claims", 400),
        ("/api/v1/nodes/999/claims", 404),
        ("/api/v1/nodes/x/claims", 400),
        ("/api/v1/nothing", 404),
    ],
)
def test_api__bad_input__is_json(client: FlaskClient, path: str, status: int) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.mimetype == "application/json"
    assert json.loads(answer.data)["error"]["message"]


def test_evidence__lost_slot__names_two_regions_and_checked_signatures(client: FlaskClient) -> None:
    view = data(client, "/nodes/5/epochs/33?format=json")
    assert view["bundle_here"] is True
    lost = [slot for slot in view["slots"] if slot["state"] == "missed"]
    assert lost
    for slot in lost:
        assert {saw["region"] for saw in slot["saw"]} == {"eu-west", "us-east"}
        assert all(saw["holds"] for saw in slot["saw"])


def test_evidence__tampered_bundle__is_not_shown(
    seeded: SeededNetwork, tmp_path_factory, built_assets
) -> None:
    net = seed(tmp_path_factory.mktemp("tampered"), nodes=12, epochs=12)
    engine = create_engine(net.url)
    with engine.begin() as db:
        db.execute(text("update bundles set body = cast(body || ' ' as blob)"))
    engine.dispose()
    with net.chain() as url:
        client = app_of(net, url).test_client()
        for node in range(1, 11):
            view = data(client, f"/nodes/{node}/epochs/8?format=json")
            assert view["bundle_here"] is False
            assert all(slot["saw"] == [] for slot in view["slots"])


@pytest.mark.parametrize(("path", "status"), [("/nodes/5/epochs/x", 400), ("/nodes/999/epochs/1", 404)])
def test_evidence__bad_input__proper_page(client: FlaskClient, path: str, status: int) -> None:
    assert client.get(path).status_code == status


def test_evidence__epoch_without_report__says_so(client: FlaskClient, seeded: SeededNetwork) -> None:
    assert "no attested slots" in client.get(f"/nodes/5/epochs/{seeded.epoch}").text


def test_activity__filters__leave_what_they_say(client: FlaskClient) -> None:
    lines = data(client, "/activity?format=json&kind=rewards&node=2")["lines"]
    assert lines
    assert {(line["kind"], line["node_id"]) for line in lines} == {("rewards", 2)}


def test_activity__pages__are_whole_and_in_order(client: FlaskClient) -> None:
    places, older = [], ""
    for _ in range(20):
        view = data(client, f"/activity?format=json&before={older}")
        places += [tuple(map(int, line["place"].split("."))) for line in view["lines"]]
        older = view["older"]
        if not older:
            break
    assert len(places) > 200
    assert places == sorted(set(places), reverse=True)


def test_activity__stream__resumes_after_the_last_event(client: FlaskClient) -> None:
    newest = data(client, "/activity?format=json")["lines"]
    answer = client.get("/activity/stream", headers={"Last-Event-ID": newest[3]["place"]})
    chunks = []
    for chunk in answer.response:
        chunks.append(chunk if isinstance(chunk, str) else chunk.decode())
        if len(chunks) == 4:
            break
    answer.close()
    ids = [line[4:] for chunk in chunks for line in chunk.splitlines() if line.startswith("id: ")]
    assert ids == [line["place"] for line in reversed(newest[:3])]


def test_activity__malformed_filter__takes_no_seat(seeded: SeededNetwork, built_assets) -> None:
    with seeded.chain() as url:
        client = app_of(seeded, url, threads=4).test_client()
        assert {client.get("/activity/stream?node=x").status_code for _ in range(3)} == {400}
        with client.get("/activity/stream") as answer:
            assert answer.status_code == 200


def test_activity__too_many_streams__are_refused_and_seats_come_back(
    seeded: SeededNetwork, built_assets
) -> None:
    with seeded.chain() as url:
        client = app_of(seeded, url, threads=4).test_client()
        taken = [client.get("/activity/stream") for _ in range(2)]
        assert client.get("/activity/stream").status_code == 503
        for answer in taken:
            answer.close()
        last = client.get("/activity/stream")
        assert last.status_code == 200
        last.close()


@pytest.mark.parametrize(
    ("text_", "wei"),
    [
        ("50000", 50_000 * PRLX),
        (" 50,000.5 ", 50_000 * PRLX + PRLX // 2),
        ("0.000000000000000001", 1),
        ("0", None),
        ("-1", None),
        ("1e5", None),
        ("1.0000000000000000001", None),
        ("٣", None),
        ("9" * 25, None),
        ("50 000", 50_000 * PRLX),
        ("50\u202f000", 50_000 * PRLX),
        ("1,5", None),
        ("5 0000", None),
        ("1.²", None),
        ("", None),
    ],
)
def test_parse_stake__text__is_exact_or_refused(text_: str, wei: int | None) -> None:
    assert parse_stake(text_) == wei


def test_parse_key__public_key_and_hash__give_the_same() -> None:
    from offchain.domain.eip712 import keccak256

    key = bytes(range(64))
    expected = "0x" + keccak256(key).hex()
    assert parse_key(key.hex()) == parse_key("0x04" + key.hex()) == parse_key(expected) == expected
    for wrong in ("", "0x", "0x12", "z" * 64, "0" * 64, "05" + key.hex()):
        assert parse_key(wrong) is None
