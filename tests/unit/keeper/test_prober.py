"""What a gateway's reply says about a node, and how probes become evidence once."""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from offchain.db.database import Database, open_database
from offchain.db.migrations import upgrade
from offchain.db.models import Probe
from offchain.domain.eip712 import address_bytes, keccak256
from offchain.domain.epochs import EpochClock
from offchain.domain.evidence_entries import AnswerEntry, Miss
from offchain.domain.messages import MissReason, ServiceReceipt, proof_of_execution
from offchain.domain.tiers import Tier
from offchain.domain.types import BlockRef, Epoch, NodeId, Wei
from offchain.errors import TransientError
from offchain.evidence.bundle import signed_by
from offchain.keeper import store
from offchain.keeper.probing.clock_check import ClockCheck
from offchain.keeper.probing.gateway_client import Reply, ReplyKind, decode_envelope, error_code
from offchain.keeper.probing.prober import ProbedNode, ProbeOutcome, ProbeService, assess_reply
from offchain.keeper.probing.prompts import probe_body
from tests.support.factories import make_node
from tests.support.keeper.cluster import Hands
from tests.support.keeper.epoch_factory import ATTESTATION, MARKET, key

NOW = 1_700_000_100_000
NODE_KEY = key("node 7")
NODE = ProbedNode(NodeId(7), address_bytes(NODE_KEY.address), Tier.CPU)
REQUEST = keccak256(b"request")


def reply_to(
    body: bytes,
    *,
    text: str = "Paris",
    tamper: Callable[[ServiceReceipt], ServiceReceipt] | None = None,
    **more: Any,
) -> Reply:
    """A flawless answer of node 7, unless changed."""
    answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
    receipt = ServiceReceipt(
        request_id=REQUEST,
        node_id=NodeId(7),
        request_hash=keccak256(body),
        result_hash=keccak256(b"Paris"),
        poe=proof_of_execution(REQUEST, b"Paris", NodeId(7)),
        model_revision=keccak256(b"revision"),
        prompt_tokens=9,
        completion_tokens=2,
        started_at_ms=NOW - 90,
        finished_at_ms=NOW - 10,
        price_wei=Wei(11),
    )
    if tamper is not None:
        receipt = tamper(receipt)
    signature = NODE_KEY.sign_struct(MARKET, receipt.struct_hash())
    envelope = {
        "receipt": receipt.to_json(),
        "signature": "0x" + signature.hex(),
        "nodeKey": NODE_KEY.address,
    }
    fields: dict[str, Any] = {
        "kind": ReplyKind.ANSWER, "elapsed_ms": 100, "request_id": REQUEST, "answer": answer, "envelope": envelope,
    }  # fmt: skip
    return Reply(**(fields | more))


def assessed(reply: Reply, body: bytes = b"body", node: ProbedNode = NODE) -> ProbeOutcome:
    return assess_reply(reply, body, node, MARKET, NOW)


def test_assess_reply__flawless_answer__is_accepted() -> None:
    found = assessed(reply_to(b"body"))
    assert found.miss is None
    assert found.receipt is not None
    assert signed_by(NODE.key, MARKET.digest(found.receipt.struct_hash()), found.node_signature)


@pytest.mark.parametrize(
    "tamper",
    [
        lambda r: r._replace(node_id=NodeId(8)),
        lambda r: r._replace(request_id=keccak256(b"another")),
        lambda r: r._replace(request_hash=keccak256(b"another")),
        lambda r: r._replace(result_hash=keccak256(b"another")),
        lambda r: r._replace(poe=bytes(32)),
        lambda r: r._replace(completion_tokens=0),
        lambda r: r._replace(completion_tokens=65),
        lambda r: r._replace(started_at_ms=NOW - 60_000),
        lambda r: r._replace(finished_at_ms=NOW + 60_000),
        lambda r: r._replace(finished_at_ms=r.started_at_ms - 1),
    ],
)
def test_assess_reply__receipt_that_does_not_fit__is_a_miss(
    tamper: Callable[[ServiceReceipt], ServiceReceipt],
) -> None:
    assert assessed(reply_to(b"body", tamper=tamper)).miss is MissReason.BAD_RECEIPT


def test_assess_reply__signed_by_another_key__is_a_miss() -> None:
    stranger = replace(NODE, key=address_bytes(key("node 8").address))
    assert assessed(reply_to(b"body"), node=stranger).miss is MissReason.BAD_RECEIPT


@pytest.mark.parametrize(
    "envelope", [None, {}, {"receipt": {}}, [], {"receipt": {"nodeId": 7}, "signature": "zz"}]
)
def test_assess_reply__no_or_malformed_receipt__is_a_miss(envelope: object) -> None:
    assert assessed(reply_to(b"body", envelope=envelope)).miss is MissReason.BAD_RECEIPT


@pytest.mark.parametrize("answer", [None, {}, [], {"choices": [{}]}])
def test_assess_reply__malformed_answer__is_a_miss(answer: object) -> None:
    assert assessed(reply_to(b"body", answer=answer)).miss is MissReason.BAD_RECEIPT


def test_assess_reply__slower_than_the_tiers_floor__is_a_miss_of_that_tier_only() -> None:
    slow = reply_to(b"body", elapsed_ms=4_000)
    assert assessed(slow).miss is None
    assert assessed(slow, node=replace(NODE, tier=Tier.HEAVY_GPU)).miss is MissReason.BELOW_FLOOR


@pytest.mark.parametrize(("tier", "miss"), [(Tier.CPU, None), (Tier.MID_GPU, MissReason.SLOW_FIRST_TOKEN)])
def test_assess_reply__late_first_token__is_a_miss_by_the_tiers_own_floor(
    tier: Tier, miss: MissReason | None
) -> None:
    late = reply_to(b"body", elapsed_ms=2_050, first_token_ms=2_001)
    assert assessed(late, node=replace(NODE, tier=tier)).miss is miss


def test_assess_reply__kinds__whose_failure_it_is() -> None:
    assert assessed(Reply(ReplyKind.NODE_FAILED, 5)).miss is MissReason.UNREACHABLE
    assert assessed(Reply(ReplyKind.TIMED_OUT, 4_000)).miss is MissReason.TIMEOUT
    abstained = assessed(Reply(ReplyKind.GATEWAY_FAILED, 5, detail="HTTP 500"))
    assert (abstained.miss, abstained.receipt) == (None, None)


def test_envelope__base64url_without_padding__is_read() -> None:
    text = base64.urlsafe_b64encode(json.dumps({"a": 1}).encode()).decode().rstrip("=")
    assert decode_envelope(text) == {"a": 1}
    assert decode_envelope("") is None
    assert decode_envelope("!!") is None
    assert error_code({"error": {"code": "node_unavailable"}}) == "node_unavailable"
    assert error_code([]) == ""


def test_probe_body__same_seed_same_bytes__and_varied_otherwise() -> None:
    bodies = {probe_body("m", b"s" * 32, NodeId(node), slot) for node in range(1, 20) for slot in range(10)}
    assert len(bodies) > 150
    assert probe_body("m", b"s" * 32, NodeId(1), 1) == probe_body("m", b"s" * 32, NodeId(1), 1)
    for body in bodies:
        data = json.loads(body)
        assert data["temperature"] == 0
        assert data["max_tokens"] <= 8
    streamed = sum("stream" in json.loads(body) for body in bodies)
    assert 0.3 < streamed / len(bodies) < 0.7


class Scripted:
    """A gateway that gives prepared replies."""

    def __init__(self, replies: list[Callable[[bytes], Reply]]) -> None:
        self.replies = replies
        self.asked: list[bytes] = []

    async def ask(self, node: NodeId, body: bytes) -> Reply:
        self.asked.append(body)
        return self.replies.pop(0)(body)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/keeper.db"
    upgrade(url)
    opened = open_database(url)
    with opened.write() as session:
        session.add(make_node(7, key_address=NODE_KEY.address))
    yield opened
    opened.close()


CLOCK = EpochClock(genesis=1_700_000_000 - 1_000, length_seconds=100, slots=10)
PROBE = store.DueProbe(Epoch(11), 0, NodeId(7), NOW - 500)


def service(database: Database, gateway: Scripted, time: Hands, **more: Any) -> ProbeService:
    @asynccontextmanager
    async def opened() -> Any:
        yield gateway

    with database.write() as session:
        store.plan_probes(session, [PROBE])
    signer = more.pop("signer", key("keeper"))
    return ProbeService(
        database, CLOCK, opened, signer, ATTESTATION, MARKET, time, model="m", timeout_ms=2_000, **more
    )


def row(database: Database) -> Probe:
    with database.read() as session:
        found = session.get(Probe, (PROBE.epoch, PROBE.slot, PROBE.node_id))
    assert found is not None
    return found


def test_step__answered__becomes_a_dual_signed_entry_once(database: Database) -> None:
    gateway = Scripted([reply_to])
    probing = service(database, gateway, Hands(NOW))
    assert probing.step() == 1
    assert probing.step() == 0
    stored = row(database)
    assert stored.outcome == "answered"
    assert stored.evidence is not None
    answer = AnswerEntry.unpack(stored.evidence["entry"])
    digest = ATTESTATION.digest(answer.slot_receipt(PROBE.epoch).struct_hash())
    assert signed_by(address_bytes(key("keeper").address), digest, answer.keeper_signature)


def test_step__node_failed__becomes_a_signed_miss(database: Database) -> None:
    probing = service(database, Scripted([lambda _body: Reply(ReplyKind.NODE_FAILED, 5)]), Hands(NOW))
    probing.step()
    stored = row(database)
    assert stored.outcome == "missed"
    assert stored.evidence is not None
    miss = Miss.unpack(stored.evidence["entry"])
    assert (miss.reason, miss.observed_at_ms) == (MissReason.UNREACHABLE, NOW)


def test_step__gateway_failed__abstains_and_tries_again_in_the_slot(database: Database) -> None:
    time = Hands(NOW)
    gateway = Scripted([lambda _body: Reply(ReplyKind.GATEWAY_FAILED, 5), reply_to])
    probing = service(database, gateway, time)
    probing.step()
    assert row(database).outcome is None
    assert probing.step() == 0, "not at once"
    time.ms += 1_000
    later = Scripted(
        [
            lambda body: reply_to(
                body, tamper=lambda r: r._replace(started_at_ms=time.ms - 90, finished_at_ms=time.ms)
            )
        ]
    )
    gateway.replies = later.replies
    assert probing.step() == 1
    assert row(database).outcome == "answered"


@pytest.mark.parametrize("minutes", [-5, -1, 1, 5])
def test_step__clock_is_off_by_minutes__signs_nothing_about_anybody_until_it_is_right(
    database: Database, minutes: int
) -> None:
    time = Hands(NOW)
    check = ClockCheck(database, time)
    gateway = Scripted([])
    probing = service(database, gateway, time, distrust=check.why_not)
    assert probing.step() == 0, "no block was seen yet"
    true_seconds = NOW // 1000 - 60 * minutes
    for number in range(5):
        check.saw(BlockRef(number, "0x", true_seconds + number))
    assert ("behind" if minutes < 0 else "ahead") in check.why_not()
    assert probing.step() == 0
    assert (gateway.asked, row(database).outcome) == ([], None)
    for number in range(5, 9):
        check.saw(BlockRef(number, "0x", NOW // 1000 - 2))
    gateway.replies = [reply_to]
    assert probing.step() == 1
    assert row(database).outcome == "answered"


def test_clock_check__index_catches_up_after_a_pause__the_first_fresh_block_is_enough(
    database: Database,
) -> None:
    check = ClockCheck(database, Hands(NOW))
    check.saw(BlockRef(1, "0x", NOW // 1000 - 900))
    assert "900 s old" in check.why_not()
    check.saw(BlockRef(2, "0x", NOW // 1000 - 1))
    check.saw(BlockRef(2, "0x", NOW // 1000 - 700))  # the same height again says nothing
    assert check.why_not() == ""


def test_step__key_is_away__abstains_and_tries_again(database: Database) -> None:
    class Away:
        address = key("keeper").address
        answers = 1

        def sign(self, message: bytes) -> bytes:
            self.answers -= 1
            if self.answers == 0:
                raise TransientError("web3signer at signer:9000 answers HTTP 500")
            return key("keeper").sign(message)

    time = Hands(NOW)
    probing = service(database, Scripted([reply_to, reply_to]), time, signer=Away())
    assert probing.step() == 1
    assert row(database).outcome is None
    time.ms += 1_000
    assert probing.step() == 1
    assert row(database).outcome is not None


def test_step__slot_is_over__leaves_the_probe_alone(database: Database) -> None:
    gateway = Scripted([])
    probing = service(database, gateway, Hands(CLOCK.slot_bounds_ms(PROBE.epoch, 0)[1]))
    probing.step()
    assert not gateway.asked
    assert row(database).outcome is None


def test_step__worker_died_with_the_probe__another_takes_it_when_the_lease_is_over(
    database: Database,
) -> None:
    time = Hands(NOW)
    probing = service(database, Scripted([reply_to]), time)
    with database.write() as session:
        assert store.lease_due_probes(session, NOW, NOW - 10_000, 4_000, 10) == [PROBE]
    assert probing.step() == 0
    time.ms += 4_000
    assert probing.step() == 1


def test_record_probe__second_result__is_dropped(database: Database) -> None:
    service(database, Scripted([]), Hands(NOW))
    with database.write() as session:
        assert store.record_probe(session, PROBE, "missed", {"entry": "first"}, 1)
        assert not store.record_probe(session, PROBE, "answered", {"entry": "second"}, 1)
    assert row(database).evidence == {"entry": "first"}
    with database.write() as session:
        store.plan_probes(session, [PROBE])
    assert row(database).outcome == "missed", "planning again changes nothing"
