"""The index against a real chain: what it reads, reorganisations, two workers at once, resume."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from offchain.chain.indexer import Indexer
from offchain.chain.ranges import AdaptiveRange
from offchain.chain.reader import ChainReader
from offchain.crypto.addresses import checksum
from offchain.db import cursors, market
from offchain.db.database import Database
from offchain.db.models import Base, Block, Event, Gateway, Keeper, MarketRequest, Node, NodeInterval
from offchain.domain.eip712 import keccak256
from offchain.domain.tiers import Tier, weight
from offchain.domain.types import Epoch, NodeId, Wei, Weight
from offchain.errors import FatalError, TransientError
from tests.support.services.contracts import BOND, STAKE, Network

pytestmark = pytest.mark.anvil

DEEP = 64
PROJECTIONS = ("nodes", "node_intervals", "keepers", "gateways", "reports", "claims", "market_requests")


def make_indexer(
    network: Network, database: Database, confirmations: int = DEEP, size: int = 1_000
) -> Indexer:
    chain = ChainReader(network.rpc, network.deployment, confirmations=confirmations)
    return Indexer(database, chain, ranges=AdaptiveRange(size))


def advance_fully(indexer: Indexer) -> int:
    rolled_back = 0
    while True:
        progress = indexer.advance()
        rolled_back += progress.rolled_back
        if progress.behind == 0:
            return rolled_back


def indexed_weights(session: Session, epoch: Epoch) -> dict[NodeId, Weight]:
    """Weight of each node that the index has as active in an epoch."""
    past = session.execute(
        select(NodeInterval.node_id).where(
            NodeInterval.active_from <= epoch, NodeInterval.active_until > epoch
        )
    )
    active = {node for (node,) in past}
    return {
        NodeId(node.node_id): weight(Wei(node.stake_wei), Tier(node.tier))
        for node in session.scalars(select(Node))
        if node.node_id in active
        or (node.active_from <= epoch and (node.active_until is None or epoch < node.active_until))
    }


def contents(database: Database) -> dict[str, Sequence[Any]]:
    """Every row of every projection."""
    with database.read() as session:
        return {
            name: [tuple(row) for row in session.execute(select(Base.metadata.tables[name]))]
            for name in PROJECTIONS
        }


def test_indexer__a_networks_life__is_in_the_tables(network: Network, database: Database) -> None:
    owner = network.signers[1].address
    node = network.register_node(account=1, tier=2, key_account=2)
    network.join_keeper(3, region="us", url="http://keeper")
    gateway = network.signers[6].address
    network.send(3, "KeeperRegistry", "setGateway", 1, gateway, "http://gateway")
    network.send(1, "NodeRegistryLocker", "setBeneficiary", node, network.signers[5].address)
    network.send(1, "NodeRegistryLocker", "setCapabilities", node, b"\7" * 32, "http://manifest")
    market_address = network.deployment.contract("InferenceMarket").address
    network.send(0, "ParallelixToken", "approve", market_address, 10**18)
    deadline = int(network.anvil.block()["timestamp"], 16) + 400
    payload = b'{"messages":[]}'
    arguments = (keccak256(b"model"), payload, 10**18, deadline, "0x" + "0" * 40)
    network.send(0, "InferenceMarket", "request", *arguments)
    indexer = make_indexer(network, database)
    advance_fully(indexer)
    with database.read() as session:
        found = session.scalars(select(Node).where(Node.owner == owner)).one()
        assert (found.node_id, found.tier, found.stake_wei) == (node, 2, STAKE)
        assert found.key_address == network.signers[2].address
        assert found.beneficiary == network.signers[5].address
        assert (found.manifest_hash, found.manifest_uri) == ("0x" + "07" * 32, "http://manifest")
        keeper = session.scalars(select(Keeper).where(Keeper.signer == network.signers[3].address)).one()
        assert (keeper.region, keeper.url, keeper.bond_wei) == ("us", "http://keeper", BOND)
        listed = session.get_one(Gateway, gateway)
        assert (listed.keeper_id, listed.url) == (1, "http://gateway")
        request = session.scalars(select(MarketRequest)).one()
        assert (request.payload, request.status, request.price_ceiling_wei) == (payload, "open", 10**18)
        assert market.open_requests(session, up_to_block=network.anvil.height, now=deadline - 1) == [request]
        assert market.open_requests(session, up_to_block=network.anvil.height, now=deadline) == []
        events = session.scalars(select(Event).where(Event.node_id == node).order_by(Event.block_number))
        assert [event.name for event in events] == ["NodeRegistered", "BeneficiarySet", "CapabilitiesSet"]
    network.send(3, "KeeperRegistry", "removeGateway", 1, gateway)
    network.anvil.set_time(deadline + 1)
    network.send(0, "InferenceMarket", "refund", bytes.fromhex(request.request_id[2:]))
    advance_fully(indexer)
    with database.read() as session:
        assert session.get(Gateway, gateway) is None
        assert session.scalars(select(MarketRequest.status)).all() == ["refunded"]


def test_indexer__active_sets_and_weights__equal_the_registrys(network: Network, database: Database) -> None:
    for tier in (1, 2, 3, 4):
        network.register_node(tier=tier)
    network.send(0, "NodeRegistryLocker", "requestUnstake", 1)
    network.send(0, "NodeRegistryLocker", "cancelUnstake", 1)
    network.next_epoch()
    network.send(0, "NodeRegistryLocker", "requestUnstake", 2)
    network.send(0, "NodeRegistryLocker", "requestUnstake", 3)
    network.next_epoch()
    network.send(0, "NodeRegistryLocker", "cancelUnstake", 3)
    network.next_epoch()
    network.next_epoch()
    network.send(0, "NodeRegistryLocker", "withdrawStake", 2)
    last = network.next_epoch()
    advance_fully(make_indexer(network, database))
    reads = network.chain.at(network.chain.head_block())
    with database.read() as session:
        for number in range(last + 1):
            epoch = Epoch(number)
            ours = indexed_weights(session, epoch)
            theirs = reads.weights(epoch, [NodeId(node) for node in (1, 2, 3, 4)])
            assert ours == {node: weight for node, weight in theirs.items() if weight}
            assert sum(ours.values()) == reads.total_weight(epoch)


def test_indexer__final_only__knows_nothing_of_blocks_that_may_change(
    network: Network, database: Database
) -> None:
    network.register_node(tier=1)
    network.anvil.mine(3)
    network.register_node(tier=2)
    chain = ChainReader(network.rpc, network.deployment, confirmations=3)
    indexer = Indexer(database, chain, final_only=True)
    final = chain.finalized_block()
    progress = indexer.backfill(lambda _: None)
    assert (progress.head, progress.finalized, progress.behind) == (final, final, 0)
    with database.read() as session:
        assert session.scalars(select(Node.tier).order_by(Node.node_id)).all() == [1]
    network.anvil.mine(3)
    indexer.advance()
    with database.read() as session:
        assert session.scalars(select(Node.tier).order_by(Node.node_id)).all() == [1, 2]


@pytest.mark.parametrize("depth", [1, 5, 20])
def test_indexer__reorganisation__is_as_if_it_had_never_happened(
    network: Network, database: Database, depth: int
) -> None:
    network.register_node(tier=1)
    network.join_keeper(3)
    network.anvil.mine(2)
    indexer = make_indexer(network, database)
    advance_fully(indexer)
    before = contents(database)
    fork = network.anvil.height
    for tier in (2, 3):
        network.register_node(tier=tier)
    network.send(3, "KeeperRegistry", "setGateway", 1, network.signers[6].address, "http://gateway")
    network.send(0, "NodeRegistryLocker", "requestUnstake", 1)
    network.send(0, "NodeRegistryLocker", "setBeneficiary", 1, network.signers[5].address)
    network.anvil.mine(max(0, fork + depth - network.anvil.height))
    advance_fully(indexer)
    undone = network.anvil.height - fork
    network.anvil.reorg(undone)
    assert advance_fully(indexer) == undone
    assert contents(database) == before
    network.register_node(tier=4)
    advance_fully(indexer)
    with database.read() as session:
        assert [
            (node.node_id, node.tier) for node in session.scalars(select(Node).order_by(Node.node_id))
        ] == [(1, 1), (2, 4)]
        head = cursors.position(session, "head")
    assert head is not None
    assert head.hash == network.anvil.block()["hash"]


def test_indexer__reorganisation_below_a_final_block__stops_for_a_person(
    network: Network, database: Database
) -> None:
    network.register_node()
    network.send(0, "NodeRegistryLocker", "requestUnstake", 1)
    network.anvil.mine(5)
    indexer = make_indexer(network, database, confirmations=2)
    advance_fully(indexer)
    network.anvil.reorg(6)
    with pytest.raises(FatalError, match="changed below final block"):
        indexer.advance()


def test_indexer__finality__finalized_cursor_stays_behind_by_the_policy(
    network: Network, database: Database
) -> None:
    network.anvil.mine(20)
    indexer = make_indexer(network, database, confirmations=7)
    advance_fully(indexer)
    progress = indexer.advance()
    assert progress.finalized is not None
    assert (progress.head.number, progress.finalized.number) == (
        network.anvil.height,
        network.anvil.height - 7,
    )
    network.anvil.mine(3)
    after = indexer.advance()
    assert after.finalized is not None
    assert after.finalized.number == network.anvil.height - 7


def test_indexer__interrupted_and_started_again__goes_on_where_it_stopped(
    network: Network, database: Database
) -> None:
    for tier in (1, 2, 3):
        network.register_node(tier=tier)
    steps: list[int] = []
    first = make_indexer(network, database, size=1).advance(budget_seconds=0)
    assert first.behind > 0
    make_indexer(network, database).backfill(lambda progress: steps.append(progress.behind))
    assert steps[-1] == 0
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Node)) == 3


def test_indexer__four_workers_at_once__same_rows_as_one(network: Network, database: Database) -> None:
    for tier in (1, 2, 3, 4, 1, 2, 3, 4):
        network.register_node(tier=tier)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            indexer = make_indexer(network, database, size=2)
            indexer.ranges.largest = 3
            while indexer.advance(budget_seconds=0).behind:
                pass
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)

    workers = [threading.Thread(target=run) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert failures == []
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Node)) == 8
        events = session.scalars(select(Event.name).where(Event.name == "NodeRegistered")).all()
    assert len(events) == 8


def test_indexer__database_of_another_chain__says_so(network: Network, database: Database) -> None:
    advance_fully(make_indexer(network, database))
    with database.write() as session:
        for block in session.scalars(select(Block)):
            block.hash = "0x" + "1" * 64
        at = cursors.position(session, "head")
        assert at is not None
        moved = type(at)(at.number, "0x" + "1" * 64, at.timestamp)
        assert cursors.move(session, "head", at, moved)
    with pytest.raises(FatalError, match="use its own database"):
        make_indexer(network, database).advance()


def test_indexer__logs_were_lost_before__is_noticed(network: Network, database: Database) -> None:
    network.register_node()
    indexer = make_indexer(network, database)
    advance_fully(indexer)
    with database.write() as session:
        session.execute(delete(Base.metadata.tables["nodes"]))
    network.register_node()
    with pytest.raises(TransientError, match="left logs out"):
        indexer.advance()


def test_checksum__of_contracts__is_what_the_deployment_says(network: Network) -> None:
    for ref in network.deployment.contracts.values():
        assert ref.address == checksum(ref.address)
