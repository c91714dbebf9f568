"""The gateway's OpenAPI document, at /openapi.json."""

from typing import Any

from offchain import __version__

_ERROR = {
    "description": "An error in OpenAI's shape",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
_OK = {"description": "The answer", "content": {"application/json": {"schema": {"type": "object"}}}}
_EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}


def _operation(
    summary: str, *, body: str | None = None, statuses: tuple[int, ...] = (), **more: Any
) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": _OK}
    if body is not None:
        responses = {"200": {**_OK, "content": {**_OK["content"], **_EVENTS}}}  # type: ignore[dict-item]
    operation: dict[str, Any] = {
        "summary": summary,
        "security": [{"key": []}],
        "responses": {**responses, **{str(status): _ERROR for status in (400, 401, *statuses)}},
        **more,
    }
    if body is not None:
        schema = {"$ref": f"#/components/schemas/{body}"}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _request(field: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["model", field],
        "properties": {
            "model": {"type": "string", "minLength": 1, "maxLength": 256},
            field: schema,
            "stream": {"type": ["boolean", "null"]},
            "max_tokens": {"type": ["integer", "null"], "minimum": 0, "maximum": 1 << 31},
        },
    }


def _batch_paths(path_id: dict[str, Any]) -> dict[str, Any]:
    """Files and batches."""
    one: dict[str, Any] = {"parameters": [{**path_id, "name": "id"}]}
    limit = {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 10000}}
    after = {"name": "after", "in": "query", "schema": {"type": "string"}}
    upload = _operation(
        "Keep the input of a batch: a line of JSON for each request", statuses=(400, 413, 429, 503)
    )
    form = {
        "type": "object",
        "required": ["purpose", "file"],
        "properties": {"purpose": {"enum": ["batch"]}, "file": {"type": "string", "format": "binary"}},
    }
    upload["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    content = _operation("A file's bytes", statuses=(404, 503), **one)
    content["responses"]["200"] = {
        "description": "The bytes",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
    return {
        "/v1/files": {
            "post": upload,
            "get": _operation("Your files, newest first", statuses=(400, 503), parameters=[limit, after]),
        },
        "/v1/files/{id}": {
            "get": _operation("One file", statuses=(404, 503), **one),
            "delete": _operation("Forget a file", statuses=(404, 503), **one),
        },
        "/v1/files/{id}/content": {"get": content},
        "/v1/batches": {
            "post": _operation(
                "Have every request of a file answered within a day",
                body="Batch",
                statuses=(400, 404, 413, 429, 503),
            ),
            "get": _operation("Your batches, newest first", statuses=(400, 503), parameters=[limit, after]),
        },
        "/v1/batches/{id}": {"get": _operation("One batch", statuses=(404, 503), **one)},
        "/v1/batches/{id}/cancel": {"post": _operation("End a batch early", statuses=(404, 409, 503), **one)},
    }


def _batch_request() -> dict[str, Any]:
    endpoints = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
    return {
        "type": "object",
        "required": ["input_file_id", "endpoint", "completion_window"],
        "properties": {
            "input_file_id": {"type": "string"},
            "endpoint": {"enum": endpoints},
            "completion_window": {"enum": ["24h"]},
            "metadata": {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
        },
    }


def _schemas() -> dict[str, Any]:
    message = {"type": "object", "required": ["role"], "properties": {"role": {"type": "string"}}}
    text_or_list = {"anyOf": [{"type": "string"}, {"type": "array", "items": {}}]}
    error = {
        "type": "object",
        "required": ["message", "type", "param", "code"],
        "properties": {
            "message": {"type": "string"},
            "type": {"type": "string"},
            "param": {"type": ["string", "null"]},
            "code": {"type": ["string", "null"]},
        },
    }
    return {
        "Chat": _request("messages", {"type": "array", "minItems": 1, "items": message}),
        "Completion": _request("prompt", text_or_list),
        "Embedding": _request("input", text_or_list),
        "Batch": _batch_request(),
        "Error": {"type": "object", "required": ["error"], "properties": {"error": error}},
    }


def _public(summary: str, *statuses: int, parameter: dict[str, Any]) -> dict[str, Any]:
    """A path that takes GET without an API key."""
    responses = {"200": _OK, **{str(status): _ERROR for status in statuses}}
    return {"get": {"summary": summary, "security": [], "responses": responses, "parameters": [parameter]}}


def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    faults = (400, 402, 404, 413, 429, 503)
    path_id = {"in": "path", "required": True, "schema": {"type": "string"}}
    one = {**path_id, "name": "id"}
    days = {"name": "days", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 90}}
    since = {"name": "since", "in": "query", "schema": {"type": "integer", "minimum": 0}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "ParalleliX gateway", "version": __version__},
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(),
        },
        "paths": {
            "/v1/chat/completions": {"post": _operation("Chat", body="Chat", statuses=faults)},
            "/v1/completions": {"post": _operation("Complete a text", body="Completion", statuses=faults)},
            "/v1/embeddings": {"post": _operation("Embed texts", body="Embedding", statuses=faults)},
            "/v1/models": {"get": _operation("Models that nodes serve now")},
            "/v1/models/{id}": {"get": _operation("One model", statuses=(404,), parameters=[one])},
            "/v1/usage": {
                "get": _operation("Requests, tokens and price by day", statuses=(400, 503), parameters=[days])
            },
            **_batch_paths(path_id),
            "/v1/nodes/{id}": _public(
                "What this gateway sees of a node, and what keeps work from it", 400, 404, parameter=one
            ),
            "/v1/executions": _public(
                "Signed commitments to the execution records of past epochs", 400, parameter=since
            ),
            "/v1/executions/{id}": _public(
                "A request's execution record and its proof, once its epoch is over", 400, 404, parameter=one
            ),
            "/v1/receipts/{id}": {
                "get": _operation("The signed record of a request", statuses=(404,), parameters=[one])
            },
        },
    }
