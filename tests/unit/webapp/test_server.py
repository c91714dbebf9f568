"""`parallelix dashboard start` as a process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.support.services.contracts import Network
from tests.support.webapp.seed import SeededNetwork


def config(net: SeededNetwork, rpc_url: str, **more: object) -> Path:
    lines = {
        "data_dir": str(net.folder / "dashboard"),
        "ready_file": str(net.folder / "ready.json"),
        "rpc_url": rpc_url,
        "deployment": str(net.deployment),
        "database_url": net.url,
        "port": 0,
        **more,
    }
    path = net.folder / "dashboard.toml"
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items()))
    return path


def command(*args: str) -> list[str]:
    return [sys.executable, "-c", "from offchain.cli import main; main()", "dashboard", "start", *args]


@pytest.mark.anvil
def test_start__free_port__serves_and_stops_without_a_trace(
    empty_net: SeededNetwork, network: Network, built_assets: Path
) -> None:
    path = config(empty_net, network.anvil.url, deployment=str(network.deployment.path))
    process = subprocess.Popen(
        command("--config", str(path), "--json"), stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout
        ready = json.loads(process.stdout.readline())
        assert ready == json.loads((empty_net.folder / "ready.json").read_text())
        assert ready["pid"] == process.pid
        answer = httpx.get(ready["url"] + "/", headers={"Accept-Encoding": "gzip"}, trust_env=False)
        assert answer.status_code == 200
        assert answer.headers["Content-Encoding"] == "gzip"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        if process.stdout:
            process.stdout.close()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("a worker outlived the dashboard")


@pytest.mark.parametrize("case", ["missing config", "unknown field", "taken port", "foreign deployment"])
def test_start__mistake__is_one_line_and_exit_2(empty_net: SeededNetwork, case: str) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        path = config(empty_net, "http://127.0.0.1:1")
        if case == "missing config":
            path = empty_net.folder / "none.toml"
        elif case == "unknown field":
            path = config(empty_net, "http://127.0.0.1:1", colour="green")
        elif case == "taken port":
            path = config(empty_net, "http://127.0.0.1:1", port=port)
        else:
            (empty_net.folder / "deployment.json").write_text("{}")
        done = subprocess.run(
            command("--config", str(path)), capture_output=True, text=True, timeout=30, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1
