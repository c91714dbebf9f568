"""Heartbeats, tickets and receipts: what is signed by whom, and what is refused."""

import json
from typing import Any, cast

import orjson
import pytest

from offchain.crypto.keys import Signer
from offchain.crypto.recovery import recover
from offchain.dispatch.fleet_store import decode, decode_all, encode
from offchain.dispatch.upstream import Call
from offchain.domain.eip712 import SigningDomain, keccak256
from offchain.domain.messages import Heartbeat, ServiceReceipt, Ticket, proof_of_execution
from offchain.domain.types import NodeId, Wei
from offchain.protocol.heartbeats import HeartbeatRefusedError, HeartbeatVerifier, NodeRecord
from offchain.protocol.pair_mac import AgreedKeys, GatewayMacs, answer_mac, ticket_mac
from offchain.protocol.receipts import (
    ReceiptError,
    ReceiptVerifier,
    SignedReceipt,
    decode_header,
    encode_header,
)
from offchain.protocol.tickets import TicketSigner

NODES = SigningDomain(31337, "0x" + "a1" * 20)
MARKET = SigningDomain(31337, "0x" + "a2" * 20)
KEY = Signer.from_key(b"\x01" * 32)
STRANGER = Signer.from_key(b"\x02" * 32)
NOW = 1_700_000_000_000
NODE = NodeId(7)


def body(**changes: Any) -> bytes:
    fields = {
        "node_id": 7, "url": "http://127.0.0.1:9000/", "region": "eu", "tier": 4, "slots": 8, "free_slots": 3, "queue": 1,
        "models": [{"name": "m", "revision": "r", "context_length": 512}], "versions": {}, "price_per_token_wei": "12",
        **changes,
    }  # fmt: skip
    return orjson.dumps(fields)


def header(raw: bytes, sent: int = NOW, signer: Signer = KEY) -> str:
    digest = NODES.digest(Heartbeat(NODE, keccak256(raw), sent).struct_hash())
    return "0x" + sent.to_bytes(8, "big").hex() + signer.sign_digest(digest).hex()


def verifier(routable: bool = True) -> HeartbeatVerifier:
    records = {NODE: NodeRecord(NODE, KEY.address, 2, routable)}
    return HeartbeatVerifier(NODES, recover, records.get, lambda: NOW)


def test_heartbeat__right__gives_the_report_with_the_registered_tier() -> None:
    raw = body()
    report = verifier().verify(raw, header(raw))
    assert (report.node_id, report.url, report.tier, report.free_slots) == (7, "http://127.0.0.1:9000", 2, 3)
    assert report.offers["m"].context_size == 512
    assert report.price_per_token_wei == 12


@pytest.mark.parametrize(
    ("raw", "sent", "signer", "code"),
    [
        (body(), NOW, STRANGER, "invalid_signature"),
        (body(), NOW - 31_000, KEY, "stale_heartbeat"),
        (body(), NOW + 31_000, KEY, "stale_heartbeat"),
        (body(node_id=8), NOW, KEY, "unknown_node"),
        (body(node_id="7"), NOW, KEY, "malformed_heartbeat"),
        (body(url="ftp://x"), NOW, KEY, "malformed_heartbeat"),
        (body(url="http://x\r\ny: z"), NOW, KEY, "malformed_heartbeat"),
        (body(free_slots=9), NOW, KEY, "malformed_heartbeat"),
        (body(models=[{"name": "m"}]), NOW, KEY, "malformed_heartbeat"),
        (body(region="e\nu"), NOW, KEY, "malformed_heartbeat"),
        (body(price_per_token_wei="-1"), NOW, KEY, "malformed_heartbeat"),
        (b"[]", NOW, KEY, "malformed_heartbeat"),
        (b"{" + b" " * 70_000, NOW, KEY, "heartbeat_too_large"),
    ],
)
def test_heartbeat__wrong__is_refused_with_a_code(raw: bytes, sent: int, signer: Signer, code: str) -> None:
    with pytest.raises(HeartbeatRefusedError) as caught:
        verifier().verify(raw, header(raw, sent, signer))
    assert caught.value.code == code
    assert 400 <= caught.value.status < 500


def test_heartbeat__other_body_or_no_header_or_replayed_or_gone__is_refused() -> None:
    raw = body()
    checking = verifier()
    for given in (None, "", "0x12", "zz"):
        with pytest.raises(HeartbeatRefusedError, match="X-Parallelix-Heartbeat"):
            checking.verify(raw, given)
    with pytest.raises(HeartbeatRefusedError, match="current key"):
        checking.verify(body(free_slots=8), header(raw))
    checking.verify(raw, header(raw))
    with pytest.raises(HeartbeatRefusedError, match="later heartbeat"):
        checking.verify(raw, header(raw))
    with pytest.raises(HeartbeatRefusedError, match="left the network"):
        verifier(routable=False).verify(raw, header(raw))


def test_fleet_store__round_trip__keeps_everything() -> None:
    raw = body()
    report = verifier().verify(raw, header(raw))
    assert decode(encode(report, NOW)) == (report, NOW)
    assert decode_all([encode(report, NOW), None, b"{}", b"no json"], NOW + 1500) == [(report, 1.5)]


def test_ticket__header__recovers_to_the_signer_over_this_very_call() -> None:
    call = Call("/v1/x", b'{"a":1}', b"\x05" * 32)
    raw = bytes.fromhex(
        TicketSigner(NODES, KEY.sign, lambda: NOW)(NODE, call.request_id, call.request_hash)[2:]
    )
    issued, expires = int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:16], "big")
    assert issued == NOW
    assert 0 < expires - issued <= 60_000
    ticket = Ticket(call.request_id, NODE, keccak256(call.body), issued, expires)
    assert recover(NODES.digest(ticket.struct_hash()), raw[16:]) == KEY.address


def test_ticket__of_a_node_whose_key_is_known__is_proved_by_a_mac_that_only_the_two_can_make() -> None:
    gateway, known = Signer.from_key(b"\x03" * 32), {NODE: KEY.public_key}
    macs = GatewayMacs(gateway.public_key, gateway.agree, known.get)
    make = TicketSigner(NODES, gateway.sign, lambda: NOW, macs.ticket)
    call = Call("/v1/x", b'{"a":1}', b"\x05" * 32)
    ticket = Ticket(call.request_id, NODE, call.request_hash, NOW, NOW + 60_000)
    message, digest = NODES.message(ticket.encoded()), NODES.digest(ticket.struct_hash())
    proof = bytes.fromhex(make(NODE, call.request_id, call.request_hash)[2:])[16:]
    assert proof[:64] == gateway.public_key
    assert AgreedKeys(KEY.agree).holds(message, proof)
    assert not AgreedKeys(STRANGER.agree).holds(message, proof)
    assert not AgreedKeys(KEY.agree).holds(NODES.message(ticket._replace(node_id=NodeId(8)).encoded()), proof)
    assert not AgreedKeys(KEY.agree).holds(message, bytes(64) + proof[64:])  # no point on the curve
    known.clear()  # as while the node's key is being rotated
    assert (
        recover(digest, bytes.fromhex(make(NODE, call.request_id, call.request_hash)[2:])[16:])
        == gateway.address
    )


def test_answer__mac__binds_request_body_and_key_and_is_no_tickets() -> None:
    gateway = Signer.from_key(b"\x03" * 32)
    macs = GatewayMacs(gateway.public_key, gateway.agree, {NODE: KEY.public_key}.get)
    key = AgreedKeys(KEY.agree).key(gateway.public_key)
    asked = (b"\x05" * 32, b"body")
    proof = answer_mac(key, *asked).hex()
    assert len(proof) == 64
    assert macs.proved(NODE, *asked, proof) is True
    for other in ((b"\x06" * 32, b"body"), (b"\x05" * 32, b"body "), (b"\x05" * 32, b"")):
        assert macs.proved(NODE, *other, proof) is False, other
    strangers = AgreedKeys(STRANGER.agree).key(gateway.public_key)
    for wrong in (
        answer_mac(strangers, *asked).hex(),
        ticket_mac(key, asked[0] + asked[1]).hex(),
        proof[:-2],
        "",
        "zz",
        "\xe9",
    ):
        assert macs.proved(NODE, *asked, wrong) is False, wrong
    assert macs.proved(NodeId(8), *asked, proof) is None  # a node whose key is not certain


def signed(call: Call, result: bytes, signer: Signer = KEY, **changes: Any) -> SignedReceipt:
    fields: dict[str, Any] = {
        "request_id": call.request_id, "node_id": NODE, "request_hash": keccak256(call.body),
        "result_hash": keccak256(result), "poe": proof_of_execution(call.request_id, result, NODE),
        "model_revision": bytes(32), "prompt_tokens": 1, "completion_tokens": 2, "started_at_ms": NOW,
        "finished_at_ms": NOW, "price_wei": Wei(5), **changes,
    }  # fmt: skip
    receipt = ServiceReceipt(**fields)
    return SignedReceipt(receipt, signer.sign_digest(MARKET.digest(receipt.struct_hash())), signer.address)


def test_receipt__right__passes_and_survives_its_header() -> None:
    call = Call("/v1/x", b"{}", b"\x05" * 32)
    made = signed(call, b"answer")
    assert SignedReceipt.parse(decode_header(encode_header(orjson.dumps(made.to_json())))) == made
    ReceiptVerifier(MARKET, recover, lambda _: [KEY.address]).check(
        made, NODE, call.request_id, call.request_hash, b"answer"
    )


@pytest.mark.parametrize(
    ("changes", "result", "signer", "key"),
    [
        ({}, b"other answer", KEY, KEY.address),
        ({"node_id": NodeId(8)}, b"answer", KEY, KEY.address),
        ({"request_id": bytes(32)}, b"answer", KEY, KEY.address),
        ({"request_hash": bytes(32)}, b"answer", KEY, KEY.address),
        ({"poe": bytes(32)}, b"answer", KEY, KEY.address),
        ({}, b"answer", STRANGER, KEY.address),
        ({}, b"answer", KEY, STRANGER.address),
        ({}, b"answer", KEY, None),
    ],
)
def test_receipt__wrong__is_the_nodes_fault(
    changes: dict[str, Any], result: bytes, signer: Signer, key: str | None
) -> None:
    call = Call("/v1/x", b"{}", b"\x05" * 32)
    with pytest.raises(ReceiptError):
        ReceiptVerifier(MARKET, recover, lambda _: [] if key is None else [key]).check(
            signed(call, b"answer", signer, **changes), NODE, call.request_id, call.request_hash, result
        )


def test_receipt__garbage__is_a_value_error() -> None:
    for header_value in ("", "%%%", "e30", "bm90IGpzb24"):
        with pytest.raises(ValueError, match=r"(?i)receipt|JSON|character|input|expected"):
            SignedReceipt.parse(decode_header(header_value))


@pytest.mark.parametrize(
    "changes",
    [
        {"promptTokens": 2**32}, {"promptTokens": -1}, {"nodeId": "7"}, {"finishedAtMs": 2**64}, {"startedAtMs": 1.0},
        {"priceWei": str(2**256)}, {"priceWei": "-1"}, {"priceWei": None}, {"priceWei": True},
        {"poe": "0x" + "ab" * 31 + " a"}, {"poe": "ab" * 33}, {"poe": 5}, {"poe": "0x0x" + "ab" * 31},
        {"poe": "0x" + "ab" * 31, "requestHash": "0x" + "ab" * 33}, {"requestHash": "00" * 33, "poe": "0x0x" + "ab" * 31},
    ],
)  # fmt: skip
def test_receipt__field_that_no_contract_could_hash__is_a_value_error(changes: dict[str, Any]) -> None:
    whole = signed(Call("/v1/x", b"{}", b"\x05" * 32), b"answer").to_json()
    assert SignedReceipt.parse(orjson.dumps(whole)).receipt.prompt_tokens == 1
    with pytest.raises(ValueError, match=r"receipt|hex|integer|literal"):
        SignedReceipt.parse(
            json.dumps({**whole, "receipt": {**cast("dict[str, Any]", whole["receipt"]), **changes}})
        )


def test_receipt__longer_than_any__is_a_value_error() -> None:
    whole = signed(Call("/v1/x", b"{}", b"\x05" * 32), b"answer").to_json()
    with pytest.raises(ValueError, match="too long"):
        SignedReceipt.parse(orjson.dumps({**whole, "more": "x" * 4096}))
