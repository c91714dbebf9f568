"""Health checks for supervisors, and the status line that pages fetch anew."""

from flask import Blueprint, Response, jsonify, render_template

from webapp.index import IndexUnavailableError
from webapp.sources.sources import Sources
from webapp.web.json_view import jsonable


def blueprint(sources: Sources) -> Blueprint:
    """`/health` (the process answers), `/ready` (the index can be read), `/fragments/status`."""
    routes = Blueprint("status", __name__)

    @routes.get("/health")
    def health() -> Response:
        return jsonify({"status": "ok"})

    @routes.get("/ready")
    def ready() -> tuple[Response, int]:
        try:
            return jsonify({"status": "ready", "index": jsonable(sources.present_status())}), 200
        except IndexUnavailableError as error:
            return jsonify({"status": "waiting", "reason": str(error)}), 503

    @routes.get("/fragments/status")
    def fragment() -> str:
        return render_template("status.html", status=sources.present_status())

    return routes
