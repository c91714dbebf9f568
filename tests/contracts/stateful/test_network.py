"""Hypothesis state machine: the contracts beside an exact integer model in Python, under arbitrary sequences of calls.

Actors: honest operators, a third party that tries their calls, a quorum that signs what it likes, and a funder. After every
step the model's books are compared with the chain's. Bonds, credits and requests have machines of their own.
"""

from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from offchain.domain.uptime_tree import UptimeTree
from tests.contracts.stateful.machine import ContractMachine, run
from tests.support.contracts.factory import (
    CHALLENGE_WINDOW,
    CLAIM_WINDOW,
    COOLDOWN,
    EMISSION,
    EMISSION_EPOCHS,
    EPOCH,
    MIN_STAKE,
    OPEN,
    SUBMIT_WINDOW,
    World,
    claim_args,
    key_hash,
    key_of,
    now,
)

MULTIPLIERS = {1: 10_000, 2: 15_000, 3: 25_000, 4: 30_000}
OWNERS = 3
# A claim walks 13 hashes and reads a dozen slots, however many nodes, epochs and changes there are (invariant 19).
CLAIM_GAS = 160_000


@dataclass
class Node:
    """A node as the rules have it."""

    owner: int
    stake: int
    tier: int
    active_from: int
    past: list[tuple[int, int]] = field(default_factory=list)
    active_until: int = OPEN
    unlock_at: int = 0
    retired: bool = False
    key: int = 0
    beneficiary: int | None = None

    def weight(self, epoch: int) -> int:
        """stake x multiplier while active."""
        spans = [*self.past, (self.active_from, self.active_until)]
        return self.stake * MULTIPLIERS[self.tier] if any(a <= epoch < b for a, b in spans) else 0


@dataclass
class Epoch:
    """An epoch's report and money."""

    funded: int = 0
    paid: int = 0
    settled: bool = False
    tree: UptimeTree | None = None
    final_at: int = 0
    claimed: set[int] = field(default_factory=set)


class NetworkMachine(ContractMachine):
    """Nodes, reports and rewards."""

    def begin(self) -> None:
        self.nodes: list[Node] = []
        self.bound_to: dict[int, int] = {}
        self.epochs: dict[int, Epoch] = {}
        self.outflow = 0

    # ------------------------------------------------------------------------------------------------- helpers

    def of(self, epoch: int) -> Epoch:
        return self.epochs.setdefault(epoch, Epoch())

    def pool(self, epoch: int) -> int:
        index = epoch - 2
        emitted = EMISSION * (index + 1) // EMISSION_EPOCHS - EMISSION * index // EMISSION_EPOCHS
        return (emitted if 0 <= index < EMISSION_EPOCHS else 0) + self.of(epoch).funded

    def payout(self, number: int) -> str:
        node = self.nodes[number - 1]
        return str(self.world.users[node.owner if node.beneficiary is None else node.beneficiary].address)

    def status(self, epoch: int) -> str:
        found, end = self.of(epoch), self.world.start_of(epoch + 1)
        if found.tree is not None:
            return "final" if now() >= found.final_at else "pending"
        return "open" if now() < end + SUBMIT_WINDOW else "lapsed"

    # ------------------------------------------------------------------------------------------------- rules

    @rule(seconds=st.sampled_from([30, 130, 470, EPOCH, 2 * EPOCH]))
    def wait(self, seconds: int) -> None:
        self.go(seconds)

    @rule(owner=st.integers(0, OWNERS - 1), extra=st.integers(0, 10**21), tier=st.integers(0, 5))
    def register(self, owner: int, extra: int, tier: int) -> None:
        if self.close_to():
            return
        stake, index = MIN_STAKE + extra, len(self.nodes) + 1
        if tier not in MULTIPLIERS:
            self.expect("InvalidTier", lambda: self.world.register(self.world.users[owner], stake, tier))
            return
        taken = self.bound_to.get(index)
        if taken is not None and not self.nodes[taken].retired:  # another node rotated to this key before
            sender, hashed = self.world.users[owner], key_hash(key_of(3_000 + index))
            call = self.world.locker.registerNode
            self.expect("NodeKeyInUse", lambda: call(stake, tier, hashed, sender=sender))
            return
        self.world.register(self.world.users[owner], stake, tier, key=3_000 + index)
        self.nodes.append(Node(owner, stake, tier, self.epoch_now() + 1, key=index))
        self.bound_to[index] = index - 1

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), caller=st.integers(0, OWNERS - 1))
    def request_unstake(self, data: st.DataObject, caller: int) -> None:
        if self.close_to():
            return
        index = data.draw(st.integers(0, len(self.nodes) - 1))
        node = self.nodes[index]
        wrong = "WrongState" if node.active_until != OPEN else ""
        expected = "NotNodeOwner" if caller != node.owner else wrong
        receipt = self.expect(
            expected, lambda: self.world.locker.requestUnstake(index + 1, sender=self.world.users[caller])
        )
        if not expected:
            node.active_until = self.epoch_now() + 1
            node.unlock_at = receipt.timestamp + COOLDOWN

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), caller=st.integers(0, OWNERS - 1))
    def cancel_unstake(self, data: st.DataObject, caller: int) -> None:
        if self.close_to():
            return
        index = data.draw(st.integers(0, len(self.nodes) - 1))
        node = self.nodes[index]
        wrong = "WrongState" if node.active_until == OPEN or node.retired else ""
        expected = "NotNodeOwner" if caller != node.owner else wrong
        self.expect(
            expected, lambda: self.world.locker.cancelUnstake(index + 1, sender=self.world.users[caller])
        )
        if not expected:
            following = self.epoch_now() + 1
            if node.active_until != following:
                if node.active_from < node.active_until:
                    node.past.append((node.active_from, node.active_until))
                node.active_from = following
            node.active_until, node.unlock_at = OPEN, 0

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), caller=st.integers(0, OWNERS - 1))
    def withdraw(self, data: st.DataObject, caller: int) -> None:
        index = data.draw(st.integers(0, len(self.nodes) - 1))
        node = self.nodes[index]
        if self.close_to(node.unlock_at):
            return
        if caller != node.owner:
            expected = "NotNodeOwner"
        elif node.unlock_at == 0 or node.retired:
            expected = "WrongState"
        else:
            expected = "StillCooling" if now() < node.unlock_at else ""
        account = self.world.users[caller]
        before = self.world.token.balanceOf(account)
        self.expect(expected, lambda: self.world.locker.withdrawStake(index + 1, sender=account))
        if not expected:
            assert self.world.token.balanceOf(account) - before == node.stake
            node.retired = True

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), caller=st.integers(0, OWNERS - 1))
    def rotate_key(self, data: st.DataObject, caller: int) -> None:
        """To a key of its own, or to one that another node has or had (invariants 15 and 16)."""
        index = data.draw(st.integers(0, len(self.nodes) - 1))
        wanted = data.draw(st.integers(0, len(self.nodes) + 1), label="key of")
        node, key = self.nodes[index], key_of(3_000 + wanted)
        bound = self.bound_to.get(wanted)
        expected = "" if caller == node.owner else "NotNodeOwner"
        if not expected and node.retired:
            expected = "WrongState"
        if not expected and bound not in (None, index) and not self.nodes[bound].retired:
            expected = "NodeKeyInUse"
        locker, sender = self.world.locker, self.world.users[caller]
        self.expect(expected, lambda: locker.setNodeKey(index + 1, key_hash(key), sender=sender))
        if not expected:
            node.key, self.bound_to[wanted] = wanted, index

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), caller=st.integers(0, OWNERS - 1), to=st.integers(0, 8))
    def set_beneficiary(self, data: st.DataObject, caller: int, to: int) -> None:
        index = data.draw(st.integers(0, len(self.nodes) - 1))
        node, account = self.nodes[index], self.world.users[to]
        expected = "" if caller == node.owner else "NotNodeOwner"
        sender = self.world.users[caller]
        self.expect(expected, lambda: self.world.locker.setBeneficiary(index + 1, account, sender=sender))
        if not expected:
            node.beneficiary = to

    @precondition(lambda self: self.epoch_now() > 0)
    @rule(data=st.data(), kind=st.sampled_from(["honest", "others down", "above full"]))
    def report(self, data: st.DataObject, kind: str) -> None:
        """Whatever a quorum of the keepers signs, for the epoch before this one."""
        epoch = self.epoch_now() - 1
        if self.close_to(self.world.start_of(epoch + 1) + SUBMIT_WINDOW, self.of(epoch).final_at):
            return
        count = int(self.world.locker.nodeCount())
        uptimes = {
            node: 0
            if kind == "others down" and node > 1
            else data.draw(st.integers(0, 10_000), label="uptime")
            for node in range(1, count + 1)
        }
        tree = UptimeTree(epoch, count, uptimes)
        if kind == "above full" and count:
            tree._packed[0] = (10_001 << 16).to_bytes(32, "big")
            tree._levels, tree._empty = tree._build()
        expected = "" if self.status(epoch) == "open" else "WrongStatus"
        if epoch == 0:  # before the keepers' first epoch nobody can sign
            expected = expected or "UnknownSigner"
        receipt = self.expect(expected, lambda: self.world.submit(self.world.report(tree)))
        if not expected:
            self.of(epoch).tree = tree
            self.of(epoch).final_at = receipt.timestamp + CHALLENGE_WINDOW

    @precondition(lambda self: any(e.tree for e in self.epochs.values()) and self.nodes)
    @rule(data=st.data(), many=st.booleans())
    def claim(self, data: st.DataObject, many: bool) -> None:
        epoch = data.draw(st.sampled_from(sorted(e for e, found in self.epochs.items() if found.tree)))
        found = self.of(epoch)
        if self.close_to(found.final_at, found.final_at + CLAIM_WINDOW):
            return
        assert found.tree is not None
        covered = found.tree.node_count
        if not covered:
            return
        nodes = data.draw(st.lists(st.integers(1, covered), min_size=1, max_size=3 if many else 1))
        expected, total, seen = "", 0, set(found.claimed)
        for number in nodes:
            uptime, weight = found.tree.uptime(number), self.nodes[number - 1].weight(epoch)
            expected = (
                ("AlreadyClaimed" if number in seen else "")
                or ("EpochNotFinal" if now() < found.final_at else "")
                or ("ClaimExpired" if now() > found.final_at + CLAIM_WINDOW else "")
                or ("UptimeOutOfRange" if uptime > 10_000 else "")
                or ("NoWeight" if not weight else "")
            )
            if expected:
                break
            seen.add(number)
            whole = sum(node.weight(epoch) for node in self.nodes)
            total += self.pool(epoch) * weight * uptime // (10_000 * whole)
        entries = [claim_args(found.tree, number) for number in nodes]
        sender = self.world.users[8]
        if many:
            receipt = self.expect(expected, lambda: self.world.distributor.claimMany(entries, sender=sender))
        else:
            receipt = self.expect(expected, lambda: self.world.distributor.claim(*entries[0], sender=sender))
        if not expected:
            assert receipt.gas_used <= CLAIM_GAS * len(entries)
            paid = [(e.nodeId, e.to) for e in receipt.events if e.event_name == "RewardClaimed"]
            assert paid == [(number, self.payout(number)) for number in nodes]
            found.claimed, found.paid = seen, found.paid + total
            self.outflow += total

    @rule(amount=st.integers(1, 10**24))
    def fund(self, amount: int) -> None:
        if self.close_to():
            return
        self.world.token.approve(self.world.distributor, amount, sender=self.world.deployer)
        self.world.distributor.fund(amount, sender=self.world.deployer)
        self.of(self.epoch_now() + 1).funded += amount
        self.outflow -= amount

    @rule(back=st.integers(1, 8), lapsed=st.booleans())
    def settle(self, back: int, lapsed: bool) -> None:
        epoch = self.epoch_now() - back
        if epoch < 0:
            return
        found, status = self.of(epoch), self.status(epoch)
        deadline = found.final_at + CLAIM_WINDOW
        if self.close_to(found.final_at, deadline, self.world.start_of(epoch + 1) + SUBMIT_WINDOW):
            return
        rest = self.pool(epoch) - found.paid
        settled = "EpochSettled" if found.settled else ""
        if lapsed:
            expected = "EpochNotLapsed" if status != "lapsed" else settled
            call = self.world.distributor.rollover
        elif status != "final":
            expected, call = "EpochNotFinal", self.world.distributor.sweep
        else:
            expected = "ClaimStillOpen" if now() <= deadline else settled
            call = self.world.distributor.sweep
        self.expect(expected, lambda: call(epoch, sender=self.world.users[7]))
        if not expected:
            found.settled = True
            if lapsed:
                self.of(self.epoch_now() + 1).funded += rest
            else:
                self.outflow += rest

    # ---------------------------------------------------------------------------------------------- invariants

    @invariant()
    def the_locker_holds_exactly_all_principal(self) -> None:
        held = sum(node.stake for node in self.nodes if not node.retired)
        assert self.world.token.balanceOf(self.world.locker) == held

    @invariant()
    def keys_and_payout_addresses_are_the_owners(self) -> None:
        for number, node in enumerate(self.nodes, start=1):
            key = key_of(3_000 + node.key).address
            mine = not node.retired and self.bound_to[node.key] == number - 1
            if mine:
                assert self.world.locker.nodeOfKey(key) == number
            assert self.world.locker.payoutAddress(number) == self.payout(number)

    @invariant()
    def the_distributor_holds_exactly_what_it_owes(self) -> None:
        assert self.world.token.balanceOf(self.world.distributor) == EMISSION - self.outflow

    @invariant()
    def weights_totals_and_pools_are_the_models(self) -> None:
        current = self.epoch_now()
        for epoch in {current + 1, current, max(0, current - 1), max(0, current - 5)}:
            total = sum(node.weight(epoch) for node in self.nodes)
            assert self.world.locker.totalWeightAt(epoch) == total
            assert self.world.distributor.poolOf(epoch) == self.pool(epoch)
            paid = self.world.distributor.paidOf(epoch)
            assert paid == self.of(epoch).paid <= self.pool(epoch)
        if self.nodes:
            index = current % len(self.nodes)
            assert self.world.locker.weightAt(index + 1, current) == self.nodes[index].weight(current)


@pytest.mark.timeout(3_600)
def test_machine__arbitrary_calls__contracts_and_model_agree(deployed: World) -> None:
    world = deployed.view()
    world.join_keepers(3)
    world.enter(1, 100)

    run(NetworkMachine, world, examples=5, steps=24)
