"""Endpoints that fail while money is sent, reorganisations with a report in them, two keepers at once."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from offchain.chain.indexer import Indexer
from offchain.chain.reader import ChainReader, EpochStatus
from offchain.chain.rpc import Rpc
from offchain.db import rewards
from offchain.db.database import Database, open_database
from offchain.db.migrations import upgrade
from offchain.db.models import Intent
from offchain.domain.types import Epoch
from offchain.errors import TransientError
from offchain.outbox import Outbox, Sender, SenderSettings, intents
from offchain.outbox.wire import Wire
from tests.support.fakes.rpc_proxy import (
    RpcProxy,
    answers,
    drops_answers_to,
    hangs,
    honest,
    lags,
    start_rpc_proxy,
    unreliable,
)
from tests.support.keeper.reports import report_arguments
from tests.support.services.contracts import Network

pytestmark = pytest.mark.anvil

GWEI = 10**9
RECIPIENT = "0x00000000000000000000000000000000000000cc"
DEEP = 30


@dataclass
class Keeper:
    """One keeper's outbox and index over its own, possibly spoiled, endpoint."""

    network: Network
    database: Database
    chain: ChainReader
    account: int
    seconds: float = 1_000.0

    def __post_init__(self) -> None:
        signer = self.network.signers[self.account]
        settings = SenderSettings(max_fee_wei=200 * GWEI, replace_after_seconds=30)
        self.outbox = Outbox(self.network.deployment, signer.address, now=self.now)
        self.sender = Sender(self.database, Wire(self.chain), signer, settings, now=self.now)
        self.indexer = Indexer(self.database, self.chain)

    def now(self) -> float:
        return self.seconds

    def enqueue(self, key: str, contract: str, function: str, *args: object) -> None:
        with self.database.write() as session:
            self.outbox.enqueue(session, key, contract, function, args)

    def intent(self, key: str) -> Intent:
        with self.database.read() as session:
            found = intents.get(session, key)
            assert found is not None
            return found

    def work(self, rounds: int = 1) -> None:
        """Some rounds of sending and reading; failures are waited out."""
        for _ in range(rounds):
            self.seconds += 40
            for step in (self.sender.run_once, self.indexer.advance):
                try:
                    step()
                except TransientError:
                    continue

    def until(self, done: Callable[[], bool], mine: int = 1) -> None:
        for _ in range(80):
            if done():
                return
            self.work()
            self.network.anvil.mine(mine)
        pytest.fail("not done after 80 rounds")

    def is_over(self) -> bool:
        with self.database.read() as session:
            return intents.oldest_unfinished(session) is None

    @property
    def paid(self) -> int:
        reads = self.network.chain.at(self.network.chain.head_block())
        amount: int = reads.one("ParallelixToken", "balanceOf", RECIPIENT)
        return amount


@pytest.fixture
def proxy(network: Network) -> Iterator[RpcProxy]:
    with start_rpc_proxy(network.anvil.url) as running:
        yield running


@pytest.fixture
def keeper(network: Network, database: Database, proxy: RpcProxy) -> Iterator[Keeper]:
    with closing(Rpc(proxy.url, timeout_seconds=5)) as rpc:
        yield Keeper(network, database, ChainReader(rpc, network.deployment), account=0)


def test_sender__answer_to_the_broadcast_is_lost__happens_once(keeper: Keeper, proxy: RpcProxy) -> None:
    proxy.fault = drops_answers_to("eth_sendRawTransaction")
    keeper.enqueue("pay:1", "ParallelixToken", "transfer", RECIPIENT, 7)
    with pytest.raises(TransientError):
        keeper.sender.run_once()
    assert keeper.paid == 7
    assert keeper.intent("pay:1").status == "sent"
    proxy.fault = honest
    keeper.until(keeper.is_over)
    assert (keeper.paid, keeper.intent("pay:1").status) == (7, "final")


def test_sender__endpoint_takes_the_broadcast_and_never_answers__happens_once(
    network: Network, database: Database, proxy: RpcProxy
) -> None:
    answered = threading.Event()
    with closing(Rpc(proxy.url, timeout_seconds=3)) as rpc:
        keeper = Keeper(network, database, ChainReader(rpc, network.deployment), account=0)
        keeper.enqueue("pay:1", "ParallelixToken", "transfer", RECIPIENT, 7)
        proxy.fault = hangs(answered, "eth_sendRawTransaction")
        with pytest.raises(TransientError):
            keeper.sender.run_once()
        assert (keeper.paid, keeper.intent("pay:1").status) == (7, "sent")
        proxy.fault = honest
        keeper.until(keeper.is_over)
        answered.set()
    assert (keeper.paid, keeper.intent("pay:1").status) == (7, "final")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("empty_database_url", "seed"),
    [("sqlite", 1), ("sqlite", 2), ("postgresql", 3)],
    indirect=["empty_database_url"],
)
def test_sender__endpoint_loses_calls_and_answers__each_intent_happens_once(
    keeper: Keeper, proxy: RpcProxy, seed: int
) -> None:
    proxy.fault = unreliable(seed, share=0.1)
    for number in range(6):
        keeper.enqueue(f"pay:{number}", "ParallelixToken", "transfer", RECIPIENT, 10**number)
    keeper.until(keeper.is_over)
    with keeper.database.read() as session:
        assert intents.counts(session) == {"final": 6}
    assert keeper.paid == 111_111


def test_sender__endpoint_lags_behind_its_own_transactions__no_nonce_is_used_twice(
    keeper: Keeper, proxy: RpcProxy
) -> None:
    proxy.fault = lags(keeper.network.anvil.height)
    for number in range(3):
        keeper.enqueue(f"pay:{number}", "ParallelixToken", "transfer", RECIPIENT, 10**number)
        keeper.work()
        keeper.network.anvil.mine()
    assert len({keeper.intent(f"pay:{number}").nonce for number in range(3)}) == 3
    proxy.fault = honest
    keeper.until(keeper.is_over)
    assert keeper.paid == 111


def test_sender__endpoint_gives_too_high_a_nonce__the_gap_is_filled(keeper: Keeper, proxy: RpcProxy) -> None:
    proxy.fault = answers("eth_getTransactionCount", lambda count: hex(int(count, 16) + 3))
    keeper.enqueue("pay:1", "ParallelixToken", "transfer", RECIPIENT, 5)
    keeper.work()
    proxy.fault = honest
    keeper.until(keeper.is_over)
    assert keeper.paid == 5
    assert keeper.intent("pay:1").status == "final"


def test_sender__base_fee_jumps_while_it_waits__is_replaced_until_it_fits_and_happens_once(
    keeper: Keeper,
) -> None:
    anvil = keeper.network.anvil
    anvil.automine(False)
    keeper.enqueue("pay:1", "ParallelixToken", "transfer", RECIPIENT, 5)
    keeper.work()
    anvil.rpc("anvil_setNextBlockBaseFeePerGas", hex(40 * GWEI))
    anvil.mine()
    assert keeper.paid == 0
    for _ in range(3):
        keeper.work()
        anvil.rpc("anvil_setNextBlockBaseFeePerGas", hex(40 * GWEI))
        anvil.mine()
    assert keeper.paid == 5
    keeper.until(keeper.is_over)
    assert keeper.paid == 5


def open_epoch_report(network: Network) -> int:
    """Three keepers and a node in an epoch that has just ended; its number."""
    network.register_node()
    for account in (3, 4, 5):
        network.join_keeper(account)
    epoch = network.next_epoch()
    network.next_epoch()
    return epoch


@pytest.mark.parametrize(
    ("empty_database_url", "depth"),
    [("sqlite", 1), ("sqlite", 5), ("sqlite", 20), ("postgresql", 5)],
    indirect=["empty_database_url"],
)
def test_attestation__its_block_is_reorganised_away__is_sent_again_and_counts_once(
    network: Network, database: Database, proxy: RpcProxy, depth: int
) -> None:
    epoch = open_epoch_report(network)
    network.anvil.mine(DEEP + 1)
    with closing(Rpc(proxy.url, timeout_seconds=5)) as rpc:
        chain = ChainReader(rpc, network.deployment, confirmations=DEEP)
        keeper = Keeper(network, database, chain, account=3)
        keeper.enqueue(
            f"attest:{epoch}", "UptimeAttestation", "submit", *report_arguments(network, epoch, [3, 4, 5])
        )
        keeper.work()
        network.anvil.mine(depth - 1)
        keeper.work(2)
        with database.read() as session:
            assert rewards.report(session, Epoch(epoch)) is not None
        network.anvil.reorg(depth)
        assert network.chain.at(network.chain.head_block()).report(Epoch(epoch)).status is EpochStatus.OPEN
        keeper.indexer.advance()
        with database.read() as session:
            assert rewards.report(session, Epoch(epoch)) is None
        keeper.until(keeper.is_over, mine=12)
        keeper.indexer.advance()
        assert keeper.intent(f"attest:{epoch}").status == "final"
        with database.read() as session:
            events = rewards.events_of_epoch(session, Epoch(epoch), ["ReportSubmitted"])
            assert len(events) == 1
            report = rewards.report(session, Epoch(epoch))
        assert report is not None
        assert report.signer_bitmap == 0b111
        on_chain = network.chain.at(network.chain.head_block()).report(Epoch(epoch))
        assert "0x" + on_chain.uptime_root.hex() == report.uptime_root
        assert (on_chain.final_at, on_chain.node_count) == (report.final_at, report.node_count)


@pytest.mark.parametrize("same_block", [False, True])
def test_attestation__two_keepers_race__one_is_final_and_the_other_superseded(
    network: Network, database: Database, tmp_path: Path, same_block: bool
) -> None:
    epoch = open_epoch_report(network)
    url = f"sqlite:///{tmp_path}/other.db"
    upgrade(url)
    with closing(open_database(url)) as second:
        keepers = [
            Keeper(network, base, network.chain, account) for base, account in ((database, 3), (second, 4))
        ]
        arguments = report_arguments(network, epoch, [3, 4, 5])
        for keeper in keepers:
            keeper.enqueue(f"attest:{epoch}", "UptimeAttestation", "submit", *arguments)
        network.anvil.automine(not same_block)
        for keeper in keepers:
            keeper.sender.run_once()
        for keeper in keepers:
            keeper.until(keeper.is_over)
        found = [keeper.intent(f"attest:{epoch}") for keeper in keepers]
        assert sorted(intent.status for intent in found) == ["final", "superseded"]
        loser = next(intent for intent in found if intent.status == "superseded")
        assert str(loser.error).startswith(f"WrongStatus({epoch}, 1): Epoch {epoch} is pending: ")
        assert (loser.tx_hash is not None) == same_block
