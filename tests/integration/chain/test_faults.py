"""Endpoints that lie, lag, leave things out or fall silent: the index is late then, but never wrong."""

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import func, select

from offchain.chain.indexer import Indexer
from offchain.chain.logs import INDEXED_CONTRACTS
from offchain.chain.ranges import AdaptiveRange
from offchain.chain.reader import ChainReader
from offchain.chain.rpc import DisagreementError, Rpc
from offchain.db import cursors
from offchain.db.database import Database
from offchain.db.models import Event, Node
from offchain.errors import FatalError, TransientError
from tests.support.fakes.rpc_proxy import (
    RpcProxy,
    answers,
    changes_logs,
    drops,
    hangs,
    lags,
    refuses_ranges_over,
    start_rpc_proxy,
    truncates,
)
from tests.support.services.contracts import Network

pytestmark = pytest.mark.anvil


class Rig:
    """An index that reads through one or two spoiled endpoints."""

    def __init__(
        self, network: Network, database: Database, proxies: list[RpcProxy], confirmations: int
    ) -> None:
        self.network, self.database, self.proxies = network, database, proxies
        self.now = 0.0
        urls = [proxy.url for proxy in proxies]
        self.rpc = Rpc(urls, timeout_seconds=5, monotonic=lambda: self.now)
        self.chain = ChainReader(self.rpc, network.deployment, confirmations=confirmations)
        self.indexer = Indexer(database, self.chain, ranges=AdaptiveRange(1_000))

    def advance(self) -> None:
        """Until the chain's newest block is read; every failure leaves at most a wait behind."""
        for _ in range(50):
            self.now += 60
            try:
                if self.indexer.advance().behind == 0:
                    return
            except TransientError:
                continue
        pytest.fail("the index did not get on in 50 calls")

    def identities(self) -> set[tuple[str, int]]:
        with self.database.read() as session:
            return {(row[0], row[1]) for row in session.execute(select(Event.block_hash, Event.log_index))}

    def truth(self) -> set[tuple[str, int]]:
        """What an honest endpoint says."""
        ours = {
            ref.address.lower()
            for name, ref in self.network.deployment.contracts.items()
            if name in INDEXED_CONTRACTS
        }
        logs = self.network.anvil.rpc("eth_getLogs", {"fromBlock": "0x0", "toBlock": "latest"})
        return {
            (log["blockHash"], int(log["logIndex"], 16)) for log in logs if log["address"].lower() in ours
        }

    def finalized(self) -> int:
        with self.database.read() as session:
            at = cursors.position(session, "finalized")
        return -1 if at is None else at.number


@pytest.fixture
def busy(network: Network) -> Network:
    for tier in (1, 2, 3):
        network.register_node(tier=tier)
    network.join_keeper(3)
    return network


@pytest.fixture
def rig(busy: Network, database: Database) -> Iterator[Rig]:
    """One endpoint; nothing is final yet, so every header is read."""
    with start_rpc_proxy(busy.anvil.url) as proxy:
        made = Rig(busy, database, [proxy], confirmations=1_000)
        with closing(made.rpc):
            yield made


@pytest.fixture
def pair(busy: Network, database: Database) -> Iterator[Rig]:
    """Two endpoints; all but the newest blocks are final."""
    with start_rpc_proxy(busy.anvil.url) as one, start_rpc_proxy(busy.anvil.url) as two:
        made = Rig(busy, database, [one, two], confirmations=2)
        with closing(made.rpc):
            yield made


@pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)  # nothing is written in the end
@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (truncates(2), "left out logs|left logs out"),
        (changes_logs(lambda log: {**log, "blockNumber": "0x0"}), "outside the asked range"),
        (changes_logs(lambda log: {**log, "blockNumber": "0xffffff"}), "outside the asked range"),
        (changes_logs(lambda log: {**log, "blockHash": "0x" + "1" * 64}), "names another block"),
        (changes_logs(lambda log: {**log, "removed": True}), "reorganisation removed"),
        (changes_logs(lambda log: {**log, "address": "0x" + "1" * 40}), "not asked for"),
        (changes_logs(lambda log: {**log, "data": "0x1234"}), "cannot be"),
        (changes_logs(lambda log: {**log, "data": "zz"}), "malformed log"),
        (changes_logs(lambda log: {"address": "0x"}), "malformed log|not asked for"),
        (answers("eth_getLogs", lambda logs: [*logs, logs[0]] if logs else logs), "twice"),
        (answers("eth_getLogs", lambda logs: None), "no list of logs"),
        (answers("eth_getBlockByNumber", lambda block: {"number": "0x1"}), "malformed block"),
        (
            answers("eth_getBlockByNumber", lambda block: {**block, "parentHash": "0x" + "1" * 64}),
            "chain changed",
        ),
        (drops, "cannot be reached"),
    ],
)
def test_indexer__endpoint_lies__keeps_nothing_and_reads_again_once_it_is_honest(
    rig: Rig, fault: Any, line: str
) -> None:
    honest = rig.proxies[0].fault
    rig.proxies[0].fault = fault
    for _ in range(3):
        rig.now += 60
        with pytest.raises(TransientError, match=line):
            rig.indexer.advance()
    assert rig.identities() == set()
    rig.proxies[0].fault = honest
    rig.advance()
    assert rig.identities() == rig.truth()


@pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (429, b"slow down"),
        (502, b"<html>bad gateway</html>"),
        (200, b"{"),
        (200, b"[]"),
        (200, b'{"id": 1}'),
        (413, b""),
    ],
)
def test_rpc__no_proper_answer__is_transient(rig: Rig, status: int, body: bytes) -> None:
    rig.proxies[0].raw_answer = (status, body)
    with pytest.raises(TransientError):
        rig.chain.head_block()
    rig.proxies[0].raw_answer = None
    assert rig.chain.head_block().number == rig.network.anvil.height


def test_indexer__endpoint_refuses_long_ranges__asks_for_shorter_ones(rig: Rig) -> None:
    rig.network.anvil.mine(60)
    rig.proxies[0].fault = refuses_ranges_over(7)
    rig.advance()
    assert rig.identities() == rig.truth()


def test_indexer__endpoint_falls_behind__keeps_what_it_has(rig: Rig) -> None:
    rig.advance()
    before = rig.identities()
    rig.proxies[0].fault = lags(rig.network.anvil.height - 6)
    progress = rig.indexer.advance()
    assert (progress.rolled_back, progress.events) == (0, 0)
    assert rig.identities() == before == rig.truth()


def test_indexer__one_endpoint_dies__the_other_serves(pair: Rig) -> None:
    pair.proxies[0].fault = drops
    pair.advance()
    assert pair.identities() == pair.truth()
    pair.proxies[0].fault, pair.proxies[1].fault = pair.proxies[1].fault, drops
    pair.network.register_node()
    pair.advance()
    assert pair.identities() == pair.truth()


def test_indexer__one_endpoint_hangs__the_other_serves(pair: Rig) -> None:
    answered = threading.Event()
    pair.proxies[0].fault = hangs(answered)
    try:
        pair.advance()
        assert pair.identities() == pair.truth()
    finally:
        answered.set()


def test_indexer__one_endpoint_leaves_final_logs_out__nothing_becomes_final_and_it_heals(pair: Rig) -> None:
    honest = pair.proxies[0].fault
    pair.network.anvil.mine(5)
    nothing = answers("eth_getLogs", lambda logs: [])
    pair.proxies[0].fault = nothing  # in final ranges no header betrays it
    for _ in range(4):
        pair.now += 60
        with pytest.raises(DisagreementError, match="disagree about logs"):
            pair.indexer.advance()
    assert pair.finalized() == -1
    pair.proxies[0].fault = honest
    pair.now += 60
    with pytest.raises(DisagreementError, match="reads them again"):
        pair.indexer.advance()
    pair.advance()
    assert pair.identities() == pair.truth()
    assert pair.finalized() >= 0
    with pair.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Node)) == 3


def test_indexer__endpoints_on_different_chains__nothing_becomes_final(pair: Rig) -> None:
    pair.advance()
    before = pair.finalized()
    pair.network.anvil.mine(5)
    pair.proxies[1].fault = answers(
        "eth_getBlockByNumber", lambda block: {**block, "hash": "0x" + "1" * 64} if block else block
    )
    with pytest.raises(DisagreementError, match="different final blocks"):
        pair.indexer.advance()
    assert pair.finalized() == before


def test_finalized_block__one_endpoint_lags__is_the_lower_one(pair: Rig) -> None:
    pair.network.anvil.mine(10)
    height = pair.network.anvil.height
    pair.proxies[1].fault = lags(height - 4)
    assert pair.chain.finalized_block().number == height - 6


def test_check__second_endpoint_of_another_chain__is_fatal(pair: Rig) -> None:
    pair.chain.check()
    pair.proxies[1].fault = answers("eth_chainId", lambda result: "0x1")
    with pytest.raises(FatalError, match="serves chain 1"):
        pair.chain.check()
