"""Real gateways and stub nodes as child processes, with real keys, an index database and a deployment file of the test's own.

Example::

    rig = Rig(tmp_path)
    gateway = rig.gateway()
    rig.node(1)
    HTTP.post(f"{gateway.url}/v1/chat/completions", json=..., headers=rig.auth)
    rig.close()
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w

from offchain.crypto.keys import Signer, create_keystore
from offchain.db.database import open_database
from offchain.db.migrations import upgrade
from offchain.db.models import Cursor
from offchain.domain.eip712 import keccak256
from offchain.gateway.tenants.api_keys import create_key
from offchain.protocol import headers
from tests.support.factories import make_node
from tests.support.fakes.stub_node import Spec
from tests.support.web_client import HTTP

ROOT = Path(__file__).parents[3]
CONTRACTS = {
    "NodeRegistryLocker": "0x00000000000000000000000000000000000000a1",
    "InferenceMarket": "0x00000000000000000000000000000000000000a2",
    "UptimeAttestation": "0x00000000000000000000000000000000000000a3",
}
CHAIN_ID = 31337


def wait_for(check: Callable[[], Any], seconds: float = 60.0, what: str = "it") -> Any:
    """Poll until `check` returns something true, and return it. Raises AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = check()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"{what} did not happen within {seconds} s")


class Process:
    """A child process that prints one line of JSON when it is ready."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        with log.open("ab") as errors:
            self.popen = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        if not line:
            self.popen.wait(5)
            raise AssertionError(f"{command} died: {log.read_text()[-2000:]}")
        try:
            ready = json.loads(line)
        except ValueError:
            self.kill()
            raise AssertionError(f"{command} said {line!r} instead of being ready") from None
        self.url: str = ready["url"]
        self.pid: int = ready["pid"]

    @property
    def resident_mib(self) -> float:
        """Resident memory in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGKILL)
        self.popen.wait(10)
        if self.popen.stdout is not None:
            self.popen.stdout.close()

    def terminate(self) -> int:
        """SIGTERM, and wait; returns the exit status."""
        self.popen.send_signal(signal.SIGTERM)
        status = self.popen.wait(60)
        if self.popen.stdout is not None:
            self.popen.stdout.close()
        return status


class StubProcess(Process):
    """A stub node's process."""

    def __init__(self, spec: Spec, folder: Path) -> None:
        self.spec = spec
        path = folder / f"node-{spec.node_id}-{secrets.token_hex(3)}.json"
        path.write_text(json.dumps(asdict(spec)))
        super().__init__(
            [sys.executable, str(ROOT / "tests/support/fakes/stub_node.py"), "--spec", str(path)],
            path.with_suffix(".log"),
        )

    def set(self, **changes: Any) -> None:
        """Change fields of the running node's `Spec`."""
        HTTP.post(f"{self.url}/stub", json=changes).raise_for_status()

    def state(self) -> dict[str, Any]:
        """The node's state, as its `/stub` shows it."""
        state: dict[str, Any] = HTTP.get(f"{self.url}/stub").json()
        return state


class Rig:
    """One or more gateways and their nodes; node ids are 1 to `nodes`."""

    def __init__(self, folder: Path, nodes: int = 8) -> None:
        self.folder = folder
        self.signer_key = secrets.token_bytes(32)
        self.signer = Signer.from_key(self.signer_key)
        self.node_keys = {i: secrets.token_bytes(32) for i in range(1, nodes + 1)}
        self.processes: list[Process] = []
        self.gateways: list[Process] = []
        self.database_url = f"sqlite:///{folder}/index.db"
        self._write_index()
        self.deployment = folder / "deployment.json"
        self.deployment.write_text(json.dumps(_deployment()))
        self.password = folder / "password"
        self.password.write_text("rig")
        self.password.chmod(0o600)
        self.keystore = folder / "gateway.keystore.json"
        create_keystore(self.keystore, self.password, self.signer_key)
        self.keys_file = folder / "keys.json"
        self.api_key = create_key(self.keys_file, "alice")
        self.other_key = create_key(self.keys_file, "bob")

    def _write_index(self) -> None:
        upgrade(self.database_url)
        database = open_database(self.database_url)
        with database.write() as session:
            for node_id, key in self.node_keys.items():
                session.add(make_node(node_id, key_address=Signer.from_key(key).address))
            session.add(
                Cursor(
                    name="head", block_number=1, block_hash="0x" + "11" * 32, block_timestamp=int(time.time())
                )
            )
        database.close()

    @property
    def url(self) -> str:
        return self.gateways[0].url

    def gateway(self, **settings: Any) -> Process:
        """Start a gateway; `settings` are fields of `GatewaySettings`."""
        number = len(self.gateways)
        fields = {
            "data_dir": str(self.folder / f"gateway-{number}"),
            "ready_file": str(self.folder / f"gateway-{number}.ready"),
            "rpc_url": "http://127.0.0.1:1",
            "deployment": str(self.deployment),
            "database_url": self.database_url,
            "port": 0,
            "keystore": str(self.keystore),
            "password_file": str(self.password),
            "api_keys_file": str(self.keys_file),
            **settings,
        }
        config = self.folder / f"gateway-{number}.toml"
        config.write_text(tomli_w.dumps(fields))
        process = Process(
            [sys.executable, "-m", "offchain", "gateway", "start", "--config", str(config), "--json"],
            self.folder / f"gateway-{number}.log",
        )
        self.gateways.append(process)
        self.processes.append(process)
        return process

    def node(self, node_id: int, *, wait: bool = True, **changes: Any) -> StubProcess:
        """Start a stub node and wait until the first gateway routes to it; `changes` are fields of `Spec`."""
        fields: dict[str, Any] = {
            "fronts": [g.url for g in self.gateways],
            "key": self.node_keys[node_id].hex(),
            "gateway_signer": self.signer.address,
            "chain_id": CHAIN_ID,
            "nodes_contract": CONTRACTS["NodeRegistryLocker"],
            "market_contract": CONTRACTS["InferenceMarket"],
            **changes,
        }
        process = StubProcess(Spec(node_id, **fields), self.folder)
        self.processes.append(process)
        if wait:
            wait_for(lambda: self.sees(process), what=f"node {node_id} is known")
        return process

    def sees(self, node: StubProcess) -> bool:
        """Whether a request that is pinned to this node is answered by the first gateway."""
        answer = HTTP.post(
            f"{self.url}/v1/chat/completions",
            json={"model": node.spec.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1},
            headers={**self.auth, headers.NODE: str(node.spec.node_id)},
        )
        return answer.status_code == 200

    def sees_model(self, model: str) -> bool:
        """Whether the first gateway lists a model."""
        listed = HTTP.get(f"{self.url}/v1/models", headers=self.auth).json()
        return any(entry["id"] == model for entry in listed["data"])

    def node_key_address(self, node_id: int) -> str:
        """The address of a node's key."""
        return Signer.from_key(self.node_keys[node_id]).address

    @property
    def auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"}

    def close(self) -> None:
        """Kill every gateway and node."""
        for process in self.processes:
            process.signal(signal.SIGCONT)
            process.kill()


def _deployment() -> dict[str, Any]:
    zero = "0x" + keccak256(b"rig").hex()
    return {
        "version": 1,
        "chain_id": CHAIN_ID,
        "network": "local",
        "deployed_at_block": 1,
        "genesis": 1_000,
        "epoch_length": 100,
        "slots_per_epoch": 10,
        "contracts": {
            name: {
                "address": address,
                "block": 1,
                "tx_hash": zero,
                "abi_hash": zero,
                "code_hash": zero,
                "abi": [],
            }
            for name, address in CONTRACTS.items()
        },
    }
