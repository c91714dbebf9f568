"""Answers run again: who is drawn, who agrees, who is flagged; and what reputation follows."""

import json
import signal
from collections.abc import Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offchain.db.cursors import move
from offchain.db.database import Database, open_database
from offchain.db.migrations import upgrade
from offchain.db.models import Event, Job, MarketRequest, SlotRecord
from offchain.db.reputation import VALIDATE, reputations
from offchain.domain.eip712 import keccak256
from offchain.domain.epochs import EpochClock
from offchain.domain.measurement.answer_sampling import (
    BASE_RATE_BPS,
    MAX_RATE_BPS,
    Outcome,
    agree,
    compare,
    drawn,
    rate,
)
from offchain.domain.measurement.reputation import MIN_SLOTS, Band, Record
from offchain.domain.types import BlockRef, Bps, Epoch, NodeId
from offchain.keeper import store
from offchain.keeper.market.answer_sampling import LEASE_SECONDS, ValidateService, comparable
from offchain.keeper.probing.gateway_client import Reply, ReplyKind
from offchain.keeper.process.reputation import reputation_document
from offchain.keeper.process.supervisor import run_forked
from offchain.runtime.crash_points import VALIDATION_POINTS, VARIABLE, CrashPoint, from_environment, nowhere
from tests.support.factories import make_node
from tests.support.keeper.cluster import Hands, StillView
from tests.support.keeper.epoch_factory import EpochWorld

NOW = 1_700_000_000
BODY = json.dumps({"model": "m", "messages": [], "temperature": 0}).encode()
EPOCHS = EpochClock(NOW - 1_000, 100, 10)
TEXT = "the capital of France is Paris and it lies on the Seine"


@pytest.mark.parametrize(
    ("record", "band"),
    [
        (Record(), Band.NEW),
        (Record(slots=1438, missed=2), Band.EXCELLENT),
        (Record(slots=1000, missed=10), Band.GOOD),
        (Record(slots=1000, missed=50), Band.GOOD),
        (Record(slots=1000, missed=60), Band.FAIR),
        (Record(slots=1000, missed=100), Band.FAIR),
        (Record(slots=1000, missed=110), Band.POOR),
        (Record(slots=1000, missed=200), Band.POOR),
        (Record(slots=1000, missed=210), Band.SUSPENDED),
        (Record(slots=100, validated=9, agreed=0), Band.EXCELLENT),
        # Less than a day of slots holds nobody back, and validated work does all the same.
        (Record(slots=MIN_SLOTS - 1, missed=MIN_SLOTS - 1), Band.NEW),
        (Record(slots=MIN_SLOTS, missed=MIN_SLOTS), Band.SUSPENDED),
        (Record(slots=MIN_SLOTS - 1, missed=MIN_SLOTS // 8), Band.NEW),
        (Record(slots=MIN_SLOTS, missed=MIN_SLOTS // 8), Band.POOR),
        (Record(slots=10, missed=1), Band.FAIR),
        (Record(slots=10, missed=10, validated=10, agreed=10), Band.NEW),
        (Record(slots=10, missed=10, validated=20, agreed=17), Band.POOR),
        (Record(slots=10, missed=10, validated=10, agreed=7), Band.SUSPENDED),
        (Record(slots=100, validated=10, agreed=7), Band.SUSPENDED),
        (Record(validated=100, agreed=97), Band.GOOD),
    ],
)
def test_band__shares__fall_into_the_published_bands(record: Record, band: Band) -> None:
    assert record.band is band


def test_rate__disagreement_rises__more_is_checked() -> None:
    assert rate(0, 0) == BASE_RATE_BPS
    assert rate(100, 0) == BASE_RATE_BPS
    assert rate(100, 1) == BASE_RATE_BPS + 1_000
    assert rate(100, 100) == MAX_RATE_BPS


def test_drawn__many_requests__about_the_share_and_never_by_the_request_alone() -> None:
    ids = [keccak256(b"%d" % i) for i in range(4_000)]
    first = {item for item in ids if drawn(item, b"\1" * 32, Bps(500))}
    second = {item for item in ids if drawn(item, b"\2" * 32, Bps(500))}
    assert 120 < len(first) < 280
    assert first != second
    assert all(drawn(item, b"\1" * 32, Bps(10_000)) for item in ids[:50])


@given(st.lists(st.sampled_from(["a", "b"]), max_size=30))
def test_agree__same_words__always(words: list[str]) -> None:
    assert agree(words, words)
    if words:
        assert not agree(words, ["x", *words[1:]])


def test_compare__two_and_three_answers__majority() -> None:
    a, b, c = list("aaaaaaaaaa"), list("bbbbbbbbbb"), list("cccccccccc")
    one, two, three = NodeId(1), NodeId(2), NodeId(3)
    agreed = compare({one: a, two: a})
    assert agreed is not None
    assert (agreed.outcome, agreed.flagged) == (Outcome.AGREED, ())
    assert compare({one: a, two: b}) is None
    odd = compare({one: a, two: b, three: a})
    assert odd is not None
    assert (odd.outcome, odd.agreed, odd.flagged) == (Outcome.ODD_ONE_OUT, (one, three), (two,))
    none = compare({one: a, two: b, three: c})
    assert none is not None
    assert (none.outcome, none.flagged) == (Outcome.ALL_DIFFER, (one, two, three))
    with pytest.raises(ValueError, match="two or three"):
        compare({one: a})


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"temperature":0.7}', b'{"temperature":0,"n":2}', b"[" * 1010 + b"]" * 1010],
)
def test_comparable__answers_that_may_differ__are_left_out(body: bytes) -> None:
    assert not comparable(body)
    assert comparable(BODY)


class Nodes:
    """Nodes behind a gateway: what each says, or None when it fails."""

    def __init__(self, texts: dict[int, str | None]) -> None:
        self.texts = texts
        self.asked: list[int] = []

    async def ask(self, node: NodeId, body: bytes) -> Reply:
        self.asked.append(node)
        text = self.texts[node]
        if text is None:
            return Reply(ReplyKind.NODE_FAILED, 5)
        answer = {"choices": [{"index": 0, "message": {"content": text}}]}
        return Reply(ReplyKind.ANSWER, 5, answer=answer)


class Blocks(StillView):
    """A chain whose blocks have hashes."""

    def block(self, number: int) -> BlockRef:
        return BlockRef(number, "0x" + keccak256(b"%d" % number).hex(), NOW)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/keeper.db"
    upgrade(url)
    opened = open_database(url)
    with opened.write() as session:
        move(session, "finalized", None, BlockRef(50, "0x" + "00" * 32, NOW))
        for node in range(1, 6):
            session.add(make_node(node, owner="0x" + f"{node % 4:040x}"))  # 1 and 5 have one owner
    yield opened
    opened.close()


def served(database: Database, name: bytes, payload: bytes = BODY, result: str = TEXT) -> str:
    """An answer of node 1 that was paid in block 40."""
    request = "0x" + keccak256(name).hex()
    with database.write() as session:
        session.add(
            MarketRequest(
                request_id=request, requester="0x", model_hash="0x", payload=payload, price_ceiling_wei=1,
                deadline=NOW, requested_block=39, status="fulfilled", node_id=1, price_wei=1, result=result.encode(),
            )
        )  # fmt: skip
        session.add(
            Event(
                block_hash="0x" + keccak256(name).hex(), log_index=0, block_number=40, block_timestamp=NOW,
                tx_hash="0x", contract="InferenceMarket", name="InferenceFulfilled", args={"requestId": request},
            )
        )  # fmt: skip
    return request


def make(
    database: Database,
    nodes: Nodes,
    alive: list[int],
    *,
    everything: bool = True,
    now: int = NOW,
    reached: CrashPoint = nowhere,
) -> ValidateService:
    @asynccontextmanager
    async def opened() -> Any:
        yield nodes

    time = Hands(now * 1000)
    service = ValidateService(
        database, Blocks(time, NOW), opened, lambda: [NodeId(n) for n in alive], time, lambda _request: True,
        EPOCHS, lambda _probe: BODY, reached=reached,
    )  # fmt: skip
    if everything:
        service._rate = lambda: Bps(10_000)  # type: ignore[method-assign]
    return service


def result(database: Database, request: str) -> dict[str, Any] | None:
    with database.read() as session:
        row = session.get(Job, (VALIDATE, request))
    return None if row is None else row.result


def test_step__second_node_agrees__both_hold_and_nobody_else_is_asked(database: Database) -> None:
    request, nodes = served(database, b"a"), Nodes({2: TEXT, 3: TEXT})
    make(database, nodes, [1, 2, 3]).step()
    found = result(database, request)
    assert found is not None
    assert (found["outcome"], found["flagged"]) == ("agreed", [])
    assert len(nodes.asked) == 1


@pytest.mark.parametrize(
    ("texts", "flagged", "outcome"),
    [
        ({2: TEXT, 3: "no"}, {3}, "odd_one_out"),
        ({2: "no", 3: "no"}, {1}, "odd_one_out"),
        ({2: "no", 3: "never"}, {1, 2, 3}, "all_differ"),
    ],
)
def test_step__answers_differ__the_odd_one_or_all_are_flagged(
    database: Database, texts: dict[int, str | None], flagged: set[int], outcome: str
) -> None:
    request, nodes = served(database, b"a"), Nodes(texts)
    make(database, nodes, [1, 2, 3]).step()
    found = result(database, request)
    assert found is not None
    if len(nodes.asked) == 2:
        assert (set(found["flagged"]), found["outcome"]) == (flagged, outcome)
    else:
        assert found["outcome"] == "agreed"


@pytest.mark.parametrize("point", VALIDATION_POINTS)
def test_step__killed_at_every_point__one_finding(database: Database, tmp_path: Path, point: str) -> None:
    request = served(database, b"a")
    points = tmp_path / "crash"
    points.mkdir()
    (points / point).touch()
    switch = from_environment({VARIABLE: str(points)}, 31337)

    def step(now: int) -> int:
        def run() -> None:
            with closing(open_database(f"sqlite:///{tmp_path}/keeper.db")) as own:
                make(own, Nodes({2: TEXT, 3: TEXT}), [1, 2, 3], now=now, reached=switch).step()

        return run_forked(run)

    assert [step(NOW), step(NOW + LEASE_SECONDS), step(NOW + 2 * LEASE_SECONDS)] == [-signal.SIGKILL, 0, 0]
    found = result(database, request)
    assert found is not None
    assert found["outcome"] == "agreed"


def test_step__nodes_of_the_same_owner__are_not_asked(database: Database) -> None:
    request, nodes = served(database, b"a"), Nodes({5: TEXT})
    make(database, nodes, [1, 5]).step()
    assert nodes.asked == []
    assert result(database, request) is None


def test_step__nobody_answers__is_tried_again_later(database: Database) -> None:
    request, nodes = served(database, b"a"), Nodes({2: None, 3: None})
    make(database, nodes, [1, 2, 3]).step()
    with database.read() as session:
        row = session.get(Job, (VALIDATE, request))
    assert row is not None
    assert (row.status, row.lease_until > NOW) == ("ready", True)


def test_step__not_comparable__is_settled_without_asking(database: Database) -> None:
    request, nodes = served(database, b"a", b'{"temperature":1}'), Nodes({})
    make(database, nodes, [1, 2, 3]).step()
    with database.read() as session:
        row = session.get(Job, (VALIDATE, request))
    assert row is not None
    assert (row.status, row.result, nodes.asked) == ("done", None, [])


def test_draw__five_per_cent__of_many_requests(database: Database) -> None:
    for number in range(300):
        served(database, b"%d" % number)
    make(database, Nodes({2: TEXT, 3: TEXT}), [1, 2, 3], everything=False).step()
    with database.read() as session:
        rows = [session.get(Job, (VALIDATE, "0x" + keccak256(b"%d" % n).hex())) for n in range(300)]
    waiting = [row for row in rows if row is not None and (row.status != "done" or row.result)]
    assert 4 <= len(waiting) <= 35


def test_step__own_probe_of_the_last_slot__is_run_again_once(database: Database) -> None:
    with database.write() as session:
        for node in (1, 2):
            probe = store.DueProbe(Epoch(9), 9, NodeId(node), NOW * 1000 - 8_000)
            store.plan_probes(session, [probe])
            store.record_probe(session, probe, "answered", {"entry": "", "text": TEXT}, 5)
    nodes = Nodes({1: TEXT, 2: TEXT, 3: "no"})
    service = make(database, nodes, [1, 2, 3])
    for _ in range(4):
        service.step()
    found = [result(database, f"probe:9:9:{node}") for node in (1, 2)]
    assert all(item is not None and not {1, 2} & set(item["flagged"]) for item in found)
    with database.read() as session:
        assert store.is_marked(session, "validate-slot", "9:9")


def test_reputations__slots_and_validations__are_put_together(database: Database) -> None:
    clock = EpochWorld().context.clock
    now = clock.start(9)  # type: ignore[arg-type]
    with database.write() as session:
        session.add(SlotRecord(epoch=8, node_id=1, states="uumu" * 72, uptime_bps=7_500))
        session.add(SlotRecord(epoch=7, node_id=2, states="unau", uptime_bps=10_000))
        for number in range(10):
            session.add(
                Job(kind=VALIDATE, ref=f"0x{number}", status="done", created_at=now, lease_until=0, attempts=1,
                    result={"outcome": "odd_one_out", "agreed": [1], "flagged": [2]})
            )  # fmt: skip
    found = reputations(database, clock, now)
    assert found[NodeId(1)] == Record(288, 72, 10, 10)
    assert found[NodeId(1)].band is Band.SUSPENDED
    assert found[NodeId(2)] == Record(4, 0, 10, 0)
    shown = reputation_document(database, clock, now)
    assert [row["band"] for row in shown["nodes"]] == ["suspended", "suspended"]
