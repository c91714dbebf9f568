"""Probe requests: small and deterministic. A node cannot tell them from customers' requests."""

import json

from offchain.domain.eip712 import keccak256, word
from offchain.domain.types import NodeId

_TAG = keccak256(b"parallelix.probe.prompt.v1")
_QUESTIONS = (
    "What is the capital of {place}?",
    "Name a food that {place} is known for.",
    "Which language do people speak in {place}?",
    "Tell me one fact about {place}.",
    "What is the weather in {place} like in {month}?",
    "Is {number} an even number?",
    "What is {number} plus {other}?",
    "Write a short greeting to a friend from {place}.",
    "Give me a synonym of '{word}'.",
    "Use the word '{word}' in a sentence.",
    "What do you think of when you hear '{word}'?",
    "Which month comes after {month}?",
    "Translate '{word}' to Spanish.",
    "How many letters does '{word}' have?",
    "Complete: In {month} the {word} ...",
)
_PLACES = (
    "France", "Japan", "Brazil", "Kenya", "Norway", "Peru", "India", "Canada", "Greece", "Egypt", "Vietnam", "Chile",
    "Poland", "Ghana", "Italy", "Mexico", "Turkey", "Finland", "Nepal", "Cuba",
)  # fmt: skip
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_WORDS = (
    "river", "bright", "quickly", "garden", "music", "stone", "travel", "gentle", "market", "winter", "letter",
    "dream", "bridge", "honest", "cloud", "silver", "forest", "coffee", "window", "story",
)  # fmt: skip
_SYSTEMS = (None, "You are a helpful assistant.", "Answer briefly.", "You are a friendly tutor.")


def probe_body(model: str, seed: bytes, node: NodeId, slot: int) -> bytes:
    """The request body of a keeper's probe of a node in a slot.

    Args:
        model: name that requesters use.
        seed: secret of the keeper, so that nobody can foresee a prompt.
    """
    draw = int.from_bytes(keccak256(_TAG + seed + word(node) + word(slot)), "big")

    def pick(count: int) -> int:
        nonlocal draw
        draw, chosen = divmod(draw, count)
        return chosen

    question = _QUESTIONS[pick(len(_QUESTIONS))].format(
        place=_PLACES[pick(len(_PLACES))],
        month=_MONTHS[pick(len(_MONTHS))],
        word=_WORDS[pick(len(_WORDS))],
        number=pick(90) + 10,
        other=pick(90) + 10,
    )
    system = _SYSTEMS[pick(len(_SYSTEMS))]
    messages = [{"role": "user", "content": question}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    # Greedy and short: honest nodes of one model revision then agree to the token (ADR 0044).
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 2 + pick(3)}
    if pick(2):  # half of them, as customers do; only a stream shows the time to the first token
        body["stream"] = True
    return json.dumps(body, separators=(",", ":")).encode()
