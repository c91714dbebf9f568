"""Contenders (our gateway and its rivals), stub nodes and load of the gateway bench: each a process pinned to a core."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from offchain.runtime.child_processes import descendants
from tests.support.services.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
RIVAL_KEY = "sk-bench-0123456789abcdef0123456789abcdef"
_PROCESS_CLOCK = 2  # clock_getcpuclockid(3): CPUCLOCK_SCHED of a whole process, which outlives its threads
ROUTER_CORE, LOAD_CORE = ("0", "1") if (os.cpu_count() or 1) > 1 else ("0", "0")


def wait_until(check: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll until `check` holds. Raises RuntimeError when it never does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError, OSError):
            if check():
                return
        time.sleep(0.05)
    raise RuntimeError(f"{what} within {seconds:g} s")


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and its descendants; threads and children that have ended count."""
    total = 0.0
    for one in descendants(pid):
        with contextlib.suppress(OSError, IndexError):
            fields = (Path("/proc") / str(one) / "stat").read_text().rsplit(")", 1)[1].split()
            children = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
            total += time.clock_gettime(~one << 3 | _PROCESS_CLOCK) + children
    return total


def rss_mib(pid: int) -> float:
    """Resident memory of a process, MiB."""
    for line in (Path("/proc") / str(pid) / "status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def pin(pid: int, core: str) -> None:
    """Keep a process and its descendants on one core."""
    for one in descendants(pid):
        subprocess.run(["taskset", "-apc", core, str(one)], stdout=subprocess.DEVNULL, check=False)


@dataclass
class Contender:
    """Something that answers OpenAI requests on a URL."""

    name: str
    url: str
    pid: int
    key: str = "none"


def load(contender: Contender, **spec: Any) -> dict[str, Any]:
    """Run the load generator against a contender."""
    asked = json.dumps({"url": contender.url, "key": contender.key, **spec})
    done = subprocess.run(
        _load_command(asked),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=3600,
    )
    if done.returncode:
        raise RuntimeError(f"load on {contender.name} failed: {done.stderr[-500:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def start_load(contender: Contender, **spec: Any) -> "subprocess.Popen[str]":
    """As `load`, in the background: its standard output is the result."""
    asked = json.dumps({"url": contender.url, "key": contender.key, **spec})
    return subprocess.Popen(
        _load_command(asked),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def _load_command(asked: str) -> list[str]:
    return ["taskset", "-c", LOAD_CORE, sys.executable, "-m", "bench.gateway.load", asked]


def rival_commands(envs: Path, urls: list[str], port: int, folder: Path) -> dict[str, list[str]]:
    """Name -> command of each rival that is installed."""
    address = ["--host", "127.0.0.1", "--port", str(port)]
    workers = ["--worker-urls", *urls]
    quiet = ["--log-level", "error"]
    config = folder / "litellm.yaml"
    models = [
        {
            "model_name": "bench-model",
            "litellm_params": {"model": "openai/bench-model", "api_base": f"{url}/v1", "api_key": "none"},
        }
        for url in urls
    ]
    config.write_text(json.dumps({"model_list": models, "litellm_settings": {"telemetry": False}}))
    own_metrics = ["--prometheus-port", str(free_port())]
    vllm_router = str(envs / "vllm-router/bin/vllm-router")
    found = {
        "vllm_router_round_robin": [vllm_router, *workers, *address, "--policy", "round_robin", *quiet, *own_metrics],
        "vllm_router_cache_aware": [vllm_router, *workers, *address, "--policy", "cache_aware", *quiet, *own_metrics],
        "sglang_router": [
            str(envs / "sglang-router/bin/sglang-router"), "launch", *workers, *address, "--policy", "cache_aware",
            *quiet, *own_metrics,
        ],
        "litellm": [str(envs / "litellm/bin/litellm"), "--config", str(config), *address, "--num_workers", "1"],
    }  # fmt: skip
    return {name: command for name, command in found.items() if Path(command[0]).exists()}


class Rival:
    """A foreign router, for as long as the `with` block lasts."""

    def __init__(self, name: str, envs: Path, urls: list[str], folder: Path) -> None:
        self._port = free_port()
        self._command = rival_commands(envs, urls, self._port, folder).get(name)
        self._name = name
        self._log = folder / f"{name}.log"

    def __enter__(self) -> Contender:
        if self._command is None:
            raise RuntimeError(f"{self._name} is not installed")
        environment = {
            **os.environ,
            "PYTHONPATH": "",
            "LITELLM_LOG": "ERROR",
            "LITELLM_MASTER_KEY": RIVAL_KEY,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "NO_PROXY": "*",
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, start_new_session=True, env=environment
            )
        url = f"http://127.0.0.1:{self._port}"
        body = {"model": "bench-model", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
        try:
            headers = {"Authorization": f"Bearer {RIVAL_KEY}"}
            wait_until(
                lambda: (
                    httpx.post(
                        f"{url}/v1/chat/completions", json=body, headers=headers, timeout=5
                    ).status_code
                    == 200
                ),
                120,
                f"{self._name} did not answer",
            )
        except RuntimeError:
            self.__exit__()
            raise
        pin(self._process.pid, ROUTER_CORE)
        return Contender(self._name, url, self._process.pid, RIVAL_KEY)

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)


def stub_spec(
    rig: Any, node_id: int, contracts: dict[str, str], chain_id: int, **changes: Any
) -> dict[str, Any]:
    """Spec of a bench stub whose heartbeats go to the rig's gateways."""
    from bench.gateway.stub import StubSpec

    spec = StubSpec(
        node_id=node_id,
        key=rig.node_keys[node_id].hex(),
        chain_id=chain_id,
        nodes_contract=contracts["NodeRegistryLocker"],
        market_contract=contracts["InferenceMarket"],
        fronts=[gateway.url for gateway in rig.gateways],
    )
    return {**asdict(spec), **changes}
