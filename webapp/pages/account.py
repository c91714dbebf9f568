"""Account: sign in with the wallet, notifications, what is paid to whom. Private to the address that signed."""

import re
import secrets
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
from webapp.store import EVENTS, Store
from webapp.web.errors import PageError
from webapp.web.rendering import page, private
from webapp.web.url_params import address_of

_MAIL = re.compile(r"[^@\s<>\"',;:\\]{1,64}@[A-Za-z0-9.-]{1,190}\.[A-Za-z]{2,24}")


@dataclass(frozen=True, slots=True)
class AccountView:
    """The account page; `address` is None while nobody is signed in."""

    status: Status
    address: str | None
    nodes: list[NodeRow]
    channels: list[dict[str, Any]]
    deliveries: list[dict[str, Any]]
    mail: bool
    problem: str | None


def blueprint(sources: Sources, store: Store, settings: DashboardSettings) -> Blueprint:
    """`/account` and its forms; each POST needs the CSRF token."""
    routes = Blueprint("account", __name__, url_prefix="/account")
    service = SignInService(store, sources.deployment.chain_id)

    def browser() -> str:
        if "browser" not in session:
            session["browser"] = secrets.token_urlsafe(24)
        return str(session["browser"])

    def who() -> str:
        address = store.signed_in(session.get("token"))
        if address is None:
            raise PageError(403, "Sign in first", "Connect the wallet on the account page and sign in.")
        return address

    def view(problem: str | None = None) -> AccountView:
        address = store.signed_in(session.get("token"))
        with sources.open() as (snapshot, _, status):
            nodes = snapshot.nodes_of(address) if address else []
        channels = [
            {"id": c.id, "kind": c.kind, "target": c.target, "secret": c.secret, "events": c.events}
            for c in (store.channels(address) if address else [])
        ]
        deliveries = [
            {
                "id": d.id,
                "event": d.event,
                "text": d.body["text"],
                "status": d.status,
                "attempts": d.attempts,
                "next_at": d.next_at,
                "result": d.last_result,
                "created_at": d.created_at,
                "target": c.target,
            }
            for d, c in (store.deliveries(address) if address else [])
        ]
        return AccountView(
            status, address, nodes, channels, deliveries, settings.smtp_url is not None, problem
        )

    @routes.get("")
    def show() -> Response:
        return private(page("account.html", view(), events=EVENTS))

    @routes.post("/message")
    def message() -> Response:
        address = address_of(str((request.get_json(silent=True) or {}).get("address", "")))
        nonce, text = service.message(origin(settings), browser(), address)
        return private(jsonify({"nonce": nonce, "message": text}))

    @routes.post("/sign-in")
    def sign_in() -> Response:
        data = request.get_json(silent=True) or {}
        nonce, signature = (str(data.get(name, "")) for name in ("nonce", "signature"))
        token = service.sign_in(origin(settings), nonce, browser(), signature)
        if token is None:
            raise PageError(
                403,
                "That signature does not prove the address",
                "Sign the message again, with the same wallet.",
            )
        session.clear()  # nothing from before the proof is trusted after it
        session["token"] = token
        return private(jsonify({"ok": True}))

    @routes.post("/sign-out")
    def sign_out() -> AnyResponse:
        if token := session.get("token"):
            store.sign_out(token)
        session.clear()
        return redirect(url_for("account.show"))

    @routes.post("/channels")
    def add() -> AnyResponse:
        address = who()
        kind, target = request.form.get("kind", ""), request.form.get("target", "").strip()
        events = [event for event in request.form.getlist("events") if event in EVENTS]
        problem = _problem(kind, target, events, settings)
        if problem is None and store.add_channel(address, kind, target, events) is None:
            problem = "There are ten already; remove one first."
        if problem is not None:
            refused = private(page("account.html", view(problem), events=EVENTS))
            refused.status_code = 400
            return refused
        return redirect(url_for("account.show"))

    @routes.post("/channels/<int:channel_id>/remove")
    def remove(channel_id: int) -> AnyResponse:
        if not store.remove_channel(who(), channel_id):
            raise PageError(404, "There is no such channel", "It may have been removed already.")
        return redirect(url_for("account.show"))

    return routes


def origin(settings: DashboardSettings) -> str:
    """Origin that sign-ins are bound to: the configured one, or the loopback address that the browser uses.

    Raises:
        PageError: the Host header names anything else.
    """
    if settings.public_url is not None:
        parts = urlsplit(settings.public_url)
        return f"{parts.scheme}://{parts.netloc}"
    host = request.host.rpartition(":")[0] if request.host.rpartition(":")[2].isdigit() else request.host
    if host not in {"127.0.0.1", "localhost", "[::1]", settings.host}:
        raise PageError(
            400, "This dashboard does not know its own address", "Its operator sets public_url to it."
        )
    return f"{request.scheme}://{request.host}"


def _problem(kind: str, target: str, events: list[str], settings: DashboardSettings) -> str | None:
    if not events:
        return "Choose at least one event."
    if kind == "webhook":
        return webhook_url_problem(target)
    if kind == "email" and settings.smtp_url is not None:
        return None if _MAIL.fullmatch(target) else "That is not an e-mail address."
    return "Choose how to be told."
