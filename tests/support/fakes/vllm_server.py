"""A real `vllm serve` on the CPU, for tests and benches."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.web_client import HTTP

ROOT = Path(__file__).parents[3]
VLLM = ROOT / ".vllm/bin/vllm"
TINY = ROOT / ".models/tiny-llama"
NEEDS_VLLM = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(not (VLLM.exists() and TINY.exists()), reason="no vLLM here: run `make setup`"),
]
"""Marks of a module that starts it."""
SMOLLM = ROOT / ".models/smollm2-135m-instruct"


@contextlib.contextmanager
def vllm_server(model: Path, port: int, log: Path, name: str = "m", seconds: float = 240) -> Iterator[str]:
    """Serve a model as `name`; gives the base URL. The whole process group dies with the block."""
    command = [
        str(VLLM), "serve", str(model), "--served-model-name", name, "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "float32", "--max-model-len", "512", "--enforce-eager", "--distributed-executor-backend", "uni",
        "--kv-cache-memory-bytes", "67108864", "--seed", "0",
    ]  # fmt: skip
    environment = {
        **os.environ,
        "PYTHONPATH": "",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, start_new_session=True, cwd=log.parent
        )
    try:
        url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if HTTP.get(f"{url}/health", timeout=2).status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"vLLM did not start: {log.read_text()[-1500:]}")
            time.sleep(0.2)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
