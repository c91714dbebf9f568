"""The real contracts on a real local chain: deployed once a session by the deploy script, fresh for each test."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from offchain.chain.deployment import Deployment
from offchain.chain.reader import ChainReader
from offchain.chain.rpc import Rpc
from offchain.crypto.keys import Signer
from offchain.domain.eip712 import keccak256
from tests.support.services.anvil import KEYS, ROOT, Anvil, start_anvil

EPOCH_SECONDS = 600
SETTINGS = {
    "epoch_length": str(EPOCH_SECONDS),
    "cooldown": "1200",
    "submit_window": "1200",
    "challenge_window": "60",
    "leave_delay": "6000",
}
STAKE = 50_000 * 10**18
BOND = 10_000 * 10**18


@dataclass
class Network:
    """A deployed network and short ways to act on it. Account 0 is the deployer and holds all tokens."""

    anvil: Anvil
    deployment: Deployment

    def __post_init__(self) -> None:
        self.rpc = Rpc(self.anvil.url)
        self.chain = ChainReader(self.rpc, self.deployment)
        self.signers = [Signer.from_key(bytes.fromhex(key)) for key in KEYS]

    def send(self, account: int, contract: str, function: str, *args: Any) -> dict[str, Any]:
        """Send a transaction from a test account and mine it; its receipt. Asserts that it succeeded."""
        tx_hash = self.submit(account, contract, function, *args)
        receipt: dict[str, Any] | None = self.anvil.rpc("eth_getTransactionReceipt", tx_hash)
        if receipt is None:
            self.anvil.mine()
            receipt = self.anvil.rpc("eth_getTransactionReceipt", tx_hash)
        assert receipt is not None
        assert receipt["status"] == "0x1", f"{contract}.{function} reverted"
        return receipt

    def submit(self, account: int, contract: str, function: str, *args: Any) -> str:
        """Hand a transaction to the chain without mining it; its hash."""
        ref = self.deployment.contract(contract)
        data = self.chain.abi(contract).encode(function, args)
        fields = {
            "from": self.signers[account].address,
            "to": ref.address,
            "data": "0x" + data.hex(),
            "gas": hex(3_000_000),
        }
        tx_hash: str = self.anvil.rpc("eth_sendTransaction", fields)
        return tx_hash

    def register_node(self, account: int = 0, tier: int = 1, key_account: int | None = None) -> int:
        """Register a node with the smallest stake; its id. The node key is another test account's."""
        locker = self.deployment.contract("NodeRegistryLocker").address
        if account:
            self.send(0, "ParallelixToken", "transfer", self.signers[account].address, STAKE)
        self.send(account, "ParallelixToken", "approve", locker, STAKE)
        number = self.chain.at(self.chain.head_block()).node_count() + 1
        if key_account is None:
            key_hash = keccak256(b"node key %d" % number)
        else:
            key_hash = bytes(12) + bytes.fromhex(self.signers[key_account].address[2:])
        self.send(account, "NodeRegistryLocker", "registerNode", STAKE, tier, key_hash)
        return number

    def join_keeper(self, account: int, region: str = "eu", url: str = "http://127.0.0.1:1") -> None:
        """Bond a test account as a keeper that signs with its own key."""
        registry = self.deployment.contract("KeeperRegistry").address
        if account:
            self.send(0, "ParallelixToken", "transfer", self.signers[account].address, BOND)
        self.send(account, "ParallelixToken", "approve", registry, BOND)
        signer = self.signers[account].address
        self.send(account, "KeeperRegistry", "join", BOND, signer, region.encode().ljust(32, b"\0"), url)

    def next_epoch(self) -> int:
        """Move the chain's time to the first second of the next epoch; its number."""
        clock = self.deployment.clock()
        epoch = clock.epoch_at(int(self.anvil.block()["timestamp"], 16)) + 1
        self.anvil.set_time(clock.start(epoch))  # type: ignore[arg-type]
        return epoch


@dataclass(frozen=True)
class DeployedState:
    """A chain with the contracts on it, as anvil dumps it, and its manifest."""

    state: str
    manifest: Path


@pytest.fixture(scope="session")
def deployed_state(tmp_path_factory: pytest.TempPathFactory) -> DeployedState:
    """The contracts deployed by the deploy script, once a session."""
    manifest = tmp_path_factory.mktemp("network") / "31337.json"
    with start_anvil() as anvil:
        deploy(anvil.url, manifest, SETTINGS)
        return DeployedState(anvil.rpc("anvil_dumpState", True), manifest)


@pytest.fixture
def network(deployed_state: DeployedState) -> Iterator[Network]:
    """A chain of this test's own, as it was right after deployment."""
    with start_anvil() as anvil:
        anvil.rpc("anvil_loadState", deployed_state.state)
        running = Network(anvil, Deployment.load(deployed_state.manifest))
        yield running
        running.rpc.close()


def deploy(url: str, path: Path, settings: dict[str, str]) -> None:
    """Run the deploy script against a chain; the manifest goes to `path`."""
    command = ["ape", "run", "deploy", "--network", f"ethereum:local:{url}", "--out", str(path)]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"deployment failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
