"""The demo's child processes: started, waited for, killed on purpose, and never left behind.

Every child inherits a marker in its environment, so that what descends from a run can be found even when it has moved to
a session of its own or lost its parent.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from offchain.errors import UserError
from offchain.runtime.child_processes import descendants, signal_process, signal_when_parent_ends

MARKER = "PARALLELIX_RUN_ID"


def _terminate_with_parent() -> None:
    signal_when_parent_ends(signal.SIGTERM)


def marked(run_id: str) -> list[int]:
    """Ids of all live processes whose environment carries the marker of `run_id`; zombies do not count."""
    needle = f"{MARKER}={run_id}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if needle in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    return found


def memory_mib(pids: Sequence[int]) -> int:
    """Memory of some processes in MiB: proportional set size, so that shared pages count once."""
    total_kib = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        total_kib += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total_kib // 1024


@dataclass
class DemoProcess:
    """One process of the demo.

    Attributes:
        name: what the story calls it.
        argv: command line.
        env: whole environment.
        log: file that receives its output.
        ready_file: appears once the process accepts traffic; None when readiness is judged elsewhere.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    ready_file: Path | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start it in a session of its own; it ends when the demo dies."""
        if self.ready_file is not None:
            # A file that an earlier process left would pass for this one's.
            self.ready_file.unlink(missing_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.argv,
                env=dict(self.env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the demo alone, which then ends them in order
                preexec_fn=_terminate_with_parent,  # noqa: PLW1509  one system call, no lock taken
            )

    @property
    def pid(self) -> int:
        """Process id. Raises RuntimeError before `start`."""
        if self.process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self.process.pid

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def ready_url(self) -> str | None:
        """URL it serves, or None while it is not ready. Raises UserError when it has ended."""
        if not self.alive():
            raise UserError(f"{self.name} ended early; {self.tail()} (whole log: {self.log})")
        if self.ready_file is None or not self.ready_file.exists():
            return None
        url: str = json.loads(self.ready_file.read_text())["url"]
        return url

    def tail(self) -> str:
        """Last line of its log that says something."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return f"it last said: {lines[-1].strip()[:300]}" if lines else "it said nothing"

    def kill_all(self) -> list[int]:
        """SIGKILL to the process and everything below it, at once; the ids that were killed."""
        pids = descendants(self.pid)
        for pid in pids:
            signal_process(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait(timeout=10)
        return pids


def stop(children: Sequence[DemoProcess], run_id: str, patience_seconds: float = 20.0) -> list[str]:
    """End children in reverse order of start, then whatever else carries the run's marker.

    Returns:
        Id and command line of each process that had to be killed because it did not leave when asked.
    """
    for child in reversed(children):
        if child.alive():
            signal_process(child.pid, signal.SIGTERM)
    deadline = time.monotonic() + patience_seconds
    for child in reversed(children):
        if child.process is not None:
            try:
                child.process.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                continue
    while marked(run_id) and time.monotonic() < deadline:
        time.sleep(0.05)
    stubborn = [f"{pid} {_command(pid)}" for pid in marked(run_id)]
    while left := marked(run_id):
        for pid in left:
            signal_process(pid, signal.SIGKILL)
        for child in children:
            child.alive()  # polls, so that what was killed is no zombie that still carries the marker
        time.sleep(0.05)
    return stubborn


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return "(ended meanwhile)"
