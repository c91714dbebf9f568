"""The agent with the real vLLM behind it: streams, receipts, and what is left when either is killed."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from offchain.demo.network import DemoNode, LocalNetwork
from offchain.domain.messages import result_bytes
from tests.support.fakes.vllm_server import NEEDS_VLLM, TINY
from tests.support.node.processes import Agent, alive, ask, command, command_line, vllm_agent
from tests.support.node.requests import chat, checked_receipt, frames, until

pytestmark = [*NEEDS_VLLM, pytest.mark.anvil, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def agent(
    network: LocalNetwork, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Agent, DemoNode, str]]:
    node = network.nodes[0]
    with vllm_agent(network, node, tmp_path_factory.mktemp("agent")) as (running, url):
        yield running, node, url


def engine_pids(agent: Agent) -> list[int]:
    """The API server and its engine, without the launcher."""
    return [pid for pid in agent.tree() if (words := command_line(pid)) and b"launcher.py" not in words]


def _chat(text: str, tokens: int, *, stream: bool) -> bytes:
    return chat(text, stream=stream, max_tokens=tokens, temperature=0, ignore_eos=True)


def test_vllm__stream__has_token_ids_and_a_receipt_that_holds(
    network: LocalNetwork, agent: tuple[Agent, DemoNode, str]
) -> None:
    _, node, url = agent
    body = _chat("Tell me of lambda", 24, stream=True)
    status, raw = ask(network, node, url, body)
    found = frames(raw)
    assert status == 200, raw
    assert found[-1] == (None, "[DONE]")
    assert found[-2][0] == "parallelix.receipt"
    chunks = [json.loads(data) for _, data in found[:-2]]
    assert chunks[0]["prompt_token_ids"]
    ids = [
        token for chunk in chunks for choice in chunk["choices"] for token in choice.get("token_ids") or []
    ]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    market = network.deployment.signing_domain("InferenceMarket")
    receipt = checked_receipt(json.loads(found[-2][1]), body, result_bytes([text]), market)
    assert receipt.completion_tokens == len(ids) == 24
    assert receipt.prompt_tokens == len(chunks[0]["prompt_token_ids"])


def test_vllm__whole_answer__same_result_as_the_stream(
    network: LocalNetwork, agent: tuple[Agent, DemoNode, str]
) -> None:
    _, node, url = agent
    streamed = frames(ask(network, node, url, _chat("Tell me of yield", 12, stream=True))[1])
    text = "".join(
        choice["delta"].get("content") or ""
        for _, data in streamed[:-2]
        for choice in json.loads(data)["choices"]
    )
    status, raw = ask(network, node, url, _chat("Tell me of yield", 12, stream=False))
    assert status == 200
    assert json.loads(raw)["choices"][0]["message"]["content"] == text


def test_vllm__clients_own_mistake__passes_through_in_openai_shape(
    network: LocalNetwork, agent: tuple[Agent, DemoNode, str]
) -> None:
    _, node, url = agent
    status, raw = ask(network, node, url, chat("x", temperature="hot"))
    assert status == 400
    assert json.loads(raw)["error"]["message"]


def test_vllm__api_process_killed__serving_again_and_the_first_engine_is_gone(
    network: LocalNetwork, agent: tuple[Agent, DemoNode, str]
) -> None:
    running, node, url = agent
    before = engine_pids(running)
    assert len(before) >= 1
    os.kill(before[0], signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in before), 60, "the first server's end")
    body = _chat("again", 2, stream=False)
    assert ask(network, node, url, body)[0] == 503
    began = time.monotonic()
    until(lambda: ask(network, node, url, body)[0] == 200, 180, "serving again")
    print(f"serving again after {time.monotonic() - began:.1f} s")


def test_vllm__agent_killed__no_orphan(network: LocalNetwork, agent: tuple[Agent, DemoNode, str]) -> None:
    running, _, _ = agent
    tree = running.tree()
    assert len(tree) >= 2
    running.process.kill()
    running.process.wait()
    until(lambda: not any(alive(pid) for pid in tree), 60, "the tree's end")


def test_vllm__two_models_in_two_servers__one_is_killed_and_the_other_serves_on(
    network: LocalNetwork, agent: tuple[Agent, DemoNode, str], tmp_path: Path
) -> None:
    """On the module's node, whose first agent the test before has ended."""
    _, node, _ = agent
    more = [{"name": "n", "path": str(TINY), "max_model_len": 256}]
    with vllm_agent(network, node, tmp_path, seconds=300, models=more) as (running, url):
        state = command(network, "status", "--config", str(tmp_path / "node.toml"), "--json")
        engines = json.loads(state.stdout)["agent"]["engines"]
        assert [(engine["model"], engine["state"]) for engine in engines] == [("m", "up"), ("n", "up")]
        assert all(engine["version"] for engine in engines)
        bodies = {
            name: chat("Tell me of lambda", model=name, max_tokens=4, temperature=0, ignore_eos=True)
            for name in "mn"
        }
        answers = {name: ask(network, node, url, body) for name, body in bodies.items()}
        assert [status for status, _ in answers.values()] == [200, 200]
        for name, (_, raw) in answers.items():
            assert json.loads(raw)["model"] == name
        first = next(pid for pid in engine_pids(running) if b"\0m\0" in command_line(pid))
        os.kill(first, signal.SIGKILL)
        until(lambda: ask(network, node, url, bodies["m"])[0] == 503, 60, "the fall of the first")
        assert [ask(network, node, url, bodies["n"])[0] for _ in range(5)] == [200] * 5
        until(lambda: ask(network, node, url, bodies["m"])[0] == 200, 240, "the first again")
