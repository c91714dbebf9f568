"""Gateway and node take the same text out of an answer, streamed or whole."""

import base64
import functools
import struct
import sys
from collections.abc import Iterator

import pytest

from offchain.domain.answer_text import StreamedAnswer, answer_result, answer_texts, tokens_of
from offchain.domain.messages import result_bytes

DEEP: list[object] = functools.reduce(lambda inner, _: [inner], range(20_000), [])
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}


def streamed(*chunks: dict) -> StreamedAnswer:
    answer = StreamedAnswer()
    for chunk in chunks:
        answer.add(chunk)
    return answer


def delta(index: int, finish: str | None = None, **fields: object) -> dict:
    return {"choices": [{"index": index, "delta": fields, "finish_reason": finish}]}


def test_stream__two_choices_interleaved__texts_in_index_order() -> None:
    answer = streamed(
        delta(1, content="b"),
        delta(0, content="é"),
        delta(0, "stop", content="a"),
        delta(1, "stop", content=None),
    )
    assert answer.texts() == ["éa", "b"]
    assert answer.result() == result_bytes(["éa", "b"])
    assert answer.finished


def test_stream__one_choice_open__not_finished() -> None:
    assert not streamed(delta(0, "stop", content="a"), delta(1, content="b")).finished
    assert not StreamedAnswer().finished


def test_tool_calls__streamed_in_pieces__same_text_as_whole() -> None:
    pieces = streamed(
        delta(
            0,
            tool_calls=[
                {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a"'}}
            ],
        ),
        delta(0, tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}]),
        delta(0, "tool_calls"),
    )
    whole = {
        "choices": [
            {"index": 0, "message": {"content": None, "tool_calls": [CALL]}, "finish_reason": "tool_calls"}
        ]
    }
    assert pieces.result() == answer_result(whole)


def test_usage__last_one_counts() -> None:
    answer = streamed(
        {"choices": [], "usage": {"prompt_tokens": 1}},
        {"usage": {"prompt_tokens": 3, "completion_tokens": 4}},
    )
    assert (answer.prompt_tokens, answer.completion_tokens) == (3, 4)


def test_embedding__numbers_and_base64__same_text() -> None:
    vector = [0.5, -1.25]
    packed = base64.b64encode(struct.pack("<2f", *vector)).decode()
    assert answer_texts({"data": [{"index": 0, "embedding": vector}]}) == [packed]
    assert answer_texts({"data": [{"index": 0, "embedding": packed}]}) == [packed]


def test_completion__choices_out_of_order__sorted() -> None:
    assert answer_texts({"choices": [{"index": 1, "text": "b"}, {"index": 0, "text": "a"}]}) == ["a", "b"]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"choices": [{}]},
        {"choices": 3},
        {"data": [{}]},
        {"data": [{"embedding": ["x"]}]},
        {"data": [{"embedding": [1e39]}]},
    ],
)
def test_answer__no_shape_of_ours__value_error(document: dict) -> None:
    with pytest.raises(ValueError, match="not a completion"):
        answer_texts(document)


@pytest.mark.parametrize(
    "chunk",
    [
        {"choices": [3]},
        3,
        [],
        {"choices": [{"delta": {"tool_calls": [{"function": 3}]}}]},
    ],
)
def test_chunk__no_shape_of_ours__value_error(chunk: dict) -> None:
    with pytest.raises(ValueError, match="not a completion chunk"):
        StreamedAnswer().add(chunk)


@pytest.mark.parametrize(
    "usage", [3, [3], {"prompt_tokens": -1}, {"completion_tokens": 1 << 32}, {"prompt_tokens": 1e300}]
)
def test_usage__no_receipt_can_hold_it__value_error(usage: object) -> None:
    with pytest.raises(ValueError, match="no count of tokens"):
        tokens_of(usage)
    with pytest.raises(ValueError, match="no count of tokens"):
        StreamedAnswer().add({"usage": usage})


@pytest.fixture
def usual_stack() -> Iterator[None]:
    """The recursion limit of our processes; test tools raise it."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.usefixtures("usual_stack")
def test_text__nested_more_deeply_than_the_stack__value_error() -> None:
    with pytest.raises(ValueError, match="not a completion"):
        answer_texts({"choices": [{"message": {"content": DEEP}}]})
    with pytest.raises(ValueError, match="not a completion chunk"):
        StreamedAnswer().add({"choices": [{"text": DEEP}]})


def test_tool_calls__nested_too_deeply_for_a_text__value_error() -> None:
    answer = streamed(delta(0, tool_calls=[{"index": 0, "id": DEEP}]))
    with pytest.raises(ValueError, match="without a text"):
        answer.result()
    with pytest.raises(ValueError, match="without a text"):
        answer_texts({"choices": [{"message": {"tool_calls": DEEP}}]})


def test_begun__empty_deltas__only_text_or_a_call_begins_an_answer() -> None:
    answer = streamed(delta(0, role="assistant", content=""))
    assert not answer.begun
    answer.add(delta(0, content="a"))
    assert answer.begun
    assert streamed(delta(0, tool_calls=[{"index": 0, "id": "c"}])).begun
