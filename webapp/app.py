"""The application factory. It opens no connection: gunicorn forks its workers after the application is made."""

import time
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, g, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_talisman import Talisman
from flask_wtf import CSRFProtect

from offchain.chain.deployment import Deployment
from webapp.index import Index
from webapp.notify import Notifier
from webapp.pages import (
    account,
    activity,
    api,
    credit,
    earnings,
    keys,
    network,
    node,
    operator,
    playground,
    register,
    status,
    tx,
)
from webapp.settings import DashboardSettings
from webapp.sources.chain import ChainSource
from webapp.sources.epoch_facts import EpochFacts
from webapp.sources.gateway import GatewayApi
from webapp.sources.sources import Sources
from webapp.store import Store
from webapp.store.store import SIGN_IN_SECONDS, secret_key
from webapp.web import errors, rendering, static_assets

_OWN = ["script-src", "style-src", "font-src", "connect-src", "form-action", "manifest-src"]
CSP = {
    **dict.fromkeys(("default-src", "base-uri", "frame-ancestors"), "'none'"),
    **dict.fromkeys(_OWN, "'self'"),
    "img-src": "'self' data:",  # data: for the wallets' icons, which come over EIP-6963
}
LIMITED = ["account.message", "account.sign_in", "account.add", "playground.chat", "keys.look", "api.appeal"]
"""Endpoints that one remote address may call 30 times a minute; pages that only read are not limited."""


def create_app(settings: DashboardSettings, *, clock: Callable[[], float] = time.time) -> Flask:
    """The dashboard as a WSGI application; `clock` gives Unix seconds.

    Raises:
        UserError: the deployment file, the database URL or the built assets are missing or wrong.
    """
    deployment = Deployment.load(settings.deployment)
    chain = ChainSource(settings.rpc_url, deployment, settings.rpc_timeout_seconds)
    index, epochs = Index(settings.database_url), deployment.clock()
    sources = Sources(deployment, epochs, index, chain, EpochFacts(chain, epochs), clock)
    store = Store(settings.data_dir, clock)
    app = Flask("webapp", static_folder=None)
    app.extensions["sources"] = sources
    app.extensions["store"] = store
    app.extensions["notifier"] = Notifier(sources, store, settings)
    static_assets.init(app, settings.assets_dir)
    # Flask runs after_request hooks in reverse: compression is installed first, so that it runs last.
    rendering.init(app, settings)
    errors.init(app)
    limiter = _protect(app, settings)
    app.before_request(_start_timer)
    app.after_request(_server_timing)
    _register_pages(app, sources, store, settings)
    for endpoint in LIMITED:
        limited: Any = limiter.limit("30 per minute")(app.view_functions[endpoint])
        app.view_functions[endpoint] = limited
    return app


def _protect(app: Flask, settings: DashboardSettings) -> Limiter:
    """Cookies, CSRF tokens, the content security policy, and the limiter of calls by remote address."""
    app.config.update(
        # The largest body that a page sends is an appeal: 288 packed answers are 137 KB of base64 (ADR 0063).
        MAX_CONTENT_LENGTH=256 * 1024,
        SESSION_COOKIE_HTTPONLY=True,
        # Not Strict: a link from another site would then open the account page signed out.
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_NAME="parallelix_session",
        # The browser drops the cookie when it closes; Flask refuses one that was signed longer ago.
        PERMANENT_SESSION_LIFETIME=SIGN_IN_SECONDS,
        SECRET_KEY=secret_key(settings.data_dir),
        WTF_CSRF_TIME_LIMIT=None,  # tokens end with the session; a page left open overnight still works
        WTF_CSRF_SSL_STRICT=True,
        # Each worker counts for itself: the bound is `workers` times as high, and no Redis is needed.
        RATELIMIT_STORAGE_URI="memory://",
        RATELIMIT_HEADERS_ENABLED=True,
    )
    CSRFProtect(app)
    secure = bool(settings.public_url and settings.public_url.startswith("https://"))
    Talisman(
        app,
        force_https=False,  # the proxy in front ends TLS, and health checks come without it
        strict_transport_security=secure,
        session_cookie_secure=secure,
        content_security_policy=CSP,
        content_security_policy_nonce_in=["script-src"],
        referrer_policy="no-referrer",
        permissions_policy={"camera": "()", "geolocation": "()", "microphone": "()", "browsing-topics": "()"},
    )
    return Limiter(get_remote_address, app=app)


def _register_pages(app: Flask, sources: Sources, store: Store, settings: DashboardSettings) -> None:
    gateway = GatewayApi(settings.gateway_url, settings.gateway_api_key_file)
    for routes in (
        network.blueprint(sources, gateway, store),
        node.blueprint(sources, gateway, store),
        *(module.blueprint(sources) for module in (operator, earnings, credit, register, tx, status)),
        activity.blueprint(sources, settings),
        account.blueprint(sources, store, settings),
        playground.blueprint(sources, gateway),
        keys.blueprint(sources, gateway),
        api.blueprint(sources, settings),
    ):
        app.register_blueprint(routes)


def _start_timer() -> None:
    g.started = time.perf_counter()


def _server_timing(response: Response) -> Response:
    if (started := g.get("started")) is not None:
        response.headers["Server-Timing"] = f"app;dur={(time.perf_counter() - started) * 1000:.1f}"
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    if not request.path.startswith(static_assets.PREFIX):
        response.headers.setdefault("Cache-Control", "no-cache")
    return response
