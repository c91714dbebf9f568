"""What a machine has, what it may earn, what it declares: rules without processes."""

import io
import json
import re
import shutil
import stat
import subprocess
from fractions import Fraction
from pathlib import Path

import pytest
import rfc8785
from pydantic import ValidationError
from rich.console import Console

from offchain.chain.deployment import Deployment
from offchain.chain.reader import NodeState, NodeView
from offchain.domain.tiers import Tier, weight
from offchain.domain.types import Address, Bps, Epoch, NodeId, Wei, Weight
from offchain.errors import UserError
from offchain.node.cli.main import cli
from offchain.node.engines.model_server import vllm_arguments, vllm_environment
from offchain.node.machine import hardware
from offchain.node.machine.findings import CheckVerdict
from offchain.node.machine.initialise import Wanted, initialise
from offchain.node.machine.manifest import model_revision
from offchain.node.machine.preflight import MachinePreflight
from offchain.node.machine.systemd import unit
from offchain.node.machine.terminal_view import render
from offchain.node.owner.earnings import NodeEarnings
from offchain.node.owner.forecast import forecast
from offchain.node.owner.node_key import parse_key_hash
from offchain.node.owner.stake import Earning
from offchain.node.settings import NodeSettings
from offchain.protocol.manifests import contradictions, parse_manifest, revision_hashes
from tests.support.node.network import ROOT
from tests.support.node.requests import MANIFEST

NVIDIA = "NVIDIA H100 80GB HBM3, 81559, 550.54.15\nNVIDIA H100 80GB HBM3, 81559, 550.54.15\n"
AMD = json.dumps(
    {
        "card0": {"Card Series": "AMD Radeon RX 7900 XTX", "VRAM Total Memory (B)": str(24 * 1024**3)},
        "card1": {"Card Series": "AMD Radeon RX 7900 XTX", "VRAM Total Memory (B)": str(24 * 1024**3)},
        "system": {"Driver version": "6.7.0"},
    }
)


@pytest.mark.parametrize(
    ("answers", "count", "tier", "backend", "why"),
    [
        ({}, 0, Tier.CPU, "cpu", "no GPU"),
        ({"nvidia-smi": NVIDIA}, 2, Tier.HEAVY_GPU, "nvidia", "2 x NVIDIA H100"),
        ({"rocm-smi": AMD}, 2, Tier.MID_GPU, "amd", "2 x AMD Radeon"),
        ({"nvidia-smi": NVIDIA, "rocm-smi": AMD}, 4, Tier.HEAVY_GPU, "nvidia", "2 x NVIDIA H100"),
        ({"nvidia-smi": "NVIDIA GeForce GT 1030, 2048, 470.1\n"}, 1, Tier.CPU, "cpu", "too little memory"),
        (
            {"nvidia-smi": "NVIDIA RTX 4090, 24564, 550.1\nNVIDIA T4, 15360, 550.1\n"},
            2,
            Tier.MID_GPU,
            "nvidia",
            "2 GPUs",
        ),
        ({"nvidia-smi": "garbage", "rocm-smi": "{"}, 0, Tier.CPU, "cpu", "no GPU"),
    ],
)
def test_detect__every_accelerator__tier_with_reason(
    answers: dict, count: int, tier: Tier, backend: str, why: str
) -> None:
    found = hardware.detect(lambda words: answers.get(words[0]))
    assert (len(found.accelerators), found.tier, found.backend) == (count, tier, backend)
    assert why in found.why
    assert found.memory_bytes > 0


def test_forecast__joins_two_equal_nodes__a_third_less_downtime() -> None:
    stake = Wei(50_000 * 10**18)
    others = Weight(2 * weight(stake, Tier.CPU))
    made = forecast(Wei(3_000), others, stake, Tier.CPU, Bps(9_000), 43_200, Fraction(1), Fraction(10**15))
    assert (made.per_epoch_wei, made.per_day_wei, made.share_bps, made.per_percent_wei) == (
        900,
        1_800,
        3_333,
        10,
    )
    assert made.break_even_price == Fraction(10**18, 1_800)
    assert made.covers_cost is True
    assert any("90.00 %" in text for text in made.assumptions)


def test_forecast__empty_pool__no_break_even() -> None:
    made = forecast(Wei(0), Weight(0), Wei(1), Tier.CPU, Bps(10_000), 60, Fraction(1))
    assert (made.per_day_wei, made.break_even_price, made.covers_cost) == (0, None, None)


def test_manifest__canonical__parses_back_and_any_other_form_does_not() -> None:
    data = MANIFEST.canonical()
    assert rfc8785.dumps(parse_manifest(data)) == data
    with pytest.raises(ValueError, match="canonical"):
        parse_manifest(json.dumps(json.loads(data)).encode())
    with pytest.raises(ValueError, match="version"):
        parse_manifest(b"{}")


def test_revision__follows_contents_not_place_and_is_cached(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"w" * 1000)
    cache = tmp_path / "cache.json"
    first = model_revision(folders[0], cache)
    assert first == model_revision(folders[1]) == model_revision(folders[0], cache)
    assert len(json.loads(cache.read_text())) == 2
    (folders[1] / "model.safetensors").write_bytes(b"w" * 999 + b"x")
    assert model_revision(folders[1]) != first
    cache.write_text("damaged")
    assert model_revision(folders[0], cache) == first


@pytest.mark.parametrize(("folder", "says"), [("none", "does not exist"), (".", "no config.json")])
def test_revision__no_model_there__one_line(tmp_path: Path, folder: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        model_revision(tmp_path / folder)


def test_key_hash__wrong_length__one_line() -> None:
    assert parse_key_hash("0x" + "ab" * 32) == b"\xab" * 32
    with pytest.raises(UserError, match="no node key hash"):
        parse_key_hash("0xab")


def _settings(tmp_path: Path, **changes: object) -> NodeSettings:
    fields: dict[str, object] = {
        "data_dir": tmp_path / "data",
        "rpc_url": "http://127.0.0.1:1",
        "deployment": tmp_path / "d.json",
        "keystore": tmp_path / "k.json",
        "password_file": tmp_path / "p",
        "heartbeat_receivers": [],
        "served_model": "m",
        **changes,
    }
    return NodeSettings(**fields)


def test_service__unit__is_hardened_and_writes_only_its_folder(tmp_path: Path) -> None:
    made = unit(_settings(tmp_path), tmp_path / "node.toml", system=True)
    for line in (
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "CapabilityBoundingSet=",
        "PrivateDevices=yes",
        "KillMode=mixed",
    ):
        assert line in made.text.splitlines()
    assert f"ReadWritePaths={tmp_path / 'data'}" in made.text
    assert "ExecReload=/bin/kill -USR1 $MAINPID" in made.text
    gpu = unit(_settings(tmp_path, backend="nvidia"), tmp_path / "node.toml", system=False)
    assert "PrivateDevices=no" in gpu.text
    assert "User=" not in gpu.text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")
@pytest.mark.parametrize("backend", ["cpu", "nvidia"])
def test_service__unit__systemd_reads_it_and_calls_it_little_exposed(tmp_path: Path, backend: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "node.toml").touch()
    file = tmp_path / "parallelix-node-node.service"
    file.write_text(unit(_settings(tmp_path, backend=backend), tmp_path / "node.toml", system=True).text)
    read = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(file)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (read.returncode, read.stderr) == (0, "")
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=25", str(file)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert judged.returncode == 0, judged.stdout[-400:]


def test_container__file__copies_runs_and_starts_what_is_there() -> None:
    """It is not built in the tests; what can be read of it is held against the checkout."""
    lines = (ROOT / "deploy/node/Containerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
    words = [word for word, _ in steps]
    assert set(words) <= {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "STOPSIGNAL", "ENTRYPOINT"}
    assert words[0] == "FROM"
    assert ":" in steps[0][1]
    assert words.index("USER") < words.index("ENTRYPOINT")
    entry = json.loads(dict(steps)["ENTRYPOINT"])
    assert entry[:4] == ["python", "-m", "offchain", "node"]
    options = {option for parameter in cli.commands[entry[4]].params for option in parameter.opts}
    assert set(entry[5:]) <= options
    scripts = [word for _, text in steps for word in text.split() if word.startswith("tools/")]
    assert scripts
    assert all((ROOT / script).exists() for script in scripts)


COMMANDS = [
    "setup",
    "probe",
    "init",
    "models",
    "register",
    "start",
    "service",
    "verify",
    "status",
    "logs",
    "earnings",
    "claim",
    "unstake",
    "cancel",
    "withdraw",
    "update",
    "rotate-key",
    "keygen",
]
SENDING = ["setup", "register", "claim", "unstake", "cancel", "withdraw", "update", "rotate-key"]


@pytest.mark.parametrize("name", COMMANDS)
def test_command__each__has_json_and_yes_where_it_sends(name: str) -> None:
    options = {option for parameter in cli.commands[name].params for option in parameter.opts}
    assert "--json" in options
    assert ("--yes" in options) is (name in SENDING)


def test_models__top_level_and_further_ones__in_order(tmp_path: Path) -> None:
    settings = _settings(
        tmp_path, models=[{"name": "n", "engine_url": "http://x", "revision": "r"}], replicas=2
    )
    assert [(model.name, model.replicas) for model in settings.all_models()] == [("m", 2), ("n", 1)]


def test_vllm__cpu__one_process_float32_and_gpu__its_own_choice() -> None:
    cpu = vllm_arguments("cpu", 512, 64, ["--x"])
    assert cpu[cpu.index("--dtype") + 1] == "float32"
    assert cpu[-1] == "--x"
    assert "--dtype" not in vllm_arguments("nvidia", 512, 64, [])
    assert vllm_environment("cpu", Path("/c"))["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in vllm_environment("nvidia", Path("/c"))


def test_init__again__keeps_settings_and_key(tmp_path: Path) -> None:
    model = tmp_path / "model"
    wanted = Wanted(
        tmp_path / "node",
        "http://r",
        tmp_path / "d.json",
        ("http://g",),
        "eu",
        "m",
        model,
        None,
        None,
        ("vllm",),
    )
    machine = hardware.detect(lambda _: None)
    first = initialise(wanted, machine)
    again = initialise(wanted, machine)
    assert (first.created, again.created) == (True, False)
    assert first.node_key == again.node_key
    for name in ("node.key.json", "node.password", "node.toml"):
        assert stat.S_IMODE((tmp_path / "node" / name).stat().st_mode) == 0o600
    settings = NodeSettings.load(first.config)
    assert settings.dial_out
    assert settings.model_path == model
    with pytest.raises(UserError, match="no model is named"):
        initialise(
            Wanted(tmp_path / "other", "r", tmp_path / "d", (), "eu", "m", None, None, None, ("vllm",)),
            machine,
        )


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, CheckVerdict.OK),
        ({"dial_out": False, "host": "127.0.0.1"}, CheckVerdict.OK),
        ({"dial_out": False, "host": "0.0.0.0"}, CheckVerdict.WARN),
        ({"dial_out": False, "host": "example.org", "public_url": "http://example.org"}, CheckVerdict.WARN),
        ({"dial_out": False, "host": "0.0.0.0", "public_url": "https://example.org"}, CheckVerdict.OK),
        ({"dial_out": False, "host": "0.0.0.0", "tls_certificate": "c", "tls_key": "k"}, CheckVerdict.OK),
    ],
)
def test_verify__plain_http_to_the_world__warns(tmp_path: Path, changes: dict, verdict: CheckVerdict) -> None:
    found = {finding.name: finding for finding in MachinePreflight(_settings(tmp_path, **changes)).findings()}
    assert found["way"].verdict is verdict


def test_init__listen__serves_inbound_there_and_a_bad_address_is_one_line(tmp_path: Path) -> None:
    machine = hardware.detect(lambda _: None)
    first = ("r", tmp_path / "d", (), "eu", "m", tmp_path / "model", None, None, ("vllm",))
    wanted = Wanted(
        tmp_path / "a", *first, listen="0.0.0.0:8443", public_url="https://x:8443", keeper_url="http://k"
    )
    settings = NodeSettings.load(initialise(wanted, machine).config)
    assert (settings.dial_out, settings.host, settings.port) == (False, "0.0.0.0", 8443)
    assert (settings.public_url, settings.keeper_url) == ("https://x:8443", "http://k")
    with pytest.raises(UserError, match="no HOST:PORT"):
        initialise(Wanted(tmp_path / "b", *first, listen="8443"), machine)


def test_deployment__missing__one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Deployment.load(tmp_path / "none.json")


def test_view__serving_node__shows_state_requests_models_uptime_and_earnings(tmp_path: Path) -> None:
    agent = {
        "node_id": 7,
        "url": "http://a",
        "status": "ok",
        "draining": False,
        "slots": 4,
        "free_slots": 3,
        "totals": {"served": 1234, "failed": 0, "refused": 2, "prompt_tokens": 5, "completion_tokens": 6},
        "engines": [{"model": "m", "state": "up", "restarts": 1, "version": "0.32.0", "reason": ""}],
        "fronts": [
            {"url": "http://g", "accepted_s_ago": 1.2, "way": "dialled"},
            {"url": "http://k", "accepted_s_ago": None, "way": "relayed"},
        ],
    }
    earnings = NodeEarnings(_settings(tmp_path))
    earnings.earnings = (
        Earning(Epoch(9), "claimable", Bps(9_950), 12 * 10**17),
        Earning(Epoch(8), "claimed", Bps(10_000), 10**18),
        Earning(Epoch(7), "lapsed", None, None),
    )
    earnings.reason = ""
    owner = Address("0x1")
    earnings.node = NodeView(
        node_id=NodeId(7), owner=owner, beneficiary=owner, key_address=owner, stake_wei=Wei(50_000 * 10**18), tier=1,
        state=NodeState.ACTIVE, active_from=1, active_until=0, unlock_at=0, capability_hash=bytes(32),
        node_key_hash=bytes(32),
    )  # fmt: skip
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render(agent, earnings))
    text = console.export_text()
    for part in (
        "node 7",
        "1 of 4 ███░░░░░░░░░",
        "1,234",
        "0.32.0",
        "dialled, heard 1 s ago",
        "99.50 %",
        "claimable 1.2 PRLX",
        "never heard",
        "50,000 PRLX",
        "active",
    ):
        assert part in text


@pytest.mark.parametrize("name", ["heartbeat_receivers", "fronts"])
def test_settings__receivers_by_their_name_or_the_old_one__are_read_from_file_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fields = _settings(tmp_path).model_dump(
        include={"data_dir", "rpc_url", "deployment", "keystore", "password_file"}
    )
    fields |= {"served_model": "m"}
    assert NodeSettings(**fields, **{name: ["http://g"]}).heartbeat_receivers == ["http://g"]
    monkeypatch.setenv("FRONTS", '["http://stranger"]')
    with pytest.raises(ValidationError, match="heartbeat_receivers"):
        NodeSettings(**fields)
    monkeypatch.setenv(f"PARALLELIX_{name.upper()}", '["http://e"]')
    assert NodeSettings(**fields).heartbeat_receivers == ["http://e"]


def test_chain__is_read_and_written_without_web3_and_without_words_cut_by_hand() -> None:
    """Reads go through `chain/reader.py`, transactions through `outbox/wire.py`."""
    for path in (ROOT / "offchain/node").rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"(import|from) (web3|eth_abi|requests)\b|eth_call", text), path


def test_contradictions__honest_node__none_and_each_lie_is_named() -> None:
    data, right = MANIFEST.canonical(), MANIFEST.hash()
    model = MANIFEST.models[0].to_json()
    beat = {"models": [model], "slots": 2, "price_per_token_wei": "10"}
    assert contradictions(data, right, Tier.CPU, beat) == ()
    assert revision_hashes(parse_manifest(data)) == {"m": MANIFEST.models[0].revision_hash}
    assert "hash is on chain" in contradictions(data, bytes(32), Tier.CPU, beat)[0]
    assert "tier 1 is declared, 3 is registered" in contradictions(data, right, Tier.HEAVY_GPU, beat)[0]
    for lie, says in (
        ({"models": [{**model, "revision": "other"}]}, "revision other is served"),
        ({"models": [{**model, "context_length": 9}]}, "context_length 9"),
        ({"models": [{**model, "name": "x"}]}, "not declared"),
        ({"slots": 3}, "3 slots are offered"),
        ({"price_per_token_wei": "11"}, "price"),
    ):
        found = contradictions(data, right, Tier.CPU, {**beat, **lie})
        assert len(found) == 1
        assert says in found[0]
