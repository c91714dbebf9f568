"""Weighted samples, picks and their replay."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offchain.domain.types import NodeId
from offchain.scheduler.fleet import Fleet, NodeReport, Offer
from offchain.scheduler.pick import Decision, pick, replay
from offchain.scheduler.weighted_pool import SplitMix64, WeightedPool, sample
from offchain.scheduler.work import Requirements


def report(node_id: int, **changes: object) -> NodeReport:
    fields: dict[str, object] = {
        "node_id": NodeId(node_id),
        "url": f"http://node-{node_id}",
        "region": "eu",
        "tier": 1,
        "offers": {"m": Offer("r1", 1000)},
        "slots": 4,
        "free_slots": 4,
        **changes,
    }
    return NodeReport(**fields)  # type: ignore[arg-type]


def fleet_of(*reports: NodeReport) -> Fleet:
    fleet = Fleet()
    for one in reports:
        fleet.update(one, 0.0)
    return fleet


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 100), st.booleans()), max_size=120))
def test_weighted_pool__any_changes__totals_and_places_stay_true(
    changes: list[tuple[int, int, bool]],
) -> None:
    pool, model = WeightedPool(), {}
    for member, weight, keep in changes:
        if keep:
            pool.add(member, weight)
            model[member] = weight
        else:
            pool.remove(member)
            model.pop(member, None)
    assert sorted(pool.members()) == sorted(model)
    assert pool.total == sum(model.values())
    seen = {}
    for limit, count, total in pool.shape():
        entries = [pool.member_at(limit, index) for index in range(count)]
        assert sum(weight for _, weight in entries) == total
        assert all(limit // 2 < weight <= limit for _, weight in entries)
        seen |= dict(entries)
    assert seen == model


def test_sample__many__follows_the_weights() -> None:
    pool = WeightedPool()
    weights = {1: 1, 2: 3, 3: 8, 4: 20, 5: 68}
    for member, weight in weights.items():
        pool.add(member, weight)
    random, counts, one = SplitMix64(7), Counter[int](), None
    while counts.total() < 20_000:
        one = sample(pool, pool.shape(), pool.total, random, one)
        if one.accepted:
            counts[one.member] += 1
            one = None
    for member, weight in weights.items():
        assert counts[member] / 20_000 == pytest.approx(weight / 100, abs=0.015)


@settings(max_examples=60)
@given(st.integers(0, 2**64 - 1), st.integers(1, 40), st.integers(0, 5))
def test_pick__any_seed_and_fleet__replays_from_its_json(seed: int, size: int, busy: int) -> None:
    fleet = fleet_of(*(report(i, slots=1 + i % 7, free_slots=1 + i % 7) for i in range(1, size + 1)))
    for node in list(fleet)[:busy]:
        fleet.leased(node)
        node.first_byte_took(0.01 * node.report.node_id)
    decision = pick(fleet, Requirements("m"), seed, ("eu",))
    if decision is None:
        assert all(node.free <= 0 for node in fleet)
        return
    recorded = Decision.from_json(json.loads(json.dumps(decision.to_json())))
    assert replay(recorded) == decision.chosen
    if decision.samples:
        recorded.seed ^= 1
        with pytest.raises(ValueError, match="does not follow"):
            replay(recorded)


def test_pick__gates__leave_only_who_fits() -> None:
    fleet = fleet_of(
        report(1, offers={"m": Offer("r1", 10)}),
        report(2, offers={"m": Offer("r2", 1000)}, tier=2),
        report(3, offers={"other": Offer("r1", 1000)}),
        report(4, price_per_token_wei=9, tier=3),
    )

    def chosen(**wants: object) -> int | None:
        decision = pick(fleet, Requirements("m", **wants), 1, ("eu",))  # type: ignore[arg-type]
        return None if decision is None else decision.chosen

    assert chosen() == 1
    assert chosen(context_size=500) == 2
    assert chosen(revision="r1", context_size=500) == 4
    assert chosen(min_tier=3) == 4
    assert chosen(min_tier=3, max_price_wei=5) is None


def test_pick__smallest_adequate_tier_full__takes_the_next() -> None:
    fleet = fleet_of(report(1, slots=1, free_slots=1), report(2, tier=3))
    first = fleet.at(NodeId(1))
    assert pick(fleet, Requirements("m"), 5, ()).chosen == 1  # type: ignore[union-attr]
    fleet.leased(first)
    assert pick(fleet, Requirements("m"), 5, ()).chosen == 2  # type: ignore[union-attr]
    fleet.released(first)
    assert pick(fleet, Requirements("m"), 5, ()).chosen == 1  # type: ignore[union-attr]


def test_pick__reputation__divides_the_cost_and_suspends() -> None:
    fleet = fleet_of(report(1), report(2))
    fleet.rate({NodeId(1): 15_000, NodeId(2): 12_000})
    first, chosen = (
        fleet.at(NodeId(1)),
        lambda: {pick(fleet, Requirements("m"), s, ()).chosen for s in range(20)},
    )  # type: ignore[union-attr]
    assert chosen() == {1}
    fleet.leased(first)
    assert chosen() == {2}, "the better name does not outweigh a quarter of its slots"
    fleet.rate({NodeId(2): 0})
    assert chosen() == {1}
    fleet.remove(NodeId(2))
    fleet.update(report(2), 1.0)
    assert chosen() == {1}, "who comes back is suspended still"
    fleet.remove(NodeId(1))
    assert pick(fleet, Requirements("m"), 1, ()) is None
    fleet.rate({})
    assert chosen() == {2}


def test_pick__regions__own_first_then_named_then_others() -> None:
    fleet = fleet_of(report(1, region="us"), report(2, region="eu"), report(3, region="asia"))
    order = []
    for _ in range(3):
        decision = pick(fleet, Requirements("m"), 3, ("eu", "us"))
        assert decision is not None
        order.append(int(decision.chosen))
        fleet.remove(decision.chosen)
    assert order == [2, 1, 3]


def test_pick__affinity__prefers_who_saw_the_prefix_until_it_is_busy() -> None:
    fleet = fleet_of(report(1, slots=8, free_slots=8), report(2, slots=8, free_slots=8))
    knower = fleet.at(NodeId(2))
    knower.remember_prefixes((11, 22, 33))
    wants = Requirements("m")
    assert all(pick(fleet, wants, seed, (), (), (11, 22, 33)).chosen == 2 for seed in range(20))  # type: ignore[union-attr]
    for _ in range(7):
        fleet.leased(knower)
    assert all(pick(fleet, wants, seed, (), (), (11, 22, 33)).chosen == 1 for seed in range(20))  # type: ignore[union-attr]


def test_fleet__breaker_opens_and_half_opens__node_leaves_and_returns_to_the_pools() -> None:
    fleet = fleet_of(report(1), report(2))
    node = fleet.at(NodeId(1))
    assert fleet.failed(node, 3, now=10.0)
    assert {pick(fleet, Requirements("m"), s, ()).chosen for s in range(20)} == {2}  # type: ignore[union-attr]
    fleet.reopen(10.5)
    assert node.breaker.state == "open"
    fleet.reopen(11.0)
    assert node.breaker.state == "half_open"
    fleet.leased(node)
    assert {pick(fleet, Requirements("m"), s, ()).chosen for s in range(20)} == {2}  # type: ignore[union-attr]
    fleet.released(node)
    fleet.succeeded(node)
    assert {pick(fleet, Requirements("m"), s, ()).chosen for s in range(40)} == {1, 2}  # type: ignore[union-attr]


def test_fleet__names_that_change_all_the_time__leave_nothing_behind() -> None:
    fleet = fleet_of(report(1))
    for number in range(50):
        fleet.update(report(1, offers={f"name-{number}": Offer("r", 1)}), float(number))
    assert list(fleet.capabilities()) == ["name-49"]
    assert len(fleet._pools) == len(fleet._capable) == 1
    fleet.remove(NodeId(1))
    assert not fleet._pools
    assert not fleet._capable


def test_fleet__silent_node__expires() -> None:
    fleet = fleet_of(report(1))
    fleet.update(report(2), 5.0)
    assert [node.report.node_id for node in fleet.expire(7.0)] == [1]
    assert len(fleet) == 1
    assert fleet.last_heard("m") == 0.0
    fleet.expire(20.0)
    assert fleet.last_heard("m") == 5.0
    assert fleet.last_heard("never") is None
