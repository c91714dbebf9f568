"""The keeper's child processes: forked, restarted when they end, and gone when the supervisor is gone.

Children are forked after everything heavy is imported, so they share the supervisor's memory. The keeper's key reaches
them in memory and never through arguments, environment or files. Each child leads a process group of its own, and the
kernel kills it when the supervisor dies, however the supervisor dies (PR_SET_PDEATHSIG).

::

    supervisor = Supervisor()
    signal.signal(signal.SIGTERM, supervisor.request_stop)
    supervisor.start(SupervisedProcess("beat", run_beat))
    while not supervisor.stopping:
        supervisor.watch_once()
        time.sleep(0.5)
    supervisor.stop()
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn

import structlog

from offchain.runtime.child_processes import die_with, name_process

log = structlog.get_logger(__name__)

STOP_SECONDS = 10.0
"""Children that still run this long after SIGTERM are killed."""
RESTART_LIMIT, RESTART_WINDOW_SECONDS = 5, 60.0
"""A child that ends this often within this time is not restarted: the keeper ends with an error."""


class ChildFailedError(Exception):
    """A child ended too often, or before the keeper was ready."""


@dataclass
class SupervisedProcess:
    """One child process.

    Attributes:
        name: shown in logs and in `ps`.
        run: what the child does; the child ends when it returns. It may replace the process (exec).
        stop_order: children are asked to end in ascending order; those of 1 only when all of 0 are gone.
    """

    name: str
    run: Callable[[], None]
    stop_order: int = 0
    pid: int = 0
    starts: list[float] = field(default_factory=list)


class Supervisor:
    """Starts children, restarts those that end, stops all of them. Use it in the main thread only."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, restart_limit: int = RESTART_LIMIT
    ) -> None:
        self._clock = clock
        self._restart_limit = restart_limit
        self._parent = os.getpid()
        self.stopping = False
        self.children: list[SupervisedProcess] = []

    def request_stop(self, *_: object) -> None:
        """Signal handler: leave `watch` at the next step."""
        self.stopping = True

    def start(self, child: SupervisedProcess) -> None:
        """Start a child and keep it running from now on."""
        if child not in self.children:
            self.children.append(child)
        child.starts = [at for at in child.starts if at > self._clock() - RESTART_WINDOW_SECONDS]
        child.starts.append(self._clock())
        sys.stdout.flush()  # else the child inherits the buffered text and writes it a second time
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self._become(child)
        child.pid = pid
        with suppress(OSError):  # in both processes, so that the group exists before anybody signals it
            os.setpgid(pid, pid)
        log.info("child_started", child=child.name, pid=pid)

    def reap(self) -> list[SupervisedProcess]:
        """Children that have ended since the last call."""
        ended = []
        for child in self.children:
            if not child.pid:
                continue
            with suppress(ChildProcessError):
                pid, status = os.waitpid(child.pid, os.WNOHANG)
                if pid == 0:
                    continue
                log.warning(
                    "child_ended", child=child.name, pid=pid, status=os.waitstatus_to_exitcode(status)
                )
            child.pid = 0
            ended.append(child)
        return ended

    def watch_once(self) -> None:
        """Restart children that have ended. Raises ChildFailedError when one ended too often."""
        for child in self.reap():
            if len(child.starts) >= self._restart_limit:
                raise ChildFailedError(
                    f"{child.name} ended {len(child.starts)} times within {RESTART_WINDOW_SECONDS:.0f} s"
                )
            self.start(child)

    def stop(self) -> None:
        """Send every child SIGTERM, in `stop_order`, and kill those that still run after `STOP_SECONDS`."""
        for order in sorted({child.stop_order for child in self.children}):
            group = [child for child in self.children if child.stop_order == order and child.pid]
            for child in group:
                _signal_group(child.pid, signal.SIGTERM)
            deadline = self._clock() + STOP_SECONDS
            while any(child.pid for child in group) and self._clock() < deadline:
                self.reap()
                time.sleep(0.02)
            for child in group:
                if child.pid:
                    log.warning("child_killed", child=child.name, pid=child.pid)
                    _signal_group(child.pid, signal.SIGKILL)
                    os.waitpid(child.pid, 0)
                    child.pid = 0

    def _become(self, child: SupervisedProcess) -> NoReturn:
        def run() -> None:
            # By pid: the supervisor may have died between the fork and this line.
            die_with(self._parent)
            os.setpgid(0, 0)
            name_process(child.name)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            child.run()

        _run_and_exit(run)


def run_forked(task: Callable[[], None]) -> int:
    """Run a task in a child process of its own and wait for it. Returns the child's exit status.

    An error ends the child with status 1 and its trace on stderr; `sys.exit(n)` in the task with status n.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _run_and_exit(task)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def _run_and_exit(task: Callable[[], None]) -> NoReturn:
    """The whole life of a forked child: run the task and exit without the parent's cleanup (`os._exit`)."""
    code = 1
    try:
        task()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except KeyboardInterrupt:
        code = 130
    except BaseException:  # noqa: BLE001 - nothing above this catches it; the trace goes to the process's log
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _signal_group(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
