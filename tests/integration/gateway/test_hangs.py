"""Nodes that hang, crawl or cannot be reached: how soon the work goes elsewhere."""

import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.fakes.stub_model import expected_text
from tests.support.gateway.processes import Rig, StubProcess, wait_for
from tests.support.web_client import HTTP

ASK: dict[str, Any] = {
    "model": "stub-model",
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 12,
    "ignore_eos": True,
}
BOUND_SECONDS = 1.0
"""max(1 s, 3 x p95 of the time to the first byte), which is some ten milliseconds here."""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    made = Rig(tmp_path_factory.mktemp("hangs"), nodes=30)
    try:
        made.gateway(stall_timeout_seconds=1.0, absence_seconds=0)
        yield made
    finally:
        made.close()


@pytest.fixture
def pair(rig: Rig, request: pytest.FixtureRequest) -> Iterator[tuple[StubProcess, StubProcess]]:
    """Two nodes that only this test uses (its own model), known to the gateway; the first one is preferred."""
    number = len(rig.processes) + 1
    model = f"model-{number}"
    nodes = [rig.node(number + i, model=model, token_ms=3, first_ms=wait) for i, wait in ((0, 3), (1, 60))]
    for stream in (False, True):
        for _ in range(24):
            assert post(rig, model, stream=stream).status_code == 200
    yield nodes[0], nodes[1]
    for node in nodes:
        node.signal(signal.SIGCONT)
        node.kill()


def post(rig: Rig, model: str, **changes: Any) -> httpx.Response:
    body = {**ASK, "model": model, **changes}
    return HTTP.post(f"{rig.url}/v1/chat/completions", json=body, headers=rig.auth, timeout=30)


def tries(rig: Rig, answer: httpx.Response) -> list[dict[str, Any]]:
    url = f"{rig.url}/v1/receipts/{answer.headers['x-request-id']}"
    found: list[dict[str, Any]] = HTTP.get(url, headers=rig.auth).json()["attempts"]
    return found


def until_rescued(rig: Rig, model: str, **changes: Any) -> tuple[httpx.Response, list[dict[str, Any]]]:
    """Ask until a request met the sick node and was rescued."""
    for _ in range(12):
        answer = post(rig, model, **changes)
        assert answer.status_code == 200
        record = tries(rig, answer)
        if len(record) > 1:
            return answer, record
    raise AssertionError("no request met the sick node")


@pytest.mark.parametrize("stream", [False, True])
def test_sigstop__before_the_first_byte__goes_elsewhere_in_time(
    rig: Rig, pair: tuple[StubProcess, StubProcess], stream: bool
) -> None:
    pair[0].signal(signal.SIGSTOP)
    _, record = until_rescued(rig, pair[0].spec.model, stream=stream)
    assert record[0]["reason"] in ("first_byte_timeout", "heartbeats_stopped")
    assert record[0]["ms"] / 1000 <= BOUND_SECONDS + 0.2


def test_sigstop__mid_stream__is_resumed(rig: Rig, pair: tuple[StubProcess, StubProcess]) -> None:
    for node in pair:
        node.set(token_ms=40)
    body = {**ASK, "model": pair[0].spec.model, "stream": True, "max_tokens": 60}
    received = ""
    stopped: StubProcess | None = None
    with HTTP.stream(
        "POST", f"{rig.url}/v1/chat/completions", json=body, headers=rig.auth, timeout=30
    ) as answer:
        for piece in answer.iter_text():
            received += piece
            if stopped is None and received.count("data:") > 4:
                stopped = next(node for node in pair if node.state()["running"])
                stopped.signal(signal.SIGSTOP)
    record = tries(rig, answer)
    assert [a["reason"] for a in record] == ["stalled", ""]
    assert received.endswith("data: [DONE]\n\n")


def test_ten_times_slower__before_the_first_byte__goes_elsewhere_in_time(
    rig: Rig, pair: tuple[StubProcess, StubProcess]
) -> None:
    pair[0].set(first_ms=5_000)
    _, record = until_rescued(rig, pair[0].spec.model, stream=True)
    assert record[0]["reason"] == "first_byte_timeout"
    assert record[0]["ms"] / 1000 <= BOUND_SECONDS + 0.2


def test_blackhole__connection_never_made__goes_elsewhere_in_time(
    rig: Rig, pair: tuple[StubProcess, StubProcess]
) -> None:
    deaf = socket.socket()
    deaf.bind(("127.0.0.1", 0))
    deaf.listen(0)
    fill = [socket.socket() for _ in range(4)]
    for one in fill:
        one.setblocking(False)
        one.connect_ex(deaf.getsockname())
    pair[0].set(advertised_url=f"http://127.0.0.1:{deaf.getsockname()[1]}")
    beats = pair[0].state()["beats"]
    wait_for(lambda: pair[0].state()["beats"] > beats + 1, what="the gateway knows the address")
    _, record = until_rescued(rig, pair[0].spec.model, stream=True)
    assert record[0]["reason"] in ("unreachable", "first_byte_timeout")
    assert record[0]["ms"] / 1000 <= BOUND_SECONDS + 0.2
    for one in (*fill, deaf):
        one.close()


def test_region__all_of_it_killed__next_region_serves(rig: Rig) -> None:
    near = rig.node(28, model="regional", region="local")
    far = rig.node(29, model="regional", region="far")
    assert post(rig, "regional").headers["x-parallelix-node"] == "28"
    near.kill()
    began = time.monotonic()
    answer = post(rig, "regional")
    assert (answer.status_code, answer.headers["x-parallelix-node"]) == (200, "29")
    assert time.monotonic() - began < 3
    far.kill()


def test_region__full__spills_over(rig: Rig) -> None:
    near = rig.node(26, model="spilling", region="local", slots=1, token_ms=100)
    far = rig.node(27, model="spilling", region="far", slots=4)
    body = {**ASK, "model": "spilling", "stream": True, "max_tokens": 600}
    with HTTP.stream("POST", f"{rig.url}/v1/chat/completions", json=body, headers=rig.auth) as held:
        pieces = held.iter_raw()
        next(pieces)
        assert held.headers["x-parallelix-node"] == "26"
        for _ in range(2):
            assert post(rig, "spilling").headers["x-parallelix-node"] == "27"
    near.kill()
    far.kill()


def test_silence__heartbeats_stop__node_is_forgotten(rig: Rig) -> None:
    node = rig.node(25, model="silent")
    node.set(mode="silent")
    wait_for(lambda: post(rig, "silent").status_code == 503, what="the node is forgotten")
    assert post(rig, "silent").json()["error"]["code"] == "no_capacity"
    node.set(mode="ok")
    wait_for(lambda: post(rig, "silent").status_code == 200, what="it is back")
    node.kill()


def test_expected__text_is_deterministic() -> None:
    assert expected_text(ASK) == expected_text(dict(ASK))
