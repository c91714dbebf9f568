"""Alerts, metrics, dashboard and runbooks belong together: no alert on a figure that nobody gives, none without a runbook."""

import json
import re
from pathlib import Path

import pytest
import yaml

from offchain.db.database import open_database
from offchain.db.migrations import upgrade
from offchain.db.models import Intent
from offchain.domain.types import BlockRef, Epoch, NodeId
from offchain.errors import TransientError
from offchain.keeper import store
from offchain.keeper.probing.capability_check import CAPABILITY
from offchain.keeper.probing.clock_check import CLOCK
from offchain.keeper.process.health import Health
from tests.support.factories import make_node
from tests.support.keeper.cluster import Hands
from tests.support.keeper.epoch_factory import EpochWorld

ROOT = Path(__file__).parents[3]
METRIC = re.compile(r"parallelix_keeper_[a-z_]+")


class FixedAges:
    """Step ages as the test sets them, or a broker that is gone."""

    def __init__(self, age_ms: int | None = 500) -> None:
        self.age_ms = age_ms
        self.broken = False

    def ages_ms(self, names: object) -> dict[str, int | None]:
        if self.broken:
            raise TransientError("the broker does not answer")
        return dict.fromkeys(list(names), self.age_ms)  # type: ignore[call-overload]


@pytest.fixture
def health(tmp_path: Path) -> tuple[Health, FixedAges]:
    from offchain.db.cursors import move

    clock = EpochWorld().context.clock
    now = clock.start(Epoch(7)) + 30
    url = f"sqlite:///{tmp_path}/keeper.db"
    upgrade(url)
    database = open_database(url)
    with database.write() as session:
        for name in ("head", "finalized"):
            move(session, name, None, BlockRef(5, "0x" + "00" * 32, now - 7))
        store.plan_probes(
            session, [store.DueProbe(Epoch(7), s, NodeId(1), now * 1000 - 20_000 + s) for s in (0, 1)]
        )
        store.mark(session, "closed", "6", now, {"outcome": "lapsed"})
        store.mark(session, "refusal", "6:0x", now)
        probe = store.DueProbe(Epoch(7), 2, NodeId(1), now * 1000 - 21_000)
        store.plan_probes(session, [probe])
        store.record_probe(session, probe, "missed", {"entry": "", "reason": "wrong_answer"}, 5)
        for node, found, withdrawn in (
            (1, [], False),
            (2, ["other slots"], False),
            (3, ["other slots"], True),
        ):
            session.add(make_node(node, withdrawn=withdrawn))
            store.mark(session, CAPABILITY, str(node), now, {"found": found})
        store.mark(session, CLOCK, "ages", now, {"ages": [[4, 90_000], [5, 7_000]]})
        session.add(
            Intent(key="attest:5", signer="0x", to_address="0x", data=b"", contract="c", function="f", status="sent",
                   created_at=now - 90, updated_at=now)
        )  # fmt: skip
    ages = FixedAges()
    made = Health(database, ages, Hands(now * 1000), clock, lambda: 512)  # type: ignore[arg-type]
    return made, ages


def test_metrics__every_alert_and_panel__uses_a_figure_that_exists(health: tuple[Health, FixedAges]) -> None:
    given = set(METRIC.findall(health[0].metrics().decode()))
    rules = yaml.safe_load((ROOT / "deploy/prometheus/keeper-alerts.yml").read_text())["groups"][0]["rules"]
    board = json.loads((ROOT / "deploy/grafana/keepers.json").read_text())
    asked = {name for rule in rules for name in METRIC.findall(rule["expr"])}
    asked |= {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in METRIC.findall(target["expr"])
    }
    assert asked <= given, asked - given


def test_alerts__each_one__has_a_runbook_that_names_it() -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/keeper-alerts.yml").read_text())["groups"][0]["rules"]
    for rule in rules:
        text = (ROOT / rule["annotations"]["runbook"]).read_text()
        assert rule["alert"] in text.splitlines()[0], rule["alert"]
        assert "## Do" in text


def test_metrics__values__are_those_of_the_database(health: tuple[Health, FixedAges]) -> None:
    text = health[0].metrics().decode()
    for line in (
        'parallelix_keeper_block{cursor="head"} 5.0',
        'parallelix_keeper_block_age_seconds{cursor="finalized"} 7.0',
        'parallelix_keeper_intents{status="sent"} 1.0',
        "parallelix_keeper_oldest_intent_age_seconds 90.0",
        'parallelix_keeper_epochs{outcome="lapsed"} 1.0',
        'parallelix_keeper_jobs{kind="refusal",status="done"} 1.0',
        'parallelix_keeper_jobs{kind="two-batches",status="done"} 0.0',
        "parallelix_keeper_probes_due 3.0",
        'parallelix_keeper_misses{reason="wrong_answer"} 1.0',
        'parallelix_keeper_misses{reason="timeout"} 0.0',
        "parallelix_keeper_capability_mismatches 1.0",
        "parallelix_keeper_clock_skew_seconds 7.0",
        "parallelix_keeper_probes_abstained 2.0",
        "parallelix_keeper_gas_wei 512.0",
        "parallelix_keeper_broker_up 1.0",
    ):
        assert line in text, line


def test_problems__silent_or_dead_parts__are_named(health: tuple[Health, FixedAges]) -> None:
    checked, ages = health
    assert checked.problems() == []
    ages.age_ms = None
    assert any("never ran" in text for text in checked.problems())
    ages.age_ms = 60_000
    assert any("60 s ago" in text for text in checked.problems())
    ages.broken = True
    assert any("broker" in text for text in checked.problems())
    assert "parallelix_keeper_broker_up 0.0" in checked.metrics().decode()
