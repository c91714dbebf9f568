"""The single parts of a keeper, for those who spread them over machines or supervise them by other means."""

from offchain.chain.deployment import Deployment
from offchain.errors import UserError
from offchain.keeper.app import QUEUES
from offchain.keeper.broker import locate
from offchain.keeper.run import beat, listen, preflight, serve, worker
from offchain.keeper.services import Services
from offchain.keeper.signer import load_signer
from offchain.settings import KeeperSettings
from offchain.telemetry import announce_ready


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


def _services(settings: KeeperSettings, broker_url: str) -> Services:
    deployment = Deployment.load(settings.deployment)
    signer = load_signer(settings)
    preflight(settings, deployment)
    return Services(settings, deployment, signer, broker_url)
