"""What the node agent costs and withstands; writes bench/results/node.json. Run by `make bench-node`."""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from bench import figures as results
from offchain.crypto.keys import Signer
from offchain.crypto.recovery import recover
from offchain.demo.network import DemoNode, LocalNetwork
from offchain.dispatch.upstream import Call
from offchain.domain.types import NodeId
from offchain.gateway.nodes.dial_in import DialIn, DialInUpstream, dialed_url
from offchain.protocol.heartbeats import NodeRecord
from offchain.protocol.tickets import TicketSigner
from offchain.transport.server import HttpLimits, HttpServer, Request, ServerConnection
from tests.support.node.gateway import running_gateway
from tests.support.node.network import chain_with_actors
from tests.support.node.processes import Agent, ask, register, settings_of
from tests.support.node.requests import chat, frames, ticket_headers, until
from tests.support.services.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Bench:
    """One running agent in front of the fast engine."""

    def __init__(
        self, network: LocalNetwork, node: DemoNode, agent: Agent, url: str, engine_url: str
    ) -> None:
        self.network, self.node, self.agent, self.url, self.engine_url = network, node, agent, url, engine_url
        self.domain = network.deployment.signing_domain("NodeRegistryLocker")
        self.gateway = network.gateway_signer.signer

    def headers(self, body: bytes, **changes: Any) -> dict[str, str]:
        """A ticket as gateways send it to a node that they know: proved by MAC."""
        fields: dict[str, Any] = {
            "signer": self.gateway, "node": self.node.node_id, "domain": self.domain,
            "node_key": self.node.key.signer.public_key,
        }  # fmt: skip
        return ticket_headers(body, **{**fields, **changes})

    async def added(self, rounds: int, warm_up: int) -> dict[str, float]:
        """Latency that the agent adds: requests through it and requests straight to the engine take turns, one at a time.

        The figure is the difference of the two medians (and 95th percentiles): what else happens on the machine slows both.
        """
        direct: list[float] = []
        through: list[float] = []
        async with aiohttp.ClientSession() as client:
            for turn in range(rounds + warm_up):
                body = chat("x", user=str(turn))
                headers = self.headers(body)
                for url, sent, times in ((self.engine_url, {}, direct), (self.url, headers, through)):
                    began = time.perf_counter()
                    async with client.post(f"{url}/v1/chat/completions", data=body, headers=sent) as answer:
                        await answer.read()
                        assert answer.status == 200
                    if turn >= warm_up:
                        times.append((time.perf_counter() - began) * 1000)
        return {
            "agent_added_p50_ms": round(statistics.median(through) - statistics.median(direct), 3),
            "agent_added_p95_ms": round(quantile(through, 0.95) - quantile(direct, 0.95), 3),
            "engine_alone_p50_ms": round(statistics.median(direct), 3),
            "engine_alone_p95_ms": round(quantile(direct, 0.95), 3),
        }

    async def cpu(self, rounds: int, *, stream: bool) -> float:
        """CPU milliseconds of the agent's process per request, eight at once."""
        bodies = [chat("x", user=str(i), stream=stream) for i in range(rounds)]
        prepared = [(body, self.headers(body)) for body in bodies]
        before = cpu_seconds(self.agent.process.pid)

        async def worker(client: aiohttp.ClientSession) -> None:
            while prepared:
                body, headers = prepared.pop()
                async with client.post(
                    f"{self.url}/v1/chat/completions", data=body, headers=headers
                ) as answer:
                    await answer.read()
                    assert answer.status == 200

        async with aiohttp.ClientSession() as client:
            await asyncio.gather(*(worker(client) for _ in range(8)))
        return round((cpu_seconds(self.agent.process.pid) - before) * 1000 / rounds, 3)

    async def frames_lost(self, streams: int) -> int:
        """How many of the engine's frames did not arrive in order and each as a frame of its own; half of the streams come in a burst."""
        lost = 0

        async def one(client: aiohttp.ClientSession, turn: int) -> None:
            nonlocal lost
            body = chat("x", stream=True, user="slow" if turn % 2 else "fast", seed=turn)
            async with client.post(
                f"{self.url}/v1/chat/completions", data=body, headers=self.headers(body)
            ) as answer:
                found = frames(await answer.read())
            ids = [
                json.loads(data)["choices"][0]["token_ids"][0]
                for event, data in found
                if event is None and data != "[DONE]"
            ]
            lost += sum(a != b for a, b in zip(ids, range(32), strict=False)) + abs(32 - len(ids))
            lost += [event for event, _ in found[-2:]] != ["parallelix.receipt", None]

        async with aiohttp.ClientSession() as client:
            for start in range(0, streams, 8):
                await asyncio.gather(*(one(client, turn) for turn in range(start, min(streams, start + 8))))
        return lost

    async def forged(self, attempts: int) -> dict[str, int]:
        """How many of `attempts` bad tickets got an answer: used twice, of a stranger, expired, or for another node; half by MAC."""
        accepted = 0
        refused: dict[int, int] = {}
        good = chat("once")
        used = self.headers(good)
        async with aiohttp.ClientSession() as client:

            async def send(body: bytes, headers: dict[str, str]) -> int:
                async with client.post(
                    f"{self.url}/v1/chat/completions", data=body, headers=headers
                ) as answer:
                    await answer.read()
                    return answer.status

            assert await send(good, used) == 200

            async def one(turn: int) -> None:
                nonlocal accepted
                body, kind = chat("x", user=str(turn)), turn % 4
                proof = {"node_key": None} if turn % 8 < 4 else {}
                now = time.time_ns() // 1_000_000
                if kind == 0:
                    status = await send(good, used)
                elif kind == 1:
                    status = await send(
                        body, self.headers(body, signer=Signer.from_key(secrets.token_bytes(32)), **proof)
                    )
                elif kind == 2:
                    status = await send(
                        body, self.headers(body, issued_ms=now - 60_000, lifetime_ms=30_000, **proof)
                    )
                else:
                    status = await send(body, self.headers(body, node=self.node.node_id + 1, **proof))
                refused[status] = refused.get(status, 0) + 1
                accepted += status == 200

            for start in range(0, attempts, 4):
                await asyncio.gather(*(one(turn) for turn in range(start, start + 4)))
        return {"forged_tickets_accepted": accepted, "forged_tickets_tried": attempts}


@contextlib.contextmanager
def engine() -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.node.fast_engine", str(port)], cwd=ROOT)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def registered(network: LocalNetwork, node: DemoNode, folder: Path, **changes: Any) -> Path:
    """Settings of a node in front of the fast engine; registers the node if it is not yet."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"model_path": None, "model_revision": "bench", "slots": 64, **changes}
    config = settings_of(network, node, folder, **fields)
    node.node_id = json.loads(register(network, node, config).stdout)["node_id"]
    return config


def attached(network: LocalNetwork, node: DemoNode, folder: Path, engine_url: str, **changes: Any) -> Agent:
    """A started agent in front of the fast engine."""
    return Agent(network, registered(network, node, folder, engine_url=engine_url, **changes), folder)


def end(*agents: Agent) -> None:
    for agent in agents:
        agent.process.kill()
        agent.process.wait()


async def dial_out_added(
    network: LocalNetwork, folder: Path, engine_url: str, rounds: int
) -> dict[str, float]:
    """Latency that a connection dialled by the node adds to one that the gateway opened; requests on both take turns."""
    node = network.nodes[0]
    domain = network.deployment.signing_domain("NodeRegistryLocker")
    upstream = DialInUpstream(
        TicketSigner(domain, network.gateway_signer.signer.sign, lambda: time.time_ns() // 1_000_000)
    )
    urls: list[str] = []
    dialin = DialIn(
        upstream, domain, recover, lambda number: NodeRecord(number, node.key.address, 1, True), lambda: urls
    )

    async def heartbeat(_request: Request, connection: ServerConnection) -> None:
        connection.reply(204, {}, b"")

    errors: list[BaseException] = []
    server = HttpServer(dialin.before(heartbeat), HttpLimits(), errors.append)
    urls.append(f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}")
    agent = await asyncio.to_thread(
        attached, network, node, folder, engine_url, heartbeat_receivers=urls, dial_out=True
    )
    try:
        inbound = await asyncio.to_thread(agent.wait_ready, 30)
        dialled = dialed_url(node.node_id)
        async with asyncio.timeout(30):
            while not upstream.dialed(node.node_id)._idle:
                await asyncio.sleep(0.05)
        times: dict[str, list[float]] = {inbound: [], dialled: []}
        for turn in range(rounds + 100):
            for url, kept in times.items():
                body = chat("x", user=str(turn))
                began = time.perf_counter()
                call = Call("/v1/chat/completions", body, secrets.token_bytes(32))
                exchange = upstream.start(NodeId(node.node_id), url, call)
                await exchange.head()
                while await exchange.read():
                    pass
                assert exchange.status == 200
                if turn >= 100:
                    kept.append((time.perf_counter() - began) * 1000)
        paired = [b - a for a, b in zip(times[inbound], times[dialled], strict=True)]
        return {"dial_out_added_p50_ms": round(statistics.median(paired), 3)}
    finally:
        end(agent)
        upstream.close()
        await server.stop(0.1)
        assert errors == []


async def agent_kill_lost(
    network: LocalNetwork, folder: Path, engine_url: str, seconds: float
) -> dict[str, int]:
    """Requests that get no answer when one of two agents behind a real gateway is killed, with sixteen requests running."""
    lost = sent = 0
    for i, node in enumerate(network.nodes):
        registered(network, node, folder / f"agent-{i}", engine_url=engine_url)
    with running_gateway(network, folder / "gateway", network.nodes) as (url, key):
        agents = [
            attached(
                network, node, folder / f"agent-{i}", engine_url, heartbeat_receivers=[url], dial_out=True
            )
            for i, node in enumerate(network.nodes)
        ]
        try:
            for agent in agents:
                await asyncio.to_thread(agent.wait_ready, 30)
            headers = {"Authorization": f"Bearer {key}"}
            stop_at = time.monotonic() + seconds

            async def worker(client: aiohttp.ClientSession, number: int) -> None:
                nonlocal lost, sent
                while time.monotonic() < stop_at:
                    sent += 1
                    body = chat("x", user="slow" if number % 2 else "fast", stream=False)
                    try:
                        async with client.post(
                            f"{url}/v1/chat/completions", data=body, headers=headers
                        ) as answer:
                            await answer.read()
                            lost += answer.status != 200
                    except aiohttp.ClientError:
                        lost += 1

            async def reach(client: aiohttp.ClientSession, node: DemoNode) -> bool:
                pin = {**headers, "X-Parallelix-Node": str(node.node_id)}
                async with client.post(f"{url}/v1/chat/completions", data=chat("x"), headers=pin) as answer:
                    return answer.status == 200

            async with aiohttp.ClientSession() as client:
                async with asyncio.timeout(60):
                    while not all([await reach(client, node) for node in network.nodes]):
                        await asyncio.sleep(0.1)
                stop_at = time.monotonic() + seconds
                running = [asyncio.create_task(worker(client, number)) for number in range(16)]
                await asyncio.sleep(seconds / 2)
                agents[0].process.kill()
                await asyncio.gather(*running)
        finally:
            end(*agents)
    return {"agent_kill_lost": lost, "agent_kill_sent": sent}


def vllm_restart(network: LocalNetwork, folder: Path, rounds: int) -> dict[str, float]:
    """Seconds from the kill of a real vLLM until it serves again, less the seconds that the new one takes to start."""
    folder.mkdir(parents=True)
    node = network.nodes[0]
    config = settings_of(network, node, folder, vllm_command=[str(ROOT / ".vllm/bin/vllm")], slots=4)
    node.node_id = json.loads(register(network, node, config).stdout)["node_id"]
    agent = Agent(network, config, folder)
    overheads = []
    try:
        url = agent.wait_ready(240)
        body = chat("again", max_tokens=1)
        for number in range(rounds):
            engine_pid = next(
                pid for pid in agent.tree() if b"launcher.py" not in Path(f"/proc/{pid}/cmdline").read_bytes()
            )
            os.kill(engine_pid, signal.SIGKILL)
            began = time.monotonic()
            until(lambda: ask(network, node, url, body)[0] == 503, 10, "the fall")
            until(lambda: ask(network, node, url, body)[0] == 200, 240, "serving again")
            total = time.monotonic() - began
            lines = [line for line in agent.log.read_text().splitlines() if "event='engine " in line]
            stamps = [(line.split("'")[1], line) for line in lines]
            starts = [at for at, line in stamps if "'engine starting'" in line]
            ups = [at for at, line in stamps if "'engine up'" in line]
            own = (
                datetime.fromisoformat(ups[number + 1]) - datetime.fromisoformat(starts[number + 1])
            ).total_seconds()
            overheads.append(total - own)
    finally:
        end(agent)
    return {"vllm_restart_overhead_s": round(max(overheads), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/node.json")
    parser.add_argument(
        "--only-agent", action="store_true", help="measure latency and CPU again, keep the rest"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds, and no vLLM")
    parser.add_argument(
        "--smoke", action="store_true", help="a hundredth of the rounds, and no vLLM: figures mean nothing"
    )
    arguments = parser.parse_args()
    scale = 100 if arguments.smoke else 10 if arguments.quick else 1
    figures: dict[str, Any] = {}
    if arguments.only_agent:
        figures = results.load(arguments.out)
    with tempfile.TemporaryDirectory() as name, chain_with_actors(Path(name) / "run") as network:
        folder = Path(name)
        with engine() as engine_url:
            agent = attached(network, network.nodes[0], folder / "agent", engine_url)
            try:
                bench = Bench(network, network.nodes[0], agent, agent.wait_ready(30), engine_url)
                figures |= asyncio.run(bench.added(3000 // scale, warm_up=200 // scale))
                figures["agent_cpu_ms"] = asyncio.run(bench.cpu(8000 // scale, stream=False))
                figures["agent_cpu_stream32_ms"] = asyncio.run(bench.cpu(4000 // scale, stream=True))
                figures["load_average"] = round(os.getloadavg()[0], 1)
                if arguments.only_agent:
                    write(figures, arguments.out)
                    return
                figures["frames_lost"] = asyncio.run(bench.frames_lost(400 // scale))
                figures |= asyncio.run(bench.forged(10_000 // scale))
            finally:
                end(agent)
            figures |= asyncio.run(dial_out_added(network, folder / "dial", engine_url, 2000 // scale))
            figures |= asyncio.run(
                agent_kill_lost(network, folder / "kill", engine_url, 2.0 if arguments.smoke else 6.0)
            )
        if scale == 1:
            figures |= vllm_restart(network, folder / "vllm", 2)
    write(figures, arguments.out)


def write(figures: dict[str, Any], out: Path) -> None:
    """Write the figures to the file of results, and print them."""
    figures["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    results.write(out, figures)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
