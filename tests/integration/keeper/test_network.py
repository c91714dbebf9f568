"""Three keepers of four, a gateway and two nodes, all real processes: a short epoch from probes to a balanced account.

The third keeper's key is not in its process: it signs through a Web3Signer.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from offchain.domain.eip712 import keccak256
from offchain.domain.evidence_entries import AnswerEntry
from offchain.domain.execution_tree import BATCH, ExecutionProof
from offchain.domain.execution_tree import verify as verify_record
from offchain.domain.messages import ExecutionBatch, ServiceReceipt
from offchain.domain.types import Epoch
from offchain.runtime.crash_points import EPOCH_POINTS
from tests.support.fakes.web3signer import start_web3signer
from tests.support.keeper.processes import MODEL, KeeperRig, alive, wait_for
from tests.support.services.anvil import KEYS, start_anvil
from tests.support.web_client import HTTP

pytestmark = [pytest.mark.anvil, pytest.mark.slow, pytest.mark.timeout(300)]


def reports_of(rig: KeeperRig, epoch: Epoch) -> list[object]:
    """Every report of the epoch that the chain took."""
    contract = rig.network.deployment.contract("UptimeAttestation").address
    topic = "0x" + keccak256(b"ReportSubmitted(uint32,bytes32,uint32,bytes32,bytes32,uint256,uint64)").hex()
    query = {"address": contract, "fromBlock": "0x0", "topics": [topic, f"0x{epoch:064x}"]}
    found: list[object] = rig.network.anvil.rpc("eth_getLogs", query)
    return found


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeeperRig]:
    folder = tmp_path_factory.mktemp("keepers")
    with start_anvil("--block-time", "1", "--mixed-mining") as anvil:
        rig = KeeperRig(anvil, folder)
        with ExitStack() as stack:
            stack.callback(rig.close)
            signer = stack.enter_context(start_web3signer(bytes.fromhex(KEYS[3])))
            rig.start_keeper(0)
            rig.start_gateway()
            rig.start_keeper(1)
            rig.start_keeper(2, **rig.remote_key(2, signer.url))
            for place in (0, 1):
                rig.start_node(place)
            yield rig


def proof_of(shown: dict[str, Any]) -> ExecutionProof:
    """The proof in what `epoch proof` shows."""
    siblings = tuple(bytes.fromhex(item[2:]) for item in shown["siblings"])
    return ExecutionProof(shown["index"], shown["count"], siblings)


def ask_gateway(rig: KeeperRig) -> str:
    """A customer's streamed request; its id."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "stream": True}
    headers = {"Authorization": f"Bearer {rig.api_key}"}
    answer = HTTP.post(f"{rig.gateway_url}/v1/chat/completions", json=body, headers=headers, timeout=10)
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-request-id"])


DEATHS = set(EPOCH_POINTS) - {"rollover-enqueued"}


def test_epoch__keepers_are_killed_at_every_step_and_a_node_is_and_one_keeper_is_missing__attested_and_balanced(
    rig: KeeperRig,
) -> None:
    clock = rig.clock
    rig.arm(*DEATHS)
    epoch = Epoch(clock.epoch_at(rig.chain_now()) + 1)
    rig.wait_for_chain_time(clock.start(epoch) + 4)  # the first slot is over
    asked = ask_gateway(rig)
    rig.nodes[1].kill()
    rig.wait_for_chain_time(clock.start(epoch) + 13)  # two more slots are gone
    rig.start_node(1)
    rig.wait_for_chain_time(clock.end(epoch))
    wait_for(lambda: rig.status(epoch) in (1, 2), 80, "a report with a quorum")
    chain = rig.network.chain
    report = chain.at(chain.head_block()).report(epoch)
    assert report.signer_bitmap == 0b0111, "keeper 3 is bonded but does not run"
    wait_for(lambda: rig.status(epoch) == 2, 60, "a final report")

    def verify(*more: str) -> tuple[int, str, str]:
        done = rig.cli(
            "epoch", "verify", str(epoch), "--rpc", rig.network.anvil.url,
            "--deployment", str(rig.network.deployment.path), *more,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    code, out, err = wait_for(lambda: (found := verify("--json"))[0] == 0 and found, 60, "a verified epoch")
    assert code == 0, err
    facts = json.loads(out)
    first, second = facts["nodes"]
    assert first["uptimeBps"] == 10_000
    assert second["uptimeBps"] < 10_000
    assert int(second["earnedWei"]) < int(first["earnedWei"])
    account = {name: int(value) for name, value in facts["account"].items()}
    assert account["fundedWei"] > 0
    assert account["paidWei"] + account["claimableWei"] + account["carriedWei"] == account["fundedWei"]

    code, out, err = verify("--keeper-url", rig.keeper_url(1))
    assert code == 0, err
    assert "holds to the wei" in out

    bundle = HTTP.get(f"{rig.keeper_url(2)}/v1/bundles/{facts['bundleHash']}")
    assert bundle.status_code == 200
    stored = rig.folder / "bundle.json"
    stored.write_bytes(bundle.content)
    assert verify("--bundle", str(stored))[0] == 0
    stored.write_bytes(bundle.content.replace(b'"version":1', b'"version":2', 1))
    code, _, err = verify("--bundle", str(stored))
    assert code == 1
    assert "hash" in err

    lost = second["missedSlots"]
    where = ["--rpc", rig.network.anvil.url, "--deployment", str(rig.network.deployment.path)]
    done = rig.cli("epoch", "statement", "2", str(epoch), *where, "--format", "json")
    assert done.returncode == 0, done.stderr
    statement = json.loads(done.stdout)
    assert [line["slot"] for line in statement["slots"] if line["state"] == "missed"] == lost
    for line in statement["slots"]:
        if line["slot"] in lost:
            assert len({said["region"] for said in line["evidence"]}) >= 2
            assert all(said["miss"] for said in line["evidence"])
    assert int(statement["onePercentMoreWei"]) > 0
    text = rig.cli("epoch", "statement", "2", str(epoch), *where).stdout
    assert f"slot {lost[0]} lost" in text
    assert rig.cli("epoch", "statement", "2", str(epoch), *where, "--format", "csv").stdout.startswith(
        "epoch,node,"
    )
    missing = rig.cli("epoch", "statement", "77", str(epoch), *where)
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)

    answer = AnswerEntry.unpack(bundle.json()["evidence"][0]["answers"][0])
    done = rig.cli("epoch", "proof", "0x" + answer.receipt.request_id.hex(), *where, "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    root = bytes.fromhex(shown["executionRoot"][2:])
    assert verify_record(root, epoch, answer.receipt.struct_hash(), proof_of(shown))

    [batch] = [item for item in facts["batches"] if item["epoch"] == epoch]
    assert batch["gateway"] == rig.gateway_signer.address.lower()
    assert batch["count"] > 0
    assert facts["records"] > 0
    assert facts["equivocations"] == []
    done = rig.cli("epoch", "proof", asked, *where, "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    receipt, inner = ServiceReceipt.from_json(shown["receipt"]), shown["batch"]
    assert "0x" + receipt.request_id.hex() == asked
    under = bytes.fromhex(inner["root"][2:])
    assert verify_record(under, epoch, receipt.struct_hash(), proof_of(inner), BATCH)
    leaf = ExecutionBatch(epoch, inner["count"], under).struct_hash()
    assert verify_record(bytes.fromhex(shown["executionRoot"][2:]), epoch, leaf, proof_of(shown))
    kept = rig.folder / "record.json"
    kept.write_bytes(HTTP.get(f"{rig.gateway_url}/v1/executions/{asked}", timeout=5).content)
    done = rig.cli("epoch", "proof", asked, *where, "--record", str(kept))
    assert done.stdout.strip().endswith(": proven"), done.stderr
    for more, reason in (
        (["--gateway-url", "http://127.0.0.1:1", "--epoch", str(epoch)], "cannot be asked"),
        (["--record", str(rig.folder / "none")], "cannot be read"),
        (["--record", str(kept), "--epoch", "0"], "no report"),
    ):
        done = rig.cli("epoch", "proof", asked, *where, *more)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert reason in done.stderr
    assert rig.cli("epoch", "proof", "0x12", *where).returncode == 2

    summary = wait_for(
        lambda: (found := HTTP.get(f"{rig.keeper_url(0)}/v1/epochs/{epoch}").json())["nodes"] and found,
        60,
        "slot records",
    )
    assert [node["uptimeBps"] for node in summary["nodes"]] == [10_000, second["uptimeBps"]]
    assert summary["nodes"][1]["slots"].count("m") == len(second["missedSlots"])
    assert not summary["disagreements"]
    wait_for(lambda: not rig.armed(), 60, "a death at every step of an epoch")
    assert len(reports_of(rig, epoch)) == 1
    for i in (0, 1, 2):
        lost = "select count(*) from intents where status = 'fault'"
        assert rig.row(i, lost) == (0,)


def test_request__asked_on_chain__answered_by_celery_and_paid_once(rig: KeeperRig) -> None:
    request = rig.ask_on_chain()
    wait_for(lambda: rig.fulfilments(request), 60, "a fulfilment")
    assert rig.fulfilments(request) == 1


def test_commands__verify_and_outbox__show_a_healthy_keeper(rig: KeeperRig) -> None:
    config = str(rig.folder / "keeper-0.toml")
    done = rig.cli("keeper", "verify", "--config", config, "--json")
    assert done.returncode == 0, done.stdout
    findings = {(found := json.loads(line))["check"]: found for line in done.stdout.splitlines()}
    assert {name for name, found in findings.items() if found["level"] == "ok"} >= {
        "deployment", "key", "chain", "clock", "bond", "tickets", "gas", "database", "broker", "gateway",
    }  # fmt: skip
    rows = [
        json.loads(line)
        for line in rig.cli("keeper", "outbox", "list", "--config", config, "--json").stdout.splitlines()
    ]
    assert all(row["status"] != "fault" for row in rows)
    unknown = rig.cli("keeper", "outbox", "retry", "--config", config, "attest:999999")
    assert unknown.returncode == 2
    assert "no intent" in unknown.stderr


def test_start__wrong_settings__one_line_and_nothing_left(rig: KeeperRig, tmp_path: Path) -> None:
    import tomli_w

    other = json.loads(rig.network.deployment.path.read_text()) | {"chain_id": 5}
    foreign = tmp_path / "5.json"
    foreign.write_text(json.dumps(other))
    taken = rig.ports["keeper-0"]
    for changes, words in (
        ({"port": taken}, "choose another port"),
        ({"deployment": str(foreign)}, "chain 31337"),
        ({"deployment": str(tmp_path / "none.json")}, "does not exist"),
        ({"rpc_url": "http://127.0.0.1:1"}, "cannot be reached"),
        ({"keystore": str(tmp_path / "none")}, "does not exist"),
        (rig.remote_key(3, "http://127.0.0.1:1"), "does not list its keys"),
        ({"gateway_api_key_file": str(tmp_path / "none")}, "cannot be read"),
        ({"redis_url": "redis://127.0.0.1:1/0"}, "broker does not answer"),
    ):
        path = tmp_path / "keeper.toml"
        fields = (
            rig.settings(3, data_dir=str(tmp_path / "data"), database_url=f"sqlite:///{tmp_path}/k.db")
            | changes
        )
        path.write_text(tomli_w.dumps({name: value for name, value in fields.items() if value is not None}))
        done = rig.cli("keeper", "start", "--config", str(path))
        assert done.returncode == 2, (changes, done.stderr)
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("error: "), (changes, done.stderr)
        assert words in last, (changes, done.stderr)
        assert "Traceback" not in done.stderr


def test_api__health_ready_metrics__answer(rig: KeeperRig) -> None:
    for i in (0, 1, 2):
        assert HTTP.get(f"{rig.keeper_url(i)}/health").json()["status"] == "ok"
        ready = HTTP.get(f"{rig.keeper_url(i)}/ready")
        assert ready.status_code == 200, ready.text
        assert "parallelix_keeper_block_age_seconds" in HTTP.get(f"{rig.keeper_url(i)}/metrics").text
    assert HTTP.get(f"{rig.keeper_url(0)}/v1/bundles/0x{'00' * 32}").status_code == 404
    assert HTTP.get(f"{rig.keeper_url(0)}/v1/epochs/4000000000/evidence").status_code == 425
    refused = HTTP.post(f"{rig.keeper_url(0)}/internal/heartbeat", content=b"{}")
    assert refused.status_code in (400, 401)


def test_stop__sigterm_and_sigkill__leave_nothing_behind(rig: KeeperRig) -> None:
    gentle, harsh = rig.keepers[2], rig.keepers[1]
    families = {gentle: gentle.family(), harsh: harsh.family()}
    assert all(len(pids) >= 6 for pids in families.values())
    assert gentle.terminate() == 0
    harsh.kill()
    for pids in families.values():
        wait_for(lambda pids=pids: not any(alive(pid) for pid in pids), 60, "the end of every child")  # type: ignore[misc]
