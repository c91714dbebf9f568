"""The sender against a real chain: each intent once, faults decoded, replacements, reorganisations."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from offchain.db.database import Database
from offchain.db.models import Broadcast, Intent
from offchain.errors import UserError
from offchain.outbox import Outbox, RevertRule, Round, Sender, SenderSettings, intents
from offchain.outbox.wire import Wire
from tests.support.services.contracts import Network

pytestmark = pytest.mark.anvil

GWEI = 10**9
RECIPIENT = "0x00000000000000000000000000000000000000aa"


class Desk:
    """An outbox, its sender and a clock that tests move."""

    def __init__(self, network: Network, database: Database, **changes: Any) -> None:
        self.network, self.database = network, database
        self.seconds = 1_000
        self.ended: list[tuple[str, str, str | None]] = []
        rules = changes.pop("rules", {})
        values = {"max_fee_wei": 100 * GWEI, "replace_after_seconds": 30, **changes}
        self.settings = SenderSettings(**values)
        self.signer = network.signers[0]
        self.outbox = Outbox(network.deployment, self.signer.address, now=self.now)
        self.sender = Sender(
            database,
            Wire(network.chain),
            self.signer,
            self.settings,
            rules=rules,
            on_end=lambda *end: self.ended.append(end),
            now=self.now,
        )

    def now(self) -> float:
        return self.seconds

    def pay(self, key: str, amount: int = 1) -> None:
        self.enqueue(key, "ParallelixToken", "transfer", RECIPIENT, amount)

    def enqueue(self, key: str, contract: str, function: str, *args: Any) -> bool:
        with self.database.write() as session:
            return self.outbox.enqueue(session, key, contract, function, args)

    def intent(self, key: str) -> Intent:
        with self.database.read() as session:
            found = intents.get(session, key)
            assert found is not None
            return found

    def broadcasts(self) -> list[Broadcast]:
        with self.database.read() as session:
            return list(session.scalars(select(Broadcast).order_by(Broadcast.nonce, Broadcast.max_fee_wei)))

    def until(self, done: Callable[[], bool], mine: bool = True) -> None:
        for _ in range(30):
            if done():
                return
            self.sender.run_once()
            if mine:
                self.network.anvil.mine()
        pytest.fail("not done after 30 rounds")

    def finish(self, *keys: str) -> None:
        self.until(lambda: all(self.intent(key).status in ("final", "fault", "superseded") for key in keys))

    @property
    def paid(self) -> int:
        chain = self.network.chain
        amount: int = chain.at(chain.head_block()).one("ParallelixToken", "balanceOf", RECIPIENT)
        return amount


@pytest.fixture
def desk(network: Network, database: Database) -> Desk:
    return Desk(network, database)


def test_sender__intents__each_happens_once_and_becomes_final(desk: Desk) -> None:
    for number in range(5):
        desk.pay(f"pay:{number}", 10**number)
        desk.pay(f"pay:{number}", 7)
    desk.finish(*(f"pay:{number}" for number in range(5)))
    assert desk.paid == 11_111
    assert {end[:2] for end in desk.ended} == {(f"pay:{number}", "final") for number in range(5)}
    assert len(desk.broadcasts()) == 5
    first = desk.intent("pay:0")
    assert first.gas_used is not None
    assert first.mined_block is not None
    assert desk.sender.run_once() == Round()


def test_enqueue__callers_transaction_fails__there_is_no_intent(desk: Desk) -> None:
    def fail() -> None:
        with desk.database.write() as session:
            assert desk.outbox.enqueue(session, "pay:1", "ParallelixToken", "transfer", (RECIPIENT, 1))
            raise RuntimeError("later step fails")

    with pytest.raises(RuntimeError, match="later"):
        fail()
    with desk.database.read() as session:
        assert intents.counts(session) == {}
    with desk.database.write() as session, pytest.raises(ValueError, match="no function"):
        desk.outbox.enqueue(session, "x:1", "ParallelixToken", "nothing", ())


def test_sender__call_that_reverts__is_a_fault_with_its_reason_and_is_not_sent(desk: Desk) -> None:
    nonce = desk.network.anvil.rpc("eth_getTransactionCount", desk.signer.address, "latest")
    desk.enqueue("unstake:77", "NodeRegistryLocker", "requestUnstake", 77)
    result = desk.sender.run_once()
    assert result.faults == {"unstake:77": "UnknownNode(77): There is no node 77; check the id."}
    assert desk.intent("unstake:77").error == "UnknownNode(77): There is no node 77; check the id."
    assert desk.broadcasts() == []
    assert desk.network.anvil.rpc("eth_getTransactionCount", desk.signer.address, "latest") == nonce
    desk.network.register_node()
    with desk.database.write() as session:
        desk.outbox.retry(session, "unstake:77")
        with pytest.raises(UserError, match="only a fault"):
            desk.outbox.retry(session, "unstake:77")
        with pytest.raises(UserError, match="no intent"):
            desk.outbox.retry(session, "none")


def test_sender__somebody_else_did_it__is_superseded_and_too_early_is_tried_again(
    network: Network, database: Database
) -> None:
    rules = {"a": RevertRule(superseded=(r"UnknownNode\(7\d\)",), retry=(r"UnknownNode\(1\)",))}
    desk = Desk(network, database, rules=rules)
    desk.enqueue("a:gone", "NodeRegistryLocker", "requestUnstake", 77)
    desk.enqueue("a:early", "NodeRegistryLocker", "requestUnstake", 1)
    result = desk.sender.run_once()
    assert result.superseded == {"a:gone": "UnknownNode(77): There is no node 77; check the id."}
    assert result.blocked == {"a:early": "UnknownNode(1): There is no node 1; check the id."}
    assert desk.intent("a:gone").status == "superseded"
    network.register_node()
    assert desk.sender.run_once().sent == []
    desk.seconds += desk.settings.retry_seconds
    assert desk.sender.run_once().sent == ["a:early"]
    desk.finish("a:early")


def test_sender__stuck_transaction__is_replaced_with_the_same_nonce_and_happens_once(desk: Desk) -> None:
    anvil = desk.network.anvil
    anvil.automine(False)
    desk.pay("pay:1", 5)
    assert desk.sender.run_once().sent == ["pay:1"]
    assert desk.sender.run_once().replaced == []
    desk.seconds += desk.settings.replace_after_seconds
    assert desk.sender.run_once().replaced == ["pay:1"]
    first, second = desk.broadcasts()
    assert first.nonce == second.nonce
    assert second.max_fee_wei * 8 >= first.max_fee_wei * 9
    assert second.priority_fee_wei * 8 >= first.priority_fee_wei * 9
    desk.finish("pay:1")
    assert desk.paid == 5
    assert desk.intent("pay:1").tx_hash == second.tx_hash


def test_sender__call_became_impossible_while_waiting__is_cancelled_with_the_same_nonce(
    network: Network, database: Database
) -> None:
    desk = Desk(network, database, rules={"u": RevertRule(superseded=(r"WrongState\(.*\)",))})
    network.register_node()
    network.anvil.automine(False)
    desk.enqueue("u:1", "NodeRegistryLocker", "requestUnstake", 1)
    desk.sender.run_once()
    sent = desk.broadcasts()[0]
    # Somebody else's transaction with the same effect is mined first, with ours still waiting.
    network.anvil.rpc("anvil_dropTransaction", sent.tx_hash)
    snapshot_nonce = network.anvil.rpc("eth_getTransactionCount", desk.signer.address, "latest")
    network.submit(0, "NodeRegistryLocker", "requestUnstake", 1)
    network.anvil.mine()
    network.anvil.rpc("anvil_setNonce", desk.signer.address, snapshot_nonce)
    desk.sender.run_once()
    desk.seconds += desk.settings.replace_after_seconds
    assert desk.sender.run_once().replaced == ["u:1"]
    assert desk.broadcasts()[-1].cancels
    desk.finish("u:1")
    assert desk.intent("u:1").status == "superseded"
    assert (desk.intent("u:1").error or "").startswith("WrongState")


def test_sender__reverted_when_mined__ends_with_the_reason_once_final(
    network: Network, database: Database
) -> None:
    desk = Desk(network, database)
    network.register_node()
    network.anvil.automine(False)
    desk.enqueue("a:1", "NodeRegistryLocker", "requestUnstake", 1)
    desk.enqueue("b:1", "NodeRegistryLocker", "requestUnstake", 1)
    assert sorted(desk.sender.run_once().sent) == ["a:1", "b:1"]
    network.anvil.mine()
    result = desk.sender.run_once()
    assert sorted(result.mined) == ["a:1", "b:1"]
    assert result.faults == {}
    desk.finish("a:1", "b:1")
    statuses = sorted((desk.intent(key).status, desk.intent(key).error or "") for key in ("a:1", "b:1"))
    assert [status for status, _ in statuses] == ["fault", "final"]
    assert statuses[0][1].startswith("WrongState(1")


def test_sender__fault_after_a_failed_transaction__can_be_retried(
    network: Network, database: Database
) -> None:
    desk = Desk(network, database)
    network.register_node()
    network.anvil.automine(False)
    for key in ("a:1", "b:1"):
        desk.enqueue(key, "NodeRegistryLocker", "requestUnstake", 1)
    desk.sender.run_once()
    desk.finish("a:1", "b:1")
    fault = next(key for key in ("a:1", "b:1") if desk.intent(key).status == "fault")
    network.anvil.automine(True)
    network.send(0, "NodeRegistryLocker", "cancelUnstake", 1)
    with database.write() as session:
        desk.outbox.retry(session, fault)
    desk.finish(fault)
    assert desk.intent(fault).status == "final"


@pytest.mark.parametrize("depth", [1, 5, 20])
def test_sender__reorganisation_takes_the_block__is_sent_again_and_happens_once(
    network: Network, database: Database, depth: int
) -> None:
    desk = Desk(network, database)
    network.chain.blocks._confirmations = 30
    network.anvil.mine(31)
    desk.pay("pay:1", 3)
    desk.sender.run_once()
    network.anvil.mine(depth - 1)
    assert desk.sender.run_once().mined == ["pay:1"]
    assert desk.paid == 3
    network.anvil.reorg(depth)
    assert desk.paid == 0
    result = desk.sender.run_once()
    assert result.reorganised == ["pay:1"]
    assert desk.paid == 3
    network.anvil.mine(31)
    desk.finish("pay:1")
    assert desk.paid == 3
    assert len(desk.broadcasts()) == 1


def test_sender__fees_above_the_cap__waits_and_sends_when_they_fall(
    network: Network, database: Database
) -> None:
    desk = Desk(network, database, max_fee_wei=10 * GWEI)
    network.anvil.rpc("anvil_setNextBlockBaseFeePerGas", hex(500 * GWEI))
    network.anvil.mine()
    desk.pay("pay:1")
    result = desk.sender.run_once()
    assert "above max_fee_gwei" in result.blocked["pay:1"]
    assert desk.broadcasts() == []
    network.anvil.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
    network.anvil.mine()
    assert desk.sender.run_once().sent == ["pay:1"]
    desk.finish("pay:1")
    assert all(broadcast.max_fee_wei <= 10 * GWEI for broadcast in desk.broadcasts())


def test_sender__nonce_used_by_a_stranger__gets_another_nonce_and_happens_once(desk: Desk) -> None:
    anvil = desk.network.anvil
    anvil.automine(False)
    desk.pay("pay:1", 2)
    desk.sender.run_once()
    nonce = desk.broadcasts()[0].nonce
    anvil.rpc("anvil_dropTransaction", desk.broadcasts()[0].tx_hash)
    anvil.automine(True)
    desk.network.send(0, "ParallelixToken", "approve", RECIPIENT, 1)
    desk.finish("pay:1")
    assert desk.paid == 2
    assert [broadcast.nonce for broadcast in desk.broadcasts()] == [nonce, nonce + 1]


def test_sender__gap_before_its_nonce__is_filled(desk: Desk) -> None:
    anvil = desk.network.anvil
    real = int(anvil.rpc("eth_getTransactionCount", desk.signer.address, "latest"), 16)
    anvil.rpc("anvil_setNonce", desk.signer.address, hex(real + 2))  # as if an endpoint had lied
    desk.pay("pay:1", 4)
    anvil.automine(False)
    desk.sender.run_once()
    anvil.rpc("anvil_setNonce", desk.signer.address, hex(real))
    anvil.automine(True)
    desk.finish("pay:1")
    assert desk.paid == 4
    assert [broadcast.nonce for broadcast in desk.broadcasts()] == [real, real + 1, real + 2]


def test_sender__no_money_for_gas__says_whom_to_pay_and_goes_on_later(desk: Desk) -> None:
    anvil = desk.network.anvil
    balance = anvil.rpc("eth_getBalance", desk.signer.address, "latest")
    anvil.rpc("anvil_setBalance", desk.signer.address, "0x0")
    desk.pay("pay:1")
    result = desk.sender.run_once()
    assert "pay:1" in result.blocked
    anvil.rpc("anvil_setBalance", desk.signer.address, balance)
    desk.seconds += desk.settings.retry_seconds
    desk.finish("pay:1")
    assert desk.paid == 1


def test_sender__second_sender_while_one_holds_the_lease__does_nothing(desk: Desk) -> None:
    other = Desk(desk.network, desk.database)
    desk.pay("pay:1")
    assert desk.sender._journal.take_lease()
    assert not other.sender.run_once().ran
    other.seconds += 6
    assert other.sender.run_once().sent == ["pay:1"]
