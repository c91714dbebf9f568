"""After the vote: slot records of what the chain accepted, the pool of what lapsed, and an alarm for what is false."""

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from offchain.chain.reader import EpochStatus
from offchain.db.database import Database, open_database
from offchain.db.models import Intent, Job, Report, SlotRecord
from offchain.db.upsert import insert_or_ignore
from offchain.domain.messages import EpochReport
from offchain.domain.types import Epoch
from offchain.keeper.attestation.lease import unfenced
from offchain.keeper.attestation.settlement import EpochSettlement
from offchain.keeper.process.supervisor import run_forked
from offchain.runtime.crash_points import VARIABLE, CrashPoint, from_environment, nowhere
from tests.support.keeper.cluster import Ring
from tests.support.keeper.epoch_factory import EPOCH, EpochWorld


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    made = Ring(EpochWorld(down={2: {0, 2}}), tmp_path)
    yield made
    made.close()


def closer(
    ring: Ring, i: int, database: Database | None = None, reached: CrashPoint = nowhere
) -> EpochSettlement:
    return EpochSettlement(
        database or ring.databases[i],
        ring.view,
        ring.services[i],
        ring.sent[i] if database is None else Intents(),
        ring.time,
        ["0", "1", "2"],
        reached=reached,
    )


def accept(ring: Ring, i: int, *, root: str | None = None) -> EpochReport:
    """Let the ring vote, and put the accepted report into keeper i's index."""
    for service in ring.services:
        service.leader.step(unfenced)
    report: EpochReport = next(s.intents[f"attest:{EPOCH}"][0] for s in ring.sent if s.intents)
    ring.view.state = EpochStatus.PENDING
    with ring.databases[i].write() as session:
        session.add(
            Report(
                epoch=EPOCH,
                uptime_root=root or "0x" + report.uptime_root.hex(),
                node_count=report.node_count,
                execution_root="0x" + report.execution_root.hex(),
                bundle_hash="0x" + report.bundle_hash.hex(),
                signer_bitmap=7,
                submitted_at=1,
                final_at=2,
                tx_hash="0x",
            )
        )
    return report


def outcome(ring: Ring, i: int) -> str | None:
    with ring.databases[i].read() as session:
        row = session.get(Job, ("closed", str(EPOCH)))
    return None if row is None or row.result is None else str(row.result["outcome"])


def test_step__accepted_then_final__slots_first_and_closed_once(ring: Ring) -> None:
    accept(ring, 0)
    closer(ring, 0).step()
    with ring.databases[0].read() as session:
        row = session.get(SlotRecord, (EPOCH, 2))
    assert row is not None
    assert (row.states, row.uptime_bps) == ("mumu", 5_000)
    assert outcome(ring, 0) is None
    ring.view.state = EpochStatus.FINAL
    closer(ring, 0).step()
    closer(ring, 0).step()
    assert outcome(ring, 0) == "final"


def test_step__root_that_does_not_follow__is_an_alarm_and_no_record(ring: Ring) -> None:
    accept(ring, 1, root="0x" + "13" * 32)
    closer(ring, 1).step()
    assert outcome(ring, 1) == "differs"
    with ring.databases[1].read() as session:
        assert session.get(SlotRecord, (EPOCH, 2)) is None


def test_step__lapsed__keepers_roll_the_pool_over_one_after_another(ring: Ring) -> None:
    ring.view.state = EpochStatus.LAPSED
    ring.view.pool_wei = 5
    ring.time.ms = (ring.view.deadline + 1) * 1000
    for i in range(3):
        closer(ring, i).step()
    assert sum(f"rollover:{EPOCH}" in sent.intents for sent in ring.sent) == 1
    ring.time.ms += 30_000
    for i in range(3):
        closer(ring, i).step()
    assert all(f"rollover:{EPOCH}" in sent.intents for sent in ring.sent), "the contract takes only one"
    assert outcome(ring, 0) == "lapsed"


class Intents:
    """Writes the intent as the outbox does: in the caller's transaction, once a key."""

    def roll_over(self, session: Session, epoch: Epoch) -> None:
        row = {
            "key": f"rollover:{epoch}", "signer": "0x", "to_address": "0x", "data": b"", "contract": "RewardDistributor",
            "function": "rollover", "status": "pending", "retry_at": 0, "attempts": 0, "reverted": False,
            "created_at": 1, "updated_at": 1,
        }  # fmt: skip
        insert_or_ignore(session, Intent, row)


@pytest.mark.parametrize("point", ["rollover-enqueued", "epoch-closed"])
def test_step__killed_while_it_settles_a_lapsed_epoch__one_intent_and_one_end(
    ring: Ring, tmp_path: Path, point: str
) -> None:
    ring.view.state, ring.view.pool_wei = EpochStatus.LAPSED, 5
    ring.time.ms = (ring.view.deadline + 60) * 1000
    points = tmp_path / "crash"
    points.mkdir()
    (points / point).touch()
    url = f"sqlite:///{tmp_path / 'keeper-0.db'}"

    def settle() -> None:
        with closing(open_database(url)) as database:
            closer(ring, 0, database, from_environment({VARIABLE: str(points)}, 31337)).step()

    assert [run_forked(settle), run_forked(settle), run_forked(settle)] == [-signal.SIGKILL, 0, 0]
    with ring.databases[0].read() as session:
        assert session.scalar(select(func.count()).select_from(Intent)) == 1
    assert outcome(ring, 0) == "lapsed"


def test_step__lapsed_without_a_pool__needs_no_transaction(ring: Ring) -> None:
    ring.view.state = EpochStatus.LAPSED
    ring.time.ms = (ring.view.deadline + 60) * 1000
    closer(ring, 0).step()
    assert not ring.sent[0].intents
    assert outcome(ring, 0) == "lapsed"
