"""`parallelix keeper start`: checks, then one supervised process for each part.

::

    keeper start ---- valkey          broker, unless redis_url is set
       |---- chain     worker: chain.index, chain.send, uptime.attest
       |---- work      worker: inference.dispatch, uptime.probe
       |---- beat      schedule (one at a time, by a lock in the broker)
       `---- api       HTTP
"""

import asyncio
import gc
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import redis
import structlog
from aiohttp import web
from celery.exceptions import SecurityWarning

from offchain.chain.deployment import Deployment
from offchain.chain.reader import ChainReader
from offchain.chain.rpc import Rpc
from offchain.crypto.keys import TransactionSigner
from offchain.db.migrations import upgrade
from offchain.errors import FatalError, ParallelixError, UserError
from offchain.keeper.operator.keys import load_signer, read_api_key
from offchain.keeper.process.broker import Broker, locate, prepare
from offchain.keeper.process.celery import CHAIN_QUEUES, QUEUES, WORK_QUEUES, make_app, run_beat, run_worker
from offchain.keeper.process.supervisor import ChildFailedError, SupervisedProcess, Supervisor, run_forked
from offchain.keeper.process.tasks import register
from offchain.keeper.process.wiring import KeeperWiring
from offchain.keeper.settings import KeeperSettings
from offchain.runtime.crash_points import CrashPoint, from_environment, nowhere
from offchain.runtime.logs import configure_logs
from offchain.runtime.ready import announce_ready

log = structlog.get_logger(__name__)

READY_SECONDS = 120.0
CHAIN_CONCURRENCY = 4
_STEP_SECONDS = 0.1


def start(settings: KeeperSettings, *, as_json: bool) -> None:
    """Run a keeper until it is told to end.

    Raises:
        UserError: wrong settings, a taken port, a wrong or unreachable chain, an unusable database.
        FatalError: a part cannot be kept running.
    """
    configure_logs(settings.log_level, "keeper")
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    if settings.ready_file is not None:
        settings.ready_file.unlink(missing_ok=True)
    deployment = Deployment.load(settings.deployment)
    reached = from_environment(os.environ, deployment.chain_id)
    signer = load_signer(settings)
    read_api_key(settings)
    listener = listen(settings.host, settings.port)
    url = f"http://{settings.host}:{listener.getsockname()[1]}"
    _in_a_child(lambda: preflight(settings, deployment))
    broker = prepare(settings)

    supervisor = Supervisor() if reached is nowhere else Supervisor(restart_limit=1_000)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.request_stop)
    gc.collect()
    gc.freeze()  # children share what is loaded now
    try:
        if broker.command is not None:
            supervisor.start(SupervisedProcess("valkey", lambda: _exec_broker(broker), stop_order=2))
        _wait_for_broker(broker, supervisor)
        for child in children(settings, deployment, signer, broker, listener, reached):
            supervisor.start(child)
        _watch(supervisor, url, settings, as_json=as_json)
    except ChildFailedError as error:
        raise FatalError(f"{error}; see the log above") from None
    finally:
        supervisor.stop()
        if settings.ready_file is not None:
            settings.ready_file.unlink(missing_ok=True)


def children(
    settings: KeeperSettings,
    deployment: Deployment,
    signer: TransactionSigner,
    broker: Broker,
    listener: socket.socket,
    reached: CrashPoint,
) -> list[SupervisedProcess]:
    """The processes of a keeper beside its broker; `reached` has a test kill them at a named place."""

    def services() -> KeeperWiring:
        return KeeperWiring(settings, deployment, signer, broker.url, reached=reached)

    return [
        SupervisedProcess(
            "chain", lambda: worker(services, broker, settings, "chain", CHAIN_QUEUES, CHAIN_CONCURRENCY)
        ),
        SupervisedProcess(
            "work",
            lambda: worker(services, broker, settings, "work", WORK_QUEUES, settings.worker_concurrency),
        ),
        SupervisedProcess("beat", lambda: beat(broker, settings)),
        SupervisedProcess("api", lambda: serve(services(), listener), stop_order=1),
    ]


def worker(
    services: Callable[[], KeeperWiring],
    broker: Broker,
    settings: KeeperSettings,
    name: str,
    queues: tuple[str, ...],
    concurrency: int,
) -> None:
    """One Celery worker, in this process."""
    configure_logs(settings.log_level, f"keeper-{name}")
    warnings.filterwarnings(
        "ignore", category=SecurityWarning
    )  # containers run as root; nothing is unpickled here
    made = services()
    app = make_app(broker.url)
    register(app, lambda: made)
    run_worker(app, name, queues, concurrency)


def beat(broker: Broker, settings: KeeperSettings) -> None:
    """The schedule, in this process."""
    configure_logs(settings.log_level, "keeper-beat")
    run_beat(make_app(broker.url))


def serve(services: KeeperWiring, listener: socket.socket) -> None:
    """The HTTP API on a socket that listens already, in this process."""
    configure_logs(services.settings.log_level, "keeper-api")
    with suppress(web.GracefulExit, KeyboardInterrupt):
        web.run_app(
            services.api.application(), sock=listener, print=None, access_log=None, shutdown_timeout=3.0
        )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UserError when the address is taken or not ours."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise UserError(
            f"the API cannot listen on {host}:{port}: {error.strerror}; choose another port or stop who has it"
        ) from None
    listener.listen(128)
    return listener


def preflight(settings: KeeperSettings, deployment: Deployment) -> None:
    """Refuse a chain that is not the deployment's, and bring the database up to date."""
    ChainReader(Rpc(settings.rpc_url), deployment).check()
    upgrade(settings.database_url)


def _in_a_child(task: Callable[[], None]) -> None:
    """Run a check in a child, so that no connection or thread of it is carried into the workers."""
    reader, writer = os.pipe()

    def guarded() -> None:
        os.close(reader)
        try:
            task()
        except ParallelixError as error:
            os.write(writer, str(error).encode()[:60_000])
            sys.exit(2)

    code = run_forked(guarded)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        message = pipe.read().decode(errors="replace")
    if code:
        raise UserError(message or f"a check before the start ended with status {code}; see the log above")


def _exec_broker(broker: Broker) -> None:
    command, folder = broker.command, broker.folder
    if command is None or folder is None:
        raise RuntimeError("this broker is not ours to start")
    os.chdir(folder)
    with Path("valkey.log").open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.execv(command[0], list(command))  # noqa: S606 - our own words, no shell


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
            problems = asyncio.run(_problems(url))
            if not problems:
                ready = True
                announce_ready("keeper", url, settings.ready_file, as_json=as_json)
            elif time.monotonic() - started > READY_SECONDS:
                raise FatalError(f"the keeper did not become ready within {READY_SECONDS:.0f} s: {problems}")
        time.sleep(0.5 if ready else _STEP_SECONDS)


async def _problems(url: str) -> str:
    import aiohttp  # noqa: PLC0415 - only until the keeper is ready

    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/ready", timeout=aiohttp.ClientTimeout(total=5)) as response,
        ):
            data = await response.json()
            return "" if response.status == 200 else ", ".join(data.get("problems", ["not ready"]))
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        return f"the API does not answer: {type(error).__name__}"


def run_single_worker(
    settings: KeeperSettings, name: str, queues: tuple[str, ...] | None, concurrency: int | None
) -> None:
    """A Celery worker for some queues, or all. Raises UserError for an unknown queue."""
    chosen = queues or QUEUES
    unknown = set(chosen) - set(QUEUES)
    if unknown:
        raise UserError(f"there is no queue {min(unknown)}; queues are {', '.join(QUEUES)}")
    broker = locate(settings)
    services = _services(settings, broker.url)
    worker(lambda: services, broker, settings, name, chosen, concurrency or settings.worker_concurrency)


def run_single_beat(settings: KeeperSettings) -> None:
    """The schedule."""
    beat(locate(settings), settings)


def run_single_api(settings: KeeperSettings, *, as_json: bool) -> None:
    """The HTTP API."""
    broker = locate(settings)
    listener = listen(settings.host, settings.port)
    services = _services(settings, broker.url)
    url = f"http://{settings.host}:{listener.getsockname()[1]}"
    announce_ready("keeper api", url, settings.ready_file, as_json=as_json)
    serve(services, listener)


def _services(settings: KeeperSettings, broker_url: str) -> KeeperWiring:
    deployment = Deployment.load(settings.deployment)
    signer = load_signer(settings)
    preflight(settings, deployment)
    return KeeperWiring(settings, deployment, signer, broker_url)
