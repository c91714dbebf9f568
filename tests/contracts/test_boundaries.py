"""Boundary table: every deadline one second before, at it, and one second after it, by transactions mined at that second."""

from collections.abc import Callable
from typing import Any

import pytest
from ape import chain

from offchain.domain.uptime_tree import UptimeTree
from tests.contracts.test_market import CEILING, MODEL, PAYLOAD, RESULT
from tests.support.contracts.factory import (
    ZERO,
    World,
    as_tuple,
    claim_args,
    error_of,
    key_hash,
    key_of,
    now,
    warp,
)
from tests.support.contracts.signing import SIGNER, authorize

OK = ""
UPTIMES = {1: 5_000, 2: 9_000}
Call = Callable[[], Any]


@pytest.fixture(scope="module")
def prepared(deployed: World) -> World:
    """Two nodes, four keepers, a payer with credit, in epoch 2."""
    world = deployed.view()
    world.register(world.users[0])
    world.register(world.users[1])
    world.join_keepers(4)
    payer = world.users[3]
    world.give(payer, 10 * CEILING)
    world.token.approve(world.vault, 5 * CEILING, sender=payer)
    world.token.approve(world.market, 5 * CEILING, sender=payer)
    world.vault.deposit(payer, 1_000, sender=payer)
    authorize(world, payer, SIGNER, 500)
    world.enter(2)
    return world


@pytest.fixture
def ready(prepared: World) -> World:
    """The same, for one test."""
    return prepared.view()


def tree() -> UptimeTree:
    return UptimeTree(1, 2, UPTIMES)


def withdraw_stake(world: World) -> tuple[int, Call]:
    world.locker.requestUnstake(1, sender=world.users[0])
    return world.locker.nodes(1).unlockAt, lambda: world.locker.withdrawStake(1, sender=world.users[0])


def withdraw_bond(world: World) -> tuple[int, Call]:
    world.keepers.requestLeave(1, sender=world.users[0])
    return world.keepers.keepers(1).unlockAt, lambda: world.keepers.withdrawBond(1, sender=world.users[0])


def submit_begins(world: World) -> tuple[int, Call]:
    report = world.report(UptimeTree(2, 2, UPTIMES))
    return world.start_of(3), lambda: world.submit(report)


def submit_ends(world: World) -> tuple[int, Call]:
    report = world.report(tree())
    return int(world.attestation.submitDeadline(1)), lambda: world.submit(report)


def reject_ends(world: World) -> tuple[int, Call]:
    world.submit(world.report(tree()))
    return int(world.attestation.finalAt(1)), lambda: world.attestation.rejectReport(1, sender=world.deployer)


def appeal_ends(world: World) -> tuple[int, Call]:
    world.submit(world.report(tree()))
    evidence = world.evidence(1, 1, range(160))
    _, epoch, leaf, proof = claim_args(tree(), 1)
    return int(world.attestation.finalAt(1)), lambda: world.attestation.appeal(
        epoch, 1, leaf, proof, evidence, sender=world.users[0]
    )


def claim_begins(world: World) -> tuple[int, Call]:
    world.submit(world.report(tree()))
    return int(world.attestation.finalAt(1)), lambda: world.distributor.claim(
        *claim_args(tree(), 1), sender=world.users[0]
    )


def claim_ends(world: World) -> tuple[int, Call]:
    world.submit(world.report(tree()))
    return int(world.distributor.claimDeadline(1)), lambda: world.distributor.claim(
        *claim_args(tree(), 1), sender=world.users[0]
    )


def sweep_begins(world: World) -> tuple[int, Call]:
    world.submit(world.report(tree()))
    return int(world.distributor.claimDeadline(1)), lambda: world.distributor.sweep(1, sender=world.users[0])


def rollover_begins(world: World) -> tuple[int, Call]:
    return int(world.attestation.submitDeadline(1)), lambda: world.distributor.rollover(
        1, sender=world.users[0]
    )


def slash(world: World) -> int:
    world.submit(world.report(tree()))
    _, epoch, leaf, proof = claim_args(tree(), 1)
    world.attestation.appeal(epoch, 1, leaf, proof, world.evidence(1, 1, range(160)), sender=world.users[0])
    return int(world.keepers.slashes(1).executableAt)


def slash_executes(world: World) -> tuple[int, Call]:
    return slash(world), lambda: world.keepers.executeSlash(1, sender=world.users[0])


def veto_ends(world: World) -> tuple[int, Call]:
    return slash(world), lambda: world.keepers.vetoSlash(1, sender=world.deployer)


def open_request(world: World) -> tuple[bytes, int]:
    request_id = bytes(world.market.nextRequestId())
    deadline = now() + 300
    world.market.request(MODEL, PAYLOAD, CEILING, deadline, ZERO, sender=world.users[3])
    return request_id, deadline


def fulfil_ends(world: World) -> tuple[int, Call]:
    request_id, deadline = open_request(world)
    receipt = world.receipt(request_id, 1, PAYLOAD, RESULT)
    signature = world.sign_receipt(receipt, key_of(1001))
    return deadline, lambda: world.market.fulfil(as_tuple(receipt), signature, RESULT, sender=world.users[0])


def refund_begins(world: World) -> tuple[int, Call]:
    request_id, deadline = open_request(world)
    return deadline, lambda: world.market.refund(request_id, sender=world.users[0])


def withdraw_credit(world: World) -> tuple[int, Call]:
    world.vault.requestWithdrawal(10, sender=world.users[3])
    return world.vault.accounts(world.users[3]).thawedAt, lambda: world.vault.withdraw(sender=world.users[3])


# Outcome one second before, at, and one second after the deadline.
TABLE: list[tuple[Callable[[World], tuple[int, Call]], tuple[str, str, str]]] = [
    (withdraw_stake, ("StillCooling", OK, OK)),
    (withdraw_bond, ("BondLocked", OK, OK)),
    (submit_begins, ("EpochNotOver", OK, OK)),
    (submit_ends, (OK, "WrongStatus", "WrongStatus")),
    (reject_ends, (OK, "WrongStatus", "WrongStatus")),
    (appeal_ends, (OK, "WrongStatus", "WrongStatus")),
    (claim_begins, ("EpochNotFinal", OK, OK)),
    (claim_ends, (OK, OK, "ClaimExpired")),
    (sweep_begins, ("ClaimStillOpen", "ClaimStillOpen", OK)),
    (rollover_begins, ("EpochNotLapsed", OK, OK)),
    (slash_executes, ("VetoWindowOpen", OK, OK)),
    (veto_ends, (OK, "VetoWindowClosed", "VetoWindowClosed")),
    (fulfil_ends, (OK, OK, "DeadlinePassed")),
    (refund_begins, ("DeadlineNotPassed", "DeadlineNotPassed", OK)),
    (withdraw_credit, ("StillThawing", OK, OK)),
]


@pytest.mark.parametrize(
    ("case", "offset", "outcome"),
    [
        pytest.param(case, offset, outcomes[offset + 1], id=f"{case.__name__}{offset:+d}")
        for case, outcomes in TABLE
        for offset in (-1, 0, 1)
    ],
)
def test_deadline__one_second_around_it__is_exact(ready: World, case: Any, offset: int, outcome: str) -> None:
    deadline, call = case(ready)
    chain.pending_timestamp = deadline + offset
    error, receipt = error_of(ready, call)
    assert error == outcome
    if outcome == OK:
        assert receipt.timestamp == deadline + offset


@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_epoch_boundary__registration_exit_and_return__count_from_the_next_epoch(
    ready: World, offset: int
) -> None:
    owner = ready.users[0]
    ready.give(owner, 50_000 * 10**18)
    ready.token.approve(ready.locker, 50_000 * 10**18, sender=owner)
    boundary = ready.start_of(4)
    chain.pending_timestamp = boundary + offset
    receipt = ready.locker.registerNode(50_000 * 10**18, 1, key_hash(key_of(60)), sender=owner)
    assert receipt.timestamp == boundary + offset
    active_from = 4 if offset < 0 else 5
    assert ready.locker.nodes(3).activeFrom == active_from
    warp(ready.start_of(6) - 10)
    chain.pending_timestamp = ready.start_of(6) + offset
    ready.locker.requestUnstake(3, sender=owner)
    active_until = 6 if offset < 0 else 7
    assert ready.locker.nodes(3).activeUntil == active_until
    chain.pending_timestamp = ready.start_of(8) + offset
    ready.locker.cancelUnstake(3, sender=owner)
    again = 8 if offset < 0 else 9
    expected = [active_from <= e < active_until or e >= again for e in range(12)]
    assert [ready.locker.weightAt(3, e) > 0 for e in range(12)] == expected
