"""InferenceMarket: escrow, fulfilment by signed receipt, refund, callback; every custom error and event."""

from typing import Any

import ape
import pytest
from ape import chain
from eth_abi import encode

from offchain.domain.eip712 import SigningDomain, keccak256
from tests.support.contracts.factory import (
    COOLDOWN,
    ZERO,
    World,
    as_tuple,
    constructor_error,
    deploy_mock,
    key_hash,
    key_of,
    now,
    sign,
    warp,
)
from tests.support.contracts.governance import through_timelock

MODEL = keccak256(b"smollm2-135m-instruct")
PAYLOAD = b'{"messages":[{"role":"user","content":"What is the capital of France?"}]}'
RESULT = b"The capital of France is Paris."
CEILING = 100_003
OPEN, FULFILLED, REFUNDED = 1, 2, 3
NODE_KEY = key_of(1001)


@pytest.fixture
def ready(world: World) -> World:
    """One node, and a requester (user 3) with tokens and an allowance."""
    world.register(world.users[0])
    world.give(world.users[3], 10 * CEILING)
    world.token.approve(world.market, 10 * CEILING, sender=world.users[3])
    return world


def ask(world: World, seconds: int = 600, callback: str = ZERO, **changes: Any) -> bytes:
    """Escrow a request; its id."""
    request_id = bytes(world.market.nextRequestId())
    world.market.request(
        changes.get("model", MODEL),
        changes.get("payload", PAYLOAD),
        changes.get("ceiling", CEILING),
        changes.get("deadline", now() + seconds),
        callback,
        sender=world.users[3],
    )
    return request_id


def fulfil(world: World, request_id: bytes, **changes: Any) -> Any:
    """Fulfil a request with the node's receipt, or one with changed fields."""
    receipt = world.receipt(request_id, changes.pop("node_id", 1), PAYLOAD, RESULT, **changes)
    return world.market.fulfil(
        as_tuple(receipt), world.sign_receipt(receipt, NODE_KEY), RESULT, sender=world.users[8]
    )


def test_request__valid__escrows_and_announces(ready: World) -> None:
    requester = ready.users[3]
    deadline = now() + 600
    receipt = ready.market.request(MODEL, PAYLOAD, CEILING, deadline, ZERO, sender=requester)
    request_id = keccak256(
        encode(["uint256", "address", "uint256"], [chain.chain_id, str(ready.market.address), 0])
    )
    assert (
        ready.market.InferenceRequested(request_id, requester.address, MODEL, PAYLOAD, CEILING, deadline)
        in receipt.events
    )
    view = ready.market.requests(request_id)
    assert (view.requester, view.escrow, view.deadline, view.status) == (
        requester.address,
        CEILING,
        deadline,
        OPEN,
    )
    assert (view.requestHash, view.callback) == (keccak256(PAYLOAD), ZERO)
    assert ready.token.balanceOf(ready.market) == CEILING


def test_fulfil__valid__splits_85_10_5_and_returns_the_rest(ready: World) -> None:
    through_accounts = [ready.users[0], ready.users[4], ready.users[5], ready.users[3]]
    ready.market.setRecipients(ready.users[4], ready.users[5], sender=ready.deployer)
    request_id = ask(ready)
    before = [ready.token.balanceOf(account) for account in through_accounts]
    receipt = fulfil(ready, request_id, price_wei=1_009)
    gained = [ready.token.balanceOf(a) - b for a, b in zip(through_accounts, before, strict=True)]
    assert gained == [1_009 - 100 - 50, 100, 50, CEILING - 1_009]
    assert ready.token.balanceOf(ready.market) == 0
    assert ready.market.InferenceFulfilled(request_id, 1, 1_009, keccak256(RESULT), RESULT) in receipt.events
    view = ready.market.requests(request_id)
    assert (view.status, view.escrow) == (FULFILLED, 0)


def test_hash_receipt__same_fields__is_the_off_chain_digest(ready: World) -> None:
    receipt = ready.receipt(b"\x01" * 32, 1, PAYLOAD, RESULT)
    assert ready.market.hashReceipt(as_tuple(receipt)) == ready.receipt_domain.digest(receipt.struct_hash())


def test_fulfil__price_is_the_whole_ceiling_or_nothing__pays(ready: World) -> None:
    fulfil(ready, ask(ready), price_wei=CEILING)
    before = ready.token.balanceOf(ready.users[3])
    fulfil(ready, ask(ready), price_wei=0)
    assert ready.token.balanceOf(ready.users[3]) == before
    assert ready.token.balanceOf(ready.market) == 0


def test_fulfil__beneficiary_set__is_paid(ready: World) -> None:
    ready.locker.setBeneficiary(1, ready.users[6], sender=ready.users[0])
    before = ready.token.balanceOf(ready.users[6])
    fulfil(ready, ask(ready), price_wei=1_000)
    assert ready.token.balanceOf(ready.users[6]) - before == 850


def test_fulfil__twice_or_unknown__reverts(ready: World) -> None:
    request_id = ask(ready)
    fulfil(ready, request_id)
    with ape.reverts(ready.market.WrongStatus, status=FULFILLED):
        fulfil(ready, request_id)
    with ape.reverts(ready.market.WrongStatus, status=0):
        fulfil(ready, b"\x09" * 32)


def test_fulfil__receipt_does_not_fit__reverts(ready: World) -> None:
    request_id = ask(ready)
    cases = [
        ("RequestHashMismatch", {"request_hash": keccak256(b"other")}),
        ("ResultHashMismatch", {"result_hash": keccak256(b"other")}),
        ("PoeMismatch", {"poe": keccak256(b"other")}),
        ("PriceAboveCeiling", {"price_wei": CEILING + 1}),
        ("InvalidNodeSignature", {"node_id": 0}),
        ("InvalidNodeSignature", {"node_id": 2}),
    ]
    for name, changes in cases:
        with ape.reverts(getattr(ready.market, name)):
            fulfil(ready, request_id, **changes)
    assert ready.market.requests(request_id).status == OPEN


def test_fulfil__signed_by_another_key_or_domain__reverts(ready: World) -> None:
    request_id = ask(ready)
    receipt = ready.receipt(request_id, 1, PAYLOAD, RESULT)
    domain = ready.receipt_domain
    struct_hash = receipt.struct_hash()
    signatures = [
        sign(key_of(66), domain.digest(struct_hash)),
        sign(NODE_KEY, SigningDomain(domain.chain_id + 1, domain.verifying_contract).digest(struct_hash)),
        sign(NODE_KEY, SigningDomain(domain.chain_id, str(ready.locker.address)).digest(struct_hash)),
        b"",
        ready.sign_receipt(receipt, NODE_KEY)[:64],
    ]
    for signature in signatures:
        with ape.reverts(ready.market.InvalidNodeSignature, nodeId=1):
            ready.market.fulfil(as_tuple(receipt), signature, RESULT, sender=ready.users[8])


def test_fulfil__key_rotated_away_or_node_retired__reverts(ready: World) -> None:
    owner = ready.users[0]
    first = ask(ready)
    ready.locker.setNodeKey(1, key_hash(key_of(90)), sender=owner)
    with ape.reverts(ready.market.InvalidNodeSignature):
        fulfil(ready, first)
    ready.locker.setNodeKey(1, key_hash(NODE_KEY), sender=owner)
    ready.locker.requestUnstake(1, sender=owner)
    warp(now() + COOLDOWN)
    ready.locker.withdrawStake(1, sender=owner)
    second = ask(ready)
    with ape.reverts(ready.market.InvalidNodeSignature):
        fulfil(ready, second)


def test_deadline__boundary__fulfilment_up_to_it_refund_after_it(ready: World) -> None:
    request_id = ask(ready, seconds=100)
    deadline = ready.market.requests(request_id).deadline
    warp(deadline)
    with ape.reverts(ready.market.DeadlineNotPassed, deadline=deadline):
        ready.market.refund.call(request_id, sender=ready.users[8])
    warp(deadline + 1)
    with ape.reverts(ready.market.DeadlinePassed, deadline=deadline):
        fulfil(ready, request_id)
    before = ready.token.balanceOf(ready.users[3])
    receipt = ready.market.refund(request_id, sender=ready.users[8])
    assert ready.market.InferenceRefunded(request_id, ready.users[3].address, CEILING) in receipt.events
    assert ready.token.balanceOf(ready.users[3]) - before == CEILING
    assert ready.market.requests(request_id).status == REFUNDED
    with ape.reverts(ready.market.WrongStatus, status=REFUNDED):
        ready.market.refund(request_id, sender=ready.users[8])
    with ape.reverts(ready.market.WrongStatus, status=REFUNDED):
        fulfil(ready, request_id)


def test_request__argument_out_of_range__reverts(ready: World) -> None:
    for ceiling in (0, 2**128):
        with ape.reverts(ready.market.PriceOutOfRange, price=ceiling):
            ask(ready, ceiling=ceiling)
    for payload in (b"", b"x" * 32_769):
        with ape.reverts(ready.market.PayloadOutOfRange, length=len(payload)):
            ask(ready, payload=payload)
    for deadline in (now() - 1, now() + 31 * 86_400):
        with ape.reverts(ready.market.DeadlineOutOfRange, deadline=deadline):
            ask(ready, deadline=deadline)


def test_pause__stops_requests_but_neither_fulfilment_nor_refund(ready: World) -> None:
    first, second = ask(ready, seconds=300), ask(ready, seconds=100)
    ready.market.pause(sender=ready.deployer)
    with ape.reverts(ready.market.EnforcedPause):
        ask(ready)
    fulfil(ready, first)
    warp(now() + 200)
    ready.market.refund(second, sender=ready.users[8])
    ready.market.unpause(sender=ready.deployer)
    ask(ready)


def test_callback__well_behaved__gets_the_result(ready: World) -> None:
    callback = deploy_mock("CallbackRecorder", sender=ready.deployer)
    request_id = ask(ready, callback=callback.address)
    assert ready.market.requests(request_id).callback == callback.address
    fulfil(ready, request_id)
    assert callback.results(request_id) == RESULT


@pytest.mark.parametrize("mode", ["REVERT", "BURN_GAS", "RETURN_BOMB", "REENTER_FULFIL", "REENTER_REFUND"])
def test_callback__hostile__fulfilment_stands(ready: World, mode: str) -> None:
    callback = deploy_mock("HostileCallback", ready.market.address, sender=ready.deployer)
    modes = ("REVERT", "BURN_GAS", "RETURN_BOMB", "REENTER_FULFIL", "REENTER_REFUND")
    callback.setMode(modes.index(mode), sender=ready.deployer)
    request_id = ask(ready, callback=callback.address)
    receipt = fulfil(ready, request_id)
    failed = ready.market.CallbackFailed(request_id, callback.address) in receipt.events
    assert failed == (mode != "RETURN_BOMB")
    assert ready.market.requests(request_id).status == FULFILLED
    assert ready.token.balanceOf(ready.market) == 0
    assert receipt.gas_used < 600_000


def test_callback__no_contract__fulfilment_stands(ready: World) -> None:
    request_id = ask(ready, callback=ready.users[7].address)
    fulfil(ready, request_id)
    assert ready.market.requests(request_id).status == FULFILLED


def test_callback__too_little_gas_left__reverts_the_fulfilment(ready: World) -> None:
    callback = deploy_mock("CallbackRecorder", sender=ready.deployer)
    request_id = ask(ready, callback=callback.address)
    receipt = ready.receipt(request_id, 1, PAYLOAD, RESULT)
    signature = ready.sign_receipt(receipt, NODE_KEY)
    with ape.reverts(ready.market.InsufficientCallbackGas):
        ready.market.fulfil(as_tuple(receipt), signature, RESULT, sender=ready.users[8], gas_limit=300_000)
    assert ready.market.requests(request_id).status == OPEN


def test_fee_split__set_by_the_timelock__is_bounded(ready: World) -> None:
    receipt = through_timelock(ready, ready.market, "setFeeSplit", 1_500, 500)
    assert ready.market.FeeSplitSet(1_500, 500) in receipt.events
    assert (ready.market.treasuryBps(), ready.market.infrastructureBps()) == (1_500, 500)
    manager = ready.deployer.deploy(ape.project.NetworkAccessManager, ready.deployer)
    market = ready.deployer.deploy(
        ape.project.InferenceMarket, ready.token, ready.locker, ready.deployer, ready.deployer, manager
    )
    with ape.reverts(market.FeeSplitOutOfRange, totalBps=2_001, maxBps=2_000):
        market.setFeeSplit(1_500, 501, sender=ready.deployer)


def test_recipients__zero__reverts(ready: World) -> None:
    for args in ((ZERO, ready.deployer), (ready.deployer, ZERO)):
        with ape.reverts(ready.market.ZeroAddress):
            ready.market.setRecipients(*args, sender=ready.deployer)
    receipt = ready.market.setRecipients(ready.users[1], ready.users[2], sender=ready.deployer)
    assert ready.market.RecipientsSet(ready.users[1].address, ready.users[2].address) in receipt.events
    for token, nodes in ((ready.users[0], ready.locker), (ready.token, ready.users[0])):
        error, _ = constructor_error(
            ready, "InferenceMarket", token, nodes, ready.deployer, ready.deployer, ready.manager
        )
        assert error == "NotAContract"
