"""The failure table: what a requester sees when a node dies, hangs or lies. Real processes, real signals."""

import itertools
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.fakes.stub_model import expected_text
from tests.support.gateway.processes import Rig, StubProcess, wait_for
from tests.support.web_client import HTTP

ASK: dict[str, Any] = {
    "model": "stub-model",
    "messages": [{"role": "user", "content": "tell me a long story"}],
    "max_tokens": 60,
    "temperature": 0,
    "ignore_eos": True,
}


ABSENCE_SECONDS = 5.0


class Scene:
    """One test's nodes, with ids and a model of their own, behind the gateway that the module shares."""

    def __init__(self, shared: Rig, number: int) -> None:
        self._shared = shared
        self._first = 10 * number
        self._nodes: list[StubProcess] = []
        ASK["model"] = f"model-{number}"

    url = property(lambda self: self._shared.url)
    auth = property(lambda self: self._shared.auth)
    api_key = property(lambda self: self._shared.api_key)

    def node(self, number: int, **changes: Any) -> StubProcess:
        made = self._shared.node(self._first + number, model=ASK["model"], **changes)
        self._nodes.append(made)
        return made

    def close(self) -> None:
        for node in self._nodes:
            node.kill()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    made = Rig(tmp_path_factory.mktemp("faults"), nodes=1000)
    try:
        made.gateway(absence_seconds=ABSENCE_SECONDS)
        yield made
    finally:
        made.close()


_numbers = itertools.count(1)


@pytest.fixture
def rig(shared: Rig) -> Iterator[Scene]:
    made = Scene(shared, next(_numbers))
    yield made
    made.close()


@pytest.fixture
def client(rig: Scene) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{rig.url}/v1", api_key=rig.api_key, max_retries=0, timeout=30) as made:
        yield made


def ask(client: openai.OpenAI, **changes: Any) -> Any:
    """A chat request; what the official client does not know goes as extra body."""
    fields = {**ASK, **changes}
    extra = {
        name: fields.pop(name) for name in ("ignore_eos", "include_stop_str_in_output") if name in fields
    }
    return client.chat.completions.create(**fields, extra_body=extra)


def text_of(stream: Any) -> tuple[str, str | None, Any]:
    """Read a stream to its end: text, finish_reason, usage."""
    text, finish, usage = "", None, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    return text, finish, usage


def attempts(rig: Scene, request_id: str) -> list[dict[str, Any]]:
    return HTTP.get(f"{rig.url}/v1/receipts/{request_id}", headers=rig.auth).json()["attempts"]


def busy(*nodes: StubProcess) -> StubProcess | None:
    """The node that works now."""
    return next((node for node in nodes if node.popen.poll() is None and node.state()["running"]), None)


def in_background(call: Any) -> tuple[threading.Thread, list[Any]]:
    """Run a call in a thread; the list gets its result or its exception."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:  # noqa: BLE001  handed to the test
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


def test_kill__before_the_first_token__client_sees_only_the_answer(rig: Scene, client: openai.OpenAI) -> None:
    nodes = [rig.node(i, first_ms=400) for i in (1, 2)]
    for stream in (False, True):
        thread, results = in_background(
            lambda stream=stream: text_of(ask(client, stream=True)) if stream else ask(client)
        )
        victim = wait_for(partial(busy, *nodes), what="a node works")
        victim.kill()
        killed = time.monotonic()
        nodes.remove(victim)
        wait_for(partial(busy, *nodes), what="another node works")
        assert time.monotonic() - killed < 0.25
        thread.join(60)
        expected, _, _ = expected_text(ASK)
        got = results[0][0] if stream else results[0].choices[0].message.content
        assert got == expected
        nodes.append(rig.node(3 + stream, first_ms=400))


@pytest.mark.parametrize("cut_after", [1, 2, 5, 9, 20, 33])
def test_kill__mid_stream__one_unbroken_stream_with_every_token_once(
    rig: Scene, client: openai.OpenAI, cut_after: int
) -> None:
    nodes = [rig.node(i, token_ms=30) for i in (1, 2)]
    expected, expected_finish, tokens = expected_text(ASK)
    stream = ask(client, stream=True, stream_options={"include_usage": True})
    text, finish, usage, seen, resumed_in = "", None, None, 0, 0.0
    killed_at = None
    for chunk in stream:
        if killed_at is not None and not resumed_in:
            resumed_in = time.monotonic() - killed_at
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
            seen += bool(choice.delta.content)
        if seen == cut_after and killed_at is None:
            victim = busy(*nodes)
            assert victim is not None
            victim.kill()
            killed_at = time.monotonic()
    assert text == expected
    assert finish == expected_finish
    assert usage.completion_tokens == tokens
    assert resumed_in < 1.0
    record = attempts(rig, stream.response.headers["x-request-id"])
    assert [a["outcome"] for a in record] == ["failed", "ok"]
    assert record[1]["resumed_from"] > 0


@pytest.mark.parametrize(
    "extra", [{"stop": [" STOP", "word39 word"]}, {"stop": "word7", "include_stop_str_in_output": True}]
)
@pytest.mark.parametrize("cut_after", [1, 4, 11])
def test_kill__mid_stream_with_stop_strings__text_is_the_uninterrupted_one(
    rig: Scene, client: openai.OpenAI, cut_after: int, extra: dict[str, Any]
) -> None:
    nodes = [rig.node(i, token_ms=30) for i in (1, 2)]
    expected, expected_finish, _ = expected_text({**ASK, **extra})
    text, finish, seen, killed = "", None, 0, False
    for chunk in ask(client, stream=True, **extra):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
            seen += bool(choice.delta.content)
        if seen == cut_after and not killed and (victim := busy(*nodes)) is not None:
            victim.kill()
            killed = True
    assert (text, finish) == (expected, expected_finish)


def test_kill__twice_in_one_stream__still_unbroken(rig: Scene, client: openai.OpenAI) -> None:
    nodes = [rig.node(i, token_ms=30) for i in (1, 2, 3)]
    text, seen = "", 0
    for chunk in ask(client, stream=True):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            seen += bool(choice.delta.content)
        if seen in (6, 17) and (victim := busy(*nodes)) is not None:
            victim.kill()
    assert text == expected_text(ASK)[0]
    assert sum(node.popen.poll() is not None for node in nodes) == 2


def test_kill__mid_stream_and_not_resumable__is_an_explicit_error(rig: Scene) -> None:
    nodes = [rig.node(i, token_ms=30) for i in (1, 2)]
    body = {**ASK, "stream": True, "frequency_penalty": 0.5}
    with HTTP.stream(
        "POST", f"{rig.url}/v1/chat/completions", json=body, headers=rig.auth, timeout=20
    ) as answer:
        received = ""
        for piece in answer.iter_text():
            received += piece
            victim = busy(*nodes)
            if victim is not None and received.count("content") > 4:
                victim.kill()
                nodes.remove(victim)
    assert '"code":"stream_interrupted"' in received
    assert "frequency_penalty" in received
    assert "[DONE]" not in received


@pytest.mark.parametrize(
    ("mode", "proof"),
    [
        ("garbage", "right"),
        ("error500", "right"),
        ("short", "right"),
        ("no_receipt", "right"),
        ("ok", "wrong"),
        ("lying_receipt", "none"),
        ("foreign_key", "none"),
    ],
)
def test_lies__whole_answer__next_node_answers(
    rig: Scene, client: openai.OpenAI, mode: str, proof: str
) -> None:
    liar, honest = rig.node(1, slots=64), rig.node(2, slots=1)
    liar.set(mode=mode, proof=proof)
    for _ in range(6):
        assert ask(client).choices[0].message.content == expected_text(ASK)[0]
    assert honest.state()["served"] >= 6
    text = HTTP.get(f"{rig.url}/metrics").text
    assert 'outcome="failed"' in text


@pytest.mark.parametrize("mode", ["lying_receipt", "foreign_key"])
def test_lies__proof_over_a_bad_receipt__answer_stands_and_the_node_is_charged(
    rig: Scene, client: openai.OpenAI, mode: str
) -> None:
    liar = rig.node(1)
    ask(client)
    before = HTTP.get(f"{rig.url}/v1/nodes/{liar.spec.node_id}").json()
    liar.set(mode=mode)
    for failed in (1, 2):
        raw = HTTP.post(f"{rig.url}/v1/chat/completions", json=ASK, headers=rig.auth)
        assert raw.json()["choices"][0]["message"]["content"] == expected_text(ASK)[0]
        assert "x-parallelix-receipt" in raw.headers
        assert "x-parallelix-proof" not in raw.headers
        record = HTTP.get(f"{rig.url}/v1/receipts/{raw.headers['x-request-id']}", headers=rig.auth).json()
        assert (record["status"], record["receipt"]) == ("answered", None)
        assert [(a["outcome"], a["reason"]) for a in record["attempts"]] == [("ok", "bad_receipt")]
        assert record["attempts"][0]["detail"]
        seen = HTTP.get(f"{rig.url}/v1/nodes/{liar.spec.node_id}").json()
        assert seen["attempts_succeeded"] == before["attempts_succeeded"]
        assert seen["attempts_failed"] == before["attempts_failed"] + failed
        assert (seen["breaker"] == "closed") is (failed == 1)
    assert 'outcome="ok",reason="bad_receipt"' in HTTP.get(f"{rig.url}/metrics").text


@pytest.mark.parametrize("mode", ["error_event", "short", "exit_after"])
def test_lies__stream__is_continued_by_the_next_node(rig: Scene, client: openai.OpenAI, mode: str) -> None:
    liar = rig.node(1, slots=64)
    liar.set(mode=mode)
    rig.node(2, slots=1)
    for _ in range(4):
        text, _, _ = text_of(ask(client, stream=True))
        assert text == expected_text(ASK)[0]


def test_capacity__no_node_up__is_waited_for_a_moment_then_503_at_once_with_the_reason(
    rig: Scene, client: openai.OpenAI
) -> None:
    node = rig.node(1)
    ask(client)  # the client's own beginnings are not measured
    node.kill()
    began = time.monotonic()
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client)
    assert time.monotonic() - began < ABSENCE_SECONDS + 0.5
    assert caught.value.status_code == 503
    assert caught.value.code in ("nodes_failed", "no_capacity")
    began = time.monotonic()
    with pytest.raises(openai.InternalServerError) as again:
        ask(client)
    assert time.monotonic() - began < 0.5
    assert again.value.code == "no_capacity"
    assert "retry-after" in again.value.response.headers


def test_capacity__model_that_nobody_has__is_404_at_once(rig: Scene, client: openai.OpenAI) -> None:
    rig.node(1)
    ask(client)  # the client's own beginnings are not measured
    began = time.monotonic()
    with pytest.raises(openai.NotFoundError):
        ask(client, model="nobody-has-this")
    assert time.monotonic() - began < 0.5


@pytest.mark.parametrize("stream", [False, True])
def test_move__only_node_dies_and_comes_back_elsewhere__request_waits_for_it(
    rig: Scene, client: openai.OpenAI, stream: bool
) -> None:
    """The second in which a node moves or starts anew: one request had begun there, another one comes while nobody is."""
    spare = rig.node(1, mode="silent", wait=False)
    node = rig.node(1, token_ms=30)
    begun, first = in_background(lambda: text_of(ask(client, stream=True)) if stream else ask(client))
    wait_for(lambda: node.state()["running"], what="it works")
    node.kill()
    late, second = in_background(lambda: ask(client))

    def waiting() -> bool:
        return "parallelix_gateway_requests_waiting 2" in HTTP.get(f"{rig.url}/metrics").text

    wait_for(waiting, what="both wait")
    assert not first
    assert not second
    spare.set(mode="ok")
    begun.join(60)
    late.join(60)
    expected = expected_text(ASK)[0]
    assert (first[0][0] if stream else first[0].choices[0].message.content) == expected
    assert second[0].choices[0].message.content == expected


def test_capacity__context_too_small__says_so(rig: Scene, client: openai.OpenAI) -> None:
    rig.node(1, context_length=64)
    with pytest.raises(openai.BadRequestError, match="maximum context length is 64 tokens"):
        ask(client, max_tokens=1000)


def test_capacity__more_requests_than_slots__wait_and_are_all_answered(rig: Scene) -> None:
    node = rig.node(1, slots=2, token_ms=1)
    results: list[Any] = []
    with httpx.Client(headers=rig.auth, timeout=30) as http:
        threads = [
            threading.Thread(
                target=lambda: results.append(http.post(f"{rig.url}/v1/chat/completions", json=ASK))
            )
            for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [r.status_code for r in results] == [200] * 12
    assert node.state()["running"] == 0


def test_stop__gateway_sigterm__running_stream_ends_well(tmp_path: Path) -> None:
    alone = Rig(tmp_path)
    try:
        gateway = alone.gateway()
        alone.node(1, token_ms=20)
        body = {**ASK, "model": "stub-model", "stream": True}
        url = f"{alone.url}/v1/chat/completions"
        with HTTP.stream("POST", url, json=body, headers=alone.auth) as answer:
            pieces = answer.iter_text()
            received = next(pieces)
            gateway.signal(signal.SIGTERM)
            received += "".join(pieces)
        assert received.endswith("data: [DONE]\n\n")
        assert gateway.popen.wait(60) == 0
    finally:
        alone.close()
