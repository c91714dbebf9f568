"""Serves the built scripts and styles. Their names hold a hash of the content, so browsers keep them for a year."""

import json
from pathlib import Path

from flask import Flask, Response, abort, request

from offchain.errors import UserError

PREFIX = "/assets/"
_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
_ENCODINGS = (("br", ".br"), ("gzip", ".gz"))


def init(app: Flask, folder: Path | None) -> None:
    """Serve the built assets, and give templates `asset(name)`, the path of an asset.

    Raises:
        UserError: the assets were not built.
    """
    dist = (folder or Path(__file__).parents[1] / "static" / "dist").resolve()
    try:
        names: dict[str, str] = json.loads((dist / "manifest.json").read_text())
    except (OSError, ValueError):
        raise UserError(f"the dashboard's assets are not built in {dist}; run `make web-assets`") from None
    files = {path.name for path in dist.iterdir()}

    def asset(name: str) -> str:
        return PREFIX + names[name]

    def serve(name: str) -> Response:
        suffix = Path(name).suffix
        if name not in files or suffix not in _TYPES:
            abort(404)
        chosen, encoding = name, None
        for token, extension in _ENCODINGS:
            if request.accept_encodings[token] and name + extension in files:
                chosen, encoding = name + extension, token
                break
        # Bytes instead of an open file: a file would stay open when the browser leaves early, and all assets are small.
        response = Response((dist / chosen).read_bytes(), content_type=_TYPES[suffix])
        # Each encoding has a tag of its own (RFC 9110, 8.8.3.3): the file's name holds content and encoding.
        response.set_etag(chosen)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        response.headers["Vary"] = "Accept-Encoding"
        if encoding:
            response.headers["Content-Encoding"] = encoding
        response.make_conditional(request)
        return response

    app.add_url_rule(f"{PREFIX}<name>", "asset", serve)
    app.add_url_rule("/favicon.ico", "favicon", lambda: serve(names["icon.svg"]))
    app.jinja_env.globals["asset"] = asset
