"""The gateway as the official client sees it, over real processes."""

import json
from collections.abc import Iterator

import openai
import pytest

from offchain.protocol.receipts import SignedReceipt, decode_header
from tests.support.fakes.stub_model import expected_text
from tests.support.gateway.processes import Rig, StubProcess, wait_for
from tests.support.web_client import HTTP

ASK = {"model": "stub-model", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 40}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    made = Rig(tmp_path_factory.mktemp("rig"))
    try:
        made.gateway()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def node(rig: Rig) -> StubProcess:
    return rig.node(1)


@pytest.fixture
def client(rig: Rig, node: StubProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{rig.url}/v1", api_key=rig.api_key, max_retries=0, timeout=20) as made:
        yield made


def test_chat__whole__is_the_nodes_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ASK)
    text, finish, tokens = expected_text(ASK)
    assert answer.choices[0].message.content == text
    assert answer.choices[0].finish_reason == finish
    assert answer.usage is not None
    assert answer.usage.completion_tokens == tokens


def test_chat__stream__gives_every_token_once_and_hides_the_seam(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
    text, finish, tokens = expected_text(ASK)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert chunks[-2].choices[0].finish_reason == finish
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == tokens
    assert not any("token_ids" in chunk.model_dump_json() for chunk in chunks)


def test_chat__stream_with_token_ids_asked_for__keeps_them(rig: Rig, node: StubProcess) -> None:
    body = {**ASK, "stream": True, "return_token_ids": True}
    answer = HTTP.post(f"{rig.url}/v1/chat/completions", json=body, headers=rig.auth)
    assert '"prompt_token_ids":' in answer.text
    assert '"token_ids":' in answer.text
    assert "parallelix.receipt" not in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")


def test_completions__stream_and_whole__agree(client: openai.OpenAI) -> None:
    ask = {"model": "stub-model", "prompt": "once upon", "max_tokens": 24}
    text, _, _ = expected_text(ask, chat=False)
    assert client.completions.create(**ask).choices[0].text == text
    chunks = client.completions.create(**ask, stream=True)
    assert "".join(c.choices[0].text for c in chunks) == text


def test_embeddings__list__passes_through(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="stub-model", input=["a", "b"], encoding_format="float")
    assert [item.index for item in answer.data] == [0, 1]


def test_models__live_fleet__are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["stub-model"]
    assert client.models.retrieve("stub-model").id == "stub-model"


def test_receipts__answered_request__is_kept_for_its_tenant_alone(rig: Rig, client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(**ASK)
    request_id = raw.headers["x-request-id"]
    assert raw.headers["x-parallelix-node"] == "1"
    signed = SignedReceipt.parse(decode_header(raw.headers["x-parallelix-receipt"]))
    url = f"{rig.url}/v1/receipts/{request_id}"
    record = HTTP.get(url, headers=rig.auth).json()
    assert record["request_id"] == request_id
    assert record["receipt"] == signed.to_json()
    assert [(a["node_id"], a["outcome"]) for a in record["attempts"]] == [(1, "ok")]
    assert HTTP.get(url, headers={"Authorization": f"Bearer {rig.other_key}"}).status_code == 404


def test_auth__wrong_or_no_key__is_401(rig: Rig, node: StubProcess) -> None:
    with (
        openai.OpenAI(base_url=f"{rig.url}/v1", api_key="sk-wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        stranger.chat.completions.create(**ASK)
    assert caught.value.code == "invalid_api_key"
    assert HTTP.post(f"{rig.url}/v1/chat/completions", json=ASK).status_code == 401
    assert HTTP.get(f"{rig.url}/v1/models").status_code == 401


def test_pin__node_not_there__is_503_node_unavailable(rig: Rig, node: StubProcess) -> None:
    headers = {**rig.auth, "X-Parallelix-Node": "7"}
    answer = HTTP.post(f"{rig.url}/v1/chat/completions", json=ASK, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "node_unavailable")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ("{", None),
        ("[]", None),
        ("{}", "model"),
        ('{"model": 3}', "model"),
        ('{"model": "stub-model"}', "messages"),
        ('{"model": "stub-model", "messages": []}', "messages"),
        ('{"model": "stub-model", "messages": ["x"]}', "messages[0].role"),
        ('{"model": "stub-model", "messages": [{"role": "user"}], "stream": "yes"}', "stream"),
        ('{"model": "stub-model", "messages": [{"role": "user"}], "max_tokens": "9"}', "max_tokens"),
        ('{"model": "stub-model", "messages": [{"role": "user"}], "max_tokens": -1}', "max_tokens"),
    ],
)
def test_chat__malformed_body__is_a_400_in_openais_shape(
    rig: Rig, node: StubProcess, body: str, param: str | None
) -> None:
    answer = HTTP.post(f"{rig.url}/v1/chat/completions", content=body, headers=rig.auth)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param


def test_chat__refused_by_the_model_server__is_passed_on_without_blame(
    rig: Rig, client: openai.OpenAI, node: StubProcess
) -> None:
    for _ in range(4):
        with pytest.raises(openai.BadRequestError, match="temperature"):
            client.chat.completions.create(**ASK, temperature=3)
    assert client.chat.completions.create(**ASK).choices


def test_chat__unknown_model__is_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(**{**ASK, "model": "nobody-has-this"})
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
def test_chat__more_tokens_than_any_nodes_context__is_a_400_with_the_length(
    client: openai.OpenAI, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length is 4096 tokens") as caught:
        client.chat.completions.create(
            model="stub-model",
            messages=[{"role": "user", "content": "Hi"}],
            max_tokens=4097,
            stream=stream,
        )
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "max_tokens")


def test_urls__unknown_or_wrong_method__are_openai_errors(rig: Rig) -> None:
    assert HTTP.get(f"{rig.url}/v1/nothing", headers=rig.auth).json()["error"]["code"] == "unknown_url"
    answer = HTTP.get(f"{rig.url}/v1/chat/completions", headers=rig.auth)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_body__over_the_limit__is_413(rig: Rig) -> None:
    answer = HTTP.post(
        f"{rig.url}/v1/chat/completions", content=b"x" * (5 << 20), headers=rig.auth, timeout=20
    )
    assert answer.status_code == 413
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_operations__health_ready_metrics__answer(rig: Rig, client: openai.OpenAI) -> None:
    client.chat.completions.create(**ASK)
    assert HTTP.get(f"{rig.url}/health").json() == {"status": "ok"}
    assert HTTP.get(f"{rig.url}/ready").json()["status"] == "ready"
    text = HTTP.get(f"{rig.url}/metrics").text
    assert 'parallelix_gateway_attempts_total{outcome="ok",reason=""}' in text
    assert 'parallelix_gateway_heartbeats_total{result="accepted"}' in text


def test_heartbeat__forged__is_refused(rig: Rig) -> None:
    body = json.dumps(
        {"node_id": 1, "url": "http://evil", "models": [], "slots": 1, "free_slots": 1}
    ).encode()
    header = {"X-Parallelix-Heartbeat": "0x" + "00" * 73}
    answer = HTTP.post(f"{rig.url}/internal/heartbeat", content=body, headers=header)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_signature")


def test_cancel__client_leaves_mid_stream__node_stops_at_once(rig: Rig, node: StubProcess) -> None:
    """The fact, with a bound that a busy machine holds: the answer would go on for seconds. `cancel_ms` of the bench is the
    figure."""
    before = node.state()["cancelled"]
    node.set(token_ms=50)
    try:
        body = {**ASK, "stream": True, "max_tokens": 2000, "ignore_eos": True}
        with HTTP.stream("POST", f"{rig.url}/v1/chat/completions", json=body, headers=rig.auth) as answer:
            pieces = answer.iter_raw()
            next(pieces)
            assert node.state()["running"] == 1
        wait_for(lambda: node.state()["running"] == 0, seconds=10, what="the node is idle")
    finally:
        node.set(token_ms=2)
    assert node.state()["cancelled"] == before + 1
