"""Child processes that never outlive their parent: the few Linux calls that whoever starts processes needs.

Only the standard library: `offchain/node/engines/launcher.py` runs in an interpreter without any package.
"""

import ctypes
import os
import signal
import sys

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
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, so that they can be found and collected."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def name_process(name: str) -> None:
    """Set the name that `ps -o comm` shows, cut to 15 bytes."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]))


def _prctl(option: int, value: "int | ctypes.c_char_p") -> None:
    if sys.platform == "linux":
        _libc.prctl(option, value, 0, 0, 0)
