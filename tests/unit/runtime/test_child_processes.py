"""What the supervisors share: who descends from whom, which processes a session has, how they are ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from offchain.runtime.child_processes import descendants, kill_session, processes, signal_process

TREE = "import subprocess,sys,time; subprocess.Popen(['sleep','60']); print('up', flush=True); time.sleep(60)"


@pytest.fixture
def leader() -> Iterator[subprocess.Popen[str]]:
    """A process that leads a session of its own and has one child."""
    with subprocess.Popen(
        [sys.executable, "-c", TREE], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
        kill_session(process.pid)


def test_processes__this_one__has_its_parent_and_session() -> None:
    found = {process.pid: process for process in processes()}[os.getpid()]
    assert (found.parent, found.session) == (os.getppid(), os.getsid(0))


def test_descendants__tree__is_parents_first(leader: subprocess.Popen[str]) -> None:
    tree = descendants(leader.pid)
    assert len(tree) == 2
    assert tree[0] == leader.pid
    assert leader.pid in descendants(os.getpid())


def test_kill_session__tree__ends_all_of_it_and_nobody_else(leader: subprocess.Popen[str]) -> None:
    _, child = descendants(leader.pid)
    kill_session(leader.pid)
    assert leader.wait(timeout=10) == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while any(one.pid == child and one.state != "Z" for one in processes()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert all(one.pid != child or one.state == "Z" for one in processes())


def test_signal_process__ended_process__is_no_error(leader: subprocess.Popen[str]) -> None:
    kill_session(leader.pid)
    leader.wait(timeout=10)
    signal_process(leader.pid, signal.SIGTERM)
