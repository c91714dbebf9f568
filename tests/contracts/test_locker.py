"""NodeRegistryLocker: registration, exit, keys, weights; every custom error and event."""

import ape
import pytest
from eth_account import Account

from offchain.domain.types import MAX_NODES
from tests.support.contracts.factory import (
    COOLDOWN,
    EPOCH,
    MIN_STAKE,
    OPEN,
    PRLX,
    ZERO,
    World,
    constructor_error,
    error_of,
    key_hash,
    key_of,
    now,
    warp,
)
from tests.support.contracts.governance import through_timelock
from tests.support.contracts.signing import permit_signature

NONE, IDLE, ACTIVE, COOLING, RETIRED = range(5)


def test_register__valid__locks_stake_and_is_active_from_next_epoch(world: World) -> None:
    owner = world.users[0]
    world.enter(3)
    node_id = world.register(owner, MIN_STAKE, tier=3)
    node = world.locker.nodes(node_id)
    assert (node_id, node.owner, node.stake, node.tier, node.state) == (1, owner.address, MIN_STAKE, 3, IDLE)
    assert (node.activeFrom, node.activeUntil, node.unlockAt) == (4, OPEN, 0)
    assert world.token.balanceOf(world.locker) == MIN_STAKE
    assert world.locker.weightInputs(1) == (MIN_STAKE, 3, 25_000)
    assert [world.locker.weightAt(1, e) for e in (3, 4, 5)] == [0, MIN_STAKE * 25_000, MIN_STAKE * 25_000]
    assert [world.locker.totalWeightAt(e) for e in (3, 4, 5)] == [0, MIN_STAKE * 25_000, MIN_STAKE * 25_000]
    world.enter(4)
    assert world.locker.nodes(1).state == ACTIVE


def test_register__valid__emits_registration_and_total(world: World) -> None:
    owner = world.users[0]
    world.give(owner, MIN_STAKE)
    world.token.approve(world.locker, MIN_STAKE, sender=owner)
    hashed = key_hash(key_of(5))
    receipt = world.locker.registerNode(MIN_STAKE, 1, hashed, sender=owner)
    assert world.locker.NodeRegistered(1, owner.address, 1, MIN_STAKE, hashed, 1) in receipt.events
    assert world.locker.TotalWeightChanged(1, MIN_STAKE * 10_000) in receipt.events


@pytest.mark.parametrize(("tier", "multiplier"), [(1, 10_000), (2, 15_000), (3, 25_000), (4, 30_000)])
def test_weight__each_tier__is_stake_times_multiplier(world: World, tier: int, multiplier: int) -> None:
    world.register(world.users[0], MIN_STAKE + 7, tier)
    assert world.locker.weightAt(1, 1) == (MIN_STAKE + 7) * multiplier


@pytest.mark.parametrize("tier", [0, 5, 255])
def test_register__unknown_tier__reverts(world: World, tier: int) -> None:
    with ape.reverts(world.locker.InvalidTier, tier=tier):
        world.register(world.users[0], MIN_STAKE, tier)


@pytest.mark.parametrize("stake", [0, MIN_STAKE - 1, 2**128])
def test_register__stake_out_of_range__reverts(world: World, stake: int) -> None:
    with ape.reverts(world.locker.StakeOutOfRange):
        world.locker.registerNode(stake, 1, key_hash(key_of(5)), sender=world.users[0])


def test_register__largest_stake__is_left_to_the_token_to_refuse(world: World) -> None:
    register = world.locker.registerNode
    name, _ = error_of(world, lambda: register(2**128 - 1, 1, key_hash(key_of(5)), sender=world.users[0]))
    assert name == "ERC20InsufficientAllowance"


def test_register__zero_key_or_owners_wallet__reverts(world: World) -> None:
    owner = world.users[0]
    for bad in (bytes(32), b"\x01" * 12 + bytes(20), bytes(12) + bytes.fromhex(owner.address[2:])):
        with ape.reverts(world.locker.InvalidNodeKey):
            world.locker.registerNode(MIN_STAKE, 1, bad, sender=owner)


def test_register__key_of_live_node__reverts(world: World) -> None:
    world.register(world.users[0], key=5)
    with ape.reverts(world.locker.NodeKeyInUse, nodeId=1):
        world.register(world.users[1], key=5)


def test_register__key_of_retired_node__is_free_again(world: World) -> None:
    owner = world.users[0]
    world.register(owner, key=5)
    world.locker.requestUnstake(1, sender=owner)
    warp(now() + COOLDOWN)
    world.locker.withdrawStake(1, sender=owner)
    assert world.locker.nodeOfKey(key_of(5).address) == 0
    assert world.register(owner, key=5) == 2
    assert world.locker.nodeOfKey(key_of(5).address) == 2


def test_register_with_permit__no_allowance_before__registers(world: World) -> None:
    user = world.users[0]
    key = ape.accounts.test_accounts[1]
    world.give(user, MIN_STAKE)
    deadline = now() + 10_000
    local = Account.from_key(key.private_key)
    v, r, s = permit_signature(world, local, str(world.locker.address), MIN_STAKE, deadline)
    world.locker.registerNodeWithPermit(MIN_STAKE, 2, key_hash(key_of(5)), deadline, v, r, s, sender=user)
    assert world.locker.nodes(1).stake == MIN_STAKE


def test_register_with_permit__permit_sent_before_by_somebody__registers(world: World) -> None:
    user = world.users[0]
    world.give(user, MIN_STAKE)
    world.token.approve(world.locker, MIN_STAKE, sender=user)
    world.locker.registerNodeWithPermit(
        MIN_STAKE, 2, key_hash(key_of(5)), now() + 10_000, 27, b"\x01" * 32, b"\x02" * 32, sender=user
    )
    assert world.locker.nodes(1).owner == user.address


def test_unstake__active_node__counts_to_the_epochs_end_and_cools(world: World) -> None:
    owner = world.users[0]
    world.register(owner)
    world.enter(2, 100)
    receipt = world.locker.requestUnstake(1, sender=owner)
    unlock = receipt.timestamp + COOLDOWN
    assert world.locker.UnstakeRequested(1, 3, unlock) in receipt.events
    node = world.locker.nodes(1)
    assert (node.state, node.activeUntil, node.unlockAt) == (COOLING, 3, unlock)
    assert [world.locker.weightAt(1, e) > 0 for e in (1, 2, 3)] == [True, True, False]
    assert [world.locker.totalWeightAt(e) > 0 for e in (1, 2, 3)] == [True, True, False]


def test_unstake__twice__reverts(world: World) -> None:
    owner = world.users[0]
    world.register(owner)
    world.locker.requestUnstake(1, sender=owner)
    with ape.reverts(world.locker.WrongState, nodeId=1, state=COOLING):
        world.locker.requestUnstake(1, sender=owner)


def test_cancel__same_epoch__nets_to_nothing(world: World) -> None:
    owner = world.users[0]
    world.register(owner)
    world.enter(2)
    world.locker.requestUnstake(1, sender=owner)
    receipt = world.locker.cancelUnstake(1, sender=owner)
    assert world.locker.UnstakeCancelled(1, 1) in receipt.events
    node = world.locker.nodes(1)
    assert (node.state, node.activeFrom, node.activeUntil, node.unlockAt) == (ACTIVE, 1, OPEN, 0)
    for epoch in range(1, 6):
        assert world.locker.weightAt(1, epoch) == world.locker.totalWeightAt(epoch) == MIN_STAKE * 15_000


def test_cancel__later_epochs__leaves_gaps_in_history(world: World) -> None:
    owner = world.users[0]
    world.register(owner)
    for epoch in (2, 6, 10):
        world.enter(epoch)
        world.locker.requestUnstake(1, sender=owner)
        world.enter(epoch + 2)
        world.locker.cancelUnstake(1, sender=owner)
    active = [e for e in range(16) if world.locker.weightAt(1, e)]
    assert active == [1, 2, 5, 6, 9, 10, 13, 14, 15]
    assert active == [e for e in range(16) if world.locker.totalWeightAt(e)]


def test_cancel__exit_before_first_epoch__starts_anew(world: World) -> None:
    owner = world.users[0]
    world.enter(1)
    world.register(owner)
    world.locker.requestUnstake(1, sender=owner)
    world.enter(4)
    world.locker.cancelUnstake(1, sender=owner)
    assert [e for e in range(8) if world.locker.weightAt(1, e)] == [5, 6, 7]


def test_cancel__exit_before_first_epoch__stores_no_interval(world: World) -> None:
    active, idle = world.users[:2]
    world.register(active)
    world.enter(1)
    world.register(idle)
    world.locker.requestUnstake(1, sender=active)
    world.locker.requestUnstake(2, sender=idle)
    world.enter(4)
    stores_one = world.locker.cancelUnstake(1, sender=active).gas_used
    world.enter(5)
    stores_none = world.locker.cancelUnstake(2, sender=idle).gas_used
    assert stores_one - stores_none > 40_000  # a length and an interval, two new words of storage


def test_cancel__not_leaving_or_retired__reverts(world: World) -> None:
    owner = world.users[0]
    world.register(owner)
    with ape.reverts(world.locker.WrongState, state=IDLE):
        world.locker.cancelUnstake(1, sender=owner)
    world.locker.requestUnstake(1, sender=owner)
    warp(now() + COOLDOWN)
    world.locker.withdrawStake(1, sender=owner)
    with ape.reverts(world.locker.WrongState, state=RETIRED):
        world.locker.cancelUnstake(1, sender=owner)


def test_withdraw__after_cooldown__pays_exactly_the_stake_once(world: World) -> None:
    owner = world.users[0]
    before = world.token.balanceOf(owner)
    world.register(owner, MIN_STAKE + 123)
    world.locker.requestUnstake(1, sender=owner)
    warp(now() + COOLDOWN)
    receipt = world.locker.withdrawStake(1, sender=owner)
    assert world.locker.StakeWithdrawn(1, owner.address, MIN_STAKE + 123) in receipt.events
    assert world.token.balanceOf(owner) == before + MIN_STAKE + 123
    assert world.locker.nodes(1).state == RETIRED
    with ape.reverts(world.locker.WrongState, state=RETIRED):
        world.locker.withdrawStake(1, sender=owner)


def test_withdraw__before_cooldown_or_request__reverts(world: World) -> None:
    owner = world.users[0]
    world.register(owner)
    with ape.reverts(world.locker.WrongState, state=IDLE):
        world.locker.withdrawStake(1, sender=owner)
    world.locker.requestUnstake(1, sender=owner)
    with ape.reverts(world.locker.StillCooling, nodeId=1):
        world.locker.withdrawStake(1, sender=owner)


def test_withdraw__paused__still_pays(world: World) -> None:
    owner = world.users[0]
    world.register(owner)
    world.locker.pause(sender=world.deployer)
    world.locker.requestUnstake(1, sender=owner)
    warp(now() + COOLDOWN)
    world.locker.withdrawStake(1, sender=owner)
    assert world.token.balanceOf(world.locker) == 0


def test_register__paused__reverts_until_unpaused(world: World) -> None:
    world.locker.pause(sender=world.deployer)
    with ape.reverts(world.locker.EnforcedPause):
        world.register(world.users[0])
    world.locker.unpause(sender=world.deployer)
    world.register(world.users[0])


def test_register_with_permit__paused__reverts(world: World) -> None:
    world.locker.pause(sender=world.deployer)
    with ape.reverts(world.locker.EnforcedPause):
        world.locker.registerNodeWithPermit(
            MIN_STAKE, 2, key_hash(key_of(5)), 0, 27, bytes(32), bytes(32), sender=world.users[0]
        )


def test_owners_calls__by_another__revert(world: World) -> None:
    world.register(world.users[0])
    other = world.users[1]
    calls = [
        ("requestUnstake", ()),
        ("cancelUnstake", ()),
        ("withdrawStake", ()),
        ("setNodeKey", (key_hash(key_of(9)),)),
        ("setBeneficiary", (other.address,)),
        ("setCapabilities", (bytes(32), "")),
    ]
    for name, args in calls:
        with ape.reverts(world.locker.NotNodeOwner, nodeId=1, caller=other.address):
            getattr(world.locker, name)(1, *args, sender=other)
        with ape.reverts(world.locker.UnknownNode, nodeId=2):
            getattr(world.locker, name)(2, *args, sender=other)


def test_node_key__rotated__old_key_stays_bound_new_one_signs(world: World) -> None:
    owner = world.users[0]
    world.register(owner, key=5)
    receipt = world.locker.setNodeKey(1, key_hash(key_of(6)), sender=owner)
    assert world.locker.NodeKeyRotated(1, key_hash(key_of(5)), key_hash(key_of(6))) in receipt.events
    assert world.locker.nodeKeyAddress(1) == key_of(6).address
    assert world.locker.nodeOfKey(key_of(5).address) == 0
    assert world.locker.nodeOfKey(key_of(6).address) == 1
    assert world.locker.boundNodeOf(key_of(5).address) == 1
    with ape.reverts(world.locker.NodeKeyInUse, nodeId=1):
        world.register(world.users[1], key=5)
    world.locker.setNodeKey(1, key_hash(key_of(5)), sender=owner)
    assert world.locker.nodeOfKey(key_of(5).address) == 1


def test_node_key__of_retired_node__cannot_rotate(world: World) -> None:
    owner = world.users[0]
    world.register(owner)
    world.locker.requestUnstake(1, sender=owner)
    warp(now() + COOLDOWN)
    world.locker.withdrawStake(1, sender=owner)
    with ape.reverts(world.locker.WrongState, state=RETIRED):
        world.locker.setNodeKey(1, key_hash(key_of(6)), sender=owner)


def test_beneficiary__set_and_cleared__payout_follows(world: World) -> None:
    owner, other = world.users[:2]
    world.register(owner)
    assert world.locker.payoutAddress(1) == owner.address
    receipt = world.locker.setBeneficiary(1, other, sender=owner)
    assert world.locker.BeneficiarySet(1, other.address) in receipt.events
    assert world.locker.payoutAddress(1) == other.address == world.locker.nodes(1).beneficiary
    world.locker.setBeneficiary(1, ZERO, sender=owner)
    assert world.locker.payoutAddress(1) == owner.address


def test_capabilities__set__hash_is_stored_and_uri_emitted(world: World) -> None:
    owner = world.users[0]
    world.register(owner)
    receipt = world.locker.setCapabilities(1, b"\x07" * 32, "ipfs://m", sender=owner)
    assert world.locker.CapabilitiesSet(1, b"\x07" * 32, "ipfs://m") in receipt.events
    assert world.locker.nodes(1).capabilityHash == b"\x07" * 32


def test_views__unknown_node__are_zero(world: World) -> None:
    node = world.locker.nodes(9)
    assert (node.owner, node.stake, node.state) == (ZERO, 0, NONE)
    assert world.locker.weightAt(9, 1) == 0
    assert world.locker.nodeKeyAddress(9) == ZERO
    assert world.locker.nodeOfKey(ZERO) == 0
    assert world.locker.payoutAddress(9) == ZERO


def test_epochs__around_genesis_and_boundaries(world: World) -> None:
    assert world.locker.currentEpoch() == 0
    for epoch in (0, 1, 7):
        world.enter(epoch + 1, -1)
        assert world.locker.currentEpoch() == epoch
        world.enter(epoch + 1)
        assert world.locker.currentEpoch() == epoch + 1
        assert world.locker.epochStart(epoch + 1) == now()


def test_total_weight__no_change_for_hundreds_of_epochs__is_still_found(world: World) -> None:
    weight = MIN_STAKE * 15_000
    world.register(world.users[0])
    assert world.locker.totalWeightAt(OPEN) == weight
    world.enter(300)
    assert [world.locker.totalWeightAt(e) for e in (0, 1, 255, 256, 300)] == [
        0,
        weight,
        weight,
        weight,
        weight,
    ]
    world.enter(70_000)
    assert world.locker.totalWeightAt(70_000) == weight
    world.register(world.users[1])
    world.locker.requestUnstake(1, sender=world.users[0])
    assert [world.locker.totalWeightAt(e) for e in (0, 1, 70_000, 70_001)] == [0, weight, weight, weight]
    world.enter(70_300)
    world.locker.requestUnstake(2, sender=world.users[1])
    assert [world.locker.totalWeightAt(e) for e in (69_999, 70_300, 70_301, OPEN)] == [weight, weight, 0, 0]


def test_parameters__set_by_the_timelock__apply_to_later_calls(world: World) -> None:
    owner = world.users[0]
    assert world.locker.MinStakeSet(5) in through_timelock(world, world.locker, "setMinStake", 5).events
    assert (
        world.locker.CooldownSet(EPOCH) in through_timelock(world, world.locker, "setCooldown", EPOCH).events
    )
    world.register(owner, 5)
    receipt = world.locker.requestUnstake(1, sender=owner)
    assert world.locker.nodes(1).unlockAt == receipt.timestamp + EPOCH


def test_parameters__out_of_bounds__revert(world: World) -> None:
    manager = world.deployer.deploy(ape.project.NetworkAccessManager, world.deployer)
    locker = world.deployer.deploy(
        ape.project.NodeRegistryLocker, world.token, now(), EPOCH, MIN_STAKE, COOLDOWN, manager
    )
    for bad in (0, 1_000_000 * PRLX + 1):
        with ape.reverts(locker.InvalidParameter, value=bad):
            locker.setMinStake(bad, sender=world.deployer)
    for bad in (EPOCH - 1, 30 * 86_400 + 1):
        with ape.reverts(locker.InvalidParameter, value=bad):
            locker.setCooldown(bad, sender=world.deployer)


def test_register__more_than_the_tree_holds__reverts(world: World) -> None:
    assert MAX_NODES == 131_071
    harness = world.deployer.deploy(
        ape.project.LockerHarness, world.token, now() + 10, EPOCH, 1, EPOCH, world.manager
    )
    harness.setNodeCount(MAX_NODES - 1, sender=world.deployer)
    world.token.approve(harness, 2, sender=world.deployer)
    last, beyond = (world.locker.registerNode.encode_input(1, 1, key_hash(key_of(i))) for i in (1, 2))
    harness.run(world.locker, last, sender=world.deployer)
    assert harness.nodes(MAX_NODES).owner == world.deployer.address
    with ape.reverts(harness.NodeLimitReached, limit=MAX_NODES):
        harness.run(world.locker, beyond, sender=world.deployer)


@pytest.mark.parametrize(
    ("position", "value"),
    [(1, 0), (2, 0), (2, 30 * 86_400 + 1), (3, 0), (4, EPOCH - 1)],
)
def test_constructor__argument_out_of_range__reverts(world: World, position: int, value: int) -> None:
    args = [world.token, now(), EPOCH, MIN_STAKE, COOLDOWN, world.manager]
    args[position] = value
    error, values = constructor_error(world, "NodeRegistryLocker", *args)
    assert (error, values["value"]) == ("InvalidParameter", value)


def test_constructor__token_without_code__reverts(world: World) -> None:
    args = [world.users[0], now(), EPOCH, MIN_STAKE, COOLDOWN, world.manager]
    error, values = constructor_error(world, "NodeRegistryLocker", *args)
    assert (error, values["account"]) == ("NotAContract", str(world.users[0]).lower())


@pytest.mark.parametrize(
    ("epoch_length", "min_stake", "cooldown"),
    [(1, 1, 1), (30 * 86_400, 1_000_000 * PRLX, 30 * 86_400), (1, 1, 30 * 86_400)],
)
def test_constructor__arguments_at_their_bounds__deploys(
    world: World, epoch_length: int, min_stake: int, cooldown: int
) -> None:
    locker = world.deployer.deploy(
        ape.project.NodeRegistryLocker, world.token, 1, epoch_length, min_stake, cooldown, world.manager
    )
    assert (locker.EPOCH_LENGTH(), locker.cooldown(), locker.minStake()) == (
        epoch_length,
        cooldown,
        min_stake,
    )
