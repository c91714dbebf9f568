"""Turns a view into an answer: HTML for people, JSON for programs, both compressed with gzip."""

import gzip
import time
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlencode

from flask import Flask, Response, jsonify, render_template, request
from markupsafe import Markup

from offchain.domain.types import FULL_BPS
from webapp.settings import DashboardSettings
from webapp.web import money
from webapp.web.glossary import HOW
from webapp.web.json_view import jsonable

_COMPRESS_FROM = 1_000
NAV: list[tuple[str, str, str]] = [
    ("network.page", "Network", "network"),
    ("operator.find", "My nodes", "operator"),
    ("earnings.find", "Earnings", "earnings"),
    ("register.tier", "Register", "register"),
    ("playground.show", "Playground", "playground"),
    ("activity.show", "Activity", "activity"),
    ("account.show", "Account", "account"),
]
THEMES = ("auto", "light", "dark")


def wants_json() -> bool:
    """Whether the caller asked for JSON: a path under /api/, `?format=json`, or an Accept header that prefers JSON."""
    if request.path.startswith("/api/"):
        return True
    chosen = request.args.get("format")
    if chosen is not None:
        return chosen == "json"
    accepted = request.accept_mimetypes
    best = accepted.best_match(["text/html", "application/json"], default="text/html")
    # `Accept: */*` matches both: whoever does not say so gets no JSON.
    return best == "application/json" and accepted["application/json"] > accepted["text/html"]


def page(template: str, view: Any, **extra: Any) -> Response:
    """The view rendered with a template, or as JSON when the caller asked for JSON."""
    if wants_json():
        return jsonify(jsonable(view))
    response = Response(fragment(template, view, **extra), mimetype="text/html")
    # The same URL has a JSON twin, which a cache must not give to a browser.
    response.headers["Vary"] = "Accept"
    return response


def fragment(template: str, view: Any, **extra: Any) -> str:
    """The HTML of a view, or of a part of its page that the page fetches anew."""
    return render_template(template, view=view, status=view.status, **extra)


def event_stream(events: Iterable[str]) -> Response:
    """Server-sent events, which proxies neither keep nor hold back (X-Accel-Buffering is nginx's)."""
    response = private(Response(events, mimetype="text/event-stream"))
    response.headers["X-Accel-Buffering"] = "no"
    return response


def private(response: Response) -> Response:
    """The same answer, marked so that no cache keeps a copy."""
    response.headers["Cache-Control"] = "no-store"
    return response


def init(app: Flask, settings: DashboardSettings) -> None:
    """Install template filters and globals, and the compression of answers."""
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.filters.update(
        prlx=money.render,
        exact=money.exact,
        plain=money.plain,
        bps=money.percent,
        duration=money.duration,
        short=short_hex,
        utc=utc,
    )
    app.jinja_env.globals.update(
        how_text=HOW,
        nav=NAV,
        share=money.share,
        theme=theme,
        explorer=settings.explorer_url,
        ratio=ratio,
        full_bps=FULL_BPS,
        chart_data=chart_data,
        json_query=json_query,
        query_with=query_with,
    )
    app.after_request(_compress)


def theme() -> str:
    """The colour theme that the visitor chose, from a cookie."""
    chosen = request.cookies.get("theme", "auto")
    return chosen if chosen in THEMES else "auto"


def short_hex(text: str) -> Markup:
    """First and last letters of a hash or address; the title of the element holds all of it."""
    if len(text) <= 14:
        return Markup('<span class="mono">{}</span>').format(text)
    return Markup('<span class="mono" title="{}">{}\u2026{}</span>').format(text, text[:6], text[-4:])


def utc(seconds: int) -> Markup:
    """A moment as `<time>`, in UTC."""
    moment = time.gmtime(seconds)
    return Markup('<time datetime="{}">{}</time>').format(
        time.strftime("%Y-%m-%dT%H:%M:%SZ", moment), time.strftime("%d %b %Y %H:%M UTC", moment)
    )


def json_query() -> str:
    """The present query with `format=json`."""
    return urlencode({**request.args.to_dict(), "format": "json"})


def query_with(**changes: object) -> str:
    """The present query with some values changed."""
    return urlencode({**request.args.to_dict(), **{name: str(value) for name, value in changes.items()}})


def chart_data(epochs: Sequence[Any]) -> dict[str, list[Any]]:
    """Series of the earnings chart, oldest epoch first. Amounts are floats in PRLX: the length of a bar needs no 18 decimals."""
    ordered = sorted(epochs, key=lambda line: int(line.epoch))
    earned, lost = (
        [None if wei is None else wei / 10**money.DECIMALS for wei in amounts]
        for amounts in ([line.reward_wei for line in ordered], [line.lost_wei for line in ordered])
    )
    return {"epochs": [line.epoch for line in ordered], "earned": earned, "lost": lost}


def ratio(part: int | None, whole: int | None, size: int = 1000) -> int:
    """`part / whole` scaled to `size`, for the length of a bar; 0 when either is missing."""
    return min(size, part * size // whole) if part and whole else 0


def _compress(response: Response) -> Response:
    if (
        response.direct_passthrough
        or response.is_streamed
        or response.status_code < 200
        or response.status_code in (204, 304)
        or "Content-Encoding" in response.headers
        or not request.accept_encodings["gzip"]
        or (response.content_length or 0) < _COMPRESS_FROM
    ):
        return response
    response.set_data(gzip.compress(response.get_data(), 5))
    response.headers["Content-Encoding"] = "gzip"
    response.vary.add("Accept-Encoding")
    return response
