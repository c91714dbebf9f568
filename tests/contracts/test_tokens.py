"""Every money-holding contract with tokens that misbehave: a fee on transfer, false or nothing returned, reentrance, rebasing."""

from typing import Any

import ape
import pytest

from offchain.domain.eip712 import keccak256
from tests.support.contracts.factory import (
    COOLDOWN,
    EPOCH,
    MIN_BOND,
    MIN_STAKE,
    THAW,
    ZERO,
    World,
    claim_args,
    deploy_mock,
    key_hash,
    key_of,
    now,
    warp,
)

NONE, FEE, FALSE, NO_RETURN, REENTER = range(5)


@pytest.fixture
def hostile(world: World) -> World:
    """A network on a hostile token, its vice not yet in force."""
    deployer, project = world.deployer, ape.project
    token = deploy_mock("HostileToken", sender=deployer)
    manager = deployer.deploy(project.NetworkAccessManager, deployer)
    locker = deployer.deploy(project.NodeRegistryLocker, token, now(), EPOCH, MIN_STAKE, COOLDOWN, manager)
    keepers = deployer.deploy(project.KeeperRegistry, token, locker, MIN_BOND, 10 * EPOCH, manager)
    attestation = deployer.deploy(project.UptimeAttestation, locker, keepers, 300, 200, 288, manager)
    distributor = deployer.deploy(
        project.RewardDistributor, token, locker, attestation, EPOCH, deployer, manager
    )
    market = deployer.deploy(project.InferenceMarket, token, locker, deployer, deployer, manager)
    vault = deployer.deploy(project.CreditVault, token, THAW, deployer, deployer, manager)
    for spender in (locker, keepers, distributor, market, vault):
        token.approve(spender, 2**256 - 1, sender=deployer)
    contracts = {
        "ParallelixToken": token,
        "NodeRegistryLocker": locker,
        "KeeperRegistry": keepers,
        "UptimeAttestation": attestation,
        "RewardDistributor": distributor,
        "InferenceMarket": market,
        "CreditVault": vault,
    }
    return World(contracts, deployer, world.users)


def intakes(world: World) -> list[tuple[str, Any, Any]]:
    """Every call that takes tokens in: name, contract, call."""
    me = world.deployer
    return [
        (
            "registerNode",
            world.locker,
            lambda: world.locker.registerNode(MIN_STAKE, 1, key_hash(key_of(1)), sender=me),
        ),
        (
            "join",
            world.keepers,
            lambda: world.keepers.join(MIN_BOND, key_of(2).address, bytes(32), "", sender=me),
        ),
        ("fund", world.distributor, lambda: world.distributor.fund(10_000, sender=me)),
        (
            "scheduleEmission",
            world.distributor,
            lambda: world.distributor.scheduleEmission(10_000, 50, 2, sender=me),
        ),
        (
            "request",
            world.market,
            lambda: world.market.request(bytes(32), b"{}", 10_000, now() + 500, ZERO, sender=me),
        ),
        ("deposit", world.vault, lambda: world.vault.deposit(me, 10_000, sender=me)),
    ]


def test_intake__fee_on_transfer__is_refused_everywhere(hostile: World) -> None:
    hostile.token.setVice(FEE, sender=hostile.deployer)
    for _, contract, call in intakes(hostile):
        with ape.reverts(contract.UnexpectedTransferAmount):
            call()
        assert hostile.token.balanceOf(contract) == 0


def test_intake__token_returns_false__is_refused_everywhere(hostile: World) -> None:
    hostile.token.setVice(FALSE, sender=hostile.deployer)
    for _, contract, call in intakes(hostile):
        with ape.reverts(contract.SafeERC20FailedOperation):
            call()


def test_intake__token_returns_nothing__is_taken_everywhere(hostile: World) -> None:
    hostile.token.setVice(NO_RETURN, sender=hostile.deployer)
    for _, contract, call in intakes(hostile):
        before = hostile.token.balanceOf(contract)
        call()
        assert hostile.token.balanceOf(contract) > before


def test_payout__token_reenters__nothing_is_paid_twice(hostile: World) -> None:
    me, token = hostile.deployer, hostile.token
    hostile.locker.registerNode(MIN_STAKE, 1, key_hash(key_of(1)), sender=me)
    hostile.locker.registerNode(MIN_STAKE, 1, key_hash(key_of(2)), sender=me)
    hostile.locker.requestUnstake(1, sender=me)
    hostile.vault.deposit(me, 10_000, sender=me)
    hostile.vault.requestWithdrawal(10_000, sender=me)
    request_id = bytes(hostile.market.nextRequestId())
    hostile.market.request(bytes(32), b"{}", 10_000, now() + 100, ZERO, sender=me)
    hostile.market.request(bytes(32), b"{}", 10_000, now() + 100, ZERO, sender=me)
    warp(now() + COOLDOWN + THAW)
    payouts = [
        (hostile.locker, "withdrawStake", (1,)),
        (hostile.vault, "withdraw", ()),
        (hostile.market, "refund", (request_id,)),
    ]
    token.setVice(REENTER, sender=me)
    for contract, function, args in payouts:
        data = getattr(contract, function).encode_input(*args)
        token.setAttack(contract, data, sender=me)
        getattr(contract, function)(*args, sender=me)
        assert not token.gotThrough()
    assert token.balanceOf(hostile.locker) == MIN_STAKE
    assert token.balanceOf(hostile.market) == 10_000
    assert token.balanceOf(hostile.vault) == 0


def test_intake__token_reenters__no_second_registration_inside_the_first(hostile: World) -> None:
    me, token = hostile.deployer, hostile.token
    token.setVice(REENTER, sender=me)
    data = hostile.locker.registerNode.encode_input(MIN_STAKE, 1, key_hash(key_of(2)))
    token.setAttack(hostile.locker, data, sender=me)
    hostile.locker.registerNode(MIN_STAKE, 1, key_hash(key_of(1)), sender=me)
    assert not token.gotThrough()
    assert hostile.locker.nodeCount() == 1


def refused_by_the_guard(world: World, contract: Any, attack: bytes, call: Any) -> bool:
    """Whether the token's call from inside `call` meets the guard, and not some check behind it."""
    world.token.setAttack(contract, attack, sender=world.deployer)
    call()
    guard = keccak256(b"ReentrancyGuardReentrantCall()")[:4]
    return not world.token.gotThrough() and bytes(world.token.refusal()) == guard


def test_guard__locker_calls_the_token__lets_nothing_in(hostile: World) -> None:
    me, locker = hostile.deployer, hostile.locker
    hostile.token.setVice(REENTER, sender=me)
    calls = [
        lambda: locker.registerNode(MIN_STAKE, 1, key_hash(key_of(1)), sender=me),
        lambda: locker.registerNodeWithPermit(
            MIN_STAKE, 1, key_hash(key_of(2)), 0, 27, bytes(32), bytes(32), sender=me
        ),
        lambda: (
            locker.requestUnstake(1, sender=me),
            warp(now() + COOLDOWN),
            locker.withdrawStake(1, sender=me),
        ),
    ]
    register = locker.registerNode.encode_input(MIN_STAKE, 1, key_hash(key_of(3)))
    permit = locker.registerNodeWithPermit.encode_input(MIN_STAKE, 1, bytes(32), 0, 27, bytes(32), bytes(32))
    attacks = [locker.withdrawStake.encode_input(99), locker.withdrawStake.encode_input(99), register]
    for attack, call in zip(attacks, calls, strict=True):
        assert refused_by_the_guard(hostile, locker, attack, call)
    for number, attack in enumerate((register, permit, attacks[0]), start=4):
        assert refused_by_the_guard(
            hostile,
            locker,
            attack,
            lambda number=number: locker.registerNode(MIN_STAKE, 1, key_hash(key_of(number)), sender=me),
        )


def test_guard__distributor_calls_the_token__lets_nothing_in(hostile: World) -> None:
    me, distributor = hostile.deployer, hostile.distributor
    hostile.keepers.setAttestation(hostile.attestation, sender=me)
    for number in (1, 2):
        hostile.locker.registerNode(MIN_STAKE, 1, key_hash(key_of(number)), sender=me)
    world = World(hostile.contracts, me, [me])
    world.join_keepers(1)
    distributor.fund(10_000, sender=me)
    tree = world.finalize(1, {1: 9_000, 2: 9_000}, node_count=2)
    hostile.token.setVice(REENTER, sender=me)
    fund, claim = distributor.fund.encode_input(5), distributor.claim.encode_input(*claim_args(tree, 2))
    sweep, many = distributor.sweep.encode_input(0), distributor.claimMany.encode_input([])
    calls = [
        (fund, lambda: distributor.claim(*claim_args(tree, 1), sender=me)),
        (fund, lambda: distributor.claimMany([claim_args(tree, 2)], sender=me)),
        (claim, lambda: distributor.fund(7, sender=me)),
        (sweep, lambda: distributor.fund(7, sender=me)),
        (many, lambda: distributor.fund(7, sender=me)),
        (fund, lambda: distributor.scheduleEmission(100, 50, 2, sender=me)),
        (fund, lambda: (warp(distributor.claimDeadline(1) + 1), distributor.sweep(1, sender=me))),
    ]
    for attack, call in calls:
        assert refused_by_the_guard(hostile, distributor, attack, call)


def test_rebase__downwards__early_leavers_are_whole_and_the_last_one_waits(hostile: World) -> None:
    """Not supported, and bounded: nobody can take more than the own principal, and what is missing can be sent in again."""
    me, token = hostile.deployer, hostile.token
    for index in (1, 2):
        hostile.locker.registerNode(MIN_STAKE, 1, key_hash(key_of(index)), sender=me)
        hostile.locker.requestUnstake(index, sender=me)
    token.rebase(hostile.locker, 1, sender=me)
    warp(now() + COOLDOWN)
    hostile.locker.withdrawStake(1, sender=me)
    with ape.reverts():
        hostile.locker.withdrawStake(2, sender=me)
    token.transfer(hostile.locker, 1, sender=me)
    hostile.locker.withdrawStake(2, sender=me)


def test_donation__tokens_sent_in__change_no_books(hostile: World) -> None:
    me, token = hostile.deployer, hostile.token
    for contract in (hostile.locker, hostile.keepers, hostile.distributor, hostile.market, hostile.vault):
        token.transfer(contract, 12_345, sender=me)
    for _, contract, call in intakes(hostile):
        before = token.balanceOf(contract)
        call()
        assert token.balanceOf(contract) > before
    assert hostile.distributor.poolOf(1) == 10_000
    assert hostile.vault.accounts(me).balance == 10_000
    hostile.locker.requestUnstake(1, sender=me)
    warp(now() + COOLDOWN)
    hostile.locker.withdrawStake(1, sender=me)
    assert token.balanceOf(hostile.locker) == 12_345
