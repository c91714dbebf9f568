"""OpenAI's error document: the body of every error answer of gateway, node and keeper."""

import orjson


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> bytes:
    """The JSON document from which OpenAI clients make an exception, e.g. `{"error": {"message": ..., "code": ...}}`."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def server_error_body(status: int, message: str) -> bytes:
    """The body of errors that the HTTP server answers itself; see `transport.server.RenderError`."""
    return error_body(message, "server_error" if status >= 500 else "invalid_request_error")
