"""The fields of an OpenAI request that dispatch needs. All other fields are checked by the model server."""

from enum import StrEnum
from typing import Any, NamedTuple

import orjson

from offchain.errors import SkipError

DEFAULT_OUTPUT_TOKENS = 256
_PREFIXES = (1024, 4096, 16384, 65536)


class Kind(StrEnum):
    """Endpoints that a node answers; the value is the path."""

    CHAT = "/v1/chat/completions"
    COMPLETION = "/v1/completions"
    EMBEDDING = "/v1/embeddings"


_CHAT, _EMBEDDING = Kind.CHAT, Kind.EMBEDDING  # once: a lookup of a member takes 0.3 us in Python 3.11


class InvalidRequestError(SkipError):
    """A request that no node could serve; `param`, `code` and `status` are those of OpenAI's error document."""

    def __init__(
        self, message: str, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status


class InferenceRequest(NamedTuple):
    """A request whose outer shape is right: the body as it came, parsed, and the fields that dispatch reads."""

    kind: Kind
    body: bytes
    fields: dict[str, Any]
    model: str
    stream: bool
    max_tokens: int | None

    @property
    def cost(self) -> int:
        """Expected tokens: a quarter of the body's bytes, plus `max_tokens` or `DEFAULT_OUTPUT_TOKENS`."""
        return len(self.body) // 4 + (self.max_tokens or DEFAULT_OUTPUT_TOKENS)

    def affinity(self, tenant: str) -> tuple[int, ...]:
        """Hashes of the first 1, 4, 16 and 64 KiB of a body: a node that saw equal ones has a warm prefix cache.

        Python's hash has a random key in each process: the values mean nothing elsewhere, and a caller cannot craft collisions.
        """
        size = len(self.body)
        if size <= _PREFIXES[0]:
            return ()
        return tuple(hash((tenant, self.body[:length])) for length in _PREFIXES if length < size)

    @property
    def timing_class(self) -> str:
        """Name of a class with comparable times to the first byte: by size of the input if streamed, else of the output."""
        if self.stream:
            return f"{self.kind}:{self.model}:stream:{(len(self.body) >> 12).bit_length()}"
        return f"{self.kind}:{self.model}:whole:{(self.max_tokens or DEFAULT_OUTPUT_TOKENS).bit_length()}"


def parse(kind: Kind, body: bytes) -> InferenceRequest:
    """Read a request body. Raises InvalidRequestError."""
    try:
        fields = orjson.loads(body)
    except ValueError:
        message = "We could not parse the JSON body of your request."
        raise InvalidRequestError(message, code="invalid_json") from None
    if not isinstance(fields, dict):
        raise InvalidRequestError("The body of your request must be a JSON object.", code="invalid_type")
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequestError("you must provide a model parameter", "model", "missing_required_parameter")
    if len(model) > 256:
        raise InvalidRequestError("model is too long", "model", "string_above_max_length")
    stream = fields.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise InvalidRequestError("stream must be a boolean", "stream", "invalid_type")
    if kind is _CHAT:
        _check_messages(fields.get("messages"))
    else:
        name = "input" if kind is _EMBEDDING else "prompt"
        if not isinstance(fields.get(name), str | list):
            raise InvalidRequestError(
                f"{name} must be a string or a list", name, "missing_required_parameter"
            )
    streamed = bool(stream) and kind is not _EMBEDDING
    return InferenceRequest(kind, body, fields, model, streamed, _max_tokens(fields))


def _check_messages(messages: object) -> None:
    if not isinstance(messages, list) or not messages:
        wrong = "messages must be a non-empty list"
        raise InvalidRequestError(wrong, "messages", "missing_required_parameter")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            name = f"messages[{index}]"
            raise InvalidRequestError(f"{name} must be an object with a role", f"{name}.role", "invalid_type")


def _max_tokens(fields: dict[str, Any]) -> int | None:
    # the newer name goes first, as at OpenAI
    for name in ("max_completion_tokens", "max_tokens"):
        value = fields.get(name)
        if value is None:
            continue
        # in Python True is an int
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidRequestError(f"{name} must be an integer", name, "invalid_type")
        if value < 0 or value > 1 << 31:
            raise InvalidRequestError(f"{name} is out of range", name, "integer_out_of_range")
        return value
    return None
