"""URLs that hold a key: no command of the node prints one, and no log keeps one."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import aiohttp
import pytest
import structlog
import tomli_w
from click.testing import CliRunner

from offchain.cli import cli
from offchain.crypto.keys import create_keystore
from offchain.errors import ParallelixError
from offchain.node.agent.dial_out import DialOut
from offchain.node.agent.heartbeats import HeartbeatSender
from offchain.node.agent.metrics import NodeMetrics
from offchain.node.chain import open_chain
from offchain.node.settings import NodeSettings
from offchain.transport.server import HttpLimits, HttpServer
from tests.support.node.network import ROOT
from tests.support.node.requests import LOCKER, NODE, NODE_KEY, clock_ms, eventually
from tests.support.services.ports import free_port

SECRET = "s3cr3tKey0123456789"
OWNER = ("--owner-keystore", "{keystore}", "--owner-password-file", "{password}", "--yes")
COMMANDS = {
    "verify": ("--owner", "0x" + "11" * 20),
    "status": (),
    "earnings": (),
    "register": ("--stake", "50000", *OWNER),
    "claim": OWNER,
    "unstake": OWNER,
    "cancel": OWNER,
    "withdraw": OWNER,
    "rotate-key": ("--new-key-hash", "0x" + "22" * 32, *OWNER),
}


def _secret_url(port: int) -> str:
    return f"http://user:{SECRET}@127.0.0.1:{port}/v3/{SECRET}?apikey={SECRET}"


class _Rpc(BaseHTTPRequestHandler):
    """A JSON-RPC endpoint of another chain; below `/broken` something that is none."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        listed = asked if isinstance(asked, list) else [asked]
        found = [{"jsonrpc": "2.0", "id": one["id"], "result": "0x5"} for one in listed]
        broken = "broken" in self.path
        body = b"<html>" if broken else json.dumps(found if isinstance(asked, list) else found[0]).encode()
        self.send_response(502 if broken else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.send_error(405)

    def log_message(self, *_words: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def rpc_port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Rpc)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes settings whose URLs all hold the secret; `rpc_url` is given."""
    keys = tmp_path_factory.mktemp("keys")
    create_keystore(keys / "keystore", keys / "password")
    deployment = keys / "deployment.json"
    deployment.write_text(
        json.dumps(
            {
                "version": 1, "chain_id": 31337, "network": "test", "deployed_at_block": 0, "genesis": 0,
                "epoch_length": 60, "slots_per_epoch": 6, "contracts": {},
            }
        )
    )  # fmt: skip

    def make(rpc_url: str) -> Path:
        folder = tmp_path_factory.mktemp("node")
        fields = {
            "data_dir": str(folder / "data"),
            "rpc_url": rpc_url,
            "deployment": str(deployment),
            "keystore": str(keys / "keystore"),
            "password_file": str(keys / "password"),
            "heartbeat_receivers": [_secret_url(free_port())],
            "keeper_url": _secret_url(free_port()),
            "engine_url": _secret_url(free_port()),
            "served_model": "m",
            "model_revision": "r",
        }
        (folder / "node.toml").write_text(tomli_w.dumps(fields))
        return folder / "node.toml"

    return make


def _urls(rpc_port: int) -> dict[str, str]:
    return {
        "other chain": _secret_url(rpc_port),
        "down": _secret_url(free_port()),
        "no JSON": f"http://user:{SECRET}@127.0.0.1:{rpc_port}/broken/{SECRET}",
        "two endpoints": f"{_secret_url(free_port())}, {_secret_url(rpc_port)}",
        "no URL": f"127.0.0.1/{SECRET}",
    }


CASES = [(name, "other chain") for name in COMMANDS]
CASES += [("status", fault) for fault in ("down", "no JSON", "two endpoints", "no URL")]
CASES += [("verify", fault) for fault in ("down", "no URL")]


@pytest.mark.parametrize(("name", "fault"), CASES)
def test_command__rpc_url_with_a_key__is_named_by_host_and_port_alone(
    made: Callable[..., Path], rpc_port: int, name: str, fault: str
) -> None:
    config = made(_urls(rpc_port)[fault])
    settings = NodeSettings.load(config)
    places = {"keystore": settings.keystore, "password": settings.password_file}
    words = [word.format(**places) for word in COMMANDS[name]]
    done = CliRunner().invoke(cli, ["node", name, "--config", str(config), *words])
    told = done.output + str(done.exception)
    assert done.exit_code != 0
    assert isinstance(done.exception, ParallelixError | SystemExit), done.exception
    assert SECRET not in told
    assert ("rpc_url" if fault == "no URL" else "127.0.0.1:") in told


@pytest.mark.parametrize("fault", ["other chain", "down"])
def test_start__rpc_url_with_a_key__neither_output_nor_log_has_it(
    made: Callable[..., Path], rpc_port: int, fault: str
) -> None:
    config = made(_urls(rpc_port)[fault])
    done = subprocess.run(
        [sys.executable, "-m", "offchain", "node", "start", "--config", str(config), "--plain"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "127.0.0.1:" in done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert all(SECRET.encode() not in path.read_bytes() for path in (config.parent / "data").rglob("*.log"))


def test_init__rpc_url_with_a_key__stands_in_the_settings_alone(tmp_path: Path) -> None:
    url = _secret_url(1)
    words = ["--rpc-url", url, "--deployment", "d.json", "--engine-url", url, "--heartbeat-receiver", url]
    done = CliRunner().invoke(cli, ["node", "init", "--folder", str(tmp_path / "node"), *words])
    assert done.exit_code == 0
    assert SECRET not in done.output
    assert NodeSettings.load(tmp_path / "node/node.toml").rpc_url == url


async def test_receiver__with_a_key_and_dead__the_log_names_host_and_port() -> None:
    url = _secret_url(free_port())
    server = HttpServer(_unasked, HttpLimits(), lambda error: None)
    dial = DialOut(NODE, NODE_KEY, LOCKER, [url], server, 1, clock_ms)
    async with aiohttp.ClientSession() as session:
        heartbeats = HeartbeatSender(
            NODE, NODE_KEY, LOCKER, [url], lambda _: {}, session, NodeMetrics(), clock_ms
        )
        with structlog.testing.capture_logs() as lines:
            tasks = [asyncio.create_task(work) for work in (heartbeats.run(), dial.run())]
            await eventually(lambda: len(lines) >= 2)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    assert {line["event"] for line in lines} == {"heartbeat receiver lost", "cannot dial"}
    assert SECRET not in str(lines)
    assert "127.0.0.1:" in str(lines)


async def _unasked(_request: object, _connection: object) -> None:
    raise AssertionError


def test_rpc_url__list_of_endpoints__each_is_used_as_by_keeper_and_gateway(
    made: Callable[..., Path], rpc_port: int
) -> None:
    """The first is down, the second answers: only then is it known to be of another chain."""
    with pytest.raises(ParallelixError, match=rf"127\.0\.0\.1:{rpc_port} serves chain 5"):
        open_chain(NodeSettings.load(made(f"http://127.0.0.1:{free_port()}, http://127.0.0.1:{rpc_port}")))
