"""Builds the demo's network: keys, configuration files, processes, in the order in which each needs the one before."""

import hashlib
import json
import os
import secrets
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import tomli_w

from offchain.chain.deployment import Deployment
from offchain.chain.rpc import Rpc
from offchain.demo.narrator import Narrator
from offchain.demo.ports import free_port
from offchain.demo.processes import MARKER, DemoProcess, stop
from offchain.demo.waiting import until
from offchain.demo.wallets import ETHER, LocalChain, Wallet, create
from offchain.errors import UserError

MODEL = "smollm2-135m-instruct"
REGIONS = ("eu", "us", "ap")
CHAIN_ID = 31337
STAKE_WEI = 50_000 * ETHER
BOND_WEI = 10_000 * ETHER
EPOCH_SECONDS = 60
SLOTS = 10
_KEYS = {"operator": 2, "node": 2, "keeper-owner": 3, "keeper": 3, "gateway": 1, "requester": 1}


@dataclass(frozen=True, slots=True)
class Places:
    """Where a checkout keeps what `make setup` installed, and where this run keeps its own.

    Attributes:
        root: the checkout.
        run: folder of this run alone.
    """

    root: Path
    run: Path

    @property
    def anvil(self) -> Path:
        """The local chain's program."""
        return self.root / ".build/bin/anvil"

    @property
    def vllm(self) -> Path:
        """The model server's program, in its own environment."""
        return self.root / ".vllm/bin/vllm"

    @property
    def model(self) -> Path:
        """Folder of the weights."""
        return self.root / ".models" / MODEL

    def check(self) -> None:
        """Raises UserError when something is not installed."""
        for path, what in (
            (self.anvil, "anvil"),
            (self.vllm, "vLLM"),
            (self.model / "config.json", "the model"),
        ):
            if not path.exists():
                raise UserError(f"{what} is not at {path}; run `make setup` in {self.root}")


@dataclass
class DemoNode:
    """One node of the demo: who owns it, its key, its agent.

    Attributes:
        dials: the agent opens the connections to gateways, as a node behind a router does; False: gateways connect to it.
    """

    name: str
    owner: Wallet
    key: Wallet
    region: str
    dials: bool = True
    node_id: int = 0
    agent: DemoProcess | None = None


@dataclass
class LocalNetwork:
    """Every process of the demo and what is needed to talk to them.

    Use as a context manager: leaving it, in whatever way, ends all that was started.
    """

    places: Places
    narrator: Narrator
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    children: list[DemoProcess] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)
    stubborn: list[str] = field(default_factory=list)
    resources: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self.places.check()
        self.places.run.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.resources.close()
        self.stubborn = stop(self.children, self.run_id)

    # ------------------------------------------------------------------------------------------------ chain

    def start_chain(self, genesis_delay_seconds: int = 0) -> None:
        """Start anvil with a block a second and deploy the contracts on it with the Ape script."""
        self.rpc_url = f"http://127.0.0.1:{self.port('chain')}"
        argv = [
            str(self.places.anvil), "--host", "127.0.0.1", "--port", str(self.port("chain")),
            # anvil calls a block final after two epochs of its own, so an epoch is one slot.
            "--chain-id", str(CHAIN_ID), "--block-time", "1", "--slots-in-an-epoch", "1", "--mixed-mining", "--silent",
        ]  # fmt: skip
        self._spawn("chain", argv)
        self.chain = LocalChain(self.resources.enter_context(closing(Rpc(self.rpc_url))))
        until("the local chain", self.chain.is_up, 20)
        keys = self.places.run / "keys"
        self.deployer = create(keys, "deployer")
        self.treasury = create(keys, "treasury")
        self.infrastructure = create(keys, "infrastructure")
        self.chain.endow(self.deployer)
        self._deploy(int(time.time()) + genesis_delay_seconds)

    def _deploy(self, genesis: int) -> None:
        path = self.places.run / "deployment.json"
        overrides: dict[str, Any] = {
            "genesis": genesis,
            "epoch_length": EPOCH_SECONDS,
            "slots_per_epoch": SLOTS,
        }
        overrides |= {"treasury": self.treasury.address, "infrastructure": self.infrastructure.address}
        argv = [
            str(Path(sys.executable).with_name("ape")), "run", "deploy", "--network", f"ethereum:local:{self.rpc_url}",
            "--params", str(self.places.root / "scripts/params/local.yml"), "--out", str(path),
            "--keystore", str(self.deployer.keystore), "--password-file", str(self.deployer.password_file),
        ]  # fmt: skip
        for name, value in overrides.items():
            argv += ["--set", f"{name}={value}"]
        log = self.places.run / "logs/deploy.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            code = subprocess.run(
                argv, cwd=self.places.root, env=self.environment(), stdout=output, stderr=subprocess.STDOUT,
                timeout=180, check=False,
            ).returncode  # fmt: skip
        if code:
            last = [line for line in log.read_text().splitlines() if line.strip()][-1:]
            raise UserError(f"the deployment failed: {' '.join(last)} (whole log: {log})")
        self.deployment = Deployment.load(path)
        self.clock = self.deployment.clock()
        self.chain.use(self.deployment)

    # ----------------------------------------------------------------------------------------------- actors

    def create_actors(self) -> None:
        """Keys and configuration of operators, keepers, the gateway and a requester, with ether and tokens."""
        keys = self.places.run / "keys"
        names = [f"{role}-{i}" for role, count in _KEYS.items() for i in range(1, count + 1)]
        # Stretching a key takes half a second, outside the interpreter's lock.
        with ThreadPoolExecutor() as pool:
            made = dict(zip(names, pool.map(lambda name: create(keys, name), names), strict=True))
        self.nodes = [
            # One node of each kind: the first dials out, the second is connected to.
            DemoNode(f"node-{i}", made[f"operator-{i}"], made[f"node-{i}"], REGIONS[i - 1], dials=i == 1)
            for i in (1, 2)
        ]
        self.keeper_owners = [made[f"keeper-owner-{i}"] for i in (1, 2, 3)]
        self.keeper_signers = [made[f"keeper-{i}"] for i in (1, 2, 3)]
        self.gateway_signer = made["gateway-1"]
        self.requester = made["requester-1"]
        self.gateway_url = f"http://127.0.0.1:{self.port('gateway')}"
        self.keeper_urls = [f"http://127.0.0.1:{self.port(f'keeper-{i + 1}')}" for i in range(3)]
        self.api_key = self._create_api_keys(["requester", *(f"keeper-{i + 1}" for i in range(3))])
        owners = [node.owner for node in self.nodes]
        for wallet in (*owners, *self.keeper_owners, *self.keeper_signers, self.requester):
            self.chain.endow(wallet)
        shares = [(wallet, STAKE_WEI) for wallet in owners]
        shares += [(wallet, BOND_WEI) for wallet in self.keeper_owners] + [(self.requester, 1_000 * ETHER)]
        transfer = partial(self.chain.send, self.deployer, "ParallelixToken", "transfer")
        self.chain.wait([transfer(wallet.address, amount) for wallet, amount in shares])

    def bond_keepers(self) -> None:
        """Three keepers post their bonds, and list the keys that may sign tickets."""
        registry = self.deployment.contract("KeeperRegistry").address
        keepers = list(zip(self.keeper_owners, self.keeper_signers, REGIONS, self.keeper_urls, strict=True))
        for owner, signer, region, url in keepers:
            approved = self.chain.send(owner, "ParallelixToken", "approve", registry, BOND_WEI)
            word = region.encode().ljust(32, b"\0")
            joined = self.chain.send(owner, "KeeperRegistry", "join", BOND_WEI, signer.address, word, url)
            # Ids are given in the order of joining, so the next keeper waits for this one.
            self.chain.wait([approved, joined])
        listed = []
        for keeper_id, (owner, signer, _, url) in enumerate(keepers, 1):
            arguments = (keeper_id, signer.address, url)
            listed.append(self.chain.send(owner, "KeeperRegistry", "setGateway", *arguments))
        arguments = (1, self.gateway_signer.address, self.gateway_url)
        listed.append(self.chain.send(self.keeper_owners[0], "KeeperRegistry", "setGateway", *arguments))
        self.chain.wait(listed)

    def register_nodes(self) -> None:
        """Both operators register with stake by permit, through the command that an operator uses."""
        for node in self.nodes:
            self._write_node_config(node)
            words = (
                "node", "register", "--config", str(self.places.run / f"{node.name}.toml"),
                "--owner-keystore", str(node.owner.keystore), "--owner-password-file", str(node.owner.password_file),
                "--stake", str(STAKE_WEI // ETHER), "--yes", "--json",
            )  # fmt: skip
            done = self.run(words, seconds=60)
            if done.returncode:
                raise UserError(f"{node.name} could not register: {done.stderr.strip()}")
            node.node_id = int(json.loads(done.stdout.splitlines()[-1])["node_id"])

    # ---------------------------------------------------------------------------------------------- services

    def start_node(self, node: DemoNode) -> None:
        """Start a node's agent, which starts its model server."""
        self._write_node_config(node)
        if node.agent is None:
            config = str(self.places.run / f"{node.name}.toml")
            argv = self.command("node", "start", "--config", config, "--plain")
            node.agent = self._spawn(node.name, argv, ready=True)
        else:
            node.agent.start()

    def start_services(self) -> None:
        """Start gateway, keepers and dashboard."""
        database = f"sqlite:///{self.places.run / 'keeper-1' / 'keeper.db'}"
        for i in range(3):
            name = f"keeper-{i + 1}"
            config = {
                **self._common(name, self.keeper_signers[i]), "region": REGIONS[i], "gateway_url": self.gateway_url,
                "database_url": f"sqlite:///{self.places.run / name / 'keeper.db'}",
                "gateway_api_key_file": self.places.run / f"keys/{name}.apikey", "probe_model": MODEL,
                "worker_concurrency": 4,
            }  # fmt: skip
            self._start(name, "keeper", config)
        until(
            "keeper-1, whose index the gateway and the dashboard read", self.child("keeper-1").ready_url, 120
        )
        gateway = {
            **self._common("gateway", self.gateway_signer), "database_url": database, "region": REGIONS[0],
            "api_keys_file": self.places.run / "keys/api-keys.json",
        }  # fmt: skip
        self._start("gateway", "gateway", gateway)
        dashboard = {
            **self._common("dashboard"), "database_url": database, "gateway_url": self.gateway_url,
            "keeper_url": self.keeper_urls[0], "gateway_api_key_file": self.places.run / "keys/requester.apikey",
            "manifest_private_hosts": True,
        }  # fmt: skip
        self._start("dashboard", "dashboard", dashboard)

    def child(self, name: str) -> DemoProcess:
        """A process by name."""
        return next(child for child in self.children if child.name == name)

    def port(self, name: str) -> int:
        """The loopback port of a part: a free one is chosen at the first call and kept."""
        if name not in self.ports:
            self.ports[name] = free_port()
        return self.ports[name]

    # ------------------------------------------------------------------------------------------------- inside

    def _write_node_config(self, node: DemoNode) -> None:
        config = {
            **self._common(node.name, node.key), "node_id": node.node_id, "region": node.region,
            "heartbeat_receivers": [self.gateway_url, *self.keeper_urls], "dial_out": node.dials,
            "keeper_url": self.keeper_urls[0], "served_model": MODEL, "model_path": self.places.model,
            "vllm_command": [str(self.places.vllm)],
        }  # fmt: skip
        self._write_config(node.name, config)

    def _start(self, name: str, group: str, config: dict[str, Any]) -> None:
        path = self._write_config(name, config)
        self._spawn(name, [*self.command(group, "start"), "--config", str(path)], ready=True)

    def _common(self, name: str, key: Wallet | None = None) -> dict[str, Any]:
        run = self.places.run
        found = {"data_dir": run / name, "ready_file": run / f"{name}.ready", "port": self.port(name)}
        if key is not None:
            found |= {"keystore": key.keystore, "password_file": key.password_file}
        return {**found, "rpc_url": self.rpc_url, "deployment": run / "deployment.json"}

    def _write_config(self, name: str, config: dict[str, Any]) -> Path:
        path = self.places.run / f"{name}.toml"
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in config.items()}
        path.write_text(tomli_w.dumps(plain))
        return path

    def _create_api_keys(self, tenants: list[str]) -> str:
        digests = {}
        for tenant in tenants:
            key = "plx-" + secrets.token_urlsafe(24)
            digests[hashlib.sha256(key.encode()).hexdigest()] = tenant
            path = self.places.run / f"keys/{tenant}.apikey"
            path.touch(mode=0o600)  # before the key is in it
            path.write_text(key)
        (self.places.run / "keys/api-keys.json").write_text(json.dumps(digests, indent=2))
        return (self.places.run / "keys/requester.apikey").read_text()

    def _spawn(self, name: str, argv: list[str], *, ready: bool = False) -> DemoProcess:
        log, ready_file = self.places.run / f"logs/{name}.log", self.places.run / f"{name}.ready"
        child = DemoProcess(name, argv, self.environment(), log, ready_file if ready else None)
        self.children.append(child)
        child.start()
        return child

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "offchain", *words]

    def run(self, words: Sequence[str], *, seconds: int) -> subprocess.CompletedProcess[str]:
        """Run a command of `parallelix` to its end."""
        argv, env = self.command(*words), self.environment()
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=seconds, check=False)

    def environment(self) -> dict[str, str]:
        # Every descendant inherits the marker, also one in another session (ADR 0007).
        return {**os.environ, MARKER: self.run_id, "PYTHONPATH": str(self.places.root)}
