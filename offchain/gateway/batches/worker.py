"""Celery workers for batches: run `parallelix gateway worker` any number of times, on any machine that reaches Redis.

The Celery message only names a batch. The list of due batches is in Redis, and each worker reads it every second. So a killed
worker loses nothing: its lease on the batch expires after three seconds, and another worker goes on.
"""

import secrets
import threading
import time

import structlog
from celery import Celery
from celery.signals import worker_ready
from kombu import Queue
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from offchain.errors import UserError
from offchain.gateway.batches.runner import SLICE_SECONDS, BatchRunner
from offchain.gateway.batches.store import BatchStore
from offchain.gateway.settings import GatewaySettings
from offchain.gateway.tenants.authenticator import BATCH_SECRET, batch_token
from offchain.runtime.celery_policy import policy
from offchain.runtime.logs import configure_logs
from offchain.runtime.ready import announce_ready

log = structlog.get_logger("gateway.batch")

QUEUE = "gateway.batch"
SWEEP_SECONDS = 1.0
_LIMIT_SECONDS = int(SLICE_SECONDS) + 180
TOKEN_SECONDS = 300


def make_app(broker_url: str) -> Celery:
    """The application, without its task."""
    # set_as_current=False: code that asks Celery for "the" application must not get this one.
    app = Celery("parallelix-gateway", set_as_current=False)
    app.conf.update(
        **policy(broker_url, _LIMIT_SECONDS + 60, "parallelix:celery:"),
        task_queues=[Queue(QUEUE, routing_key=QUEUE)],
        task_default_queue=QUEUE,
        task_default_exchange="parallelix-gateway",
    )
    return app


def sweep_forever(app: Celery, store: BatchStore) -> None:
    """Send a task for every due batch that no worker has. Runs in a daemon thread of the worker: Celery beat would be a process
    of its own, which outlives a killed worker."""
    while True:
        try:
            for tenant, batch_id in store.due():
                # skip it when a worker has it, or a task was sent within the last second
                if not store.redis.exists(f"parallelix:lease:{batch_id}") and store.redis.set(
                    f"parallelix:told:{batch_id}", 1, nx=True, px=int(SWEEP_SECONDS * 1000)
                ):
                    app.send_task("batch.run", (tenant, batch_id), expires=10, retry=False)
        except (RedisError, OperationalError) as error:
            log.warning("batch.store_unavailable", error=type(error).__name__)
        time.sleep(SWEEP_SECONDS)


def register(app: Celery, runner: BatchRunner) -> None:
    """Add the task `batch.run`, which calls `BatchRunner.run`."""

    def run(tenant: str, batch_id: str) -> None:
        try:
            runner.run(tenant, batch_id)
        except RedisError as error:
            log.warning("batch.interrupted", batch=batch_id, error=type(error).__name__)

    app.task(name="batch.run")(run)


def run_worker(settings: GatewaySettings, concurrency: int, *, announce_json: bool) -> None:
    """Work on batches in this process until SIGTERM.

    Raises:
        UserError: the settings name no Redis, or it does not answer.
    """
    if settings.redis_url is None:
        raise UserError("batches are kept in Redis; set redis_url in the gateway's settings")
    configure_logs(settings.log_level, "gateway-worker")
    client = Redis.from_url(settings.redis_url, socket_timeout=10, socket_connect_timeout=5)
    try:
        client.set(BATCH_SECRET, secrets.token_bytes(32), nx=True)
        secret: bytes = client.get(BATCH_SECRET)  # type: ignore[assignment]
    except RedisError as error:
        raise UserError(f"Redis cannot be used ({type(error).__name__}); check redis_url") from None
    store = BatchStore(client)
    # A new token for each line: one is good for five minutes, and a line may be tried for longer.
    runner = BatchRunner(store, lambda tenant: batch_token(secret, tenant, store.now() + TOKEN_SECONDS))
    app = make_app(settings.redis_url)
    register(app, runner)

    # weak=False: Celery's signals hold receivers weakly, and nobody else holds this lambda.
    worker_ready.connect(
        lambda **_: announce_ready("gateway worker", "", None, as_json=announce_json), weak=False
    )
    threading.Thread(target=sweep_forever, args=(app, store), name="sweep", daemon=True).start()
    app.Worker(
        queues=[QUEUE],
        pool="threads",
        concurrency=concurrency,
        loglevel="WARNING",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    ).start()
