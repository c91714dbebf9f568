"""A node that nobody can connect to: it dials the gateway, and requests come down the connection."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import orjson
import pytest

from offchain.crypto.keys import Signer
from offchain.crypto.recovery import recover
from offchain.dispatch.upstream import Call
from offchain.domain.eip712 import keccak256
from offchain.domain.messages import Heartbeat, result_bytes
from offchain.domain.types import NodeId
from offchain.gateway.nodes.dial_in import DialIn, DialInUpstream, dialed_url
from offchain.node.agent.dial_out import DialOut
from offchain.protocol.heartbeats import NodeRecord
from offchain.protocol.tickets import TicketSigner
from offchain.scheduler.work import NodeError
from offchain.transport.pool import HttpExchange
from offchain.transport.server import HttpLimits, HttpServer, Request, ServerConnection
from tests.support.node.requests import (
    GATEWAY,
    LOCKER,
    MANIFEST,
    NODE,
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
from tests.support.services.ports import free_port

URL = dialed_url(NODE)
IDS = iter(range(1, 1 << 30))


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    with stub_engine() as url:
        yield url


class Gateway:
    """The gateway's side, listening."""

    def __init__(self) -> None:
        self.upstream = DialInUpstream(TicketSigner(LOCKER, GATEWAY.sign, clock_ms))
        self.urls: list[str] = []
        dialin = DialIn(self.upstream, LOCKER, recover, self._lookup, lambda: self.urls)

        async def nothing(_request: Request, connection: ServerConnection) -> None:
            connection.reply(404, {}, b"")

        self.key = NODE_KEY.address
        self.errors: list[BaseException] = []
        self.http = HttpServer(dialin.before(nothing), HttpLimits(), self.errors.append)

    def _lookup(self, node_id: NodeId) -> NodeRecord | None:
        return NodeRecord(node_id, self.key, 1, True) if node_id == NODE else None

    async def start(self, port: int = 0) -> str:
        url = f"http://127.0.0.1:{await self.http.start('127.0.0.1', port)}"
        self.urls.append(url)
        return url

    async def stop(self) -> None:
        self.upstream.close()
        await self.http.stop(0.1)
        assert self.errors == []

    def ask(self, body: bytes) -> HttpExchange:
        return self.upstream.start(
            NODE, URL, Call("/v1/chat/completions", body, next(IDS).to_bytes(32, "big"))
        )


@contextlib.asynccontextmanager
async def dialing(agent: RunningAgent, *receivers: str, signer: Signer = NODE_KEY) -> AsyncIterator[DialOut]:
    dial = DialOut(NODE, signer, LOCKER, receivers, agent.http, agent.slots.limit, clock_ms)
    task = asyncio.create_task(dial.run())
    try:
        yield dial
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    running = Gateway()
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def agent(engine: str, tmp_path: Path) -> AsyncIterator[RunningAgent]:
    async with running_agent(engine, tmp_path, slots=8) as running:
        yield running


async def read(exchange: HttpExchange) -> bytes:
    await exchange.head()
    data = b""
    while chunk := await exchange.read():
        data += chunk
    return data


async def test_dial__request__is_answered_with_a_receipt(gateway: Gateway, agent: RunningAgent) -> None:
    async with dialing(agent, gateway.urls[0]) as dial:
        await eventually(lambda: dial.holds(gateway.urls[0]))
        assert dial.url_for(gateway.urls[0], "http://in") == URL
        body = chat("tokens=3", stream=True)
        found = frames(await read(gateway.ask(body)))
        text = "".join(json.loads(data)["choices"][0]["delta"]["content"] for _, data in found[:3])
        checked_receipt(json.loads(found[3][1]), body, result_bytes([text]))


async def test_dial__ticket_shown_twice_or_a_strangers__refused(
    gateway: Gateway, agent: RunningAgent
) -> None:
    async with dialing(agent, gateway.urls[0]) as dial:
        await eventually(lambda: dial.holds(gateway.urls[0]))
        body = chat("tokens=1")
        statuses = []
        used = ticket_headers(body)
        for headers in (used, used, ticket_headers(body, signer=STRANGER), ticket_headers(body, node=8), {}):
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            head = (
                f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{lines}\r\n"
            )
            exchange = HttpExchange(gateway.upstream.dialed(NODE), head.encode(), body)
            gateway.upstream.dialed(NODE).dispatch(exchange)
            await read(exchange)
            statuses.append(exchange.status)
        assert statuses == [200, 409, 401, 401, 401]


async def test_dial__key_rotated__old_connections_go_when_the_new_key_has_proved_itself(
    gateway: Gateway, agent: RunningAgent
) -> None:
    """A stolen key that was rotated away must not keep what it once had."""
    pool = gateway.upstream.dialed(NODE)
    async with dialing(agent, gateway.urls[0]) as old:
        await eventually(lambda: len(pool._idle) == 2)
        held = list(pool._idle)
        running = gateway.ask(chat("tokens=20 delay_ms=20", stream=True))
        await running.head()
        gateway.key = STRANGER.address
        async with dialing(agent, gateway.urls[0], signer=STRANGER) as new:
            await eventually(lambda: new.holds(gateway.urls[0]))
            await eventually(lambda: pool._idle and not set(pool._idle) & set(held))
            assert (await read(running)).endswith(b"data: [DONE]\n\n")
            assert pool.key == STRANGER.address
            await eventually(lambda: not old.holds(gateway.urls[0]))
            assert not set(pool._idle) & set(held)


async def test_dial__key_rotated_and_its_time_over__idle_connections_are_dropped(
    gateway: Gateway, agent: RunningAgent
) -> None:
    pool = gateway.upstream.dialed(NODE)
    async with dialing(agent, gateway.urls[0]) as dial:
        await eventually(lambda: len(pool._idle) == 2)
        gateway.upstream.revoke(lambda node_id: (NODE_KEY.address, STRANGER.address))
        assert len(pool._idle) == 2
        gateway.key = STRANGER.address
        gateway.upstream.revoke(lambda node_id: (STRANGER.address,))
        assert pool._idle == []
        await eventually(lambda: not dial.holds(gateway.urls[0]))


async def test_relay__to_no_node__404_and_nothing_is_kept(gateway: Gateway, agent: RunningAgent) -> None:
    answer = await agent.client.post(f"{gateway.urls[0]}/internal/dial/99/v1/chat/completions", data=b"{}")
    assert answer.status == 404
    assert gateway.upstream._pools == {}


async def test_dial__as_many_at_once_as_slots__each_gets_a_connection(
    gateway: Gateway, agent: RunningAgent
) -> None:
    async with dialing(agent, gateway.urls[0]) as dial:
        await eventually(lambda: dial.holds(gateway.urls[0]))
        began = time.monotonic()
        exchanges = [gateway.ask(chat(f"tokens=10 delay_ms=20 n={i}", stream=True)) for i in range(8)]
        answers = await asyncio.gather(*(read(exchange) for exchange in exchanges))
        assert all(answer.endswith(b"data: [DONE]\n\n") for answer in answers)
        assert time.monotonic() - began < 10


async def test_dial__caller_leaves__slot_is_free(gateway: Gateway, agent: RunningAgent) -> None:
    async with dialing(agent, gateway.urls[0]) as dial:
        await eventually(lambda: dial.holds(gateway.urls[0]))
        exchange = gateway.ask(chat("tokens=200 delay_ms=50", stream=True))
        await exchange.head()
        assert agent.slots.used == 1
        exchange.close()
        began = time.monotonic()
        await eventually(lambda: agent.slots.used == 0)
        assert time.monotonic() - began < 3  # it would have gone on for ten seconds
        assert b"[DONE]" in await read(gateway.ask(chat("tokens=1", stream=True)))


async def test_dial__gateway_restarts__agent_comes_back(agent: RunningAgent) -> None:
    first = Gateway()
    url = await first.start(free_port())
    async with dialing(agent, url) as dial:
        await eventually(lambda: dial.holds(url))
        await first.stop()
        await eventually(lambda: not dial.holds(url))
        second = Gateway()
        await second.start(int(url.rsplit(":", 1)[1]))
        await eventually(lambda: dial.holds(url))
        assert b"[DONE]" in await read(second.ask(chat("tokens=1", stream=True)))
        await second.stop()


async def test_dial__no_connection__unreachable_within_the_wait(gateway: Gateway) -> None:
    began = time.monotonic()
    with pytest.raises(NodeError, match="keeps no connection"):
        await gateway.ask(chat()).head()
    assert 0.8 < time.monotonic() - began < 5


async def test_dial__receiver_that_takes_none__inbound_or_relayed(
    gateway: Gateway, agent: RunningAgent
) -> None:
    plain = HttpServer(_not_found, HttpLimits(), lambda error: None)
    keeper = f"http://127.0.0.1:{await plain.start('127.0.0.1', 0)}"
    async with dialing(agent, keeper, gateway.urls[0]) as dial:
        assert dial.url_for(keeper, "http://in") == "http://in"
        await eventually(lambda: dial.holds(gateway.urls[0]))
        relayed = dial.url_for(keeper, "http://in")
        assert relayed == f"{gateway.urls[0]}/internal/dial/{NODE}"
        body = chat("tokens=2", stream=True)
        answer = await agent.client.post(
            f"{relayed}/v1/chat/completions", data=body, headers=ticket_headers(body)
        )
        found = frames(await answer.read())
        assert [event for event, _ in found] == [None, None, "parallelix.receipt", None]
        body = chat("tokens=2")
        headers = ticket_headers(body, node_key=NODE_KEY.public_key)
        answer = await agent.client.post(f"{relayed}/v1/chat/completions", data=body, headers=headers)
        assert "X-Parallelix-Receipt" in answer.headers
        assert "X-Parallelix-Proof" in answer.headers
        await answer.read()
        refused = await agent.client.post(f"{relayed}/v1/chat/completions", data=body, headers={})
        assert refused.status == 401
        assert (await agent.client.get(f"{relayed}/metrics")).status == 404
        assert (await agent.client.post(f"{relayed}/manifest", data=b"{}")).status == 404
        assert await (await agent.client.get(f"{relayed}/manifest")).read() == MANIFEST.canonical()
    await plain.stop(0.1)


async def _not_found(_request: Request, connection: ServerConnection) -> None:
    connection.reply(404, {}, b"")


async def _hello(
    url: str, *, signer: Signer, front: str, node: int = NODE, challenge: str | None = None
) -> int:
    async with aiohttp.ClientSession() as client:
        if challenge is None:
            async with client.get(f"{url}/internal/dial") as answer:
                challenge = (await answer.json())["challenge"]
        body = orjson.dumps({"node_id": node, "challenge": challenge, "front": front})
        sent = clock_ms()
        digest = LOCKER.digest(Heartbeat(NodeId(node), keccak256(body), sent).struct_hash())
        header = "0x" + (sent.to_bytes(8, "big") + signer.sign_digest(digest)).hex()
        async with client.post(
            f"{url}/internal/dial", data=body, headers={"X-Parallelix-Heartbeat": header}
        ) as answer:
            return answer.status


async def test_hello__of_another_key_front_node_or_challenge__refused(gateway: Gateway) -> None:
    url = gateway.urls[0]
    assert await _hello(url, signer=STRANGER, front=url) == 401
    assert await _hello(url, signer=NODE_KEY, front="http://another.example") == 401
    assert await _hello(url, signer=NODE_KEY, front=url, node=8) == 401
    assert await _hello(url, signer=NODE_KEY, front=url, challenge="0x" + "00" * 32) == 401
    assert await _hello(url, signer=NODE_KEY, front=url) == 101
    async with aiohttp.ClientSession() as client, client.post(f"{url}/internal/dial", data=b"[]") as answer:
        assert answer.status == 401
    gateway.upstream.close()


@contextlib.asynccontextmanager
async def raw_gateway(behind_the_101: bytes) -> AsyncIterator[tuple[str, list[asyncio.StreamReader]]]:
    """URL of a gateway that speaks the exchange byte by byte, and its side of each connection that it switched."""
    switched: list[asyncio.StreamReader] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 18\r\n\r\n{"challenge":"0x"}')
        head = await reader.readuntil(b"\r\n\r\n")
        size = next(line for line in head.decode().lower().splitlines() if line.startswith("content-length:"))
        await reader.readexactly(int(size.split()[1]))
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\r\n" + behind_the_101)
        switched.append(reader)
        if not behind_the_101:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", switched
    finally:
        server.close()
        for writer in writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def test_dial__request_right_behind_the_101__is_answered(agent: RunningAgent) -> None:
    """A gateway with a waiting request sends it in the same packet."""
    async with raw_gateway(b"GET /manifest HTTP/1.1\r\nhost: x\r\n\r\n") as (url, switched):
        async with dialing(agent, url), asyncio.timeout(30):
            await eventually(lambda: switched)
            assert (await switched[0].readuntil(MANIFEST.canonical())).startswith(b"HTTP/1.1 200 ")
        await agent.http.stop(0.1)


async def test_dial__gateway_breaks_off_after_the_101__is_dialled_again(agent: RunningAgent) -> None:
    async with raw_gateway(b"") as (url, switched), dialing(agent, url):
        await eventually(lambda: len(switched) >= 3)
