"""The context of an epoch from a real chain: nodes with weight, their keys, the seed block; and planning from it."""

import pytest

from offchain.chain.indexer import Indexer
from offchain.db.cursors import position
from offchain.db.database import Database
from offchain.domain.eip712 import address_bytes
from offchain.domain.types import BlockRef, Epoch, NodeId
from offchain.evidence.chain_view import ReaderView, last_block_until
from offchain.evidence.epoch_context import LATE_EPOCHS, seed_time
from offchain.evidence.epoch_context_reader import EpochContextReader, NotReadyError
from offchain.keeper.probing.planner import PlanService
from tests.support.keeper.cluster import Hands
from tests.support.services.contracts import Network

pytestmark = pytest.mark.anvil


def indexed(network: Network, database: Database) -> BlockRef:
    """Bring the index to the newest block, two blocks past it final."""
    network.anvil.mine(3)
    Indexer(database, network.chain).backfill(lambda _progress: None)
    with database.read() as session:
        found = position(session, "finalized")
    assert found is not None
    return found


def context_reader(network: Network, database: Database) -> EpochContextReader:
    return EpochContextReader(database, ReaderView(network.chain), network.deployment)


def test_read__nodes_come_and_go__only_those_with_weight_count(network: Network, database: Database) -> None:
    network.join_keeper(1, "eu")
    network.join_keeper(2, "us")
    staying = network.register_node(4, tier=2)
    leaving = network.register_node(5)
    first = Epoch(network.next_epoch())
    network.send(5, "NodeRegistryLocker", "requestUnstake", leaving)
    late = network.register_node(6)
    second = Epoch(network.next_epoch())
    third = Epoch(network.next_epoch())
    final = indexed(network, database)
    reader = context_reader(network, database)
    one, two = reader.read(first, final), reader.read(second, final)
    assert set(one.nodes) == {staying, leaving}
    assert set(two.nodes) == {staying, late}
    assert one.node_count == late, "registered before the epoch's end, though without weight in it"
    assert [keeper.region for keeper in one.keepers] == ["eu", "us"]
    assert one.quorum == 2
    for context in (one, two):
        total = network.chain.at(final).total_weight(context.epoch)
        assert sum(node.weight for node in context.nodes.values()) == total
    with pytest.raises(NotReadyError):
        reader.read(third, final)


def test_read__key_was_rotated_in_the_epoch__both_keys_count(network: Network, database: Database) -> None:
    network.join_keeper(1)
    node = NodeId(network.register_node(4))
    epoch = Epoch(network.next_epoch())
    network.send(4, "NodeRegistryLocker", "setNodeKey", node, b"\x07" * 32)
    after = Epoch(network.next_epoch())
    network.next_epoch()
    final = indexed(network, database)
    reader = context_reader(network, database)
    assert b"\x07" * 20 in reader.read(epoch, final).nodes[node].keys
    assert len(reader.read(epoch, final).nodes[node].keys) == 2
    assert reader.read(after, final).nodes[node].keys == frozenset({b"\x07" * 20})


def test_last_block_until__any_time__is_the_last_block_before_it(
    network: Network, database: Database
) -> None:
    network.anvil.mine()  # a loaded chain's newest block may lie far behind its clock
    for _ in range(9):
        network.anvil.set_time(int(network.anvil.block()["timestamp"], 16) + 7)
    view = ReaderView(network.chain)
    newest = view.latest()
    blocks = [view.block(number) for number in range(newest.number + 1)]
    for moment in range(blocks[-9].timestamp, newest.timestamp):
        found = last_block_until(view, moment, newest)
        assert found == max((b for b in blocks if b.timestamp <= moment), key=lambda b: b.number)
    assert last_block_until(view, newest.timestamp, newest) is None
    assert last_block_until(view, blocks[0].timestamp - 1, newest) is None


def test_plan__own_operators_node__is_never_probed(network: Network, database: Database) -> None:
    network.join_keeper(1)
    own, other = network.register_node(1), network.register_node(4)
    epoch = Epoch(network.next_epoch())
    indexed(network, database)
    clock = network.deployment.clock()
    time = Hands((clock.start(epoch) + 30) * 1000)
    planner = PlanService(
        database, ReaderView(network.chain), context_reader(network, database), network.signers[1], time
    )
    assert epoch in planner.step()
    assert planner.step() == [], "planned once"
    with database.read() as session:
        from sqlalchemy import select

        from offchain.db.models import Probe

        rows = session.scalars(select(Probe).where(Probe.epoch == epoch)).all()
    assert {row.node_id for row in rows} == {other}
    assert own not in {row.node_id for row in rows}
    assert len(rows) == clock.slots
    for row in rows:
        start, end = clock.slot_bounds_ms(epoch, row.slot)
        assert start <= row.due_at_ms < end
    assert seed_time(clock, epoch) < clock.start(epoch)


def test_read__gateways_come_and_go__each_counts_while_a_keeper_vouched_and_a_little_longer(
    network: Network, database: Database
) -> None:
    network.join_keeper(1, "eu")
    network.join_keeper(2, "us")
    staying, removed, left = (signer.address for signer in network.signers[5:8])
    for keeper, signer in ((1, staying), (1, removed), (2, left)):
        network.send(keeper, "KeeperRegistry", "setGateway", keeper, signer, "http://127.0.0.1:1")
    network.register_node(4)
    first = Epoch(network.next_epoch())
    network.send(1, "KeeperRegistry", "removeGateway", 1, removed)
    network.send(2, "KeeperRegistry", "requestLeave", 2)
    for _ in range(LATE_EPOCHS + 2):
        network.next_epoch()
    later = Epoch(network.next_epoch() - 1)
    final = indexed(network, database)
    reader = context_reader(network, database)
    everybody = frozenset(address_bytes(signer) for signer in (staying, removed, left))
    assert reader.read(first, final).gateways == everybody
    assert reader.read(Epoch(first + LATE_EPOCHS), final).gateways == everybody
    assert later > first + LATE_EPOCHS
    assert reader.read(Epoch(first + LATE_EPOCHS + 1), final).gateways == {address_bytes(staying)}
