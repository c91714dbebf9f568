"""Registration of a node in four steps: tier, stake, key, sign. The URL of a step holds all earlier choices."""

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from webapp.sources.sources import Sources
from webapp.views.register import RegisterView, parse_key, parse_stake, register_step
from webapp.web.rendering import fragment, page


def blueprint(sources: Sources) -> Blueprint:
    """`/register`, `/register/stake`, `/register/key`, `/register/sign`."""
    routes = Blueprint("register", __name__)

    def view_of(step: str) -> RegisterView:
        tier_text, stake_text, key_text = (request.args.get(name, "") for name in ("tier", "stake", "key"))
        tier = int(tier_text) if tier_text in {"1", "2", "3", "4"} else None
        stake, key = parse_stake(stake_text), parse_key(key_text)
        problem = None
        if stake_text and stake is None:
            problem = "stake_bad"
        elif key_text and key is None:
            problem = "key_bad"
        return register_step(sources, step, tier, stake, key, problem)

    @routes.get("/register")
    def tier() -> Response:
        return page("register_tier.html", view_of("tier"))

    @routes.get("/register/stake")
    def stake() -> AnyResponse:
        view = view_of("stake")
        if view.tier is None:
            return redirect(url_for("register.tier"))
        return page("register_stake.html", view)

    @routes.get("/register/key")
    def key() -> AnyResponse:
        view = view_of("key")
        if view.tier is None:
            return redirect(url_for("register.tier"))
        if view.problem in ("stake_low", "stake_bad") or "stake" not in request.args:
            return page("register_stake.html", view)
        return page("register_key.html", view)

    @routes.get("/register/sign")
    def sign() -> AnyResponse:
        view = view_of("sign")
        if view.tier is None or "stake" not in request.args:
            return redirect(url_for("register.tier"))
        if view.problem in ("stake_low", "stake_bad"):
            return page("register_stake.html", view)
        if view.key_hash is None or view.problem:
            return page("register_key.html", view)
        return page("register_sign.html", view)

    @routes.get("/fragments/register/preview")
    def preview() -> str:
        return fragment("register_preview.html", view_of("stake"))

    return routes
