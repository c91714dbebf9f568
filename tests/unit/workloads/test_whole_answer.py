"""Whole answers: what is checked before the caller has one, and what only after."""

import itertools
import time
from collections.abc import Mapping

import orjson
import pytest

from offchain.crypto.keys import Signer
from offchain.crypto.recovery import recover
from offchain.dispatch.dispatcher import Dispatcher
from offchain.dispatch.upstream import Call
from offchain.domain.eip712 import DigestMaker, SigningDomain, keccak256
from offchain.domain.messages import ServiceReceipt, proof_of_execution
from offchain.domain.types import NodeId, Wei
from offchain.protocol.pair_mac import AgreedKeys, GatewayMacs, answer_mac
from offchain.protocol.receipts import ReceiptVerifier, SignedReceipt, encode_header
from offchain.scheduler.breaker import BreakerState
from offchain.scheduler.fleet import Fleet, NodeReport, Offer
from offchain.scheduler.router import Router
from offchain.scheduler.work import Attempt, NodeError, RequestTrace, Requirements, WorkUnit
from offchain.workloads.inference.request import Kind, parse
from offchain.workloads.inference.whole_answer import PlainTask, Proved, cannot_tell

MARKET = SigningDomain(31337, "0x" + "a2" * 20)
KEY = Signer.from_key(b"\x01" * 32)
STRANGER = Signer.from_key(b"\x02" * 32)
GATEWAY = Signer.from_key(b"\x03" * 32)
MACS = GatewayMacs(GATEWAY.public_key, GATEWAY.agree, lambda _: KEY.public_key)
ASKED = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
ANSWER: dict[str, object] = {
    "choices": [{"index": 0, "message": {"content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2},
}
EMBED = orjson.dumps({"model": "m", "input": "hi"})
VECTORS: dict[str, object] = {"data": [{"index": 0, "embedding": [1.0]}], "usage": {"prompt_tokens": 1}}


class Node:
    """Answers every call; what is wrong with it comes from outside."""

    def __init__(self, *, signer: Signer = KEY, proof: str = "right", receipt: bool = True) -> None:
        self.signer = signer
        self.proof = proof
        self.receipt = receipt
        self.answer = ANSWER

    def answer_to(self, node_id: NodeId, call: Call) -> tuple[dict[str, str], bytes]:
        body = orjson.dumps(self.answer)
        made = ServiceReceipt(
            call.request_id, node_id, call.request_hash, keccak256(b"hello"),
            proof_of_execution(call.request_id, b"hello", node_id), bytes(32), 1, 2, 3, 4, Wei(5),
        )  # fmt: skip
        signature = self.signer.sign_digest(DigestMaker(MARKET)(made.struct_hash()))
        receipt = (
            encode_header(orjson.dumps(SignedReceipt(made, signature, KEY.address).to_json()))
            if self.receipt
            else ""
        )
        key = AgreedKeys(KEY.agree).key(GATEWAY.public_key)
        proof = answer_mac(key, call.request_id, body if self.proof == "right" else b"other").hex()
        headers = {"x-parallelix-receipt": receipt, "x-parallelix-proof": proof}
        if self.proof == "none":
            del headers["x-parallelix-proof"]
        if not self.receipt:
            del headers["x-parallelix-receipt"]
        return headers, body


class Exchange:
    status = 200
    connected = True

    def __init__(self, headers: Mapping[str, str], body: bytes) -> None:
        self.headers = headers
        self.body = body

    async def head(self) -> None:
        return None

    async def read(self) -> bytes:
        body, self.body = self.body, b""
        return body

    def abort(self, fault: NodeError) -> None:
        raise fault

    def close(self) -> None:
        return None


class World:
    """An dispatcher over nodes 1, 2, ..., of which the smaller id is asked first. `events` tells what happened in which order."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes = nodes
        self.events: list[str] = []
        self.counted: list[tuple[str, str]] = []
        self.fleet = Fleet(silence_seconds=60)
        seeds = itertools.count()
        for number in range(1, len(nodes) + 1):
            report = NodeReport(NodeId(number), "http://x", "eu", number, {"m": Offer("r", 9)}, 1, 1)
            self.fleet.update(report, time.monotonic())
        self.dispatcher = Dispatcher(Router(self.fleet, (), time.monotonic, lambda: next(seeds)), self)
        self.dispatcher.on_attempt = self._count
        self.numbers = itertools.count(1)

    def _count(self, _unit: WorkUnit, attempt: Attempt) -> None:
        self.counted.append((attempt.outcome, attempt.reason))

    def start(self, node_id: NodeId, url: str, call: Call) -> Exchange:
        return Exchange(*self.nodes[node_id - 1].answer_to(node_id, call))

    def write(self, data: bytes) -> bool:
        self.events.append("given")
        return True

    async def drain(self) -> None:
        return None

    def recover(self, digest: bytes, signature: bytes) -> str:
        self.events.append("receipt checked")
        return recover(digest, signature)

    async def ask(
        self, proved: Proved = MACS.proved, kind: Kind = Kind.CHAT, body: bytes = ASKED
    ) -> tuple[PlainTask, RequestTrace]:
        request_id = next(self.numbers).to_bytes(32, "big")
        verifier = ReceiptVerifier(MARKET, self.recover, lambda _: [KEY.address])
        task = PlainTask(parse(kind, body), body, request_id, verifier, proved=proved)
        trace = RequestTrace(request_id)
        await self.dispatcher.run(WorkUnit(request_id, Requirements("m")), task, self, trace)
        return task, trace


async def test_plain__right_proof__answer_is_given_before_its_receipt_is_checked() -> None:
    world = World(Node())
    task, trace = await world.ask()
    assert world.events == ["given", "receipt checked"]
    assert task.receipt is not None
    assert (task.answer, task.usage) == (orjson.dumps(ANSWER), (1, 2))
    assert [(one.outcome, one.reason) for one in trace.attempts] == [("ok", "")]
    assert not any(node.leases or node.failed for node in world.fleet)


@pytest.mark.parametrize("proved", [MACS.proved, cannot_tell], ids=["no-proof", "no-key"])
async def test_plain__no_proof_or_no_key_to_check_it__receipt_is_checked_first(proved: Proved) -> None:
    world = World(Node(proof="none" if proved == MACS.proved else "wrong"))
    task, _ = await world.ask(proved)
    assert world.events == ["receipt checked", "given"]
    assert task.receipt is not None


@pytest.mark.parametrize(
    "bad",
    [Node(proof="wrong"), Node(signer=STRANGER, proof="none"), Node(receipt=False), Node(receipt=False, proof="none")],
    ids=["wrong-proof", "bad-receipt", "proof-of-no-receipt", "no-receipt"],
)  # fmt: skip
async def test_plain__wrong_proof_or_receipt__next_node_answers(bad: Node) -> None:
    world = World(bad, Node())
    task, trace = await world.ask()
    assert [(one.outcome, one.reason) for one in trace.attempts] == [("failed", "bad_receipt"), ("ok", "")]
    assert world.events[-2:] == ["given", "receipt checked"]
    assert task.receipt is not None
    assert task.receipt.receipt.node_id == 2


async def test_plain__right_proof_beside_an_endless_receipt__next_node_answers() -> None:
    class Endless(Node):
        def answer_to(self, node_id: NodeId, call: Call) -> tuple[dict[str, str], bytes]:
            headers, body = super().answer_to(node_id, call)
            return {**headers, "x-parallelix-receipt": "A" * 9000}, body

    _, trace = await World(Endless(), Node()).ask()
    assert [(one.outcome, one.reason) for one in trace.attempts] == [("failed", "bad_receipt"), ("ok", "")]


async def test_plain__right_proof_over_a_bad_receipt__answer_stands_and_the_node_is_charged() -> None:
    world = World(Node(signer=STRANGER))
    node = next(iter(world.fleet))
    for states in (BreakerState.CLOSED, BreakerState.OPEN):
        task, trace = await world.ask()
        assert task.receipt is None
        attempt = trace.attempts[0]
        assert (attempt.outcome, attempt.reason) == ("ok", "bad_receipt")
        assert "not by the node's key" in attempt.detail
        assert node.breaker.state is states
    assert world.events == ["given", "receipt checked"] * 2
    assert world.counted == [("ok", "bad_receipt")] * 2
    assert (node.leases, node.failed, node.succeeded) == (0, 2, 0)


@pytest.mark.parametrize("broken", [
    {}, {"choices": []}, {"choices": [{"index": 0, "message": {"content": "hello"}}]}, {"choices": ["hello"]},
    {**ANSWER, "usage": {"prompt_tokens": "x"}}, {**ANSWER, "usage": [1]},
])  # fmt: skip
async def test_plain__right_proof_over_garbage__next_node_answers(broken: dict[str, object]) -> None:
    world = World(Node(), Node())
    world.nodes[0].answer = broken
    _, trace = await world.ask()
    assert [(one.outcome, one.reason) for one in trace.attempts] == [("failed", "bad_answer"), ("ok", "")]


@pytest.mark.parametrize(
    ("node", "events"),
    [
        (Node(), ["given", "receipt checked"]),
        (Node(proof="none"), ["receipt checked", "given"]),
        (Node(receipt=False), ["given"]),
    ],
    ids=["proved", "not-proved", "no-receipt"],
)
async def test_plain__embedding__receipt_is_optional_and_its_proof_counts(
    node: Node, events: list[str]
) -> None:
    node.answer = VECTORS
    world = World(node)
    task, _ = await world.ask(kind=Kind.EMBEDDING, body=EMBED)
    assert world.events == events
    assert (task.receipt is not None) is node.receipt
