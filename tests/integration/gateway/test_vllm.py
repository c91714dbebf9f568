"""Token-exact resume on real vLLM: an answer cut after k events is the uninterrupted one, for every k."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.fakes.vllm_server import NEEDS_VLLM, TINY, vllm_server
from tests.support.gateway.processes import Rig, StubProcess, wait_for
from tests.support.services.ports import free_port
from tests.support.web_client import HTTP

pytestmark = [*NEEDS_VLLM, pytest.mark.timeout(500)]

TOKENS = 24
ASK: dict[str, Any] = {
    "model": "m",
    "max_tokens": TOKENS,
    "temperature": 0,
    "ignore_eos": True,
    "stream": True,
    "stream_options": {"include_usage": True},
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with vllm_server(TINY, free_port(), tmp_path_factory.mktemp("vllm") / "vllm.log") as url:
        yield url


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Rig]:
    made = Rig(tmp_path_factory.mktemp("rig"))
    try:
        made.gateway()
        for number, region in ((1, "local"), (2, "local"), (3, "far")):
            made.node(number, wait=False, model="m", engine_url=engine, context_length=512, region=region)
        yield made
    finally:
        made.close()


def read(answer: httpx.Response) -> tuple[str, str | None, dict[str, int]]:
    assert answer.status_code == 200, answer.text
    assert answer.text.endswith("data: [DONE]\n\n"), answer.text[-500:]
    text, finish, usage = "", None, {}
    for event in answer.text.split("\n\n"):
        if event.startswith("data: {"):
            chunk = json.loads(event[6:])
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                text += (choice["delta"].get("content") if "delta" in choice else choice["text"]) or ""
                finish = choice["finish_reason"] or finish
    return text, finish, {k: usage[k] for k in ("prompt_tokens", "completion_tokens")}


def characters_of(engine: str, text: str) -> list[int]:
    """Token ids of a text: bytes of characters, for a tokenizer that has no token for them."""
    answer = HTTP.post(f"{engine}/tokenize", json={"model": "m", "prompt": text, "add_special_tokens": False})
    ids: list[int] = answer.json()["tokens"]
    return sorted(set(ids))


CASES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Write a poem of the sea"}]}),
    ("/v1/completions", {"prompt": "def fold(values):"}),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "Emoji!"}], "letters": "😀🎉漢字かな語é한글 "},
    ),
    ("/v1/completions", {"prompt": "漢字", "letters": "漢字かな😀 ab", "stop": ["漢字か", "zzzzzz"]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Go on"}], "stop_from": (31, 34)}),
    (
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "Go on"}],
            "stop_from": (28, 32),
            "include_stop_str_in_output": True,
        },
    ),
]


@pytest.mark.parametrize("bundle", [1, 3])
@pytest.mark.parametrize(("path", "extra"), CASES)
def test_resume__real_vllm_cut_after_every_event__equals_the_uninterrupted_answer(
    rig: Rig, engine: str, path: str, extra: dict[str, Any], bundle: int
) -> None:
    fields = {**ASK, **extra}
    letters, stop_from = fields.pop("letters", None), fields.pop("stop_from", None)
    if letters is not None:
        fields["allowed_token_ids"] = characters_of(engine, letters)
    if stop_from is not None:
        whole = read(HTTP.post(engine + path, json=fields, timeout=60))[0]
        fields["stop"] = [whole[stop_from[0] : stop_from[1]], "never seen at all"]
    expected = read(HTTP.post(engine + path, json=fields, timeout=60))
    near = [p for p in rig.processes if isinstance(p, StubProcess)][:2]
    resumed = 0
    for cut in range(1, expected[2]["completion_tokens"] // bundle + 2):

        def is_near() -> bool:
            """The uninterrupted answer, again; true once a node whose breaker a cut had opened is back."""
            answer = HTTP.post(rig.url + path, json=fields, headers=rig.auth, timeout=60)
            assert read(answer) == expected
            return answer.headers["x-parallelix-node"] != "3"

        def cut_answer(cut: int = cut) -> dict[str, Any] | None:
            """The record of an answer that a near node began, and was cut in."""
            for node in near:
                node.set(cut_after=0)
            wait_for(is_near, what="a near node serves")
            for node in near:
                node.set(cut_after=cut, bundle=bundle)
            answer = HTTP.post(rig.url + path, json=fields, headers=rig.auth, timeout=60)
            assert read(answer) == expected, f"cut after {cut} events"
            url = f"{rig.url}/v1/receipts/{answer.headers['x-request-id']}"
            record: dict[str, Any] = HTTP.get(url, headers=rig.auth).json()
            assert record["usage"] == expected[2]
            return record if record["attempts"][0]["node_id"] != 3 else None

        record = wait_for(cut_answer, 30, "a near node to begin")
        resumed += any(a["resumed_from"] for a in record["attempts"])
    assert resumed >= 1, expected
