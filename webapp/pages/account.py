"""The account page, private to the address that signed in: its nodes, its notifications and their delivery record."""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, jsonify, redirect, request, session, url_for
from werkzeug.wrappers import Response as AnyResponse

from webapp.auth.sign_in import SignInService
from webapp.index import NodeRow
from webapp.notify.senders import webhook_url_problem
from webapp.settings import DashboardSettings
from webapp.sources.sources import Sources
from webapp.sources.status import Status
from webapp.store import EVENTS, Channel, Delivery, Store
from webapp.web.errors import PageError
from webapp.web.rendering import page, private
from webapp.web.url_params import address_of

# Narrower than RFC 5322 on purpose: no quotes or comments, and nothing that could end a header.
_MAIL = re.compile(r"[^@\s<>\"',;:\\]{1,64}@[A-Za-z0-9.-]{1,190}\.[A-Za-z]{2,24}")


@dataclass(frozen=True, slots=True)
class AccountView:
    """The account page; `address` is None while nobody is signed in."""

    status: Status
    address: str | None
    nodes: list[NodeRow]
    channels: Sequence[dict[str, Any]]
    deliveries: Sequence[dict[str, Any]]
    mail: bool
    problem: str | None


def blueprint(sources: Sources, store: Store, settings: DashboardSettings) -> Blueprint:
    """`/account` and its forms; each POST needs the CSRF token."""
    routes = Blueprint("account", __name__, url_prefix="/account")
    account = _Account(sources, store, settings)
    routes.add_url_rule("", "show", account.page, methods=["GET"])
    for path, endpoint, view in (
        ("/message", "message", account.message),
        ("/sign-in", "sign_in", account.sign_in),
        ("/sign-out", "sign_out", account.sign_out),
        ("/channels", "add", account.add),
        ("/channels/<int:channel_id>/remove", "remove", account.remove),
    ):
        routes.add_url_rule(path, endpoint, view, methods=["POST"])
    return routes


class _Account:
    """The views behind the routes. The cookie holds a random token; the store knows whose it is."""

    def __init__(self, sources: Sources, store: Store, settings: DashboardSettings) -> None:
        self._sources = sources
        self._store = store
        self._settings = settings
        self._sign_ins = SignInService(store, sources.deployment.chain_id)

    def message(self) -> Response:
        """The text that the wallet is asked to sign."""
        address = address_of(str((request.get_json(silent=True) or {}).get("address", "")))
        nonce, text = self._sign_ins.message(origin(self._settings), _browser(), address)
        return private(jsonify({"nonce": nonce, "message": text}))

    def sign_in(self) -> Response:
        data = request.get_json(silent=True) or {}
        nonce, signature = (str(data.get(name, "")) for name in ("nonce", "signature"))
        token = self._sign_ins.sign_in(origin(self._settings), nonce, _browser(), signature)
        if token is None:
            advice = "Sign the message again, with the same wallet."
            raise PageError(403, "That signature does not prove the address", advice)
        session.clear()  # a cookie from before the sign-in could be known to somebody else
        session["token"] = token
        return private(jsonify({"ok": True}))

    def sign_out(self) -> AnyResponse:
        if token := session.get("token"):
            self._store.sign_out(token)
        session.clear()
        return redirect(url_for("account.show"))

    def add(self) -> AnyResponse | tuple[AnyResponse, int]:
        address = self._signed_in()
        kind, target = request.form.get("kind", ""), request.form.get("target", "").strip()
        events = [event for event in request.form.getlist("events") if event in EVENTS]
        problem = _problem(kind, target, events, self._settings)
        if problem is None and self._store.add_channel(address, kind, target, events) is None:
            problem = "There are ten already; remove one first."
        if problem is not None:
            return self.page(problem), 400
        return redirect(url_for("account.show"))

    def remove(self, channel_id: int) -> AnyResponse:
        if not self._store.remove_channel(self._signed_in(), channel_id):
            raise PageError(404, "There is no such channel", "It may have been removed already.")
        return redirect(url_for("account.show"))

    def _signed_in(self) -> str:
        """The address that is signed in. Raises PageError 403 when none is."""
        address = self._store.signed_in(session.get("token"))
        if address is None:
            raise PageError(403, "Sign in first", "Connect the wallet on the account page and sign in.")
        return address

    def page(self, problem: str | None = None) -> Response:
        address = self._store.signed_in(session.get("token"))
        with self._sources.open() as (snapshot, _, status):
            nodes = snapshot.nodes_of(address) if address else []
        channels = [_channel(channel) for channel in self._store.channels(address)] if address else []
        deliveries = [_delivery(*pair) for pair in self._store.deliveries(address)] if address else []
        mail = self._settings.smtp_url is not None
        view = AccountView(status, address, nodes, channels, deliveries, mail, problem)
        return private(page("account.html", view, events=EVENTS))


def _browser() -> str:
    """A random id of the browser, kept in its cookie: a message that one browser asked for signs in no other."""
    if "browser" not in session:
        session["browser"] = secrets.token_urlsafe(24)
    return str(session["browser"])


def _channel(channel: Channel) -> dict[str, Any]:
    return {name: getattr(channel, name) for name in ("id", "kind", "target", "secret", "events")}


def _delivery(delivery: Delivery, channel: Channel) -> dict[str, Any]:
    names = ("id", "event", "status", "attempts", "next_at", "created_at")
    return {name: getattr(delivery, name) for name in names} | {
        "text": delivery.body["text"],
        "result": delivery.last_result,
        "target": channel.target,
    }


def origin(settings: DashboardSettings) -> str:
    """Origin that sign-ins are bound to: the configured one, or the loopback address that the browser uses.

    Raises:
        PageError: no origin is configured and the Host header names another host than this one.
    """
    if settings.public_url is not None:
        parts = urlsplit(settings.public_url)
        return f"{parts.scheme}://{parts.netloc}"
    host = request.host.rpartition(":")[0] if request.host.rpartition(":")[2].isdigit() else request.host
    # Any other Host header could be an attacker's: a message signed for that origin would be accepted here.
    if host not in {"127.0.0.1", "localhost", "[::1]", settings.host}:
        advice = "Its operator sets public_url to it."
        raise PageError(400, "This dashboard does not know its own address", advice)
    return f"{request.scheme}://{request.host}"


def _problem(kind: str, target: str, events: list[str], settings: DashboardSettings) -> str | None:
    if not events:
        return "Choose at least one event."
    if kind == "webhook":
        return webhook_url_problem(target)
    if kind == "email" and settings.smtp_url is not None:
        return None if _MAIL.fullmatch(target) else "That is not an e-mail address."
    return "Choose a webhook or e-mail."
