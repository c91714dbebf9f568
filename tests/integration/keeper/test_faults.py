"""Faults against real processes: killed at every step, killed brokers, messages that come twice, keepers that race.

Keeper 0 works on SQLite and its own Valkey, keeper 1 on Debian's PostgreSQL and Redis and with its key in a Web3Signer.
"""

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import pytest
import redis

from offchain.keeper.process.celery import TICKS, make_app
from offchain.runtime.crash_points import REQUEST_POINTS
from tests.support.fakes.web3signer import start_web3signer
from tests.support.keeper.processes import KeeperRig, alive, wait_for
from tests.support.services.anvil import KEYS, start_anvil
from tests.support.services.redis_server import RedisServer
from tests.support.web_client import HTTP

pytestmark = [pytest.mark.anvil, pytest.mark.slow, pytest.mark.timeout(300)]

RECOVERY_SECONDS = 5.0
SLOW_MS = 6_000


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeeperRig]:
    folder = tmp_path_factory.mktemp("faults")
    with start_anvil("--block-time", "1", "--mixed-mining") as anvil:
        rig = KeeperRig(anvil, folder, bonded=2, epoch_seconds=600, slots=10)
        try:
            rig.start_keeper(0)
            rig.start_node(0, first_ms=SLOW_MS, beat_seconds=0.5)
            wait_for(lambda: rig.broker(0).keys("parallelix:fleet:*"), 60, "a heartbeat")
            yield rig
        finally:
            rig.close()


@pytest.fixture(scope="module")
def servers(
    rig: KeeperRig, postgresql_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisServer]:
    """PostgreSQL and Redis with keeper 1 on them."""
    name = f"keeper_{uuid.uuid4().hex}"
    subprocess.run(["psql", "-q", f"{postgresql_url}/postgres", "-c", f"CREATE DATABASE {name}"], check=True)
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    try:
        with start_web3signer(bytes.fromhex(KEYS[2])) as signer:
            keeper = rig.start_keeper(
                1,
                database_url=f"{postgresql_url}/{name}",
                redis_url=server.url,
                **rig.remote_key(1, signer.url),
            )
            assert keeper.child("valkey-server") == 0
            wait_for(lambda: rig.broker(1).keys("parallelix:fleet:*"), 60, "a heartbeat at the second keeper")
            yield server
            assert signer.signed > 0
            keeper.terminate()
    finally:
        server.kill()


@pytest.fixture(params=[0, 1], ids=["sqlite_valkey", "postgresql_redis"], scope="module")
def i(rig: KeeperRig, request: pytest.FixtureRequest) -> Iterator[int]:
    """The keeper that does the work, alone."""
    if request.param == 0:
        yield 0
        return
    request.getfixturevalue("servers")
    with rig.stopped(0):
        yield 1


def attempts(rig: KeeperRig, i: int, request: str) -> int:
    row = rig.row(i, "select attempts from jobs where kind = 'fulfil' and ref = ?", request)
    return 0 if row is None else int(row[0])


def intent(rig: KeeperRig, i: int, request: str) -> str:
    row = rig.row(i, "select status from intents where key = ?", f"fulfil:{request}")
    return "" if row is None else str(row[0])


def test_keeper__killed_at_every_step_of_requests__each_is_paid_once(rig: KeeperRig, i: int) -> None:
    rig.nodes[0].set(first_ms=50)
    rig.arm(*REQUEST_POINTS, "stored")
    requests = [rig.ask_on_chain(120) for _ in range(3)]
    wait_for(lambda: not rig.armed(), 60, f"a death at each of {REQUEST_POINTS}")
    for request in requests:
        wait_for(partial(rig.fulfilments, request), 60, "a fulfilment")
        wait_for(lambda request=request: intent(rig, i, request) == "final", 60, "a final intent")  # type: ignore[misc]
    assert [rig.fulfilments(request) for request in requests] == [1, 1, 1]
    rig.nodes[0].set(first_ms=SLOW_MS)


def test_worker__killed_while_it_dispatches__runs_again_in_time_and_pays_once(rig: KeeperRig, i: int) -> None:
    request = rig.ask_on_chain(120)
    wait_for(lambda: attempts(rig, i, request) == 1, 60, "a first attempt")
    victim = rig.keepers[i].kill_child("work")
    killed = time.monotonic()
    wait_for(lambda: attempts(rig, i, request) == 2, 60, "a second attempt")
    took = time.monotonic() - killed
    assert took <= RECOVERY_SECONDS, f"recovered after {took:.2f} s"
    wait_for(lambda: rig.fulfilments(request), 60, "a fulfilment")
    assert rig.fulfilments(request) == 1
    assert not alive(victim)
    assert rig.keepers[i].child("work") not in (0, victim)


def test_message__delivered_five_times__one_attempt_and_one_payment(rig: KeeperRig, i: int) -> None:
    request = rig.ask_on_chain(120)
    wait_for(lambda: attempts(rig, i, request) == 1, 60, "a first attempt")
    app = make_app(rig.broker_url(i))
    for _ in range(5):
        app.send_task("inference.dispatch", (request,), queue="inference.dispatch")
        for tick in TICKS:
            app.send_task(tick.task, queue=tick.queue)
    wait_for(lambda: rig.fulfilments(request), 60, "a fulfilment")
    assert attempts(rig, i, request) == 1
    app.send_task("inference.dispatch", (request,), queue="inference.dispatch")  # and once more, late
    wait_for(lambda: intent(rig, i, request) == "final", 60, "a final intent")
    assert rig.fulfilments(request) == 1
    app.close()


def test_broker__killed_and_started_again__works_again_in_time(
    rig: KeeperRig, i: int, request: pytest.FixtureRequest
) -> None:
    before = int(rig.broker(i).get("parallelix:pulse:chain.index") or 0)  # type: ignore[arg-type]
    if i == 0:
        rig.keepers[0].kill_child("valkey-server")
    else:
        server: RedisServer = request.getfixturevalue("servers")
        server.kill()
        server.start()
    killed = time.monotonic()

    def ticking() -> bool:
        try:
            return int(rig.broker(i).get("parallelix:pulse:chain.index") or 0) > before + 1_500  # type: ignore[arg-type]
        except (OSError, redis.RedisError):
            return False

    wait_for(ticking, 60, "a step after the restart")
    took = time.monotonic() - killed
    assert took <= 10, f"worked again after {took:.2f} s"
    rig.nodes[0].set(first_ms=50)
    asked = rig.ask_on_chain(120)
    wait_for(lambda: rig.fulfilments(asked), 60, "a fulfilment")


@pytest.mark.parametrize("i", [0], indirect=True, ids=["sqlite_valkey"], scope="module")
@pytest.mark.parametrize("name", ["beat", "chain", "api"])
@pytest.mark.usefixtures("i")
def test_child__killed__is_replaced_and_work_goes_on(rig: KeeperRig, name: str) -> None:
    victim = rig.keepers[0].kill_child(name)
    wait_for(lambda: rig.keepers[0].child(name) not in (0, victim), 60, "a new child")
    request = rig.ask_on_chain()
    wait_for(lambda: rig.fulfilments(request), 60, "a fulfilment")
    assert rig.fulfilments(request) == 1


@pytest.mark.usefixtures("servers")
def test_two_keepers__both_answer_one_request__one_is_paid_and_one_superseded(rig: KeeperRig) -> None:
    for keeper in rig.keepers.values():
        for pid in keeper.family():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    rig.nodes[0].set(first_ms=1_000)
    request = rig.ask_on_chain(120)
    wait_for(lambda: rig.fulfilments(request), 60, "a fulfilment")
    wait_for(
        lambda: {intent(rig, 0, request), intent(rig, 1, request)} == {"final", "superseded"},
        60,
        "both intents at their end",
    )
    assert rig.fulfilments(request) == 1


def test_clock__five_minutes_behind_the_chain__verify_refuses_and_the_keeper_says_that_it_probes_nobody(
    rig: KeeperRig,
) -> None:
    rig.network.anvil.rpc("evm_increaseTime", 300)  # last in this module: the chain stays ahead

    def skew() -> float:
        text = HTTP.get(f"{rig.keeper_url(0)}/metrics").text
        return float(text.partition("\nparallelix_keeper_clock_skew_seconds ")[2].partition("\n")[0])

    wait_for(lambda: skew() < -200, 60, "four blocks from the future")
    wait_for(lambda: "probing_suspended" in (rig.folder / "keeper-0.log").read_text(), 60, "a word about it")
    done = rig.cli("keeper", "verify", "--config", str(rig.folder / "keeper-0.toml"))
    assert done.returncode == 1
    assert "behind the newest block; set it by NTP" in done.stdout
