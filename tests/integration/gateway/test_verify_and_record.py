"""An answer is verified and recorded shortly after it is out; a request that reads the record or a counter never sees the gap."""

import json
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.gateway.processes import Rig
from tests.support.web_client import HTTP

ASK = {"model": "stub-model", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
SERVED = r'^parallelix_gateway_requests_total\{route="/v1/chat/completions",status="200"\} (\d+)$'


def served(metrics: str) -> int:
    found = re.search(SERVED, metrics, re.MULTILINE)
    return 0 if found is None else int(found[1])


def answered_and_read(rig: Rig, url: str) -> str:
    """One request for work with one for the metrics right behind it, on one connection."""
    address, body = urlsplit(url), json.dumps(ASK).encode()
    with socket.create_connection((str(address.hostname), int(address.port or 0)), 10) as connection:
        connection.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: {rig.auth['Authorization']}\r\n"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body
            + b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def test_metrics__right_behind_an_answer_while_a_stream_runs__count_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    try:
        gateway = rig.gateway()
        rig.node(1)
        before = served(HTTP.get(f"{gateway.url}/metrics").text)
        url, long = f"{gateway.url}/v1/chat/completions", {**ASK, "stream": True, "max_tokens": 3000}
        with HTTP.stream("POST", url, json=long, headers=rig.auth) as stream:
            next(stream.iter_bytes())  # from now on an answer is not the only one, and its check may wait
            for number in range(1, 11):
                assert served(answered_and_read(rig, gateway.url)) == before + number
            answer = HTTP.post(url, json=ASK, headers=rig.auth)
            request_id = answer.headers["x-request-id"]
            record = HTTP.get(f"{gateway.url}/v1/receipts/{request_id}", headers=rig.auth).json()
            assert (record["status"], record["usage"]["completion_tokens"]) == ("answered", 4)
            assert record["receipt"]["receipt"]["requestId"] == request_id
    finally:
        rig.close()
