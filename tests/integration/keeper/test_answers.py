"""Nodes that answer, but not as they declared: three keepers and four nodes of four owners, all real processes."""

import json
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
import rfc8785

from offchain.domain.eip712 import keccak256
from offchain.domain.types import Epoch
from tests.support.keeper.processes import MODEL, KeeperRig, wait_for
from tests.support.services.anvil import start_anvil

pytestmark = [pytest.mark.anvil, pytest.mark.slow, pytest.mark.timeout(400)]

HONEST, LIAR, PRETENDER, LATE = range(4)
OWNERS = ((5, 1), (4, 1), (0, 1), (6, 3))
"""(account, tier); the last is registered as a heavy GPU and begins its answers too late for one."""


def manifest(**changes: Any) -> bytes:
    fields = {
        "version": 1, "tier": 1, "slots": 8, "price_per_token_wei": "10", "region": "local", "backend": "cpu",
        "accelerators": [], "models": [{"name": MODEL, "revision": "r1", "context_length": 4096}],
    }  # fmt: skip
    return rfc8785.dumps(fields | changes)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeeperRig]:
    folder = tmp_path_factory.mktemp("answers")
    with start_anvil("--block-time", "1", "--mixed-mining") as anvil:
        rig = KeeperRig(anvil, folder, bonded=3, epoch_seconds=30, nodes=OWNERS)
        try:
            declared = {HONEST: manifest(), PRETENDER: manifest(slots=64)}
            for place, document in declared.items():
                owner = OWNERS[place][0]
                rig.network.send(
                    owner, "NodeRegistryLocker", "setCapabilities", rig.node_ids[place], keccak256(document), "",
                )  # fmt: skip
            rig.start_keeper(0)
            rig.start_gateway()
            rig.start_keeper(1)
            rig.start_keeper(2)
            rig.start_node(HONEST, manifest=manifest().decode())
            rig.start_node(LIAR, mode="lie")
            rig.start_node(PRETENDER, manifest=manifest().decode())
            rig.start_node(LATE, first_ms=1_400)
            yield rig
        finally:
            rig.close()


def epoch_in_which(rig: KeeperRig, found: Callable[[Epoch], bool]) -> Epoch:
    """The first epoch from the next on whose report says so: the rig is warm by then, however slow the machine."""
    for epoch in map(Epoch, count(rig.clock.epoch_at(rig.chain_now()) + 1)):
        rig.wait_for_chain_time(rig.clock.end(epoch))
        wait_for(lambda: rig.status(epoch) in (1, 2), 70, "a report with a quorum")  # noqa: B023  (called here)
        if found(epoch):
            return epoch
    raise AssertionError


def statement(rig: KeeperRig, place: int, epoch: Epoch) -> dict[str, Any]:
    def stated() -> dict[str, Any] | None:
        done = rig.cli(
            "epoch", "statement", str(rig.node_ids[place]), str(epoch), "--rpc", rig.network.anvil.url,
            "--deployment", str(rig.network.deployment.path), "--format", "json",
        )  # fmt: skip
        found: dict[str, Any] | None = json.loads(done.stdout) if done.returncode == 0 else None
        return found

    found: dict[str, Any] = wait_for(stated, 60, "a statement")
    return found


def reasons(said: dict[str, Any], state: str) -> set[str]:
    return {item["miss"] for line in said["slots"] if line["state"] == state for item in line["evidence"]}


def test_probes__a_liar_a_pretender_and_a_late_node__each_loses_its_slots_with_the_reason(
    rig: KeeperRig,
) -> None:
    def told_apart(epoch: Epoch) -> bool:
        up = {place: statement(rig, place, epoch)["uptimeBps"] for place in (HONEST, LIAR)}
        return up[HONEST] == 10_000 and up[LIAR] <= 4_000

    epoch = epoch_in_which(rig, told_apart)
    liar = statement(rig, LIAR, epoch)
    assert reasons(liar, "missed") == {"wrong_answer"}
    pretender = statement(rig, PRETENDER, epoch)
    assert pretender["uptimeBps"] <= 4_000
    assert reasons(pretender, "missed") == {"false_manifest"}
    late = statement(rig, LATE, epoch)
    assert late["uptimeBps"] <= 4_000
    assert "slow_first_token" in reasons(late, "missed") <= {"slow_first_token", "below_floor"}


def test_probes__one_keeper_with_a_false_reference__costs_nobody_a_slot(rig: KeeperRig) -> None:
    assert rig.keepers[0].terminate() == 0
    rig.start_keeper(0, reference_url=rig.nodes[LIAR].url)  # it takes the liar's word for the truth
    epoch = epoch_in_which(rig, lambda epoch: "wrong_answer" in reasons(statement(rig, HONEST, epoch), "up"))
    honest = statement(rig, HONEST, epoch)
    assert honest["uptimeBps"] == 10_000
