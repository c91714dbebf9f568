"""What a node writes into its answer never reads as a failure of the gateway: such a slot would count as up."""

from collections.abc import AsyncIterator
from time import monotonic

import pytest
from aiohttp import web

from offchain.domain.types import NodeId
from offchain.keeper.probing.gateway_client import GatewayClient, ReplyKind

DEEP = b"[" * 1010 + b"]" * 1010
MANY = b",".join(b'{"index":%d}' % index for index in range(30_000))
REQUEST_ID = "0x" + "11" * 32


class Gateway:
    """Passes on what a node wrote, as a gateway does that has not read it."""

    def __init__(self) -> None:
        self.written = b""
        self.content_type = "text/event-stream"

    async def answer(self, _: web.Request) -> web.Response:
        return web.Response(
            body=self.written, headers={"content-type": self.content_type, "x-request-id": REQUEST_ID}
        )

    async def record(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "answered", "receipt": None})


@pytest.fixture
async def gateway() -> AsyncIterator[tuple[Gateway, str]]:
    made = Gateway()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", made.answer)
    app.router.add_get("/v1/receipts/{id}", made.record)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield made, site.name
    await runner.cleanup()


@pytest.mark.parametrize(
    "written",
    [
        b"data: {bad\n\n",
        b"data: 5\n\n",
        b'data: {"choices":5}\n\n',
        b'data: {"a":%b%b}\n\n' % (b"[" * 1100, b"]" * 1100),
        b": " + b"x" * (1 << 20),
        b'data: {"choices":[{"delta":{"tool_calls":[{"id":%b}]}}]}\n\ndata: [DONE]\n\n' % DEEP[700:-700],
    ],
    ids=["no json", "a number", "no choices", "nested", "too long", "a call without a text"],
)
async def test_ask__stream_of_nonsense__is_the_nodes_failure(
    gateway: tuple[Gateway, str], written: bytes
) -> None:
    gateway[0].written = written
    async with GatewayClient(gateway[1], "key", 20) as client:
        assert (await client.ask(NodeId(7), b"{}")).kind is ReplyKind.NODE_FAILED


@pytest.mark.parametrize(
    ("written", "kind"),
    [(b'{"a":%b}' % DEEP, ReplyKind.ANSWER), (b" " * (1 << 21), ReplyKind.NODE_FAILED)],
    ids=["nested", "too long"],
)
async def test_ask__document_of_nonsense__is_the_nodes_failure(
    gateway: tuple[Gateway, str], written: bytes, kind: ReplyKind
) -> None:
    gateway[0].written, gateway[0].content_type = written, "application/json"
    async with GatewayClient(gateway[1], "key", 20) as client:
        reply = await client.ask(NodeId(7), b"{}")
    assert (reply.kind, reply.envelope) == (kind, None)


async def test_ask__error_of_null__is_no_error(gateway: tuple[Gateway, str]) -> None:
    gateway[0].written = b'data: {"error":null,"choices":[{"text":"a"}]}\n\ndata: [DONE]\n\n'
    async with GatewayClient(gateway[1], "key", 20) as client:
        reply = await client.ask(NodeId(7), b"{}")
    assert (reply.kind, reply.answer) == (ReplyKind.ANSWER, {"choices": [{"index": 0, "text": "a"}]})


async def test_ask__many_choices_and_many_events__costs_no_more_than_their_length(
    gateway: tuple[Gateway, str],
) -> None:
    """The keeper's other probes wait meanwhile, and honest nodes would be late."""
    gateway[0].written = b'data: {"choices":[%b]}\n\n' % MANY + b"data: {}\n\n" * 20_000
    began = monotonic()
    async with GatewayClient(gateway[1], "key", 60) as client:
        await client.ask(NodeId(7), b"{}")
    assert monotonic() - began < 20
