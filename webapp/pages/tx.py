"""`/tx/<hash>`: a transaction as the chain shows it now, refreshed until the index has its block."""

import re

from flask import Blueprint, Response

from webapp.sources.sources import Sources
from webapp.views.transactions import TransactionReader
from webapp.web.errors import PageError
from webapp.web.rendering import fragment, page

_HASH = re.compile(r"0x[0-9a-f]{64}")


def blueprint(sources: Sources) -> Blueprint:
    """`/tx/<hash>`, and the part of it that the page fetches anew every second."""
    routes = Blueprint("tx", __name__)
    reader = TransactionReader(sources)

    def checked(text: str) -> str:
        if not _HASH.fullmatch(text.lower()):
            advice = "A transaction is 0x and 64 hexadecimal digits."
            raise PageError(400, "That is not a transaction", advice)
        return text.lower()

    @routes.get("/tx/<text>")
    def show(text: str) -> Response:
        return page("tx.html", reader.view(checked(text)))

    @routes.get("/fragments/tx/<text>", endpoint="fragment")
    def live(text: str) -> str:
        return fragment("tx_live.html", reader.view(checked(text)))

    return routes
