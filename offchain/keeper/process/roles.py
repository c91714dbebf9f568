"""What one process of a keeper runs: a Celery worker, the schedule, or the HTTP API.

`keeper start` forks these beside each other. `keeper worker`, `keeper beat` and `keeper api` run one alone, with the
database and the broker of a keeper that is started elsewhere.
"""

import os
import socket
import warnings
from collections.abc import Callable
from contextlib import suppress

from aiohttp import web
from celery.exceptions import SecurityWarning

from offchain.chain.deployment import Deployment
from offchain.chain.reader import ChainReader
from offchain.chain.rpc import Rpc
from offchain.db.migrations import upgrade
from offchain.errors import UserError
from offchain.keeper.operator.keys import load_signer
from offchain.keeper.process.broker import Broker, locate
from offchain.keeper.process.celery import QUEUES, make_app, run_beat, run_worker
from offchain.keeper.process.tasks import register
from offchain.keeper.process.wiring import KeeperWiring
from offchain.keeper.settings import KeeperSettings
from offchain.runtime.logs import configure_logs
from offchain.runtime.ready import announce_ready


def run_worker_role(
    wiring: Callable[[], KeeperWiring],
    broker: Broker,
    settings: KeeperSettings,
    name: str,
    queues: tuple[str, ...],
    concurrency: int,
) -> None:
    """Run one Celery worker in this process until SIGTERM."""
    configure_logs(settings.log_level, f"keeper-{name}")
    # Celery warns of root because of pickle: containers run as root, and our messages are JSON.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    # After the fork: connections must not be carried over one.
    keeper = wiring()
    app = make_app(broker.url)
    register(app, lambda: keeper)
    run_worker(app, name, queues, concurrency)


def run_beat_role(broker: Broker, settings: KeeperSettings) -> None:
    """Run the schedule in this process until SIGTERM."""
    configure_logs(settings.log_level, "keeper-beat")
    run_beat(make_app(broker.url))


def run_api_role(keeper: KeeperWiring, listener: socket.socket) -> None:
    """Serve the HTTP API in this process, on a socket that listens already, until SIGTERM."""
    configure_logs(keeper.settings.log_level, "keeper-api")
    with suppress(web.GracefulExit, KeyboardInterrupt):
        # The shutdown must end within the supervisor's STOP_SECONDS, or SIGKILL ends it.
        web.run_app(
            keeper.api.application(), sock=listener, print=None, access_log=None, shutdown_timeout=3.0
        )


def run_single_worker(
    settings: KeeperSettings, name: str, queues: tuple[str, ...] | None, concurrency: int | None
) -> None:
    """`keeper worker`: a worker for some queues, or all of them. Raises UserError for an unknown queue."""
    chosen = queues or QUEUES
    unknown = set(chosen) - set(QUEUES)
    if unknown:
        raise UserError(f"there is no queue {min(unknown)}; queues are {', '.join(QUEUES)}")
    broker = locate(settings)
    keeper = _wire(settings, broker)
    run_worker_role(
        lambda: keeper, broker, settings, name, chosen, concurrency or settings.worker_concurrency
    )


def run_single_beat(settings: KeeperSettings) -> None:
    """`keeper beat`: the schedule."""
    run_beat_role(locate(settings), settings)


def run_single_api(settings: KeeperSettings, *, as_json: bool) -> None:
    """`keeper api`: the HTTP API."""
    broker = locate(settings)
    listener = listen(settings.host, settings.port)
    keeper = _wire(settings, broker)
    announce_ready("keeper api", base_url(settings.host, listener), settings.ready_file, as_json=as_json)
    run_api_role(keeper, listener)


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises UserError when the address is taken, or not one of this machine."""
    six = ":" in host  # `::` takes IPv4 too, as it would without create_server
    family = socket.AF_INET6 if six else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128, dualstack_ipv6=six)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(
            f"the API cannot listen on {host}:{port}: {reason}; choose another port, or stop the program that has it"
        ) from None


def base_url(host: str, listener: socket.socket) -> str:
    """The base URL of an API that listens on a host, such as `http://127.0.0.1:7000` or `http://[::1]:7000`."""
    _, port, *_ = listener.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def check_chain_and_database(settings: KeeperSettings, deployment: Deployment) -> None:
    """Bring the database's tables up to date. Raises an error when the chain is not the deployment's."""
    ChainReader(Rpc(settings.rpc_url), deployment).check()
    upgrade(settings.database_url)


def _wire(settings: KeeperSettings, broker: Broker) -> KeeperWiring:
    deployment = Deployment.load(settings.deployment)
    signer = load_signer(settings)
    check_chain_and_database(settings, deployment)
    return KeeperWiring(settings, deployment, signer, broker.url)
