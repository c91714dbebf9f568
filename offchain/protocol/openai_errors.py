"""OpenAI's error document, which every HTTP surface of ours answers with."""

import orjson


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> bytes:
    """The JSON document that OpenAI clients turn into an exception."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def server_error_body(status: int, message: str) -> bytes:
    """What the HTTP server itself answers, in the same shape; see `transport.server.RenderError`."""
    return error_body(message, "server_error" if status >= 500 else "invalid_request_error")
