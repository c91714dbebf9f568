"""The model server measured against the floor of its tier, as a keeper's probe will measure it."""

import time
from collections.abc import Iterator
from itertools import chain

import httpx

from offchain.domain.measurement.tier_floors import FLOORS
from offchain.domain.tiers import Tier
from offchain.node.machine.findings import MachineFinding, failed, http_fault, passed, warned
from offchain.node.machine.status import agent_state, engine_access
from offchain.node.settings import NodeSettings
from offchain.protocol.server_sent_events import EventSplitter, read_event

_TOKENS = 32
_ROUNDS = 3
_TIMEOUT_SECONDS = 120.0


def measure(settings: NodeSettings) -> Iterator[MachineFinding]:
    """Time to first token and tokens per second, the best of three runs, against the floor of the declared tier."""
    url, key = _server(settings)
    if url is None:
        yield warned("benchmark", "no model server runs here yet", "start the node, then verify again")
        return
    best_first, best_rate = float("inf"), 0.0
    for _ in range(_ROUNDS):
        try:
            first_ms, rate = _once(url, key, settings.served_model)
        except (httpx.HTTPError, ValueError) as error:
            reason = f"the model server failed: {http_fault(error)}"
            yield failed("benchmark", reason, "see `parallelix node logs --engine`")
            return
        best_first, best_rate = min(best_first, first_ms), max(best_rate, rate)
    floor = FLOORS[Tier(settings.tier)]
    text = (
        f"first token {best_first:.0f} ms (floor {floor.first_token_ms}), "
        f"{best_rate:.0f} tokens/s (floor {floor.tokens_per_second})"
    )
    if best_first > floor.first_token_ms or best_rate < floor.tokens_per_second:
        yield failed("benchmark", text, "declare a lower tier, or serve a smaller model")
    else:
        yield passed("benchmark", text)


def _server(settings: NodeSettings) -> tuple[str | None, str | None]:
    if settings.engine_url is not None:
        key_file = settings.engine_api_key_file
        return settings.engine_url.rstrip("/"), key_file.read_text().strip() if key_file else None
    access = engine_access(settings)
    return (None, None) if access is None or agent_state(settings) is None else access


def _once(url: str, key: str | None, model: str) -> tuple[float, float]:
    """One run: (milliseconds to the first token, tokens per second after it)."""
    body = {"model": model, "prompt": "The", "max_tokens": _TOKENS, "temperature": 0}
    # Every run has all its tokens, wherever the model would end.
    body |= {"ignore_eos": True, "stream": True}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    began = time.perf_counter()
    first, last, tokens = 0.0, 0.0, 0
    with httpx.stream(
        "POST", f"{url}/v1/completions", json=body, headers=headers, timeout=_TIMEOUT_SECONDS
    ) as answer:
        answer.raise_for_status()
        events = EventSplitter()
        for block in chain.from_iterable(map(events.feed, answer.iter_bytes())):
            # `[DONE]` and comment lines are no tokens.
            if read_event(block)[1].startswith(b"{"):
                last = time.perf_counter()
                first = first or last
                tokens += 1
    if tokens < 2:  # one token has no rate
        raise ValueError("it generated nothing")
    return (first - began) * 1000, (tokens - 1) / max(1e-6, last - first)
