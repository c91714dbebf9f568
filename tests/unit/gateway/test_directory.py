"""What the gateway knows of nodes' keys while they change."""

from pathlib import Path

from offchain.db.database import open_database
from offchain.db.migrations import upgrade
from offchain.db.models import Cursor, Node, SlotRecord
from offchain.domain.epochs import EpochClock
from offchain.domain.types import NodeId
from offchain.gateway.nodes.directory import HANDOVER_SECONDS, NodeDirectory
from tests.support.factories import make_node

OLD, NEW = "0x" + "0a" * 20, "0x" + "0b" * 20


def test_reputation__of_the_index__is_a_factor_by_node(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/index.db"
    upgrade(url)
    database = open_database(url)
    directory = NodeDirectory(database, EpochClock(0, 100, 10), lambda: 1_000.0)
    assert directory.reputation() == {}
    with database.write() as session:
        for node_id, states in ((1, "u" * 200), (2, "u" * 97 + "mmm"), (3, "um" * 144), (4, "um" * 143)):
            session.add(SlotRecord(epoch=8, node_id=node_id, states=states, uptime_bps=0))
    assert directory.reputation() == {1: 15_000, 2: 12_000, 3: 0, 4: 10_000}
    database.close()


def test_keys__rotated__the_old_one_counts_for_the_handover_and_no_longer(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/index.db"
    upgrade(url)
    database = open_database(url)
    now = [1_000.0]
    with database.write() as session:
        session.add(make_node(7, key_address=OLD))
        session.add(Cursor(name="head", block_number=1, block_hash="0x01", block_timestamp=1))
    directory = NodeDirectory(database, EpochClock(0, 100, 10), lambda: now[0])
    directory.refresh()
    assert directory.keys_of(NodeId(7)) == (OLD,)
    assert directory.keys_of(NodeId(8)) == ()
    with database.write() as session:
        node, cursor = session.get(Node, 7), session.get(Cursor, "head")
        assert node is not None
        assert cursor is not None
        node.key_address, cursor.block_hash = NEW, "0x02"
    directory.refresh()
    assert directory.keys_of(NodeId(7)) == (NEW, OLD)
    record = directory.get(NodeId(7))
    assert record is not None
    assert record.key_address == NEW
    now[0] += HANDOVER_SECONDS
    assert directory.keys_of(NodeId(7)) == (NEW,)
    directory.refresh()
    assert directory.keys_of(NodeId(7)) == (NEW,)
    database.close()
