"""The form that asks for an address, in front of the pages of an address's nodes, earnings and credits."""

from dataclasses import dataclass

from flask import redirect, request, url_for
from werkzeug.wrappers import Response

from webapp.sources.sources import Sources
from webapp.sources.status import Status
from webapp.web.rendering import page
from webapp.web.url_params import address_of

PUBLIC = "Everything here is public: give any address and see its nodes, uptime and earnings. No wallet is needed to read."


@dataclass(frozen=True, slots=True)
class _AskView:
    status: Status


def ask_address(sources: Sources, title: str, lede: str, target: str) -> Response:
    """The form; or, when `?address=` gives an address, a redirect to the endpoint `target` of that address.

    Raises:
        PageError: the text given is no address.
    """
    asked = request.args.get("address", "").strip()
    if asked:
        return redirect(url_for(target, text=address_of(asked)))
    return page("ask_address.html", _AskView(sources.present_status()), title=title, lede=lede)
