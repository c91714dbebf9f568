"""The stub node's "model": a hash chain over token ids, so that a continuation from any prefix gives the same tokens as
the uninterrupted answer. Some of its tokens are only half a character, and text is held back as vLLM does it.
"""

import hashlib
from typing import Any

EOS = 2
_HALVES = "😀漢字🎉é한"  # each is two tokens: one that shows nothing, one that shows it
_WORDS = [f" word{i}" for i in range(40)] + [".", ",", "\n", " STOP", " the", " of"]


def next_token(ids: list[int]) -> int:
    """The only possible continuation of a token sequence."""
    digest = hashlib.sha256(b",".join(b"%d" % i for i in ids)).digest()
    draw = int.from_bytes(digest[:4], "big")
    last = ids[-1]
    if 100 <= last < 100 + len(_HALVES):
        return 200 + (last - 100)  # a first half is always followed by its second half
    if draw % 211 == 0:
        return EOS
    if draw % 5 == 0:
        return 100 + draw // 5 % len(_HALVES)
    return 10 + draw // 5 % len(_WORDS)


def text_of(token: int) -> str | None:
    """What a token adds to the text; None while a character is incomplete."""
    if 100 <= token < 100 + len(_HALVES):
        return None
    if 200 <= token < 200 + len(_HALVES):
        return _HALVES[token - 200]
    if 10 <= token < 10 + len(_WORDS):
        return _WORDS[token - 10]
    return ""


def shown(token: int) -> str:
    """Text of a token of a prompt."""
    return chr(token - 1000) if token >= 1000 else text_of(token) or ""


class Generation:
    """One answer, token by token, with vLLM's way of holding text back."""

    def __init__(self, prompt: list[int], fields: dict[str, Any], limit: int) -> None:
        stop = fields.get("stop") or []
        self.stops = [stop] if isinstance(stop, str) else list(stop)
        self.visible = bool(fields.get("include_stop_str_in_output"))
        self.hold = 0 if self.visible else max((len(s) for s in self.stops), default=1) - 1
        self.prompt = prompt
        self.ids: list[int] = []
        self.text = ""
        self.sent = 0
        self.limit = limit
        self.finish: str | None = None
        self.ignore_eos = bool(fields.get("ignore_eos"))
        # vLLM's detokenizer, when the prompt ends inside a character, gives the whole prompt's text before the first new.
        self.again = "".join(map(shown, prompt)) if prompt and text_of(prompt[-1]) is None else ""

    def step(self) -> tuple[int, str]:
        """Generate one token; returns it and the text to show now."""
        token = next_token(self.prompt + self.ids)
        if token == EOS and self.ignore_eos:
            token = 10
        self.ids.append(token)
        before = len(self.text)
        if piece := text_of(token):
            self.text += self.again + piece
            self.again = ""
        if token == EOS:
            self.finish = "stop"
        for stop in self.stops:
            at = self.text.find(stop, max(0, before - len(stop) + 1))
            if at >= 0:
                self.text = self.text[: at + (len(stop) if self.visible else 0)]
                self.finish = "stop"
                break
        if self.finish is None and len(self.ids) >= self.limit:
            self.finish = "length"
        end = len(self.text) if self.finish else max(self.sent, len(self.text) - self.hold)
        shown, self.sent = self.text[self.sent : end], end
        return token, shown


class Bundler:
    """Makes one event of several, as vLLM does with what has piled up: texts and ids joined, the last one's end."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.chunk: dict[str, Any] | None = None
        self.count = 0

    def add(self, chunk: dict[str, Any]) -> dict[str, Any] | None:
        """Take an event in. Returns one that is ready, or None."""
        if not chunk["choices"] or "role" in chunk["choices"][0].get("delta", {}):
            return chunk
        if self.chunk is None:
            self.chunk = chunk
        else:
            whole, part = self.chunk["choices"][0], chunk["choices"][0]
            holder, text = (whole["delta"], "content") if "delta" in whole else (whole, "text")
            piece = part["delta"].get("content") if "delta" in part else part["text"]
            holder[text] = (holder.get(text) or "") + (piece or "")
            whole["token_ids"] = (whole.get("token_ids") or []) + (part.get("token_ids") or [])
            whole["finish_reason"] = part["finish_reason"]
            whole["stop_reason"] = part.get("stop_reason")
        self.count += 1
        if self.count < self.size and self.chunk["choices"][0]["finish_reason"] is None:
            return None
        ready, self.chunk, self.count = self.chunk, None, 0
        return ready


def prompt_ids(fields: dict[str, Any], chat: bool) -> list[int]:
    prompt = fields.get("prompt")
    if not chat and isinstance(prompt, list):
        return prompt
    text = (
        "".join(f"<{m['role']}>{m.get('content')}" for m in fields["messages"]) + "<a>"
        if chat
        else str(prompt)
    )
    return [1, *(1000 + byte for byte in text.encode()[:2000])]


def expected_text(fields: dict[str, Any], chat: bool = True) -> tuple[str, str, int]:
    """The uninterrupted answer to a request: text, finish_reason, number of tokens."""
    limit = fields.get("max_completion_tokens") or fields.get("max_tokens") or (64 if chat else 16)
    generation = Generation(prompt_ids(fields, chat), fields, limit)
    while generation.finish is None:
        generation.step()
    return generation.text, generation.finish, len(generation.ids)
