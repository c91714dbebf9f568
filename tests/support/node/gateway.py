"""A real gateway over a real chain's nodes: its index is written directly instead of by a keeper."""

import contextlib
import json
import secrets
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from offchain.db.database import open_database
from offchain.db.migrations import upgrade
from offchain.db.models import Cursor
from offchain.db.models import Node as Row
from offchain.demo.network import DemoNode, LocalNetwork
from offchain.gateway.tenants.api_keys import create_key
from tests.support.factories import make_node
from tests.support.node.requests import until
from tests.support.services.ports import free_port


def rebind(folder: Path, node_id: int, key_address: str) -> None:
    """Do to the index of a gateway what a keeper does when it sees that a node's key was rotated."""
    database = open_database(f"sqlite:///{folder}/index.db")
    with database.write() as session:
        node = session.get(Row, node_id)
        cursor = session.get(Cursor, "head")
        assert node is not None
        assert cursor is not None
        node.key_address = key_address
        cursor.block_hash = "0x" + secrets.token_hex(32)
    database.close()


@contextlib.contextmanager
def running_gateway(
    network: LocalNetwork, folder: Path, nodes: Sequence[DemoNode], **changes: Any
) -> Iterator[tuple[str, str]]:
    """(URL, API key) of a gateway that knows these registered nodes; `changes` are fields of its settings."""
    folder.mkdir(parents=True, exist_ok=True)
    database_url = f"sqlite:///{folder}/index.db"
    upgrade(database_url)
    database = open_database(database_url)
    with database.write() as session:
        for node in nodes:
            session.add(make_node(node.node_id, key_address=node.key.address))
        session.add(
            Cursor(name="head", block_number=1, block_hash="0x" + "11" * 32, block_timestamp=int(time.time()))
        )
    database.close()
    keys_file = folder / "keys.json"
    api_key = create_key(keys_file, "tester")
    ready_file, config = folder / "ready.json", folder / "gateway.toml"
    fields = {
        "data_dir": str(folder / "data"),
        "ready_file": str(ready_file),
        "rpc_url": network.rpc_url,
        "deployment": str(network.places.run / "deployment.json"),
        "database_url": database_url,
        "port": free_port(),
        "keystore": str(network.gateway_signer.keystore),
        "password_file": str(network.gateway_signer.password_file),
        "api_keys_file": str(keys_file),
        "region": "eu",
        **changes,
    }
    config.write_text(tomli_w.dumps(fields))
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen(
            network.command("gateway", "start", "--config", str(config)),
            env=network.environment(),
            stdout=log,
            stderr=log,
        )
    try:
        until(ready_file.exists, 60, "the gateway")
        yield json.loads(ready_file.read_text())["url"], api_key
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait()
