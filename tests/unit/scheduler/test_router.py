"""The router's decisions in virtual time: queues, fairness, quotas, outcomes."""

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offchain.domain.types import NodeId
from offchain.scheduler.fleet import Fleet, NodeReport, Offer
from offchain.scheduler.pick import Decision, replay
from offchain.scheduler.quotas import QuotaExceededError, Quotas, TenantLimits
from offchain.scheduler.router import Placement, Router, RouterLimits
from offchain.scheduler.work import FaultKind, NoCapacityError, Priority, Requirements, WorkUnit


class World:
    """A router whose clock the test moves."""

    def __init__(self, nodes: int = 1, slots: int = 2, **limits: Any) -> None:
        self.now = 100.0
        self.fleet = Fleet()
        self.seeds = iter(range(10**9))
        self.router = Router(
            self.fleet, ("eu",), lambda: self.now, lambda: next(self.seeds), RouterLimits(**limits)
        )
        for node_id in range(1, nodes + 1):
            self.hear(node_id, slots)
        self.count = 0

    def hear(self, node_id: int, slots: int = 2) -> None:
        report = NodeReport(
            NodeId(node_id), f"http://{node_id}", "eu", 1, {"m": Offer("r", 100)}, slots, slots
        )
        self.fleet.update(report, self.now)

    def unit(self, tenant: str = "a", **changes: Any) -> WorkUnit:
        self.count += 1
        fields: dict[str, Any] = {"requirements": Requirements("m"), "cost": 10, **changes}
        return WorkUnit(self.count.to_bytes(32, "big"), tenant=tenant, **fields)

    def place(self, unit: WorkUnit) -> Placement:
        placement = self.router.place(unit)
        assert placement is not None
        return placement

    def wait(self, unit: WorkUnit) -> list[Any]:
        placed: list[Any] = []
        assert self.router.place(unit) is None
        self.router.enqueue(unit, 0, {}, placed.append)
        return placed


def test_router__slots__are_never_exceeded_and_freed_slots_go_to_the_queue() -> None:
    world = World(nodes=2, slots=2)
    running = [world.place(world.unit()) for _ in range(4)]
    assert {p.node.leases for p in running} == {2}
    waiting = [world.wait(world.unit()) for _ in range(3)]
    assert world.router.answered(running[0])
    assert [bool(w) for w in waiting] == [True, False, False]
    assert not world.router.answered(running[0])
    assert [bool(w) for w in waiting] == [True, False, False]


@pytest.mark.parametrize("bps", [12_000, 7_000, 0])
def test_place__pinned_to_a_node__records_its_reputation_and_replays(bps: int) -> None:
    world = World(nodes=2)
    world.fleet.rate({NodeId(2): bps})
    decision = world.place(world.unit(requirements=Requirements("m", node_id=NodeId(2)))).decision
    document = json.loads(json.dumps(decision.to_json(), allow_nan=False))
    (candidate,) = document["candidates"]
    assert candidate["reputation_bps"] == bps
    assert (candidate["cost_seconds"] is None) == (bps == 0)
    assert replay(Decision.from_json(document)) == NodeId(2)


def test_queue__two_tenants__served_alternately_by_work_not_by_number() -> None:
    world = World(slots=1)
    blocker = world.place(world.unit("other"))
    served: list[str] = []
    placements: list[Placement] = []

    def note(tenant: str) -> Any:
        def placed(outcome: Any) -> None:
            served.append(tenant)
            placements.append(outcome)

        return placed

    for _ in range(30):
        unit = world.unit("flood", cost=10)
        world.router.enqueue(unit, 0, {}, note("flood"))
    for _ in range(10):
        world.router.enqueue(world.unit("small", cost=5), 0, {}, note("small"))
    world.router.answered(blocker)
    while placements:
        world.router.answered(placements.pop())
    first = Counter(served[:15])
    assert first["small"] == 10
    assert served[15:] == ["flood"] * 25


def test_queue__priorities__are_strict() -> None:
    world = World(slots=1)
    blocker = world.place(world.unit())
    order: list[Priority] = []
    for priority in (Priority.BATCH, Priority.STANDARD, Priority.INTERACTIVE):
        world.router.enqueue(
            world.unit(priority=priority),
            0,
            {},
            lambda p, priority=priority: (order.append(priority), done.append(p)),
        )
    done: list[Any] = []
    world.router.answered(blocker)
    while done:
        world.router.answered(done.pop())
    assert order == [Priority.INTERACTIVE, Priority.STANDARD, Priority.BATCH]


def test_queue__too_long_or_too_late__is_a_clear_no() -> None:
    world = World(slots=1, tenant_queue_length=2, queue_seconds=5.0)
    world.place(world.unit())
    waiting = [world.wait(world.unit()) for _ in range(2)]
    with pytest.raises(NoCapacityError, match="too many of your requests") as caught:
        world.router.enqueue(world.unit(), 0, {}, lambda _: None)
    assert caught.value.retry_after_seconds >= 1
    world.wait(world.unit("b"))
    world.now += 5.1
    world.hear(1, 1)
    world.fleet.at(NodeId(1)).foreign = 0
    world.router.tick()
    assert [w[0].reason for w in waiting] == ["full", "full"]


def test_place__why_not__is_told_apart() -> None:
    world = World()
    with pytest.raises(NoCapacityError) as unknown:
        world.router.place(world.unit(requirements=Requirements("never heard of")))
    assert unknown.value.reason == "unknown_capability"
    with pytest.raises(NoCapacityError, match="none with the size") as small:
        world.router.place(world.unit(requirements=Requirements("m", context_size=10_000)))
    assert small.value.reason == "no_capable_node"
    with pytest.raises(NoCapacityError) as pinned:
        world.router.place(world.unit(requirements=Requirements("m", node_id=NodeId(9))))
    assert pinned.value.reason == "node_unavailable"
    placement = world.place(world.unit())
    world.router.failed(placement, FaultKind.UNREACHABLE)
    with pytest.raises(NoCapacityError, match="failing") as failing:
        world.router.place(world.unit())
    assert failing.value.reason == "no_capable_node"
    world.now += 10
    world.router.tick()
    with pytest.raises(NoCapacityError, match="is up") as gone:
        world.router.place(world.unit())
    assert gone.value.reason == "no_capable_node"


def test_absence__only_node_leaves__units_wait_for_it_and_others_do_not_wait_for_them() -> None:
    world = World(absence_seconds=10.0)
    world.now += 7
    assert [node.report.node_id for node in world.router.tick()] == [1]
    waiting = world.wait(world.unit())
    world.hear(1)
    world.router.tick()
    assert isinstance(waiting[0], Placement)
    assert world.router.waiting == 0
    away = world.unit(requirements=Requirements("m", revision="other"))
    with pytest.raises(NoCapacityError, match="none with the size"):
        world.router.place(away)
    world.router.failed(world.place(world.unit()), FaultKind.RESET)
    behind = world.wait(world.unit())
    world.hear(2)
    assert world.router.place(world.unit()) is not None, "nobody stands behind one who waits for a node"
    world.router.tick()
    assert isinstance(behind[0], Placement)


def test_absence__longer_than_expected__all_are_told_why_and_the_next_at_once() -> None:
    world = World(absence_seconds=10.0, queue_seconds=30.0)
    world.now += 7
    world.router.tick()
    waiting = world.wait(world.unit())
    world.now += 2.9
    world.router.tick()
    assert waiting == []
    world.now += 0.2
    world.router.tick()
    assert (waiting[0].reason, str(waiting[0])) == ("no_capable_node", "no node that serves 'm' is up")
    with pytest.raises(NoCapacityError, match="is up"):
        world.router.place(world.unit())


def test_absence__cut_node__is_tried_again_by_the_same_unit_when_it_is_heard_of() -> None:
    world = World(absence_seconds=10.0)
    unit = world.unit()
    world.router.failed(world.place(unit), FaultKind.RESET)
    placed: list[Any] = []
    assert world.router.place(unit, 1, {NodeId(1): True}) is None
    world.router.enqueue(unit, 1, {NodeId(1): True}, placed.append)
    world.router.tick()
    assert placed == []
    world.now += 0.5
    world.hear(1)
    world.router.tick()
    assert placed[0].lease.node_id == 1
    with pytest.raises(NoCapacityError) as lied:
        world.router.place(unit, 2, {NodeId(1): False})
    assert lied.value.reason == "failed"


def test_absence__node_that_keeps_failing__is_expected_no_more() -> None:
    world = World(absence_seconds=3.0)
    for _ in range(3):
        world.router.failed(world.place(world.unit()), FaultKind.UNREACHABLE)
        world.hear(1)
        world.router.tick()
    world.router.failed(world.place(world.unit()), FaultKind.UNREACHABLE)
    with pytest.raises(NoCapacityError, match="failing"):
        world.router.place(world.unit())


def test_absence__just_started__a_name_is_unknown_only_after_the_first_heartbeats() -> None:
    world = World(nodes=0, absence_seconds=10.0)
    early, never = world.wait(world.unit()), world.wait(world.unit(requirements=Requirements("never")))
    world.now += 2
    world.hear(1)
    world.router.tick()
    assert isinstance(early[0], Placement)
    world.now += 1
    world.router.tick()
    assert never[0].reason == "unknown_capability"
    with pytest.raises(NoCapacityError):
        world.router.place(world.unit(requirements=Requirements("never")))


def test_absence__many_wait__the_next_is_told_at_once_and_who_leaves_makes_room() -> None:
    world = World(absence_seconds=10.0, absent_length=2)
    world.now += 7
    world.router.tick()
    unit = world.unit()
    waiter = world.router.enqueue(unit, 0, {}, lambda _: None)
    world.wait(world.unit())
    with pytest.raises(NoCapacityError, match="is up"):
        world.router.enqueue(world.unit(), 0, {}, lambda _: None)
    world.router.leave(waiter)
    world.wait(world.unit())
    assert world.router.waiting == 2


def test_outcomes__callers_own_faults__never_open_a_breaker() -> None:
    world = World()
    for _ in range(10):
        world.router.abandoned(world.place(world.unit()))
    assert world.router.place(world.unit()) is not None


def test_patience__follows_the_measured_times() -> None:
    world = World()
    unit = world.unit(timing_class="t")
    assert world.router.timings.patience(unit.timing_class, 10.0) == 10.0
    for _ in range(40):
        placement = world.place(world.unit(timing_class="t"))
        world.router.first_byte(placement, 0.6)
        world.router.answered(placement)
    assert world.router.timings.patience(unit.timing_class, 10.0) == pytest.approx(1.8)


def test_patience__one_node_hangs__stays_and_all_are_slow__grows() -> None:
    world = World(nodes=2, slots=64)
    unit = world.unit(timing_class="t")

    def times_out(node_id: int) -> None:
        while (placement := world.place(world.unit(timing_class="t"))).lease.node_id != node_id:
            world.router.abandoned(placement)
        world.router.failed(placement, FaultKind.FIRST_BYTE_TIMEOUT, 0.9)
        placement.node.breaker.succeeded()
        world.fleet.refresh(placement.node)

    for _ in range(40):
        placement = world.place(world.unit(timing_class="t"))
        world.router.first_byte(placement, 0.1)
        world.router.answered(placement)
    for _ in range(20):
        times_out(1)
    assert world.router.timings.patience(unit.timing_class, 10.0) == pytest.approx(0.9)
    for _ in range(20):
        times_out(2)
    assert world.router.timings.patience(unit.timing_class, 10.0) == pytest.approx(2.7)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50)), min_size=30, max_size=80))
def test_fairness__all_backlogged__work_differs_by_at_most_two_units(asked: list[tuple[str, int]]) -> None:
    world = World(slots=1)
    blocker = world.place(world.unit("x"))
    given_work, left, placements = Counter[str](), Counter[str](), []
    for tenant, cost in asked:
        left[tenant] += 1

        def placed(outcome: Any, tenant: str = tenant, cost: int = cost) -> None:
            given_work[tenant] += cost
            left[tenant] -= 1
            placements.append(outcome)

        world.router.enqueue(world.unit(tenant, cost=cost), 0, {}, placed)
    tenants = set(left)
    world.router.answered(blocker)
    while placements and all(left[t] for t in tenants):
        assert max(given_work[t] for t in tenants) - min(given_work[t] for t in tenants) <= 100
        world.router.answered(placements.pop())


def test_quotas__window_slides__room_comes_back() -> None:
    now = [6000.0]
    quotas = Quotas(lambda: now[0])
    limits = TenantLimits(requests_per_minute=10, tokens_per_minute=1000)
    for _ in range(10):
        quotas.admit("t", limits, 10)
    with pytest.raises(QuotaExceededError) as caught:
        quotas.admit("t", limits, 10)
    assert caught.value.what == "requests"
    now[0] += caught.value.retry_after_seconds
    quotas.admit("t", limits, 10)


def test_quotas__corrected_below_the_estimate__gives_back() -> None:
    quotas = Quotas(lambda: 6000.0)
    limits = TenantLimits(tokens_per_minute=100)
    quotas.admit("t", limits, 100)
    with pytest.raises(QuotaExceededError):
        quotas.admit("t", limits, 10)
    quotas.correct("t", 100, 5)
    quotas.admit("t", limits, 95)


def test_quotas__left_but_not_corrected__place_is_free() -> None:
    quotas = Quotas(lambda: 6000.0)
    limits = TenantLimits(max_concurrent=1)
    quotas.admit("t", limits, 100)
    with pytest.raises(QuotaExceededError, match="at the same time"):
        quotas.admit("t", limits, 100)
    quotas.leave("t")
    quotas.admit("t", limits, 100)
