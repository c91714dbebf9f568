"""Gas of every operation that users pay for, by real transactions on anvil; `make bench-gas` writes bench/results/gas.json.

What is measured is the common case: recipients that hold tokens already, an unlimited allowance, a fund that is not empty,
for claims a total weight that changed in each of the last 40 epochs, and an epoch from which another node has claimed before
(the first claim of an epoch costs some 25,000 more: it reads the emission and the pauses, and fills the slot that holds both).
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from offchain.domain.eip712 import keccak256
from offchain.domain.uptime_tree import UptimeTree
from tests.support.contracts.factory import (
    MIN_STAKE,
    PRLX,
    SUBMIT_WINDOW,
    ZERO,
    World,
    as_tuple,
    claim_args,
    deploy_world,
    key_hash,
    key_of,
    now,
    warp,
)
from tests.support.contracts.signing import SIGNER, authorize, voucher

TARGETS = {
    "register_first": 190_000,
    "register_next": 165_000,
    "unstake": 75_000,
    "withdraw": 60_000,
    "submit_base": 110_000,
    "submit_per_signature": 8_000,
    "claim_first": 105_000,
    "claim_next": 88_000,
    "claim_many_each": 40_000,
    "request": 130_000,
    "fulfil": 110_000,
    "redeem_new": 95_000,
    "redeem_known": 75_000,
    "redeem_many_each": 32_000,
}
SNAPSHOT = Path(__file__).resolve().parents[2] / "bench/results/gas.json"
PAYLOAD = b'{"model":"m","messages":[{"role":"user","content":"What is the capital of France?"}]}'
RESULT = b"The capital of France is Paris."


@pytest.fixture(scope="module")
def metrics() -> dict[str, int]:
    """All measurements, in one run over one network."""
    world = deploy_world({"emission": 7_300_000 * PRLX, "emission_epochs": 730, "claim_window": 31_536_000})
    found: dict[str, int] = {}
    _stakes(world, found)
    _reports_and_claims(world, found)
    _market(world, found)
    _vouchers(world, found)
    return found


def _register(world: World, owner: Any, key: int) -> int:
    return int(world.locker.registerNode(MIN_STAKE, 2, key_hash(key_of(key)), sender=owner).gas_used)


def _stakes(world: World, found: dict[str, int]) -> None:
    for owner in world.users[:6]:
        world.give(owner, 100 * MIN_STAKE)
        world.token.approve(world.locker, 2**256 - 1, sender=owner)
    _register(world, world.users[0], 1001)
    world.enter(1)
    found["register_first"] = _register(world, world.users[1], 1002)
    found["register_next"] = _register(world, world.users[2], 1003)
    _register(world, world.users[3], 1004)
    world.enter(2)
    found["unstake"] = int(world.locker.requestUnstake(4, sender=world.users[3]).gas_used)
    warp(world.locker.nodes(4).unlockAt)
    found["withdraw"] = int(world.locker.withdrawStake(4, sender=world.users[3]).gas_used)


def _reports_and_claims(world: World, found: dict[str, int]) -> None:
    world.join_keepers(12)
    first = int(world.locker.currentEpoch()) + 1
    for epoch in range(
        first, first + 40
    ):  # a history of checkpoints, as a network has after 40 days of change
        world.enter(epoch)
        _register(world, world.users[4], 2_000 + epoch)
    last = first + 39
    uptimes = {1: 10_000, 2: 9_500, 3: 9_000}
    gas = {}
    trees = []
    for index in range(14):
        epoch = last + index
        world.enter(epoch + 1)
        count = 9 if index < 2 else 12
        tree = UptimeTree(epoch, int(world.locker.nodeCount()), uptimes)
        gas[count] = int(world.submit(world.report(tree), range(count)).gas_used)
        trees.append(tree)
    warp(now() + SUBMIT_WINDOW)
    found["submit_per_signature"] = (gas[12] - gas[9]) // 3
    found["submit_base"] = gas[9] - 9 * found["submit_per_signature"]
    sender = world.users[8]
    for tree in trees:  # somebody has claimed from each epoch before
        world.distributor.claim(*claim_args(tree, 2), sender=sender)
    found["claim_first"] = int(world.distributor.claim(*claim_args(trees[0], 1), sender=sender).gas_used)
    found["claim_next"] = int(world.distributor.claim(*claim_args(trees[1], 1), sender=sender).gas_used)
    many = [claim_args(tree, 1) for tree in trees[2:12]]
    found["claim_many_each"] = int(world.distributor.claimMany(many, sender=sender).gas_used) // 10


def _market(world: World, found: dict[str, int]) -> None:
    requester = world.users[5]
    world.token.approve(world.market, 2**256 - 1, sender=requester)
    for account in (world.users[6], world.users[7]):
        world.give(account, 1)
    world.market.setRecipients(world.users[6], world.users[7], sender=world.deployer)
    for name in ("warm-up", "measured"):
        request_id = bytes(world.market.nextRequestId())
        made = world.market.request(keccak256(b"m"), PAYLOAD, PRLX, now() + 600, ZERO, sender=requester)
        if name == "warm-up":
            world.market.request(keccak256(b"m"), PAYLOAD, PRLX, now() + 600, ZERO, sender=requester)
        receipt = world.receipt(request_id, 1, PAYLOAD, RESULT, price_wei=PRLX // 2)
        signature = world.sign_receipt(receipt, key_of(1001))
        done = world.market.fulfil(as_tuple(receipt), signature, RESULT, sender=world.users[8])
        found["request"], found["fulfil"] = int(made.gas_used), int(done.gas_used)


def _vouchers(world: World, found: dict[str, int]) -> None:
    payer, sender = world.users[5], world.users[8]
    world.token.approve(world.vault, 2**256 - 1, sender=payer)
    world.vault.deposit(payer, 1_000_000, sender=payer)
    authorize(world, payer, SIGNER, 1_000_000)
    world.collector.redeem(voucher(world, payer, 3, 1_000), sender=sender)
    found["redeem_new"] = int(world.collector.redeem(voucher(world, payer, 1, 1_000), sender=sender).gas_used)
    found["redeem_known"] = int(
        world.collector.redeem(voucher(world, payer, 1, 2_000), sender=sender).gas_used
    )
    nodes = [1, 2, 3, *range(5, 12)]
    for total in (5_000, 9_000):  # the second time all pairs are known
        signed = [voucher(world, payer, node, total) for node in nodes]
        batch = world.collector.redeemMany(signed, sender=sender)
        found["redeem_many_each"] = int(batch.gas_used) // 10


def test_gas__every_operation__is_within_its_target(metrics: dict[str, int]) -> None:
    assert set(metrics) == set(TARGETS)
    written = os.environ.get("GAS_RESULTS")
    if written:
        path = Path(written)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"metrics": metrics}, indent=2) + "\n")
    over = {name: gas for name, gas in metrics.items() if gas > TARGETS[name]}
    assert not over, f"above target: {over}"


def test_gas__against_the_committed_snapshot__has_not_grown(metrics: dict[str, int]) -> None:
    committed = json.loads(SNAPSHOT.read_text())["metrics"]
    grown = {name: (committed[name], gas) for name, gas in metrics.items() if gas > committed[name] * 1.01}
    assert not grown, f"more than 1 % above bench/results/gas.json (before, now): {grown}"
