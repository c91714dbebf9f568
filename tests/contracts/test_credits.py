"""CreditVault and VoucherCollector: deposits, thaw, signers, vouchers; every custom error and event."""

import ape
import pytest
from eth_account import Account

from tests.support.contracts.factory import (
    THAW,
    ZERO,
    World,
    compact,
    constructor_error,
    key_of,
    now,
    sign,
    warp,
)
from tests.support.contracts.governance import through_timelock
from tests.support.contracts.signing import SIGNER, authorize, permit_signature, proof, voucher

DEPOSIT = 1_000_000
CAP = 600_000
OTHER = key_of(501)


@pytest.fixture(scope="module")
def prepared(deployed: World) -> World:
    """Two nodes of users 0 and 1; user 3 has deposited and bound a signer."""
    world = deployed.view()
    world.register(world.users[0])
    world.register(world.users[1])
    payer = world.users[3]
    world.give(payer, 2 * DEPOSIT)
    world.token.approve(world.vault, 2 * DEPOSIT, sender=payer)
    world.vault.deposit(payer, DEPOSIT, sender=payer)
    authorize(world, payer, SIGNER, CAP)
    return world


@pytest.fixture
def ready(prepared: World) -> World:
    """The same, for one test."""
    return prepared.view()


# ------------------------------------------------------------------------------------------ vault: balances


def test_deposit__for_self_or_another__grows_the_balance(ready: World) -> None:
    payer = ready.users[3]
    receipt = ready.vault.deposit(ready.users[4], 5, sender=payer)
    assert ready.vault.Deposited(ready.users[4].address, payer.address, 5) in receipt.events
    assert ready.vault.accounts(ready.users[4]).balance == 5
    assert ready.token.balanceOf(ready.vault) == DEPOSIT + 5


def test_deposit_with_permit__no_allowance_before__deposits(ready: World) -> None:
    user = ready.users[5]
    ready.give(user, 77)
    deadline = now() + 1_000
    signed = permit_signature(
        ready, Account.from_key(user.private_key), str(ready.vault.address), 77, deadline
    )
    ready.vault.depositWithPermit(77, deadline, *signed, sender=user)
    assert ready.vault.accounts(user).balance == 77


def test_deposit__nothing_nobody_too_much_or_paused__reverts(ready: World) -> None:
    payer = ready.users[3]
    with ape.reverts(ready.vault.ZeroAmount):
        ready.vault.deposit(payer, 0, sender=payer)
    with ape.reverts(ready.vault.ZeroAddress):
        ready.vault.deposit(ZERO, 1, sender=payer)
    with ape.reverts(ready.vault.AmountTooLarge, amount=2**128):
        ready.vault.deposit(payer, 2**128, sender=payer)
    ready.vault.pause(sender=ready.deployer)
    with ape.reverts(ready.vault.EnforcedPause):
        ready.vault.deposit(payer, 1, sender=payer)
    ready.vault.unpause(sender=ready.deployer)
    ready.vault.deposit(payer, 1, sender=payer)


def test_withdraw__after_the_thaw__pays_even_when_paused(ready: World) -> None:
    payer = ready.users[3]
    receipt = ready.vault.requestWithdrawal(400_000, sender=payer)
    thawed = receipt.timestamp + THAW
    assert ready.vault.WithdrawalRequested(payer.address, 400_000, thawed) in receipt.events
    account = ready.vault.accounts(payer)
    assert (account.balance, account.thawing, account.thawedAt) == (DEPOSIT, 400_000, thawed)
    with ape.reverts(ready.vault.StillThawing, thawedAt=thawed):
        ready.vault.withdraw(sender=payer)
    ready.vault.pause(sender=ready.deployer)
    warp(thawed)
    before = ready.token.balanceOf(payer)
    receipt = ready.vault.withdraw(sender=payer)
    assert ready.vault.Withdrawn(payer.address, 400_000) in receipt.events
    assert ready.token.balanceOf(payer) - before == 400_000
    with ape.reverts(ready.vault.NothingThawing):
        ready.vault.withdraw(sender=payer)


def test_withdraw__collected_meanwhile__pays_what_is_left(ready: World) -> None:
    payer = ready.users[3]
    ready.vault.requestWithdrawal(DEPOSIT, sender=payer)
    ready.collector.redeem(voucher(ready, payer, 1, 300_000), sender=ready.users[8])
    warp(now() + THAW)
    assert ready.vault.withdraw.call(sender=payer) == DEPOSIT - 300_000
    ready.vault.withdraw(sender=payer)
    assert ready.vault.accounts(payer).balance == 0


def test_withdraw__requested_again_or_cancelled__thaw_begins_anew_or_ends(ready: World) -> None:
    payer = ready.users[3]
    ready.vault.requestWithdrawal(1, sender=payer)
    warp(now() + THAW - 5)
    ready.vault.requestWithdrawal(2, sender=payer)
    warp(now() + 10)
    with ape.reverts(ready.vault.StillThawing):
        ready.vault.withdraw(sender=payer)
    receipt = ready.vault.cancelWithdrawal(sender=payer)
    assert ready.vault.WithdrawalCancelled(payer.address) in receipt.events
    with ape.reverts(ready.vault.NothingThawing, payer=payer.address):
        ready.vault.cancelWithdrawal(sender=payer)
    with ape.reverts(ready.vault.NothingThawing):
        ready.vault.withdraw(sender=payer)


def test_request_withdrawal__nothing_or_more_than_there__reverts(ready: World) -> None:
    with ape.reverts(ready.vault.ZeroAmount):
        ready.vault.requestWithdrawal(0, sender=ready.users[3])
    with ape.reverts(ready.vault.InsufficientBalance, balance=DEPOSIT, needed=DEPOSIT + 1):
        ready.vault.requestWithdrawal(DEPOSIT + 1, sender=ready.users[3])


# ------------------------------------------------------------------------------------------- vault: signers


def test_signer__first__spends_at_once_later_ones_after_the_thaw(ready: World) -> None:
    payer = ready.users[3]
    assert ready.vault.signers(SIGNER.address).cap == CAP
    receipt = authorize(ready, payer, OTHER, 5)
    effective = receipt.timestamp + THAW
    assert ready.vault.SignerAuthorized(payer.address, OTHER.address, 5, effective) in receipt.events
    view = ready.vault.signers(OTHER.address)
    assert (view.payer, view.cap, view.pendingCap, view.pendingAt) == (payer.address, 0, 5, effective)
    with ape.reverts(ready.collector.NothingToCollect):
        ready.collector.redeem(voucher(ready, payer, 1, 5, OTHER), sender=ready.users[8])
    warp(effective)
    view = ready.vault.signers(OTHER.address)
    assert (view.cap, view.pendingCap, view.pendingAt) == (5, 0, 0)
    ready.collector.redeem(voucher(ready, payer, 1, 5, OTHER), sender=ready.users[8])
    assert ready.vault.signerCount(payer) == 2


def test_signer__bound_twice__reverts(ready: World) -> None:
    for payer in (ready.users[3], ready.users[4]):
        with ape.reverts(ready.vault.SignerAlreadyBound, signer=SIGNER.address, payer=ready.users[3].address):
            authorize(ready, payer, SIGNER, CAP)
    with ape.reverts(ready.vault.SignerAlreadyBound, signer=ZERO):
        ready.vault.authorizeSigner(ZERO, 1, now() + 100, b"", sender=ready.users[3])


def test_signer__without_its_consent__reverts(ready: World) -> None:
    payer, deadline = ready.users[4], now() + 100
    for bad in (
        proof(ready, ready.users[5].address, OTHER, deadline),
        proof(ready, payer.address, SIGNER, deadline),
        b"",
    ):
        with ape.reverts(ready.vault.InvalidProof, signer=OTHER.address):
            ready.vault.authorizeSigner(OTHER.address, 1, deadline, bad, sender=payer)
    late = now() - 1
    with ape.reverts(ready.vault.ProofExpired, deadline=late):
        ready.vault.authorizeSigner(
            OTHER.address, 1, late, proof(ready, payer.address, OTHER, late), sender=payer
        )


def test_cap__raised_or_lowered__takes_effect_after_the_thaw(ready: World) -> None:
    payer = ready.users[3]
    for cap in (CAP + 100, 0):
        before = ready.vault.signers(SIGNER.address).cap
        receipt = ready.vault.setSignerCap(SIGNER.address, cap, sender=payer)
        effective = receipt.timestamp + THAW
        assert ready.vault.SignerCapChanged(payer.address, SIGNER.address, cap, effective) in receipt.events
        warp(effective - 1)
        assert ready.vault.signers(SIGNER.address).cap == before
        warp(effective)
        assert ready.vault.signers(SIGNER.address).cap == cap
    assert ready.vault.available(SIGNER.address) == 0
    with ape.reverts(ready.vault.NotPayersSigner, signer=SIGNER.address):
        ready.vault.setSignerCap(SIGNER.address, 1, sender=ready.users[4])


def test_cap__beyond_what_a_slot_holds__reverts(ready: World) -> None:
    highest = ready.vault.MAX_CAP()
    ready.vault.setSignerCap(SIGNER.address, highest, sender=ready.users[3])
    with ape.reverts(ready.vault.AmountTooLarge, amount=highest + 1, max=highest):
        ready.vault.setSignerCap(SIGNER.address, highest + 1, sender=ready.users[3])
    with ape.reverts(ready.vault.AmountTooLarge, amount=highest + 1, max=highest):
        authorize(ready, ready.users[3], OTHER, highest + 1)


def test_payer__own_key_and_own_node__cannot_drain_before_the_others_redeem(ready: World) -> None:
    payer, victim = ready.users[3], 1
    own_node = ready.register(payer)
    owed = voucher(ready, payer, victim, 500_000)
    authorize(ready, payer, OTHER, DEPOSIT)
    drain = voucher(ready, payer, own_node, DEPOSIT, OTHER)
    warp(now() + THAW - 5)
    with ape.reverts(ready.collector.NothingToCollect):
        ready.collector.redeem(drain, sender=payer)
    ready.collector.redeem(owed, sender=ready.users[8])
    assert ready.collector.collected(payer, victim) == 500_000


# ---------------------------------------------------------------------------------------------- collection


def test_redeem__valid__pays_the_node_and_keeps_the_shares(ready: World) -> None:
    payer, owner = ready.users[3], ready.users[0]
    before = ready.token.balanceOf(owner)
    receipt = ready.collector.redeem(voucher(ready, payer, 1, 100_007), sender=ready.users[8])
    assert (
        ready.collector.VoucherRedeemed(payer.address, 1, SIGNER.address, 100_007, 100_007) in receipt.events
    )
    assert ready.token.balanceOf(owner) - before == 85_006
    assert ready.vault.accounts(payer).balance == DEPOSIT - 100_007
    assert ready.vault.signers(SIGNER.address).spent == 100_007
    assert ready.vault.feesOwed(payer) == 15_001


def test_redeem__growing_vouchers__each_pays_the_difference(ready: World) -> None:
    payer = ready.users[3]
    for cumulative in (100, 250, 1_000):
        ready.collector.redeem(voucher(ready, payer, 1, cumulative), sender=ready.users[8])
        assert ready.collector.collected(payer, 1) == cumulative
    assert ready.vault.accounts(payer).balance == DEPOSIT - 1_000
    for stale in (1_000, 250, 0):
        with ape.reverts(ready.collector.NothingToCollect, collected=1_000):
            ready.collector.redeem(voucher(ready, payer, 1, stale), sender=ready.users[8])


def test_redeem__beyond_the_cap__pays_up_to_it_and_the_rest_when_raised(ready: World) -> None:
    payer = ready.users[3]
    signed = voucher(ready, payer, 1, CAP + 50_000)
    ready.collector.redeem(signed, sender=ready.users[8])
    assert ready.collector.collected(payer, 1) == CAP
    with ape.reverts(ready.collector.NothingToCollect):
        ready.collector.redeem(signed, sender=ready.users[8])
    ready.vault.setSignerCap(SIGNER.address, 2 * CAP, sender=payer)
    warp(now() + THAW)
    ready.collector.redeem(signed, sender=ready.users[8])
    assert ready.collector.collected(payer, 1) == CAP + 50_000


def test_redeem__beyond_the_balance__pays_what_is_there(ready: World) -> None:
    payer = ready.users[3]
    ready.vault.setSignerCap(SIGNER.address, 10 * DEPOSIT, sender=payer)
    warp(now() + THAW)
    ready.collector.redeem(voucher(ready, payer, 1, 3 * DEPOSIT), sender=ready.users[8])
    assert ready.collector.collected(payer, 1) == DEPOSIT
    assert ready.vault.accounts(payer).balance == 0
    assert ready.vault.feesOwed(payer) == ready.token.balanceOf(ready.vault) == DEPOSIT * 15 // 100


def test_redeem__signed_by_a_stranger_or_for_another__reverts(ready: World) -> None:
    payer = ready.users[3]
    with ape.reverts(ready.vault.NotPayersSigner, payer=payer.address):
        ready.collector.redeem(voucher(ready, payer, 1, 5, key_of(77)), sender=ready.users[8])
    other = ready.users[4]
    ready.vault.deposit(other, 100, sender=payer)
    with ape.reverts(ready.vault.NotPayersSigner, signer=SIGNER.address, payer=other.address):
        ready.collector.redeem(voucher(ready, other, 1, 5), sender=ready.users[8])
    for node in (0, 99):
        with ape.reverts(ready.collector.UnknownNode, nodeId=node):
            ready.collector.redeem(voucher(ready, payer, node, 5), sender=ready.users[8])


def test_redeem_many__nodes_of_one_payer__pays_all(ready: World) -> None:
    payer = ready.users[3]
    signed = [voucher(ready, payer, node, 1_000 * node) for node in (1, 2)]
    ready.collector.redeemMany(signed, sender=ready.users[8])
    assert [ready.collector.collected(payer, node) for node in (1, 2)] == [1_000, 2_000]
    assert ready.vault.accounts(payer).balance == DEPOSIT - 3_000


def test_redeem_many__same_voucher_twice__reverts_all(ready: World) -> None:
    payer = ready.users[3]
    signed = voucher(ready, payer, 1, 1_000)
    with ape.reverts(ready.collector.NothingToCollect, collected=1_000):
        ready.collector.redeemMany([signed, signed], sender=ready.users[8])
    assert ready.collector.collected(payer, 1) == 0


def test_redeem__other_half_of_the_curve__is_no_second_signature(ready: World) -> None:
    payer = ready.users[3]
    message, r, vs = voucher(ready, payer, 1, 1_000)
    flipped = (int.from_bytes(vs, "big") ^ 1 << 255).to_bytes(32, "big")
    for bad in ((r, flipped), (bytes(32), vs), (r, bytes(32))):
        with ape.reverts(ready.vault.NotPayersSigner):
            ready.collector.redeem((message, *bad), sender=ready.users[8])


def test_hash_voucher__same_fields__is_the_off_chain_digest(ready: World) -> None:
    message, r, vs = voucher(ready, ready.users[3], 1, 9)
    digest = ready.collector.hashVoucher(message)
    assert (r, vs) == compact(sign(SIGNER, bytes(digest)))


def test_collect__by_another_than_the_collector__reverts(ready: World) -> None:
    for caller in (ready.deployer, ready.users[3]):
        with ape.reverts(ready.vault.NotCollector, caller=caller.address):
            ready.vault.collect(ready.users[3], SIGNER.address, caller, 1, sender=caller)


def test_collect__by_a_faulty_collector__is_still_bounded_by_cap_and_balance(ready: World) -> None:
    manager = ready.deployer.deploy(ape.project.NetworkAccessManager, ready.deployer)
    vault = ready.deployer.deploy(
        ape.project.CreditVault, ready.token, THAW, ready.deployer, ready.deployer, manager
    )
    collector = ready.deployer.deploy(ape.project.RogueCollector)
    vault.setCollector(collector, sender=ready.deployer)
    payer, view = (
        ready.users[3],
        World({**ready.contracts, "CreditVault": vault}, ready.deployer, ready.users),
    )
    ready.token.approve(vault, DEPOSIT, sender=payer)
    vault.deposit(payer, 100, sender=payer)
    authorize(view, payer, SIGNER, 150)
    thief = ready.users[4]
    for wanted, taken in ((2**200, 100), (1, 0)):
        before = vault.accounts(payer).balance
        collector.collect(vault, payer, SIGNER.address, thief, wanted, sender=thief)
        assert before - vault.accounts(payer).balance == taken
    vault.deposit(payer, 100, sender=payer)
    collector.collect(vault, payer, SIGNER.address, thief, 2**200, sender=thief)
    assert vault.signers(SIGNER.address).spent == 150
    assert ready.token.balanceOf(vault) == 50 + vault.feesOwed(payer)
    for bad in ((ready.users[5], SIGNER.address), (ZERO, OTHER.address)):
        with ape.reverts(vault.NotPayersSigner):
            collector.collect(vault, *bad, thief, 1, sender=thief)


def test_fees__paid_by_anybody__go_to_the_recipients(ready: World) -> None:
    ready.vault.setRecipients(ready.users[5], ready.users[6], sender=ready.deployer)
    ready.collector.redeem(voucher(ready, ready.users[3], 1, 10_000), sender=ready.users[8])
    before = [ready.token.balanceOf(ready.users[i]) for i in (5, 6)]
    payer, nobody = ready.users[3], ready.users[7]
    receipt = ready.vault.payFees([payer, nobody, payer], sender=ready.users[8])
    assert ready.vault.FeesPaid(1_000, 500) in receipt.events
    assert [ready.token.balanceOf(ready.users[i]) for i in (5, 6)] == [before[0] + 1_000, before[1] + 500]
    assert ready.vault.feesOwed(payer) == 0


def test_fees__split_changed_meanwhile__go_in_the_new_ratio(ready: World) -> None:
    payer = ready.users[3]
    for split, expected in (((300, 1_200), (300, 1_200)), ((0, 0), (1_500, 0))):
        ready.collector.redeem(
            voucher(ready, payer, 1, ready.collector.collected(payer, 1) + 10_000), sender=ready.users[8]
        )
        through_timelock(ready, ready.vault, "setFeeSplit", *split)
        receipt = ready.vault.payFees([payer], sender=ready.users[8])
        assert ready.vault.FeesPaid(*expected) in receipt.events
        through_timelock(ready, ready.vault, "setFeeSplit", 1_000, 500)


# --------------------------------------------------------------------------------------------- administration


def test_recipients_and_collector__bad_values__revert(ready: World) -> None:
    for args in ((ZERO, ready.deployer), (ready.deployer, ZERO)):
        with ape.reverts(ready.vault.ZeroAddress):
            ready.vault.setRecipients(*args, sender=ready.deployer)
    receipt = ready.vault.setRecipients(ready.users[1], ready.users[2], sender=ready.deployer)
    assert ready.vault.RecipientsSet(ready.users[1].address, ready.users[2].address) in receipt.events
    manager = ready.deployer.deploy(ape.project.NetworkAccessManager, ready.deployer)
    vault = ready.deployer.deploy(
        ape.project.CreditVault, ready.token, THAW, ready.deployer, ready.deployer, manager
    )
    with ape.reverts(vault.InvalidCollector, collector=ready.users[0].address):
        vault.setCollector(ready.users[0], sender=ready.deployer)
    receipt = vault.setCollector(ready.collector, sender=ready.deployer)
    assert vault.CollectorSet(ready.collector.address) in receipt.events
    with ape.reverts(vault.InvalidCollector):
        vault.setCollector(ready.collector, sender=ready.deployer)


def test_fee_split__set_by_the_timelock__is_bounded(ready: World) -> None:
    receipt = through_timelock(ready, ready.vault, "setFeeSplit", 0, 2_000)
    assert ready.vault.FeeSplitSet(0, 2_000) in receipt.events
    ready.collector.redeem(voucher(ready, ready.users[3], 1, 1_000), sender=ready.users[8])
    assert ready.vault.feesOwed(ready.users[3]) == 200
    manager = ready.deployer.deploy(ape.project.NetworkAccessManager, ready.deployer)
    vault = ready.deployer.deploy(
        ape.project.CreditVault, ready.token, THAW, ready.deployer, ready.deployer, manager
    )
    with ape.reverts(vault.FeeSplitOutOfRange, totalBps=2_001):
        vault.setFeeSplit(1, 2_000, sender=ready.deployer)


@pytest.mark.parametrize("thaw", [0, 15 * 86_400])
def test_constructors__argument_out_of_range__revert(ready: World, thaw: int) -> None:
    someone, manager = ready.deployer, ready.manager
    error, values = constructor_error(ready, "CreditVault", ready.token, thaw, someone, someone, manager)
    assert (error, values["value"]) == ("InvalidParameter", thaw)
    error, _ = constructor_error(ready, "CreditVault", someone, THAW, someone, someone, manager)
    assert error == "NotAContract"
    for arguments in ((someone, ready.locker), (ready.vault, someone)):
        error, _ = constructor_error(ready, "VoucherCollector", *arguments)
        assert error == "NotAContract"
