"""The page of one operator's nodes."""

from flask import Blueprint, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from webapp.pages.ask_address import PUBLIC, ask_address
from webapp.sources.sources import Sources
from webapp.views.operator import operator_page
from webapp.web.rendering import page
from webapp.web.url_params import WINDOWS, address_of, window


def blueprint(sources: Sources) -> Blueprint:
    """`/operators` asks for an address, `/operators/<address>` shows it."""
    routes = Blueprint("operator", __name__)

    @routes.get("/operators")
    def find() -> AnyResponse:
        return ask_address(sources, "My nodes", PUBLIC, "operator.show")

    @routes.get("/operators/<text>")
    def show(text: str) -> AnyResponse:
        address = address_of(text)
        if address != text and "format" not in request.args:
            query = f"?{request.query_string.decode()}" if request.query_string else ""
            return redirect(url_for("operator.show", text=address) + query, 301)
        return page("operator.html", operator_page(sources, address, window()), windows=WINDOWS)

    return routes
