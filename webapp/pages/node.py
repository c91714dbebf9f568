"""The page of a node, and of a node in one epoch."""

from flask import Blueprint, Response, render_template

from webapp.sources.gateway import GatewayApi, GatewayUnavailableError
from webapp.sources.sources import Sources
from webapp.store import Store
from webapp.views.evidence import NodeEpochPageBuilder
from webapp.views.node import node_page
from webapp.web.rendering import page
from webapp.web.url_params import WINDOWS, epoch_of, node_id_of, window


def blueprint(sources: Sources, gateway: GatewayApi, store: Store) -> Blueprint:
    """`/nodes/<id>`, `/nodes/<id>/epochs/<number>`, and the fragment that shows the node as the gateway sees it."""
    routes = Blueprint("node", __name__)
    evidence = NodeEpochPageBuilder(sources)

    @routes.get("/nodes/<text>")
    def show(text: str) -> Response:
        view = node_page(sources, store, node_id_of(text), window())
        return page("node.html", view, windows=WINDOWS, has_gateway=gateway.present)

    @routes.get("/fragments/nodes/<text>/gateway")
    def at_gateway(text: str) -> str:
        try:
            load, problem = gateway.node(node_id_of(text)), ""
        except GatewayUnavailableError as error:
            load, problem = None, str(error)
        return render_template("node_gateway.html", load=load, problem=problem)

    @routes.get("/nodes/<text>/epochs/<number>")
    def epoch(text: str, number: str) -> Response:
        return page("node_epoch.html", evidence.view(node_id_of(text), epoch_of(number)))

    return routes
