"""OpenAI's error document, which every HTTP surface of ours answers with."""

import orjson


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> bytes:
    """The JSON document that OpenAI clients turn into an exception."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})
