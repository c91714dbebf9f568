"""docs/wire.md against the code: its worked example is computed again, its layouts are held against packed bytes, and every
header and error code that the code knows stands in it."""

import ast
import base64
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import orjson
import pytest

from offchain.crypto.keys import Signer
from offchain.crypto.recovery import recover
from offchain.domain import messages
from offchain.domain.eip712 import SigningDomain, keccak256
from offchain.domain.evidence_entries import AnswerEntry, Execution, Miss, SignedExecutionBatch
from offchain.domain.messages import ExecutionBatch, Heartbeat, MissReason, ServiceReceipt, Ticket
from offchain.domain.types import Epoch, NodeId, Wei
from offchain.node.agent.receipts import ReceiptMaker, ServedAnswer
from offchain.node.agent.replay_guard import ReplayGuard
from offchain.node.agent.tickets import TicketGate
from offchain.protocol.heartbeats import HeartbeatVerifier, NodeRecord
from offchain.protocol.pair_mac import GatewayMacs
from offchain.protocol.receipts import ReceiptVerifier, SignedReceipt, encode_header
from offchain.protocol.tickets import TicketSigner

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs/wire.md").read_text()

GATEWAY = Signer.from_key(bytes.fromhex("11" * 32))
NODE = Signer.from_key(bytes.fromhex("22" * 32))
NODES = SigningDomain(31337, "0x00000000000000000000000000000000000000a1")
MARKET = SigningDomain(31337, "0x00000000000000000000000000000000000000a2")
NODE_ID = NodeId(7)
NOW_MS = 1_767_225_600_000
REQUEST_ID = (NOW_MS // 60_000).to_bytes(4, "big") + bytes(range(28))
BODY = b'{"model":"demo","messages":[{"role":"user","content":"Hi"}]}'
ANSWER = (
    b'{"choices":[{"index":0,"message":{"role":"assistant","content":"Hello."},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2}}'
)
RESULT = b"Hello."
BEAT = (
    b'{"node_id":7,"url":"http://node-7.dial.invalid","region":"eu","tier":2,"models":[{"name":"demo",'
    b'"revision":"r1","context_length":4096}],"slots":4,"free_slots":3,"queue":0,"price_per_token_wei":"1000"}'
)


def tickets(*, by_mac: bool) -> TicketSigner:
    macs = GatewayMacs(GATEWAY.public_key, GATEWAY.agree, lambda _node: NODE.public_key)
    if by_mac:
        return TicketSigner(NODES, GATEWAY.sign, lambda: NOW_MS, macs.ticket)
    return TicketSigner(NODES, GATEWAY.sign, lambda: NOW_MS)


async def admission_of(ticket: str):
    async def listed(signer: str) -> bool:
        return signer == GATEWAY.address

    gate = TicketGate(NODE_ID, NODES, listed, ReplayGuard(None, NOW_MS), lambda: NOW_MS, NODE.agree)
    return await gate.check("0x" + REQUEST_ID.hex(), ticket, BODY)


def receipt() -> bytes:
    now = iter((NOW_MS + 80,))
    maker = ReceiptMaker(NODE_ID, NODE, MARKET, Wei(1000), lambda: next(now))
    ticket = Ticket(REQUEST_ID, NODE_ID, keccak256(BODY), NOW_MS, NOW_MS + 60_000)
    return maker.make(ServedAnswer(ticket, keccak256(b"r1"), RESULT, 3, 2, NOW_MS + 5))


def heartbeat_header() -> str:
    digest = NODES.digest(Heartbeat(NODE_ID, keccak256(BEAT), NOW_MS).struct_hash())
    return "0x" + (NOW_MS.to_bytes(8, "big") + NODE.sign_digest(digest)).hex()


async def example() -> dict[str, str]:
    """Every value of the worked example, by its name in the document."""
    ticket = Ticket(REQUEST_ID, NODE_ID, keccak256(BODY), NOW_MS, NOW_MS + 60_000)
    by_mac = tickets(by_mac=True)(NODE_ID, REQUEST_ID, keccak256(BODY))
    signed = SignedReceipt.parse(receipt())
    return {
        "gateway private key": "0x" + "11" * 32,
        "gateway address": GATEWAY.address,
        "node private key": "0x" + "22" * 32,
        "node address": NODE.address,
        "NodeRegistryLocker separator": "0x" + NODES.separator().hex(),
        "InferenceMarket separator": "0x" + MARKET.separator().hex(),
        "request id": "0x" + REQUEST_ID.hex(),
        "request body": BODY.decode(),
        "ticket encoded": "0x" + ticket.encoded().hex(),
        "ticket struct hash": "0x" + ticket.struct_hash().hex(),
        "ticket signed": tickets(by_mac=False)(NODE_ID, REQUEST_ID, keccak256(BODY)),
        "pair key": "0x" + GATEWAY.agree(NODE.public_key).hex(),
        "ticket by MAC": by_mac,
        "answer body": ANSWER.decode(),
        "answer proof": (await admission_of(by_mac)).prove(ANSWER) or "",
        "result bytes": RESULT.decode(),
        "receipt struct hash": "0x" + signed.receipt.struct_hash().hex(),
        "receipt": receipt().decode(),
        "heartbeat body": BEAT.decode(),
        "heartbeat header": heartbeat_header(),
    }


def written() -> dict[str, str]:
    """The example as the document has it."""
    lines = [
        line
        for block in re.findall(r"```wire-example\n(.*?)```", TEXT, re.DOTALL)
        for line in block.splitlines()
    ]
    return {name.strip(): value.strip() for name, _, value in (line.partition(" = ") for line in lines)}


async def test_example__computed_again_from_the_published_keys__is_what_the_document_says() -> None:
    assert written() == await example()


@pytest.mark.parametrize("name", ["ticket signed", "ticket by MAC"])
async def test_example__either_ticket__admits_the_request_at_the_node(name: str) -> None:
    assert (await admission_of(written()[name])).ticket.request_id == REQUEST_ID


def test_example__proof_and_receipt__hold_at_the_gateway() -> None:
    macs = GatewayMacs(GATEWAY.public_key, GATEWAY.agree, lambda _node: NODE.public_key)
    assert macs.proved(NODE_ID, REQUEST_ID, ANSWER, written()["answer proof"])
    signed = SignedReceipt.parse(written()["receipt"])
    ReceiptVerifier(MARKET, recover, lambda _node: [NODE.address]).check(
        signed, NODE_ID, REQUEST_ID, keccak256(BODY), RESULT
    )


def test_example__heartbeat__is_taken_by_a_receiver() -> None:
    record = NodeRecord(NODE_ID, NODE.address, 2, routable=True)
    verifier = HeartbeatVerifier(NODES, recover, lambda _node: record, lambda: NOW_MS)
    assert verifier.verify(written()["heartbeat body"].encode(), written()["heartbeat header"]).slots == 4


@pytest.mark.parametrize(
    "name",
    ["Ticket", "Heartbeat", "ServiceReceipt", "SlotReceipt", "SlotMiss", "ExecutionBatch", "EpochReport"],
)
def test_structs__types_in_the_document__have_the_type_hashes_of_the_code(name: str) -> None:
    constant = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper() + "_TYPEHASH"
    encoded = re.findall(rf"^\| `({name}\([^`]*\))` \|", TEXT, re.MULTILINE)
    assert [messages.typehash(one) for one in encoded] == [getattr(messages, constant)]


def layout(title: str) -> list[tuple[int, int, str]]:
    """Rows (offset, size, field) of the table under a heading."""
    section = TEXT.partition(f"#### {title}\n")[2].partition("\n#")[0]
    return [
        (int(a), int(b), c)
        for a, b, c in re.findall(r"^\| (\d+) \| (\d+) \| `(\w+)` \|", section, re.MULTILINE)
    ]


RECEIPT = ServiceReceipt(
    bytes([1]) * 32, NodeId(2), bytes([3]) * 32, bytes([4]) * 32, bytes([5]) * 32, bytes([6]) * 32,
    7, 8, 9, 10, Wei(11),
)  # fmt: skip
FIELDS = {
    "slot": 12, "nodeId": 2, "requestId": bytes([1]) * 32, "requestHash": bytes([3]) * 32, "resultHash": bytes([4]) * 32,
    "poe": bytes([5]) * 32, "modelRevision": bytes([6]) * 32, "promptTokens": 7, "completionTokens": 8, "startedAtMs": 9,
    "finishedAtMs": 10, "priceWei": 11, "nodeSignature": bytes([13]) * 65, "keeperSignature": bytes([14]) * 65,
    "observedAtMs": 15, "reason": 2, "epoch": 16, "count": 17, "root": bytes([18]) * 32, "gatewaySignature": bytes([19]) * 65,
}  # fmt: skip
PACKED = {
    "Answer": AnswerEntry(12, RECEIPT, bytes([13]) * 65, bytes([14]) * 65).pack(),
    "Miss": Miss(12, NodeId(2), 15, MissReason.TIMEOUT, bytes([14]) * 65).pack(),
    "Execution": Execution(RECEIPT, bytes([13]) * 65).pack(),
    "Batch": SignedExecutionBatch(ExecutionBatch(Epoch(16), 17, bytes([18]) * 32), bytes([19]) * 65).pack(),
}


@pytest.mark.parametrize("title", PACKED)
def test_layout__offsets_and_sizes__are_those_of_the_packed_bytes(title: str) -> None:
    raw, rows = base64.b64decode(PACKED[title]), layout(title)
    assert sum(size for _, size, _ in rows) == len(raw)
    for offset, size, field in rows:
        value = FIELDS[field]
        assert raw[offset : offset + size] == (
            value if isinstance(value, bytes) else value.to_bytes(size, "big")
        ), field


def product_trees() -> Iterator[ast.Module]:
    for path in (ROOT / "offchain").rglob("*.py"):
        yield ast.parse(path.read_text())


def test_headers__that_gateway_node_and_keeper_know__are_all_in_the_document() -> None:
    named: set[str] = set()
    for path in (ROOT / "offchain").rglob("*.py"):
        named |= set(re.findall(r"x-parallelix-[a-z-]+", path.read_text().lower()))
    assert named
    assert sorted(name for name in named if f"`{name}`" not in TEXT.lower()) == []


@cache
def codes() -> set[str]:
    """Error codes: `code=` of any call, and the second argument of the node's and the heartbeat's errors."""
    found: set[str] = set()
    for tree in product_trees():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = getattr(call.func, "id", getattr(call.func, "attr", ""))
            values = [keyword.value for keyword in call.keywords if keyword.arg == "code"]
            if name in ("ServeError", "TicketError", "HeartbeatRefusedError"):
                values += call.args[1:2]
            found |= {
                value.value
                for value in values
                if isinstance(value, ast.Constant) and isinstance(value.value, str)
            }
    return found


def test_error_codes__of_gateway_and_node__are_all_in_the_document() -> None:
    assert {"invalid_ticket", "invalid_api_key", "replayed_heartbeat"} <= codes()
    assert sorted(code for code in codes() if f"`{code}`" not in TEXT) == []


def test_receipt_header__of_the_example__is_what_the_document_describes() -> None:
    header = encode_header(written()["receipt"].encode())
    assert not re.search(r"[^A-Za-z0-9_-]", header)
    assert orjson.loads(written()["receipt"])["nodeKey"] == NODE.address
