"""Files and batches as the official client sees them, over real gateways, workers and a real Valkey."""

import json
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import redis

from offchain.gateway.batches import store as batch_store
from offchain.gateway.batches.runner import LEASE_SECONDS
from offchain.gateway.batches.store import BatchStore, StoreFullError
from offchain.gateway.tenants.authenticator import BATCH_SECRET, batch_token
from tests.support.fakes.stub_model import expected_text
from tests.support.gateway.processes import Process, Rig, wait_for
from tests.support.web_client import HTTP

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Rig]:
    made = Rig(tmp_path_factory.mktemp("rig"))
    try:
        made.gateway(redis_url=redis_url)
        made.node(1)
        made.node(2)
        yield made
    finally:
        made.close()


@pytest.fixture
def client(rig: Rig) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{rig.url}/v1", api_key=rig.api_key, max_retries=0, timeout=20) as made:
        yield made


@pytest.fixture
def other(rig: Rig) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{rig.url}/v1", api_key=rig.other_key, max_retries=0, timeout=20) as made:
        yield made


def start_worker(rig: Rig) -> Process:
    command = [
        sys.executable,
        "-m",
        "offchain",
        "gateway",
        "worker",
        "--config",
        str(rig.folder / "gateway-0.toml"),
    ]
    process = Process([*command, "--json"], rig.folder / f"worker-{secrets.token_hex(3)}.log")
    rig.processes.append(process)
    return process


@pytest.fixture
def worker(rig: Rig) -> Iterator[Process]:
    process = start_worker(rig)
    yield process
    if process.popen.poll() is None:
        assert process.terminate() == 0


def body_of(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "model": "stub-model",
        "messages": [{"role": "user", "content": f"question {number}"}],
        "max_tokens": 12,
        **changes,
    }


def lines_of(count: int, make: Callable[[int], dict[str, Any]] = body_of) -> bytes:
    rows = [
        {"custom_id": f"q{n}", "method": "POST", "url": "/v1/chat/completions", "body": make(n)}
        for n in range(count)
    ]
    return "\n".join(map(json.dumps, rows)).encode()


def submit(client: openai.OpenAI, content: bytes) -> Any:
    file = client.files.create(file=("input.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"of": "a test"},
    )


def ended(client: openai.OpenAI, batch_id: str, seconds: float = 60) -> Any:
    def over() -> Any:
        found = client.batches.retrieve(batch_id)
        return found if found.status in ("completed", "failed", "expired", "cancelled") else None

    return wait_for(over, seconds=seconds, what="the batch is over")


def rows_of(client: openai.OpenAI, file_id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def test_batch__every_line__is_answered_once_and_in_order(client: openai.OpenAI, worker: Process) -> None:
    def make(number: int) -> dict[str, Any]:
        return body_of(number, temperature=3) if number == 7 else body_of(number)

    made = submit(client, lines_of(20, make))
    assert (made.status, made.completion_window, made.metadata) == ("validating", "24h", {"of": "a test"})
    batch = ended(client, made.id)
    assert batch.status == "completed"
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (
        20,
        19,
        1,
    )
    rows = rows_of(client, batch.output_file_id)
    assert [row["custom_id"] for row in rows] == [f"q{n}" for n in range(20) if n != 7]
    for row in rows:
        answer = row["response"]["body"]
        expected = expected_text(body_of(int(row["custom_id"][1:])))
        assert row["error"] is None
        assert answer["choices"][0]["message"]["content"] == expected[0]
    (failed,) = rows_of(client, batch.error_file_id)
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("q7", 400)
    assert "temperature" in failed["response"]["body"]["error"]["message"]
    assert client.batches.list().data[0].id == batch.id
    assert {f.purpose for f in client.files.list()} == {"batch", "batch_output"}


def test_batch__worker_killed_in_the_middle__another_ends_it_within_five_seconds(
    rig: Rig, client: openai.OpenAI, redis_url: str
) -> None:
    store = BatchStore(redis.Redis.from_url(redis_url))
    first = start_worker(rig)
    made = submit(client, lines_of(120, lambda n: body_of(n, max_tokens=200)))
    wait_for(lambda: len(store.results(made.id)) >= 15, what="some lines are answered")
    children = Path(f"/proc/{first.popen.pid}/task/{first.popen.pid}/children").read_text()
    assert children == "", "a killed worker would leave these behind"
    first.kill()
    kept = store.results(made.id)
    assert len(kept) < 120
    second = start_worker(rig)
    began = time.monotonic()
    wait_for(lambda: len(store.results(made.id)) > len(kept) + 8, what="another worker goes on")
    resumed = time.monotonic() - began
    batch = ended(client, made.id)
    second.terminate()
    assert resumed < 5.0
    assert batch.status == "completed"
    rows = rows_of(client, batch.output_file_id)
    assert [row["custom_id"] for row in rows] == [f"q{n}" for n in range(120)]
    assert {line: answer for line, answer in store.results(made.id).items() if line in kept} == kept
    store.redis.close()


def test_batch__worker_stopped_past_its_lease__its_late_answers_change_nothing(
    rig: Rig, client: openai.OpenAI
) -> None:
    first = start_worker(rig)
    made = submit(client, lines_of(100, lambda n: body_of(n, max_tokens=200)))
    wait_for(lambda: client.batches.retrieve(made.id).status == "in_progress", what="it is worked on")
    first.signal(signal.SIGSTOP)
    second = start_worker(rig)
    batch = ended(client, made.id)
    output = client.files.content(batch.output_file_id).text
    first.signal(signal.SIGCONT)
    late = time.monotonic() + LEASE_SECONDS / 2
    wait_for(lambda: time.monotonic() > late, what="the first worker has woken up")
    assert first.terminate() == second.terminate() == 0
    assert client.files.content(batch.output_file_id).text == output
    assert client.batches.retrieve(made.id) == batch
    assert batch.request_counts.completed == 100


def test_batch__unknown_model__is_final_but_a_busy_node_is_waited_for(
    rig: Rig, client: openai.OpenAI, worker: Process
) -> None:
    lines = lines_of(6, lambda n: body_of(n, model="late-model"))
    batch = ended(client, submit(client, lines).id)
    assert (batch.request_counts.completed, batch.request_counts.failed) == (0, 6)
    rig.node(3, model="late-model", slots=1, token_ms=20)
    batch = ended(client, submit(client, lines).id)
    assert batch.request_counts.completed == 6


def test_batch__cancelled__keeps_what_was_answered(client: openai.OpenAI, worker: Process) -> None:
    made = submit(client, lines_of(400, lambda n: body_of(n, max_tokens=60)))
    wait_for(lambda: client.batches.retrieve(made.id).status == "in_progress", what="it is worked on")
    assert client.batches.cancel(made.id).status in ("cancelling", "cancelled")
    batch = ended(client, made.id)
    assert batch.status == "cancelled"
    counts = batch.request_counts
    assert counts.completed + counts.failed == counts.total == 400
    assert counts.failed > 0
    assert rows_of(client, batch.error_file_id)[-1]["error"]["code"] == "batch_cancelled"


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (b"not json", "invalid_json_line", 1),
        (lines_of(2) + b'\n{"custom_id": "x"}', "invalid_method", 3),
        (lines_of(1) + b"\n" + lines_of(1), "duplicate_custom_id", 2),
        (lines_of(1, lambda n: body_of(n, stream=True)), "invalid_request", 1),
        (lines_of(1).replace(b"/v1/chat/completions", b"/v1/embeddings"), "mismatched_endpoint", 1),
        (b"\n\n", "empty_file", None),
    ],
)
def test_batch__malformed_file__fails_with_the_line(
    client: openai.OpenAI, worker: Process, content: bytes, code: str, line: int | None
) -> None:
    batch = ended(client, submit(client, content).id)
    assert batch.status == "failed"
    assert (batch.errors.data[0].code, batch.errors.data[0].line) == (code, line)
    assert batch.output_file_id is None


def test_files__another_tenants__do_not_exist(client: openai.OpenAI, other: openai.OpenAI) -> None:
    file = client.files.create(file=("input.jsonl", lines_of(1)), purpose="batch")
    batch = submit(client, lines_of(1))
    assert client.files.retrieve(file.id).filename == "input.jsonl"
    assert client.files.content(file.id).content == lines_of(1)
    for attempt in (
        lambda: other.files.retrieve(file.id),
        lambda: other.files.content(file.id),
        lambda: other.files.delete(file.id),
        lambda: other.batches.retrieve(batch.id),
        lambda: other.batches.cancel(batch.id),
        lambda: other.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        ),
    ):
        with pytest.raises(openai.NotFoundError):
            attempt()
    assert list(other.files.list()) == []
    assert list(other.batches.list()) == []
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_files__pages__cover_everything_once(other: openai.OpenAI) -> None:
    made = {other.files.create(file=(f"{n}.jsonl", b"x"), purpose="batch").id for n in range(5)}
    listed = [f.id for f in other.files.list(limit=2)]
    assert (len(listed), set(listed)) == (5, made)
    for file_id in made:
        other.files.delete(file_id)


def test_files__wrong_form__is_a_400(rig: Rig) -> None:
    url = f"{rig.url}/v1/files"
    form = {"content-type": "multipart/form-data; boundary=b"}
    for headers, body in (
        ({"content-type": "application/json"}, b"{}"),
        (form, b"--b\r\nnonsense"),
        (form, b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n'),
        (form, b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b--\r\n'),
        (form, b"--b" * 1000),
    ):
        answer = HTTP.post(url, content=body, headers={**rig.auth, **headers})
        assert answer.status_code == 400, body
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_store__full__refuses_until_something_goes(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_store, "MAX_FILES", 3)
    monkeypatch.setattr(batch_store, "MAX_TENANT_BYTES", 1000)
    monkeypatch.setattr(batch_store, "MAX_OPEN_BATCHES", 2)
    clock = [1_000_000.0]
    store = BatchStore(redis.Redis.from_url(redis_url), lambda: clock[0])
    first = store.put_file("full", b"x" * 600, "a", "batch")
    with pytest.raises(StoreFullError):
        store.put_file("full", b"x" * 401, "b", "batch")
    store.put_file("full", b"x" * 400, "b", "batch")
    store.delete_file("full", first["id"])
    store.put_file("full", b"x", "c", "batch")
    store.put_file("full", b"x", "d", "batch")
    with pytest.raises(StoreFullError):
        store.put_file("full", b"x", "e", "batch")
    clock[0] += batch_store.KEEP_SECONDS
    store.put_file("full", b"x" * 900, "after all has run out", "batch")
    made = [store.create("full", "/v1/embeddings", "file-1", None) for _ in range(2)]
    with pytest.raises(StoreFullError):
        store.create("full", "/v1/embeddings", "file-1", None)
    store.done(made[0])
    store.create("full", "/v1/embeddings", "file-1", None)
    for batch in (b for b in store.batches("full") if b.id != made[0].id):
        store.done(batch)
    store.redis.close()


def test_batch_token__forged_or_old__is_a_stranger(rig: Rig, redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    secret: bytes = client.get(BATCH_SECRET)  # type: ignore[assignment]
    client.close()
    now = int(time.time())

    def status(token: str) -> int:
        return HTTP.get(f"{rig.url}/v1/models", headers={"Authorization": f"Bearer {token}"}).status_code

    good = batch_token(secret, "alice", now + 60)
    assert status(good) == 200
    assert status(batch_token(secret, "alice", now - 1)) == 401
    assert status(batch_token(secret, "nobody", now + 60)) == 401
    assert status(batch_token(b"\0" * 32, "alice", now + 60)) == 401
    assert status(good.replace("alice", "bob")) == 401
    assert status("plx-batch.") == 401
    assert status("plx-batch.alice.1e9.00") == 401
