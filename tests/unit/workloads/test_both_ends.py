"""Node and gateway take the same text out of an answer of any shape: else an honest node is charged with a bad receipt.

The real agent signs a receipt over what an odd model server answers; the gateway's task checks it against what it got.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientPayloadError, web

from offchain.crypto.recovery import recover
from offchain.protocol.receipts import ReceiptVerifier
from offchain.workloads.inference.request import Kind, parse
from offchain.workloads.inference.stream import StreamTask
from offchain.workloads.inference.whole_answer import PlainTask
from tests.support.node.requests import (
    MARKET,
    NODE,
    NODE_KEY,
    RunningAgent,
    chat,
    running_agent,
    ticket_headers,
)

REQUEST_ID = bytes(range(32))
USAGE = {"prompt_tokens": 3, "completion_tokens": 4}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
ENDED = {"finish_reason": "stop"}

WHOLE: dict[str, list[dict[str, Any]]] = {
    "content": [{"index": 0, "message": {"content": "a é"}, **ENDED}],
    "content null": [{"index": 0, "message": {"content": None}, **ENDED}],
    "no content": [{"index": 0, "message": {"role": "assistant"}, **ENDED}],
    "text null": [{"index": 0, "text": None, **ENDED}],
    "no index": [{"message": {"content": "a"}, **ENDED}],
    "message null beside text": [{"index": 0, "message": None, "text": "a", **ENDED}],
    "message beside text": [{"index": 0, "message": {"content": "a"}, "text": "b", **ENDED}],
    "tool calls": [{"index": 0, "message": {"content": None, "tool_calls": [CALL]}, **ENDED}],
    "no tool calls": [{"index": 0, "message": {"content": "a", "tool_calls": []}, **ENDED}],
    "tool calls beside content": [{"index": 0, "message": {"content": "a", "tool_calls": [CALL]}, **ENDED}],
    "choices out of order": [{"index": 1, "text": "b", **ENDED}, {"index": 0, "text": "a", **ENDED}],
    "empty finish_reason": [{"index": 0, "message": {"content": "a"}, "finish_reason": ""}],
    "content as parts": [{"index": 0, "message": {"content": [{"type": "text", "text": "a"}]}, **ENDED}],
}
STREAMED: dict[str, list[dict[str, Any]]] = {
    "content": [{"index": 0, "delta": {"content": "a"}}, {"index": 0, "delta": {"content": "é"}, **ENDED}],
    "content null": [
        {"index": 0, "delta": {"content": "a"}},
        {"index": 0, "delta": {"content": None}, **ENDED},
    ],
    "text null": [{"index": 0, "text": "a"}, {"index": 0, "text": None, **ENDED}],
    "no index": [{"delta": {"content": "a"}}, {"delta": {}, **ENDED}],
    "delta null beside text": [{"index": 0, "delta": None, "text": "a"}, {"index": 0, "text": "b", **ENDED}],
    "no output at all": [{"index": 0, "delta": {"role": "assistant"}}, {"index": 0, "delta": {}, **ENDED}],
    "tool calls": [
        {"index": 0, "delta": {"tool_calls": [{"index": 0, **CALL}]}},
        {"index": 0, "delta": {"tool_calls": [{"index": 1, "function": {"arguments": "{"}}]}},
        {"index": 0, "delta": {"content": "beside", "tool_calls": None}, "finish_reason": "tool_calls"},
    ],
    "two choices": [{"index": 1, "text": "b", **ENDED}, {"index": 0, "text": "a", **ENDED}],
    "empty finish_reason": [{"index": 0, "delta": {"content": "a"}}, {"index": 0, "finish_reason": ""}],
}


class OddModelServer:
    """Answers every request with what the test says."""

    def __init__(self) -> None:
        self.choices: list[dict[str, Any]] = []
        self.fields: dict[str, Any] = {}
        self.event = "data: @\r\n\r\n"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if not (await request.json()).get("stream"):
            return web.json_response({"choices": self.choices, "usage": USAGE})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        chunks = [
            *({**self.fields, "choices": [choice]} for choice in self.choices),
            {"choices": [], "usage": USAGE},
        ]
        for data in [*map(json.dumps, chunks), "[DONE]"]:
            await response.write(self.event.replace("@", data).encode())
        return response

    async def health(self, request: web.Request) -> web.Response:
        return web.Response()


@pytest.fixture
async def model_server() -> AsyncIterator[tuple[OddModelServer, str]]:
    odd = OddModelServer()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", odd.answer)
    app.router.add_get("/health", odd.health)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield odd, site.name
    await runner.cleanup()


@pytest.fixture
async def agent(
    model_server: tuple[OddModelServer, str], tmp_path: Path
) -> AsyncIterator[tuple[OddModelServer, RunningAgent]]:
    odd, url = model_server
    async with running_agent(url, tmp_path) as running:
        yield odd, running


def verifier() -> ReceiptVerifier:
    return ReceiptVerifier(MARKET, recover, lambda _: (NODE_KEY.address,))


@pytest.mark.parametrize("shape", WHOLE)
async def test_whole_answer__odd_shape__gateway_accepts_the_nodes_receipt(
    agent: tuple[OddModelServer, RunningAgent], shape: str
) -> None:
    odd, running = agent
    odd.choices = WHOLE[shape]
    body = chat("hi")
    answer = await running.post(body, **ticket_headers(body, request_id=REQUEST_ID))
    task = PlainTask(parse(Kind.CHAT, body), body, REQUEST_ID, verifier())
    task.call(NODE)
    task.head(answer.status, {name.lower(): value for name, value in answer.headers.items()})
    task.feed(await answer.read())
    task.end()
    assert task.verdict() is None
    assert task.receipt is not None


@pytest.mark.parametrize("shape", STREAMED)
async def test_stream__odd_shape__gateway_accepts_the_nodes_receipt(
    agent: tuple[OddModelServer, RunningAgent], shape: str
) -> None:
    odd, running = agent
    odd.choices = STREAMED[shape]
    body = chat("hi", stream=True)
    answer = await running.post(body, **ticket_headers(body, request_id=REQUEST_ID))
    task = StreamTask(parse(Kind.CHAT, body), body, REQUEST_ID, verifier(), lambda _: None)
    task.call(NODE)
    task.head(answer.status, {name.lower(): value for name, value in answer.headers.items()})
    task.feed(await answer.read())
    task.end()
    assert task.verdict() is None
    assert task.receipt is not None


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        ("data:@\r\r", {}),
        ("data:  @\n\n", {}),
        ("data: \ndata: @\n: a comment\n\n", {}),
        ("event: message\ndata: @\n\n", {}),
        ("event: parallelix.receipt\ndata: @\n\n", {}),
        ("data: @\n\n", {"error": None}),
        ("data: @\n\n", {"id": "1", "error": None}),
        ("data: @\n\n", {"id": "1", "error": {}}),
    ],
)
async def test_stream__odd_events__reach_the_caller_and_the_nodes_receipt_holds(
    agent: tuple[OddModelServer, RunningAgent], event: str, fields: dict[str, Any]
) -> None:
    odd, running = agent
    odd.choices, odd.event, odd.fields = STREAMED["content"], event, fields
    body = chat("hi", stream=True)
    answer = await running.post(body, **ticket_headers(body, request_id=REQUEST_ID))
    task = StreamTask(parse(Kind.CHAT, body), body, REQUEST_ID, verifier(), lambda _: None)
    task.call(NODE)
    assert task.feed(await answer.read()).count(b'"choices"') == len(odd.choices)
    task.end()
    assert task.verdict() is None
    assert task.receipt is not None


@pytest.mark.parametrize(
    "usage",
    [{"prompt_tokens": -1}, {"prompt_tokens": 1 << 32}, {"prompt_tokens": 1, "completion_tokens": 1e300}],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_answer__count_that_no_receipt_holds__is_no_answer(
    agent: tuple[OddModelServer, RunningAgent],
    monkeypatch: pytest.MonkeyPatch,
    usage: dict[str, Any],
    stream: bool,
) -> None:
    odd, running = agent
    odd.choices = STREAMED["content"] if stream else WHOLE["content"]
    monkeypatch.setitem(globals(), "USAGE", usage)
    body = chat("hi", stream=stream)
    answer = await running.post(body, **ticket_headers(body, request_id=REQUEST_ID))
    if stream:
        with pytest.raises(ClientPayloadError):
            await answer.read()
    else:
        assert answer.status == 503
