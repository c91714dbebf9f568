"""The database: migrations equal the models, transactions exclude each other, leases and jobs have one holder."""

import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from offchain.db import cursors, jobs, leases
from offchain.db.database import Database, open_database
from offchain.db.migrations import upgrade
from offchain.db.models import Base, Cursor, Node
from offchain.domain.types import BlockRef
from offchain.errors import FatalError, TransientError, UserError
from tests.support.factories import make_node


def count_nodes(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Node)) or 0


def test_upgrade__empty_database__equals_the_models(database: Database) -> None:
    with database.read() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_upgrade__eight_at_once__all_succeed(empty_database_url: str) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            upgrade(empty_database_url)
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_upgrade__schema_of_a_newer_program__is_refused(database: Database, database_url: str) -> None:
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(FatalError, match="9999"):
        upgrade(database_url)


def test_write__error_inside__keeps_nothing(database: Database) -> None:
    def fail_half_way() -> None:
        with database.write() as session:
            session.add(make_node(1))
            session.flush()
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        fail_half_way()
    with database.read() as session:
        assert count_nodes(session) == 0


def test_write__two_increments_from_many_threads__none_is_lost(database: Database) -> None:
    with database.write() as session:
        session.add(Cursor(name="n", block_number=0, block_hash="0x", block_timestamp=0))

    def run() -> None:
        for _ in range(10):
            with database.write() as session:
                row = session.scalars(select(Cursor).where(Cursor.name == "n").with_for_update()).one()
                row.block_number += 1

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with database.read() as session:
        assert session.get_one(Cursor, "n").block_number == 40


def test_read__a_write_between_two_reads__is_not_seen(database: Database) -> None:
    with database.read() as reader:
        assert count_nodes(reader) == 0
        with database.write() as writer:
            writer.add(make_node(1))
        assert count_nodes(reader) == 0
    with database.read() as reader:
        assert count_nodes(reader) == 1


def test_open_database__read_only__sees_commits_and_cannot_write(
    database: Database, database_url: str
) -> None:
    with database.write() as session:
        session.add(make_node(1))
    reader = open_database(database_url, read_only=True)
    with reader.read() as session:
        assert count_nodes(session) == 1
        with pytest.raises(Exception, match=r"(?i)read-?only"):
            session.execute(text("DELETE FROM nodes"))
    with pytest.raises(RuntimeError, match="read-only"), reader.write():
        pass
    reader.close()


def test_open_database__read_only_after_the_writer_has_gone__still_reads(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/index.db"
    upgrade(url)
    reader = open_database(url, read_only=True)
    with reader.read() as session:
        assert count_nodes(session) == 0
    reader.close()


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("nonsense", "malformed"),
        ("sqlite://", "in memory"),
        ("mysql://x/y", "malformed|supported"),
        ("sqlite:////nowhere/index.db", "does not exist"),
    ],
)
def test_open_database__bad_url__is_one_line(url: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        open_database(url, read_only=True)


def test_database__gone__is_transient() -> None:
    database = open_database("postgresql://127.0.0.1:1/none")
    with pytest.raises(TransientError, match="does not answer"), database.read() as session:
        session.execute(text("SELECT 1"))


def test_cursor__moved_by_somebody_else__does_not_move(database: Database) -> None:
    a, b, c = (BlockRef(n, f"0x{n:064x}", n) for n in (1, 2, 3))
    with database.write() as session:
        assert cursors.move(session, "head", None, a)
        assert not cursors.move(session, "head", None, b)
        assert cursors.move(session, "head", a, b)
        assert not cursors.move(session, "head", a, c)
        assert cursors.position(session, "head") == b


def test_leases__two_holders__one_at_a_time_until_it_runs_out(database: Database) -> None:
    with database.write() as session:
        assert leases.acquire(session, "sender", "a", now_ms=0, for_ms=100)
        assert not leases.acquire(session, "sender", "b", now_ms=99, for_ms=100)
        assert leases.acquire(session, "sender", "a", now_ms=99, for_ms=100)
        assert leases.acquire(session, "sender", "b", now_ms=199, for_ms=100)
        assert not leases.held(session, "sender", "a")
        leases.release(session, "sender", "a")
        assert leases.held(session, "sender", "b")
        leases.release(session, "sender", "b")
        assert not leases.held(session, "sender", "b")


def test_jobs__worker_vanishes__job_is_due_again_and_the_late_worker_writes_nothing(
    database: Database,
) -> None:
    with database.write() as session:
        assert jobs.enqueue(session, "fulfil", "0x1", now=10)
        assert not jobs.enqueue(session, "fulfil", "0x1", now=11)
        first = jobs.lease(session, "fulfil", "0x1", now=10, seconds=5)
        assert first == 1
        assert jobs.lease(session, "fulfil", "0x1", now=14, seconds=5) is None
        assert jobs.due(session, "fulfil", now=14) == []
        assert jobs.due(session, "fulfil", now=15) == ["0x1"]
        second = jobs.lease(session, "fulfil", "0x1", now=15, seconds=5)
        assert second == 2
        assert not jobs.finish(session, "fulfil", "0x1", 1)
        assert jobs.release(session, "fulfil", "0x1", 2, "later", retry_at=30)
        assert jobs.due(session, "fulfil", now=29) == []
        third = jobs.lease(session, "fulfil", "0x1", now=30, seconds=5)
        assert third == 3
        assert jobs.finish(session, "fulfil", "0x1", 3, {"a": 1})
        assert jobs.due(session, "fulfil", now=99) == []
