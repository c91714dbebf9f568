"""The network page."""

from flask import Blueprint, Response

from webapp.sources.gateway import GatewayApi
from webapp.sources.sources import Sources
from webapp.store import Store
from webapp.views.network import NetworkPageBuilder
from webapp.web.rendering import fragment, page


def blueprint(sources: Sources, gateway: GatewayApi, store: Store) -> Blueprint:
    """`/`, and the part of it that the page fetches anew every ten seconds."""
    routes = Blueprint("network", __name__)
    builder = NetworkPageBuilder(sources, gateway, store)

    @routes.get("/", endpoint="page")
    def show() -> Response:
        return page("network.html", builder.view())

    @routes.get("/fragments/network", endpoint="fragment")
    def live() -> str:
        return fragment("network_live.html", builder.view())

    return routes
