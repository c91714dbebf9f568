"""A cut stream, continued: at every possible cut, whatever the stop strings, the text is the uninterrupted one."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offchain.domain.eip712 import SigningDomain
from offchain.domain.types import NodeId
from offchain.protocol.receipts import ReceiptVerifier
from offchain.protocol.server_sent_events import DONE_EVENT
from offchain.scheduler.work import NodeError, NotResumableError
from offchain.workloads.inference.request import Kind, parse
from offchain.workloads.inference.resume import TokenLedger, why_not
from offchain.workloads.inference.stream import StreamTask, strip_ids
from tests.support.fakes.stub_model import Generation, expected_text, prompt_ids

NODE = NodeId(1)


def verifier() -> ReceiptVerifier:
    return ReceiptVerifier(
        SigningDomain(1, "0x" + "11" * 20), lambda digest, signature: "0x0", lambda node: ["0x0"]
    )


def events_of(body: dict[str, Any], chat: bool, sizes: tuple[int, ...] = (1,)) -> list[bytes]:
    """What a node streams for a request, event by event, without the end. `sizes`: ids in an event, in turn."""
    prompt = prompt_ids(body, chat)
    generation = Generation(prompt, body, body.get("max_tokens") or 64)
    base = {
        "id": "1",
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": 1,
        "model": "m",
    }
    events = []
    if chat:
        choice: dict[str, Any] = {
            "index": 0,
            "delta": {"role": "assistant", "content": ""},
            "finish_reason": None,
        }
        events.append({**base, "choices": [choice], "prompt_token_ids": prompt})
    while generation.finish is None:
        ids, text = [], ""
        for _ in range(sizes[len(events) % len(sizes)]):
            if generation.finish is None:
                token, piece = generation.step()
                ids.append(token)
                text += piece
        choice = {"index": 0, "finish_reason": generation.finish, "token_ids": ids}
        choice |= {"delta": {"content": text}} if chat else {"text": text}
        if not chat and not events:
            choice["prompt_token_ids"] = prompt
        events.append({**base, "choices": [choice]})
    return [b"data: " + orjson.dumps(event) + b"\n\n" for event in events]


def text_of(raw: bytes) -> tuple[str, list[str]]:
    text, finishes = "", []
    for event in raw.split(b"\n\n"):
        if event.startswith(b"data: {"):
            for choice in json.loads(event[6:])["choices"]:
                text += choice["delta"].get("content", "") if "delta" in choice else choice["text"]
                finishes += [choice["finish_reason"]] if choice["finish_reason"] else []
    return text, finishes


def run_with_cuts(
    fields: dict[str, Any], cuts: list[int], chat: bool = True, sizes: tuple[int, ...] = (1,)
) -> tuple[str, list[str], tuple[int, int]]:
    """Stream a request, losing the node after the given numbers of events. Returns text, finishes, usage."""
    kind = Kind.CHAT if chat else Kind.COMPLETION
    body = orjson.dumps(fields)
    task = StreamTask(parse(kind, body), body, bytes(32), verifier(), lambda node: 4096)
    out = b""
    for cut in [*cuts, 10**6]:
        try:
            call = task.call(NODE)
        except NotResumableError:
            rest = task.rest_if_complete()
            assert rest is not None
            out += rest
            break
        events = events_of(orjson.loads(call.body), call.path == Kind.CHAT.value, sizes)
        out += b"".join(task.feed(event) for event in events[:cut])
        if cut >= len(events):
            task.feed(DONE_EVENT)
            out += task.end()
            task.verdict()
            break
        if (rest := task.rest_if_complete()) is not None:
            out += rest
            break
    text, finishes = text_of(out)
    return text, finishes, task.usage


ASK = {"model": "m", "messages": [{"role": "user", "content": "sing"}], "stream": True, "max_tokens": 48}
STOPS: list[dict[str, Any]] = [
    {},
    {"stop": [" STOP"]},
    {"stop": ["word12 word", "\n"]},
    {"stop": " the", "include_stop_str_in_output": True},
    {"stop": ["字"], "ignore_eos": True},
]


@pytest.mark.parametrize("extra", STOPS)
@pytest.mark.parametrize("chat", [True, False])
def test_resume__cut_after_every_event__equals_the_uninterrupted_answer(
    extra: dict[str, Any], chat: bool
) -> None:
    for prompt in ("sing", "count", "漢字 please"):
        given_prompt = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
        fields = {**{k: v for k, v in ASK.items() if k != "messages"}, **given_prompt, **extra}
        expected, finish, tokens = expected_text(fields, chat)
        for cut in range(tokens + 2):
            text, finishes, usage = run_with_cuts(fields, [cut], chat)
            assert (text, finishes) == (expected, [finish]), f"cut after {cut} events"
            if cut >= 2 and usage != (0, 0):
                assert usage[1] == tokens


@pytest.mark.parametrize("extra", STOPS)
@pytest.mark.parametrize("sizes", [(2,), (3, 1), (1, 1, 1, 2), (1, 4, 1, 1)])
def test_resume__several_ids_in_an_event__goes_on_from_a_whole_character(
    extra: dict[str, Any], sizes: tuple[int, ...]
) -> None:
    for prompt in ("sing", "count", "漢字 please"):
        fields = {**ASK, **extra, "temperature": 0, "messages": [{"role": "user", "content": prompt}]}
        expected, finish, tokens = expected_text(fields)
        for cut in range(tokens + 2):
            text, finishes, _ = run_with_cuts(fields, [cut], sizes=sizes)
            assert (text, finishes) == (expected, [finish]), f"cut after {cut} events"


def test_resume__sampled_and_several_ids_in_an_event__is_right_or_refused() -> None:
    fields = {**ASK, "temperature": 1}
    expected, finish, tokens = expected_text(fields)
    outcomes = []
    for cut in range(2, tokens // 2):
        try:
            outcomes.append(run_with_cuts(fields, [cut], sizes=(2,))[:2])
        except NotResumableError as error:
            outcomes.append((str(error), []))
    refused = outcomes.count(("the answer was cut inside a character", []))
    assert outcomes.count((expected, [finish])) == len(outcomes) - refused
    assert 0 < refused < tokens // 8


@pytest.mark.parametrize(
    ("chunks", "base"),
    [
        ([([1], "a"), ([2], "b")], 2),
        ([([1], "a"), ([2, 3], "b")], 1),  # 3 may be the beginning of a character
        ([([1], "a"), ([2], "b"), ([1], "a"), ([2, 1], "ba")], 5),  # both are known to be whole
        ([([1], "a"), ([2], "b"), ([3], ""), ([2, 1], "ba")], 2),  # but not behind a part of a character
        ([([1, 2], "ab")], 0),
    ],
)
def test_ledger__rewind__stops_at_the_last_whole_character(
    chunks: list[tuple[list[int], str]], base: int
) -> None:
    ledger = TokenLedger.of({"temperature": 0})
    for ids, text in chunks:
        ledger.add(ids, text)
    assert ledger.rewind() == base
    sampled = TokenLedger.of({})
    for ids, text in chunks:
        sampled.add(ids, text)
    assert sampled.rewind() == sum(len(ids) for ids, _ in chunks)


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=12), st.lists(st.integers(0, 20), max_size=5), st.sampled_from(STOPS))
def test_resume__several_cuts__equals_the_uninterrupted_answer(
    prompt: str, cuts: list[int], extra: dict[str, Any]
) -> None:
    fields = {**ASK, **extra, "messages": [{"role": "user", "content": prompt}]}
    expected, finish, _ = expected_text(fields)
    text, finishes, _ = run_with_cuts(fields, cuts)
    assert (text, finishes) == (expected, [finish])


@pytest.mark.parametrize(
    "field",
    [
        {"tools": [{"type": "function"}]}, {"response_format": {"type": "json_object"}}, {"n": 2}, {"logprobs": True},
        {"presence_penalty": 0.1}, {"frequency_penalty": -1}, {"repetition_penalty": 1.1}, {"guided_regex": "a+"},
        {"some_future_option": 1}, {"stream_options": {"continuous_usage_stats": True}},
    ],
)  # fmt: skip
def test_resume__would_not_be_exact__says_which_field(field: dict[str, Any]) -> None:
    obstacle = why_not({**ASK, **field})
    assert obstacle is not None
    assert obstacle.startswith(next(iter(field)))


def test_resume__harmless_fields__do_not_forbid_it() -> None:
    fields = {"n": 1, "tools": [], "logprobs": False, "presence_penalty": 0, "response_format": {"type": "text"},
              "temperature": 0.7, "seed": 5, "top_p": 0.9, "user": "x", "metadata": {"a": "b"}}  # fmt: skip
    assert why_not({**ASK, **fields}) is None


def test_resume__other_model_text__is_refused_where_it_shows() -> None:
    refused = 0
    body = orjson.dumps({**ASK, "stop": ["longer than the lag"]})
    for cut in range(10, 24):
        task = StreamTask(parse(Kind.CHAT, body), body, bytes(32), verifier(), lambda node: 4096)
        task.call(NODE)
        for event in events_of(orjson.loads(body), chat=True)[:cut]:
            task.feed(event)
        other = {**orjson.loads(task.call(NODE).body), "prompt": [5, 6, 7]}
        try:
            for event in events_of(other, chat=False):
                task.feed(event)
        except NotResumableError:
            refused += 1
    assert refused >= 1


def test_stream__bare_done__is_truncation() -> None:
    body = orjson.dumps(ASK)
    task = StreamTask(parse(Kind.CHAT, body), body, bytes(32), verifier(), lambda node: 4096)
    task.call(NODE)
    for event in events_of(ASK, chat=True)[:5]:
        task.feed(event)
    assert task.feed(DONE_EVENT) == b""
    with pytest.raises(NodeError, match="finish_reason"):
        task.end()


@given(st.integers(1, 40))
def test_stream__split_anywhere__same_output(size: int) -> None:
    raw = b"".join(events_of(ASK, chat=True)) + DONE_EVENT
    body = orjson.dumps(ASK)
    outputs = []
    for step in (len(raw), size):
        task = StreamTask(parse(Kind.CHAT, body), body, bytes(32), verifier(), lambda node: 4096)
        task.call(NODE)
        outputs.append(b"".join(task.feed(raw[i : i + step]) for i in range(0, len(raw), step)) + task.end())
    assert outputs[0] == outputs[1]


@given(st.text(max_size=30), st.lists(st.integers(0, 9), max_size=4))
def test_strip_ids__any_text__only_the_ids_go(content: str, ids: list[int]) -> None:
    chunk = {
        "choices": [{"index": 0, "delta": {"content": content}, "token_ids": ids}],
        "prompt_token_ids": ids,
    }
    kept = {"choices": [{"index": 0, "delta": {"content": content}}]}
    assert orjson.loads(strip_ids(orjson.dumps(chunk))) == kept
    assert orjson.loads(strip_ids(json.dumps(chunk).encode())) == kept


def test_strip_ids__text_that_looks_like_them__stays() -> None:
    for content in (',"token_ids":[1,2]', '\\",\\"token_ids\\":[3]', '"token_ids"'):
        raw = orjson.dumps({"choices": [{"delta": {"content": content}, "token_ids": [7]}]})
        assert orjson.loads(strip_ids(raw)) == {"choices": [{"delta": {"content": content}}]}


@pytest.mark.parametrize(
    ("event", "left"),
    [
        (b'{"a":1,"token_ids":[[1],[2]]}', b'{"a":1}'),
        (b'{"a":1,"token_ids":["]"]}', b'{"a":1}'),
        (b'{"a":1,"token_ids":[1', b'{"a":1,"token_ids":[1'),
        (b'{"a":1' + b',"token_ids":null' * 100_000 + b"}", b'{"a":1}'),
    ],
    ids=["nested", "texts", "without end", "very many"],
)
def test_strip_ids__what_no_node_of_ours_sends__costs_no_more_than_its_length(
    event: bytes, left: bytes
) -> None:
    assert strip_ids(event) == left


def test_stream__event_is_no_json_and_then_a_cut__cannot_be_continued() -> None:
    body = orjson.dumps(ASK)
    task = StreamTask(parse(Kind.CHAT, body), body, bytes(32), verifier(), lambda node: 4096)
    task.call(NODE)
    for event in (*events_of(ASK, chat=True)[:3], b'data: {"choices":\n\n'):
        task.feed(event)
    assert task.rest_if_complete() is None
    with pytest.raises(NotResumableError, match="malformed"):
        task.call(NODE)
