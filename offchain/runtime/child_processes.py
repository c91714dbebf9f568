"""Child processes that never outlive their parent: the Linux calls and /proc reads that every supervisor shares.

The supervisors themselves differ in what a child is, so each stays in its room: the keeper forks functions
(`keeper/process/supervisor.py`), the agent runs model servers in sessions (`node/engines/`), the gateway starts a worker
with pipes (`gateway/records/`), the demo starts commands with log files (`demo/processes.py`).

Only the standard library: `offchain/node/engines/launcher.py` runs in an interpreter without any package.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
# Opened now: between fork and exec of a process with threads, nothing may take the loader's lock.
_libc = ctypes.CDLL(None, use_errno=True)


def signal_when_parent_ends(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when the thread that started it ends. Fit for a `preexec_fn`."""
    _prctl(_PR_SET_PDEATHSIG, number)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies; ends it at once when that has happened already."""
    signal_when_parent_ends(signal.SIGKILL)
    # The parent may have died before the kernel was told.
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, so that they can be found and collected."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def name_process(name: str) -> None:
    """Set the name that `ps -o comm` shows, cut to 15 bytes."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]))


class ProcessState(NamedTuple):
    """A process as /proc/<pid>/stat shows it; `state` is a letter, `Z` for one that ended and was not collected."""

    pid: int
    state: str
    parent: int
    session: int


def processes() -> Iterator[ProcessState]:
    """All processes of this machine that can be read."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            # proc_pid_stat(5): the command's name, in brackets, may itself hold spaces and brackets.
            state, parent, _group, session, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            yield ProcessState(int(entry.name), state, int(parent), int(session))


def descendants(pid: int) -> list[int]:
    """`pid` and all processes below it, parents first."""
    children: dict[int, list[int]] = {}
    for process in processes():
        children.setdefault(process.parent, []).append(process.pid)
    tree = [pid]
    for parent in tree:
        tree.extend(children.get(parent, []))
    return tree


def kill_session(session: int) -> None:
    """SIGKILL to every process of a session; nothing happens when there is none."""
    for process in processes():
        if process.session == session and process.state != "Z":
            signal_process(process.pid, signal.SIGKILL)


def signal_process(pid: int, number: signal.Signals) -> None:
    """Send a signal; nothing happens when the process has ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _prctl(option: int, value: "int | ctypes.c_char_p") -> None:
    if sys.platform == "linux":
        _libc.prctl(option, value, 0, 0, 0)
