"""The Celery application of a keeper: queues by purpose, a schedule as data, settings that survive a killed worker.

The broker only carries messages, and a message may come twice or never. What is due stands in the database, and the
scheduled steps below ask the database for it, most of them every second or two.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from celery import Celery, bootsteps
from celery.schedules import schedule
from kombu import Queue

from offchain.runtime.celery_policy import policy

INDEX, SEND, DISPATCH = "chain.index", "chain.send", "inference.dispatch"
PROBE, ATTEST = "uptime.probe", "uptime.attest"
CHAIN_QUEUES = (INDEX, SEND, ATTEST)
WORK_QUEUES = (DISPATCH, PROBE)
QUEUES = CHAIN_QUEUES + WORK_QUEUES
"""Each queue has a worker: a queue is one of the chain's or of the work's."""

VISIBILITY_SECONDS = 180
"""The broker delivers a message again that was not acknowledged for so long; tasks must end before."""
SOFT_LIMIT_SECONDS, HARD_LIMIT_SECONDS = 150, 165
BEAT_LOCK_SECONDS = 5
"""After a killed scheduler the next one takes over in this time."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A step on the schedule.

    Attributes:
        task: Celery task name.
        every: seconds between two runs. A tick that waited twice as long in its queue (at least 2 s) is dropped.
    """

    task: str
    queue: str
    every: float


TICKS = (
    Tick("chain.index", INDEX, 1.0),
    Tick("chain.send", SEND, 1.0),
    Tick("inference.sweep", INDEX, 1.0),
    Tick("inference.validate", DISPATCH, 5.0),
    Tick("uptime.plan", ATTEST, 2.0),
    Tick("uptime.probe", PROBE, 0.5),
    Tick("uptime.capability", PROBE, 2.0),
    Tick("uptime.attest", ATTEST, 1.0),
    Tick("uptime.close", ATTEST, 2.0),
    *(Tick(f"canary.{queue}", queue, 5.0) for queue in QUEUES),
)


class WakeUp(bootsteps.StartStopStep):
    """Sends a thread pool's acknowledgements at once.

    Celery's event loop notices a finished task only when its poll ends, up to a second later. Until then the message
    counts against the prefetch limit, which caps a worker at `concurrency` tasks a second. A byte in a pipe ends the poll.
    """

    requires = ("celery.worker.components:Hub",)

    def start(self, parent: Any) -> None:
        hub = getattr(parent, "hub", None)
        if hub is None:
            return
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        plain = hub.call_soon

        def drain() -> None:
            with suppress(BlockingIOError):
                os.read(reader, 4096)

        def call_soon(callback: Any, *args: Any) -> Any:
            # Before the byte: it may end the poll at once, and the loop then looks for this.
            planned = plain(callback, *args)
            if reader not in hub.readers:  # the hub was reset because the broker had gone away
                hub.add_reader(reader, drain)
            with suppress(BlockingIOError):  # a full pipe ends the poll as well
                os.write(writer, b"!")
            return planned

        hub.add_reader(reader, drain)
        hub.call_soon = call_soon


def make_app(broker_url: str) -> Celery:
    """The application without tasks; `tasks.register` adds the tasks."""
    app = Celery("parallelix-keeper", set_as_current=False)
    app.conf.update(
        **policy(broker_url, VISIBILITY_SECONDS),
        # Failed is done: the next tick asks the database what is still due (ADR 0005).
        task_acks_on_failure_or_timeout=True,
        task_queues=[Queue(name, routing_key=name) for name in QUEUES],
        task_default_queue=INDEX,
        task_default_exchange="parallelix",
        task_soft_time_limit=SOFT_LIMIT_SECONDS,
        task_time_limit=HARD_LIMIT_SECONDS,
        worker_send_task_events=False,
        # A task outlives its broker: leases in the database keep a second delivery from its work.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        beat_scheduler="redbeat.RedBeatScheduler",
        # The scheduler renews its lock once a loop, so loops must be shorter than the lock.
        beat_max_loop_interval=1,
        redbeat_redis_url=broker_url,
        redbeat_redis_options={"socket_timeout": 10, "socket_connect_timeout": 5, "retry_period": 60},
        redbeat_key_prefix="parallelix:beat:",
        redbeat_lock_timeout=BEAT_LOCK_SECONDS,
        beat_schedule={
            tick.task: {
                "task": tick.task,
                "schedule": schedule(run_every=tick.every),
                "options": {"queue": tick.queue, "expires": max(2.0, 2 * tick.every)},
            }
            for tick in TICKS
        },
    )
    app.steps["worker"].add(WakeUp)
    return app


def run_worker(app: Celery, name: str, queues: tuple[str, ...], concurrency: int) -> None:
    """Run a thread-pool worker in this process until SIGTERM; running tasks are finished first."""
    worker = app.Worker(
        hostname=f"{name}@keeper",
        queues=list(queues),
        # Threads share what the dispatcher has learned of nodes, and mostly wait for others.
        pool="threads",
        concurrency=concurrency,
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()


def run_beat(app: Celery) -> None:
    """Run the scheduler in this process until SIGTERM. A second scheduler waits for the lock of the first."""
    app.Beat(loglevel="WARNING", quiet=True, pidfile=None).run()
