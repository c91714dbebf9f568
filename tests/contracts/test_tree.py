"""Differential: the Python tree against the contract's, at every size where something changes, and a claim at 100,000 nodes."""

import random

import ape
import pytest
from ape import chain

from offchain.domain.eip712 import keccak256
from offchain.domain.uptime_tree import UptimeTree
from tests.support.contracts.factory import EPOCH as LENGTH
from tests.support.contracts.factory import (
    MIN_STAKE,
    World,
    claim_args,
    deploy_mock,
    key_hash,
    key_of,
    now,
    warp,
)

SIZES = [1, 2, 15, 16, 17, 99_999, 100_000, 131_071]


def drawn(size: int) -> dict[int, int]:
    """Uptimes of all nodes, from a seed."""
    source = random.Random(size)
    return {node: source.randint(0, 10_000) for node in range(1, size + 1)}


@pytest.mark.parametrize("size", SIZES)
def test_tree__of_each_size__python_and_solidity_agree(world: World, size: int) -> None:
    probe = deploy_mock("TreeProbe", sender=world.deployer)
    tree = UptimeTree(7, size, drawn(size))
    nodes = {1, size, (size + 1) // 2, max(1, size - 16), min(size, 16), min(size, 17)}
    for node in sorted(nodes):
        leaf, proof = tree.leaf(node), tree.proof(node)
        assert probe.computeRoot(7, size, node, leaf, proof) == tree.root
        assert probe.uptimeIn(leaf, node) == tree.uptime(node)
        assert probe.computeRoot(8, size, node, leaf, proof) != tree.root
        assert probe.computeRoot(7, size - 1, node, leaf, proof) != tree.root
        assert probe.computeRoot(7, size, node ^ 16, leaf, proof) != tree.root


def test_tree__inner_node_given_as_leaf__is_refused(world: World) -> None:
    """Second preimage: what is hashed as an inner node never hashes as a leaf, and a proof has one length."""
    probe = deploy_mock("TreeProbe", sender=world.deployer)
    tree = UptimeTree(7, 100, drawn(100))
    proof = tree.proof(1)
    inner = keccak256(b"\x01" + keccak256(b"\x00" + (7).to_bytes(4, "big") + tree.leaf(1)) + proof[0])
    for shifted in ([*proof[1:], proof[-1]], [*proof[1:], bytes(32)]):
        assert probe.computeRoot(7, 100, 1, inner, shifted) != tree.root
        assert probe.computeRoot(7, 100, 0, inner, shifted) != tree.root


def test_claim__epoch_with_100_000_nodes__costs_what_any_other_costs(world: World) -> None:
    """The registry's counter is put to 100,000; the node that claims is the last, its stake and weight are real."""
    size = 100_000
    manager = world.deployer.deploy(ape.project.NetworkAccessManager, world.deployer)
    locker = world.deployer.deploy(
        ape.project.LockerHarness,
        world.token,
        chain.pending_timestamp,
        LENGTH,
        MIN_STAKE,
        2 * LENGTH,
        manager,
    )
    keepers = world.deployer.deploy(ape.project.KeeperRegistry, world.token, locker, 1, 10 * LENGTH, manager)
    attestation = world.deployer.deploy(
        ape.project.UptimeAttestation, locker, keepers, 300, 200, 288, manager
    )
    distributor = world.deployer.deploy(
        ape.project.RewardDistributor, world.token, locker, attestation, LENGTH, world.deployer, manager
    )
    locker.setNodeCount(size - 1, sender=world.deployer)
    for spender in (locker, keepers, distributor):
        world.token.approve(spender, 2 * MIN_STAKE, sender=world.deployer)
    registered = locker.registerNode(MIN_STAKE, 2, key_hash(key_of(1)), sender=world.deployer)
    assert registered.gas_used < 260_000  # as the first node of a registry pays, 100,000 nodes or none
    keepers.join(1, key_of(2).address, bytes(32), "", sender=world.deployer)
    distributor.fund(1_000_000, sender=world.deployer)
    other = World(
        {
            **world.contracts,
            "NodeRegistryLocker": locker,
            "KeeperRegistry": keepers,
            "UptimeAttestation": attestation,
            "RewardDistributor": distributor,
        },
        world.deployer,
        world.users,
        [key_of(2)],
    )
    tree = UptimeTree(1, size, drawn(size))
    warp(other.start_of(2))
    other.submit(other.report(tree))
    warp(now() + 200)
    receipt = distributor.claim(*claim_args(tree, size), sender=world.users[5])
    assert distributor.paidOf(1) == 1_000_000 * tree.uptime(size) // 10_000
    assert receipt.gas_used < 150_000
