"""UptimeAttestation: reports of a quorum, windows, rejection, pauses, proofs; every custom error and event."""

from typing import Any

import ape
import pytest

from offchain.domain.eip712 import SigningDomain, keccak256
from offchain.domain.uptime_tree import UptimeTree
from tests.support.contracts.factory import (
    CHALLENGE_WINDOW,
    EPOCH,
    SUBMIT_WINDOW,
    World,
    as_tuple,
    claim_args,
    constructor_error,
    key_of,
    now,
    sign,
    warp,
)

OPEN, PENDING, FINAL, LAPSED = range(4)
UPTIMES = {1: 10_000, 2: 9_000, 3: 0}


@pytest.fixture(scope="module")
def prepared(deployed: World) -> World:
    """Three nodes and four keepers, in epoch 2: epoch 1 can be reported."""
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


def tree(**changes: Any) -> UptimeTree:
    """The tree of epoch 1, or another."""
    return UptimeTree(changes.get("epoch", 1), changes.get("count", 3), changes.get("uptimes", UPTIMES))


def test_is_standing__any_field_changed__is_false(ready: World) -> None:
    report = ready.report(tree())
    assert not ready.attestation.isStanding(as_tuple(report))
    ready.submit(report)
    assert ready.attestation.isStanding(as_tuple(report))
    other = keccak256(b"other")
    for change in (
        {"epoch": 2},
        {"uptime_root": other},
        {"node_count": 2},
        {"execution_root": other},
        {"bundle_hash": other},
        {"keeper_set_digest": other},
    ):
        assert not ready.attestation.isStanding(as_tuple(ready.report(tree(), **change)))
    ready.attestation.rejectReport(1, sender=ready.deployer)
    assert not ready.attestation.isStanding(as_tuple(report))


def test_submit__quorum__is_pending_then_final(ready: World) -> None:
    report = ready.report(tree())
    receipt = ready.submit(report, [0, 2, 3], sender=ready.users[5])
    final = receipt.timestamp + CHALLENGE_WINDOW
    expected = ready.attestation.ReportSubmitted(
        1, report.uptime_root, 3, report.execution_root, report.bundle_hash, 0b1101, final
    )
    assert expected in receipt.events
    view = ready.attestation.reports(1)
    digest = ready.report_domain.digest(report.struct_hash())
    assert (view.uptimeRoot, view.nodeCount, view.digest) == (report.uptime_root, 3, digest[:14])
    assert (view.finalAt, view.signerBitmap) == (final, 0b1101)
    assert ready.attestation.status(1) == PENDING
    warp(final - 1)
    assert ready.attestation.status(1) == PENDING
    warp(final)
    assert ready.attestation.status(1) == FINAL
    assert ready.attestation.isFinal(1)
    assert ready.attestation.finalAt(1) == final


def test_hash_report__same_fields__is_the_off_chain_digest(ready: World) -> None:
    report = ready.report(tree())
    assert ready.attestation.hashReport(as_tuple(report)) == ready.report_domain.digest(report.struct_hash())


def test_submit__before_the_epochs_end__reverts(ready: World) -> None:
    with ape.reverts(ready.attestation.EpochNotOver, epoch=2, endsAt=ready.start_of(3)):
        ready.submit(ready.report(tree(epoch=2)))


def test_submit__twice__reverts(ready: World) -> None:
    ready.submit(ready.report(tree()))
    with ape.reverts(ready.attestation.WrongStatus, epoch=1, status=PENDING):
        ready.submit(ready.report(tree()))
    warp(now() + CHALLENGE_WINDOW)
    with ape.reverts(ready.attestation.WrongStatus, epoch=1, status=FINAL):
        ready.submit(ready.report(tree()))


def test_submit__after_the_deadline__reverts_and_epoch_has_lapsed(ready: World) -> None:
    deadline = ready.start_of(2) + SUBMIT_WINDOW
    assert ready.attestation.submitDeadline(1) == deadline
    warp(deadline - 1)
    assert ready.attestation.status(1) == OPEN
    warp(deadline)
    assert ready.attestation.status(1) == LAPSED
    with ape.reverts(ready.attestation.WrongStatus, epoch=1, status=LAPSED):
        ready.submit(ready.report(tree()))
    assert ready.attestation.reports(1).uptimeRoot == bytes(32)


def test_submit__too_few_signers__reverts(ready: World) -> None:
    with ape.reverts(ready.attestation.QuorumNotReached, signers=2, quorum=3):
        ready.submit(ready.report(tree()), [0, 1])


def test_submit__one_signer_repeated__reverts(ready: World) -> None:
    report = ready.report(tree())
    key = ready.keeper_keys[0]
    with ape.reverts(ready.attestation.InvalidSignature, index=1, expected=ready.keeper_keys[1].address):
        ready.attestation.submit(
            as_tuple(report), 0b111, ready.signatures(report, [key, key, key]), sender=ready.deployer
        )


def test_submit__bit_beyond_the_set__reverts(ready: World) -> None:
    report = ready.report(tree())
    signatures = ready.signatures(report, [*ready.keeper_keys[:3], key_of(70)])
    for bitmap in (0b10111, (1 << 255) | 0b111):
        with ape.reverts(ready.attestation.UnknownSigner, setSize=4):
            ready.attestation.submit(as_tuple(report), bitmap, signatures, sender=ready.deployer)


def test_submit__wrong_length_of_signatures__reverts(ready: World) -> None:
    report = ready.report(tree())
    signatures = ready.signatures(report, ready.keeper_keys[:3])
    for bad in (signatures[:-1], signatures + b"\0"):
        with ape.reverts(ready.attestation.WrongSignaturesLength, expected=195):
            ready.attestation.submit(as_tuple(report), 0b111, bad, sender=ready.deployer)


def test_submit__signatures_not_in_index_order__reverts(ready: World) -> None:
    report = ready.report(tree())
    keys = [ready.keeper_keys[i] for i in (1, 0, 2)]
    with ape.reverts(ready.attestation.InvalidSignature, index=0):
        ready.attestation.submit(
            as_tuple(report), 0b111, ready.signatures(report, keys), sender=ready.deployer
        )


def test_submit__malleable_s__reverts(ready: World) -> None:
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    report = ready.report(tree())
    good = ready.signatures(report, ready.keeper_keys[:3])
    s = int.from_bytes(good[32:64], "big")
    flipped = good[:32] + (order - s).to_bytes(32, "big") + bytes([55 - good[64]]) + good[65:]
    with ape.reverts(ready.attestation.InvalidSignature, index=0):
        ready.attestation.submit(as_tuple(report), 0b111, flipped, sender=ready.deployer)


@pytest.mark.parametrize("foreign", ["chain", "contract"])
def test_submit__signed_for_another_domain__reverts(ready: World, foreign: str) -> None:
    domain = ready.report_domain
    other = (
        SigningDomain(domain.chain_id + 1, domain.verifying_contract)
        if foreign == "chain"
        else SigningDomain(domain.chain_id, str(ready.market.address))
    )
    report = ready.report(tree())
    signatures = b"".join(sign(key, other.digest(report.struct_hash())) for key in ready.keeper_keys)
    with ape.reverts(ready.attestation.InvalidSignature):
        ready.attestation.submit(as_tuple(report), 0b1111, signatures, sender=ready.deployer)


def test_submit__another_epochs_set__reverts(ready: World) -> None:
    ready.join_keepers(1)
    report = ready.report(tree(), keeper_set_digest=bytes(ready.keepers.setDigestAt(3)))
    with ape.reverts(ready.attestation.WrongKeeperSet):
        ready.submit(report, [0, 1, 2])


def test_submit__keeper_that_joined_later__does_not_count(ready: World) -> None:
    ready.join_keepers(1)
    with ape.reverts(ready.attestation.UnknownSigner):
        ready.submit(ready.report(tree()), [0, 1, 4])


def test_submit__zero_root__reverts(ready: World) -> None:
    with ape.reverts(ready.attestation.EmptyRoot, epoch=1):
        ready.submit(ready.report(tree(), uptime_root=bytes(32)))


def test_submit__more_nodes_than_registered__reverts(ready: World) -> None:
    with ape.reverts(ready.attestation.TooManyNodes, nodeCount=4, limit=3):
        ready.submit(ready.report(tree(count=4)))


def test_uptime_of__final__proves_each_node(ready: World) -> None:
    made = ready.finalize(1, UPTIMES)
    for node, uptime in UPTIMES.items():
        _, _, leaf, proof = claim_args(made, node)
        assert ready.attestation.uptimeOf(1, node, leaf, proof) == uptime


def test_uptime_of__not_final__reverts(ready: World) -> None:
    made = tree()
    _, _, leaf, proof = claim_args(made, 1)
    with ape.reverts(ready.attestation.WrongStatus, status=OPEN):
        ready.attestation.uptimeOf(1, 1, leaf, proof)
    ready.submit(ready.report(made))
    with ape.reverts(ready.attestation.WrongStatus, status=PENDING):
        ready.attestation.uptimeOf(1, 1, leaf, proof)


def test_uptime_of__false_leaf_or_sibling__reverts(ready: World) -> None:
    made = ready.finalize(1, UPTIMES)
    _, _, leaf, proof = claim_args(made, 1)
    with ape.reverts(ready.attestation.InvalidProof, epoch=1, nodeId=1):
        ready.attestation.uptimeOf(1, 1, b"\x27\x10" * 16, proof)
    for depth in range(13):
        bad = [*proof[:depth], keccak256(proof[depth]), *proof[depth + 1 :]]
        with ape.reverts(ready.attestation.InvalidProof):
            ready.attestation.uptimeOf(1, 1, leaf, bad)


def test_uptime_of__node_zero_or_not_covered__reverts(ready: World) -> None:
    made = ready.finalize(1, UPTIMES)
    _, _, leaf, proof = claim_args(made, 1)
    for node in (0, 4, 17):
        with ape.reverts(ready.attestation.NodeNotCovered, nodeId=node, nodeCount=3):
            ready.attestation.uptimeOf(1, node, leaf, proof)


def test_uptime_of__attested_above_full__reverts(ready: World) -> None:
    made = tree()
    made._packed[0] = (10_001 << 16).to_bytes(32, "big")
    made._levels, made._empty = made._build()
    ready.submit(ready.report(made))
    warp(int(ready.attestation.finalAt(1)))
    _, _, leaf, proof = claim_args(made, 1)
    with ape.reverts(ready.attestation.UptimeOutOfRange, nodeId=1, uptimeBps=10_001):
        ready.attestation.uptimeOf(1, 1, leaf, proof)


def test_reject__pending__second_report_is_taken_the_same_is_not(ready: World) -> None:
    bad = ready.report(tree())
    ready.submit(bad)
    receipt = ready.attestation.rejectReport(1, sender=ready.deployer)
    digest = ready.report_domain.digest(bad.struct_hash())
    reopened = receipt.timestamp + SUBMIT_WINDOW
    assert ready.attestation.ReportRejected(1, digest[:14], reopened) in receipt.events
    assert ready.attestation.status(1) == OPEN
    assert ready.attestation.submitDeadline(1) == reopened
    assert ready.attestation.rejections(1) == 1
    assert ready.attestation.finalAt(1) == 0
    with ape.reverts(ready.attestation.ReportWasRejected, reportDigest=digest):
        ready.submit(bad)
    ready.submit(ready.report(tree(uptimes={1: 1, 2: 2})))
    assert ready.attestation.status(1) == PENDING


def test_reject__second_time__epoch_lapses(ready: World) -> None:
    ready.submit(ready.report(tree()))
    ready.attestation.rejectReport(1, sender=ready.deployer)
    second = ready.report(tree(uptimes={1: 1}))
    ready.submit(second)
    receipt = ready.attestation.rejectReport(1, sender=ready.deployer)
    digest = ready.report_domain.digest(second.struct_hash())
    assert ready.attestation.ReportRejected(1, digest[:14], 0) in receipt.events
    assert ready.attestation.status(1) == LAPSED


def test_reject__no_second_report__epoch_lapses(ready: World) -> None:
    ready.submit(ready.report(tree()))
    deadline = ready.attestation.rejectReport(1, sender=ready.deployer).timestamp + SUBMIT_WINDOW
    warp(deadline - 1)
    assert ready.attestation.status(1) == OPEN
    warp(deadline)
    assert ready.attestation.status(1) == LAPSED


def test_reject__open_or_final__reverts(ready: World) -> None:
    with ape.reverts(ready.attestation.WrongStatus, status=OPEN):
        ready.attestation.rejectReport(1, sender=ready.deployer)
    ready.finalize(1, UPTIMES)
    with ape.reverts(ready.attestation.WrongStatus, status=FINAL):
        ready.attestation.rejectReport(1, sender=ready.deployer)


def test_pause__during_both_windows__moves_both_deadlines(ready: World) -> None:
    paused = ready.attestation.pause(sender=ready.deployer).timestamp
    with ape.reverts(ready.attestation.EnforcedPause):
        ready.submit(ready.report(tree()))
    warp(paused + 2 * SUBMIT_WINDOW)
    assert ready.attestation.status(1) == OPEN
    resumed = ready.attestation.unpause(sender=ready.deployer).timestamp
    assert ready.attestation.submitDeadline(1) == ready.start_of(2) + SUBMIT_WINDOW + resumed - paused
    submitted = ready.submit(ready.report(tree())).timestamp
    paused = ready.attestation.pause(sender=ready.deployer).timestamp
    warp(paused + 3 * CHALLENGE_WINDOW)
    assert ready.attestation.status(1) == PENDING
    resumed = ready.attestation.unpause(sender=ready.deployer).timestamp
    final = submitted + CHALLENGE_WINDOW + resumed - paused
    assert ready.attestation.finalAt(1) == final
    warp(final - 1)
    assert ready.attestation.status(1) == PENDING
    warp(final)
    assert ready.attestation.status(1) == FINAL


def test_pause__after_an_epoch_lapsed_or_is_final__changes_nothing(ready: World) -> None:
    ready.finalize(1, UPTIMES)
    final = ready.attestation.finalAt(1)
    ready.enter(4)
    assert ready.attestation.status(2) == LAPSED
    deadline = ready.attestation.submitDeadline(2)
    paused = ready.attestation.pause(sender=ready.deployer).timestamp
    warp(paused + 5 * EPOCH)
    assert (ready.attestation.status(1), ready.attestation.status(2)) == (FINAL, LAPSED)
    assert (ready.attestation.finalAt(1), ready.attestation.submitDeadline(2)) == (final, deadline)
    ready.attestation.unpause(sender=ready.deployer)
    assert (ready.attestation.status(1), ready.attestation.status(2)) == (FINAL, LAPSED)
    assert (ready.attestation.finalAt(1), ready.attestation.submitDeadline(2)) == (final, deadline)


def test_pause__several__active_and_wall_time_are_inverse(ready: World) -> None:
    spans = []
    for length in (10, 1, 250):
        start = ready.attestation.pause(sender=ready.deployer).timestamp
        warp(start + length)
        spans.append((start, ready.attestation.unpause(sender=ready.deployer).timestamp))
        warp(now() + 30)
    for timestamp in (spans[0][0] - 5, *(t for span in spans for t in span), now()):
        covered = sum(min(end, timestamp) - start for start, end in spans if start < timestamp)
        assert ready.attestation.activeTime(timestamp) == timestamp - covered
        inside = any(start < timestamp <= end for start, end in spans)
        if not inside:
            assert ready.attestation.wallTime(timestamp - covered) == timestamp


@pytest.mark.parametrize(
    ("position", "value"), [(2, 0), (2, 91 * 86_400), (3, 0), (3, 91 * 86_400), (4, 0), (4, 289)]
)
def test_constructor__argument_out_of_range__reverts(world: World, position: int, value: int) -> None:
    args = [world.locker, world.keepers, SUBMIT_WINDOW, CHALLENGE_WINDOW, 10, world.manager]
    args[position] = value
    error, values = constructor_error(world, "UptimeAttestation", *args)
    assert error == "InvalidParameter"
    assert values["value"] == value
