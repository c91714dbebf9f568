"""`make bench-smoke`: every bench, and every command of the Makefile that CI runs nowhere else, in its smallest form.

Shows that each of them still runs to its end; what they measure means nothing and goes to a temporary folder. Steps run two at
a time, for most wait more than they compute. The rivals of bench-gateway are left out: they would have to be downloaded.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LANES = 2
STEP_SECONDS = 600
"""Far more than any step takes: one that hangs ends."""


class StepError(Exception):
    """A step did not do what it should; the text says what it did."""


class Step(NamedTuple):
    """A command of the Makefile in its smallest form.

    Attributes:
        target: the command, for example `bench-node`.
        run: does it. Takes a folder for what it writes; raises StepError.
    """

    target: str
    run: Callable[[Path], None]


def make(*words: str, folder: Path = ROOT) -> None:
    """Run make, and end whatever it started when it takes too long."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            ["make", "--no-print-directory", *words],
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            code = process.wait(STEP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        log.seek(0)
        if code:
            raise StepError(f"exit status {code}\n{log.read().decode(errors='replace')[-3000:]}")


def measured(target: str, *results: str) -> Step:
    """A bench that must leave these files of results."""

    def run(folder: Path) -> None:
        make(target, "SMOKE=1", f"RESULTS={folder}")
        for name in results:
            if not json.loads((folder / name).read_text()):
                raise StepError(f"{name} has no figures")

    return Step(target, run)


def screenshots(folder: Path) -> None:
    """One page in each look, into another folder than docs/."""
    make("screenshots", "SMOKE=1", f"OUT={folder}")
    if not list(folder.glob("*.png")):
        raise StepError("there is no picture")


def demo(_folder: Path) -> None:
    """The network until its chain and contracts are there, then Ctrl-C: everything ends and nothing stays behind.

    The whole story is `make demo-check`'s.
    """
    runs = ROOT / ".run"
    before = set(runs.glob("demo-*"))
    process = subprocess.Popen(
        ["make", "--no-print-directory", "demo", "ARGS=--json"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    begun, said = time.monotonic(), []
    try:
        for line in process.stdout:
            said.append(line)
            if '"kind": "step"' in line or time.monotonic() - begun > STEP_SECONDS:
                break
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if not said or '"kind": "step"' not in said[-1]:
        raise StepError(f"no step was told\n{''.join(said)[-3000:]}")
    for run in set(runs.glob("demo-*")) - before:
        left = [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if str(run) in _text(path)]
        if left:
            raise StepError(f"processes {', '.join(left)} are still there")
        shutil.rmtree(run)


def _text(path: Path) -> str:
    """A file of /proc; empty when its process has ended meanwhile."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def format_and_clean(folder: Path) -> None:
    """In a copy of the checkout: formatting changes no file, and cleaning leaves exactly the files that are kept."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, stdout=subprocess.PIPE, check=True,
    ).stdout  # fmt: skip
    kept = [name for name in os.fsdecode(listed).split("\0") if name and (ROOT / name).is_file()]
    for name in kept:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    for name in (".venv", "node_modules", ".build/bin", ".build/solc"):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).symlink_to((ROOT / name).resolve())
    make("format", folder=folder)
    changed = [name for name in kept if (folder / name).read_bytes() != (ROOT / name).read_bytes()]
    if changed:
        raise StepError(f"make format would rewrite {', '.join(changed)}")
    make("clean", folder=folder)
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if left != set(kept):
        raise StepError(f"make clean leaves {sorted(left - set(kept))} and takes {sorted(set(kept) - left)}")


KEEPER = measured("bench-keeper", "keeper.json")
STEPS = (
    measured("bench-gateway", "gateway.json"),
    KEEPER,
    Step("bench-backfill", KEEPER.run),  # bench-keeper begins with it
    measured("bench-node", "node.json"),
    measured("bench-dashboard", "dashboard.json"),
    measured("bench-gas", "gas.json"),
    Step("screenshots", screenshots),
    Step("demo", demo),
    Step("format", format_and_clean),
    Step("clean", format_and_clean),
    Step("lock", lambda _folder: make("lock", "ARGS=--check")),
    Step("help", lambda _folder: make("help")),
    Step("test-one", lambda _folder: make("test-one", "T=tests/unit/domain/test_amounts.py")),
)


def take(step: Step) -> bool:
    """Run a step in a folder of its own, and say how it went."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"bench-smoke-{step.target}-") as folder:
        try:
            step.run(Path(folder))
        except (StepError, OSError, ValueError, subprocess.SubprocessError) as error:
            print(f"bench-smoke: {step.target} FAILED: {error}", flush=True)
            return False
    print(f"bench-smoke: {step.target} ran to its end in {time.monotonic() - begun:.0f} s", flush=True)
    return True


def main() -> int:
    """Run every step once; 1 when one failed."""
    print(
        "bench-smoke: figures mean nothing here and are thrown away; bench-gateway runs without its rivals",
        flush=True,
    )
    once = list({step.run: step for step in reversed(STEPS)}.values())[::-1]
    with ThreadPoolExecutor(LANES) as lanes:
        return 0 if all(list(lanes.map(take, once))) else 1


if __name__ == "__main__":
    sys.exit(main())
