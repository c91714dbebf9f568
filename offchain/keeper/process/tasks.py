"""Thin Celery tasks over the services: each parses its arguments, calls one service and returns."""

from collections.abc import Callable
from typing import Any

import structlog
from celery import Celery

from offchain.errors import TransientError
from offchain.keeper.attestation.lease import alone
from offchain.keeper.process.celery import DISPATCH, PROBE, QUEUES
from offchain.keeper.process.wiring import KeeperWiring

log = structlog.get_logger(__name__)

ANNOUNCED_SECONDS = 3
"""A message for one job is not repeated within this time."""


def register(app: Celery, services: Callable[[], KeeperWiring]) -> None:
    """Add the tasks. `services` gives this process's services and is first called when a task runs."""

    def tick(name: str, step: Callable[[KeeperWiring], Any]) -> None:
        def run() -> None:
            try:
                step(services())
            except TransientError as error:
                log.warning("tick_failed", task=name, error=str(error))
            else:
                services().pulse.beat(name)

        app.task(name=name)(run)

    def sweep(own: KeeperWiring) -> None:
        own.fulfil.scan()
        for request_id in own.fulfil.due():
            if own.pulse.first("announced:" + request_id, ANNOUNCED_SECONDS):
                own.reached("job-announced")
                app.send_task("inference.dispatch", (request_id,), queue=DISPATCH, expires=60)

    def index(own: KeeperWiring) -> None:
        if own.index():
            sweep(own)  # a new request does not wait for the next tick

    def probe(own: KeeperWiring) -> None:
        if own.probe.step() >= own.probe.batch:
            app.send_task("uptime.probe", queue=PROBE, expires=2)

    def dispatch(request_id: str) -> None:
        try:
            services().fulfil.run(request_id)
        except TransientError as error:
            log.warning("dispatch_failed", request=request_id, error=str(error))

    def attest(own: KeeperWiring) -> None:
        with alone(own.database, own.clock, "attest") as fence:
            if fence is not None:
                own.attest.step(fence)

    tick("chain.index", index)
    tick("chain.send", KeeperWiring.send)
    tick("inference.sweep", sweep)
    tick("uptime.plan", lambda own: own.plan.step())
    tick("uptime.probe", probe)
    tick("uptime.capability", lambda own: own.capability.step())
    tick("uptime.attest", attest)
    tick("inference.validate", lambda own: own.validate.step())
    tick("uptime.close", lambda own: own.close_epochs.step())
    for queue in QUEUES:
        tick(f"canary.{queue}", lambda own: own)
    app.task(name="inference.dispatch")(dispatch)
