"""What an operator gets wrong: one line each, exit status 2, nothing sent and nothing left running."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offchain.crypto.keys import create_keystore
from offchain.demo.network import DemoNode, LocalNetwork
from offchain.node.machine.findings import CheckVerdict
from offchain.node.machine.preflight import MachinePreflight
from offchain.node.owner.node_key import node_key_hash
from offchain.node.settings import NodeSettings
from tests.support.node.processes import Agent, command, register, settings_of
from tests.support.services.ports import free_port

pytestmark = pytest.mark.anvil


@pytest.fixture(scope="module")
def node(network: LocalNetwork, tmp_path_factory: pytest.TempPathFactory) -> DemoNode:
    found = network.nodes[0]
    done = register(network, found, settings_of(network, found, tmp_path_factory.mktemp("register")))
    found.node_id = json.loads(done.stdout)["node_id"]
    return found


def _wrong_password(folder: Path, network: LocalNetwork) -> dict[str, Any]:
    path = folder / "wrong"
    path.write_text("not it")
    path.chmod(0o600)
    return {"password_file": path}


def _open_keystore(folder: Path, network: LocalNetwork) -> dict[str, Any]:
    path = folder / "open.json"
    path.write_text(network.nodes[0].key.keystore.read_text())
    path.chmod(0o644)
    return {"keystore": path}


def _damaged_keystore(folder: Path, network: LocalNetwork) -> dict[str, Any]:
    path = folder / "damaged.json"
    path.write_text("{}")
    path.chmod(0o600)
    return {"keystore": path}


def _strange_key(folder: Path, network: LocalNetwork) -> dict[str, Any]:
    create_keystore(folder / "k.json", folder / "p")
    return {"keystore": folder / "k.json", "password_file": folder / "p"}


def _other_chain(folder: Path, network: LocalNetwork) -> dict[str, Any]:
    data = json.loads((network.places.run / "deployment.json").read_text())
    path = folder / "deployment.json"
    path.write_text(json.dumps({**data, "chain_id": 5}))
    return {"deployment": path}


def _empty_model(folder: Path, network: LocalNetwork) -> dict[str, Any]:
    (folder / "empty").mkdir()
    return {"model_path": folder / "empty"}


Change = Callable[[Path, LocalNetwork], dict[str, Any]]
CASES: dict[str, tuple[Change, str]] = {
    "wrong password": (_wrong_password, "does not open"),
    "readable key": (_open_keystore, "can be read by others; run `chmod 600"),
    "no keystore": (lambda folder, network: {"keystore": folder / "none.json"}, "does not exist"),
    "damaged keystore": (_damaged_keystore, "is not a V3 keystore"),
    "key of no node": (_strange_key, "bound to no node; run `parallelix node register`"),
    "other node id": (lambda folder, network: {"node_id": 77}, "not to node 77; correct node_id or keystore"),
    "other chain": (_other_chain, "serves chain 31337"),
    "no deployment": (lambda folder, network: {"deployment": folder / "none.json"}, "deployment file"),
    "rpc down": (lambda folder, network: {"rpc_url": f"http://127.0.0.1:{free_port()}"}, "cannot be reached"),
    "no model folder": (
        lambda folder, network: {"model_path": folder / "none"},
        "does not exist; set model_path",
    ),
    "empty model folder": (_empty_model, "holds no config.json"),
    "no model at all": (lambda folder, network: {"model_path": None}, "names no folder"),
    "unknown setting": (lambda folder, network: {"colour": "red"}, "there is no setting colour"),
    "bad setting": (lambda folder, network: {"slots": 0}, "slots: Input should be greater than 0"),
}


@pytest.mark.parametrize("name", CASES)
def test_start__bad_input__one_line_and_exit_2(
    network: LocalNetwork, node: DemoNode, tmp_path: Path, name: str
) -> None:
    change, says = CASES[name]
    config = settings_of(network, node, tmp_path, **change(tmp_path, network))
    done = command(network, "start", "--config", str(config), "--plain")
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2
    assert len(lines) == 1
    assert says in lines[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "ready.json").exists()


def test_register__owners_wrong_password__nothing_is_sent(
    network: LocalNetwork, node: DemoNode, tmp_path: Path
) -> None:
    other = network.nodes[1]
    wrong = _wrong_password(tmp_path, network)["password_file"]
    config = settings_of(network, other, tmp_path)
    before = _sent(network, other)
    done = command(
        network, "register", "--config", str(config), "--stake", "50000", "--yes",
        "--owner-keystore", str(other.owner.keystore), "--owner-password-file", str(wrong),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert _sent(network, other) == before


def test_register__not_confirmed__nothing_is_sent(
    network: LocalNetwork, node: DemoNode, tmp_path: Path
) -> None:
    other = network.nodes[1]
    before = _sent(network, other)
    done = command(
        network, "register", "--config", str(settings_of(network, other, tmp_path)), "--stake", "50000",
        "--owner-keystore", str(other.owner.keystore), "--owner-password-file", str(other.owner.password_file),
    )  # fmt: skip
    assert done.returncode != 0
    assert "Locks 50,000 PRLX" in done.stderr
    assert _sent(network, other) == before


def test_stake_commands__in_the_wrong_state__one_line(
    network: LocalNetwork, node: DemoNode, tmp_path: Path
) -> None:
    config = settings_of(network, node, tmp_path)
    owner = (
        "--owner-keystore",
        str(node.owner.keystore),
        "--owner-password-file",
        str(node.owner.password_file),
    )
    thief = network.nodes[1].owner
    foreign = ("--owner-keystore", str(thief.keystore), "--owner-password-file", str(thief.password_file))
    for words, says in (
        (("cancel", *owner), "nothing to cancel"),
        (("withdraw", *owner), "ask for the stake with"),
        (("unstake", *foreign), "belongs to"),
        (("claim", *owner, "--keeper-url", "http://127.0.0.1:9"), "nothing to claim"),
    ):
        done = command(network, words[0], "--config", str(config), *words[1:], "--yes")
        assert done.returncode == 2, (words[0], done.stdout)
        assert says in done.stderr
        assert done.stderr.count("\n") == 1


def test_verify__clock_a_minute_off__fails_with_remedy(
    network: LocalNetwork, node: DemoNode, tmp_path: Path
) -> None:
    settings = NodeSettings.load(settings_of(network, node, tmp_path, heartbeat_receivers=[network.rpc_url]))
    good = [finding for finding in MachinePreflight(settings).findings() if finding.name == "clock"]
    late = [
        finding
        for finding in MachinePreflight(settings, wall=lambda: time.time() + 60).findings()
        if finding.name == "clock"
    ]
    assert [finding.verdict for finding in (*good, *late)] == [CheckVerdict.OK, CheckVerdict.FAIL]
    assert "+60 s" in late[0].reason or "+59 s" in late[0].reason
    assert "timedatectl" in late[0].remedy


def test_verify__something_fails__exit_1_and_a_verdict_for_each(
    network: LocalNetwork, node: DemoNode, tmp_path: Path
) -> None:
    config = settings_of(network, node, tmp_path, tier=3)
    done = command(network, "verify", "--config", str(config), "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert not found["ok"]
    failed = {check["check"]: check for check in found["checks"] if check["verdict"] == "fail"}
    assert set(failed) == {"tier", "receivers", "registration"}
    assert all(check["remedy"] for check in failed.values())
    assert int(found["forecast"]["per_day_wei"]) > 0


def _owner(node: DemoNode, **changes: Path) -> tuple[str, ...]:
    keystore = changes.get("keystore", node.owner.keystore)
    password = changes.get("password_file", node.owner.password_file)
    return ("--owner-keystore", str(keystore), "--owner-password-file", str(password))


def _sent(network: LocalNetwork, node: DemoNode) -> int:
    return int(network.chain.rpc.call("eth_getTransactionCount", node.owner.address, "latest"), 16)


@pytest.mark.parametrize("name", ["no keystore", "damaged keystore", "readable key", "wrong password"])
def test_register__wrong_owner_key_file__one_line_and_nothing_sent(
    network: LocalNetwork, node: DemoNode, tmp_path: Path, name: str
) -> None:
    change, says = CASES[name]
    other = network.nodes[1]
    before = _sent(network, other)
    config = settings_of(network, other, tmp_path)
    wrong = change(tmp_path, network)
    done = command(
        network, "register", "--config", str(config), "--stake", "50000", "--yes", *_owner(other, **wrong)
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert _sent(network, other) == before


def test_register__model_missing__one_line_and_nothing_sent(
    network: LocalNetwork, node: DemoNode, tmp_path: Path
) -> None:
    other = network.nodes[1]
    before = _sent(network, other)
    done = register(network, other, settings_of(network, other, tmp_path, model_path=tmp_path / "none"))
    assert done.returncode == 2
    assert "does not exist; set model_path" in done.stderr
    assert done.stderr.count("\n") == 1
    assert _sent(network, other) == before


def test_rotate__owners_own_key__one_line_and_nothing_sent(
    network: LocalNetwork, node: DemoNode, tmp_path: Path
) -> None:
    own = "0x" + node_key_hash(node.owner.signer).hex()
    before = _sent(network, node)
    words = ("rotate-key", "--config", str(settings_of(network, node, tmp_path)), *_owner(node), "--yes")
    done = command(network, *words, "--new-key-hash", own)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert _sent(network, node) == before


def test_verify__manifest_of_other_settings__fails_with_remedy(
    network: LocalNetwork, node: DemoNode, tmp_path: Path
) -> None:
    settings = NodeSettings.load(settings_of(network, node, tmp_path, slots=9))
    found = {finding.name: finding for finding in MachinePreflight(settings).findings()}
    assert found["manifest"].verdict is CheckVerdict.FAIL
    assert "on chain is 0x" in found["manifest"].reason
    assert "node update" in found["manifest"].remedy
    good = NodeSettings.load(settings_of(network, node, tmp_path))
    found = {finding.name: finding for finding in MachinePreflight(good).findings()}
    assert found["manifest"].verdict is CheckVerdict.OK


def test_verify__model_server_with_less_context_than_declared__fails(
    network: LocalNetwork, node: DemoNode, tmp_path: Path
) -> None:
    for length, verdict in ((512, CheckVerdict.OK), (128, CheckVerdict.FAIL)):
        folder = tmp_path / str(length)
        folder.mkdir()
        config = settings_of(network, node, folder, extra_vllm_args=["--max-model-len", str(length)])
        agent = Agent(network, config, folder)
        try:
            agent.wait_ready()
            found = {
                finding.name: finding for finding in MachinePreflight(NodeSettings.load(config)).findings()
            }
        finally:
            agent.process.kill()
            agent.process.wait()
        assert found["manifest"].verdict is CheckVerdict.OK, found["manifest"].reason
        assert found["served model"].verdict is verdict
    assert "is loaded with 128 tokens of context, 512 are declared" in found["served model"].reason


def test_register__killed_between_its_two_transactions__goes_on_and_cannot_take_a_bound_key(
    network: LocalNetwork, node: DemoNode, tmp_path: Path
) -> None:
    """Last in this module: it registers the second operator's node."""
    other = network.nodes[1]
    config = settings_of(network, other, tmp_path)
    words = network.command("node", "register", "--config", str(config), *_owner(other), "--stake", "50000")
    asking = subprocess.Popen(
        words,
        env=network.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert asking.stdin is not None
    assert asking.stderr is not None
    asking.stdin.write(b"y\n")
    asking.stdin.flush()
    said = b""
    while b"Publishes the capability manifest" not in said:
        piece = asking.stderr.read1(4096)
        assert piece, said
        said += piece
    asking.kill()
    asking.wait()
    asking.stdin.close()
    asking.stderr.close()
    assert b"Locks 50,000 PRLX" in said
    before = _sent(network, other)
    done = register(network, other, config)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["tx_hashes"]) == 1
    assert _sent(network, other) == before + 1
    assert network.chain.read("NodeRegistryLocker", "nodeCount") == 2
    foreign = "0x" + node_key_hash(node.key.signer).hex()
    done = command(
        network, "rotate-key", "--config", str(config), *_owner(other), "--new-key-hash", foreign, "--yes"
    )
    assert done.returncode == 2
    assert f"is bound to node {node.node_id} already; make another" in done.stderr
    assert done.stderr.count("\n") == 1
