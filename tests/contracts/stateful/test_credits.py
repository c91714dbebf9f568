"""Hypothesis state machine of the requesters' money: credits with their vouchers, and on-chain requests, beside an exact model.

Actors: payers that withdraw, change caps and bind further signers while they owe; whoever redeems stale, foreign and made-up
vouchers; nodes that answer each other's requests; requesters whose callback attacks the market. Invariants 3, 17, 18 and 20.
"""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from tests.contracts.stateful.machine import ContractMachine, run
from tests.support.contracts.factory import THAW, ZERO, World, as_tuple, deploy_mock, key_of, now
from tests.support.contracts.signing import proof, voucher

PAYERS = (3, 4)
NODES = (1, 2)
SIGNERS = [key_of(510 + index) for index in range(4)]
TREASURY, INFRASTRUCTURE = 5, 6
PAYLOAD, RESULT = b'{"model":"m"}', b"answer"
AMOUNT = st.integers(1, 100_000)
OPEN, FULFILLED, REFUNDED = 1, 2, 3
NO_CALLBACK = 5


@dataclass
class Account:
    """A payer's account as the rules have it."""

    balance: int = 0
    fees: int = 0
    thawing: int = 0
    thawed_at: int = 0
    signers: int = 0


@dataclass
class Signer:
    """What a signer may spend."""

    payer: int
    cap: int
    spent: int = 0
    pending_cap: int = 0
    pending_at: int = 0

    def apply(self) -> None:
        """A cap whose time has come."""
        if self.pending_at and now() >= self.pending_at:
            self.cap, self.pending_at = self.pending_cap, 0


@dataclass
class Request:
    """An on-chain request."""

    request_id: bytes
    requester: int
    escrow: int
    deadline: int
    status: int = OPEN


class CreditMachine(ContractMachine):
    """Vault, collector and market."""

    callback: Any

    def begin(self) -> None:
        self.accounts = {payer: Account() for payer in PAYERS}
        self.signers: dict[int, Signer] = {}
        self.collected: dict[tuple[int, int], int] = {}
        self.requests: list[Request] = []
        self.deposited = self.withdrawn = 0

    # ------------------------------------------------------------------------------------------------- helpers

    def balances(self, *accounts: int) -> list[int]:
        return [int(self.world.token.balanceOf(self.world.users[account])) for account in accounts]

    @rule(seconds=st.sampled_from([30, 130, 470, THAW, 1_500]))
    def wait(self, seconds: int) -> None:
        self.go(seconds)

    # ------------------------------------------------------------------------------------------------- payers

    @rule(payer=st.sampled_from(PAYERS), amount=AMOUNT)
    def deposit(self, payer: int, amount: int) -> None:
        self.world.vault.deposit(self.world.users[payer], amount, sender=self.world.users[payer])
        self.accounts[payer].balance += amount
        self.deposited += amount

    @rule(payer=st.sampled_from(PAYERS), amount=AMOUNT)
    def request_withdrawal(self, payer: int, amount: int) -> None:
        account, call = self.accounts[payer], self.world.vault.requestWithdrawal
        expected = "InsufficientBalance" if amount > account.balance else ""
        receipt = self.expect(expected, lambda: call(amount, sender=self.world.users[payer]))
        if not expected:
            account.thawing, account.thawed_at = amount, receipt.timestamp + THAW

    @rule(payer=st.sampled_from(PAYERS), cancel=st.booleans())
    def end_withdrawal(self, payer: int, cancel: bool) -> None:
        account, sender = self.accounts[payer], self.world.users[payer]
        if self.close_to(account.thawed_at):
            return
        expected = "" if account.thawed_at else "NothingThawing"
        if cancel:
            self.expect(expected, lambda: self.world.vault.cancelWithdrawal(sender=sender))
        else:
            expected = expected or ("StillThawing" if now() < account.thawed_at else "")
            before = self.balances(payer)[0]
            self.expect(expected, lambda: self.world.vault.withdraw(sender=sender))
            if not expected:
                paid = min(account.thawing, account.balance)
                assert self.balances(payer)[0] - before == paid
                account.balance -= paid
                self.withdrawn += paid
        if not expected:
            account.thawing = account.thawed_at = 0

    @rule(
        which=st.integers(0, len(SIGNERS) - 1), payer=st.sampled_from(PAYERS), cap=AMOUNT, own=st.booleans()
    )
    def authorize(self, which: int, payer: int, cap: int, own: bool) -> None:
        """Bind a signer; without its own consent (`own` is False) nobody can."""
        sender, deadline, key = self.world.users[payer], now() + 100, SIGNERS[which]
        foreign = proof(
            self.world, self.world.users[7].address, key, deadline
        )  # its consent to another payer
        consent = proof(self.world, sender.address, key, deadline) if own else foreign
        expected = "SignerAlreadyBound" if which in self.signers else "" if own else "InvalidProof"
        call, signer = self.world.vault.authorizeSigner, key.address
        receipt = self.expect(expected, lambda: call(signer, cap, deadline, consent, sender=sender))
        if not expected:
            account = self.accounts[payer]
            account.signers += 1
            first = account.signers == 1
            self.signers[which] = Signer(payer, cap) if first else Signer(payer, 0, 0, cap)
            if not first:
                self.signers[which].pending_at = receipt.timestamp + THAW

    @precondition(lambda self: self.signers)
    @rule(data=st.data(), caller=st.sampled_from(PAYERS), cap=st.integers(0, 100_000))
    def set_cap(self, data: st.DataObject, caller: int, cap: int) -> None:
        which = data.draw(st.sampled_from(sorted(self.signers)))
        signer = self.signers[which]
        if self.close_to(signer.pending_at):
            return
        expected = "" if caller == signer.payer else "NotPayersSigner"
        call, sender = self.world.vault.setSignerCap, self.world.users[caller]
        receipt = self.expect(expected, lambda: call(SIGNERS[which].address, cap, sender=sender))
        if not expected:
            signer.apply()
            signer.pending_cap, signer.pending_at = cap, receipt.timestamp + THAW

    # ------------------------------------------------------------------------------------------------ vouchers

    @rule(
        which=st.integers(0, len(SIGNERS) - 1),
        payer=st.sampled_from(PAYERS),
        vouchers=st.lists(
            st.tuples(st.sampled_from([*NODES, 9]), st.integers(0, 150_000)), min_size=1, max_size=3
        ),
    )
    def redeem(self, which: int, payer: int, vouchers: list[tuple[int, int]]) -> None:
        """Any vouchers that any signer signs, in one call; the first that fails fails all."""
        signer, account = self.signers.get(which), self.accounts[payer]
        if signer is not None and self.close_to(signer.pending_at):
            return
        mine = signer is not None and signer.payer == payer
        if signer is not None and mine:
            signer.apply()
        spent = signer.spent if signer is not None else 0
        cap = signer.cap if signer is not None else 0
        balance, fees, expected = account.balance, account.fees, ""
        collected, paid = dict(self.collected), dict.fromkeys(NODES, 0)
        for node, cumulative in vouchers:
            before = collected.get((payer, node), 0)
            taken = min(cumulative - before, max(0, cap - spent), balance)
            if cumulative <= before:
                expected = "NothingToCollect"
            elif node not in NODES:
                expected = "UnknownNode"
            elif not mine:
                expected = "NotPayersSigner"
            elif taken == 0:
                expected = "NothingToCollect"
            if expected:
                break
            kept = taken * 1_500 // 10_000
            collected[payer, node] = before + taken
            paid[node] += taken - kept
            balance, spent, fees = balance - taken, spent + taken, fees + kept
        signed = [voucher(self.world, self.world.users[payer], *one, SIGNERS[which]) for one in vouchers]
        call, sender, owners = self.world.collector.redeemMany, self.world.users[8], (0, 1)
        held = self.balances(*owners)
        self.expect(expected, lambda: call(signed, sender=sender))
        if not expected and signer is not None:
            gained = [after - before for after, before in zip(self.balances(*owners), held, strict=True)]
            assert gained == [paid[1], paid[2]]
            self.collected, signer.spent = collected, spent
            account.balance, account.fees = balance, fees

    @rule(payers=st.lists(st.sampled_from(PAYERS), max_size=3))
    def pay_fees(self, payers: list[int]) -> None:
        owed = sum(self.accounts[payer].fees for payer in set(payers))
        before = self.balances(TREASURY, INFRASTRUCTURE)
        self.world.vault.payFees([self.world.users[payer] for payer in payers], sender=self.world.users[8])
        after = self.balances(TREASURY, INFRASTRUCTURE)
        small = owed * 500 // 1_500
        assert [a - b for a, b in zip(after, before, strict=True)] == [owed - small, small]
        for payer in payers:
            self.accounts[payer].fees = 0

    # ------------------------------------------------------------------------------------------------ requests

    @rule(
        requester=st.sampled_from(PAYERS),
        ceiling=st.integers(0, 10_000),
        seconds=st.sampled_from([0, 200, 900, 40 * 86_400]),
        attack=st.integers(0, NO_CALLBACK),
    )
    def request(self, requester: int, ceiling: int, seconds: int, attack: int) -> None:
        sender, deadline = self.world.users[requester], now() + seconds
        callback = ZERO if attack == NO_CALLBACK else str(self.callback.address)
        if attack != NO_CALLBACK:
            self.callback.setMode(attack, sender=self.world.deployer)
        request_id = bytes(self.world.market.nextRequestId())
        expected = "PriceOutOfRange" if ceiling == 0 else ""
        expected = expected or ("" if 0 < seconds <= 30 * 86_400 else "DeadlineOutOfRange")
        call = self.world.market.request
        self.expect(expected, lambda: call(bytes(32), PAYLOAD, ceiling, deadline, callback, sender=sender))
        if not expected:
            self.requests.append(Request(request_id, requester, ceiling, deadline))

    @precondition(lambda self: self.requests)
    @rule(
        data=st.data(),
        node=st.sampled_from(NODES),
        key=st.sampled_from([1_001, 1_002]),
        price=st.integers(0, 12_000),
    )
    def fulfil(self, data: st.DataObject, node: int, key: int, price: int) -> None:
        request = data.draw(st.sampled_from(self.requests))
        if self.close_to(request.deadline):
            return
        receipt = self.world.receipt(request.request_id, node, PAYLOAD, RESULT, price_wei=price)
        signature = self.world.sign_receipt(receipt, key_of(key))
        expected = "" if request.status == OPEN else "WrongStatus"
        expected = expected or ("DeadlinePassed" if now() > request.deadline else "")
        expected = expected or ("PriceAboveCeiling" if price > request.escrow else "")
        expected = expected or ("" if key == 1_000 + node else "InvalidNodeSignature")
        parties = (node - 1, TREASURY, INFRASTRUCTURE, request.requester)
        before = self.balances(*parties)
        call, sender = self.world.market.fulfil, self.world.users[8]
        self.expect(expected, lambda: call(as_tuple(receipt), signature, RESULT, sender=sender))
        if not expected:
            gained = [a - b for a, b in zip(self.balances(*parties), before, strict=True)]
            shares = (price * 1_000 // 10_000, price * 500 // 10_000)
            assert gained == [price - sum(shares), *shares, request.escrow - price]
            request.status, request.escrow = FULFILLED, 0

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def refund(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.requests))
        if self.close_to(request.deadline):
            return
        expected = "" if request.status == OPEN else "WrongStatus"
        expected = expected or ("DeadlineNotPassed" if now() <= request.deadline else "")
        before = self.balances(request.requester)[0]
        call, sender = self.world.market.refund, self.world.users[8]
        self.expect(expected, lambda: call(request.request_id, sender=sender))
        if not expected:
            assert self.balances(request.requester)[0] - before == request.escrow
            request.status, request.escrow = REFUNDED, 0

    # ---------------------------------------------------------------------------------------------- invariants

    @invariant()
    def vault_and_market_hold_exactly_what_they_owe(self) -> None:
        owed = sum(account.balance + account.fees for account in self.accounts.values())
        assert self.world.token.balanceOf(self.world.vault) == owed
        assert self.world.token.balanceOf(self.world.market) == sum(one.escrow for one in self.requests)

    @invariant()
    def all_collected_is_at_most_all_deposited(self) -> None:
        taken = sum(self.collected.values())
        assert taken + self.withdrawn + sum(a.balance for a in self.accounts.values()) == self.deposited
        for (payer, node), amount in self.collected.items():
            assert self.world.collector.collected(self.world.users[payer], node) == amount

    @invariant()
    def accounts_and_signers_are_the_models(self) -> None:
        payer = PAYERS[now() % 2]
        view, account = self.world.vault.accounts(self.world.users[payer]), self.accounts[payer]
        assert (view.balance, view.thawing, view.thawedAt) == (
            account.balance,
            account.thawing,
            account.thawed_at,
        )
        for which, signer in self.signers.items():
            if not self.close_to(signer.pending_at):
                signer.apply()
                seen = self.world.vault.signers(SIGNERS[which].address)
                assert (seen.cap, seen.spent, seen.pendingAt) == (signer.cap, signer.spent, signer.pending_at)

    def end(self) -> None:
        """Once its deadline has passed, no request stays open, and no payer's money stays behind."""
        self.go(31 * 86_400)
        for request in self.requests:
            if request.status == OPEN:
                self.world.market.refund(request.request_id, sender=self.world.users[8])
        assert self.world.token.balanceOf(self.world.market) == 0
        self.world.vault.payFees([self.world.users[payer] for payer in PAYERS], sender=self.world.users[8])
        for payer, account in self.accounts.items():
            if account.balance:
                self.world.vault.requestWithdrawal(account.balance, sender=self.world.users[payer])
        self.go(THAW)
        for payer, account in self.accounts.items():
            if account.balance:
                self.world.vault.withdraw(sender=self.world.users[payer])
        assert self.world.token.balanceOf(self.world.vault) == 0


@pytest.mark.timeout(3_600)
def test_credit_machine__arbitrary_calls__contracts_and_model_agree(deployed: World) -> None:
    world = deployed.view()
    for owner in (0, 1):
        world.register(world.users[owner])
    for payer in PAYERS:
        world.give(world.users[payer], 10**9)
        for spender in (world.vault, world.market):
            world.token.approve(spender, 2**256 - 1, sender=world.users[payer])
    for contract in (world.vault, world.market):
        contract.setRecipients(world.users[TREASURY], world.users[INFRASTRUCTURE], sender=world.deployer)
    CreditMachine.callback = deploy_mock("HostileCallback", world.market.address, sender=world.deployer)
    world.enter(1, 100)
    run(CreditMachine, world, examples=3, steps=30)
