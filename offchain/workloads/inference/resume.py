"""Continuing a cut stream: which tokens the caller has, and the request that makes another node continue exactly behind them.

A model server sends each token's id at once but may hold text back: the token's text while a character is incomplete and, with
stop strings of at most L characters, always the last L - 1 characters. So text and ids do not end at the same place::

    ids    |-- t1 --|-- t2 --|-- t3 --|-- t4 --|          known when the node died
    text   ......................|                        what the caller has: E characters
                             ^ boundary: after t3 the whole text had a known length of T <= E characters

The continuation starts at the last boundary that the caller's text covers. It repeats E - T characters, which must be the same
and are dropped. A stop string cannot begin before E: if it had, the first node would have found it.

A boundary is exact when no part of a character is held back behind it. This matters because a server whose prompt ends inside a
character either gives the whole prompt's text again or drops the character.

- We can resume exactly after a chunk that holds one token id and text: this id completed the text.
- A server that is ahead of its reader puts several ids into a chunk, and any of them may have completed the text. Such a chunk
  ends exactly when it follows an exact boundary and each of its ids has completed text alone before.
- Otherwise we only guess where the text ends. At temperature 0 an answer never continues from a guess: it repeats itself from the
  last exact boundary. A sampled answer would not repeat itself, so it continues from the guess (nearly every id ends a
  character) and is refused if the repeated text differs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from offchain.scheduler.work import NotResumableError
from offchain.workloads.inference.request import InferenceRequest, Kind

DEFAULT_COMPLETION_TOKENS = 16
"""Tokens that `/v1/completions` generates when the request names no limit."""

_CARRIED = frozenset({
    "model", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "stop_token_ids",
    "include_stop_str_in_output", "ignore_eos", "logit_bias", "allowed_token_ids", "skip_special_tokens",
    "spaces_between_special_tokens", "cache_salt", "priority", "user", "vllm_xargs",
})  # fmt: skip
"""Fields that the continuation has, too."""
_REPLACED = frozenset({
    "messages", "prompt", "stream", "stream_options", "max_tokens", "max_completion_tokens", "min_tokens",
    "return_token_ids", "request_id", "add_generation_prompt", "continue_final_message",
    "add_special_tokens", "chat_template", "chat_template_kwargs", "documents", "metadata", "store",
    "service_tier", "prompt_cache_key", "safety_identifier", "truncate_prompt_tokens",
})  # fmt: skip
"""Fields whose effect is in the prompt's token ids already, or that `continuation` sets anew."""
_HARMLESS: Mapping[str, object] = {
    "n": 1,
    "best_of": 1,
    "repetition_penalty": 1,
    "length_penalty": 1,
    "response_format": {"type": "text"},
    "tool_choice": "none",
    "parallel_tool_calls": True,
    "include_reasoning": True,
    "detokenize": True,
}


def why_not(fields: Mapping[str, Any]) -> str | None:
    """The first field of a request that makes an exact continuation impossible, or None."""
    for name, value in fields.items():
        if name in _CARRIED or name in _REPLACED or value is None or value is False:
            continue
        if value in (0, "", [], {}) or (name in _HARMLESS and _HARMLESS[name] == value):
            continue
        return name
    options = fields.get("stream_options")
    if isinstance(options, dict) and options.get("continuous_usage_stats"):
        return "stream_options.continuous_usage_stats"
    return None


def stop_strings(fields: Mapping[str, Any]) -> list[str]:
    """The stop strings of a request."""
    stop = fields.get("stop")
    if isinstance(stop, str):
        return [stop] if stop else []
    return [s for s in stop if isinstance(s, str)] if isinstance(stop, list) else []


def is_greedy(fields: Mapping[str, Any]) -> bool:
    """Whether the model server gives the same tokens when the request is sent again."""
    return fields.get("temperature") == 0 or fields.get("top_k") == 1


@dataclass(slots=True)
class TokenLedger:
    """Tokens and text of a stream so far.

    Attributes:
        lag: characters that the server holds back while it generates.
        margin: characters at the end of the text that may be the beginning of a stop string.
        prompt_ids: token ids of the prompt, from the first chunk.
        ids: token ids of the output so far.
        text: output that the caller has.
        finish: finish reason, once it came.
        ids_given: output ids that the caller has.
        guesses: whether to continue from a boundary that may lie inside a character when there is no exact one.
    """

    lag: int = 0
    margin: int = 0
    guesses: bool = False
    prompt_ids: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish: str | None = None
    ids_given: int = 0
    _boundaries: list[tuple[int, int, bool]] = field(default_factory=lambda: [(0, 0, True)])
    """(number of ids, length of their text, whether exact), ascending."""
    _whole: set[int] = field(default_factory=set)
    """Ids that, alone in a chunk, have completed text before."""
    _is_exact: bool = False
    """Whether the last id ended at an exact boundary."""
    _base: tuple[int, int, bool] = (0, 0, True)
    _emitted: int = 0

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "TokenLedger":
        """An empty ledger for a request."""
        stops = stop_strings(fields)
        # the L - 1 of the docstring above: what may begin a stop string
        hold = max((len(s) for s in stops), default=1) - 1
        visible = bool(fields.get("include_stop_str_in_output"))
        return cls(lag=0 if visible else hold, margin=hold if visible else 0, guesses=not is_greedy(fields))

    def add(self, ids: list[int], text: str) -> str:
        """Enter a chunk of the node that serves now. Returns the text that the caller lacks.

        Raises:
            NotResumableError: the continuation repeats other text than the caller has.
        """
        self.ids += ids
        self._learn(ids, text)
        if not text:
            return ""
        start = self._base[1] + self._emitted
        if not self._base[2] and not self._emitted and self.text in text:
            raise NotResumableError("the answer was cut inside a character")
        self._emitted += len(text)
        end = start + len(text)
        if self._is_exact or self.guesses:
            self._boundaries.append((len(self.ids), end + self.lag, self._is_exact))
        known = len(self.text)
        if start < known and self.text[start:end] != text[: known - start]:
            raise NotResumableError("the continuation does not repeat what was sent already")
        fresh = text[max(0, known - start) :]
        self.text += fresh
        return fresh

    def _learn(self, ids: list[int], text: str) -> None:
        if len(ids) == 1:
            if text and self._is_exact:
                self._whole.add(ids[0])
            self._is_exact = bool(text)
        elif ids or text:
            self._is_exact = self._is_exact and bool(ids) and self._whole.issuperset(ids)

    def rewind(self) -> int:
        """Drop ids behind the last usable boundary; the next node continues there. Returns the number of ids left."""
        limit = len(self.text) - self.margin
        # the first boundary, before any token, stays: it is always exact
        while self._boundaries[-1][1] > limit and len(self._boundaries) > 1:
            self._boundaries.pop()
        self._base = self._boundaries[-1]
        self._emitted = 0
        self._is_exact = False
        del self.ids[self._base[0] :]
        return self._base[0]


def continuation(
    request: InferenceRequest, ledger: TokenLedger, context_length: int | None
) -> dict[str, Any] | None:
    """The `/v1/completions` body that continues behind the ledger's ids; None when no token is left to generate.

    Raises:
        NotResumableError: this request cannot be continued exactly, or the node gave no token ids.
    """
    obstacle = why_not(request.fields)
    if obstacle is not None:
        raise NotResumableError(f"an answer with {obstacle!r} cannot be continued exactly on another node")
    if not ledger.prompt_ids or (ledger.text and not ledger.ids_given):
        raise NotResumableError("the node gave no token ids")
    count = ledger.rewind()
    limit = request.max_tokens
    if limit is None and request.kind is Kind.COMPLETION:
        limit = DEFAULT_COMPLETION_TOKENS
    room = None if context_length is None else context_length - len(ledger.prompt_ids)
    if limit is None or (room is not None and limit > room):
        limit = room
    if limit is None:
        raise NotResumableError("the context length is not known")
    if limit - count <= 0:
        return None
    body = {name: value for name, value in request.fields.items() if name in _CARRIED and value is not None}
    body |= {"prompt": ledger.prompt_ids + ledger.ids, "max_tokens": limit - count, "stream": True}
    body |= {"return_token_ids": True, "add_special_tokens": False}  # the prompt's ids have them already
    least = request.fields.get("min_tokens")
    if isinstance(least, int) and least > count:
        body["min_tokens"] = least - count
    return body
