"""An OpenAI-shaped gateway for tests of the playground's own part; the real one is tested with the gateway."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.webapp.serving import answering


@contextmanager
def gateway() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An OpenAI-shaped gateway that answers "The capital of France is Paris." in three pieces."""
    seen: list[dict[str, Any]] = []
    request_id = "0x" + "ab" * 32

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data: Any = {"data": [{"id": "smollm2-135m-instruct"}]}
            if self.path.startswith("/v1/receipts/"):
                data = {
                    "request_id": request_id,
                    "attempts": [
                        {"node_id": 4, "outcome": "failed", "reason": "unreachable", "ms": 12.4},
                        {"node_id": 1, "outcome": "answered", "reason": "", "ms": 311.0},
                    ],
                    "queue_ms": 0.004,
                    "total_ms": 331.2,
                    "receipt": {
                        "receipt": {
                            "promptTokens": 36,
                            "completionTokens": 8,
                            "poe": "0x" + "4c1d" * 16,
                            "resultHash": "0x" + "9be0" * 16,
                        },
                        "nodeKey": "0x6C9c7E5B6F04899E4B3C01DA933023e5a6778Bb7",
                    },
                }
            self._send(200, json.dumps(data).encode(), "application/json")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({**body, "key": self.headers["Authorization"]})
            if body["model"] == "none":
                self._send(
                    404, b'{"error": {"message": "The model <b>none</b> does not exist"}}', "application/json"
                )
                return
            chunks = [
                {"choices": [{"delta": {"content": word}}]}
                for word in ("The capital of France is", " Par", "is.")
            ]
            stream = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
            self._send(200, stream.encode(), "text/event-stream")

        def _send(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Request-Id", request_id)
            self.send_header("X-Parallelix-Node", "1")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler) as url:
        yield url, seen
