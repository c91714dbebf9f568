"""Raw sockets: malformed requests, slow clients, floods of connections. The gateway answers or closes, and lives on."""

import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateway.processes import Rig, wait_for
from tests.support.web_client import HTTP
from tests.support.wire import address_of, head, say, statuses

BODY = b'{"model":"stub-model","messages":[{"role":"user","content":"x"}],"max_tokens":4}'


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    made = Rig(tmp_path_factory.mktemp("wire"))
    try:
        made.gateway()
        made.node(1)
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (head("GET / HTTP/2.0", "host: x"), 400),
        (head("get /health HTTP/1.1", "host: x"), 400),
        (head("GET http://x/health HTTP/1.1", "host: x"), 400),
        (head("GET /health HTTP/1.1"), 400),
        (head("GET /health HTTP/1.1", "host: x", " folded: y"), 400),
        (head("GET /health HTTP/1.1", "host: x", "bad name: y"), 400),
        (head("GET /health HTTP/1.1", "host: x", "host: y"), 400),
        (b"GET /health HTTP/1.1\nhost: x\n\n\r\n\r\n", 400),
        (head("GET /health HTTP/1.1", "host: x\x00y"), 400),
        (head("POST /v1/models HTTP/1.1", "host: x", "content-length: -1"), 400),
        (head("POST /v1/models HTTP/1.1", "host: x", "content-length: 1", "content-length: 2"), 400),
        (head("POST /v1/models HTTP/1.1", "host: x", "content-length: 3", "transfer-encoding: chunked"), 400),
        (head("POST /v1/models HTTP/1.1", "host: x", "transfer-encoding: gzip, chunked"), 501),
        (head("POST /v1/models HTTP/1.1", "host: x", "transfer-encoding: chunked") + b"xyz\r\n", 400),
        (head("POST /v1/models HTTP/1.1", "host: x", "transfer-encoding: chunked") + b"2\r\nabc\r\n", 400),
        (head("POST /v1/models HTTP/1.1", "host: x", "transfer-encoding: chunked") + b"fffffff\r\n", 413),
        (head("POST /v1/models HTTP/1.1", "host: x", "content-length: 99999999999"), 413),
        (head("GET /health HTTP/1.1", "host: x", "long: " + "y" * 40_000), 431),
        (head("GET /health HTTP/1.1", "host: x", *[f"h{i}: y" for i in range(120)]), 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n", 400),
    ],
)
def test_wire__malformed__is_refused_in_openais_shape(rig: Rig, raw: bytes, status: int) -> None:
    answer = say(rig.url, raw)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer[:200]
    assert b'"error"' in answer
    assert HTTP.get(f"{rig.url}/health").status_code == 200


def test_wire__byte_by_byte_and_chunked__is_understood(rig: Rig) -> None:
    lines = (
        "POST /v1/chat/completions HTTP/1.1",
        "host: x",
        f"authorization: Bearer {rig.api_key}",
        "connection: close",
    )
    plain = head(*lines, f"content-length: {len(BODY)}") + BODY
    assert b"200 OK" in say(rig.url, *[plain[i : i + 7] for i in range(0, len(plain), 7)], pause=0.001)
    chunked = head(*lines, "transfer-encoding: chunked") + b"%x;ext=1\r\n%b\r\n0\r\ntrailer: x\r\n\r\n" % (
        len(BODY),
        BODY,
    )
    assert b"200 OK" in say(rig.url, *[chunked[i : i + 11] for i in range(0, len(chunked), 11)], pause=0.001)


def test_wire__pipelined__are_answered_in_order(rig: Rig) -> None:
    one = head("GET /health HTTP/1.1", "host: x")
    two = head("GET /v1/nothing HTTP/1.1", "host: x", f"authorization: Bearer {rig.api_key}")
    last = head("GET /ready HTTP/1.1", "host: x", "connection: close")
    answer = say(rig.url, one + two + last)
    assert statuses(answer) == [200, 404, 200]


def test_wire__expect_continue__gets_it(rig: Rig) -> None:
    lines = ("POST /v1/chat/completions HTTP/1.1", "host: x", "expect: 100-continue", "connection: close")
    answer = say(rig.url, head(*lines, f"content-length: {len(BODY)}"), BODY, pause=0.1)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 401")


def test_wire__random_bytes__never_a_500_and_never_the_end(rig: Rig) -> None:
    chance = random.Random(5)
    template = head("POST /v1/chat/completions HTTP/1.1", "host: x", f"content-length: {len(BODY)}") + BODY
    for _ in range(60):
        raw = bytearray(template)
        for _ in range(chance.randrange(1, 8)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        with socket.create_connection(address_of(rig.url), timeout=2) as connection:
            connection.sendall(raw)
            connection.settimeout(0.05)
            try:
                answer = connection.recv(200)
            except (TimeoutError, ConnectionResetError):
                answer = b""
        assert not answer.startswith(b"HTTP/1.1 5"), (bytes(raw), answer)
    assert HTTP.get(f"{rig.url}/metrics").text.count("internal_errors_total 0") == 1


def running(rig: Rig) -> int:
    """Attempts that the gateway runs now."""
    text = HTTP.get(f"{rig.url}/metrics").text
    return int(text.split("\nparallelix_gateway_attempts_running ")[1].split("\n")[0])


def test_wire__slow_reader__does_not_fill_our_memory(rig: Rig) -> None:
    """Clients that read nothing of long streams: others are served meanwhile, and no slot is kept when they leave."""
    node: Any = rig.processes[1]
    node.set(token_ms=0, first_ms=0)
    body = BODY.replace(b'"max_tokens":4', b'"max_tokens":2000,"stream":true,"ignore_eos":true')
    request = head(
        "POST /v1/chat/completions HTTP/1.1",
        "host: x",
        f"authorization: Bearer {rig.api_key}",
        f"content-length: {len(body)}",
    )
    before = rig.gateways[0].resident_mib
    held = []
    for _ in range(4):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(address_of(rig.url))
        connection.sendall(request + body)
        held.append(connection)
    wait_for(lambda: running(rig) == 4, what="all four streams have begun")
    answer = HTTP.post(f"{rig.url}/v1/chat/completions", content=BODY, headers=rig.auth, timeout=30)
    assert answer.status_code == 200
    assert rig.gateways[0].resident_mib < before + 16
    for connection in held:
        connection.close()
    wait_for(lambda: node.state()["running"] == 0, what="the node is idle again")
    node.set(token_ms=2, first_ms=5)


def test_wire__many_idle_connections__do_not_keep_others_out(rig: Rig) -> None:
    held = [socket.create_connection(address_of(rig.url)) for _ in range(300)]
    for connection in held[:150]:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: ")
    answer = HTTP.post(f"{rig.url}/v1/chat/completions", content=BODY, headers=rig.auth, timeout=5)
    assert answer.status_code == 200
    for connection in held:
        connection.close()
