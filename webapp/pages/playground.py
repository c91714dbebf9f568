"""The playground: sends a prompt to the gateway, streams the answer to the browser, then shows the route receipt."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, request

from offchain.errors import UserError
from offchain.protocol import headers as header_names
from webapp.sources.gateway import MAX_ANSWER_BYTES, GatewayApi, GatewayUnavailableError, deltas, error_words
from webapp.sources.sources import Sources
from webapp.sources.status import Status
from webapp.web.errors import PageError
from webapp.web.rendering import event_stream, page
from webapp.web.url_params import api_key_of

MAX_PROMPT = 8_000
MAX_TOKENS = 1_024
_REQUEST_ID = re.compile(r"0x[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class PlaygroundView:
    """The playground page."""

    status: Status
    present: bool
    has_key: bool
    models: list[str]
    problem: str | None


def blueprint(sources: Sources, gateway: GatewayApi) -> Blueprint:
    """`/playground` and `/playground/chat`."""
    routes = Blueprint("playground", __name__, url_prefix="/playground")

    @routes.get("")
    def show() -> Response:
        models: list[str] = []
        problem = None
        if gateway.present and gateway.has_key:
            try:
                models = gateway.models(gateway.key(""))
            except (GatewayUnavailableError, UserError) as error:
                problem = str(error)
        view = PlaygroundView(sources.present_status(), gateway.present, gateway.has_key, models, problem)
        return page("playground.html", view)

    @routes.post("/chat")
    def chat() -> Response:
        body, key = _checked(request.get_json(silent=True))
        try:
            key = gateway.key(key)
        except UserError as error:
            raise PageError(401, "An API key is needed", f"{error}.") from None
        return event_stream(_answer(gateway, body, key))

    return routes


def _checked(data: Any) -> tuple[dict[str, Any], str]:
    wrong = PageError(400, "The request is malformed", "It needs a model and a prompt.")
    if not isinstance(data, dict):
        raise wrong
    model, prompt, key = (data.get(name) for name in ("model", "prompt", "key"))
    tokens = data.get("max_tokens", 128)
    if not isinstance(model, str) or not isinstance(prompt, str) or not prompt.strip() or len(model) > 200:
        raise wrong
    if len(prompt) > MAX_PROMPT:
        raise PageError(400, "The prompt is too long", f"It may have {MAX_PROMPT:,} characters.")
    if isinstance(tokens, bool) or not isinstance(tokens, int) or not 1 <= tokens <= MAX_TOKENS:
        raise PageError(400, "That many tokens are not allowed", f"Ask for 1 to {MAX_TOKENS:,}.")
    if not isinstance(key or "", str):
        raise wrong
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        # Greedy: when a node dies, another one continues with the very same tokens (ADR 0009).
        "temperature": 0,
        "stream": True,
    }
    return body, api_key_of(key or "")


def _answer(gateway: GatewayApi, body: dict[str, Any], key: str) -> Iterator[str]:
    request_id = ""
    try:
        with gateway.chat(body, key) as answer:
            if answer.status_code != 200:
                answer.read()
                try:
                    words = error_words(answer.json())
                except ValueError:
                    words = f"the gateway answered {answer.status_code}"
                yield _event("problem", {"message": words})
                return
            request_id = answer.headers.get("x-request-id", "")
            route = {"request_id": request_id, "node_id": answer.headers.get(header_names.NODE)}
            yield _event("route", route)
            size = 0
            for text in deltas(answer.iter_bytes()):
                size += len(text)
                if size > MAX_ANSWER_BYTES:
                    yield _event("problem", {"message": "the answer is too long to show"})
                    return
                yield _event("token", {"text": text})
        # After the stream: its receipt is checked behind [DONE] (ADR 0088). The id's shape is safe in a URL.
        if _REQUEST_ID.fullmatch(request_id):
            yield _event("receipt", gateway.receipt(request_id, key))
    except GatewayUnavailableError as error:
        yield _event("problem", {"message": str(error)})


def _event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
