"""Failures as pages that say what is wrong and what to do, or as JSON for programs."""

from flask import Flask, Response, jsonify, render_template
from werkzeug.exceptions import HTTPException

from webapp.index import IndexUnavailableError, NodeRow, Snapshot
from webapp.web.rendering import wants_json


class PageError(Exception):
    """A page that cannot be shown.

    Attributes:
        status: HTTP status.
        title: what is wrong, e.g. "There is no node 7".
        advice: what to do, one sentence.
    """

    def __init__(self, status: int, title: str, advice: str) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.advice = advice


def known_node(snapshot: Snapshot, node_id: int) -> NodeRow:
    """A node of the index. Raises PageError 404 when it was never registered."""
    if (node := snapshot.node(node_id)) is None:
        advice = "Ids are given in order of registration; try a lower one."
        raise PageError(404, f"There is no node {node_id}", advice)
    return node


_TITLES = {
    400: ("The request is malformed", "Go back and try again from the page."),
    403: ("This is not yours to see", "Sign in with the wallet that owns it."),
    404: ("There is no such page", "Check the address, or start from the network page."),
    405: ("That does not work here", "Go back and use the page's own buttons."),
    413: ("That is too large", "Send less at once."),
    429: ("Too many requests", "Wait a minute, then try again."),
    500: ("Something broke on our side", "Try again; if it stays, the dashboard's log has the details."),
}


def init(app: Flask) -> None:
    """Install the error handlers."""
    app.register_error_handler(PageError, answer)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(IndexUnavailableError, _no_index)


def answer(problem: PageError) -> tuple[Response, int]:
    """The problem as a page or as JSON."""
    if wants_json():
        return jsonify({"error": {"message": problem.title, "advice": problem.advice}}), problem.status
    body = render_template("problem.html", problem=problem, status=None)
    return Response(body, mimetype="text/html"), problem.status


def _http(error: HTTPException) -> tuple[Response, int] | HTTPException:
    code = error.code or 500
    if code < 400:
        return error
    title, advice = _TITLES.get(code, (error.name, "Go back and try again."))
    return answer(PageError(code, title, advice))


def _no_index(error: IndexUnavailableError) -> tuple[Response, int]:
    advice = f"{error}. A keeper makes it: start one, then reload this page."
    response, code = answer(PageError(503, "The index is not there yet", advice))
    response.headers["Retry-After"] = "5"
    return response, code
