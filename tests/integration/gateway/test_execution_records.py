"""Execution records of gateways on one Redis: one batch an epoch, whoever is killed; and the store that they share."""

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from offchain.audit.execution_proof import ServedRecord
from offchain.chain.deployment import Deployment
from offchain.crypto.recovery import recover
from offchain.domain.eip712 import SigningDomain
from offchain.domain.evidence_entries import Execution, SignedExecutionBatch, request_of
from offchain.domain.execution_tree import BATCH, ExecutionProof, verify
from offchain.domain.messages import ServiceReceipt
from offchain.gateway.records.execution_log import CLOSE_UNTIL_SECONDS, WRITE_SECONDS
from offchain.gateway.records.pending_executions import PENDING, SIGNED, TAKEN, FilePending, RedisPending
from offchain.runtime.child_processes import descendants
from tests.support.gateway.processes import CHAIN_ID, CONTRACTS, Process, Rig, wait_for
from tests.support.keeper.epoch_factory import receipt_of
from tests.support.node.processes import command_line

EPOCH_SECONDS = 12
DOMAIN = SigningDomain(CHAIN_ID, CONTRACTS["UptimeAttestation"])
MARKET = SigningDomain(CHAIN_ID, CONTRACTS["InferenceMarket"])
PROMPT = "a question that nobody else may read"
ASK: dict[str, Any] = {
    "model": "stub-model",
    "messages": [{"role": "user", "content": PROMPT}],
    "max_tokens": 4,
}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Rig]:
    made = Rig(tmp_path_factory.mktemp("records"))
    deployment = json.loads(made.deployment.read_text())
    deployment |= {"genesis": int(time.time()) - 5, "epoch_length": EPOCH_SECONDS, "slots_per_epoch": 3}
    made.deployment.write_text(json.dumps(deployment))
    try:
        for _ in range(2):
            made.gateway(redis_url=redis_url)
        made.node(1, slots=8)
        yield made
    finally:
        made.close()


def ask(rig: Rig, url: str, *, stream: bool = False) -> str:
    """One answered request; its id."""
    answer = httpx.post(
        f"{url}/v1/chat/completions", json=ASK | {"stream": stream}, headers=rig.auth, timeout=10
    )
    assert answer.status_code == 200, answer.text
    return answer.headers["x-request-id"]


def batches(url: str) -> list[dict[str, Any]]:
    """What a gateway commits to."""
    found: list[dict[str, Any]] = httpx.get(f"{url}/v1/executions?since=0", timeout=5).json()["data"]
    return found


def proven(rig: Rig, url: str, request_id: str) -> int | None:
    """The epoch in whose batch a gateway proves a request, None before it does."""
    answer = httpx.get(f"{url}/v1/executions/{request_id}", timeout=5)
    if answer.status_code == 404:
        assert answer.json()["error"]["code"] == "execution_not_found"
        return None
    assert answer.status_code == 200
    assert PROMPT not in answer.text
    found = answer.json()
    receipt, batch = (
        ServiceReceipt.from_json(found["receipt"]),
        SignedExecutionBatch.from_json(found["batch"]),
    )
    assert "0x" + receipt.request_id.hex() == request_id
    signature = bytes.fromhex(found["signature"][2:])
    node = recover(MARKET.digest(receipt.struct_hash()), signature)
    assert node == rig.node_key_address(int(receipt.node_id))
    assert recover(DOMAIN.digest(batch.commitment.struct_hash()), batch.signature) == rig.signer.address
    siblings = tuple(bytes.fromhex(item[2:]) for item in found["siblings"])
    proof = ExecutionProof(found["index"], found["count"], siblings)
    assert verify(batch.commitment.root, batch.commitment.epoch, receipt.struct_hash(), proof, BATCH)
    return int(batch.commitment.epoch)


def test_gateways__one_is_killed_and_one_comes_later__every_request_is_in_one_batch(
    rig: Rig, redis_url: str
) -> None:
    first, second = rig.gateways[:2]
    wait_for(
        lambda: httpx.get(f"{second.url}/ready", timeout=5).json()["nodes"] == 1, 10, "the node is shared"
    )
    asked = [ask(rig, url, stream=stream) for url in (first.url, second.url) for stream in (False, True)]
    asked += [ask(rig, second.url) for _ in range(20)]
    time.sleep(2 * WRITE_SECONDS)  # what was answered longer ago than this survives a kill
    second.kill()
    asked += [ask(rig, first.url) for _ in range(5)]
    wait_for(
        lambda: all(proven(rig, first.url, one) is not None for one in asked),
        2 * EPOCH_SECONDS + 5,
        "a batch with every request",
    )
    third = rig.gateway(redis_url=redis_url)
    wait_for(lambda: batches(third.url) == batches(first.url), CLOSE_UNTIL_SECONDS + 5, "the same batches")
    assert [proven(rig, third.url, one) for one in asked] == [proven(rig, first.url, one) for one in asked]
    with redis.Redis.from_url(redis_url) as client:
        where: dict[bytes, list[int]] = {}
        for batch in batches(first.url):
            for request_id in client.hkeys(f"{TAKEN}{batch['epoch']}"):
                where.setdefault(request_id, []).append(batch["epoch"])
    assert all(len(epochs) == 1 for epochs in where.values()), "a request is in two batches"
    assert sum(batch["count"] for batch in batches(first.url)) == len(where)
    assert {bytes.fromhex(one[2:]) for one in asked} <= set(where)


def test_executions__malformed_requests__are_one_clear_error(rig: Rig) -> None:
    for path, status in (
        ("/v1/executions/0x12", 404),
        ("/v1/executions/0x" + "zz" * 32, 404),
        ("/v1/executions/0x" + "00" * 32, 404),
        ("/v1/executions?since=-1", 400),
        ("/v1/executions?since=x", 400),
    ):
        answer = httpx.get(rig.url + path, timeout=5)
        assert answer.status_code == status, path
        assert answer.json()["error"]["message"]
    assert httpx.post(rig.url + "/v1/executions", timeout=5).status_code == 405


def test_gateway__ends_while_a_large_batch_is_made__leaves_no_process_and_the_next_start_makes_it(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    folder = tmp_path / "data/executions"
    folder.mkdir(parents=True)
    store, like = FilePending(folder), records(1)[0]
    minute = (int(time.time()) // 60).to_bytes(4, "big")  # an id begins with it
    ids = [minute + number.to_bytes(28, "big") for number in range(300_000)]
    store.add([like[:4] + request_id + like[36:] for request_id in ids])
    epoch = int(Deployment.load(rig.deployment).clock().epoch_at(int(time.time()))) - 1
    assert store.take(epoch)

    def maker(gateway: Process) -> int:
        found = [pid for pid in descendants(gateway.pid) if b"execution_batch_process" in command_line(pid)]
        return found[0] if found else 0

    try:
        for end in (Process.kill, Process.terminate):
            gateway = rig.gateway(data_dir=str(folder.parent))
            pid = wait_for(lambda: maker(gateway), 10, "a batch in the making")  # noqa: B023
            begun = time.monotonic()
            end(gateway)
            assert time.monotonic() - begun < 3, "a stop does not wait for a batch"
            wait_for(lambda: not Path(f"/proc/{pid}").exists(), 5, "the end of what it started")  # noqa: B023
            assert not list(folder.glob("*.batch"))
        gateway = rig.gateway(data_dir=str(folder.parent))
        wait_for(lambda: batches(gateway.url), 60, "the batch")
        assert [(one["epoch"], one["count"]) for one in batches(gateway.url)] == [(epoch, len(ids))]
        where = f"{gateway.url}/v1/executions/0x{ids[-1].hex()}"
        found = wait_for(lambda: (got := httpx.get(where)).status_code == 200 and got, 60, "its file").json()
        ServedRecord.from_json(found).check(ids[-1])
    finally:
        rig.close()


# ------------------------------------------------------------------------------------------------------------ the store


@pytest.fixture
def client(redis_url: str) -> Iterator["redis.Redis"]:
    made = redis.Redis.from_url(redis_url, db=3)
    made.flushdb()
    yield made
    made.close()


def records(count: int) -> list[bytes]:
    """Packed records."""
    return [Execution(receipt_of(1, secrets.token_bytes(32), 1), bytes(65)).to_bytes() for _ in range(count)]


def test_store__two_gateways_take_one_epoch__one_batch_and_the_first_signature_stands(
    client: "redis.Redis",
) -> None:
    one, two, made = RedisPending(client), RedisPending(client), records(3)
    assert not one.take(6), "nothing waits"
    one.add(made[:2])
    assert one.take(7)
    two.add(made[2:])
    assert two.take(7)
    assert sorted(two.taken(7)) == sorted(made[:2])
    assert client.hkeys(PENDING) == [request_of(made[2])]
    assert one.commit(7, b"first") == two.commit(7, b"second") == b"first"
    assert one.unfinished() == [7]
    one.done(7)
    two.done(7)
    assert not two.take(7), "an epoch that was signed takes no more"
    assert two.take(8)
    assert list(two.taken(8)) == made[2:]
    two.forget(8)
    assert client.hkeys(SIGNED) == []
    assert two.unfinished() == [8]


def test_store__answer_of_a_write_was_lost__what_a_batch_took_is_not_written_again(
    client: "redis.Redis", tmp_path: Path
) -> None:
    store, made = RedisPending(client), records(4)
    store.add(made[:3])
    assert store.take(7)
    store.add(made, unless_taken=7)
    assert client.hkeys(PENDING) == [request_of(made[3])]
    store.add(made[3:])
    assert client.hlen(PENDING) == 1
