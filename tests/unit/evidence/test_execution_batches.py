"""Gateways' batches of execution records: which a report carries, and that no gateway can stop an epoch."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import select

from offchain.audit.execution_proof import ServedRecord, fetch_record, read_record, record_proof, served_proof
from offchain.audit.verify_epoch import Audit
from offchain.db.models import Job
from offchain.domain.canonical_json import canonical, parse
from offchain.domain.eip712 import address_bytes, keccak256
from offchain.domain.evidence_entries import EvidenceError, Execution, SignedExecutionBatch
from offchain.domain.execution_tree import BATCH, EXECUTIONS, ExecutionProof, verify
from offchain.domain.messages import ExecutionBatch
from offchain.domain.types import Epoch
from offchain.errors import UserError
from offchain.evidence.bundle import BundleVerdict, assemble, read, verify_bundle
from offchain.evidence.document import Evidence
from offchain.evidence.epoch_context_reader import NotReadyError
from offchain.evidence.execution_batches import GatewayAnswer, GatewayBatches, equivocations
from offchain.keeper import store
from offchain.keeper.attestation.lease import unfenced
from offchain.keeper.attestation.settlement import EpochSettlement
from tests.support.keeper.cluster import Ring
from tests.support.keeper.epoch_factory import ATTESTATION, EPOCH, EpochWorld, key
from tests.unit.keeper.test_settlement import accept


def verdict_on(world: EpochWorld, *documents: Evidence) -> BundleVerdict:
    bundle = assemble(world.context, documents)
    return verify_bundle(world.context, read(bundle.raw, world.context))


@pytest.fixture
def make_ring(tmp_path: Path) -> Iterator[Callable[[EpochWorld], Ring]]:
    rings: list[Ring] = []

    def make(world: EpochWorld) -> Ring:
        folder = tmp_path / str(len(rings))
        folder.mkdir()
        rings.append(Ring(world, folder))
        return rings[-1]

    yield make
    for ring in rings:
        ring.close()


# ------------------------------------------------------------------------------------------------------------- judging


def test_pack__batch__comes_back_and_malformed_does_not() -> None:
    world = EpochWorld()
    batch = world.batch(world.served(3))
    assert SignedExecutionBatch.unpack(batch.pack()) == batch
    assert SignedExecutionBatch.from_json(batch.to_json()) == batch
    for text in ("", "AAAA", batch.pack()[:-4]):
        with pytest.raises(EvidenceError):
            SignedExecutionBatch.unpack(text)
    for field, value in (("epoch", -1), ("count", "3"), ("root", "0x00"), ("signature", 7), ("root", None)):
        with pytest.raises(EvidenceError):
            SignedExecutionBatch.from_json(batch.to_json() | {field: value})


def test_verify_bundle__batch__is_a_leaf_and_its_records_are_under_the_root() -> None:
    world = EpochWorld()
    records = world.served(5)
    batch = world.batch(records)
    verdict = verdict_on(world, world.document(0, batches=[batch]), world.document(1))
    assert len(verdict.executions) == verdict.records + 1
    [listed] = verdict.batches
    assert listed.gateway == address_bytes(world.gateway_keys[0].address)
    leaf = verdict.executions.proof(batch.commitment.struct_hash())
    assert verify(verdict.report.execution_root, EPOCH, batch.commitment.struct_hash(), leaf)
    for record in records:
        struct_hash = record.receipt.struct_hash()
        proof = world.tree(records).proof(struct_hash)
        assert verify(batch.commitment.root, EPOCH, struct_hash, proof, BATCH)
        assert not verify(batch.commitment.root, EPOCH, struct_hash, proof, EXECUTIONS)
    without = verdict_on(world, world.document(0), world.document(1))
    assert without.executions.root != verdict.executions.root
    assert without.report.uptime_root == verdict.report.uptime_root


def test_verify_bundle__same_batch_by_every_keeper__counts_once() -> None:
    world = EpochWorld()
    batch = world.batch(world.served(2))
    verdict = verdict_on(world, *(world.document(i, batches=[batch]) for i in range(3)))
    assert [item.commitment for item in verdict.batches] == [batch.commitment]


def test_verify_bundle__gateway_signs_two_batches__both_count_and_it_shows() -> None:
    world = EpochWorld()
    one, two = world.batch(world.served(2)), world.batch(world.served(3))
    other = world.batch(world.served(4), world.gateway_keys[1])
    documents = [world.document(0, batches=[one, other]), world.document(1, batches=[two]), world.document(2)]
    verdict = verdict_on(world, *documents)
    assert {item.commitment.count for item in verdict.batches} == {2, 3, 4}
    assert equivocations(verdict.batches) == [(address_bytes(world.gateway_keys[0].address), EPOCH)]
    assert (
        verdict_on(world, *sorted(documents, key=lambda d: d.signer, reverse=True)).report == verdict.report
    )


def forged(world: EpochWorld) -> SignedExecutionBatch:
    batch = world.batch(world.served(2))
    return replace(batch, commitment=replace(batch.commitment, count=3))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda w: w.batch(w.served(2), key("nobody's gateway")), "whom no keeper lists"),
        (forged, "whom no keeper lists"),
        (lambda w: replace(w.batch(w.served(2)), signature=bytes(65)), "signed by nobody"),
        (lambda w: w.batch(w.served(2), epoch=Epoch(EPOCH + 1)), "is not for epoch 7"),
        (lambda w: w.batch(w.served(2), epoch=Epoch(EPOCH - 4)), "is not for epoch 7"),
        (lambda w: w.batch([]), "of 0 records"),
    ],
)
def test_verify_bundle__batch_that_does_not_hold__is_rejected(
    make: Callable[[EpochWorld], SignedExecutionBatch], reason: str
) -> None:
    world = EpochWorld()
    with pytest.raises(EvidenceError, match=reason):
        verdict_on(world, world.document(0, batches=[make(world)]))


def test_verify_bundle__batches_out_of_order_twice_or_too_many__are_rejected() -> None:
    world = EpochWorld()
    texts = sorted(world.batch(world.served(i)).pack() for i in (1, 2))
    for wrong in (texts[::-1], [texts[0]] * 2):
        document = replace(world.document(0), batches=tuple(wrong)).sign(world.keeper_keys[0])
        with pytest.raises(EvidenceError, match="out of order"):
            verdict_on(world, document)
    signer = world.gateway_keys[0]
    said = [ExecutionBatch(EPOCH, 1, keccak256(bytes([i % 256, i // 256]))) for i in range(257)]
    many = [SignedExecutionBatch(item, signer.sign_struct(ATTESTATION, item.struct_hash())) for item in said]
    with pytest.raises(EvidenceError, match="too many"):
        verdict_on(world, world.document(0, batches=many))


def test_verify_bundle__late_batch__is_taken_in_the_epochs_after() -> None:
    world = EpochWorld()
    late = world.batch(world.served(2), epoch=Epoch(EPOCH - 3))
    assert verdict_on(world, world.document(0, batches=[late])).batches[0].commitment.epoch == EPOCH - 3


def test_evidence__of_version_2__is_read_as_it_was_signed() -> None:
    world = EpochWorld()
    old = replace(world.document(0), version=2).sign(world.keeper_keys[0])
    data = parse(canonical(old.to_json()))
    assert "batches" not in data
    assert Evidence.from_json(data, ATTESTATION) == old
    assert verdict_on(world, old, world.document(1)).table.covered()
    for wrong in (data | {"batches": []}, data | {"version": 1}, data | {"version": 3}):
        with pytest.raises(EvidenceError):
            Evidence.from_json(wrong, ATTESTATION)


# ------------------------------------------------------------------------------------------------------------- closing


def test_step__gateways_differ_and_one_is_away__everybody_signs_the_union(
    make_ring: Callable[[EpochWorld], Ring],
) -> None:
    world = EpochWorld()
    ring = make_ring(world)
    one, two = world.batch(world.served(2)), world.batch(world.served(3), world.gateway_keys[1])
    ring.gateways = {0: [one, forged(world)], 1: [two, one]}  # keeper 2's gateway is away
    for service in ring.services:
        service.leader.step(unfenced)
    [report] = [sent.intents[f"attest:{EPOCH}"][0] for sent in ring.sent if sent.intents]
    _, verdict = ring.services[0].follower.verified_bundle(world.context, "0x" + report.bundle_hash.hex(), [])
    assert {item.commitment for item in verdict.batches} == {one.commitment, two.commitment}


def test_own_document__gateway_answers_later_or_differently__is_the_same_document(
    make_ring: Callable[[EpochWorld], Ring],
) -> None:
    world = EpochWorld()
    ring = make_ring(world)
    document = ring.services[0].own_document.frozen(EPOCH)
    assert document.batches == ()
    ring.gateways[0] = [world.batch(world.served(2))]
    ring.services[0].own_document._own.clear()  # as after a restart
    assert ring.services[0].own_document.frozen(EPOCH) == document


def test_step__a_gateway_is_making_its_batch__is_waited_for_and_not_for_ever(
    make_ring: Callable[[EpochWorld], Ring],
) -> None:
    world = EpochWorld()
    ring = make_ring(world)
    leader = ring.services[0].open_epochs.of(EPOCH)
    assert leader is not None
    me = leader.leader(0).index
    ring.making = {me}
    ring.services[me].leader.step(unfenced)
    assert not ring.sent[me].intents
    with pytest.raises(NotReadyError, match="is making its batch"):
        ring.services[me].own_document.frozen(EPOCH)
    ring.gateways[me] = [world.batch(world.served(2))]
    ring.making = set()
    ring.services[me].leader.step(unfenced)
    report = ring.sent[me].intents[f"attest:{EPOCH}"][0]
    _, verdict = ring.services[me].follower.verified_bundle(
        world.context, "0x" + report.bundle_hash.hex(), []
    )
    assert len(verdict.batches) == 1
    late = make_ring(EpochWorld())  # its time is the same: one second after the evidence is frozen
    other = late.services[me]
    late.making = {me}
    late.time.ms += leader.turn_seconds * 1000 // 4
    assert other.own_document.frozen(EPOCH).batches == ()


def test_freeze__two_processes__the_first_stands(make_ring: Callable[[EpochWorld], Ring]) -> None:
    ring = make_ring(EpochWorld())
    for entries in (["a"], ["b"]):
        with ring.databases[0].write() as session:
            assert store.freeze_batches(session, EPOCH, entries, 1) == ["a"]
    with ring.databases[0].write() as session:
        store.drop_frozen(session, EPOCH)
        assert store.frozen_batches(session, EPOCH) is None


def close(ring: Ring, world: EpochWorld) -> None:
    """The first keeper looks at what the chain accepted."""
    EpochSettlement(
        ring.databases[0],
        ring.view,
        ring.services[0],
        ring.sent[0],
        ring.time,
        ["0", "1", "2"],
    ).step()


def test_close__gateway_signed_two_batches__is_marked_once_for_the_alert(
    make_ring: Callable[[EpochWorld], Ring],
) -> None:
    world = EpochWorld()
    ring = make_ring(world)
    ring.gateways = {0: [world.batch(world.served(2))], 1: [world.batch(world.served(3))]}
    accept(ring, 0)
    for _ in range(2):
        close(ring, world)
    with ring.databases[0].read() as session:
        marks = session.scalars(select(Job.ref).where(Job.kind == store.TWO_BATCHES)).all()
    assert marks == [f"{world.gateway_keys[0].address.lower()}:{EPOCH}"]


def test_close__batch_was_under_an_accepted_report__is_not_listed_again(
    make_ring: Callable[[EpochWorld], Ring],
) -> None:
    world = EpochWorld()
    ring = make_ring(world)
    reported, late = world.batch(world.served(2)), world.batch(world.served(4))
    ring.gateways = {0: [reported]}
    accept(ring, 0)
    close(ring, world)
    ring.gateways = {0: [reported, late]}
    after = replace(world.context, epoch=Epoch(EPOCH + 1))
    assert ring.services[0].own_document._frozen_batches(after) == [late.pack()]


def test_gateway_batches__nobody_there__is_none() -> None:
    assert GatewayBatches("http://127.0.0.1:1", 0.5)(EPOCH) == GatewayAnswer()


# -------------------------------------------------------------------------------------------------------------- proofs


def served_json(
    world: EpochWorld, records: list[Execution], batch: SignedExecutionBatch, which: int
) -> dict[str, Any]:
    """What a gateway answers."""
    receipt = records[which].receipt
    proof = world.tree(records).proof(receipt.struct_hash())
    return {
        "receipt": receipt.to_json(),
        "signature": "0x" + records[which].node_signature.hex(),
        "batch": batch.to_json(),
        "index": proof.index,
        "count": proof.count,
        "siblings": ["0x" + item.hex() for item in proof.siblings],
    }


def audit_of(world: EpochWorld, *documents: Evidence) -> Audit:
    """The part of an audit that proofs use."""
    bundle = assemble(world.context, documents)
    verdict = verify_bundle(world.context, bundle)
    made = SimpleNamespace(
        epoch=EPOCH,
        report=verdict.report,
        context=world.context,
        bundle=bundle,
        verdict=verdict,
        signers=("a", "b", "c"),
        node_keys={node: info.keys for node, info in world.context.nodes.items()},
    )
    return cast("Audit", made)


def test_served_proof__record_in_a_batch__proves_with_public_data_alone(tmp_path: Path) -> None:
    world = EpochWorld()
    records = world.served(7)
    batch = world.batch(records)
    audit = audit_of(world, world.document(0, batches=[batch]), world.document(1))
    request_id = records[4].receipt.request_id
    path = tmp_path / "record.json"
    path.write_text(json.dumps(served_json(world, records, batch, 4)))
    found = served_proof(audit, read_record(path, request_id))
    assert found is not None
    shown = found.to_json()
    inner, outer = shown["batch"], shown

    def proof(data: dict[str, Any]) -> ExecutionProof:
        return ExecutionProof(
            data["index"], data["count"], tuple(bytes.fromhex(item[2:]) for item in data["siblings"])
        )

    leaf = ExecutionBatch(
        Epoch(inner["epoch"]), inner["count"], bytes.fromhex(inner["root"][2:])
    ).struct_hash()
    root = bytes.fromhex(outer["executionRoot"][2:])
    assert verify(
        bytes.fromhex(inner["root"][2:]), EPOCH, records[4].receipt.struct_hash(), proof(inner), BATCH
    )
    assert verify(root, EPOCH, leaf, proof(outer))
    assert found.to_text().endswith("in epoch 7, signed by 3 keepers: proven")
    assert record_proof(audit, request_id) is None


def test_served_proof__report_without_the_batch_or_record_of_no_node__proves_nothing() -> None:
    world = EpochWorld()
    records = world.served(2)
    batch = world.batch(records)
    served = ServedRecord.from_json(served_json(world, records, batch, 0))
    assert served_proof(audit_of(world, world.document(0)), served) is None
    invented = [replace(records[0], node_signature=records[1].node_signature), records[1]]
    audit = audit_of(world, world.document(0, batches=[batch]))
    with pytest.raises(UserError, match="node 2 did not sign it"):
        served_proof(audit, ServedRecord.from_json(served_json(world, invented, batch, 0)))


def test_read_record__wrong_file__is_one_clear_line(tmp_path: Path) -> None:
    world = EpochWorld()
    records = world.served(3)
    good = served_json(world, records, world.batch(records), 0)
    request_id = records[0].receipt.request_id
    path = tmp_path / "record.json"
    for data, reason in (
        (good | {"siblings": []}, "not under the root"),
        (good | {"count": 4}, "not under the root"),
        (good | {"receipt": records[1].receipt.to_json()}, "another request"),
        (good | {"batch": {}}, "malformed"),
        ({}, "not an execution record"),
        ([], "not an execution record"),
    ):
        path.write_text(json.dumps(data))
        with pytest.raises(UserError, match=reason) as caught:
            read_record(path, request_id)
        assert "\n" not in str(caught.value)
    path.write_text("{")
    with pytest.raises(UserError, match="does not hold"):
        read_record(path, request_id)
    with pytest.raises(UserError, match="cannot be read"):
        read_record(tmp_path / "none", request_id)
    for url in ("http://127.0.0.1:1", "no url"):
        found, why = fetch_record([url], request_id)
        assert (found, len(why)) == (None, 1)
