"""When an answer is called wrong, and all the cases in which it is not."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from offchain.db.database import Database, open_database
from offchain.db.migrations import upgrade
from offchain.domain.eip712 import address_bytes, keccak256
from offchain.domain.messages import ServiceReceipt, proof_of_execution
from offchain.domain.tiers import Tier
from offchain.domain.types import Bps, Epoch, NodeId, Wei
from offchain.keeper.probing.answer_check import AnswerCheck, NodesReference
from offchain.keeper.probing.gateway_client import Reply, ReplyKind
from offchain.keeper.probing.prober import ProbedNode, assess_reply, body_of
from offchain.keeper.store import DueProbe
from tests.support.factories import make_node
from tests.support.keeper.cluster import Hands
from tests.support.keeper.epoch_factory import MARKET, key

NOW = 1_700_000_100_000
REVISION = keccak256(b"r1")
PROBE = DueProbe(Epoch(11), 0, NodeId(1), NOW - 500)
KEEPER = key("keeper")
OWNERS = {1: "0xa", 2: "0xb", 3: "0xb", 4: "0xc", 5: "0xd", 6: "0xa"}
"""Node -> owner."""

Model = Callable[[bytes], str]


def truth(body: bytes) -> str:
    return "right " + keccak256(body).hex()[:8]


def lie(body: bytes) -> str:
    return "wrong " + keccak256(body).hex()[:8]


class Fleet:
    """A gateway over nodes that each answer by a function of the body."""

    def __init__(self, models: dict[int, Model], revision: bytes = REVISION) -> None:
        self.models = models
        self.revision = revision
        self.asked: list[int] = []

    async def ask(self, node: NodeId, body: bytes) -> Reply:
        self.asked.append(int(node))
        if node not in self.models:
            return Reply(ReplyKind.NODE_FAILED, 5)
        text = self.models[node](body)
        request, result = keccak256(b"%d" % node + body), text.encode()
        receipt = ServiceReceipt(
            request, node, keccak256(body), keccak256(result), proof_of_execution(request, result, node),
            self.revision, 9, 2, NOW - 90, NOW - 10, Wei(11),
        )  # fmt: skip
        signature = key(f"node {node}").sign_struct(MARKET, receipt.struct_hash())
        answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
        envelope = {"receipt": receipt.to_json(), "signature": "0x" + signature.hex()}
        return Reply(ReplyKind.ANSWER, 100, request, answer, envelope)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/keeper.db"
    upgrade(url)
    opened = open_database(url)
    with opened.write() as session:
        for number, owner in OWNERS.items():
            session.add(make_node(number, owner=owner))
    yield opened
    opened.close()


def verdict(database: Database, fleet: Fleet, *, share: int = 10_000, serving: bytes = REVISION) -> str:
    """What the check says of node 1's answer."""

    async def run() -> str:
        body = body_of(PROBE, "m", KEEPER)
        node = ProbedNode(NodeId(1), address_bytes(key("node 1").address), Tier.CPU)
        found = assess_reply(await fleet.ask(NodeId(1), body), body, node, MARKET, NOW)
        assert found.receipt is not None, found.why
        fleet.asked.clear()
        reference = NodesReference(database, lambda: [(NodeId(number), serving) for number in OWNERS])
        return await AnswerCheck(reference, KEEPER, MARKET, Hands(NOW), "m", Bps(share)).wrong(
            fleet, PROBE, node, found
        )

    return asyncio.run(run())


def test_wrong__two_prompts_against_two_independent_nodes__is_said(database: Database) -> None:
    fleet = Fleet({1: lie, 2: truth, 3: truth, 4: truth, 5: truth, 6: lie})
    assert "two prompts" in verdict(database, fleet)
    assert 6 not in fleet.asked, "a node of the same owner is no witness"
    assert len({OWNERS[node] for node in fleet.asked if node != 1}) == 2


def test_wrong__right_answer__holds_after_two_questions(database: Database) -> None:
    fleet = Fleet(dict.fromkeys(OWNERS, truth))
    assert verdict(database, fleet) == ""
    assert len(fleet.asked) == 2


def test_wrong__a_single_mismatch__is_not_enough(database: Database) -> None:
    second = body_of(PROBE, "m", KEEPER, again=True)
    fleet = Fleet(
        {**dict.fromkeys(OWNERS, truth), 1: lambda body: truth(body) if body == second else lie(body)}
    )
    assert verdict(database, fleet) == ""
    assert 1 in fleet.asked, "it was asked again"


def test_wrong__one_other_lies_too__the_third_decides(database: Database) -> None:
    assert verdict(database, Fleet({1: truth, 2: lie, 3: lie, 4: truth, 5: truth})) == ""


def test_wrong__witnesses_disagree_with_each_other__nobody_is_accused(database: Database) -> None:
    fleet = Fleet({1: lie, 2: lambda b: "x", 3: lambda b: "x", 4: lambda b: "y", 5: lambda b: "z"})
    assert verdict(database, fleet) == ""


@pytest.mark.parametrize("models", [{1: lie}, {1: lie, 4: truth}])
def test_wrong__fewer_than_two_witnesses__nobody_is_accused(
    database: Database, models: dict[int, Model]
) -> None:
    assert verdict(database, Fleet(models)) == ""


def test_wrong__others_serve_another_revision__nobody_is_accused(database: Database) -> None:
    fleet = Fleet({1: lie, 2: truth, 4: truth, 5: truth})
    assert verdict(database, fleet, serving=keccak256(b"r2")) == ""
    assert not fleet.asked


def test_wrong__share_of_zero__asks_nobody(database: Database) -> None:
    fleet = Fleet({1: lie, 2: truth, 4: truth, 5: truth})
    assert verdict(database, fleet, share=0) == ""
    assert not fleet.asked


def test_body_of__again__is_another_prompt_and_the_same_each_time() -> None:
    first, second = body_of(PROBE, "m", KEEPER), body_of(PROBE, "m", KEEPER, again=True)
    assert first != second
    assert second == body_of(replace(PROBE), "m", KEEPER, again=True)
