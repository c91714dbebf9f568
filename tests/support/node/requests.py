"""Builders that the node's tests share."""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp

from offchain.crypto.keys import Signer
from offchain.crypto.recovery import recover
from offchain.domain.eip712 import SigningDomain, keccak256
from offchain.domain.messages import ServiceReceipt, Ticket
from offchain.domain.tiers import Tier
from offchain.domain.types import NodeId, Wei
from offchain.node.agent.metrics import NodeMetrics
from offchain.node.agent.proxy import Proxy
from offchain.node.agent.receipts import ReceiptMaker
from offchain.node.agent.replay_guard import ReplayGuard
from offchain.node.agent.server import AgentServer
from offchain.node.agent.slots import Slots
from offchain.node.agent.tickets import TicketGate
from offchain.node.engines.backend import Backend
from offchain.node.engines.model_server import AttachedEngine
from offchain.node.machine.manifest import Manifest, ServedModel
from offchain.protocol.openai_errors import server_error_body
from offchain.protocol.pair_mac import GatewayMacs
from offchain.transport.server import HttpLimits, HttpServer
from tests.support.services.ports import free_port

STUB = Path(__file__).parents[1] / "fakes/engine_stub.py"
NODE = NodeId(7)
LOCKER = SigningDomain(31337, "0x" + "11" * 20)
MARKET = SigningDomain(31337, "0x" + "22" * 20)
MODEL = ServedModel("m", "sha256:abc", 512)
MANIFEST = Manifest((MODEL,), Tier.CPU, 2, "eu", Wei(10), "cpu")
GATEWAY = Signer.from_key(b"\x01" * 32)
STRANGER = Signer.from_key(b"\x02" * 32)
NODE_KEY = Signer.from_key(b"\x03" * 32)


def clock_ms() -> int:
    return time.time_ns() // 1_000_000


def until(condition: Callable[[], Any], seconds: float = 60.0, what: str = "condition") -> Any:
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} not met within {seconds} s"
        time.sleep(0.02)


async def eventually(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < deadline, f"not met within {seconds} s"
        await asyncio.sleep(0.01)


@contextlib.contextmanager
def stub_engine() -> Iterator[str]:
    """A running engine stub's URL."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, str(STUB), "serve", "x", "--port", str(port)], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        core = int(process.stdout.readline().split()[-1])
        until(lambda: _answers(port), what="engine stub")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        with contextlib.suppress(ProcessLookupError):
            import os

            os.kill(core, 9)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ticket_headers(
    body: bytes,
    *,
    signer: Signer = GATEWAY,
    node: int = NODE,
    issued_ms: int | None = None,
    lifetime_ms: int = 30_000,
    request_id: bytes | None = None,
    domain: SigningDomain = LOCKER,
    node_key: bytes | None = None,
) -> dict[str, str]:
    """The headers of a ticket: signed, or proved by MAC to the owner of a public key."""
    issued = clock_ms() if issued_ms is None else issued_ms
    rid = request_id if request_id is not None else keccak256(str(time.perf_counter_ns()).encode())
    ticket = Ticket(rid, NodeId(node), keccak256(body), issued, issued + lifetime_ms)
    macs = GatewayMacs(signer.public_key, signer.agree, lambda _: node_key)
    proof = macs.ticket(NodeId(node), domain.message(ticket.encoded()))
    proof = proof or signer.sign_struct(domain, ticket.struct_hash())
    raw = issued.to_bytes(8, "big") + (issued + lifetime_ms).to_bytes(8, "big") + proof
    return {"X-Parallelix-Request-Id": "0x" + rid.hex(), "X-Parallelix-Ticket": "0x" + raw.hex()}


def chat(text: str = "tokens=4", **fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **fields}).encode()


def checked_receipt(
    data: dict[str, Any], body: bytes, result: bytes, market: SigningDomain = MARKET
) -> ServiceReceipt:
    """The receipt of an answer, if signature and hashes hold."""
    from offchain.domain.messages import proof_of_execution

    receipt = ServiceReceipt.from_json(data["receipt"])
    signer = recover(market.digest(receipt.struct_hash()), bytes.fromhex(data["signature"][2:]))
    assert signer == data["nodeKey"]
    assert receipt.request_hash == keccak256(body)
    assert receipt.result_hash == keccak256(result)
    assert receipt.poe == proof_of_execution(receipt.request_id, result, receipt.node_id)
    assert receipt.started_at_ms <= receipt.finished_at_ms
    return receipt


def frames(raw: bytes) -> list[tuple[str | None, str]]:
    """(event, data) of each frame of a stream."""
    found = []
    for frame in raw.decode().split("\n\n"):
        if frame.strip():
            lines = dict(line.split(": ", 1) for line in frame.split("\n"))
            found.append((lines.get("event"), lines["data"]))
    return found


class RunningAgent:
    """An agent's server on a loopback port in front of an engine, without chain and heartbeats."""

    def __init__(
        self, url: str, slots: Slots, engine: AttachedEngine, client: aiohttp.ClientSession, http: HttpServer
    ) -> None:
        self.url, self.slots, self.engine, self.client, self.http = url, slots, engine, client, http

    async def post(
        self, body: bytes, path: str = "/v1/chat/completions", **headers: str
    ) -> aiohttp.ClientResponse:
        return await self.client.post(self.url + path, data=body, headers=headers or ticket_headers(body))


@contextlib.asynccontextmanager
async def running_agent(
    engine_url: str, folder: Path | None = None, slots: int = 2
) -> AsyncIterator[RunningAgent]:
    async def listed(address: str) -> bool:
        return address == GATEWAY.address

    async with aiohttp.ClientSession() as session, aiohttp.ClientSession() as client:
        engine = AttachedEngine("m", engine_url, None, session)
        polling = asyncio.create_task(engine.run())
        held = Slots(slots)
        guard = ReplayGuard(folder, clock_ms())
        proxy = Proxy(
            {"m": Backend(MODEL, (engine,))},
            ReceiptMaker(NODE, NODE_KEY, MARKET, Wei(10), clock_ms),
            clock_ms,
        )
        gate = TicketGate(NODE, LOCKER, listed, guard, clock_ms, NODE_KEY.agree)
        server = AgentServer(gate, held, proxy, MANIFEST, NodeMetrics(), clock_ms)
        failures: list[BaseException] = []
        http = HttpServer(server.handle, HttpLimits(max_body=1_000_000), failures.append, server_error_body)
        port = await http.start("127.0.0.1", 0)
        await eventually(lambda: server.ready)
        try:
            yield RunningAgent(f"http://127.0.0.1:{port}", held, engine, client, http)
        finally:
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)
            await http.stop(0.5)
            proxy.close()
            assert failures == []
            guard.close()
