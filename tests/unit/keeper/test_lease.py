"""Leases that are kept while long work runs, and what becomes of one that is lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from offchain.db import leases
from offchain.db.database import Database, open_database
from offchain.db.leases import LeaseLostError
from offchain.db.migrations import upgrade
from offchain.keeper.attestation.lease import ALONE_MS, alone
from tests.support.keeper.cluster import Hands


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/keeper.db"
    upgrade(url)
    opened = open_database(url)
    yield opened
    opened.close()


def test_alone__somebody_has_it__nothing_to_do_until_it_is_given_back(database: Database) -> None:
    clock = Hands(1_000_000)
    with alone(database, clock, "work") as first:
        assert first is not None
        with alone(database, clock, "work") as second:
            assert second is None
        with database.write() as session:
            first(session)
    with alone(database, clock, "work") as third:
        assert third is not None


def test_alone__lost_while_the_block_runs__its_writes_fail_and_the_new_holder_keeps_it(
    database: Database,
) -> None:
    clock = Hands(1_000_000)
    with alone(database, clock, "work") as fence:
        assert fence is not None
        with database.write() as session:
            # As when this process was stopped for longer than the lease: another one's clock has gone on.
            assert leases.acquire(session, "work", "other", clock.ms + ALONE_MS, 10**9)
        with pytest.raises(LeaseLostError), database.write() as session:
            fence(session)
    with database.read() as session:
        assert leases.held(session, "work", "other")
