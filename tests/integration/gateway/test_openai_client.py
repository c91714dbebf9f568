"""The official client against the whole way: gateway, node agent, real vLLM. What the model server can do passes through."""

import json
import math
from collections.abc import Iterator

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

from offchain.demo.network import LocalNetwork
from offchain.domain.eip712 import keccak256
from offchain.domain.messages import result_bytes
from offchain.protocol.receipts import SignedReceipt, decode_header
from tests.support.fakes.vllm_server import NEEDS_VLLM, TINY, VLLM
from tests.support.node.gateway import running_gateway
from tests.support.node.network import chain_with_actors
from tests.support.node.processes import register, settings_of, vllm_agent
from tests.support.node.requests import until

pytestmark = [*NEEDS_VLLM, pytest.mark.anvil, pytest.mark.timeout(500)]

MODEL = "m"
ASK = {"model": MODEL, "temperature": 0, "messages": [{"role": "user", "content": "The weather on Tuesday?"}]}
# A model with random weights would fill an answer with blanks wherever the grammar lets it.
NO_BLANKS = ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
EMBEDDER = {"name": "e", "path": str(TINY), "extra_vllm_args": ["--runner", "pooling", "--convert", "embed"]}


class Weather(BaseModel):
    """What the model must answer with."""

    model_config = ConfigDict(extra="forbid")

    day: int = Field(ge=1, le=7)
    sky: str = Field(pattern="^(clear|cloudy)$")


TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks up the weather",
        "parameters": Weather.model_json_schema(),
    },
}
CHOICE = {"type": "function", "function": {"name": "look_up"}}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNetwork]:
    with chain_with_actors(tmp_path_factory.mktemp("network") / "run") as running:
        yield running


@pytest.fixture(scope="module")
def client(network: LocalNetwork, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder, node = tmp_path_factory.mktemp("agent"), network.nodes[0]
    common = {
        "vllm_command": [str(VLLM)],
        "extra_vllm_args": [*NO_BLANKS, "--enable-auto-tool-choice", "--tool-call-parser", "hermes"],
        "models": [EMBEDDER],
    }
    node.node_id = json.loads(register(network, node, settings_of(network, node, folder, **common)).stdout)[
        "node_id"
    ]
    with (
        running_gateway(network, tmp_path_factory.mktemp("gateway"), [node]) as (url, key),
        vllm_agent(network, node, folder, heartbeat_receivers=[url], **common),
        openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60) as made,
    ):
        until(lambda: len(made.models.list().data) == 2, 60, "both models are served")
        yield made


def test_client__json_schema__answer_keeps_to_it(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(**ASK, response_format=Weather, max_tokens=60)
    weather = answer.choices[0].message.parsed
    assert answer.choices[0].finish_reason == "stop"
    assert weather is not None
    assert weather.sky in ("clear", "cloudy")


def test_client__json_schema_streamed__same_document(client: openai.OpenAI) -> None:
    whole = client.chat.completions.parse(**ASK, response_format=Weather, max_tokens=60)
    with client.chat.completions.stream(**ASK, response_format=Weather, max_tokens=60) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == whole.choices[0].message.parsed


def test_client__named_tool__call_passes_and_the_receipt_binds_it(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        **ASK, tools=[TOOL], tool_choice=CHOICE, max_tokens=60
    )
    message = raw.parse().choices[0].message
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.type == "function"
    assert call.function.name == "look_up"
    assert call.function.arguments
    sent = json.loads(raw.content)["choices"][0]["message"]["tool_calls"]
    signed = SignedReceipt.parse(decode_header(raw.headers["x-parallelix-receipt"])).receipt
    text = json.dumps(sent, separators=(",", ":"), ensure_ascii=False)
    assert signed.result_hash == keccak256(result_bytes([text]))


def test_client__named_tool_streamed__deltas_make_a_call(client: openai.OpenAI) -> None:
    """The arguments are not compared with the whole answer's: vLLM, asked without us, gives a named tool no grammar here,
    and other arguments in a stream than in a whole answer."""
    with client.chat.completions.stream(**ASK, tools=[TOOL], tool_choice=CHOICE, max_tokens=60) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls is not None
    assert message.tool_calls[0].function.name == "look_up"
    assert message.tool_calls[0].function.arguments


def test_client__logprobs__every_token_has_its_own(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ASK, max_tokens=5, logprobs=True, top_logprobs=3)
    assert answer.usage is not None
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == answer.usage.completion_tokens == 5
    for token in logprobs.content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.logprob == pytest.approx(max(top.logprob for top in token.top_logprobs)), "temperature 0"


def test_client__completion_logprobs_streamed__pass_through(client: openai.OpenAI) -> None:
    chunks = client.completions.create(
        model=MODEL, prompt="def f(x):", max_tokens=4, temperature=0, logprobs=1, stream=True
    )
    found = [
        p for c in chunks if c.choices and c.choices[0].logprobs for p in c.choices[0].logprobs.token_logprobs
    ]
    assert len(found) == 4
    assert all(p is not None and p <= 0 for p in found)


def test_client__embeddings__are_the_models_own(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(
        model="e", input=["the sea", "the sea", "a fold"], encoding_format="float"
    )
    sea, again, fold = (item.embedding for item in answer.data)
    assert math.sqrt(sum(x * x for x in sea)) == pytest.approx(1, abs=1e-3)
    assert sea == pytest.approx(again, abs=1e-5)
    assert sea != pytest.approx(fold, abs=1e-2)
    packed = client.embeddings.create(model="e", input="the sea")  # the client asks for base64 by itself
    assert packed.data[0].embedding == pytest.approx(sea, abs=1e-4)


def test_client__what_the_model_server_refuses__is_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**ASK, max_tokens=5, logprobs=True, top_logprobs=9999)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**ASK, max_tokens=100_000)
    assert caught.value.code == "context_length_exceeded"
