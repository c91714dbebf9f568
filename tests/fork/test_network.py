"""On a fork: deployment onto a chain that has a past and a token already there, and the rotation of the admin, rehearsed.

The upstream is another anvil, as there is no internet here; it is forked exactly as a public chain would be.
"""

from collections.abc import Iterator

import pytest
from ape import chain, networks, project
from web3 import Web3

from scripts import rotate_admin
from scripts._compile import ensure_compiled
from tests.support.contracts.factory import MIN_STAKE, World, claim_args, deploy_world, error_of, key_of, warp
from tests.support.services.anvil import start_anvil

# Ape leaves the sockets of a provider that it was told to use to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def forked(other_chains: None) -> Iterator[World]:
    """A network deployed on a fork of an upstream on which a token was already deployed and held."""
    ensure_compiled()
    container = project.ParallelixToken
    with start_anvil("--chain-id", "31337") as upstream:
        web3 = Web3(Web3.HTTPProvider(upstream.url))
        holder = web3.eth.accounts[0]
        abi = [item.model_dump(mode="json") for item in container.contract_type.abi]
        code = container.contract_type.deployment_bytecode.bytecode
        factory = web3.eth.contract(abi=abi, bytecode=code)
        made = web3.eth.wait_for_transaction_receipt(factory.constructor(holder).transact({"from": holder}))
        with (
            start_anvil("--fork-url", upstream.url, "--chain-id", "31337") as fork,
            networks.parse_network_choice("ethereum:local:foundry", provider_settings={"host": fork.url}),
        ):
            world = deploy_world()
            token = container.at(made["contractAddress"])
            yield World({**world.contracts, "UpstreamToken": token}, world.deployer, world.users)


def test_fork__token_of_the_upstream__serves_as_stake(forked: World) -> None:
    token = forked.contracts["UpstreamToken"]
    assert token.balanceOf(forked.deployer) == token.totalSupply()
    locker = forked.deployer.deploy(
        project.NodeRegistryLocker, token, chain.pending_timestamp, 1_000, MIN_STAKE, 2_000, forked.manager
    )
    token.approve(locker, MIN_STAKE, sender=forked.deployer)
    locker.registerNode(
        MIN_STAKE, 4, bytes(12) + bytes.fromhex(key_of(5).address[2:]), sender=forked.deployer
    )
    locker.requestUnstake(1, sender=forked.deployer)
    warp(locker.nodes(1).unlockAt)
    locker.withdrawStake(1, sender=forked.deployer)
    assert token.balanceOf(forked.deployer) == token.totalSupply()


def test_fork__whole_epoch__is_staked_reported_and_claimed(forked: World) -> None:
    world = forked.view()
    world.register(world.users[0])
    world.join_keepers(3)
    first = int(world.locker.currentEpoch()) + 2
    world.enter(first + 1)
    tree = world.finalize(first, {1: 9_999})
    before = world.token.balanceOf(world.users[0])
    world.distributor.claim(*claim_args(tree, 1), sender=world.users[5])
    assert world.token.balanceOf(world.users[0]) - before == world.distributor.poolOf(first) * 9_999 // 10_000


def test_fork__admin_rotation__each_step_leaves_a_working_admin(forked: World) -> None:
    manager, old, sender = forked.manager, forked.timelock, forked.deployer
    delay = 3_600
    new = sender.deploy(project.NetworkTimelock, delay, [sender.address], [sender.address])
    rotate_admin.propose(manager, old, new, sender)
    assert manager.hasRole(0, new) == (False, 0)
    rotate_admin.execute(manager, old, new, sender)
    assert manager.hasRole(0, new) == manager.hasRole(0, old) == (True, 0)
    rotate_admin.propose_end(manager, old, new, sender)
    assert error_of(forked, lambda: rotate_admin.accept(manager, old, new, sender))[0] != ""
    assert manager.hasRole(0, old) == (True, 0)
    warp(int(chain.blocks.head.timestamp) + delay)
    rotate_admin.accept(manager, old, new, sender)
    assert manager.hasRole(0, old) == manager.hasRole(3, old) == (False, 0)
    assert manager.hasRole(0, new) == manager.hasRole(3, new) == (True, 0)
