"""Every long-running process against the mistakes that people make: one line, status 2, nothing left behind."""

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from offchain.crypto.keys import Signer, create_keystore
from offchain.db.migrations import upgrade
from offchain.demo.processes import MARKER, marked
from tests.support.services.anvil import ROOT, start_anvil
from tests.support.services.contracts import STAKE, Network

pytestmark = pytest.mark.anvil

Config = dict[str, Any]
PROCESSES = ("keeper", "gateway", "node", "dashboard")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One keystore and its password for all processes of this file."""
    folder = tmp_path_factory.mktemp("keys")
    create_keystore(folder / "key.json", folder / "password")
    return folder / "key.json", folder / "password"


@pytest.fixture
def config_of(network: Network, keys: tuple[Path, Path], tmp_path: Path) -> Callable[[str], Config]:
    """A configuration with which each process would start."""

    def make(process: str) -> Config:
        database = f"sqlite:///{tmp_path / 'index.db'}"
        upgrade(database)
        common = {
            "data_dir": str(tmp_path / process),
            "rpc_url": network.anvil.url,
            "deployment": str(network.deployment.path),
            "port": 0,
        }
        keyed = {"keystore": str(keys[0]), "password_file": str(keys[1])}
        (tmp_path / "api-keys.json").write_text("{}")
        (tmp_path / "api-key").write_text("plx-test")
        if process == "node":
            register(network, Signer.load(*keys).address)
        own: dict[str, Config] = {
            "keeper": {
                **keyed,
                "database_url": f"sqlite:///{tmp_path / 'keeper.db'}",
                "region": "eu",
                "gateway_url": "http://127.0.0.1:1",
                "gateway_api_key_file": str(tmp_path / "api-key"),
                "probe_model": "m",
            },
            "gateway": {
                **keyed,
                "database_url": database,
                "api_keys_file": str(tmp_path / "api-keys.json"),
            },
            "node": {
                **keyed,
                "node_id": 1,
                "fronts": ["http://127.0.0.1:1"],
                "served_model": "m",
                "engine_url": "http://127.0.0.1:1",
                "model_revision": "test",
            },
            "dashboard": {"database_url": database},
        }
        return {**common, **own[process]}

    return make


def register(network: Network, key: str) -> None:
    """Register a node of the deployer with this node key."""
    locker = network.deployment.contract("NodeRegistryLocker").address
    network.send(0, "ParallelixToken", "approve", locker, STAKE)
    network.send(0, "NodeRegistryLocker", "registerNode", STAKE, 1, bytes(12) + bytes.fromhex(key[2:]))


def run(process: str, config: Config, folder: Path) -> subprocess.CompletedProcess[str]:
    """Start a process with a configuration and wait for its end; whatever it left behind fails the test."""
    path = folder / f"{process}.toml"
    path.write_text(tomli_w.dumps(config))
    run_id = uuid.uuid4().hex
    env = {**os.environ, MARKER: run_id, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "offchain", process, "start", "--config", str(path)],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    deadline = time.monotonic() + 60
    while (left := marked(run_id)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == [], "processes were left behind"
    return done


def assert_one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Status 2 and one `error:` line that holds the words; no traceback anywhere."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr + done.stdout
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    for word in words:
        assert word in errors[0]


@pytest.mark.parametrize("process", PROCESSES)
def test_start__port_taken__one_line_names_the_port(
    process: str, config_of: Callable[[str], Config], tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_one_line(run(process, {**config_of(process), "port": port}, tmp_path), str(port))


@pytest.mark.parametrize("process", PROCESSES)
def test_start__chain_of_another_id__is_refused(
    process: str, config_of: Callable[[str], Config], tmp_path: Path
) -> None:
    with start_anvil("--chain-id", "1") as foreign:
        done = run(process, {**config_of(process), "rpc_url": foreign.url}, tmp_path)
    assert_one_line(done, "31337", "chain")


@pytest.mark.parametrize("process", PROCESSES)
def test_start__deployment_whose_contracts_the_chain_lacks__is_refused(
    process: str, config_of: Callable[[str], Config], tmp_path: Path
) -> None:
    config = config_of(process)
    with start_anvil() as empty:
        done = run(process, {**config, "rpc_url": empty.url}, tmp_path)
    assert_one_line(done, config["deployment"])


@pytest.mark.parametrize("process", [name for name in PROCESSES if name != "gateway"])
def test_start__rpc_unreachable__one_line_names_it(
    process: str, config_of: Callable[[str], Config], tmp_path: Path
) -> None:
    assert_one_line(
        run(process, {**config_of(process), "rpc_url": "http://127.0.0.1:9"}, tmp_path), "127.0.0.1:9"
    )


@pytest.mark.parametrize("process", PROCESSES)
def test_start__deployment_file_missing__one_line_names_it(
    process: str, config_of: Callable[[str], Config], tmp_path: Path
) -> None:
    missing = str(tmp_path / "nothing.json")
    assert_one_line(run(process, {**config_of(process), "deployment": missing}, tmp_path), missing)


@pytest.mark.parametrize("process", PROCESSES)
def test_start__unknown_setting__one_line_names_it(
    process: str, config_of: Callable[[str], Config], tmp_path: Path
) -> None:
    assert_one_line(run(process, {**config_of(process), "prot": 1}, tmp_path), "prot")


def test_node_start__model_folder_missing__one_line_names_it(
    config_of: Callable[[str], Config], network: Network, tmp_path: Path
) -> None:
    config = config_of("node")
    del config["engine_url"], config["model_revision"]
    missing = str(tmp_path / "no-model")
    assert_one_line(run("node", {**config, "model_path": missing}, tmp_path), missing)


def test_epoch_verify__epoch_without_a_report__says_so(network: Network) -> None:
    command = [
        sys.executable, "-m", "offchain", "epoch", "verify", "5",
        "--rpc", network.anvil.url, "--deployment", str(network.deployment.path), "--json",
    ]  # fmt: skip
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert_one_line(done, "no epoch is over yet")
