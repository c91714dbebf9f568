"""What a node guarantees, whichever way requests reach it: dialled (the default), or inbound with a pinned certificate."""

import json
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from offchain.demo.network import DemoNode, LocalNetwork
from tests.support.fakes.stub_model import expected_text
from tests.support.fakes.stub_node import Spec
from tests.support.gateway.processes import StubProcess
from tests.support.node.gateway import running_gateway
from tests.support.node.load import Load
from tests.support.node.processes import Agent, register_nodes, settings_of
from tests.support.node.requests import until
from tests.support.services.certificates import self_signed
from tests.support.services.ports import free_port
from tests.support.web_client import HTTP

pytestmark = [pytest.mark.anvil, pytest.mark.slow, pytest.mark.timeout(240)]

TOKENS = 120


@dataclass
class Served:
    """Two agents, each before a model server of its own, behind one gateway."""

    url: str
    key: str
    nodes: list[DemoNode]
    agents: list[Agent]
    engines: list[StubProcess]

    def body(self, **fields: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": "Tell me a story."}]
        return {"model": "m", "messages": messages, "max_tokens": TOKENS, "ignore_eos": True, **fields}

    def stream(self, **fields: Any) -> "Reading":
        return Reading(self, self.body(stream=True, **fields))


class Reading:
    """A stream that is read in a thread of its own."""

    def __init__(self, served: Served, body: dict[str, Any]) -> None:
        self.pieces: list[str] = []
        self.events: list[str] = []
        self.node = 0
        self.leave = threading.Event()
        self._arguments = (
            f"{served.url}/v1/chat/completions",
            body,
            {"Authorization": f"Bearer {served.key}"},
        )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def wait(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _read(self) -> None:
        url, body, headers = self._arguments
        with HTTP.stream("POST", url, json=body, headers=headers, timeout=30) as answer:
            assert answer.status_code == 200
            self.node = int(answer.headers["x-parallelix-node"])
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    self.events.append(line[6:])
                if line.startswith("data: {"):
                    chunk = json.loads(line[6:])
                    assert "error" not in chunk, chunk
                    self.pieces += [choice["delta"].get("content") or "" for choice in chunk["choices"]]
                if self.leave.is_set():
                    return


@pytest.fixture(scope="module", autouse=True)
def registered(network: LocalNetwork, tmp_path_factory: pytest.TempPathFactory) -> None:
    register_nodes(network, tmp_path_factory.mktemp("registered"))


def _way(way: str, folder: Path) -> dict[str, Any]:
    if way == "dialled":
        # an address at which nothing answers: whoever connects to it instead of the dialled connection fails
        return {"dial_out": True, "public_url": f"http://127.0.0.1:{free_port()}"}
    certificate, key = self_signed(folder)
    return {"dial_out": False, "tls_certificate": certificate, "tls_key": key}


@pytest.fixture(params=["dialled", "inbound"])
def served(request: pytest.FixtureRequest, network: LocalNetwork, tmp_path: Path) -> Iterator[Served]:
    engines, agents = [], []
    try:
        with running_gateway(network, tmp_path / "gateway", network.nodes) as (url, key):
            for node in network.nodes:
                folder = tmp_path / node.name
                folder.mkdir()
                spec = Spec(
                    node.node_id, "11" * 32, "", 1, "0x" + "11" * 20, "0x" + "11" * 20, [], model="m", token_ms=25,
                    check_tickets=False, mode="no_receipt",
                )  # fmt: skip
                engines.append(StubProcess(spec, folder))
                config = settings_of(
                    network, node, folder, heartbeat_receivers=[url], engine_url=engines[-1].url, model_path=None,
                    model_revision="r1", max_model_len=4096, **_way(request.param, folder),
                )  # fmt: skip
                agents.append(Agent(network, config, folder))
            found = Served(url, key, network.nodes, agents, engines)
            for node in network.nodes:
                until(lambda node=node: _pinned(found, node), 60, "the node through the gateway")
            yield found
    finally:
        for agent in agents:
            agent.process.kill()
            agent.process.wait()
        for engine in engines:
            engine.kill()


def _pinned(served: Served, node: DemoNode) -> bool:
    headers = {"Authorization": f"Bearer {served.key}", "X-Parallelix-Node": str(node.node_id)}
    body = served.body() | {"max_tokens": 1}
    return (
        HTTP.post(f"{served.url}/v1/chat/completions", json=body, headers=headers, timeout=30).status_code
        == 200
    )


def _index_of(served: Served, reading: Reading) -> int:
    until(lambda: reading.text, 60, "the first words")
    return next(i for i, node in enumerate(served.nodes) if node.node_id == reading.node)


def test_way__answer__carries_a_receipt_of_its_node(served: Served) -> None:
    headers = {"Authorization": f"Bearer {served.key}"}
    answer = HTTP.post(
        f"{served.url}/v1/chat/completions", json=served.body(max_tokens=4), headers=headers, timeout=30
    )
    record = HTTP.get(f"{served.url}/v1/receipts/{answer.headers['x-request-id']}", headers=headers).json()
    assert record["receipt"]["receipt"]["nodeId"] == int(answer.headers["x-parallelix-node"])
    assert record["receipt"]["nodeKey"] in [node.key.address for node in served.nodes]


def test_way__agent_killed_in_a_stream__client_sees_one_unbroken_answer(served: Served) -> None:
    reading = served.stream()
    index = _index_of(served, reading)
    served.agents[index].process.kill()
    at_kill = reading.text
    reading.wait()
    expected, _, _ = expected_text(served.body())
    assert reading.text == expected
    assert len(at_kill) < len(expected)
    assert reading.events[-1] == "[DONE]"
    assert served.engines[1 - index].state()["served"] >= 2


def test_way__agent_drains__its_stream_ends_whole_and_the_rest_goes_elsewhere(served: Served) -> None:
    reading = served.stream()
    index = _index_of(served, reading)
    with Load(served.url, served.key, workers=3) as load:
        served.agents[index].process.send_signal(signal.SIGTERM)
        reading.wait()
        assert served.agents[index].process.wait(60) == 0
        until(lambda: load.answered > 3, 60, "answers of the other node")
    assert reading.text == expected_text(served.body())[0]
    assert reading.events[-1] == "[DONE]"
    assert load.lost == []
    assert "cut_off=0" in served.agents[index].log.read_text()


def test_way__client_leaves__model_server_stops(served: Served) -> None:
    reading = served.stream(max_tokens=2000)
    index = _index_of(served, reading)
    before = served.engines[index].state()["cancelled"]
    reading.leave.set()
    reading.wait()
    until(lambda: served.engines[index].state()["cancelled"] == before + 1, 60, "the model server's stop")
    assert served.engines[index].state()["running"] == 0
