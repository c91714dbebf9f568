"""The page of a payer's credits in the vault."""

from flask import Blueprint, Response
from werkzeug.wrappers import Response as AnyResponse

from webapp.pages.ask_address import ask_address
from webapp.sources.sources import Sources
from webapp.views.credits import credits_of
from webapp.web.rendering import page
from webapp.web.url_params import address_of

LEDE = "What an account has prepaid for API traffic. It is public: give any address. No wallet is needed to read."


def blueprint(sources: Sources) -> Blueprint:
    """`/credits` asks for an address, `/credits/<address>` shows its account."""
    routes = Blueprint("credits", __name__)

    @routes.get("/credits")
    def find() -> AnyResponse:
        return ask_address(sources, "Credits", LEDE, "credits.show")

    @routes.get("/credits/<text>")
    def show(text: str) -> Response:
        return page("credits.html", credits_of(sources, address_of(text)))

    return routes
