"""The earnings page of an operator, and its exports."""

from urllib.parse import urlencode

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from webapp.pages.ask_address import PUBLIC, ask_address
from webapp.sources.sources import Sources
from webapp.views.earnings import Stage
from webapp.views.earnings.page import PAGE_ROWS, Filters, csv_lines, earnings_page
from webapp.web.errors import PageError
from webapp.web.rendering import page, wants_json
from webapp.web.url_params import address_of, epoch_of, node_id_of

EXPORT_ROWS = 1_000_000


def blueprint(sources: Sources) -> Blueprint:
    """`/earnings`, `/operators/<address>/earnings` and `.../earnings.csv`, `.../earnings.json`."""
    routes = Blueprint("earnings", __name__)

    @routes.get("/earnings")
    def find() -> AnyResponse:
        return ask_address(sources, "Earnings", PUBLIC, "earnings.show")

    @routes.get("/operators/<text>/earnings")
    def show(text: str) -> Response:
        text_page = request.args.get("page", "1")
        number = int(text_page) if text_page.isascii() and text_page.isdigit() and len(text_page) < 7 else 1
        rows = EXPORT_ROWS if wants_json() else PAGE_ROWS
        view = earnings_page(sources, address_of(text), filters(), number, rows)
        return page("earnings.html", view, stages=[stage.value for stage in Stage])

    @routes.get("/operators/<text>/earnings.<kind>")
    def export(text: str, kind: str) -> AnyResponse:
        if kind not in ("csv", "json"):
            raise PageError(404, "There is no such export", "Exports are earnings.csv and earnings.json.")
        address = address_of(text)
        if kind == "json":
            query = urlencode({**request.args.to_dict(), "format": "json"})
            return redirect(url_for("earnings.show", text=address) + "?" + query)
        view = earnings_page(sources, address, filters(), rows=EXPORT_ROWS)
        response = Response(csv_lines(view, sources.clock), mimetype="text/csv")
        name = f"parallelix-{address[:10]}-epochs-{view.first_epoch}-{view.last_epoch}.csv"
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        return response

    return routes


def filters() -> Filters:
    """Filters of the query; an empty field sets no limit. Raises PageError for a malformed field."""
    first, last, node, stage = (
        request.args.get(name, "").strip() for name in ("from", "to", "node", "stage")
    )
    if stage and stage not in {item.value for item in Stage}:
        raise PageError(400, "There is no such stage", "Choose one from the list.")
    return Filters(
        epoch_of(first) if first else None,
        epoch_of(last) if last else None,
        node_id_of(node) if node else None,
        stage or None,
    )
