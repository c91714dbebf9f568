"""The vote: quorum, rotation, one report a keeper, and everything that must not be signed."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from offchain.db.leases import LeaseLostError
from offchain.domain.eip712 import keccak256
from offchain.domain.messages import EpochReport
from offchain.domain.types import NodeId
from offchain.evidence.bundle import EvidenceBundle, assemble, read, verify_bundle
from offchain.evidence.epoch_context_reader import NotReadyError
from offchain.evidence.report import report_from_json, report_json, signer_of
from offchain.keeper import store
from offchain.keeper.attestation.ballot import BallotRefusedError
from offchain.keeper.attestation.epoch_summary import epoch_summary
from offchain.keeper.attestation.lease import unfenced
from tests.support.keeper.cluster import Ring
from tests.support.keeper.epoch_factory import EPOCH, EpochWorld

MakeRing = Callable[..., Ring]


@pytest.fixture
def make_ring(tmp_path: Path) -> Iterator[MakeRing]:
    rings: list[Ring] = []

    def make(world: EpochWorld | None = None, **more: object) -> Ring:
        rings.append(Ring(world or EpochWorld(), tmp_path, **more))  # type: ignore[arg-type]
        return rings[-1]

    yield make
    for ring in rings:
        ring.close()


def four() -> EpochWorld:
    return EpochWorld(regions=("eu", "us", "ap", "eu"))


def leader_of(ring: Ring) -> int:
    open_epoch = ring.services[0].open_epochs.of(EPOCH)
    assert open_epoch is not None
    return open_epoch.leader(open_epoch.turn(ring.time.ms // 1000)).index


def submitted(ring: Ring) -> list[tuple[int, EpochReport, int, bytes]]:
    return [
        (index, *sent.intents[f"attest:{EPOCH}"])
        for index, sent in enumerate(ring.sent)
        if f"attest:{EPOCH}" in sent.intents
    ]


def test_step__all_keepers_up__only_the_leader_submits_with_every_signature(make_ring: MakeRing) -> None:
    ring = make_ring(EpochWorld(down={2: {0}}))
    leader = leader_of(ring)
    for service in ring.services:
        service.leader.step(unfenced)
    [(sender, report, bitmap, signatures)] = submitted(ring)
    assert sender == leader
    assert bitmap == 0b111
    assert len(signatures) == 3 * 65
    for index in range(3):
        found = signer_of(ring.world.context, report, signatures[65 * index : 65 * index + 65])
        assert found is not None
        assert found.index == index
    with ring.databases[0].read() as session:
        raw = store.load_bundle(session, "0x" + report.bundle_hash.hex())
    assert raw is not None


def test_step__again_and_again__one_intent_and_one_report(make_ring: MakeRing) -> None:
    ring = make_ring()
    leader = leader_of(ring)
    for _ in range(3):
        ring.services[leader].leader.step(unfenced)
    assert len(submitted(ring)) == 1


def test_step__before_evidence_is_frozen__nothing_happens(make_ring: MakeRing) -> None:
    ring = make_ring()
    ring.time.ms = (ring.world.context.clock.end(EPOCH) + 1) * 1000
    for service in ring.services:
        service.leader.step(unfenced)
    assert not submitted(ring)
    with pytest.raises(NotReadyError):
        ring.services[0].own_document.frozen(EPOCH)


@pytest.mark.parametrize("writes_before", [0, 1])
def test_step__lease_is_lost_on_the_way__signs_or_submits_nothing_more(
    make_ring: MakeRing, writes_before: int
) -> None:
    ring = make_ring()
    leader = EPOCH % 3
    ring.turn_of(leader)
    passed: list[Session] = []

    def fence(session: Session) -> None:
        if len(passed) == writes_before:
            raise LeaseLostError("taken over")
        passed.append(session)

    with pytest.raises(LeaseLostError):
        ring.services[leader].leader.step(fence)
    assert ring.sent[leader].intents == {}
    with ring.databases[leader].read() as session:
        signed = store.own_report(session, EPOCH, ring.world.keeper_keys[leader].address)
    assert (signed is not None) == bool(writes_before)


def test_step__a_minority_is_offline__quorum_holds_without_it(make_ring: MakeRing) -> None:
    ring = make_ring(four())
    leader = leader_of(ring)
    ring.offline = {(leader + 1) % 4}
    ring.services[leader].leader.step(unfenced)
    assert not submitted(ring), "the leader first waits for the missing keeper"
    ring.late_in_turn(leader)
    ring.services[leader].leader.step(unfenced)
    [(_, report, bitmap, _signatures)] = submitted(ring)
    assert bitmap.bit_count() == 3
    assert not bitmap >> ((leader + 1) % 4) & 1
    assert report.node_count == 3


def test_step__no_quorum_reachable__nothing_is_submitted(make_ring: MakeRing) -> None:
    ring = make_ring()
    leader = leader_of(ring)
    ring.offline = {(leader + 1) % 3}
    ring.late_in_turn(leader)
    ring.services[leader].leader.step(unfenced)
    assert not submitted(ring)


def test_step__leader_is_offline__the_next_one_leads(make_ring: MakeRing) -> None:
    ring = make_ring(four())
    first = leader_of(ring)
    ring.offline = {first}
    second = (first + 1) % 4
    ring.late_in_turn(second)
    ring.services[second].leader.step(unfenced)
    assert [entry[0] for entry in submitted(ring)] == [second]


def test_step__leader_collects_and_withholds__next_leader_submits_the_same_report(
    make_ring: MakeRing,
) -> None:
    ring = make_ring(four())
    first = leader_of(ring)
    ring.services[first].leader.step(unfenced)
    [(_, report, _, _)] = submitted(ring)
    ring.sent[first].intents.clear()  # signatures are out, the transaction never goes
    second = (first + 1) % 4
    ring.offline = {first}
    ring.turn_of(second)
    ring.services[second].leader.step(unfenced)
    [(sender, again, bitmap, _)] = submitted(ring)
    assert sender == second
    assert again == report
    assert bitmap.bit_count() >= 3


def test_step__leader_withholds_and_one_keeper_was_left_out__the_withheld_signatures_still_count(
    make_ring: MakeRing,
) -> None:
    ring = make_ring(four())
    first = leader_of(ring)
    second, third, fourth = ((first + i) % 4 for i in (1, 2, 3))
    ring.offline = {second}
    ring.late_in_turn(first)  # it gives up on the second keeper and proposes without its evidence
    ring.services[first].leader.step(unfenced)
    [(_, report, _, _)] = submitted(ring)
    ring.sent[first].intents.clear()
    ring.offline = {first}
    ring.turn_of(third)
    ring.services[third].leader.step(unfenced)
    [(sender, again, bitmap, _)] = submitted(ring)
    assert (sender, again) == (third, report)
    assert bitmap >> fourth & 1


def test_answer_proposal__table_that_does_not_follow__is_not_signed_and_published(
    make_ring: MakeRing,
) -> None:
    ring = make_ring()
    leader = leader_of(ring)
    context = ring.world.context
    bundle = assemble(context, [service.own_document.of(context) for service in ring.services])
    truth = verify_bundle(context, bundle).report
    forged = truth._replace(uptime_root=keccak256(b"a better table"))
    with ring.databases[leader].write() as session:
        store.save_bundle(session, EPOCH, bundle.hash, bundle.raw)
    signature = ring.world.keeper_keys[leader].sign_struct(context.attestation, forged.struct_hash())
    proposal = {
        "report": report_json(forged),
        "bundle_hash": bundle.hash,
        "leader": ring.world.keeper_keys[leader].address,
        "signature": "0x" + signature.hex(),
    }
    other = (leader + 1) % 3
    with pytest.raises(BallotRefusedError, match="does not follow") as refused:
        ring.services[other].follower.answer_proposal(EPOCH, proposal)
    assert set(refused.value.disagreement) == {"uptimeRoot"}
    summary = epoch_summary(ring.databases[other], EPOCH, ring.world.keeper_keys[other].address)
    assert (
        summary["disagreements"][0]["disagreement"]["uptimeRoot"]["proposed"]
        == "0x" + forged.uptime_root.hex()
    )
    assert summary["signed"] is None


def test_answer_proposal__own_evidence_left_out__is_not_signed(make_ring: MakeRing) -> None:
    ring = make_ring(four())
    leader = leader_of(ring)
    left_out = (leader + 1) % 4
    context = ring.world.context
    documents = [s.own_document.of(context) for i, s in enumerate(ring.services) if i != left_out]
    bundle = assemble(context, documents)
    report = verify_bundle(context, bundle).report
    with ring.databases[leader].write() as session:
        store.save_bundle(session, EPOCH, bundle.hash, bundle.raw)
    signature = ring.world.keeper_keys[leader].sign_struct(context.attestation, report.struct_hash())
    proposal = {"report": report_json(report), "signature": "0x" + signature.hex()}
    with pytest.raises(BallotRefusedError, match="evidence"):
        ring.services[left_out].follower.answer_proposal(EPOCH, proposal)
    assert ring.services[(leader + 2) % 4].follower.answer_proposal(EPOCH, proposal).startswith("0x")


def test_answer_proposal__not_the_leaders_turn__is_refused(make_ring: MakeRing) -> None:
    ring = make_ring(four())
    wrong = (leader_of(ring) + 2) % 4
    context = ring.world.context
    bundle = assemble(context, [service.own_document.of(context) for service in ring.services])
    report = verify_bundle(context, bundle).report
    signature = ring.world.keeper_keys[wrong].sign_struct(context.attestation, report.struct_hash())
    with pytest.raises(BallotRefusedError, match="leader of this turn"):
        ring.services[(wrong + 1) % 4].follower.answer_proposal(
            EPOCH, {"report": report_json(report), "signature": "0x" + signature.hex()}
        )


@pytest.mark.parametrize(
    "body", [None, [], {}, {"report": 1}, {"report": {}, "signature": "0x"}, {"report": {"epoch": "x"}}]
)
def test_answer_proposal__malformed__is_refused(make_ring: MakeRing, body: object) -> None:
    with pytest.raises(BallotRefusedError):
        make_ring().services[0].follower.answer_proposal(EPOCH, body)


def test_sign__two_different_reports__the_second_is_refused(make_ring: MakeRing) -> None:
    ring = make_ring(four())
    context = ring.world.context
    everything = assemble(context, [service.own_document.of(context) for service in ring.services])
    most = assemble(context, [service.own_document.of(context) for service in ring.services[:3]])
    service = ring.services[0]
    service.ballot.sign(context, verify_bundle(context, everything).report, everything, unfenced)
    service.ballot.sign(context, verify_bundle(context, everything).report, everything, unfenced)
    with pytest.raises(BallotRefusedError, match="another report"):
        service.ballot.sign(context, verify_bundle(context, most).report, most, unfenced)


def test_fresh__peer_sends_invalid_evidence__it_is_left_out(make_ring: MakeRing) -> None:
    ring = make_ring(four())
    leader = leader_of(ring)
    liar = (leader + 1) % 4
    document = ring.world.document(liar)
    forged = replace(document, misses=(ring.world.miss(liar, 2, 0, delay_ms=-50_000).pack(),), answers=())
    ring.tamper[f"evidence:{liar}"] = forged.sign(ring.world.keeper_keys[liar]).to_json()
    ring.late_in_turn(leader)
    ring.services[leader].leader.step(unfenced)
    [(_, report, bitmap, _)] = submitted(ring)
    assert not bitmap >> liar & 1
    assert verify_bundle(ring.world.context, assemble_of(ring, report)).table.uptime(NodeId(2)) == 10_000


def assemble_of(ring: Ring, report: EpochReport) -> EvidenceBundle:
    for database in ring.databases:
        with database.read() as session:
            raw = store.load_bundle(session, "0x" + report.bundle_hash.hex())
        if raw is not None:
            return read(raw, ring.world.context)
    raise AssertionError("nobody has the bundle")


def test_step__less_than_two_thirds_probed__nobody_signs(make_ring: MakeRing) -> None:
    world = EpochWorld()
    few = {i: world.document(i, [world.answer(i, 3, 0)], []) for i in range(3)}
    ring = make_ring(world, documents=few)
    for service in ring.services:
        service.leader.step(unfenced)
    assert not submitted(ring)
    with ring.databases[0].read() as session:
        assert not store.signatures(session, EPOCH)


def test_report__json__comes_back() -> None:
    report = EpochReport(EPOCH, b"\1" * 32, 3, b"\2" * 32, b"\3" * 32, b"\4" * 32)
    assert report_from_json(report_json(report)) == report
    with pytest.raises(ValueError, match="malformed"):
        report_from_json(report_json(report) | {"more": 1})


def test_own_document__node_moves_after_it_was_frozen__is_the_same_document(make_ring: MakeRing) -> None:
    ring = make_ring(EpochWorld())
    with ring.databases[0].write() as session:
        for node, region in ((2, "eu"), (1, "ap"), (3, "eu"), (77, "eu")):
            store.note_region(session, NodeId(node), region, 1)
    document = ring.services[0].own_document.frozen(EPOCH)
    assert document.regions == {"ap": (1,), "eu": (2, 3)}
    with ring.databases[0].write() as session:
        store.note_region(session, NodeId(2), "us", 2)
    ring.services[0].own_document._own.clear()  # as after a restart
    assert ring.services[0].own_document.frozen(EPOCH) == document
