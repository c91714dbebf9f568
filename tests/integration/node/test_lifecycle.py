"""Register, serve, restart, die: the commands of an operator against a real chain and a model server process."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from offchain.crypto.recovery import recover
from offchain.demo.network import DemoNode, LocalNetwork
from offchain.domain.eip712 import keccak256
from offchain.domain.messages import Heartbeat, result_bytes
from offchain.domain.types import NodeId
from tests.support.node.processes import Agent, alive, ask, command, command_line, register, settings_of
from tests.support.node.requests import chat, checked_receipt, frames, ticket_headers, until

pytestmark = pytest.mark.anvil


@pytest.fixture(scope="module")
def registered(network: LocalNetwork, tmp_path_factory: pytest.TempPathFactory) -> DemoNode:
    node = network.nodes[0]
    config = settings_of(network, node, tmp_path_factory.mktemp("register"))
    done = register(network, node, config)
    assert done.returncode == 0, done.stderr
    node.node_id = json.loads(done.stdout)["node_id"]
    return node


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def agents() -> Iterator[list[Agent]]:
    started: list[Agent] = []
    yield started
    for agent in started:
        tree = agent.tree() if agent.process.poll() is None else []
        agent.process.kill()
        agent.process.wait()
        until(lambda tree=tree: not any(alive(pid) for pid in tree), what="the tree's end")


def test_register__again__finds_the_node_and_sends_nothing(
    network: LocalNetwork, registered: DemoNode, folder: Path
) -> None:
    done = register(network, registered, settings_of(network, registered, folder))
    assert json.loads(done.stdout) | {"tx_hashes": []} == json.loads(done.stdout)
    assert json.loads(done.stdout)["node_id"] == registered.node_id


def test_register__changed_manifest__only_the_manifest_is_sent(
    network: LocalNetwork, registered: DemoNode, folder: Path
) -> None:
    done = register(network, registered, settings_of(network, registered, folder, slots=9))
    assert len(json.loads(done.stdout)["tx_hashes"]) == 1
    done = register(network, registered, settings_of(network, registered, folder))
    on_chain = network.chain.read("NodeRegistryLocker", "nodes", registered.node_id)["capabilityHash"]
    assert "0x" + on_chain.hex() == json.loads(done.stdout)["manifest_hash"]


def test_register__other_owners_key__one_line_and_nothing_sent(
    network: LocalNetwork, registered: DemoNode, folder: Path
) -> None:
    thief = network.nodes[1]
    owner = (
        "--owner-keystore",
        str(thief.owner.keystore),
        "--owner-password-file",
        str(thief.owner.password_file),
    )
    config = settings_of(network, registered, folder)
    done = command(network, "register", "--config", str(config), *owner, "--stake", "50000", "--yes")
    assert done.returncode == 2
    assert done.stderr.startswith("error: node key")
    assert "already bound to node" in done.stderr
    assert done.stderr.count("\n") == 1


def test_register__stake_below_floor_or_missing__one_line(network: LocalNetwork, folder: Path) -> None:
    node = network.nodes[1]
    config = settings_of(network, node, folder)
    for stake, says in (
        ("49999.5", "below the minimum of 50,000 PRLX"),
        ("60000", "holds 50,000 PRLX"),
        ("x", "not an amount"),
    ):
        done = register(network, node, config, stake=stake)
        assert done.returncode == 2
        assert says in done.stderr
        assert done.stderr.count("\n") == 1


def test_start__key_without_node__one_line(network: LocalNetwork, folder: Path) -> None:
    config = settings_of(network, network.nodes[1], folder)
    done = command(network, "start", "--config", str(config), "--plain")
    assert done.returncode == 2
    assert "bound to no node" in done.stderr
    assert done.stderr.strip().count("\n") == 0


def test_start__serves_and_verifies_against_the_chain(
    network: LocalNetwork, registered: DemoNode, folder: Path, agents: list[Agent]
) -> None:
    agent = Agent(network, settings_of(network, registered, folder), folder)
    agents.append(agent)
    url = agent.wait_ready()
    body = chat("tokens=3", stream=True)
    status, raw = ask(network, registered, url, body)
    found = frames(raw)
    assert status == 200
    market = network.deployment.signing_domain("InferenceMarket")
    text = "".join(json.loads(data)["choices"][0]["delta"]["content"] for _, data in found[:3])
    receipt = checked_receipt(json.loads(found[3][1]), body, result_bytes([text]), market)
    assert receipt.node_id == registered.node_id
    assert found[3][1] in (folder / "data/receipts/receipts.jsonl").read_text().splitlines()
    # a keeper's signer is a listed gateway, a stranger's key is not
    assert ask(network, registered, url, body, signer=network.keeper_signers[1].signer)[0] == 200
    assert ask(network, registered, url, body, signer=network.nodes[1].key.signer)[0] == 401
    assert ask(network, registered, url, body, node_id=registered.node_id + 1)[0] == 401
    state = json.loads(command(network, "status", "--config", str(folder / "node.toml"), "--json").stdout)
    assert state["agent"]["status"] == "ok"
    assert state["node"]["node_id"] == registered.node_id


def test_start__in_a_terminal__live_view_shows_node_slots_model_and_earnings(
    network: LocalNetwork, registered: DemoNode, folder: Path
) -> None:
    config = settings_of(network, registered, folder)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        network.command("node", "start", "--config", str(config)),
        env={**network.environment(), "TERM": "xterm", "COLUMNS": "100", "LINES": "40"},
        stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    shown = ""
    wanted = (
        f"ParalleliX node {registered.node_id}",
        "0 of 4",
        "up",
        "50,000 PRLX",
        "set keeper_url to see them",
    )
    try:
        deadline = time.monotonic() + 60
        while not all(part in shown for part in wanted):
            assert time.monotonic() < deadline, shown[-3000:]
            shown += os.read(ours, 65536).decode(errors="replace")
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_start__model_server_killed__serves_again_within_two_seconds(
    network: LocalNetwork, registered: DemoNode, folder: Path, agents: list[Agent]
) -> None:
    agent = Agent(network, settings_of(network, registered, folder), folder)
    agents.append(agent)
    url = agent.wait_ready()
    before = agent.tree()
    killed = next(pid for pid in before if _is_stub(pid))
    os.kill(killed, signal.SIGKILL)
    began = time.monotonic()
    body = chat("tokens=1")
    until(lambda: ask(network, registered, url, body)[0] == 200, what="serving again")
    assert (
        time.monotonic() - began < 8
    )  # with the stub's own start on a busy machine; bench-node has the figure
    until(lambda: not any(alive(pid) for pid in before), what="the first server's end")


def test_start__agent_killed__leaves_no_orphan(
    network: LocalNetwork, registered: DemoNode, folder: Path
) -> None:
    agent = Agent(network, settings_of(network, registered, folder), folder)
    agent.wait_ready()
    tree = agent.tree()
    assert len(tree) >= 3  # launcher, server, its core in a session of its own
    agent.process.kill()
    agent.process.wait()
    until(lambda: not any(alive(pid) for pid in tree), what="the tree's end")


def test_start__sigterm__finishes_the_running_request_and_leaves_nothing(
    network: LocalNetwork, registered: DemoNode, folder: Path
) -> None:
    agent = Agent(network, settings_of(network, registered, folder), folder)
    url = agent.wait_ready()
    tree = agent.tree()

    async def run() -> tuple[int, bytes]:
        body = chat("tokens=20 delay_ms=50", stream=True)
        domain = network.deployment.signing_domain("NodeRegistryLocker")
        headers = ticket_headers(
            body, signer=network.gateway_signer.signer, node=registered.node_id, domain=domain
        )
        async with (
            aiohttp.ClientSession() as client,
            client.post(f"{url}/v1/chat/completions", data=body, headers=headers) as answer,
        ):
            first = await answer.content.readany()
            agent.process.send_signal(signal.SIGTERM)
            return answer.status, first + await answer.read()

    status, raw = asyncio.run(run())
    assert status == 200
    assert frames(raw)[-1] == (None, "[DONE]")
    assert agent.process.wait(60) == 0
    until(lambda: not any(alive(pid) for pid in tree), what="the tree's end")
    assert not agent.ready_file.exists()


def test_heartbeats__reach_every_receiver_signed_even_when_one_is_dead(
    network: LocalNetwork, registered: DemoNode, folder: Path, agents: list[Agent]
) -> None:
    beats: list[tuple[float, bytes, str]] = []

    async def receive() -> None:
        async def take(request: web.Request) -> web.Response:
            beats.append((time.monotonic(), await request.read(), request.headers["X-Parallelix-Heartbeat"]))
            return web.Response(status=204)

        app = web.Application()
        app.router.add_post("/internal/heartbeat", take)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        live = f"http://127.0.0.1:{runner.addresses[0][1]}"
        agent = Agent(
            network,
            settings_of(
                network, registered, folder, heartbeat_receivers=["http://127.0.0.1:9", live], dial_out=False
            ),
            folder,
        )
        agents.append(agent)
        deadline = time.monotonic() + 60
        while not any(json.loads(body)["models"] for _, body, _ in beats) or len(beats) < 4:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        await runner.cleanup()

    asyncio.run(receive())
    domain = network.deployment.signing_domain("NodeRegistryLocker")
    for _, body, header in beats:
        raw = bytes.fromhex(header[2:])
        sent = int.from_bytes(raw[:8], "big")
        digest = domain.digest(Heartbeat(NodeId(registered.node_id), keccak256(body), sent).struct_hash())
        assert recover(digest, raw[8:]) == registered.key.address
    last = json.loads(beats[-1][1])
    assert last["free_slots"] == last["slots"] == 4
    assert last["models"][0]["name"] == "m"
    assert beats[-1][0] - beats[-2][0] < 8


def test_start__port_taken__one_line_and_nothing_left(
    network: LocalNetwork, registered: DemoNode, folder: Path
) -> None:
    port = int(network.rpc_url.rsplit(":", 1)[1])
    done = command(
        network, "start", "--config", str(settings_of(network, registered, folder, port=port)), "--plain"
    )
    assert done.returncode == 2
    assert "cannot be listened on" in done.stderr.splitlines()[-1]


def test_start__model_that_does_not_load__says_why_and_tries_again_slower(
    network: LocalNetwork, registered: DemoNode, folder: Path, agents: list[Agent]
) -> None:
    broken = folder / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    agent = Agent(network, settings_of(network, registered, folder, model_path=broken, port=0), folder)
    agents.append(agent)
    until(lambda: agent.log.read_text().count("engine down") >= 3, 60, "three starts")
    assert "ended with status 3" in agent.log.read_text()
    assert not agent.ready_file.exists()


def test_start__two_models_and_two_replicas__one_dies_and_nothing_is_refused(
    network: LocalNetwork, registered: DemoNode, folder: Path, agents: list[Agent]
) -> None:
    more = [{"name": "n", "path": str(network.places.root / ".models/tiny-llama"), "max_model_len": 256}]
    agent = Agent(network, settings_of(network, registered, folder, replicas=2, models=more), folder)
    agents.append(agent)
    url = agent.wait_ready()
    until(lambda: len([pid for pid in agent.tree() if _is_stub(pid)]) == 3, what="three servers")
    other = json.dumps({"model": "n", "messages": [{"role": "user", "content": "tokens=1"}]}).encode()
    until(lambda: ask(network, registered, url, other)[0] == 200, what="the second model")
    stubs = [pid for pid in agent.tree() if _is_stub(pid)]
    first = next(pid for pid in stubs if b"\0m\0" in command_line(pid))
    until(lambda: agent.log.read_text().count("'engine up'") == 3, what="all healthy")
    os.kill(first, signal.SIGKILL)
    until(lambda: not alive(first), what="its end")
    body = chat("tokens=1")
    until(lambda: "engine down" in agent.log.read_text(), what="noticed")
    assert [ask(network, registered, url, body)[0] for _ in range(5)] == [200] * 5


def _is_stub(pid: int) -> bool:
    words = command_line(pid)
    return b"engine_stub.py" in words and b"launcher.py" not in words
