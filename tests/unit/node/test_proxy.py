"""The agent in front of a model server in another process: streams, receipts, limits, refusals."""

import asyncio
import base64
import hashlib
import json
import secrets
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from offchain.domain.eip712 import SigningDomain, keccak256
from offchain.domain.messages import result_bytes
from offchain.node.agent import proxy
from tests.support.node.requests import (
    GATEWAY,
    MANIFEST,
    NODE_KEY,
    STRANGER,
    RunningAgent,
    chat,
    checked_receipt,
    clock_ms,
    eventually,
    frames,
    running_agent,
    stub_engine,
    ticket_headers,
)


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    with stub_engine() as url:
        yield url


@pytest.fixture
async def agent(engine: str, tmp_path: Path) -> AsyncIterator[RunningAgent]:
    async with running_agent(engine, tmp_path) as running:
        yield running


async def _engine_running(agent: RunningAgent) -> dict:
    async with agent.client.get(f"{agent.engine.url}/seen") as answer:
        return await answer.json()


async def test_proxy__stream__passes_every_frame_and_a_receipt_before_done(agent: RunningAgent) -> None:
    body = chat("tokens=5", stream=True)
    answer = await agent.post(body)
    found = frames(await answer.read())
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert [event for event, _ in found] == [None] * 5 + ["parallelix.receipt", None]
    assert found[-1] == (None, "[DONE]")
    chunks = [json.loads(data) for event, data in found[:-2]]
    assert [chunk["choices"][0]["token_ids"] for chunk in chunks] == [[0], [1], [2], [3], [4]]
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    receipt = checked_receipt(json.loads(found[-2][1]), body, result_bytes([text]))
    assert (receipt.prompt_tokens, receipt.completion_tokens, receipt.price_wei) == (7, 5, 120)


async def test_proxy__stream_with_usage_asked__passes_the_usage_frame(agent: RunningAgent) -> None:
    body = chat("tokens=2", stream=True, stream_options={"include_usage": True})
    found = frames(await (await agent.post(body)).read())
    assert json.loads(found[2][1]) == {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}


@pytest.mark.parametrize("options", ["yes", 1, [True]])
async def test_proxy__stream_options_of_another_type__400(agent: RunningAgent, options: object) -> None:
    answer = await agent.post(chat("tokens=1", stream=True, stream_options=options))
    assert answer.status == 400
    assert "stream_options" in (await answer.json())["error"]["message"]


async def test_proxy__frames__arrive_while_the_answer_is_still_made(agent: RunningAgent) -> None:
    body = chat("tokens=4 delay_ms=100", stream=True)
    answer = await agent.post(body)
    arrivals = [asyncio.get_running_loop().time() async for _ in answer.content.iter_any()]
    assert arrivals[-1] - arrivals[0] > 0.15  # the first came long before the last was made


async def test_proxy__whole_answer__carries_the_receipt_in_a_header(agent: RunningAgent) -> None:
    body = chat("tokens=3")
    answer = await agent.post(body)
    text = (await answer.json())["choices"][0]["message"]["content"]
    header = answer.headers["X-Parallelix-Receipt"]
    receipt = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    assert checked_receipt(receipt, body, result_bytes([text])).completion_tokens == 3


@pytest.mark.parametrize(
    ("path", "fields"),
    [("/v1/completions", {"prompt": "tokens=2"}), ("/v1/embeddings", {"input": ["ab"]})],
    ids=["completion", "embedding"],
)
async def test_proxy__whole_answer_to_a_ticket_by_mac__is_proved_to_who_asked(
    agent: RunningAgent, path: str, fields: dict[str, Any]
) -> None:
    body = json.dumps({"model": "m", **fields}).encode()
    headers = ticket_headers(body, node_key=NODE_KEY.public_key)
    answer = await agent.post(body, path, **headers)
    request_id = bytes.fromhex(headers["X-Parallelix-Request-Id"][2:])
    proved = request_id + await answer.read()
    key = GATEWAY.agree(NODE_KEY.public_key)
    expected = hashlib.blake2b(proved, digest_size=32, key=key, person=b"parallelix.answ").hexdigest()
    assert answer.headers["X-Parallelix-Proof"] == expected


async def test_proxy__signed_ticket_or_stream_or_refusal__is_not_proved(agent: RunningAgent) -> None:
    cases = [
        (chat(), None),
        (chat(stream=True), NODE_KEY.public_key),
        (chat("status=400"), NODE_KEY.public_key),
    ]
    for body, node_key in cases:
        answer = await agent.post(body, **ticket_headers(body, node_key=node_key))
        await answer.read()
        assert "X-Parallelix-Proof" not in answer.headers


async def test_proxy__completions_and_embeddings__have_receipts_too(agent: RunningAgent) -> None:
    body = json.dumps({"model": "m", "prompt": "tokens=2"}).encode()
    answer = await agent.post(body, "/v1/completions")
    assert (await answer.json())["choices"][0]["text"] == " w0é w1é"
    body = json.dumps({"model": "m", "input": ["ab", "abc"]}).encode()
    answer = await agent.post(body, "/v1/embeddings")
    header = answer.headers["X-Parallelix-Receipt"]
    vectors = [base64.b64encode(struct.pack("<3f", 0.5, -1.25, n)).decode() for n in (2, 3)]
    data = json.loads(base64.urlsafe_b64decode(header + "=="))
    assert checked_receipt(data, body, result_bytes(vectors)).completion_tokens == 0


async def test_proxy__model_server_breaks_off__connection_is_cut_without_done(agent: RunningAgent) -> None:
    answer = await agent.post(chat("tokens=6 cut=2", stream=True))
    seen = bytearray()

    async def read() -> None:
        async for chunk in answer.content.iter_any():
            seen.extend(chunk)

    with pytest.raises(aiohttp.ClientError):
        await read()
    answer.close()
    assert b"w1" in seen
    assert b"[DONE]" not in seen
    assert b"receipt" not in seen
    await eventually(lambda: agent.slots.used == 0)


@pytest.mark.parametrize("stream", [True, False])
async def test_proxy__client_leaves__model_server_stops_and_the_slot_is_free(
    agent: RunningAgent, stream: bool
) -> None:
    before = (await _engine_running(agent))["aborted"]
    body = chat("tokens=200 delay_ms=50", stream=stream)
    sending = asyncio.create_task(agent.post(body))
    await eventually(lambda: agent.slots.used == 1)

    async def running() -> bool:
        return (await _engine_running(agent))["running"] == 1

    await eventually(running)
    if stream:
        answer = await sending
        await answer.content.readany()
        answer.close()
    else:
        sending.cancel()
    left = asyncio.get_running_loop().time()

    async def aborted() -> bool:
        return (await _engine_running(agent))["aborted"] == before + 1

    await eventually(aborted)
    assert asyncio.get_running_loop().time() - left < 3  # it would have gone on for ten seconds
    assert agent.slots.used == 0


@pytest.mark.parametrize(
    ("body", "ours", "sent"),
    [
        (b'{"model":"m"}', {}, b'{"model":"m"}'),
        (b'{"model":"m", "n": 1}', {"cache_salt": 's"'}, b'{"model":"m", "n": 1,"cache_salt":"s\\""}'),
        (b' {"model":"m" }\r\n\t ', {"cache_salt": "s"}, b' {"model":"m" ,"cache_salt":"s"}'),
        (b'{"cache_salt":"x","n": 1}', {"cache_salt": "s"}, b'{"cache_salt":"s","n":1}'),
    ],
    ids=["as-it-came", "behind-the-last", "white-space", "in-its-place"],
)
def test_body__with_fields_of_ours__is_what_came_and_each_name_once(
    body: bytes, ours: dict[str, Any], sent: bytes
) -> None:
    made = proxy._with(body, json.loads(body), ours)
    assert made == sent
    assert json.loads(made) == {**json.loads(body), **ours}


async def test_slots__all_taken__429_no_slot_and_the_ticket_stays_good(agent: RunningAgent) -> None:
    bodies = [chat(f"tokens=20 delay_ms=20 n={i}", stream=True) for i in range(2)]
    running = [await agent.post(body) for body in bodies]
    body = chat("tokens=1")
    headers = ticket_headers(body)
    refused = await agent.post(body, **headers)
    assert refused.status == 429
    assert (await refused.json())["error"]["type"] == "no_slot"
    for answer in running:
        await answer.read()
    assert (await agent.post(body, **headers)).status == 200


async def test_slots__draining__refuses_new_and_finishes_running(agent: RunningAgent) -> None:
    running = await agent.post(chat("tokens=10 delay_ms=20", stream=True))
    draining = asyncio.create_task(agent.slots.drain(5))
    await asyncio.sleep(0)
    assert (await agent.post(chat())).status == 429
    assert (await agent.client.get(agent.url + "/ready")).status == 503
    assert b"[DONE]" in await running.read()
    assert await draining == 0


SIGNED: dict[str, Any] = {}
BY_MAC: dict[str, Any] = {"node_key": NODE_KEY.public_key}
either_proof = pytest.mark.parametrize("proof", [SIGNED, BY_MAC], ids=["signed", "mac"])


@either_proof
async def test_ticket__used_twice__second_is_refused(agent: RunningAgent, proof: dict[str, Any]) -> None:
    body, issued_ms, request_id = chat(), clock_ms(), secrets.token_bytes(32)
    same = {"issued_ms": issued_ms, "request_id": request_id}
    assert (await agent.post(body, **ticket_headers(body, **same, **proof))).status == 200
    for second in (SIGNED, BY_MAC):  # the ticket is used up, whichever way it is proved
        again = await agent.post(body, **ticket_headers(body, **same, **second))
        assert again.status == 409
        assert (await again.json())["error"]["type"] == "replayed_ticket"


OTHER_NETWORK = SigningDomain(1, "0x" + "11" * 20)


@pytest.mark.parametrize(
    "changes",
    [
        {"signer": STRANGER},
        {"node": 8},
        {"issued_ms": clock_ms() - 60_000, "lifetime_ms": 30_000},
        {"issued_ms": clock_ms() + 600_000},
        {"lifetime_ms": 3_600_000},
        {"domain": OTHER_NETWORK},
    ],
    ids=["forged", "foreign-node", "expired", "future", "too-long", "other-network"],
)
@either_proof
async def test_ticket__not_good__401_before_the_model_server_sees_it(
    agent: RunningAgent, changes: dict[str, Any], proof: dict[str, Any]
) -> None:
    body = chat("tokens=1 unseen=1")
    answer = await agent.post(body, **ticket_headers(body, **changes, **proof))
    assert answer.status == 401
    assert (await answer.json())["error"]["type"] == "invalid_ticket"
    assert agent.slots.used == 0


@either_proof
async def test_ticket__of_another_body__refused(agent: RunningAgent, proof: dict[str, Any]) -> None:
    headers = ticket_headers(chat("tokens=1"), **proof)
    assert (await agent.post(chat("tokens=2"), **headers)).status == 401


async def test_ticket__mac_of_a_stranger_under_a_gateways_name__refused(agent: RunningAgent) -> None:
    """A stranger shares a key with the node too; only the gateway's counts for the gateway's name."""
    body = chat()
    headers = ticket_headers(body, signer=STRANGER, **BY_MAC)
    raw = bytearray.fromhex(headers["X-Parallelix-Ticket"][2:])
    raw[16:80] = GATEWAY.public_key
    assert (await agent.post(body, **{**headers, "X-Parallelix-Ticket": "0x" + raw.hex()})).status == 401


async def test_ticket__mac_for_another_nodes_key__refused(agent: RunningAgent) -> None:
    body = chat()
    assert (await agent.post(body, **ticket_headers(body, node_key=STRANGER.public_key))).status == 401


@either_proof
async def test_ticket__every_bit_flipped__refused(agent: RunningAgent, proof: dict[str, Any]) -> None:
    body = chat("tokens=1")
    good = ticket_headers(body, **proof)
    raw = bytes.fromhex(good["X-Parallelix-Ticket"][2:])
    for position in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[position // 8] ^= 1 << position % 8
        headers = {**good, "X-Parallelix-Ticket": "0x" + flipped.hex()}
        assert (await agent.post(body, **headers)).status == 401, position
    assert (await agent.post(body, **good)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Other": "1"},
        {"X-Parallelix-Request-Id": "0x12", "X-Parallelix-Ticket": "0x34"},
        {"X-Parallelix-Request-Id": "0x" + "zz" * 32, "X-Parallelix-Ticket": "0x" + "00" * 81},
    ],
)
async def test_ticket__headers_missing_or_malformed__401(agent: RunningAgent, headers: dict) -> None:
    assert (await agent.post(chat(), **headers)).status == 401


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"{", 400, "invalid_request_error"),
        (b"[]", 400, "invalid_request_error"),
        (json.dumps({"model": "other"}).encode(), 404, "model_not_found"),
        (chat("status=400"), 400, "steered"),
        (chat("status=500"), 503, "model_down"),
        (b"x" * 1_000_001, 413, "invalid_request_error"),
    ],
    ids=["no-json", "no-object", "other-model", "refused", "server-error", "too-large"],
)
async def test_request__not_servable__says_so_in_openai_shape(
    agent: RunningAgent, body: bytes, status: int, kind: str
) -> None:
    answer = await agent.post(body)
    assert (answer.status, (await answer.json())["error"]["type"]) == (status, kind)


async def test_routes__manifest_health_metrics_and_the_rest(agent: RunningAgent) -> None:
    answer = await agent.client.get(agent.url + "/manifest")
    data = await answer.read()
    assert data == MANIFEST.canonical()
    assert answer.headers["X-Parallelix-Manifest-Hash"] == "0x" + keccak256(data).hex()
    await (await agent.post(chat())).read()
    assert (
        b'parallelix_node_requests_total{outcome="served"} 1\n'
        in await (await agent.client.get(agent.url + "/metrics")).read()
    )
    assert (await agent.client.get(agent.url + "/health")).status == 200
    assert (await agent.client.get(agent.url + "/v1/chat/completions")).status == 405
    assert (await agent.client.get(agent.url + "/else")).status == 404
    assert (await agent.client.post(agent.url + "/else")).status == 404


async def test_replay__agent_restarted_after_sigkill__still_refuses(engine: str, tmp_path: Path) -> None:
    body = chat()
    headers = ticket_headers(body)
    async with running_agent(engine, tmp_path) as first:
        assert (await first.post(body, **headers)).status == 200
    async with running_agent(engine, tmp_path) as second:
        assert (await second.post(body, **headers)).status == 409


async def test_model_server__gone__503_model_down(tmp_path: Path) -> None:
    with stub_engine() as url:
        async with running_agent(url, tmp_path) as agent:
            body = chat("tokens=50 delay_ms=100")
            running = asyncio.create_task(agent.post(body))
            await eventually(lambda: agent.slots.used == 1)
            seen = await _engine_running(agent)
            import os

            os.kill(seen["pid"], 9)
            answer = await running
            assert answer.status == 503
            assert (await answer.json())["error"]["type"] == "model_down"
            await eventually(lambda: agent.engine.state.value == "down")
            assert (await agent.post(chat())).status == 503
            assert (await agent.client.get(agent.url + "/ready")).status == 503
