"""Slashing: equivocation and overruled reports, appeals recounted from receipts, the veto window."""

from typing import Any

import ape
import pytest

from offchain.domain.uptime_tree import UptimeTree
from tests.support.contracts.factory import (
    EPOCH,
    LEAVE_DELAY,
    MIN_BOND,
    SLOTS,
    ZERO,
    World,
    as_tuple,
    claim_args,
    key_hash,
    key_of,
    now,
    warp,
)
from tests.support.contracts.governance import through_timelock

EQUIVOCATION, OVERRULED = 0, 1
PENDING, VETOED, EXECUTED = 1, 2, 3
UPTIMES = {1: 5_000, 2: 9_000, 3: 0}


@pytest.fixture(scope="module")
def prepared(deployed: World) -> World:
    """Three nodes and four keepers, in epoch 2; epoch 1 can be reported."""
    world = deployed.view()
    for _ in range(3):
        world.register(world.users[0])
    world.join_keepers(4)
    world.enter(2)
    return world


@pytest.fixture
def ready(prepared: World) -> World:
    """The same, for one test."""
    return prepared.view()


@pytest.fixture
def reported(ready: World) -> World:
    """Epoch 1 is reported by keepers 0, 1 and 3."""
    ready.submit(ready.report(UptimeTree(1, 3, UPTIMES)), [0, 1, 3])
    return ready


def appeal(
    world: World, node: int, evidence: list[Any], sender: Any = None, tree: UptimeTree | None = None
) -> Any:
    """Appeal against epoch 1's report."""
    _, epoch, leaf, proof = claim_args(tree or UptimeTree(1, 3, UPTIMES), min(node, 3))
    return world.attestation.appeal(epoch, node, leaf, proof, evidence, sender=sender or world.users[0])


def equivocation(world: World, index: int = 2, **changes: Any) -> list[Any]:
    """Arguments that prove that keeper `index` signed two reports of epoch 1."""
    first = world.report(UptimeTree(1, 3, UPTIMES))
    second = world.report(UptimeTree(1, 3, {1: 1}), **changes)
    key = world.keeper_keys[index]
    return [
        as_tuple(first),
        world.signatures(first, [key]),
        as_tuple(second),
        world.signatures(second, [key]),
        index,
    ]


# -------------------------------------------------------------------------------------------------- appeals


def test_appeal__more_receipts_than_attested__overrides_and_slashes_the_signers(reported: World) -> None:
    receipt = appeal(reported, 1, reported.evidence(1, 1, range(200)))
    recounted = 10_000 * 200 // SLOTS
    assert reported.attestation.UptimeOverridden(1, 1, 5_000, recounted) in receipt.events
    assert reported.attestation.overrideOf(1, 1) == (True, recounted)
    slashes = [reported.keepers.slashes(i) for i in range(1, reported.keepers.slashCount() + 1)]
    assert [slash.keeperId for slash in slashes] == [1, 2, 4]
    executable = receipt.timestamp + reported.keepers.vetoWindow()
    for slash in slashes:
        assert (slash.amount, slash.executableAt) == (MIN_BOND // 10, executable)
        assert (slash.state, slash.reason) == (PENDING, OVERRULED)
    warp(reported.attestation.finalAt(1))
    _, _, leaf, proof = claim_args(UptimeTree(1, 3, UPTIMES), 1)
    assert reported.attestation.uptimeOf(1, 1, leaf, proof) == recounted
    _, _, leaf, proof = claim_args(UptimeTree(1, 3, UPTIMES), 2)
    assert reported.attestation.uptimeOf(1, 2, leaf, proof) == 9_000


def test_appeal__second_node__overrides_but_slashes_no_second_time(reported: World) -> None:
    appeal(reported, 1, reported.evidence(1, 1, range(200)))
    appeal(reported, 3, reported.evidence(1, 3, range(10)))
    assert reported.keepers.slashCount() == 3
    assert reported.attestation.overrideOf(1, 3) == (True, 10_000 * 10 // SLOTS)


def test_appeal__better_evidence_later__raises_the_override(reported: World) -> None:
    appeal(reported, 1, reported.evidence(1, 1, range(200)))
    appeal(reported, 1, reported.evidence(1, 1, range(240)))
    assert reported.attestation.overrideOf(1, 1) == (True, 10_000 * 240 // SLOTS)
    with ape.reverts(reported.attestation.WithinTolerance):
        appeal(reported, 1, reported.evidence(1, 1, range(200)))


@pytest.mark.parametrize(("slots", "passes"), [(146, False), (147, True)])
def test_appeal__at_the_tolerance__must_exceed_it(reported: World, slots: int, passes: bool) -> None:
    assert (10_000 * slots // SLOTS > 5_000 + reported.attestation.TOLERANCE_BPS()) == passes
    evidence = reported.evidence(1, 1, range(slots))
    if passes:
        appeal(reported, 1, evidence)
    else:
        with ape.reverts(
            reported.attestation.WithinTolerance, attested=5_000, recounted=10_000 * slots // SLOTS
        ):
            appeal(reported, 1, evidence)


def test_appeal__all_288_slots__fits_a_block(reported: World) -> None:
    receipt = appeal(reported, 1, reported.evidence(1, 1, range(SLOTS)))
    assert reported.attestation.overrideOf(1, 1) == (True, 10_000)
    assert receipt.gas_used < 10_000_000


def test_appeal__node_that_the_report_omits__counts_as_zero(ready: World) -> None:
    tree = UptimeTree(1, 2, {1: 5_000, 2: 9_000})
    ready.submit(ready.report(tree))
    ready.attestation.appeal(
        1, 3, bytes(32), [bytes(32)] * 13, ready.evidence(1, 3, range(144)), sender=ready.users[0]
    )
    warp(ready.attestation.finalAt(1))
    assert ready.attestation.uptimeOf(1, 3, bytes(32), [bytes(32)] * 13) == 5_000


def test_appeal__key_rotated_since__old_receipts_stay_good(reported: World) -> None:
    evidence = reported.evidence(1, 1, range(200))
    reported.locker.setNodeKey(1, key_hash(key_of(90)), sender=reported.users[0])
    appeal(reported, 1, evidence)


def test_appeal__slots_repeated_unordered_or_beyond__reverts(reported: World) -> None:
    good = reported.evidence(1, 1, range(160))
    beyond = reported.evidence(1, 1, [SLOTS])
    for bad, index in (([*good, good[-1]], 160), ([good[1], good[0], *good[2:]], 1), ([*good, *beyond], 160)):
        with ape.reverts(reported.attestation.WrongSlotOrder, index=index):
            appeal(reported, 1, bad)


def test_appeal__receipt_not_by_the_node__reverts(reported: World) -> None:
    others = reported.evidence(1, 2, [0])[0]
    good = reported.evidence(1, 1, range(160))
    with ape.reverts(reported.attestation.InvalidNodeEvidence, slot=0):
        appeal(reported, 1, [(*good[0][:3], *others[3:5], *good[0][5:]), *good[1:]])
    with ape.reverts(reported.attestation.InvalidNodeEvidence, slot=0, recovered=ZERO):
        appeal(reported, 1, [(*good[0][:3], bytes(32), bytes(32), *good[0][5:]), *good[1:]])


def test_appeal__not_witnessed_by_a_keeper_of_the_set__reverts(reported: World) -> None:
    good = reported.evidence(1, 1, range(160))
    for bad in (
        (*good[0][:5], bytes(32), bytes(32)),  # no signature
        (0, 1, *good[0][2:]),  # another keeper's index
        (0, 4, *good[0][2:]),  # no such keeper
        (*good[0][:5], *reported.evidence(2, 1, [0])[0][5:]),  # another epoch
        (*good[0][:5], *reported.evidence(1, 1, [1])[0][5:]),  # another slot
    ):
        with ape.reverts(reported.attestation.InvalidKeeperEvidence, slot=0):
            appeal(reported, 1, [bad, *good[1:]])


def test_appeal__false_proof_of_what_was_attested__reverts(reported: World) -> None:
    false = UptimeTree(1, 3, {1: 0})
    with ape.reverts(reported.attestation.InvalidProof, nodeId=1):
        appeal(reported, 1, reported.evidence(1, 1, range(100)), tree=false)


def test_appeal__not_pending_or_paused__reverts(ready: World) -> None:
    with ape.reverts(ready.attestation.WrongStatus, status=0):
        appeal(ready, 1, [])
    ready.submit(ready.report(UptimeTree(1, 3, UPTIMES)))
    ready.attestation.pause(sender=ready.deployer)
    with ape.reverts(ready.attestation.EnforcedPause):
        appeal(ready, 1, [])
    ready.attestation.unpause(sender=ready.deployer)
    warp(ready.attestation.finalAt(1))
    with ape.reverts(ready.attestation.WrongStatus, status=2):
        appeal(ready, 1, [])


def test_appeal__report_rejected_afterwards__override_does_not_outlive_it(reported: World) -> None:
    appeal(reported, 1, reported.evidence(1, 1, range(200)))
    reported.attestation.rejectReport(1, sender=reported.deployer)
    assert reported.attestation.overrideOf(1, 1) == (False, 0)
    second = UptimeTree(1, 3, {1: 100, 2: 9_000})
    reported.submit(reported.report(second))
    appeal(reported, 3, reported.evidence(1, 3, range(100)), tree=second)
    assert reported.attestation.overrideOf(1, 1) == (False, 0)
    assert reported.keepers.slashCount() == 3 + 4


def test_market__wired__once(ready: World) -> None:
    assert ready.attestation.market() == ready.market.address
    manager = ready.deployer.deploy(ape.project.NetworkAccessManager, ready.deployer)
    fresh = ready.deployer.deploy(
        ape.project.UptimeAttestation, ready.locker, ready.keepers, 1, 1, 1, manager
    )
    with ape.reverts(fresh.InvalidMarket, market=ready.users[0].address):
        fresh.setMarket(ready.users[0], sender=ready.deployer)
    assert (
        fresh.MarketSet(ready.market.address) in fresh.setMarket(ready.market, sender=ready.deployer).events
    )
    with ape.reverts(fresh.InvalidMarket):
        fresh.setMarket(ready.market, sender=ready.deployer)


# -------------------------------------------------------------------------------------------- equivocation


def test_equivocation__two_signed_reports__all_of_the_bond_is_reserved(ready: World) -> None:
    receipt = ready.attestation.proveEquivocation(*equivocation(ready), sender=ready.users[8])
    executable = receipt.timestamp + ready.keepers.vetoWindow()
    assert ready.keepers.SlashProposed(1, 3, 1, EQUIVOCATION, MIN_BOND, executable) in receipt.events
    assert [log.signerIndex for log in receipt.decode_logs(ready.attestation.EquivocationProven)] == [2]
    assert ready.keepers.reservedOf(3) == MIN_BOND
    with ape.reverts(ready.attestation.AlreadyProven, epoch=1, signerIndex=2):
        ready.attestation.proveEquivocation(*equivocation(ready), sender=ready.users[8])


def test_equivocation__evidence_does_not_hold__reverts(ready: World) -> None:
    attestation, sender = ready.attestation, ready.users[8]
    good = equivocation(ready)
    with ape.reverts(attestation.NotEquivocation):
        attestation.proveEquivocation(*good[:2], *good[:2], 2, sender=sender)
    with ape.reverts(attestation.NotEquivocation):
        attestation.proveEquivocation(*equivocation(ready, epoch=2), sender=sender)
    with ape.reverts(attestation.InvalidSignature, index=1):
        attestation.proveEquivocation(*good[:4], 1, sender=sender)
    with ape.reverts(attestation.InvalidSignature, index=2):
        attestation.proveEquivocation(*good[:3], good[1], 2, sender=sender)
    for index in (4, 300):
        with ape.reverts(attestation.UnknownSigner, setSize=4):
            attestation.proveEquivocation(*good[:4], index, sender=sender)


def test_equivocation__first_report_was_rejected__is_no_evidence(ready: World) -> None:
    ready.submit(ready.report(UptimeTree(1, 3, UPTIMES)))
    ready.attestation.rejectReport(1, sender=ready.deployer)
    good = equivocation(ready)
    with ape.reverts(ready.attestation.ReportWasRejected):
        ready.attestation.proveEquivocation(*good, sender=ready.users[8])
    with ape.reverts(ready.attestation.ReportWasRejected):
        ready.attestation.proveEquivocation(*good[2:4], *good[:2], 2, sender=ready.users[8])


def test_equivocation__keeper_is_leaving__bond_waits_for_the_slash(ready: World) -> None:
    operator = ready.users[2]
    ready.keepers.requestLeave(3, sender=operator)
    warp(now() + LEAVE_DELAY - 10)
    ready.attestation.proveEquivocation(*equivocation(ready), sender=ready.users[8])
    warp(now() + 100)
    with ape.reverts(ready.keepers.NothingToWithdraw, keeperId=3):
        ready.keepers.withdrawBond(3, sender=operator)
    warp(now() + EPOCH)
    ready.keepers.executeSlash(1, sender=ready.users[8])
    assert ready.keepers.keepers(3).bond == 0


def test_equivocation__bond_already_withdrawn__takes_nothing_and_does_not_revert(ready: World) -> None:
    operator = ready.users[2]
    ready.keepers.requestLeave(3, sender=operator)
    warp(now() + LEAVE_DELAY)
    ready.keepers.withdrawBond(3, sender=operator)
    ready.attestation.proveEquivocation(*equivocation(ready), sender=ready.users[8])
    assert ready.keepers.slashes(1).amount == 0
    warp(now() + EPOCH)
    ready.keepers.executeSlash(1, sender=ready.users[8])
    assert ready.keepers.slashedBalance() == 0


# -------------------------------------------------------------------------------- veto, execution, collection


def test_slash__executed_after_the_window__is_collected_by_the_treasurer(ready: World) -> None:
    ready.attestation.proveEquivocation(*equivocation(ready), sender=ready.users[8])
    executable = ready.keepers.slashes(1).executableAt
    warp(executable - 2)
    with ape.reverts(ready.keepers.VetoWindowOpen, slashId=1, executableAt=executable):
        ready.keepers.executeSlash(1, sender=ready.users[8])
    warp(executable)
    receipt = ready.keepers.executeSlash(1, sender=ready.users[8])
    assert ready.keepers.SlashExecuted(1, 3, MIN_BOND) in receipt.events
    assert (ready.keepers.keepers(3).bond, ready.keepers.slashedBalance()) == (0, MIN_BOND)
    assert ready.keepers.slashes(1).state == EXECUTED
    with ape.reverts(ready.keepers.WrongSlashState, slashId=1, state=EXECUTED):
        ready.keepers.executeSlash(1, sender=ready.users[8])
    with ape.reverts(ready.keepers.ZeroAddress):
        ready.keepers.collectSlashed(ZERO, sender=ready.deployer)
    before = ready.token.balanceOf(ready.users[6])
    receipt = ready.keepers.collectSlashed(ready.users[6], sender=ready.deployer)
    assert ready.keepers.SlashedCollected(ready.users[6].address, MIN_BOND) in receipt.events
    assert ready.token.balanceOf(ready.users[6]) - before == MIN_BOND
    assert ready.keepers.slashedBalance() == 0


def test_slash__executed__keeper_below_half_the_minimum_is_ejected(ready: World) -> None:
    ready.attestation.proveEquivocation(*equivocation(ready), sender=ready.users[8])
    warp(ready.keepers.slashes(1).executableAt)
    receipt = ready.keepers.executeSlash(1, sender=ready.users[8])
    until = ready.locker.currentEpoch() + 1
    assert ready.keepers.KeeperEjected(3, until) in receipt.events
    assert key_of(3).address not in ready.keepers.signersAt(until)
    assert key_of(3).address in ready.keepers.signersAt(until - 1)


def test_slash__a_tenth_of_the_bond__keeper_stays(reported: World) -> None:
    appeal(reported, 1, reported.evidence(1, 1, range(200)))
    warp(reported.keepers.slashes(1).executableAt)
    for slash_id in (1, 2, 3):
        reported.keepers.executeSlash(slash_id, sender=reported.users[8])
    assert len(reported.keepers.signersAt(10)) == 4
    assert reported.keepers.keepers(1).bond == MIN_BOND - MIN_BOND // 10


def test_slash__vetoed__bond_is_free_again(ready: World) -> None:
    ready.attestation.proveEquivocation(*equivocation(ready), sender=ready.users[8])
    receipt = ready.keepers.vetoSlash(1, sender=ready.deployer)
    assert ready.keepers.SlashVetoed(1, 3) in receipt.events
    assert (ready.keepers.slashes(1).state, ready.keepers.reservedOf(3)) == (VETOED, 0)
    warp(now() + EPOCH)
    for call in (ready.keepers.vetoSlash, ready.keepers.executeSlash):
        with ape.reverts(ready.keepers.WrongSlashState, slashId=1, state=VETOED):
            call(1, sender=ready.deployer)
    assert ready.keepers.keepers(3).bond == MIN_BOND


def test_slash__veto_after_the_window__reverts(ready: World) -> None:
    ready.attestation.proveEquivocation(*equivocation(ready), sender=ready.users[8])
    warp(ready.keepers.slashes(1).executableAt)
    with ape.reverts(ready.keepers.VetoWindowClosed, slashId=1):
        ready.keepers.vetoSlash(1, sender=ready.deployer)


def test_slash__several_against_one_keeper__take_no_more_than_the_bond(reported: World) -> None:
    appeal(reported, 1, reported.evidence(1, 1, range(200)))  # reserves a tenth of keepers 1, 2 and 4
    reported.attestation.proveEquivocation(*equivocation(reported, index=0), sender=reported.users[8])
    assert reported.keepers.slashes(4).amount == MIN_BOND - MIN_BOND // 10
    warp(now() + EPOCH)
    for slash_id in (4, 1):
        reported.keepers.executeSlash(slash_id, sender=reported.users[8])
    assert (reported.keepers.keepers(1).bond, reported.keepers.reservedOf(1)) == (0, 0)
    assert reported.keepers.slashedBalance() == MIN_BOND


def test_slash__proposed_by_another_than_the_attestation__reverts(ready: World) -> None:
    for caller in (ready.deployer, ready.users[0]):
        with ape.reverts(ready.keepers.NotAttestation, caller=caller.address):
            ready.keepers.proposeSlash(1, 1, EQUIVOCATION, sender=caller)


def test_slash__unknown__reverts(ready: World) -> None:
    with ape.reverts(ready.keepers.WrongSlashState, slashId=9, state=0):
        ready.keepers.executeSlash(9, sender=ready.deployer)


def test_veto_window__set_by_the_timelock__is_bounded(ready: World) -> None:
    receipt = through_timelock(ready, ready.keepers, "setVetoWindow", 2 * EPOCH)
    assert ready.keepers.VetoWindowSet(2 * EPOCH) in receipt.events
    manager = ready.deployer.deploy(ape.project.NetworkAccessManager, ready.deployer)
    registry = ready.deployer.deploy(
        ape.project.KeeperRegistry, ready.token, ready.locker, MIN_BOND, LEAVE_DELAY, manager
    )
    for bad in (EPOCH - 1, 31 * 86_400):
        with ape.reverts(registry.InvalidParameter, value=bad):
            registry.setVetoWindow(bad, sender=ready.deployer)
