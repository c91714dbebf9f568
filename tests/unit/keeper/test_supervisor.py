"""Supervised children: restarted when they end, gone when the supervisor is, however it goes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from offchain.keeper.process.supervisor import (
    RESTART_LIMIT,
    ChildFailedError,
    SupervisedProcess,
    Supervisor,
    run_forked,
)


def until(check: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_watch_once__child_was_killed__is_started_again() -> None:
    supervisor = Supervisor()
    child = SupervisedProcess("sleeper", lambda: time.sleep(60))
    supervisor.start(child)
    first = child.pid
    os.kill(first, signal.SIGKILL)

    def replaced() -> bool:
        supervisor.watch_once()
        return child.pid not in (0, first)

    until(replaced)
    supervisor.stop()
    assert child.pid == 0


def test_watch_once__child_ends_again_and_again__gives_up() -> None:
    supervisor = Supervisor()
    child = SupervisedProcess("brief", lambda: None)
    supervisor.start(child)

    def over_the_limit() -> bool:
        supervisor.watch_once()
        return len(child.starts) > RESTART_LIMIT

    with pytest.raises(ChildFailedError, match="brief ended"):
        until(over_the_limit)
    supervisor.stop()


def test_stop__child_that_ignores_sigterm__is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offchain.keeper.process.supervisor.STOP_SECONDS", 0.3)
    supervisor = Supervisor()
    reader, writer = os.pipe()

    def stubborn() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(writer, b"!")
        time.sleep(60)

    child = SupervisedProcess("stubborn", stubborn)
    supervisor.start(child)
    assert os.read(reader, 1) == b"!"
    pid = child.pid
    supervisor.stop()
    assert gone(pid)
    os.close(reader)
    os.close(writer)


def test_supervisor__killed__children_die_with_it(tmp_path: Path) -> None:
    out = tmp_path / "pid"
    program = (
        "import time\nfrom pathlib import Path\nfrom offchain.keeper.process.supervisor import SupervisedProcess, Supervisor\n"
        "s = Supervisor()\nc = SupervisedProcess('orphan', lambda: time.sleep(60))\ns.start(c)\n"
        f"Path({str(out)!r}).write_text(str(c.pid))\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as parent:
        until(lambda: out.exists() and bool(out.read_text()))
        child = int(out.read_text())
        assert not gone(child)
        parent.kill()
        parent.wait(10)
    until(lambda: gone(child))


def test_run_forked__status__comes_back() -> None:
    assert run_forked(lambda: None) == 0
    assert run_forked(lambda: sys.exit(7)) == 7
