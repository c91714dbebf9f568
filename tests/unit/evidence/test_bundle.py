"""From evidence to a report: what holds, and every way in which evidence may not hold."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from offchain.domain.canonical_json import canonical, parse
from offchain.domain.evidence_entries import (
    AnswerEntry,
    EvidenceError,
    Execution,
    Miss,
    answer_bytes,
    receipt_hash,
)
from offchain.domain.measurement.network_event import NetworkEvent, regions_of
from offchain.domain.measurement.uptime import SlotState
from offchain.domain.types import Address, NodeId, Wei
from offchain.evidence.bundle import BundleVerdict, EvidenceBundle, assemble, read, verify_bundle
from offchain.evidence.document import Evidence
from offchain.evidence.epoch_context import SeedBlock, seed_time
from tests.support.keeper.epoch_factory import ATTESTATION, EPOCH, MARKET, EpochWorld, key, receipt_of


def verdict_on(world: EpochWorld, *documents: Evidence) -> BundleVerdict:
    bundle = assemble(world.context, documents)
    return verify_bundle(world.context, read(bundle.raw, world.context))


def test_verify_bundle__all_answered__full_uptime_and_one_record_an_answer() -> None:
    world = EpochWorld()
    verdict = verdict_on(world, *(world.document(i) for i in range(3)))
    assert verdict.table.uptimes() == {1: 10_000, 2: 10_000, 3: 10_000}
    assert verdict.table.covered()
    assert len(verdict.executions) == (2 + 3 + 3) * 4
    assert verdict.report.node_count == 3


def test_verify_bundle__missed_in_two_regions__slots_are_lost() -> None:
    world = EpochWorld(down={2: {1, 3}})
    verdict = verdict_on(world, *(world.document(i) for i in range(3)))
    assert verdict.table.uptime(NodeId(2)) == 5_000
    assert verdict.table.missed(NodeId(2)) == (1, 3)
    assert verdict.tree.uptime(NodeId(2)) == 5_000


def test_verify_bundle__missed_in_one_region_only__counts_as_up() -> None:
    world = EpochWorld(down={2: {1}})
    verdict = verdict_on(world, world.document(0), world.document(2))  # both "eu"
    assert verdict.table.states[NodeId(2)][1] is SlotState.UNCONFIRMED
    assert verdict.table.uptime(NodeId(2)) == 10_000


def test_verify_bundle__one_keeper_holds_a_receipt__misses_of_others_do_not_count() -> None:
    world = EpochWorld(down={2: {1}})
    third = replace(world).document(2, misses=[])
    answers = [*(AnswerEntry.unpack(text) for text in third.answers), world.answer(2, 2, 1)]
    verdict = verdict_on(world, world.document(0), world.document(1), world.document(2, answers, []))
    assert verdict.table.states[NodeId(2)][1] is SlotState.UP


def test_assemble__any_order_of_documents__same_bytes() -> None:
    world = EpochWorld()
    documents = [world.document(i) for i in range(3)]
    assert assemble(world.context, documents) == assemble(world.context, reversed(documents))


def test_verify_bundle__one_document__abstained_slots_of_own_node_count_as_up() -> None:
    world = EpochWorld()
    verdict = verdict_on(world, world.document(0))
    assert set(verdict.table.states[NodeId(1)]) == {SlotState.ABSTAINED}
    assert verdict.table.covered()


def test_covered__less_than_two_thirds_probed__is_not_covered() -> None:
    world = EpochWorld()
    few = [world.answer(1, node, 0) for node in world.node_ids]
    assert not verdict_on(world, world.document(1, few)).table.covered()


def rejected(world: EpochWorld, document: Evidence, reason: str) -> None:
    with pytest.raises(EvidenceError, match=reason):
        verdict_on(world, document)


def test_verify_bundle__tampered_answer__is_rejected() -> None:
    world = EpochWorld()
    answer = world.answer(1, 2, 0)
    forged = replace(answer, receipt=answer.receipt._replace(completion_tokens=999))
    rejected(world, world.document(1, [forged]), "node did not sign")


def test_verify_bundle__answer_signed_by_another_node__is_rejected() -> None:
    world = EpochWorld()
    answer = world.answer(1, 2, 0)
    forged = replace(answer, node_signature=key("node 3").sign_struct(MARKET, answer.receipt.struct_hash()))
    rejected(world, world.document(1, [forged]), "node did not sign")


def test_verify_bundle__answer_that_the_keeper_did_not_sign__is_rejected() -> None:
    world = EpochWorld()
    forged = replace(world.answer(1, 2, 0), keeper_signature=world.answer(1, 2, 1).keeper_signature)
    rejected(world, world.document(1, [forged]), "keeper did not sign")


def test_verify_bundle__answer_from_before_it_was_due__is_rejected() -> None:
    world = EpochWorld()
    rejected(world, world.document(1, [world.answer(1, 2, 0, delay_ms=-5_001)]), "before it was due")


def test_verify_bundle__answer_after_its_slot__is_rejected() -> None:
    world = EpochWorld()
    rejected(world, world.document(1, [world.answer(1, 2, 0, delay_ms=16_000)]), "after its slot")


def test_verify_bundle__one_receipt_for_two_slots__is_rejected() -> None:
    world = EpochWorld(slots=2)
    first = world.answer(1, 2, 0)
    documents = [world.document(1, [first]), world.document(2, [])]
    verdict_on(world, *documents)
    twice = replace(world.answer(2, 2, 0), receipt=first.receipt, node_signature=first.node_signature)
    signature = world.keeper_keys[2].sign_struct(
        world.context.attestation, twice.slot_receipt(EPOCH).struct_hash()
    )
    with pytest.raises(EvidenceError, match=r"occurs twice|before it was due"):
        verdict_on(world, documents[0], world.document(2, [replace(twice, keeper_signature=signature)]))


def test_verify_bundle__miss_before_the_probe_was_due__is_rejected() -> None:
    world = EpochWorld()
    rejected(world, world.document(1, [], [world.miss(1, 2, 0, delay_ms=-1)]), "outside its time")


def test_verify_bundle__miss_that_somebody_else_signed__is_rejected() -> None:
    world = EpochWorld()
    forged = replace(world.miss(1, 2, 0), keeper_signature=world.miss(2, 2, 0).keeper_signature)
    rejected(world, world.document(1, [], [forged]), "keeper did not sign")


def test_verify_bundle__own_operators_node__is_rejected() -> None:
    world = EpochWorld()
    rejected(world, world.document(0, [world.answer(0, 1, 0)]), "own operator")


def test_verify_bundle__answer_and_miss_of_one_slot__is_rejected() -> None:
    world = EpochWorld()
    rejected(world, world.document(1, [world.answer(1, 2, 0)], [world.miss(1, 2, 0)]), "answers and misses")


def test_verify_bundle__document_changed_after_signing__is_rejected() -> None:
    world = EpochWorld()
    document = world.document(1)
    rejected(world, replace(document, answers=document.answers[:-1]), "not signed by it")


def test_verify_bundle__schedule_of_somebody_else__is_rejected() -> None:
    world = EpochWorld()
    document = replace(world.document(1), seed_signature=world.seed_signature(2))
    rejected(world, document.sign(world.keeper_keys[1]), "does not follow")


def test_verify_bundle__other_seed_block__is_rejected() -> None:
    world = EpochWorld()
    document = replace(world.document(1), seed_block=SeedBlock(98, "0x" + "11" * 32))
    rejected(world, document.sign(world.keeper_keys[1]), "seed block")


def test_verify_bundle__stranger__is_rejected() -> None:
    world = EpochWorld()
    other = EpochWorld(regions=("eu", "us", "eu", "ap"))
    rejected(world, other.document(3), "no keeper")


def test_verify_bundle__entries_out_of_order_or_twice__are_rejected() -> None:
    world = EpochWorld()
    document = world.document(1)
    for answers in (document.answers[::-1], document.answers[:1] * 2):
        rejected(world, replace(document, answers=answers).sign(world.keeper_keys[1]), "out of order")


def test_verify_bundle__keeper_twice__is_rejected() -> None:
    world = EpochWorld()
    document = world.document(1)
    with pytest.raises(EvidenceError, match="occurs twice"):
        verdict_on(world, document, document)


def test_verify_bundle__execution_of_the_epoch__is_in_the_root() -> None:
    world = EpochWorld()
    when = world.context.clock.start(EPOCH) * 1000 + 500
    receipt = receipt_of(2, b"\x09" * 32, when)
    execution = Execution(receipt, world.node_keys[2].sign_struct(MARKET, receipt.struct_hash()))
    assert Execution.unpack(execution.pack()) == execution
    document = replace(world.document(1), executions=(execution.pack(),)).sign(world.keeper_keys[1])
    verdict = verdict_on(world, document)
    assert verdict.executions.proof(receipt.struct_hash()).count == len(verdict.executions)
    stale = receipt._replace(started_at_ms=0, finished_at_ms=1)
    signed = Execution(stale, world.node_keys[2].sign_struct(MARKET, stale.struct_hash()))
    rejected(
        world,
        replace(document, executions=(signed.pack(),)).sign(world.keeper_keys[1]),
        "outside the epoch",
    )


def test_read__not_canonical_or_foreign__is_rejected() -> None:
    world = EpochWorld()
    bundle = assemble(world.context, [world.document(1)])
    data = parse(bundle.raw)
    for raw in (
        bundle.raw + b" ",
        b"{}",
        b"not json",
        b"[" * 300 + b"]" * 300,
        canonical(data | {"epoch": 8}),
        canonical(data | {"chainId": 1}),
        canonical(data | {"attestation": "0x" + "cc" * 20}),
        canonical(data | {"version": 9}),
        canonical(data | {"more": 1}),
        canonical(data | {"evidence": [1]}),
        canonical(data | {"evidence": [data["evidence"][0] | {"more": 1}]}),
    ):
        with pytest.raises(EvidenceError):
            read(raw, world.context)


def test_pack__answer_and_miss__come_back() -> None:
    world = EpochWorld()
    answer, miss = world.answer(1, 2, 3), world.miss(1, 2, 3)
    assert AnswerEntry.unpack(answer.pack()) == answer
    assert Miss.unpack(miss.pack()) == miss
    for text in ("", "!", answer.pack()[:-4]):
        with pytest.raises(EvidenceError):
            AnswerEntry.unpack(text)


def test_bundle__any_change__has_another_address() -> None:
    world = EpochWorld()
    bundles: list[EvidenceBundle] = [assemble(world.context, [world.document(i)]) for i in (1, 2)]
    assert bundles[0].hash != bundles[1].hash


def test_seed_time__day_and_minute__lie_before_the_epoch() -> None:
    world = EpochWorld()
    assert seed_time(world.context.clock, EPOCH) == world.context.clock.start(EPOCH) - 4


def test_verify_bundle__shared_out_to_processes__same_verdict_and_same_refusals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = EpochWorld(slots=8, down={2: {1}})
    documents = [world.document(i) for i in range(3)]
    alone = verdict_on(world, *documents)
    monkeypatch.setattr("offchain.evidence.signature_pool.ALONE_BELOW", 2)
    monkeypatch.setattr("offchain.evidence.signature_pool.CHUNK", 5)
    shared = verdict_on(world, *documents)
    assert shared.report == alone.report
    answers = [AnswerEntry.unpack(text) for text in documents[1].answers]
    forged = replace(answers[3], node_signature=answers[2].node_signature)
    document = world.document(1, [*answers[:3], forged, *answers[4:]])
    rejected(world, document, "node did not sign")


def test_receipt_hash__packed_bytes__is_the_struct_hash() -> None:
    answer = EpochWorld().answer(1, 2, 3)
    receipt = answer.receipt._replace(
        price_wei=Wei(2**256 - 1), prompt_tokens=2**32 - 2, model_revision=b"\x11" * 32
    )
    packed = answer_bytes(replace(answer, receipt=receipt).pack())
    assert receipt_hash(packed) == receipt.struct_hash()


def crowd(*, witnesses: int) -> BundleVerdict:
    """Twelve nodes; the first `witnesses` of four keepers see ten of them vanish in slot 1, the others abstain in it."""
    nodes = tuple(range(2, 14))
    world = EpochWorld(slots=4, node_ids=nodes, regions=("eu", "us", "ap", "sa"))
    documents = []
    for keeper in range(4):
        places = [(node, slot) for node in nodes for slot in range(4) if slot != 1]
        answers = [world.answer(keeper, node, slot) for node, slot in places]
        misses = [world.miss(keeper, node, 1) for node in nodes[:10]] if keeper < witnesses else []
        documents.append(world.document(keeper, answers, misses))
    return verdict_on(world, *documents)


def test_verify_bundle__most_nodes_vanish_as_few_keepers_see_it__is_a_network_event() -> None:
    verdict = crowd(witnesses=2)
    assert verdict.suspended == (NetworkEvent(1, ""),)
    assert set(verdict.table.uptimes().values()) == {10_000}
    assert verdict.table.states[NodeId(2)][1] is SlotState.UNCONFIRMED


def test_verify_bundle__most_nodes_vanish_as_most_keepers_see_it__is_downtime() -> None:
    verdict = crowd(witnesses=3)
    assert verdict.suspended == ()
    assert verdict.table.uptime(NodeId(2)) == 7_500


NODES = tuple(range(2, 32))
ASIAN = NODES[:12]


def outage(
    witnesses: Sequence[int], homes: dict[str, tuple[int, ...]], lost: Sequence[int] = ASIAN
) -> BundleVerdict:
    """Thirty nodes, twelve of them in Asia; some of four keepers (eu, us, ap, sa) see nodes vanish in slot 1.

    The other keepers' probes of those nodes in that slot have no result.
    """
    world = EpochWorld(slots=4, node_ids=NODES, regions=("eu", "us", "ap", "sa"), homes=homes)
    documents = []
    for keeper in range(4):
        places = [(node, slot) for node in NODES for slot in range(4) if slot != 1 or node not in lost]
        answers = [world.answer(keeper, node, slot) for node, slot in places]
        misses = [world.miss(keeper, node, 1) for node in lost] if keeper in witnesses else []
        documents.append(world.document(keeper, answers, misses))
    return verdict_on(world, *documents)


REST = tuple(node for node in NODES if node not in ASIAN)


def test_verify_bundle__a_region_vanishes_as_few_keepers_see_it__costs_its_nodes_nothing() -> None:
    verdict = outage((0, 1), {"ap": ASIAN, "eu": REST})
    assert verdict.suspended == (NetworkEvent(1, "ap"),)
    assert set(verdict.table.uptimes().values()) == {10_000}


def test_verify_bundle__a_region_vanishes_for_everybody_outside_it__costs_its_nodes_nothing() -> None:
    verdict = outage((0, 1, 3), {"ap": ASIAN, "eu": REST})
    assert verdict.suspended == (NetworkEvent(1, "ap"),)
    assert set(verdict.table.uptimes().values()) == {10_000}


def test_verify_bundle__a_region_vanishes_for_its_own_keeper_too__is_downtime() -> None:
    verdict = outage((0, 1, 2), {"ap": ASIAN, "eu": REST})
    assert verdict.suspended == ()
    assert {verdict.table.uptime(NodeId(node)) for node in ASIAN} == {7_500}


def test_verify_bundle__less_than_half_of_a_region_vanishes__is_downtime() -> None:
    verdict = outage((0, 1), {"ap": ASIAN, "eu": REST}, lost=ASIAN[:6])
    assert verdict.suspended == ()
    assert verdict.table.uptime(NodeId(ASIAN[0])) == 7_500


def test_verify_bundle__during_a_regions_outage_a_node_elsewhere_is_down__loses_its_slot() -> None:
    verdict = outage((0, 1), {"ap": ASIAN, "eu": REST}, lost=(*ASIAN, REST[0]))
    assert verdict.suspended == (NetworkEvent(1, "ap"),)
    assert verdict.table.uptime(NodeId(REST[0])) == 7_500
    assert verdict.table.uptime(NodeId(ASIAN[0])) == 10_000


def test_regions_of__few_nodes_or_one_owners_or_disputed__are_no_region() -> None:
    owners = {NodeId(node): Address(f"owner {node % 3}") for node in NODES}
    reported = {"ap": ASIAN, "eu": REST}
    assert Counter(regions_of([reported] * 3, owners).values()) == {"ap": 12, "eu": 18}
    assert set(regions_of([{"ap": ASIAN[:9]}], owners)) == set()
    with_own_nodes = owners | {NodeId(node): Address("owner 0") for node in ASIAN}
    assert set(regions_of([reported], with_own_nodes).values()) == {"eu"}
    assert set(regions_of([reported, {"eu": ASIAN}], owners).values()) == {"eu"}
    assert set(regions_of([reported, reported, {"eu": ASIAN}], owners).values()) == {"ap", "eu"}


@pytest.mark.parametrize(
    "regions",
    [
        {"ap": [3, 2]},
        {"ap": [2, 2]},
        {"ap": [2], "eu": [2]},
        {"ap": []},
        {"": [2]},
        {"a b": [2]},
        {"ap": ["2"]},
        [2],
        {"ap": 2},
    ],
)
def test_evidence__regions_that_are_none__are_rejected(regions: object) -> None:
    data = EpochWorld().document(0).to_json() | {"regions": regions}
    with pytest.raises(EvidenceError):
        Evidence.from_json(data, ATTESTATION)
