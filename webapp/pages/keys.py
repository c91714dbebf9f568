"""Usage of a gateway's API key, by day. The visitor types the key; the dashboard never keeps it."""

from dataclasses import dataclass

from flask import Blueprint, Response, request

from webapp.sources.gateway import GatewayApi, GatewayUnavailableError, UsageLine
from webapp.sources.sources import Sources
from webapp.sources.status import Status
from webapp.web.rendering import page, private
from webapp.web.url_params import api_key_of


@dataclass(frozen=True, slots=True)
class KeysView:
    """The page; `tenant` is None until a key was given that the gateway accepts."""

    status: Status
    present: bool
    tenant: str | None
    usage: list[UsageLine]
    problem: str | None


def blueprint(sources: Sources, gateway: GatewayApi) -> Blueprint:
    """`/keys`: the page, and the POST of its form."""
    routes = Blueprint("keys", __name__)

    @routes.get("/keys")
    def show() -> Response:
        return answer(None, [], None)

    @routes.post("/keys")
    def look() -> Response:
        key = api_key_of(request.form.get("key", "").strip())
        if not key:
            return answer(None, [], "Give a key.")
        try:
            tenant, usage = gateway.usage(key)
        except GatewayUnavailableError as error:
            return answer(None, [], f"{error}.")
        return answer(tenant, usage, None)

    def answer(tenant: str | None, usage: list[UsageLine], problem: str | None) -> Response:
        view = KeysView(sources.present_status(), gateway.present, tenant, usage, problem)
        return private(page("keys.html", view))

    return routes
