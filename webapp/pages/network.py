"""The network page."""

from flask import Blueprint, Response, render_template

from webapp.sources.gateway import GatewayApi
from webapp.sources.sources import Sources
from webapp.store import Store
from webapp.views.network import NetworkService
from webapp.web.rendering import page


def blueprint(desk: Sources, gateway: GatewayApi, store: Store) -> Blueprint:
    """`/`, its JSON twin, and the live part that the page asks for every few seconds."""
    routes = Blueprint("network", __name__)
    service = NetworkService(desk, gateway, store)

    @routes.get("/", endpoint="page")
    def show() -> Response:
        return page("network.html", service.view())

    @routes.get("/fragments/network")
    def fragment() -> str:
        view = service.view()
        return render_template("network_live.html", view=view, status=view.status)

    return routes
