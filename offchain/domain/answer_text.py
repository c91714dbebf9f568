"""The text of each choice of an answer, whole or streamed: what a receipt binds.

The node signs a hash of these texts, and the gateway computes it again from the answer that it got. If the two differed in one
byte, an honest node would be charged with a bad receipt. So this module is the only one that takes text out of an answer for a
receipt (tests/unit/protocol/test_one_rule.py).

| in the answer | text |
| --- | --- |
| chat choice: `message` or `delta` | `content`; empty when `null` or missing |
| the same with `tool_calls` | compact JSON of the calls; a stream's pieces are joined to `id, type, function {name, arguments}` |
| completion choice: no `message`, or `message: null` | `text`; empty when `null` |
| embedding | base64 of the vector as little-endian float32 |

Choices are in the order of their `index`; a choice without one has index 0.
"""

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from offchain.domain.messages import result_bytes

_MAX_TOKENS = 2**32 - 1
"""A receipt has 4 bytes for each count."""
_MISSHAPEN = (KeyError, TypeError, AttributeError, OverflowError, RecursionError, struct.error)
"""What reading a document of a stranger may raise, beside ValueError."""


class _Choice:
    """A choice of a stream so far."""

    __slots__ = ("calls", "content")

    def __init__(self) -> None:
        self.content: list[str] = []
        self.calls: dict[int, dict[str, Any]] = {}

    def text(self) -> str:
        if self.calls:
            return _compact([self.calls[index] for index in sorted(self.calls)])
        return "".join(self.content)


class StreamedAnswer:
    """Collects the chunks of a streamed chat or text completion.

    Attributes:
        prompt_tokens, completion_tokens: from the last `usage`; None before one came.
        begun: whether a choice has text or a call. `texts` would tell, too, at a cost that grows with the answer.
    """

    __slots__ = ("_choices", "_open", "begun", "completion_tokens", "prompt_tokens")

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}
        self._open: set[int] = set()
        self.begun = False
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None

    @property
    def finished(self) -> bool:
        """Whether at least one choice came, and each has its finish reason."""
        return bool(self._choices) and not self._open

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Add one decoded chunk. Raises ValueError when it is not a completion chunk."""
        try:
            usage = chunk.get("usage")
            if usage:
                self.prompt_tokens, self.completion_tokens = tokens_of(usage)
            for part in chunk.get("choices") or ():
                self._add_choice(part)
        except _MISSHAPEN as error:
            raise ValueError(f"not a completion chunk: {type(error).__name__}: {error}") from None

    def _add_choice(self, part: Mapping[str, Any]) -> None:
        index = _index(part)
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice()
            self._open.add(index)
        delta = part.get("delta")
        if delta is None:
            text = part.get("text")
        else:
            text = delta.get("content")
            for call in delta.get("tool_calls") or ():
                _merge_call(choice.calls, call)
                self.begun = True
        if text:
            self.begun = True
            choice.content.append(str(text))
        if part.get("finish_reason") is not None:
            self._open.discard(index)

    def texts(self) -> list[str]:
        """Text of each choice, in index order. Raises ValueError when there is none for a call."""
        return [self._choices[index].text() for index in sorted(self._choices)]

    def result(self) -> bytes:
        """The bytes that a receipt's `resultHash` and proof of execution bind: see `messages.result_bytes`. Raises as `texts`."""
        return result_bytes(self.texts())


def answer_texts(answer: Mapping[str, Any]) -> list[str]:
    """Text of each choice of a whole answer (chat, completion or embeddings), in index order.

    Raises:
        ValueError: the answer is none of these.
    """
    try:
        if "choices" in answer:
            return [_choice_text(choice) for choice in sorted(answer["choices"], key=_index)]
        return [_embedding_text(item["embedding"]) for item in sorted(answer["data"], key=_index)]
    except _MISSHAPEN as error:
        raise ValueError(f"not a completion or an embedding: {type(error).__name__}: {error}") from None


def answer_result(answer: Mapping[str, Any]) -> bytes:
    """`result_bytes` of a whole answer. Raises ValueError as `answer_texts`."""
    return result_bytes(answer_texts(answer))


def tokens_of(usage: Any) -> tuple[int, int]:
    """Prompt and completion tokens of an answer's `usage`. Raises ValueError when a receipt cannot hold them."""
    try:
        prompt, completion = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
    except _MISSHAPEN as error:
        raise ValueError(f"no count of tokens: {error}") from None
    if not (0 <= prompt <= _MAX_TOKENS and 0 <= completion <= _MAX_TOKENS):
        raise ValueError("no count of tokens that a receipt can hold")
    return prompt, completion


def _index(item: Mapping[str, Any]) -> int:
    return int(item.get("index", 0))


def _choice_text(choice: Mapping[str, Any]) -> str:
    message = choice.get("message")
    if message is None:
        if "text" not in choice:
            raise KeyError("text")
        return str(choice["text"] or "")
    if message.get("tool_calls"):
        return _compact(message["tool_calls"])
    return str(message.get("content") or "")


def _embedding_text(vector: str | Sequence[float]) -> str:
    if isinstance(vector, str):
        return vector
    # As the API's `encoding_format: base64` has it, so that both forms of a vector give one text.
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _merge_call(calls: dict[int, dict[str, Any]], delta: Mapping[str, Any]) -> None:
    call = calls.setdefault(
        _index(delta), {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
    )
    if delta.get("id"):
        call["id"] = delta["id"]
    function = delta.get("function") or {}
    if function.get("name"):
        call["function"]["name"] = function["name"]
    call["function"]["arguments"] += function.get("arguments") or ""


def _compact(calls: Sequence[Mapping[str, Any]]) -> str:
    try:
        return orjson.dumps(calls).decode()
    except TypeError as error:  # such as: nested too deeply
        raise ValueError(f"tool calls without a text: {error}") from None
