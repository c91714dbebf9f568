"""A model server: one that the agent starts and keeps alive, or one that somebody else runs.

::

    STARTING --healthy--> UP --exit, or 3 failed polls--> DOWN --back-off--> STARTING
"""

import asyncio
import contextlib
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

import aiohttp
import orjson
import structlog

from offchain.node.engines import launcher
from offchain.runtime.child_processes import kill_session
from offchain.runtime.redaction import endpoint_label

_log = structlog.get_logger(__name__)

_POLL_STARTING_SECONDS = 0.1
_POLL_UP_SECONDS = 1.0
_POLL_TIMEOUT_SECONDS = 5.0
_FAILED_POLLS = 3
_FIRST_BACKOFF_SECONDS = 0.1
_MAX_BACKOFF_SECONDS = 30.0
_STABLE_SECONDS = 60.0
_LOG_BYTES = 16 * 1024 * 1024
_LOG_FILES = 5
# The model server lives in a Python environment of its own.
_NOT_INHERITED = frozenset(("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"))


class EngineState(Enum):
    """State of a model server."""

    STARTING = "starting"
    UP = "up"
    DOWN = "down"
    STOPPED = "stopped"


class Engine(Protocol):
    """One model server, as the proxy sees it."""

    name: str
    url: str
    api_key: str | None
    state: EngineState
    restarts: int
    reason: str
    version: str | None

    async def run(self) -> None:
        """Keep `state` up to date until cancelled; then end everything that this object started."""


def _ignore(_engine: Engine) -> None:
    """Default of `on_change`."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """How to start one model server.

    Attributes:
        name: the model name that requesters use.
        command: program and arguments in front of `serve`.
        arguments: everything after the model folder except host, port and served name.
        environment: set over the agent's own environment.
        start_seconds: how long loading may take.
        stop_seconds: how long the server may take to end after SIGTERM.
    """

    name: str
    model_path: Path
    command: tuple[str, ...]
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    log_file: Path
    start_seconds: float = 300.0
    stop_seconds: float = 10.0


def vllm_arguments(
    backend: str, max_model_len: int, kv_cache_bytes: int, extra: Sequence[str]
) -> tuple[str, ...]:
    """Flags of `vllm serve` for a backend. On the CPU: one process, and float32, so that answers can be compared."""
    common = (
        "--max-model-len", str(max_model_len), "--seed", "0", "--scheduling-policy", "priority",
        "--shutdown-timeout", "5", "--disable-uvicorn-access-log",
    )  # fmt: skip
    if backend != "cpu":
        return (*common, *extra)
    return (
        *common, "--dtype", "float32", "--enforce-eager", "--distributed-executor-backend", "uni",
        "--kv-cache-memory-bytes", str(kv_cache_bytes), *extra,
    )  # fmt: skip


def vllm_environment(backend: str, cache: Path) -> dict[str, str]:
    """Environment of `vllm serve`: offline, without usage reports, caches in the node's own folder."""
    caches = {
        "HF_HOME": "huggingface",
        "VLLM_CACHE_ROOT": "vllm",
        "VLLM_CONFIG_ROOT": "vllm-config",
        "XDG_CACHE_HOME": "xdg",
        "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
        "TRITON_CACHE_DIR": "triton",
    }
    found = {name: os.environ.get(name) or str(cache / folder) for name, folder in caches.items()}
    found |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if backend == "cpu":
        found |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
    return found


def free_port() -> int:
    """A loopback TCP port that no process listens on now."""
    with socket.socket() as probe:
        # Another process may take the port before the server does; the next start chooses a new one.
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _get(session: aiohttp.ClientSession, url: str, api_key: str | None = None) -> bytes | None:
    """The body when a server answers 200, else None."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = aiohttp.ClientTimeout(total=_POLL_TIMEOUT_SECONDS)
    try:
        async with session.get(url, headers=headers, timeout=timeout) as answer:
            return await answer.read() if answer.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None


async def _healthy(session: aiohttp.ClientSession, url: str) -> bool:
    return await _get(session, f"{url}/health") is not None


async def _version(session: aiohttp.ClientSession, url: str) -> str | None:
    try:
        found = orjson.loads(await _get(session, f"{url}/version") or b"{}").get("version")
    except (ValueError, AttributeError):
        return None
    return str(found) if found else None


@dataclass(slots=True)
class SupervisedEngine:
    """Starts a model server on a free loopback port, and starts it again whenever the server ends or hangs.

    The server runs below a launcher that ends the server when this process is gone, also after SIGKILL.
    """

    spec: EngineSpec
    session: aiohttp.ClientSession
    on_change: Callable[[Engine], None] = _ignore
    clock: Callable[[], float] = time.monotonic
    name: str = field(init=False)
    url: str = field(default="", init=False)
    api_key: str | None = field(default=None, init=False)
    state: EngineState = field(default=EngineState.STARTING, init=False)
    restarts: int = field(default=0, init=False)
    reason: str = field(default="starting", init=False)
    version: str | None = field(default=None, init=False)
    launcher_pid: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.name = self.spec.name

    async def run(self) -> None:
        """Supervise until cancelled, then end the server: SIGTERM, and SIGKILL after its grace."""
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            up_since = None
            process = await self._start()
            try:
                up_since = await self._watch(process)
            finally:
                await self._end(process, asyncio.current_task())
            if up_since is not None and self.clock() - up_since >= _STABLE_SECONDS:
                backoff = _FIRST_BACKOFF_SECONDS
            self._set(EngineState.DOWN, self.reason)
            self.restarts += 1
            _log.warning("engine down", model=self.name, reason=self.reason, again_in_seconds=backoff)
            await asyncio.sleep(backoff)
            backoff = min(_MAX_BACKOFF_SECONDS, backoff * 2 if up_since is None else backoff * 4)

    async def _start(self) -> asyncio.subprocess.Process:
        spec = self.spec
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.api_key = secrets.token_urlsafe(32)  # on loopback every user of the machine could ask it
        self._set(EngineState.STARTING, "loading the model")
        spec.log_file.parent.mkdir(parents=True, exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        argv = (
            sys.executable, "-I", launcher.__file__, str(spec.log_file), str(_LOG_BYTES), str(_LOG_FILES),
            str(spec.stop_seconds), *spec.command, "serve", str(spec.model_path), "--served-model-name", spec.name,
            "--host", "127.0.0.1", "--port", str(port), *spec.arguments,
        )  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            # The key is not in argv, which every user of the machine can read.
            env={**inherited, **spec.environment, "VLLM_API_KEY": self.api_key},
            # `kill_session` finds by the session what the launcher leaves behind.
            start_new_session=True,
        )
        self.launcher_pid = process.pid
        _log.info(
            "engine starting", model=self.name, url=self.url, launcher=process.pid, log=str(spec.log_file)
        )
        return process

    async def _watch(self, process: asyncio.subprocess.Process) -> float | None:
        """Returns when the server must be started again: the time at which it came up, or None if it never did."""
        up_since: float | None = None
        failed = 0
        deadline = self.clock() + self.spec.start_seconds
        ended = asyncio.ensure_future(process.wait())
        try:
            while True:
                healthy = await _healthy(self.session, self.url)
                if healthy:
                    failed = 0
                    if up_since is None:
                        up_since = self.clock()
                        self.version = await _version(self.session, self.url)
                        self._set(EngineState.UP, "")
                        _log.info("engine up", model=self.name, url=self.url, version=self.version)
                elif up_since is not None:
                    failed += 1
                    if failed >= _FAILED_POLLS:
                        self.reason = "the model server does not answer its health check"
                        return up_since
                elif self.clock() > deadline:
                    self.reason = (
                        f"not healthy after {self.spec.start_seconds:.0f} s; see {self.spec.log_file}"
                    )
                    return None
                pause = _POLL_STARTING_SECONDS if up_since is None else _POLL_UP_SECONDS
                await asyncio.wait((ended,), timeout=pause)  # not wait_for: that would cancel `ended`
                if ended.done():
                    self.reason = (
                        f"the model server ended with status {ended.result()}; see {self.spec.log_file}"
                    )
                    return up_since
        finally:
            ended.cancel()

    async def _end(self, process: asyncio.subprocess.Process, task: asyncio.Task[None] | None) -> None:
        """End every process of the server; with SIGTERM first only when this engine is stopped for good."""
        stopping = task is not None and task.cancelling() > 0
        self._set(EngineState.STOPPED if stopping else EngineState.DOWN, self.reason)
        if process.returncode is None and process.stdin is not None:
            with contextlib.suppress(OSError):
                if stopping:
                    process.stdin.write(b"stop\n")
                else:
                    # End of file makes the launcher kill at once: a server that hangs gets no grace.
                    process.stdin.close()
            try:
                # Longer than the launcher's own patience, which ends with SIGKILL.
                await asyncio.wait_for(process.wait(), self.spec.stop_seconds + 10)
            except TimeoutError:
                _log.error("launcher hangs; killing its session", model=self.name, launcher=process.pid)
        kill_session(process.pid)  # whatever the launcher left behind
        if process.returncode is None:
            await process.wait()
        if process.stdin is not None:
            process.stdin.close()
        self.launcher_pid = None

    def _set(self, state: EngineState, reason: str) -> None:
        if state is EngineState.STOPPED:
            reason = "stopped"
        changed = state is not self.state
        self.state, self.reason = state, reason
        if changed:
            self.on_change(self)


@dataclass(slots=True)
class AttachedEngine:
    """An OpenAI-compatible server that somebody else runs, at `engine_url`."""

    name: str
    url: str
    api_key: str | None
    session: aiohttp.ClientSession
    on_change: Callable[[Engine], None] = _ignore
    state: EngineState = field(default=EngineState.STARTING, init=False)
    restarts: int = field(default=0, init=False)
    reason: str = field(default="not yet reached", init=False)
    version: str | None = field(default=None, init=False)

    async def run(self) -> None:
        """Poll its health until cancelled; a server without /health is asked for its models."""
        while True:
            healthy = await _healthy(self.session, self.url) or await self._lists_models()
            if healthy and self.version is None:
                self.version = await _version(self.session, self.url)
            state = EngineState.UP if healthy else EngineState.DOWN
            if state is not self.state:
                self.state = state
                self.reason = "" if healthy else f"{endpoint_label(self.url, 'engine_url')} does not answer"
                _log.info(
                    "engine", model=self.name, state=state.value, url=endpoint_label(self.url, "engine_url")
                )
                self.on_change(self)
            await asyncio.sleep(_POLL_UP_SECONDS if healthy else _POLL_STARTING_SECONDS * 5)

    async def _lists_models(self) -> bool:
        return await _get(self.session, f"{self.url}/v1/models", self.api_key) is not None
