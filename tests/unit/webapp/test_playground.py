"""The playground's own part, in front of a gateway that answers by heart; the real one is in tests/e2e."""

import json
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from tests.support.webapp.account import post
from tests.support.webapp.gateway import gateway
from tests.support.webapp.seed import SeededNetwork, app_of
from webapp.sources.gateway import deltas


def events_of(text_: str) -> list[tuple[str, Any]]:
    found = []
    for block in text_.split("\n\n"):
        if block:
            name, data = block.split("\n", 1)
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_playground__prompt__streams_words_then_the_route(net: SeededNetwork, built_assets: Path) -> None:
    key_file = net.folder / "key"
    key_file.write_text("sk-ours\n")
    with net.chain() as rpc, gateway() as (url, seen):
        client = app_of(net, rpc, gateway_url=url, gateway_api_key_file=key_file).test_client()
        assert "smollm2" in client.get("/playground").text
        answer = post(client, "/playground/chat", {"model": "smollm2", "prompt": "Capital of France?"})
        events = events_of(answer.text)
        assert [name for name, _ in events] == ["route", "token", "token", "token", "receipt"]
        assert (
            "".join(data["text"] for name, data in events if name == "token")
            == "The capital of France is Paris."
        )
        assert seen[0]["key"] == "Bearer sk-ours"
        assert "sk-ours" not in client.get("/playground").text
        refused = events_of(post(client, "/playground/chat", {"model": "none", "prompt": "x"}).text)
        assert refused == [("problem", {"message": "The model <b>none</b> does not exist"})]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"model": "m"},
        {"model": "m", "prompt": "  "},
        {"model": 1, "prompt": "x"},
        {"model": "m", "prompt": "x" * 8_001},
        {"model": "m", "prompt": "x", "max_tokens": 0},
        {"model": "m", "prompt": "x", "max_tokens": True},
        {"model": "m", "prompt": "x", "max_tokens": 10**9},
        {"model": "m", "prompt": "x", "key": "a\r\nX-Evil: 1"},
    ],
)
def test_playground__malformed__is_refused(app: Flask, body: dict) -> None:
    assert post(app.test_client(), "/playground/chat", body).status_code == 400


def test_playground__no_key_anywhere__asks_for_one(app: Flask) -> None:
    answer = post(app.test_client(), "/playground/chat", {"model": "m", "prompt": "x"})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "event", ['{"choices":5}', '{"choices":{"a":1}}', '{"choices":[[]]}', "5", "[" * 100_000]
)
def test_deltas__event_that_a_node_made_up__is_passed_over(event: str) -> None:
    stream = f'data: {event}\n\ndata: {{"choices":[{{"delta":{{"content":"a"}}}}]}}\n\n'
    assert list(deltas([stream.encode()])) == ["a"]
