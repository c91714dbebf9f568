"""The gateway's OpenAPI document, at /openapi.json."""

from typing import Any

from offchain import __version__

_ERROR = {
    "description": "An error in OpenAI's shape",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
_JSON = {"application/json": {"schema": {"type": "object"}}}
_OK = {"description": "The answer", "content": _JSON}
_EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}


def _operation(
    summary: str, *statuses: int, body: str | None = None, public: bool = False, **more: Any
) -> dict[str, Any]:
    """One method of a path. `body` names the schema of its JSON body, whose answer may be a stream."""
    statuses = statuses if public else (400, 401, *statuses)
    responses: dict[str, Any] = {"200": _OK, **{str(status): _ERROR for status in statuses}}
    operation = {
        "summary": summary,
        "security": [] if public else [{"key": []}],
        "responses": responses,
        **more,
    }
    if body is not None:
        responses["200"] = {**_OK, "content": {**_JSON, **_EVENTS}}
        schema = {"$ref": f"#/components/schemas/{body}"}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _object(required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required.split(), "properties": properties}


def _request(field: str, schema: dict[str, Any]) -> dict[str, Any]:
    return _object(
        f"model {field}",
        model={"type": "string", "minLength": 1, "maxLength": 256},
        stream={"type": ["boolean", "null"]},
        max_tokens={"type": ["integer", "null"], "minimum": 0, "maximum": 1 << 31},
        **{field: schema},
    )


def _query(name: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema}


def _batch_paths(one: list[dict[str, Any]]) -> dict[str, Any]:
    """Files and batches."""
    page = [_query("limit", type="integer", minimum=1, maximum=10000), _query("after", type="string")]
    upload = _operation("Keep the input of a batch: a line of JSON for each request", 400, 413, 429, 503)
    binary = {"type": "string", "format": "binary"}
    form = _object("purpose file", purpose={"enum": ["batch"]}, file=binary)
    upload["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    content = _operation("A file's bytes", 404, 503, parameters=one)
    octets = {"application/octet-stream": {"schema": binary}}
    content["responses"]["200"] = {"description": "The bytes", "content": octets}
    create = "Have every request of a file answered within a day"
    return {
        "/v1/files": {
            "post": upload,
            "get": _operation("Your files, newest first", 400, 503, parameters=page),
        },
        "/v1/files/{id}": {
            "get": _operation("One file", 404, 503, parameters=one),
            "delete": _operation("Forget a file", 404, 503, parameters=one),
        },
        "/v1/files/{id}/content": {"get": content},
        "/v1/batches": {
            "post": _operation(create, 400, 404, 413, 429, 503, body="Batch"),
            "get": _operation("Your batches, newest first", 400, 503, parameters=page),
        },
        "/v1/batches/{id}": {"get": _operation("One batch", 404, 503, parameters=one)},
        "/v1/batches/{id}/cancel": {"post": _operation("End a batch early", 404, 409, 503, parameters=one)},
    }


def _schemas() -> dict[str, Any]:
    text, text_or_null = {"type": "string"}, {"type": ["string", "null"]}
    text_or_list = {"anyOf": [text, {"type": "array", "items": {}}]}
    error = _object("message type param code", message=text, type=text, param=text_or_null, code=text_or_null)
    batch = _object(
        "input_file_id endpoint completion_window",
        input_file_id=text,
        endpoint={"enum": ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]},
        completion_window={"enum": ["24h"]},
        metadata={"type": ["object", "null"], "additionalProperties": text},
    )
    return {
        "Chat": _request("messages", {"type": "array", "minItems": 1, "items": _object("role", role=text)}),
        "Completion": _request("prompt", text_or_list),
        "Embedding": _request("input", text_or_list),
        "Batch": batch,
        "Error": _object("error", error=error),
    }


def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    faults = (400, 402, 404, 413, 429, 503)
    one = [{"in": "path", "required": True, "schema": {"type": "string"}, "name": "id"}]
    days = [_query("days", type="integer", minimum=1, maximum=90)]
    since = [_query("since", type="integer", minimum=0)]
    node = "What this gateway sees of a node, and what keeps work from it"
    commitments = "Signed commitments to the execution records of past epochs"
    record = "A request's execution record and its proof, once its epoch is over"
    read = {
        "/v1/models": _operation("Models that nodes serve now"),
        "/v1/models/{id}": _operation("One model", 404, parameters=one),
        "/v1/usage": _operation("Requests, tokens and price by day", 400, 503, parameters=days),
        "/v1/nodes/{id}": _operation(node, 400, 404, public=True, parameters=one),
        "/v1/executions": _operation(commitments, 400, public=True, parameters=since),
        "/v1/executions/{id}": _operation(record, 400, 404, public=True, parameters=one),
        "/v1/receipts/{id}": _operation("The signed record of a request", 404, parameters=one),
    }
    key = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "ParalleliX gateway", "version": __version__},
        "components": {"securitySchemes": key, "schemas": _schemas()},
        "paths": {
            "/v1/chat/completions": {"post": _operation("Chat", *faults, body="Chat")},
            "/v1/completions": {"post": _operation("Complete a text", *faults, body="Completion")},
            "/v1/embeddings": {"post": _operation("Embed texts", *faults, body="Embedding")},
            **{path: {"get": operation} for path, operation in read.items()},
            **_batch_paths(one),
        },
    }
