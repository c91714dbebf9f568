"""Replays docs/operators.md: the lines marked `operator-path`, in order, as an operator would type them."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from offchain.demo.network import LocalNetwork
from offchain.domain.messages import EpochReport
from offchain.domain.types import Bps, Epoch, NodeId
from offchain.domain.uptime_tree import UptimeTree
from tests.support.node.network import ROOT, chain_with_actors
from tests.support.node.requests import STUB, until

pytestmark = [pytest.mark.anvil, pytest.mark.slow, pytest.mark.timeout(240)]

STEP = re.compile(r"^ *```sh operator-path ?(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def steps() -> list[tuple[str, str]]:
    """(kind, command) of each marked block."""
    return [
        (kind, "\n".join(line.strip() for line in text.splitlines()))
        for kind, text in STEP.findall((ROOT / "docs/operators.md").read_text())
    ]


@pytest.fixture
def network(tmp_path: Path) -> Iterator[LocalNetwork]:
    with chain_with_actors(tmp_path / "run") as running:
        yield running


class Keeper:
    """A keeper's epoch documents over HTTP."""

    def __init__(self) -> None:
        documents: dict[str, bytes] = {}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = documents.get(self.path)
                self.send_response(200 if body is not None or self.path == "/health" else 404)
                self.end_headers()
                self.wfile.write(body or b"{}")

            def log_message(self, *_: object) -> None:
                pass

        self.documents = documents
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    running = Keeper()
    yield running
    running.close()


def close_epoch(network: LocalNetwork, keeper: Keeper, node_id: int) -> int:
    """The node's first epoch passes, the quorum signs 90 % for it, and the report becomes final."""
    chain, deployment = network.chain, network.deployment
    epoch = chain.read("NodeRegistryLocker", "nodes", node_id)["activeFrom"]
    clock = deployment.clock()
    chain.rpc.call("evm_setNextBlockTimestamp", clock.end(Epoch(epoch)) + 1)
    chain.rpc.call("evm_mine")
    node_count = chain.read("NodeRegistryLocker", "nodeCount")
    tree = UptimeTree(Epoch(epoch), node_count, {NodeId(node_id): Bps(9_000)})
    report = EpochReport(
        Epoch(epoch),
        tree.root,
        tree.node_count,
        bytes(32),
        b"\x01" * 32,
        chain.read("KeeperRegistry", "setDigestAt", epoch),
    )
    digest = deployment.signing_domain("UptimeAttestation").digest(report.struct_hash())
    order = chain.read("KeeperRegistry", "signersAt", epoch)
    by_address = {wallet.address: wallet.signer for wallet in network.keeper_signers}
    signatures = b"".join(by_address[address].sign_digest(digest) for address in order)
    fields = (
        epoch,
        report.uptime_root,
        report.node_count,
        report.execution_root,
        report.bundle_hash,
        report.keeper_set_digest,
    )
    arguments = (fields, (1 << len(order)) - 1, signatures)
    chain.transact(network.deployer, "UptimeAttestation", "submit", *arguments)
    final_at = chain.read("UptimeAttestation", "finalAt", epoch)
    chain.rpc.call("evm_setNextBlockTimestamp", final_at + 1)
    chain.rpc.call("evm_mine")
    document = {"epoch": epoch, "nodes": [{"nodeId": node_id, "uptimeBps": 9_000, "slots": ""}]}
    keeper.documents[f"/v1/epochs/{epoch}"] = json.dumps(document).encode()
    return int(epoch)


def test_operator_path__every_line_of_the_guide__from_bare_machine_to_claim(
    network: LocalNetwork, keeper: Keeper, tmp_path: Path
) -> None:
    operator, folder = network.nodes[0].owner, tmp_path / "node"
    vllm = tmp_path / "vllm"
    vllm.write_text(f'#!/bin/sh\nexec {sys.executable} {STUB} "$@"\n')
    vllm.chmod(0o755)
    environment = {
        **network.environment(),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RPC_URL": network.rpc_url,
        "DEPLOYMENT": str(network.places.run / "deployment.json"),
        "GATEWAY": keeper.url,
        "KEEPER": keeper.url,
        "MODEL": str(ROOT / ".models/tiny-llama"),
        "VLLM": str(vllm),
        "NODE": str(folder),
        "OWNER": operator.address,
        "OWNER_KEYSTORE": str(operator.keystore),
        "OWNER_PASSWORD": str(operator.password_file),
    }
    said: dict[str, str] = {}
    background: subprocess.Popen[bytes] | None = None
    try:
        for kind, line in steps():
            name = line.split()[2]
            command = line.replace("parallelix", f"{sys.executable} -m offchain", 1)
            if kind == "background":
                background = subprocess.Popen(
                    ["bash", "-c", f"exec {command}"],
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                until((folder / "data/ready.json").exists, 60, "the node")
                continue
            if kind == "epoch":
                close_epoch(network, keeper, 1)
            done = subprocess.run(
                ["bash", "-c", command],
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            said[name] = done.stdout
            assert done.returncode == 0, (command, done.stdout, done.stderr)
        panel = subprocess.run(
            [*network.command("node", "status"), "--config", str(folder / "node.toml")],
            env=environment | {"COLUMNS": "100"}, capture_output=True, text=True, timeout=60, check=True,
        ).stdout  # fmt: skip
    finally:
        if background is not None:
            background.terminate()
            background.wait(30)
    assert "tier     1 (cpu)" in said["probe"]
    assert (folder / "node.key.json").stat().st_mode & 0o777 == 0o600
    assert "revision" not in said["init"]
    assert "sha256:" in said["models"]
    assert "benchmark" in said["verify"]
    assert "FAIL" not in said["verify"]
    assert "node id 1" in said["register"]
    assert "up  restarts 0" in said["status"]
    assert "claimable    90.00 %" in said["earnings"]
    for part in ("50,000 PRLX", "active on chain", "90.00 %", "claimed"):
        assert part in panel
    assert "claimed" in said["claim"]
    assert network.chain.read("ParallelixToken", "balanceOf", operator.address) > 0
