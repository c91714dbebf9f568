"""Every endpoint under generated requests, as a client sends them and as bytes on a socket: no fault of our own, always a
documented answer, nothing of another tenant, memory within a bound."""

import json
import random
from collections.abc import Iterator

import openai
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from tests.support.gateway.processes import Rig
from tests.support.web_client import HTTP
from tests.support.wire import head, say, statuses

lazy = schemathesis.pytest.from_fixture("document")

SECRET = b"what only Bob may read"
MAX_GROWTH_MIB = 48
CALL = {"method": "POST", "url": "/v1/chat/completions", "custom_id": SECRET.decode(), "body": {}}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Rig]:
    made = Rig(tmp_path_factory.mktemp("fuzz"))
    try:
        made.gateway(redis_url=redis_url)
        made.node(1, token_ms=0, first_ms=0)
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def document(rig: Rig) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{rig.url}/openapi.json")


@lazy.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_fuzz__any_request__gets_a_documented_answer(case: schemathesis.Case, rig: Rig) -> None:
    answer = case.call(headers=rig.auth, timeout=20)
    assert answer.status_code < 500 or answer.status_code == 503, answer.text
    assert "Traceback" not in answer.text
    case.validate_response(answer, checks=[status_code_conformance, content_type_conformance])


# ------------------------------------------------------------------------------------------------ on a bare socket


def requests_of(rig: Rig, ids: dict[str, str]) -> list[bytes]:
    """One good request for each newer endpoint, Alice's key on it and Bob's ids in it."""
    form = multipart(field("purpose", b"batch"), file(b'{"custom_id": "x"}'))
    batch = {"endpoint": CALL["url"], "completion_window": "24h", "input_file_id": ids["file"]}
    return [
        request(rig, "POST", "/v1/files", form, "multipart/form-data; boundary=b"),
        request(rig, "GET", "/v1/files?limit=3&after=x&order=asc&purpose=batch"),
        request(rig, "GET", f"/v1/files/{ids['file']}"),
        request(rig, "GET", f"/v1/files/{ids['file']}/content"),
        request(rig, "DELETE", f"/v1/files/{ids['file']}"),
        request(rig, "POST", "/v1/batches", json.dumps(batch).encode(), "application/json"),
        request(rig, "GET", "/v1/batches?limit=3"),
        request(rig, "GET", f"/v1/batches/{ids['batch']}"),
        request(rig, "POST", f"/v1/batches/{ids['batch']}/cancel"),
        request(rig, "GET", f"/v1/receipts/{ids['request']}"),
        request(rig, "GET", "/v1/nodes/1"),
        request(rig, "GET", "/v1/usage?days=3"),
        request(rig, "POST", "/internal/dial", b'{"node_id": 1, "challenge": "0x00", "front": "x"}'),
        request(rig, "POST", "/internal/dial/1/v1/chat/completions", b"{}"),
        request(rig, "POST", "/internal/heartbeat", b'{"node_id": 1}'),
    ]


def request(rig: Rig, method: str, target: str, body: bytes = b"", kind: str = "", *more: str) -> bytes:
    """A request after which the gateway closes."""
    lines = [
        f"{method} {target} HTTP/1.1",
        "host: x",
        f"authorization: Bearer {rig.api_key}",
        "connection: close",
    ]
    lines += [f"content-type: {kind}"] if kind else []
    lines += [f"content-length: {len(body)}"] if method == "POST" else []
    return head(*lines, *more) + body


def multipart(*parts: bytes) -> bytes:
    """A form with the boundary `b`."""
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"


def field(name: str, content: bytes, *lines: bytes) -> bytes:
    first = f'Content-Disposition: form-data; name="{name}"'.encode()
    return b"\r\n".join((first, *lines)) + b"\r\n\r\n" + content


def file(content: bytes, disposition: bytes = b'filename="x"', *lines: bytes) -> bytes:
    first = b'Content-Disposition: form-data; name="file"; ' + disposition
    return b"\r\n".join((first, *lines)) + b"\r\n\r\n" + content


@pytest.fixture(scope="module")
def ids(rig: Rig) -> dict[str, str]:
    """A file, a batch and a request of Bob's."""
    with openai.OpenAI(base_url=f"{rig.url}/v1", api_key=rig.other_key, max_retries=0) as bob:
        made = bob.files.create(file=("bob.jsonl", json.dumps(CALL).encode()), purpose="batch")
        batch = bob.batches.create(
            input_file_id=made.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"note": SECRET.decode()},
        )
        asked = bob.chat.completions.with_raw_response.create(
            model="stub-model", messages=[{"role": "user", "content": "x"}], max_tokens=2
        )
    return {"file": made.id, "batch": batch.id, "request": asked.headers["x-request-id"]}


def check(received: bytes, asked: bytes) -> None:
    """No fault of our own, and nothing of Bob's."""
    found = statuses(received)
    assert all(status < 500 or status in (501, 503) for status in found), (asked[:500], received[:500])
    assert b"Traceback" not in received
    assert SECRET not in received, asked[:500]


def spoiled(raw: bytes, chance: random.Random) -> tuple[bytes, bool]:
    """A request with something wrong in it, and whether nothing more comes after it."""
    made = bytearray(raw)
    how = chance.randrange(6)
    if how == 0:
        del made[chance.randrange(1, len(made)) :]
        return bytes(made), True
    if how == 1:
        for _ in range(chance.randrange(1, 6)):
            made[chance.randrange(len(made))] = chance.randrange(256)
    elif how == 2:
        at, length = chance.randrange(len(made)), chance.randrange(1, 30)
        made[at : at + length] = made[at : at + length] * chance.randrange(2, 40)
    elif how == 3:
        at = chance.randrange(len(made))
        made[at:at] = chance.randbytes(chance.randrange(1, 60))
    elif how == 4:
        end = raw.index(b"\r\n\r\n")
        sizes = (b"%x;a=b" % (len(raw) - end - 4), b"ffffffff", b"-1", b"0x4", b"", b"1" * 2000)
        made = bytearray(
            raw[:end].replace(b"content-length", b"x-length") + b"\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        made += (
            chance.choice(sizes)
            + b"\r\n"
            + raw[end + 4 :]
            + b"\r\n0\r\n"
            + chance.choice((b"\r\n", b"t: x\r\n\r\n"))
        )
    else:
        made += raw * chance.randrange(1, 4)
    return bytes(made), bool(chance.randrange(2))


def test_fuzz__spoiled_bytes_at_the_newer_endpoints__no_fault_of_our_own_and_nothing_of_bobs(
    rig: Rig, ids: dict[str, str]
) -> None:
    chance = random.Random(11)
    good = requests_of(rig, ids)
    before = rig.gateways[0].resident_mib
    for number in range(600):
        raw, over = spoiled(good[number % len(good)], chance)
        check(say(rig.url, raw, over=over, silence=0.03), raw)
    assert rig.gateways[0].resident_mib < before + MAX_GROWTH_MIB
    for raw in good[1:]:
        check(say(rig.url, raw), raw)


def test_fuzz__pipelined__are_answered_in_order_and_apart(rig: Rig, ids: dict[str, str]) -> None:
    """Bob's own answers, between Alice's requests on the same connection, go where they belong."""
    alice = f"authorization: Bearer {rig.api_key}"
    bob = f"authorization: Bearer {rig.other_key}"
    target = f"GET /v1/files/{ids['file']}/content HTTP/1.1"
    one = head(target, "host: x", alice) + head(target, "host: x", bob)
    answers = say(rig.url, one * 20 + head(target, "host: x", alice, "connection: close"))
    assert statuses(answers) == [404, 200] * 20 + [404]
    assert answers.count(SECRET) == 20


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", multipart(field("purpose", b"batch"), file(b"x"))),
        ("multipart/form-data; boundary=", b"----\r\n"),
        (f"multipart/form-data; boundary={'b' * 71}", b"--" + b"b" * 71),
        ("multipart/form-data; boundary=\xe9", b"--\xe9"),
        (f"multipart/form-data; {'a=b; ' * 5000}boundary=b", multipart(field("purpose", b"x"))),
        ("multipart/mixed; boundary=b", multipart(field("purpose", b"batch"), file(b"x"))),
        ("multipart/form-data; boundary=b", multipart(field("purpose", b"batch"), file(b"x"))[:-6]),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="fi'),
        ("multipart/form-data; boundary=b", multipart(b"\r\nno head")),
        ("multipart/form-data; boundary=b", multipart(b"Content-Disposition: form-data\r\n\r\nno name")),
        ("multipart/form-data; boundary=b", multipart(b"Content-Disposition: nonsense; name=file\r\n\r\nx")),
        ("multipart/form-data; boundary=b", multipart(*[field(f"f{n}", b"x") for n in range(1000)])),
        ("multipart/form-data; boundary=b", multipart(field("purpose", b"x" * 10_000))),
        ("multipart/form-data; boundary=b", multipart(field("purpose", b"\xff\xfe"), file(b"x"))),
        ("multipart/form-data; boundary=b", multipart(field("purpose", b"batch", b"X: " + b"y" * 3_000_000))),
        ("multipart/form-data; boundary=b", multipart(file(b"x", b"a=b; " * 700_000))),
        ("multipart/form-data; boundary=b", b"\r\n" * 2_000_000),
        ("multipart/form-data; boundary=b", multipart(field("purpose", b"batch"), file(b""))),
        ("multipart/form-data; boundary=b", multipart(field("purpose", b"batch\0"), file(b"x"))),
        ("multipart/form-data; boundary=b; boundary=c", multipart(field("purpose", b"fine-tune"), file(b"x"))),
    ],
)  # fmt: skip
def test_files__malformed_form__is_a_400_that_costs_little(rig: Rig, kind: str, body: bytes) -> None:
    answer = say(rig.url, request(rig, "POST", "/v1/files", body, kind), seconds=10)
    assert statuses(answer) == [400], answer[:300]
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "disposition",
    [b"filename*=UTF-8''%ED%A0%80%FF", b"filename*=nonsense''x", b'filename="\xff\xfe\x01"', b'filename="../../etc/passwd"',
     b"filename*0=a; filename*1=b", b'filename="' + b"y" * 9000 + b'"'],
)  # fmt: skip
def test_files__odd_file_name__is_kept_as_text_or_refused(rig: Rig, disposition: bytes) -> None:
    body = multipart(
        field("purpose", b"batch"), file(b"x", disposition, b"Content-Type: text/plain; charset=nope")
    )
    raw = request(rig, "POST", "/v1/files", body, "multipart/form-data; boundary=b")
    answer = say(rig.url, raw)
    assert statuses(answer)[0] in (200, 400), answer[:300]
    if statuses(answer) == [200]:
        kept = json.loads(answer.split(b"\r\n\r\n", 1)[1])
        assert len(kept["filename"]) <= 256
        assert HTTP.delete(f"{rig.url}/v1/files/{kept['id']}", headers=rig.auth).status_code == 200


@pytest.mark.parametrize(
    "target",
    ["/v1/files?limit=", "/v1/batches?limit=", "/v1/usage?days="],
)
@pytest.mark.parametrize(
    "number", ["0", "-1", "1e3", "%D9%A3", "00001" + "9" * 5000, "000019999999", "x", ""]
)
def test_pages__number_out_of_range__is_a_400_at_once(rig: Rig, target: str, number: str) -> None:
    answer = say(rig.url, request(rig, "GET", target + number))
    expected = [200] if number == "" else [400]  # an empty value counts as none
    assert statuses(answer) == expected, answer[:300]


@pytest.mark.parametrize("path", ["receipts", "nodes", "files", "batches", "models"])
def test_ids__of_any_shape__are_a_404_that_repeats_little(rig: Rig, path: str) -> None:
    for given in (
        "x" * 30_000,
        "%00",
        "%FF%FE",
        "0x" + "f" * 64,
        "0x" + "g" * 64,
        "9" * 40,
        "..",
        "-1",
        "1%0d%0aset-cookie:x",
    ):
        answer = say(rig.url, request(rig, "GET", f"/v1/{path}/{given}"))
        assert statuses(answer) == [404], answer[:300]
        assert len(answer) < 4096


def test_uploads__many_cut_off__leave_no_memory_behind(rig: Rig) -> None:
    raw = request(
        rig, "POST", "/v1/files", multipart(file(b"x" * 2_000_000)), "multipart/form-data; boundary=b"
    )
    for _ in range(5):
        say(rig.url, raw[:-10], over=True)
    before = rig.gateways[0].resident_mib
    for _ in range(40):
        check(say(rig.url, raw[:-10], over=True), raw)
    assert rig.gateways[0].resident_mib < before + MAX_GROWTH_MIB


def test_fuzz__afterwards__no_fault_of_our_own(rig: Rig) -> None:
    assert "parallelix_gateway_internal_errors_total 0" in HTTP.get(f"{rig.url}/metrics").text
    assert "Traceback" not in rig.gateways[0].log.read_text()
