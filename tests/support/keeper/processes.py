"""A network around real keeper processes: anvil, contracts, a real gateway, stub nodes; short epochs, bounded waits."""

import hashlib
import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import redis
import tomli_w

from offchain.chain.deployment import Deployment
from offchain.crypto.keys import Signer, create_keystore
from offchain.domain.eip712 import keccak256
from offchain.domain.epochs import EpochClock
from offchain.runtime.crash_points import VARIABLE as CRASH_VARIABLE
from tests.support.fakes.stub_node import Spec
from tests.support.gateway.processes import Process, StubProcess, wait_for
from tests.support.services.anvil import KEYS, Anvil
from tests.support.services.contracts import Network, deploy
from tests.support.services.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
MODEL = "stub-model"
REGIONS = ("eu", "us", "ap", "eu")
OPERATOR = 5
NODE_KEYS = (6, 7, 8, 9)
GATEWAY_KEY = hashlib.sha256(b"the rig's gateway").digest()

__all__ = ["KeeperProcess", "KeeperRig", "alive", "wait_for"]


class KeeperProcess(Process):
    """A `parallelix keeper start`."""

    def child(self, name: str) -> int:
        """Process id of a child by its name; 0 while there is none."""
        for pid in _children(self.popen.pid):
            with suppress(FileNotFoundError, ProcessLookupError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == name and alive(pid):
                    return pid
        return 0

    def kill_child(self, name: str) -> int:
        """SIGKILL to a child by its name, which a new child takes a moment to have; its process id."""
        victim: int = wait_for(lambda: self.child(name), what=f"a child {name}")
        os.kill(victim, signal.SIGKILL)
        return victim

    def family(self) -> list[int]:
        """Process ids of the supervisor and all that is below it."""
        found, queue = [], [self.popen.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            queue += _children(pid)
        return found

    def terminate(self) -> int:
        """SIGTERM, and wait; returns the exit status."""
        self.popen.send_signal(signal.SIGTERM)
        status = self.popen.wait(60)
        if self.popen.stdout is not None:
            self.popen.stdout.close()
        return status


class KeeperRig:
    """Everything that a keeper needs around it.

    Args:
        bonded: keepers in the registry; account i + 1 is keeper i.
        nodes: (owner's account, tier) of each node.
    """

    def __init__(
        self,
        anvil: Anvil,
        folder: Path,
        *,
        bonded: int = 4,
        epoch_seconds: int = 20,
        slots: int = 5,
        nodes: Sequence[tuple[int, int]] = ((OPERATOR, 1), (OPERATOR, 1)),
    ) -> None:
        self.folder = folder
        self.bonded = bonded
        path = folder / "deployment.json"
        deploy(
            anvil.url,
            path,
            {
                "epoch_length": str(epoch_seconds),
                "slots_per_epoch": str(slots),
                "submit_window": "60",
                "challenge_window": "3",
                "cooldown": str(6 * epoch_seconds),
                "leave_delay": str(6 * epoch_seconds + 600),
            },
        )
        self.network = Network(anvil, Deployment.load(path))
        self.clock: EpochClock = self.network.deployment.clock()
        self.crash = folder / "crash"
        self.crash.mkdir()
        self.processes: list[Process] = []
        self.keepers: dict[int, KeeperProcess] = {}
        self.nodes: dict[int, StubProcess] = {}
        self.ports = {f"keeper-{i}": free_port() for i in range(bonded)} | {"gateway": free_port()}
        self.gateway_signer = Signer.from_key(GATEWAY_KEY)
        self.api_key = "plx-" + secrets.token_urlsafe(16)
        (folder / "api-key").write_text(self.api_key)
        (folder / "api-keys.json").write_text(
            json.dumps({hashlib.sha256(self.api_key.encode()).hexdigest(): "keepers"})
        )
        self.password = folder / "password"
        self.password.write_text("rig")
        self.password.chmod(0o600)
        for i in range(bonded):
            self.network.join_keeper(i + 1, REGIONS[i], self.keeper_url(i))
            create_keystore(folder / f"keeper-{i}.keystore", self.password, bytes.fromhex(KEYS[i + 1]))
            signer = self.network.signers[i + 1].address
            self.network.send(i + 1, "KeeperRegistry", "setGateway", i + 1, signer, self.keeper_url(i))
        create_keystore(folder / "gateway.keystore", self.password, GATEWAY_KEY)
        self.network.send(1, "KeeperRegistry", "setGateway", 1, self.gateway_signer.address, self.gateway_url)
        self.node_ids = [
            self.network.register_node(owner, tier, key)
            for (owner, tier), key in zip(nodes, NODE_KEYS, strict=False)
        ]

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['gateway']}"

    def keeper_url(self, i: int) -> str:
        return f"http://127.0.0.1:{self.ports[f'keeper-{i}']}"

    def chain_now(self) -> int:
        """Timestamp of the newest block."""
        return int(self.network.anvil.block()["timestamp"], 16)

    def settings(self, i: int, **changes: Any) -> dict[str, Any]:
        """Settings of keeper i."""
        return {
            "data_dir": str(self.folder / f"keeper-{i}"),
            "ready_file": str(self.folder / f"keeper-{i}.ready"),
            "rpc_url": self.network.anvil.url,
            "deployment": str(self.network.deployment.path),
            "database_url": f"sqlite:///{self.folder / f'keeper-{i}' / 'keeper.db'}",
            "port": self.ports[f"keeper-{i}"],
            "keystore": str(self.folder / f"keeper-{i}.keystore"),
            "password_file": str(self.password),
            "region": REGIONS[i],
            "gateway_url": self.gateway_url,
            "gateway_api_key_file": str(self.folder / "api-key"),
            "probe_model": MODEL,
            "probe_timeout_seconds": 2.0,
            "worker_concurrency": 4,
            **changes,
        }

    def remote_key(self, i: int, url: str) -> dict[str, Any]:
        """Settings with which keeper i's key stays in a Web3Signer."""
        address = self.network.signers[i + 1].address
        return {
            "keystore": None, "password_file": None, "web3signer_url": url, "web3signer_address": address,
        }  # fmt: skip

    def write_settings(self, i: int, **changes: Any) -> Path:
        """Write the settings file of keeper i; None leaves a setting out."""
        path = self.folder / f"keeper-{i}.toml"
        fields = self.settings(i, **changes)
        path.write_text(tomli_w.dumps({name: value for name, value in fields.items() if value is not None}))
        return path

    def start_keeper(self, i: int, **changes: Any) -> KeeperProcess:
        """Start keeper i and wait until it is ready."""
        path = self.write_settings(i, **changes)
        process = KeeperProcess(
            [
                "env",
                f"{CRASH_VARIABLE}={self.crash}",
                sys.executable,
                "-m",
                "offchain",
                "keeper",
                "start",
                "--config",
                str(path),
                "--json",
            ],
            self.folder / f"keeper-{i}.log",
        )
        self.keepers[i] = process
        self.processes.append(process)
        return process

    def start_gateway(self) -> Process:
        """Start the gateway over keeper 0's index."""
        path = self.folder / "gateway.toml"
        path.write_text(
            tomli_w.dumps(
                {
                    "data_dir": str(self.folder / "gateway"),
                    "ready_file": str(self.folder / "gateway.ready"),
                    "rpc_url": self.network.anvil.url,
                    "deployment": str(self.network.deployment.path),
                    "database_url": f"sqlite:///{self.folder / 'keeper-0' / 'keeper.db'}",
                    "port": self.ports["gateway"],
                    "keystore": str(self.folder / "gateway.keystore"),
                    "password_file": str(self.password),
                    "api_keys_file": str(self.folder / "api-keys.json"),
                }
            )
        )
        process = Process(
            [sys.executable, "-m", "offchain", "gateway", "start", "--config", str(path), "--json"],
            self.folder / "gateway.log",
        )
        self.processes.append(process)
        return process

    def start_node(self, place: int, **changes: Any) -> StubProcess:
        """Start the stub node at a place of `node_ids`."""
        contracts = self.network.deployment.contracts
        spec = Spec(
            self.node_ids[place],
            key=KEYS[NODE_KEYS[place]],
            gateway_signer=self.gateway_signer.address,
            chain_id=self.network.deployment.chain_id,
            nodes_contract=contracts["NodeRegistryLocker"].address,
            market_contract=contracts["InferenceMarket"].address,
            fronts=[self.gateway_url, *(self.keeper_url(i) for i in range(self.bonded))],
            model=MODEL,
            check_tickets=False,
            **changes,
        )
        process = StubProcess(spec, self.folder)
        self.nodes[place] = process
        self.processes.append(process)
        return process

    def wait_for_chain_time(self, timestamp: int) -> None:
        """Wait until the chain has come to a Unix second."""
        left = timestamp - self.chain_now()
        wait_for(lambda: self.chain_now() >= timestamp, max(left, 0) + 60, f"chain time {timestamp}")

    def status(self, epoch: int) -> int:
        """The report's status on chain."""
        chain = self.network.chain
        return int(chain.at(chain.head_block()).report(epoch).status)  # type: ignore[arg-type]

    def ask_on_chain(self, seconds: int = 60) -> str:
        """Put a chat request on the chain; its id."""
        market = self.network.deployment.contract("InferenceMarket").address
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
        ceiling = 10**18
        self.network.send(0, "ParallelixToken", "approve", market, ceiling)
        receipt = self.network.send(
            0, "InferenceMarket", "request", keccak256(MODEL.encode()), json.dumps(body).encode(), ceiling,
            self.chain_now() + seconds, "0x" + "00" * 20,
        )  # fmt: skip
        topic = "0x" + keccak256(b"InferenceRequested(bytes32,address,bytes32,bytes,uint256,uint64)").hex()
        request: str = next(entry["topics"][1] for entry in receipt["logs"] if entry["topics"][0] == topic)
        return request

    def fulfilments(self, request: str) -> int:
        """How often the chain saw a request fulfilled."""
        market = self.network.deployment.contract("InferenceMarket").address
        topic = "0x" + keccak256(b"InferenceFulfilled(bytes32,uint32,uint256,bytes32,bytes)").hex()
        query = {"address": market, "fromBlock": "0x0", "topics": [topic, request]}
        return len(self.network.anvil.rpc("eth_getLogs", query))

    def row(self, i: int, query: str, *values: Any) -> tuple[Any, ...] | None:
        """First row of a query on keeper i's database; `?` stands for a value."""
        url = self._said(i)["database_url"]
        row: tuple[Any, ...] | None
        if url.startswith("postgresql"):
            with psycopg.connect(url) as server:
                row = server.execute(query.replace("?", "%s").encode(), values).fetchone()
            return row
        with closing(sqlite3.connect(f"file:{url.removeprefix('sqlite:///')}?mode=ro", uri=True)) as found:
            row = found.execute(query, values).fetchone()
            return row

    def broker_url(self, i: int) -> str:
        """Where keeper i's broker is."""
        given: str | None = self._said(i).get("redis_url")
        return given or json.loads((self.folder / f"keeper-{i}" / "valkey" / "url.json").read_text())["url"]

    def _said(self, i: int) -> dict[str, Any]:
        return tomllib.loads((self.folder / f"keeper-{i}.toml").read_text())

    def broker(self, i: int) -> "redis.Redis":
        """A client of keeper i's broker."""
        return redis.Redis.from_url(self.broker_url(i), socket_timeout=5)

    def arm(self, *points: str) -> None:
        """Have the first keeper process that reaches each crash point killed there, once."""
        for point in points:
            (self.crash / point).touch()

    def armed(self) -> set[str]:
        """Crash points that nobody has reached yet."""
        return {path.name for path in self.crash.iterdir()}

    @contextmanager
    def stopped(self, i: int) -> Iterator[None]:
        """Hold keeper i still for the block, so that only others can have done what happens."""
        family = self.keepers[i].family()
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def cli(self, *words: str, seconds: float = 120) -> "subprocess.CompletedProcess[str]":
        """Run a command of the console."""
        return subprocess.run(
            [sys.executable, "-m", "offchain", *words],
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )

    def close(self) -> None:
        """End everything that was started."""
        for process in reversed(self.processes):
            if process.popen.poll() is None:
                process.signal(signal.SIGCONT)
                process.signal(signal.SIGTERM)
        end = time.monotonic() + 20
        for process in self.processes:
            while process.popen.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
            process.kill()
        self.network.rpc.close()


def _children(pid: int) -> list[int]:
    """Process ids of a process's children; threads and processes may end while this looks."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                words = (task / "children").read_text().split()
                found += map(int, words)
    return found


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
