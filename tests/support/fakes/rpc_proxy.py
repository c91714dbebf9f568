"""A JSON-RPC endpoint that can be made to fail: it forwards to a real one and spoils what passes, as told.

A fault is a function of the method, its parameters and a way to ask the real endpoint. It answers, raises `RefusalError` (a
JSON-RPC error), or raises `DroppedError` (the connection ends without an answer).
"""

import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

Forward = Callable[[], Any]
Fault = Callable[[str, list[Any], Forward], Any]


class DroppedError(Exception):
    """The connection ends without an answer."""


class RefusalError(Exception):
    """The endpoint answers with a JSON-RPC error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class RpcProxy:
    """A running proxy. Set `fault` at any time; `calls` counts by method."""

    def __init__(self, upstream: str) -> None:
        self.fault: Fault = honest
        self.raw_answer: tuple[int, bytes] | None = None
        """An HTTP status and body to give instead of anything else."""
        self.calls: Counter[str] = Counter()
        self._http = httpx.Client(timeout=30, trust_env=False)
        self._upstream = upstream
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                try:
                    status, content = proxy._answer(body)
                except DroppedError:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_arguments: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def serve(self) -> None:
        """Answer until `close`."""
        self._server.serve_forever(poll_interval=0.02)

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._http.close()

    def _answer(self, body: bytes) -> tuple[int, bytes]:
        if self.raw_answer is not None:
            return self.raw_answer
        request = json.loads(body)
        answers = [self._one(item) for item in (request if isinstance(request, list) else [request])]
        return 200, json.dumps(answers if isinstance(request, list) else answers[0]).encode()

    def _one(self, item: dict[str, Any]) -> dict[str, Any]:
        self.calls[item["method"]] += 1
        try:
            result = self.fault(item["method"], item["params"], lambda: self._forward(item))
        except RefusalError as refusal:
            error: dict[str, Any] = {"code": refusal.code, "message": refusal.message}
            if isinstance(refusal, _UpstreamError):
                error = refusal.error
            return {"jsonrpc": "2.0", "id": item["id"], "error": error}
        return {"jsonrpc": "2.0", "id": item["id"], "result": result}

    def _forward(self, item: dict[str, Any]) -> Any:
        answer = self._http.post(self._upstream, json=item).json()
        if "error" in answer:
            raise _UpstreamError(answer["error"])
        return answer["result"]


class _UpstreamError(RefusalError):
    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["code"], error["message"])
        self.error = error


@contextmanager
def start_rpc_proxy(upstream: str) -> Iterator[RpcProxy]:
    """Run a proxy on a free port of loopback until the block ends."""
    proxy = RpcProxy(upstream)
    thread = threading.Thread(target=proxy.serve)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()


# ----------------------------------------------------------------------------------------------------------- faults


def honest(_method: str, _params: list[Any], forward: Forward) -> Any:
    """Pass everything on."""
    return forward()


def drops(method: str, params: list[Any], forward: Forward) -> Any:
    """End every connection without an answer, before anything reaches the chain."""
    raise DroppedError


def hangs(until: threading.Event, *methods: str) -> Fault:
    """Take calls, pass them on, and answer only when the event is set; all methods when none is named."""

    def fault(method: str, _params: list[Any], forward: Forward) -> Any:
        result = forward()
        if not methods or method in methods:
            until.wait(60)
        return result

    return fault


def drops_answers_to(*methods: str) -> Fault:
    """Pass calls on, but lose the answers to some: what was asked for has happened all the same."""

    def fault(method: str, _params: list[Any], forward: Forward) -> Any:
        try:
            return forward()
        finally:
            if method in methods:
                raise DroppedError

    return fault


def truncates(keep: int) -> Fault:
    """Give at most so many logs at once, without saying so."""

    def fault(method: str, _params: list[Any], forward: Forward) -> Any:
        result = forward()
        return result[:keep] if method == "eth_getLogs" else result

    return fault


def changes_logs(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Fault:
    """Give the first log of every answer changed."""

    def fault(method: str, _params: list[Any], forward: Forward) -> Any:
        result = forward()
        if method == "eth_getLogs" and result:
            return [change(result[0]), *result[1:]]
        return result

    return fault


def lags(head: int) -> Fault:
    """Know nothing above a height."""

    def fault(method: str, params: list[Any], forward: Forward) -> Any:
        if method == "eth_blockNumber":
            return hex(head)
        if method == "eth_getBlockByNumber" and params[0] in ("latest", "pending"):
            params[0] = hex(head)
        if method == "eth_getTransactionCount" and params[1] == "latest":
            params[1] = hex(head)
        if method == "eth_getLogs" and "toBlock" in params[0]:
            params[0]["toBlock"] = hex(min(head, int(params[0]["toBlock"], 16)))
            if int(params[0]["fromBlock"], 16) > head:
                return []
        result = forward()
        if method == "eth_getBlockByNumber" and result is not None and int(result["number"], 16) > head:
            return None
        if (
            method == "eth_getTransactionReceipt"
            and result is not None
            and int(result["blockNumber"], 16) > head
        ):
            return None
        return result

    return fault


def refuses_ranges_over(blocks: int) -> Fault:
    """Refuse to give logs of more blocks at once."""

    def fault(method: str, params: list[Any], forward: Forward) -> Any:
        if method == "eth_getLogs" and "toBlock" in params[0]:
            asked = int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) + 1
            if asked > blocks:
                raise RefusalError(-32005, "query returned more than 10000 results")
        return forward()

    return fault


def answers(method: str, change: Callable[[Any], Any]) -> Fault:
    """Change the result of one method."""

    def fault(called: str, _params: list[Any], forward: Forward) -> Any:
        result = forward()
        return change(result) if called == method else result

    return fault


def unreliable(seed: int, share: float = 0.2) -> Fault:
    """Lose a share of the calls before, and another share of the answers after they happened."""
    dice, lock = random.Random(seed), threading.Lock()

    def fault(_method: str, _params: list[Any], forward: Forward) -> Any:
        with lock:
            luck = dice.random()
        if luck < share / 2:
            raise DroppedError
        result = forward()
        if luck < share:
            raise DroppedError
        return result

    return fault
