"""The activity page, and its live feed as server-sent events."""

import threading
import time
from collections.abc import Iterator

from flask import Blueprint, Response, current_app, request
from jinja2 import Template

from webapp.index import IndexUnavailableError
from webapp.settings import DashboardSettings
from webapp.sources.sources import Sources
from webapp.views.activity import KINDS, EventFilters, activity_page, events_since
from webapp.web.rendering import event_stream, page
from webapp.web.url_params import epoch_of, node_id_of

STREAM_SECONDS = 55
"""A stream ends after this and the browser connects again, so that no thread is held for ever."""
_POLL_SECONDS = 1.0


def blueprint(sources: Sources, settings: DashboardSettings) -> Blueprint:
    """`/activity` and `/activity/stream`."""
    routes = Blueprint("activity", __name__)
    # Feeds hold at most half of the threads, so that pages are still served.
    seats = threading.BoundedSemaphore(max(1, settings.threads // 2))

    def filters() -> EventFilters:
        kind, node, epoch = (request.args.get(name, "") for name in ("kind", "node", "epoch"))
        number = epoch_of(epoch) if epoch else None
        return EventFilters(kind if kind in KINDS else None, node_id_of(node) if node else None, number)

    @routes.get("/activity")
    def show() -> Response:
        view = activity_page(sources, filters(), place_of(request.args.get("before")))
        return page("activity.html", view, kinds=tuple(KINDS))

    @routes.get("/activity/stream")
    def stream() -> Response:
        chosen = (
            filters()
        )  # before a seat is taken: a malformed filter raises, and would keep the seat for ever
        if not seats.acquire(blocking=False):
            return Response("too many feeds are open", 503, {"Retry-After": "10"}, mimetype="text/plain")
        # Not render_template: the feed goes on after its request's context has ended.
        row = current_app.jinja_env.get_template("activity_row.html")
        last, after = request.headers.get("Last-Event-ID"), request.args.get("after")
        start = place_of(last) or place_of(after) or (2**62, 0)
        response = event_stream(_feed(sources, row, start, chosen))
        response.call_on_close(seats.release)
        return response

    return routes


def _feed(sources: Sources, row: Template, place: tuple[int, int], filters: EventFilters) -> Iterator[str]:
    # A feed ends by itself every 55 s; the browser then comes back after one second.
    yield "retry: 1000\n\n"
    end = time.monotonic() + STREAM_SECONDS
    while time.monotonic() < end:
        try:
            lines = events_since(sources, filters, place)
        # The feed outlives a keeper's restart; ending it would have every browser connect anew each second.
        except IndexUnavailableError:
            lines = []
        for line in lines:
            place = place_of(line.place) or place
            html = row.render(line=line).replace("\n", " ")
            yield f"event: activity\nid: {line.place}\ndata: {html}\n\n"
        if not lines:
            yield ": quiet\n\n"  # a comment; writing it fails once the browser has gone, which ends the feed
        time.sleep(_POLL_SECONDS)


def place_of(text: str | None) -> tuple[int, int] | None:
    """Block and log index of a place such as `90040.3`; None for any other text."""
    block, dot, index = (text or "").partition(".")
    if (
        dot
        and block.isascii()
        and block.isdigit()
        and index.isascii()
        and index.isdigit()
        and len(block) < 16
        and len(index) < 10
    ):
        return int(block), int(index)
    return None
