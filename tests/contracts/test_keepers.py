"""KeeperRegistry: joining, frozen sets, leaving, gateways; every custom error and event."""

import ape
import pytest
from eth_abi import encode
from eth_account import Account

from offchain.domain.eip712 import keccak256
from offchain.domain.uptime_tree import UptimeTree
from tests.support.contracts.factory import (
    EPOCH,
    LEAVE_DELAY,
    MIN_BOND,
    OPEN,
    ZERO,
    World,
    claim_args,
    constructor_error,
    deploy_world,
    key_of,
    now,
    warp,
)
from tests.support.contracts.governance import through_timelock
from tests.support.contracts.signing import permit_signature

REGION = b"eu-west".ljust(32, b"\0")


def digest_of(version: int, signers: list[str]) -> bytes:
    """The set digest as a third party would compute it."""
    return keccak256(encode(["uint256", "address[]"], [version, signers]))


def test_join__valid__bonds_and_is_in_the_set_from_next_epoch(world: World) -> None:
    operator, signer = world.users[0], key_of(1)
    world.enter(4)
    world.give(operator, MIN_BOND)
    world.token.approve(world.keepers, MIN_BOND, sender=operator)
    receipt = world.keepers.join(MIN_BOND, signer.address, REGION, "http://k", sender=operator)
    assert (
        world.keepers.KeeperJoined(1, operator.address, signer.address, MIN_BOND, REGION, "http://k", 5)
        in receipt.events
    )
    keeper = world.keepers.keepers(1)
    assert (keeper.operator, keeper.signer, keeper.bond) == (operator.address, signer.address, MIN_BOND)
    assert (keeper.region, keeper.activeFrom, keeper.activeUntil, keeper.unlockAt) == (REGION, 5, OPEN, 0)
    assert world.token.balanceOf(world.keepers) == MIN_BOND
    assert world.keepers.signersAt(4) == []
    assert world.keepers.signersAt(5) == [signer.address]
    assert world.keepers.keeperOfSigner(signer.address) == 1
    assert world.keepers.keeperCount() == 1


def test_join_with_permit__no_allowance_before__joins(world: World) -> None:
    operator = world.users[0]
    local = Account.from_key(operator.private_key)
    world.give(operator, MIN_BOND)
    deadline = now() + 10_000
    v, r, s = permit_signature(world, local, str(world.keepers.address), MIN_BOND, deadline)
    world.keepers.joinWithPermit(MIN_BOND, key_of(1).address, REGION, "", deadline, v, r, s, sender=operator)
    assert world.keepers.keepers(1).bond == MIN_BOND


def test_sets__change_during_an_epoch__freeze_at_its_end(world: World) -> None:
    keys = world.join_keepers(3)
    world.enter(2)
    keys = world.join_keepers(1)
    addresses = [key.address for key in keys]
    assert world.keepers.signersAt(2) == addresses[:3]
    assert world.keepers.signersAt(3) == addresses
    assert (world.keepers.setVersionAt(2), world.keepers.setVersionAt(3)) == (1, 2)
    assert world.keepers.setDigestAt(2) == digest_of(1, addresses[:3])
    assert world.keepers.setDigestAt(3) == digest_of(2, addresses)
    frozen = world.keepers.setDigestAt(3)
    world.enter(3)
    world.keepers.requestLeave(1, sender=world.users[0])
    assert world.keepers.setDigestAt(3) == frozen
    assert world.keepers.signersAt(3) == addresses
    assert world.keepers.signersAt(4) == addresses[1:]


@pytest.mark.parametrize(
    ("size", "quorum"), [(0, 1), (1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (9, 7)]
)
def test_quorum__of_each_size__is_more_than_two_thirds(world: World, size: int, quorum: int) -> None:
    world.join_keepers(size)
    assert world.keepers.quorumAt(1) == quorum
    assert 3 * quorum > 2 * size
    signers, quorum_too, digest = world.keepers.setAt(1)
    assert (len(signers), quorum_too, digest) == (size, quorum, world.keepers.setDigestAt(1))
    named, size_too, quorum_too, digest = world.keepers.signersIn(1, 0b101)
    assert list(named[: len(signers[0:3:2])]) == list(signers[0:3:2])
    assert (size_too, quorum_too, digest) == (size, quorum, world.keepers.setDigestAt(1))


def test_join__bond_too_small__reverts(world: World) -> None:
    with ape.reverts(world.keepers.BondOutOfRange, bond=MIN_BOND - 1):
        world.keepers.join(MIN_BOND - 1, key_of(1).address, REGION, "", sender=world.users[0])


def test_join__signer_zero_or_used__reverts(world: World) -> None:
    world.join_keepers(1)
    for signer in (ZERO, key_of(1).address):
        with ape.reverts(world.keepers.InvalidSigner, signer=signer):
            world.keepers.join(MIN_BOND, signer, REGION, "", sender=world.users[0])


def test_join__set_full__reverts(world: World) -> None:
    limit = world.keepers.MAX_KEEPERS()
    world.join_keepers(limit)
    assert len(world.keepers.signersAt(1)) == limit == 64
    operator = world.users[0]
    world.give(operator, MIN_BOND)
    world.token.approve(world.keepers, MIN_BOND, sender=operator)
    with ape.reverts(world.keepers.KeeperSetFull, limit=limit):
        world.keepers.join(MIN_BOND, key_of(999).address, REGION, "", sender=operator)


def test_leave__then_withdraw__pays_the_bond_after_the_delay(world: World) -> None:
    world.join_keepers(3)
    operator = world.users[1]
    before = world.token.balanceOf(operator)
    world.enter(2)
    receipt = world.keepers.requestLeave(2, sender=operator)
    unlock = receipt.timestamp + LEAVE_DELAY
    assert world.keepers.KeeperLeaving(2, 3, unlock) in receipt.events
    keeper = world.keepers.keepers(2)
    assert (keeper.activeUntil, keeper.unlockAt) == (3, unlock)
    with ape.reverts(world.keepers.BondLocked, keeperId=2, unlockAt=unlock):
        world.keepers.withdrawBond(2, sender=operator)
    warp(unlock)
    receipt = world.keepers.withdrawBond(2, sender=operator)
    assert world.keepers.BondWithdrawn(2, MIN_BOND) in receipt.events
    assert world.token.balanceOf(operator) == before + MIN_BOND
    with ape.reverts(world.keepers.NothingToWithdraw, keeperId=2):
        world.keepers.withdrawBond(2, sender=operator)


def test_leave__twice_or_not_asked__reverts(world: World) -> None:
    world.join_keepers(1)
    operator = world.users[0]
    with ape.reverts(world.keepers.NotLeaving, keeperId=1):
        world.keepers.withdrawBond(1, sender=operator)
    world.keepers.requestLeave(1, sender=operator)
    with ape.reverts(world.keepers.AlreadyLeaving, keeperId=1):
        world.keepers.requestLeave(1, sender=operator)
    with ape.reverts(world.keepers.AlreadyLeaving, keeperId=1):
        world.keepers.setGateway(1, key_of(50).address, "", sender=operator)


def test_leave__attestation_paused__bond_stays_locked_for_the_pause(world: World) -> None:
    world.join_keepers(1)
    operator = world.users[0]
    unlock = world.keepers.requestLeave(1, sender=operator).timestamp + LEAVE_DELAY
    paused = world.attestation.pause(sender=world.deployer).timestamp
    warp(paused + 700)
    resumed = world.attestation.unpause(sender=world.deployer).timestamp
    assert world.keepers.keepers(1).unlockAt == unlock + resumed - paused
    warp(unlock + resumed - paused - 1)
    with ape.reverts(world.keepers.BondLocked):
        world.keepers.withdrawBond.call(1, sender=operator)
    warp(unlock + resumed - paused)
    world.keepers.withdrawBond(1, sender=operator)


def test_operators_calls__by_another__revert(world: World) -> None:
    world.join_keepers(1)
    other = world.users[5]
    calls = [("requestLeave", ()), ("withdrawBond", ()), ("setGateway", (key_of(50).address, "")),
             ("removeGateway", (key_of(50).address,))]  # fmt: skip
    for name, args in calls:
        with ape.reverts(world.keepers.NotKeeperOperator, keeperId=1, caller=other.address):
            getattr(world.keepers, name)(1, *args, sender=other)
        with ape.reverts(world.keepers.UnknownKeeper, keeperId=7):
            getattr(world.keepers, name)(7, *args, sender=other)


def test_gateway__listed_and_removed__is_known_meanwhile(world: World) -> None:
    world.join_keepers(2)
    operator, gateway = world.users[0], key_of(50).address
    receipt = world.keepers.setGateway(1, gateway, "http://g", sender=operator)
    assert world.keepers.GatewayListed(1, gateway, "http://g") in receipt.events
    assert world.keepers.isGateway(gateway)
    assert world.keepers.gatewayKeeper(gateway) == 1
    world.keepers.setGateway(1, gateway, "http://g2", sender=operator)
    with ape.reverts(world.keepers.InvalidGateway, signer=gateway, keeperId=1):
        world.keepers.setGateway(2, gateway, "", sender=world.users[1])
    with ape.reverts(world.keepers.InvalidGateway, signer=gateway, keeperId=1):
        world.keepers.removeGateway(2, gateway, sender=world.users[1])
    receipt = world.keepers.removeGateway(1, gateway, sender=operator)
    assert world.keepers.GatewayRemoved(1, gateway) in receipt.events
    assert not world.keepers.isGateway(gateway)
    with ape.reverts(world.keepers.InvalidGateway, signer=ZERO):
        world.keepers.setGateway(1, ZERO, "", sender=operator)


def test_gateway__keeper_leaves__is_no_gateway_and_free_for_another(world: World) -> None:
    world.join_keepers(2)
    gateway = key_of(50).address
    world.keepers.setGateway(1, gateway, "", sender=world.users[0])
    world.keepers.requestLeave(1, sender=world.users[0])
    assert not world.keepers.isGateway(gateway)
    world.keepers.setGateway(2, gateway, "", sender=world.users[1])
    assert world.keepers.isGateway(gateway)


def test_attestation__wired__once_and_only_if_the_bond_outlasts_it(world: World) -> None:
    assert world.keepers.attestation() == world.attestation.address
    manager = world.deployer.deploy(ape.project.NetworkAccessManager, world.deployer)
    registry = world.deployer.deploy(
        ape.project.KeeperRegistry, world.token, world.locker, MIN_BOND, LEAVE_DELAY - 1, manager
    )
    for bad in (world.attestation.address, world.users[0].address):
        with ape.reverts(registry.InvalidAttestation, attestation=bad):
            registry.setAttestation(bad, sender=world.deployer)
    registry = world.deployer.deploy(
        ape.project.KeeperRegistry, world.token, world.locker, MIN_BOND, LEAVE_DELAY, manager
    )
    receipt = registry.setAttestation(world.attestation, sender=world.deployer)
    assert registry.AttestationSet(world.attestation.address) in receipt.events
    with ape.reverts(registry.InvalidAttestation):
        registry.setAttestation(world.attestation, sender=world.deployer)


def test_min_bond__set_by_the_timelock__applies_to_later_joins(world: World) -> None:
    through_timelock(world, world.keepers, "setMinBond", 7)
    world.join_keepers(1, bond=7)
    assert world.keepers.minBond() == 7


def test_join__admission_by_approval__only_role_members_join(world: World) -> None:
    closed = deploy_world({"keeper_admission": "approved"})
    operator = closed.users[0]
    with ape.reverts(closed.keepers.AccessManagedUnauthorized, caller=operator.address):
        closed.keepers.join(MIN_BOND, key_of(1).address, REGION, "", sender=operator)
    through_timelock(closed, closed.manager, "grantRole", 4, operator.address, 0)
    closed.join_keepers(1)


@pytest.mark.parametrize(("position", "value"), [(2, 0), (3, EPOCH - 1), (3, 366 * 86_400)])
def test_constructor__argument_out_of_range__reverts(world: World, position: int, value: int) -> None:
    args = [world.token, world.locker, MIN_BOND, LEAVE_DELAY, world.manager]
    args[position] = value
    error, values = constructor_error(world, "KeeperRegistry", *args)
    assert error == "InvalidParameter"
    assert values["value"] == value


def test_constructor__token_without_code__reverts(world: World) -> None:
    args = [world.users[0], world.locker, MIN_BOND, LEAVE_DELAY, world.manager]
    error, values = constructor_error(world, "KeeperRegistry", *args)
    assert (error, values["account"]) == ("NotAContract", str(world.users[0]).lower())


def test_submit__no_keepers__is_never_a_quorum(world: World) -> None:
    world.enter(2)
    report = world.report(UptimeTree(1, 0, {}))
    with ape.reverts(world.attestation.QuorumNotReached, signers=0, quorum=1):
        world.submit(report)


def test_slash__odd_bond__part_rounds_up(world: World) -> None:
    world.register(world.users[0])
    world.join_keepers(1, bond=MIN_BOND + 1)
    world.enter(2)
    world.submit(world.report(UptimeTree(1, 1, {})))
    world.attestation.appeal(
        1, 1, *claim_args(UptimeTree(1, 1, {}), 1)[2:], world.evidence(1, 1, range(9)), sender=world.users[0]
    )
    assert world.keepers.slashes(1).amount == MIN_BOND // 10 + 1
