"""Error answers in OpenAI's shape, made from the errors of dispatch and quotas."""

import orjson

from offchain.protocol.openai_errors import error_body
from offchain.scheduler.quotas import QuotaExceededError
from offchain.scheduler.work import CallerError, NoCapacityError


class ApiError(Exception):
    """An answer other than success.

    Attributes:
        status: HTTP status.
        body: JSON document in OpenAI's shape.
        headers: further headers, e.g. `retry-after`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(message, kind, param, code)
        self.headers = headers or {}


def whole_number(text: str, param: str, limit: int) -> int:
    """A query's number from 1 to `limit`. Raises ApiError."""
    if text.isascii() and text.isdigit() and len(text) <= len(str(limit)) and 1 <= int(text) <= limit:
        return int(text)
    raise invalid_value(param, f"{param} must be a number from 1 to {limit}")


def invalid_value(param: str, message: str) -> ApiError:
    """400 for a field or a query parameter of the caller."""
    return ApiError(400, message, param=param, code="invalid_value")


def unknown_url(method: str, path: str) -> ApiError:
    """404 for a path that no route has."""
    return ApiError(404, f"Unknown request URL: {method} {path[:200]}", code="unknown_url")


def unavailable(message: str, code: str = "store_unavailable") -> ApiError:
    """503 for what this gateway lacks, or cannot reach now."""
    return ApiError(503, message, "server_error", code=code)


def from_quota(error: QuotaExceededError) -> ApiError:
    """402 for a tenant without credit, 429 for one over another limit."""
    if error.what == "credit":
        message = f"You have no credit left: {error}. Ask the gateway's operator for more."
        return ApiError(402, message, "insufficient_quota", code="insufficient_credits")
    return ApiError(
        429,
        f"Rate limit reached: {error}.",
        error.what,
        code="rate_limit_exceeded",
        headers={"retry-after": str(max(1, round(error.retry_after_seconds)))},
    )


def from_no_capacity(error: NoCapacityError) -> ApiError:
    """404 for a model that no node ever offered, 429 when all nodes are busy, 503 otherwise."""
    if error.reason == "unknown_capability":
        return ApiError(404, f"The model does not exist: {error}", param="model", code="model_not_found")
    retry = {"retry-after": str(max(1, round(error.retry_after_seconds)))}
    if error.reason == "full":
        return ApiError(429, str(error), "rate_limit_error", code="capacity_exceeded", headers=retry)
    codes = {"node_unavailable": "node_unavailable", "failed": "nodes_failed"}
    code = codes.get(error.reason, "no_capacity")
    return ApiError(503, str(error), "server_error", code=code, headers=retry)


def from_caller_fault(error: CallerError) -> ApiError:
    """The model server's refusal of the caller's request, in OpenAI's shape."""
    made = ApiError(error.status, "the model server refused the request")
    try:
        document = orjson.loads(error.body)
    except ValueError:
        return made
    outer = document if isinstance(document, dict) else {}
    # older vLLM has no `error` around it
    inner = outer["error"] if isinstance(outer.get("error"), dict) else outer
    message = inner.get("message") or inner.get("detail")
    if isinstance(message, str):
        param, code = (
            text if isinstance(text := inner.get(name), str) else None for name in ("param", "code")
        )
        made.body = error_body(message, "invalid_request_error", param, code)
    return made
