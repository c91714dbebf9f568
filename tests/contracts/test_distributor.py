"""RewardDistributor: emission, fees, claims, rollover, sweep; every custom error and event."""

import ape
import pytest

from offchain.domain.payout import reward
from offchain.domain.tiers import Tier, weight
from offchain.domain.types import Bps, Wei, Weight
from offchain.domain.uptime_tree import UptimeTree
from tests.support.contracts.factory import (
    CLAIM_WINDOW,
    EMISSION,
    EMISSION_EPOCHS,
    MIN_STAKE,
    OPEN,
    PRLX,
    SUBMIT_WINDOW,
    ZERO,
    World,
    claim_args,
    constructor_error,
    error_of,
    warp,
)

MAX_AMOUNT = 2**104 - 1
FINAL, LAPSED = 2, 3
UPTIMES = {1: 10_000, 2: 9_000, 3: 0}
TIERS = {1: 1, 2: 3, 3: 4}


def emission(epoch: int) -> int:
    """Linear emission with the remainder spread by cumulative difference; starts at epoch 2."""
    index = epoch - 2
    if not 0 <= index < EMISSION_EPOCHS:
        return 0
    return EMISSION * (index + 1) // EMISSION_EPOCHS - EMISSION * index // EMISSION_EPOCHS


@pytest.fixture(scope="module")
def prepared(deployed: World) -> World:
    """Three nodes of different tiers, four keepers, in epoch 2."""
    world = deployed.view()
    for node, tier in TIERS.items():
        world.register(world.users[node], MIN_STAKE, tier)
    world.join_keepers(4)
    world.enter(2)
    return world


@pytest.fixture
def ready(prepared: World) -> World:
    """The same, for one test."""
    return prepared.view()


def fund(world: World, amount: int) -> None:
    """Put fees into the next epoch's pool."""
    world.token.approve(world.distributor, amount, sender=world.deployer)
    world.distributor.fund(amount, sender=world.deployer)


def expected_reward(world: World, epoch: int, node: int, uptime: int) -> int:
    """What the off-chain formula says: the contract must pay the same, to the wei."""
    total = sum(weight(Wei(MIN_STAKE), Tier(tier)) for tier in TIERS.values())
    own = weight(Wei(MIN_STAKE), Tier(TIERS[node]))
    return reward(world.distributor.poolOf(epoch), own, Weight(total), Bps(uptime))


def test_emission__whole_term__sums_to_the_total_exactly(world: World) -> None:
    per_epoch = [world.distributor.emissionOf(epoch) for epoch in range(EMISSION_EPOCHS + 4)]
    assert per_epoch == [emission(epoch) for epoch in range(EMISSION_EPOCHS + 4)]
    assert sum(per_epoch) == EMISSION
    assert world.token.balanceOf(world.distributor) == EMISSION


def test_schedule__after_the_last__starts_where_told(world: World) -> None:
    start = 2 + EMISSION_EPOCHS + 3
    world.token.approve(world.distributor, 100, sender=world.deployer)
    receipt = world.distributor.scheduleEmission(100, start, 3, sender=world.deployer)
    assert world.distributor.EmissionScheduled(100, start, 3) in receipt.events
    assert [world.distributor.emissionOf(e) for e in range(start - 1, start + 4)] == [0, 33, 33, 34, 0]
    assert world.distributor.emissionOf(2 + EMISSION_EPOCHS - 1) > 0


def test_schedule__overlapping_or_past__reverts(world: World) -> None:
    for start in (0, 2, 2 + EMISSION_EPOCHS - 1):
        with ape.reverts(world.distributor.ScheduleOverlaps, startEpoch=start, earliest=2 + EMISSION_EPOCHS):
            world.distributor.scheduleEmission(1, start, 1, sender=world.deployer)
    world.enter(40)
    with ape.reverts(world.distributor.ScheduleOverlaps, startEpoch=40, earliest=41):
        world.distributor.scheduleEmission(1, 40, 1, sender=world.deployer)


def test_schedule__at_the_earliest_epoch__needs_no_gap(world: World) -> None:
    start = 2 + EMISSION_EPOCHS
    world.token.approve(world.distributor, 2, sender=world.deployer)
    world.distributor.scheduleEmission(1, start, 1, sender=world.deployer)
    world.distributor.scheduleEmission(1, start + 1, 1, sender=world.deployer)
    assert [world.distributor.emissionOf(e) for e in (start - 1, start, start + 1)] == [
        emission(start - 1),
        1,
        1,
    ]


def test_schedule__term_to_the_last_epoch__is_the_longest(world: World) -> None:
    world.token.approve(world.distributor, 1, sender=world.deployer)
    with ape.reverts(world.distributor.InvalidParameter, value=OPEN - 99, max=OPEN - 100):
        world.distributor.scheduleEmission(1, 100, OPEN - 99, sender=world.deployer)
    world.distributor.scheduleEmission(1, 100, OPEN - 100, sender=world.deployer)
    assert [world.distributor.emissionOf(e) for e in (OPEN - 2, OPEN - 1, OPEN)] == [0, 1, 0]


def test_schedule__largest_total__is_left_to_the_token_to_refuse(world: World) -> None:
    schedule = world.distributor.scheduleEmission
    name, _ = error_of(world, lambda: schedule(MAX_AMOUNT, 100, 1, sender=world.deployer))
    assert name == "ERC20InsufficientAllowance"
    with ape.reverts(world.distributor.AmountTooLarge, amount=MAX_AMOUNT + 1, max=MAX_AMOUNT):
        schedule(MAX_AMOUNT + 1, 100, 1, sender=world.deployer)


def test_schedule__nothing_or_too_much__reverts(world: World) -> None:
    with ape.reverts(world.distributor.ZeroAmount):
        world.distributor.scheduleEmission(0, 100, 1, sender=world.deployer)
    for epochs in (0, 2**32 - 1):
        with ape.reverts(world.distributor.InvalidParameter, value=epochs, min=1, max=OPEN - 100):
            world.distributor.scheduleEmission(1, 100, epochs, sender=world.deployer)
    with ape.reverts(world.distributor.AmountTooLarge, amount=2**120):
        world.distributor.scheduleEmission(2**120, 100, 1, sender=world.deployer)


def test_fund__fees__go_to_the_next_epochs_pool(ready: World) -> None:
    ready.token.approve(ready.distributor, 500, sender=ready.deployer)
    receipt = ready.distributor.fund(500, sender=ready.deployer)
    assert ready.distributor.Funded(3, ready.deployer.address, 500) in receipt.events
    assert ready.distributor.poolOf(3) == emission(3) + 500
    assert ready.distributor.poolOf(2) == emission(2)


def test_fund__nothing_or_too_much__reverts(ready: World) -> None:
    with ape.reverts(ready.distributor.ZeroAmount):
        ready.distributor.fund(0, sender=ready.deployer)
    with ape.reverts(ready.distributor.AmountTooLarge):
        ready.distributor.fund(2**120, sender=ready.deployer)


def test_fund__largest_amount_beside_the_pool__is_left_to_the_token_to_refuse(ready: World) -> None:
    room = MAX_AMOUNT - emission(3)
    name, _ = error_of(ready, lambda: ready.distributor.fund(room, sender=ready.deployer))
    assert name == "ERC20InsufficientAllowance"
    with ape.reverts(ready.distributor.AmountTooLarge, amount=room + 1, max=room):
        ready.distributor.fund(room + 1, sender=ready.deployer)


def test_claim__final__pays_each_node_by_the_formula(ready: World) -> None:
    fund(ready, 7 * PRLX + 11)
    ready.enter(3)
    tree = ready.finalize(3, UPTIMES)
    paid = 0
    for node, uptime in UPTIMES.items():
        owner = ready.users[node]
        before = ready.token.balanceOf(owner)
        expected = expected_reward(ready, 3, node, uptime)
        assert ready.distributor.earned(*claim_args(tree, node)) == expected
        receipt = ready.distributor.claim(*claim_args(tree, node), sender=ready.users[8])
        assert ready.distributor.RewardClaimed(node, 3, owner.address, expected, uptime) in receipt.events
        assert ready.token.balanceOf(owner) - before == expected
        assert ready.distributor.claimed(node, 3)
        paid += expected
    assert paid > 0
    assert ready.distributor.paidOf(3) == paid <= ready.distributor.poolOf(3)


def test_claim__twice__reverts(ready: World) -> None:
    tree = ready.finalize(2, UPTIMES)
    ready.distributor.claim(*claim_args(tree, 1), sender=ready.deployer)
    with ape.reverts(ready.distributor.AlreadyClaimed, nodeId=1, epoch=2):
        ready.distributor.claim(*claim_args(tree, 1), sender=ready.deployer)
    with ape.reverts(ready.distributor.AlreadyClaimed, nodeId=1, epoch=2):
        ready.distributor.earned(*claim_args(tree, 1))


def test_claim_many__nodes_and_epochs__pays_all_at_once(ready: World) -> None:
    trees = [ready.finalize(epoch, UPTIMES) for epoch in (2, 3)]
    entries = [claim_args(tree, node) for tree in trees for node in (1, 2)]
    expected = sum(
        expected_reward(ready, tree.epoch, node, UPTIMES[node]) for tree in trees for node in (1, 2)
    )
    before = [ready.token.balanceOf(ready.users[node]) for node in (1, 2)]
    ready.distributor.claimMany(entries, sender=ready.deployer)
    after = [ready.token.balanceOf(ready.users[node]) for node in (1, 2)]
    assert sum(after) - sum(before) == expected == sum(ready.distributor.paidOf(e) for e in (2, 3))


def test_claim_many__duplicate_in_the_array__reverts_all(ready: World) -> None:
    tree = ready.finalize(2, UPTIMES)
    with ape.reverts(ready.distributor.AlreadyClaimed, nodeId=1, epoch=2):
        ready.distributor.claimMany([claim_args(tree, n) for n in (1, 2, 1)], sender=ready.deployer)
    assert ready.distributor.paidOf(2) == 0


def test_claim_many__empty__pays_nothing(ready: World) -> None:
    ready.distributor.claimMany([], sender=ready.deployer)


def test_claim__beneficiary_set__is_paid_instead_of_owner(ready: World) -> None:
    tree = ready.finalize(2, UPTIMES)
    other = ready.users[7]
    before = ready.token.balanceOf(other)
    ready.locker.setBeneficiary(1, other, sender=ready.users[1])
    ready.distributor.claim(*claim_args(tree, 1), sender=ready.deployer)
    assert ready.token.balanceOf(other) - before == expected_reward(ready, 2, 1, 10_000)


def test_claim__before_final_or_without_report__reverts(ready: World) -> None:
    tree = UptimeTree(2, 3, UPTIMES)
    ready.enter(3)
    with ape.reverts(ready.distributor.EpochNotFinal, epoch=2, status=0):
        ready.distributor.claim(*claim_args(tree, 1), sender=ready.deployer)
    ready.submit(ready.report(tree))
    with ape.reverts(ready.distributor.EpochNotFinal, epoch=2, status=1):
        ready.distributor.claim(*claim_args(tree, 1), sender=ready.deployer)
    ready.attestation.rejectReport(2, sender=ready.deployer)
    with ape.reverts(ready.distributor.EpochNotFinal, epoch=2, status=0):
        ready.distributor.claim(*claim_args(tree, 1), sender=ready.deployer)


def test_claim__registered_during_the_epoch__has_no_weight(ready: World) -> None:
    node = ready.register(ready.users[5])
    tree = ready.finalize(2, {**UPTIMES, node: 10_000})
    with ape.reverts(ready.distributor.NoWeight, nodeId=node, epoch=2):
        ready.distributor.claim(*claim_args(tree, node), sender=ready.deployer)


def test_claim__weight_after_exit__pays_the_last_active_epoch_only(ready: World) -> None:
    ready.locker.requestUnstake(1, sender=ready.users[1])
    trees = [ready.finalize(epoch, UPTIMES) for epoch in (2, 3)]
    ready.distributor.claim(*claim_args(trees[0], 1), sender=ready.deployer)
    with ape.reverts(ready.distributor.NoWeight, nodeId=1, epoch=3):
        ready.distributor.claim(*claim_args(trees[1], 1), sender=ready.deployer)


def test_claim__others_reported_down__earns_no_more(ready: World) -> None:
    all_up = ready.finalize(2, {1: 10_000, 2: 10_000, 3: 10_000})
    others_down = ready.finalize(3, {1: 10_000, 2: 0, 3: 0})
    first, second = (ready.distributor.earned(*claim_args(tree, 1)) for tree in (all_up, others_down))
    assert abs(first - second) <= 1  # the two epochs' emissions differ by at most a wei


def test_claim__after_the_deadline__reverts_and_sweep_takes_the_rest(ready: World) -> None:
    tree = ready.finalize(2, UPTIMES)
    ready.distributor.claim(*claim_args(tree, 1), sender=ready.deployer)
    deadline = ready.distributor.claimDeadline(2)
    assert deadline == ready.attestation.finalAt(2) + CLAIM_WINDOW
    warp(deadline - 5)
    with ape.reverts(ready.distributor.ClaimStillOpen, epoch=2, deadline=deadline):
        ready.distributor.sweep(2, sender=ready.users[4])
    warp(deadline + 1)
    with ape.reverts(ready.distributor.ClaimExpired, epoch=2, deadline=deadline):
        ready.distributor.claim(*claim_args(tree, 2), sender=ready.deployer)
    rest = ready.distributor.poolOf(2) - ready.distributor.paidOf(2)
    before = ready.token.balanceOf(ready.deployer)
    receipt = ready.distributor.sweep(2, sender=ready.users[4])
    assert ready.distributor.EpochSwept(2, rest) in receipt.events
    assert ready.token.balanceOf(ready.deployer) - before == rest > 0
    assert ready.distributor.settled(2)
    with ape.reverts(ready.distributor.EpochSettled, epoch=2):
        ready.distributor.sweep(2, sender=ready.users[4])


def test_sweep__not_final__reverts(ready: World) -> None:
    with ape.reverts(ready.distributor.EpochNotFinal, epoch=2, status=0):
        ready.distributor.sweep(2, sender=ready.deployer)


def test_rollover__lapsed__carries_the_pool_forward_once(ready: World) -> None:
    warp(ready.start_of(3) + SUBMIT_WINDOW)
    assert ready.attestation.status(2) == LAPSED
    pool = ready.distributor.poolOf(2)
    receipt = ready.distributor.rollover(2, sender=ready.users[4])
    assert ready.distributor.PoolRolledOver(2, 4, pool) in receipt.events
    assert ready.distributor.poolOf(4) == emission(4) + pool
    with ape.reverts(ready.distributor.EpochSettled, epoch=2):
        ready.distributor.rollover(2, sender=ready.users[4])


def test_rollover__not_lapsed__reverts(ready: World) -> None:
    with ape.reverts(ready.distributor.EpochNotLapsed, epoch=2, status=0):
        ready.distributor.rollover(2, sender=ready.deployer)
    ready.finalize(2, UPTIMES)
    with ape.reverts(ready.distributor.EpochNotLapsed, epoch=2, status=FINAL):
        ready.distributor.rollover(2, sender=ready.deployer)


def test_reserve__set_by_treasurer__gets_the_next_sweep(ready: World) -> None:
    receipt = ready.distributor.setReserve(ready.users[6], sender=ready.deployer)
    assert ready.distributor.ReserveSet(ready.users[6].address) in receipt.events
    with ape.reverts(ready.distributor.ZeroAddress):
        ready.distributor.setReserve(ZERO, sender=ready.deployer)
    ready.finalize(2, UPTIMES)
    before = ready.token.balanceOf(ready.users[6])
    warp(ready.distributor.claimDeadline(2) + 1)
    ready.distributor.sweep(2, sender=ready.deployer)
    assert ready.token.balanceOf(ready.users[6]) - before == emission(2)


def test_accounts__all_claimed_and_swept__balance_is_what_is_still_owed(ready: World) -> None:
    fund(ready, 1_001)
    trees = [ready.finalize(epoch, UPTIMES) for epoch in (2, 3)]
    ready.distributor.claimMany([claim_args(t, n) for t in trees for n in (1, 2, 3)], sender=ready.deployer)
    warp(ready.distributor.claimDeadline(3) + 1)
    for epoch in (2, 3):
        ready.distributor.sweep(epoch, sender=ready.deployer)
    owed = sum(emission(epoch) for epoch in range(4, 2 + EMISSION_EPOCHS))
    assert ready.token.balanceOf(ready.distributor) == owed


@pytest.mark.parametrize(
    ("position", "value", "expected"),
    [
        (0, "users", "NotAContract"),
        (1, "users", "NotAContract"),
        (2, "users", "NotAContract"),
        (3, 0, "InvalidParameter"),
        (3, 3650 * 86_400 + 1, "InvalidParameter"),
        (4, ZERO, "ZeroAddress"),
    ],
)
def test_constructor__argument_out_of_range__reverts(
    world: World, position: int, value: object, expected: str
) -> None:
    args = [world.token, world.locker, world.attestation, CLAIM_WINDOW, world.deployer, world.manager]
    args[position] = world.users[0] if value == "users" else value
    error, values = constructor_error(world, "RewardDistributor", *args)
    assert error == expected
    if isinstance(value, int):
        assert values["value"] == value
    if expected == "NotAContract":
        name = (b"token", b"nodes", b"attestation")[position]
        assert values == {"name": name.ljust(32, b"\0"), "account": str(world.users[0]).lower()}


@pytest.mark.parametrize("window", [1, 3650 * 86_400])
def test_constructor__claim_window_at_its_bounds__deploys(world: World, window: int) -> None:
    args = [world.token, world.locker, world.attestation, window, world.deployer, world.manager]
    assert world.deployer.deploy(ape.project.RewardDistributor, *args).CLAIM_WINDOW() == window
