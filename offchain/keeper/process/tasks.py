"""Thin Celery tasks: each calls one step of the keeper's services and returns."""

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
"""The message for one job is sent again only after this time."""


def register(app: Celery, wiring: Callable[[], KeeperWiring]) -> None:
    """Add the tasks. `wiring` gives this process's services; it is first called when a task runs."""

    def tick(name: str, step: Callable[[KeeperWiring], Any]) -> None:
        def run() -> None:
            keeper = wiring()
            try:
                step(keeper)
            except TransientError as error:
                log.warning("tick_failed", task=name, error=str(error))
            else:
                # After a good run only: a step that always fails must show in `/ready`.
                keeper.step_ages.ran(name)

        app.task(name=name)(run)

    def sweep(keeper: KeeperWiring) -> None:
        keeper.fulfil.scan()
        for request_id in keeper.fulfil.due():
            if keeper.step_ages.first("announced:" + request_id, ANNOUNCED_SECONDS):
                keeper.reached("job-announced")
                app.send_task("inference.dispatch", (request_id,), queue=DISPATCH, expires=60)

    def index(keeper: KeeperWiring) -> None:
        if keeper.index():
            sweep(keeper)  # a new request does not wait for the next tick

    def probe(keeper: KeeperWiring) -> None:
        if keeper.prober.step() >= keeper.prober.batch:  # a full batch: more probes are due now
            app.send_task("uptime.probe", queue=PROBE, expires=2)

    def dispatch(request_id: str) -> None:
        try:
            wiring().fulfil.run(request_id)
        except TransientError as error:
            log.warning("dispatch_failed", request=request_id, error=str(error))

    def attest(keeper: KeeperWiring) -> None:
        # Settlement and planning take no lease: they are safe to run twice at once.
        with alone(keeper.database, keeper.clock, "attest") as fence:
            if fence is not None:
                keeper.attest.leader.step(fence)

    tick("chain.index", index)
    tick("chain.send", KeeperWiring.send)
    tick("inference.sweep", sweep)
    tick("uptime.plan", lambda keeper: keeper.planner.step())
    tick("uptime.probe", probe)
    tick("uptime.capability", lambda keeper: keeper.capability.step())
    tick("uptime.attest", attest)
    tick("inference.validate", lambda keeper: keeper.answer_sampling.step())
    tick("uptime.close", lambda keeper: keeper.settlement.step())
    for queue in QUEUES:  # a canary step shows that the queue has a worker, whatever the other steps do
        tick(f"canary.{queue}", lambda keeper: keeper)
    app.task(name="inference.dispatch")(dispatch)
