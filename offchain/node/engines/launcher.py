"""Runs one model server and ends with it: a program of the standard library alone, started with `python -I`.

::

    agent ==stdin pipe==> launcher (own session) --> engine (own process group)

The launcher ends the engine and all that came from it when the agent asks (`stop` on stdin), when the agent is gone
(end of file on stdin: also after SIGKILL), and when the engine's first process ends. The engine in turn gets SIGKILL
from the kernel when the launcher is gone. What the engine prints goes to a log file of bounded size (`RotatingFile`).

Usage: launcher.py LOG_FILE MAX_BYTES KEEP GRACE_SECONDS COMMAND...
Exit status: that of the command; 128 + n when signal n ended it; 127 when it could not be started.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

# `python -I` looks for packages in the standard library alone.
if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from offchain.node.rotating_file import RotatingFile
from offchain.runtime.child_processes import adopt_orphans, signal_when_parent_ends


def _die_with_launcher() -> None:
    # A group of its own, so that a signal to the engine's processes does not meet the launcher.
    os.setpgid(0, 0)
    signal_when_parent_ends(signal.SIGKILL)


def _kill_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _children() -> list[int]:
    try:
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
        return [int(pid) for pid in text.split()]
    except (OSError, ValueError):
        return []


def _reap_all(deadline: float) -> None:
    """Kill and collect every process that was re-parented to this one, also those that moved to another group."""
    while time.monotonic() < deadline:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(0.01)


def _wake_up_pipe() -> int:
    """The end to read of a pipe that gets a byte for each signal, so that `select` returns; also when a child ends."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)  # a full pipe must not block a signal handler
    signal.set_wakeup_fd(wake_write)
    # Ignored signals wake nobody; one with a handler does.
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    return wake_read


def main(arguments: list[str]) -> int:
    """Run until the engine and every process that it started have ended."""
    path, max_bytes, keep, grace, *command = arguments
    log = RotatingFile(Path(path), int(max_bytes), int(keep))
    grace_seconds = float(grace)
    # Before the engine starts: helpers that lose their parent become our children (ADR 0061).
    adopt_orphans()
    wake_read = _wake_up_pipe()
    stop_asked = False

    def on_term(_number: int, _frame: object) -> None:
        nonlocal stop_asked
        stop_asked = True

    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGINT, on_term)
    try:
        engine = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_launcher,  # noqa: PLW1509  (one thread)
        )
    except OSError as error:
        log.append(f"launcher: {command[0]} cannot be started: {error.strerror}\n".encode())
        return 127
    output = engine.stdout.fileno() if engine.stdout is not None else -1
    os.set_blocking(output, False)
    selector = selectors.DefaultSelector()
    for source in (0, wake_read, output):
        selector.register(source, selectors.EVENT_READ)
    agent_gone = False
    kill_at: float | None = None
    while engine.poll() is None:
        timeout = None if kill_at is None else max(0.0, kill_at - time.monotonic())
        for key, _ in selector.select(timeout):
            source = int(key.fd)
            data = os.read(source, 65536)
            if source == output:
                log.append(data)
            elif source == 0:
                agent_gone = agent_gone or not data
                stop_asked = stop_asked or data.startswith(b"stop")
            if not data:
                selector.unregister(source)
        if stop_asked and kill_at is None:
            _kill_group(engine.pid, signal.SIGTERM)
            kill_at = time.monotonic() + grace_seconds
        if agent_gone or (kill_at is not None and time.monotonic() >= kill_at):
            _kill_group(engine.pid, signal.SIGKILL)
    # The first process has ended; its helpers perhaps have not.
    _kill_group(engine.pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        # Non-blocking: a helper that holds the pipe open ends the loop with an error.
        while rest := os.read(output, 65536):
            log.append(rest)
    _reap_all(time.monotonic() + 5)  # vLLM's helpers may have left its process group
    return engine.returncode if engine.returncode >= 0 else 128 - engine.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
