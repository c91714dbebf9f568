"""`parallelix keeper start`: checks, then one supervised process for each role.

::

    keeper start ---- valkey          broker, unless redis_url is set
       |---- chain     worker: chain.index, chain.send, uptime.attest
       |---- work      worker: inference.dispatch, uptime.probe
       |---- beat      schedule (one at a time, by a lock in the broker)
       `---- api       HTTP
"""

import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import redis

from offchain.chain.deployment import Deployment
from offchain.crypto.keys import TransactionSigner
from offchain.errors import FatalError, ParallelixError, UserError
from offchain.keeper.operator.keys import load_signer, read_api_key
from offchain.keeper.process.broker import Broker, prepare
from offchain.keeper.process.celery import CHAIN_QUEUES, WORK_QUEUES
from offchain.keeper.process.roles import (
    base_url,
    check_chain_and_database,
    listen,
    run_api_role,
    run_beat_role,
    run_worker_role,
)
from offchain.keeper.process.supervisor import ChildFailedError, SupervisedProcess, Supervisor, run_forked
from offchain.keeper.process.wiring import KeeperWiring
from offchain.keeper.settings import KeeperSettings
from offchain.runtime.crash_points import CrashPoint, from_environment, nowhere
from offchain.runtime.logs import configure_logs
from offchain.runtime.ready import announce_ready

READY_SECONDS = 120.0
"""A keeper that is not ready by then ends with an error."""
CHAIN_CONCURRENCY = 4
_STEP_SECONDS = 0.1


def start(settings: KeeperSettings, *, as_json: bool) -> None:
    """Run a keeper until SIGTERM or SIGINT.

    Raises:
        UserError: wrong settings, a taken port, a wrong or unreachable chain, an unusable database.
        FatalError: a part cannot be kept running.
    """
    configure_logs(settings.log_level, "keeper")
    settings.make_data_dir()
    if settings.ready_file is not None:
        settings.ready_file.unlink(missing_ok=True)
    deployment = Deployment.load(settings.deployment)
    reached = from_environment(os.environ, deployment.chain_id)
    signer = load_signer(settings)
    # For its error only: a missing key ends the start, and not each probe.
    read_api_key(settings)
    # Before the workers start: a taken port ends the start at once.
    listener = listen(settings.host, settings.port)
    url = base_url(settings.host, listener)
    _check_in_child(lambda: check_chain_and_database(settings, deployment))
    broker = prepare(settings)

    # Tests that kill children at crash points restart them far more often than a healthy keeper does.
    supervisor = Supervisor() if reached is nowhere else Supervisor(restart_limit=1_000)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.request_stop)
    gc.collect()
    gc.freeze()  # children share what is loaded now
    try:
        if broker.command is not None:
            # Stops last: workers acknowledge what they finish.
            supervisor.start(SupervisedProcess("valkey", lambda: _exec_broker(broker), stop_order=2))
        _wait_for_broker(broker, supervisor)
        for child in _children(settings, deployment, signer, broker, listener, reached):
            supervisor.start(child)
        _watch(supervisor, url, settings, as_json=as_json)
    except ChildFailedError as error:
        raise FatalError(f"{error}; see the log above") from None
    finally:
        supervisor.stop()
        if settings.ready_file is not None:
            settings.ready_file.unlink(missing_ok=True)


def _children(
    settings: KeeperSettings,
    deployment: Deployment,
    signer: TransactionSigner,
    broker: Broker,
    listener: socket.socket,
    reached: CrashPoint,
) -> list[SupervisedProcess]:
    """The processes of a keeper beside its broker. Tests kill them at crash points by `reached`."""

    def wiring() -> KeeperWiring:
        return KeeperWiring(settings, deployment, signer, broker.url, reached=reached)

    return [
        SupervisedProcess(
            "chain",
            lambda: run_worker_role(wiring, broker, settings, "chain", CHAIN_QUEUES, CHAIN_CONCURRENCY),
        ),
        SupervisedProcess(
            "work",
            lambda: run_worker_role(
                wiring, broker, settings, "work", WORK_QUEUES, settings.worker_concurrency
            ),
        ),
        SupervisedProcess("beat", lambda: run_beat_role(broker, settings)),
        SupervisedProcess("api", lambda: run_api_role(wiring(), listener), stop_order=1),
    ]


def _check_in_child(task: Callable[[], None]) -> None:
    """Run a check in a child process, so that none of its connections and threads is carried into the workers."""
    reader, writer = os.pipe()

    def guarded() -> None:
        os.close(reader)
        try:
            task()
        except ParallelixError as error:
            # Less than a pipe holds (64 KiB): the parent reads only when the child has ended.
            os.write(writer, str(error).encode()[:60_000])
            sys.exit(2)

    code = run_forked(guarded)
    # Else the pipe has a writer left, and the read never ends.
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        message = pipe.read().decode(errors="replace")
    if code:
        raise UserError(message or f"a check before the start ended with status {code}; see the log above")


def _exec_broker(broker: Broker) -> None:
    command, folder = broker.command, broker.folder
    if command is None or folder is None:
        raise RuntimeError("only an embedded broker is started here")
    os.chdir(folder)
    with Path("valkey.log").open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.execv(command[0], list(command))  # noqa: S606 - a fixed command, no shell


def _wait_for_broker(broker: Broker, supervisor: Supervisor, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not supervisor.stopping:
        client = redis.Redis.from_url(broker.url, socket_timeout=2, socket_connect_timeout=2)
        try:
            client.ping()
            return
        except redis.RedisError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"the broker does not answer: {type(error).__name__}; check redis_url"
                ) from None
        finally:
            client.close()
        time.sleep(0.05)
        supervisor.watch_once()


def _watch(supervisor: Supervisor, url: str, settings: KeeperSettings, *, as_json: bool) -> None:
    started, ready = time.monotonic(), False
    while not supervisor.stopping:
        supervisor.watch_once()
        if not ready:
            problems = _problems(url)
            if not problems:
                ready = True
                announce_ready("keeper", url, settings.ready_file, as_json=as_json)
            elif time.monotonic() - started > READY_SECONDS:
                raise FatalError(f"the keeper did not become ready within {READY_SECONDS:.0f} s: {problems}")
        time.sleep(0.5 if ready else _STEP_SECONDS)


def _problems(url: str) -> str:
    """What `/ready` names, empty when the keeper is ready."""
    try:
        answer = httpx.get(f"{url}/ready", timeout=5, trust_env=False)
        return "" if answer.is_success else ", ".join(answer.json().get("problems", ["not ready"]))
    except (httpx.HTTPError, ValueError) as error:
        return f"the API does not answer: {type(error).__name__}"
