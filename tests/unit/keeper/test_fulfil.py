"""On-chain requests: one job, one intent, whatever dies or comes twice."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from offchain.db.cursors import move
from offchain.db.database import Database, open_database
from offchain.db.migrations import upgrade
from offchain.db.models import Event, Job, MarketRequest
from offchain.domain.evidence_entries import Execution
from offchain.domain.types import BlockRef, NodeId
from offchain.errors import SkipError, TransientError
from offchain.keeper.attestation.own_executions import FULFIL, read_execution
from offchain.keeper.market.dispatcher import DispatchedAnswer
from offchain.keeper.market.fulfil import LEASE_SECONDS, RETRY_SECONDS, STAGGER_SECONDS, FulfilService
from offchain.protocol.receipts import SignedReceipt
from tests.support.keeper.cluster import Hands
from tests.support.keeper.epoch_factory import MARKET, key, receipt_of

NOW = 1_700_000_000
REQUEST = "0x" + "5a" * 32


@dataclass
class DispatchAndOutbox:
    """Dispatch and outbox of a test."""

    trouble: list[Exception] = field(default_factory=list)
    dispatched: list[bytes] = field(default_factory=list)
    intents: list[str] = field(default_factory=list)

    def dispatch(self, request_id: bytes, payload: bytes, seconds: float) -> DispatchedAnswer:
        self.dispatched.append(request_id)
        if self.trouble:
            raise self.trouble.pop(0)
        receipt = receipt_of(2, request_id, NOW * 1000)
        signature = key("node 2").sign_struct(MARKET, receipt.struct_hash())
        signed = SignedReceipt(receipt, signature, key("node 2").address)
        return DispatchedAnswer(b"an answer", signed, NodeId(2))

    def fulfil(
        self, session: Session, request_id: str, receipt: Any, signature: bytes, result: bytes
    ) -> None:
        self.intents.append(request_id)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/keeper.db"
    upgrade(url)
    opened = open_database(url)
    with opened.write() as session:
        move(session, "head", None, BlockRef(10, "0x" + "00" * 32, NOW))
        session.add(
            MarketRequest(
                request_id=REQUEST,
                requester="0x" + "11" * 20,
                model_hash="0x" + "22" * 32,
                payload=b"{}",
                price_ceiling_wei=5,
                deadline=NOW + 60,
                requested_block=9,
                status="open",
            )
        )
        session.add(
            Event(
                block_hash="0x" + "99" * 32,
                log_index=0,
                block_number=9,
                block_timestamp=NOW,
                tx_hash="0x" + "98" * 32,
                contract="InferenceMarket",
                name="InferenceRequested",
                args={"requestId": REQUEST},
            )
        )
    yield opened
    opened.close()


def make(
    database: Database, desk: DispatchAndOutbox, time: Hands, *, rank: int = 0, depth: int = 0
) -> FulfilService:
    return FulfilService(database, desk.dispatch, desk, time, depth=depth, rank=lambda _request: rank)


def job(database: Database) -> Job | None:
    with database.read() as session:
        return session.get(Job, (FULFIL, REQUEST))


def test_run__open_request__one_intent_and_a_record(database: Database) -> None:
    desk, time = DispatchAndOutbox(), Hands(NOW * 1000)
    service = make(database, desk, time)
    assert service.scan() == 1
    assert service.scan() == 0
    assert service.due() == [REQUEST]
    assert service.run(REQUEST)
    assert desk.intents == [REQUEST]
    done = job(database)
    assert done is not None
    assert done.status == "done"
    execution = read_execution(done.result)
    assert execution is not None
    assert Execution.unpack(execution.pack()) == execution
    assert service.due() == []


def test_run__message_comes_again__nothing_happens(database: Database) -> None:
    desk, time = DispatchAndOutbox(), Hands(NOW * 1000)
    service = make(database, desk, time)
    service.scan()
    service.run(REQUEST)
    assert not service.run(REQUEST)
    assert not service.run("0x" + "77" * 32)
    assert len(desk.dispatched) == 1


def test_run__while_another_worker_has_it__waits_for_the_lease(database: Database) -> None:
    desk, time = DispatchAndOutbox(), Hands(NOW * 1000)
    service = make(database, desk, time)
    service.scan()
    died = DispatchAndOutbox([KeyboardInterrupt()])  # type: ignore[list-item]  # stands for a killed process: nothing is cleaned up
    with pytest.raises(KeyboardInterrupt):
        make(database, died, time).run(REQUEST)
    assert service.due() == []
    assert not service.run(REQUEST)
    time.ms += LEASE_SECONDS * 1000
    assert service.due() == [REQUEST]
    assert service.run(REQUEST)
    finished = job(database)
    assert finished is not None
    assert finished.attempts == 2


def test_run__no_node_can_serve_now__tries_again_later(database: Database) -> None:
    desk, time = DispatchAndOutbox([TransientError("nobody")]), Hands(NOW * 1000)
    service = make(database, desk, time)
    service.scan()
    assert not service.run(REQUEST)
    assert service.due() == []
    time.ms += RETRY_SECONDS * 1000
    assert service.run(REQUEST)


def test_run__request_that_nobody_can_ever_serve__is_given_up(database: Database) -> None:
    desk, time = DispatchAndOutbox([SkipError("not JSON")]), Hands(NOW * 1000)
    service = make(database, desk, time)
    service.scan()
    assert not service.run(REQUEST)
    failed = job(database)
    assert failed is not None
    assert (failed.status, failed.error) == ("failed", "not JSON")
    time.ms += 30_000
    assert service.due() == []


def test_run__deadline_passed_or_settled__is_given_up_without_work(database: Database) -> None:
    desk, time = DispatchAndOutbox(), Hands(NOW * 1000)
    service = make(database, desk, time)
    service.scan()
    time.ms += 61_000
    assert not service.run(REQUEST)
    assert not desk.dispatched


def test_scan__lower_rank__stands_by_for_its_turn(database: Database) -> None:
    desk, time = DispatchAndOutbox(), Hands(NOW * 1000)
    service = make(database, desk, time, rank=2)
    assert service.scan() == 0
    time.ms += (2 * STAGGER_SECONDS - 1) * 1000
    assert service.scan() == 0
    time.ms += 1_000
    assert service.scan() == 1


def test_scan__not_deep_enough_or_late__makes_no_job(database: Database) -> None:
    desk, time = DispatchAndOutbox(), Hands(NOW * 1000)
    assert make(database, desk, time, depth=2).scan() == 0
    assert make(database, desk, time, depth=1).scan() == 1
    time.ms += 61_000
    assert make(database, desk, time).scan() == 0
