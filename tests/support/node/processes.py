"""Agents as processes, their settings, and requests with tickets."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import tomli_w

from offchain.demo.network import DemoNode, LocalNetwork
from offchain.runtime.child_processes import descendants
from tests.support.fakes.vllm_server import VLLM
from tests.support.node.requests import STUB, ticket_headers, until


def register(
    network: LocalNetwork, node: DemoNode, config: Path, *extra: str, stake: str = "50000"
) -> subprocess.CompletedProcess[str]:
    owner = (
        "--owner-keystore",
        str(node.owner.keystore),
        "--owner-password-file",
        str(node.owner.password_file),
    )
    return command(
        network, "register", "--config", str(config), *owner, "--stake", stake, "--yes", "--json", *extra
    )


def settings_of(network: LocalNetwork, node: DemoNode, folder: Path, **changes: Any) -> Path:
    fields = {
        "data_dir": folder / "data",
        "ready_file": folder / "ready.json",
        "rpc_url": network.rpc_url,
        "deployment": network.places.run / "deployment.json",
        "keystore": node.key.keystore,
        "password_file": node.key.password_file,
        "heartbeat_receivers": [],
        "region": "eu",
        "served_model": "m",
        "model_path": network.places.root / ".models/tiny-llama",
        "vllm_command": [sys.executable, str(STUB)],
        "drain_seconds": 5,
        **changes,
    }
    path = folder / "node.toml"
    path.write_text(
        tomli_w.dumps(
            {
                key: str(value) if isinstance(value, Path) else value
                for key, value in fields.items()
                if value is not None
            }
        )
    )
    return path


def register_nodes(network: LocalNetwork, folder: Path) -> None:
    """Register both nodes of a network."""
    for node in network.nodes:
        place = folder / node.name
        place.mkdir()
        told = register(network, node, settings_of(network, node, place)).stdout
        node.node_id = json.loads(told)["node_id"]


def command(network: LocalNetwork, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        network.command("node", *words),
        env=network.environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@contextlib.contextmanager
def vllm_agent(
    network: LocalNetwork, node: DemoNode, folder: Path, *, seconds: float = 200, **changes: Any
) -> "Iterator[tuple[Agent, str]]":
    """A node's agent with the real vLLM behind it, and its URL once it is ready; killed with the block. Registers the node first
    if it is not."""
    config = settings_of(network, node, folder, **{"vllm_command": [str(VLLM)], **changes})
    if not node.node_id:
        node.node_id = json.loads(register(network, node, config).stdout)["node_id"]
    agent = Agent(network, config, folder)
    try:
        yield agent, agent.wait_ready(seconds)
    finally:
        agent.process.kill()
        agent.process.wait()


class Agent:
    """A started `parallelix node start`."""

    def __init__(self, network: LocalNetwork, config: Path, folder: Path, *flags: str) -> None:
        self.log = folder / "agent.log"
        self.network = network
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                network.command("node", "start", "--config", str(config), "--plain", *flags),
                env=network.environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.ready_file = folder / "ready.json"

    def wait_ready(self, seconds: float = 60) -> str:
        def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return self.ready_file.exists()

        until(ready, seconds, "the agent's ready file")
        return str(json.loads(self.ready_file.read_text())["url"])

    def tree(self) -> list[int]:
        return descendants(self.process.pid)[1:]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def command_line(pid: int) -> bytes:
    """Words of a process, each followed by a zero byte; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


async def _ask(url: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{url}/v1/chat/completions", data=body, headers=headers) as answer,
    ):
        return answer.status, await answer.read()


def ask(network: LocalNetwork, node: DemoNode, url: str, body: bytes, **changes: Any) -> tuple[int, bytes]:
    domain = network.deployment.signing_domain("NodeRegistryLocker")
    signer = changes.pop("signer", network.gateway_signer.signer)
    headers = ticket_headers(
        body, signer=signer, node=changes.pop("node_id", node.node_id), domain=domain, **changes
    )
    return asyncio.run(_ask(url, headers, body))
