"""Hypothesis state machine of the keepers' bonds: joining, leaving, slashing through the veto window, beside an exact model.

Actors: keepers that sign two reports, or a report that an appeal overrules; a quorum that leaves right after it signed; a
guardian that vetoes; strangers that try everybody's calls and everybody's signatures. Invariants 3, 10 to 14 and 16.
"""

from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from offchain.domain.eip712 import SigningDomain
from offchain.domain.uptime_tree import UptimeTree
from tests.contracts.stateful.machine import ContractMachine, run
from tests.support.contracts.factory import (
    CHALLENGE_WINDOW,
    EPOCH,
    LEAVE_DELAY,
    MIN_BOND,
    OPEN,
    SLOTS,
    SUBMIT_WINDOW,
    World,
    as_tuple,
    claim_args,
    key_of,
    now,
    sign,
    warp,
)

OPERATORS = 3
VETO = EPOCH
EVIDENCE = range(6)  # slots that an appeal shows: above the tolerance over an attested 0
RECOUNTED = 10_000 * len(EVIDENCE) // SLOTS
PENDING, VETOED, EXECUTED = 1, 2, 3


@dataclass
class Keeper:
    """A keeper as the rules have it."""

    operator: int
    bond: int
    active_from: int
    active_until: int = OPEN
    unlock_at: int = 0
    reserved: int = 0
    withdrawn: bool = False


@dataclass
class Slash:
    """A proposed slash."""

    keeper: int
    amount: int
    executable_at: int
    state: int = PENDING


@dataclass
class Epoch:
    """An epoch's report, and who was caught."""

    tree: UptimeTree | None = None
    final_at: int = 0
    signers: list[int] = field(default_factory=list)
    overruled: bool = False
    equivocated: set[int] = field(default_factory=set)


class KeeperMachine(ContractMachine):
    """Bonds and what takes them."""

    def begin(self) -> None:
        self.model: list[Keeper] = [
            Keeper(index % OPERATORS, MIN_BOND, 1) for index in range(len(self.world.keeper_keys))
        ]
        self.keys = list(self.world.keeper_keys)
        self.slashes: list[Slash] = []
        self.slashed = 0
        self.epochs: dict[int, Epoch] = {}

    # ------------------------------------------------------------------------------------------------- helpers

    def of(self, epoch: int) -> Epoch:
        return self.epochs.setdefault(epoch, Epoch())

    def set_of(self, epoch: int) -> list[int]:
        return [i for i, k in enumerate(self.model) if k.active_from <= epoch < k.active_until]

    def view_of(self, epoch: int) -> World:
        """The network with the keys of an epoch's set, in its order."""
        view = self.world.view()
        view.keeper_keys = [self.keys[i] for i in self.set_of(epoch)]
        return view

    def status(self, epoch: int) -> str:
        found = self.of(epoch)
        if found.tree is not None:
            return "final" if now() >= found.final_at else "pending"
        return "open" if now() < self.world.start_of(epoch + 1) + SUBMIT_WINDOW else "lapsed"

    def near(self, epoch: int) -> bool:
        return self.close_to(self.world.start_of(epoch + 1) + SUBMIT_WINDOW, self.of(epoch).final_at)

    def leaves(self, keeper: Keeper, timestamp: int) -> None:
        keeper.active_until, keeper.unlock_at = self.epoch_now() + 1, timestamp + LEAVE_DELAY

    def proposed(self, index: int, part_bps: int, timestamp: int) -> None:
        keeper = self.model[index]
        requested = -(-keeper.bond * part_bps // 10_000)
        amount = min(requested, keeper.bond - keeper.reserved)
        keeper.reserved += amount
        self.slashes.append(Slash(index, amount, timestamp + VETO))

    # ------------------------------------------------------------------------------------------------- rules

    @rule(seconds=st.sampled_from([30, 130, 470, EPOCH, 2 * EPOCH]))
    def wait(self, seconds: int) -> None:
        self.go(seconds)

    @rule(extra=st.integers(-1, 10**21))
    def join(self, extra: int) -> None:
        if self.close_to():
            return
        index, bond = len(self.model), MIN_BOND + extra
        account, key = self.world.users[index % OPERATORS], key_of(600 + index)
        self.world.give(account, bond)
        self.world.token.approve(self.world.keepers, bond, sender=account)
        call = self.world.keepers.join
        expected = "BondOutOfRange" if extra < 0 else ""
        self.expect(expected, lambda: call(bond, key.address, bytes(32), "http://k", sender=account))
        if not expected:
            self.model.append(Keeper(index % OPERATORS, bond, self.epoch_now() + 1))
            self.keys.append(key)

    @rule(data=st.data(), caller=st.integers(0, OPERATORS - 1))
    def leave(self, data: st.DataObject, caller: int) -> None:
        if self.close_to():
            return
        index = data.draw(st.integers(0, len(self.model) - 1))
        keeper = self.model[index]
        wrong = "AlreadyLeaving" if keeper.active_until != OPEN else ""
        expected = "NotKeeperOperator" if caller != keeper.operator else wrong
        account = self.world.users[caller]
        receipt = self.expect(expected, lambda: self.world.keepers.requestLeave(index + 1, sender=account))
        if not expected:
            self.leaves(keeper, receipt.timestamp)

    @rule(data=st.data(), caller=st.integers(0, OPERATORS - 1))
    def withdraw(self, data: st.DataObject, caller: int) -> None:
        index = data.draw(st.integers(0, len(self.model) - 1))
        keeper = self.model[index]
        if self.close_to(keeper.unlock_at):
            return
        free = keeper.bond - keeper.reserved
        if caller != keeper.operator:
            expected = "NotKeeperOperator"
        elif keeper.unlock_at == 0:
            expected = "NotLeaving"
        elif now() < keeper.unlock_at:
            expected = "BondLocked"
        else:
            expected = "" if free else "NothingToWithdraw"
        account = self.world.users[caller]
        before = self.world.token.balanceOf(account)
        self.expect(expected, lambda: self.world.keepers.withdrawBond(index + 1, sender=account))
        if not expected:
            assert self.world.token.balanceOf(account) - before == free
            keeper.bond, keeper.withdrawn = keeper.reserved, True

    @precondition(lambda self: self.epoch_now() > 1)
    @rule(data=st.data(), forged=st.sampled_from(["", "", "", "domain", "epoch", "stranger"]))
    def report(self, data: st.DataObject, forged: str) -> None:
        """Some of the epoch's set sign that node 1 was down; or somebody makes signatures up."""
        epoch = self.epoch_now() - 1
        if self.near(epoch):
            return
        view, size = self.view_of(epoch), len(self.set_of(epoch))
        quorum = 2 * size // 3 + 1
        count = data.draw(st.integers(max(0, quorum - 1), size), label="signers")
        tree = UptimeTree(epoch, 1, {1: 0})
        report = view.report(tree)
        expected = "" if self.status(epoch) == "open" else "WrongStatus"
        expected = expected or ("" if count >= quorum else "QuorumNotReached")
        if forged:
            domain, signed = self.world.report_domain, report
            keys = view.keeper_keys[:count]
            if forged == "domain":
                domain = SigningDomain(domain.chain_id + 1, domain.verifying_contract)
            elif forged == "epoch":
                signed = view.report(tree, epoch=epoch + 1)
            else:
                keys = [key_of(900 + place) for place in range(count)]
            signatures = b"".join(sign(key, domain.digest(signed.struct_hash())) for key in keys)
            submit, bitmap = self.world.attestation.submit, (1 << count) - 1
            sender = self.world.users[8]
            self.expect(
                expected or "InvalidSignature",
                lambda: submit(as_tuple(report), bitmap, signatures, sender=sender),
            )
            return
        receipt = self.expect(expected, lambda: view.submit(report, range(count)))
        if not expected:
            found = self.of(epoch)
            found.tree, found.final_at = tree, receipt.timestamp + CHALLENGE_WINDOW
            found.signers = self.set_of(epoch)[:count]

    @precondition(lambda self: any(found.tree for found in self.epochs.values()))
    @rule(data=st.data())
    def appeal(self, data: st.DataObject) -> None:
        """The node shows that it answered: its value is replaced, and its signers are to lose a tenth, once."""
        epoch = data.draw(st.sampled_from(sorted(e for e, found in self.epochs.items() if found.tree)))
        found = self.of(epoch)
        if self.near(epoch):
            return
        assert found.tree is not None
        evidence = self.view_of(epoch).evidence(epoch, 1, EVIDENCE)
        _, _, leaf, proof = claim_args(found.tree, 1)
        expected = "" if self.status(epoch) == "pending" else "WrongStatus"
        expected = expected or ("WithinTolerance" if found.overruled else "")
        call, sender = self.world.attestation.appeal, self.world.users[7]
        receipt = self.expect(expected, lambda: call(epoch, 1, leaf, proof, evidence, sender=sender))
        if not expected:
            found.overruled = True
            assert self.world.attestation.overrideOf(epoch, 1) == (True, RECOUNTED)
            for index in found.signers:
                self.proposed(index, 1_000, receipt.timestamp)

    @rule(data=st.data(), back=st.integers(0, 3))
    def equivocate(self, data: st.DataObject, back: int) -> None:
        """Anybody shows two reports of one epoch by one keeper, however long ago; all that is left of its bond is at stake."""
        epoch = max(1, self.epoch_now() - back)
        members = self.set_of(epoch)
        if self.close_to() or not members:
            return
        place = data.draw(st.integers(0, len(members) - 1))
        view, found = self.view_of(epoch), self.of(epoch)
        first = view.report(UptimeTree(epoch, 1, {1: 1}))
        second = view.report(UptimeTree(epoch, 1, {1: 2}))
        key = view.keeper_keys[place]
        args = []
        for report in (first, second):
            args += [as_tuple(report), view.signatures(report, [key])]
        expected = "AlreadyProven" if members[place] in found.equivocated else ""
        call, sender = self.world.attestation.proveEquivocation, self.world.users[8]
        receipt = self.expect(expected, lambda: call(*args, place, sender=sender))
        if not expected:
            found.equivocated.add(members[place])
            self.proposed(members[place], 10_000, receipt.timestamp)

    @precondition(lambda self: self.slashes)
    @rule(data=st.data(), execute=st.booleans(), stranger=st.booleans())
    def decide(self, data: st.DataObject, execute: bool, stranger: bool) -> None:
        """Anybody executes a slash after the veto window, the guardian alone vetoes it before."""
        number = data.draw(st.integers(0, len(self.slashes) - 1))
        slash = self.slashes[number]
        if self.close_to(slash.executable_at):
            return
        sender = self.world.users[8] if stranger else self.world.deployer
        call = self.world.keepers.executeSlash if execute else self.world.keepers.vetoSlash
        expected = ""
        if not execute and stranger:
            expected = "AccessManagedUnauthorized"
        elif slash.state != PENDING:
            expected = "WrongSlashState"
        elif execute and now() < slash.executable_at:
            expected = "VetoWindowOpen"
        elif not execute and now() >= slash.executable_at:
            expected = "VetoWindowClosed"
        receipt = self.expect(expected, lambda: call(number + 1, sender=sender))
        if not expected:
            slash.state = EXECUTED if execute else VETOED
            self.model[slash.keeper].reserved -= slash.amount
            if execute:
                self.executed(slash, receipt.timestamp)

    def executed(self, slash: Slash, timestamp: int) -> None:
        keeper = self.model[slash.keeper]
        keeper.bond -= slash.amount
        self.slashed += slash.amount
        if keeper.active_until == OPEN and keeper.bond < MIN_BOND // 2:
            self.leaves(keeper, timestamp)

    @rule()
    def collect_slashed(self) -> None:
        before = self.world.token.balanceOf(self.world.users[6])
        self.world.keepers.collectSlashed(self.world.users[6], sender=self.world.deployer)
        assert self.world.token.balanceOf(self.world.users[6]) - before == self.slashed
        self.slashed = 0

    # ---------------------------------------------------------------------------------------------- invariants

    @invariant()
    def the_registry_holds_exactly_all_bonds_and_what_was_slashed(self) -> None:
        owed = sum(keeper.bond for keeper in self.model) + self.slashed
        assert self.world.token.balanceOf(self.world.keepers) == owed

    @invariant()
    def bonds_and_sets_are_the_models(self) -> None:
        registry, current = self.world.keepers, self.epoch_now()
        index = now() % len(self.model)
        view, keeper = registry.keepers(index + 1), self.model[index]
        assert (view.bond, view.activeUntil, view.unlockAt) == (
            keeper.bond,
            keeper.active_until,
            keeper.unlock_at,
        )
        assert registry.reservedOf(index + 1) == keeper.reserved <= keeper.bond
        for epoch in (current + 1, current):
            members = [self.keys[i].address for i in self.set_of(epoch)]
            assert list(registry.signersAt(epoch)) == members
            assert registry.quorumAt(epoch) == 2 * len(members) // 3 + 1

    @invariant()
    def a_bond_outlasts_every_report_that_it_stands_for(self) -> None:
        for epoch, found in self.epochs.items():
            if self.status(epoch) == "pending":
                assert not any(self.model[index].withdrawn for index in found.signers)

    def end(self) -> None:
        """Every slash that was not decided executes, and then every bond comes back to its operator, to the last wei."""
        warp(max([now(), *(slash.executable_at for slash in self.slashes)]))
        for number, slash in enumerate(self.slashes, start=1):
            if slash.state == PENDING:
                receipt = self.world.keepers.executeSlash(number, sender=self.world.users[8])
                self.model[slash.keeper].reserved -= slash.amount
                self.executed(slash, receipt.timestamp)
        for number, keeper in enumerate(self.model, start=1):
            if keeper.active_until == OPEN:
                self.world.keepers.requestLeave(number, sender=self.world.users[keeper.operator])
        warp(now() + LEAVE_DELAY)
        for number, keeper in enumerate(self.model, start=1):
            if keeper.bond:
                self.world.keepers.withdrawBond(number, sender=self.world.users[keeper.operator])
        assert self.world.token.balanceOf(self.world.keepers) == self.slashed


@pytest.mark.timeout(3_600)
def test_keeper_machine__arbitrary_calls__contracts_and_model_agree(deployed: World) -> None:
    world = deployed.view()
    world.register(world.users[0])
    world.join_keepers(3)
    world.enter(2, 100)
    run(KeeperMachine, world, examples=3, steps=24)
