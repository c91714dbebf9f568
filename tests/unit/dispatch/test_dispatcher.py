"""The dispatcher over scripted nodes: rescue, hedging, cancellation; and no slot stays taken."""

import asyncio
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from offchain.dispatch.dispatcher import Dispatcher
from offchain.dispatch.upstream import Call
from offchain.domain.types import NodeId
from offchain.scheduler.fleet import Fleet, NodeReport, Offer
from offchain.scheduler.router import Router, RouterLimits
from offchain.scheduler.work import (
    CallerError,
    FaultKind,
    NoCapacityError,
    NodeError,
    RequestTrace,
    Requirements,
    WorkUnit,
)


@dataclass
class Script:
    """What a node does with a request: wait, then give pieces; a fault comes instead of the rest."""

    delay: float = 0.0
    pieces: tuple[bytes, ...] = (b"a", b"b")
    fault: FaultKind | None = None
    status: int = 200


class ScriptedExchange:
    def __init__(self, script: Script) -> None:
        self.script = script
        self.status = script.status
        self.headers: Mapping[str, str] = {}
        self.connected = True
        self.closed = False
        self._left = list(script.pieces)
        self._fault: NodeError | None = None
        self._woken = asyncio.Event()

    async def _pause(self) -> None:
        if self.script.delay:
            try:
                await asyncio.wait_for(self._woken.wait(), self.script.delay)
            except TimeoutError:
                self.script = Script(0, self.script.pieces, self.script.fault)
        if self._fault is not None:
            raise self._fault

    async def head(self) -> None:
        await self._pause()

    async def read(self) -> bytes:
        await self._pause()
        if self._left:
            return self._left.pop(0)
        if self.script.fault is not None:
            raise NodeError(self.script.fault)
        return b""

    def abort(self, fault: NodeError) -> None:
        self._fault = fault
        self.script.delay = self.script.delay or 1
        self._woken.set()

    def close(self) -> None:
        self.closed = True


@dataclass
class Nodes:
    scripts: dict[int, list[Script]]
    opened: list[tuple[int, ScriptedExchange]] = field(default_factory=list)

    def start(self, node_id: NodeId, url: str, call: Call) -> ScriptedExchange:
        script = self.scripts[node_id].pop(0) if len(self.scripts[node_id]) > 1 else self.scripts[node_id][0]
        exchange = ScriptedExchange(Script(**vars(script)))
        self.opened.append((node_id, exchange))
        return exchange


class EchoTask:
    """Work whose answer is its pieces; resumable by starting again behind what was delivered."""

    initial_patience_seconds = 5.0

    def __init__(self, want: bytes = b"ab") -> None:
        self.want = want
        self.got = b""
        self.sent = b""

    @property
    def delivered(self) -> int:
        return len(self.sent)

    def call(self, node_id: NodeId) -> Call:
        self.got = b""
        return Call("/x", b"", bytes(32))

    def head(self, status: int, headers: dict[str, str]) -> None:
        return None

    def feed(self, data: bytes) -> bytes:
        self.got += data
        fresh = self.got[len(self.sent) :]
        self.sent += fresh
        return fresh

    def rest_if_complete(self) -> bytes | None:
        return None

    def end(self) -> bytes:
        if self.sent != self.want:
            raise NodeError(FaultKind.TRUNCATED)
        return b""

    def verdict(self) -> NodeError | None:
        return None


class Out:
    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> bool:
        self.data += data
        return True

    async def drain(self) -> None:
        return None


def world(
    scripts: dict[int, list[Script]], slots: int = 1, limits: RouterLimits | None = None, **options: Any
) -> tuple[Dispatcher, Nodes, Fleet]:
    fleet = Fleet(silence_seconds=60)
    seeds = itertools.count()
    limits = limits or RouterLimits(queue_seconds=0.2)
    router = Router(fleet, (), time.monotonic, lambda: next(seeds), limits)
    for node_id in scripts:
        hear(fleet, node_id, slots)
    nodes = Nodes(scripts)
    return Dispatcher(router, nodes, **options), nodes, fleet


def hear(fleet: Fleet, node_id: int, slots: int = 1) -> None:
    # an id is also a tier, so that the smaller one is always tried first
    report = NodeReport(NodeId(node_id), "http://x", "eu", node_id, {"m": Offer("r", 9)}, slots, slots)
    fleet.update(report, time.monotonic())


async def run(
    dispatcher: Dispatcher, task: EchoTask | None = None, number: int = 1
) -> tuple[bytes, RequestTrace]:
    out, trace = Out(), RequestTrace(number.to_bytes(32, "big"))
    unit = WorkUnit(trace.request_id, Requirements("m"), "t", cost=10, timing_class="c")
    await dispatcher.run(unit, task or EchoTask(), out, trace)
    return out.data, trace


def idle(dispatcher: Dispatcher, fleet: Fleet) -> bool:
    return (
        not any(node.leases for node in fleet)
        and len(dispatcher.router.leases) == 0
        and dispatcher.running == 0
    )


@pytest.mark.parametrize("kind", [FaultKind.RESET, FaultKind.SERVER_ERROR, FaultKind.BAD_ANSWER])
async def test_dispatcher__node_fails_at_once_or_midway__next_continues(kind: FaultKind) -> None:
    for pieces in ((), (b"a",)):
        dispatcher, _, fleet = world({1: [Script(pieces=pieces, fault=kind)], 2: [Script()]})
        data, trace = await run(dispatcher)
        assert data == b"ab"
        assert [(a.node_id, a.outcome, a.reason) for a in trace.attempts] == [
            (1, "failed", kind),
            (2, "ok", ""),
        ]
        assert idle(dispatcher, fleet)


async def test_dispatcher__everybody_fails__says_so_and_keeps_no_slot() -> None:
    dispatcher, _, fleet = world({1: [Script(pieces=(), fault=FaultKind.RESET)], 2: [Script(status=500)]})
    with pytest.raises(NoCapacityError) as caught:
        await run(dispatcher)
    assert caught.value.reason == "failed"
    assert idle(dispatcher, fleet)


@pytest.mark.parametrize("pieces", [(), (b"a",)])
async def test_dispatcher__only_node_is_cut_and_comes_back__the_unit_is_answered(
    pieces: tuple[bytes, ...],
) -> None:
    limits = RouterLimits(queue_seconds=5, absence_seconds=5)
    dispatcher, _, fleet = world({1: [Script(pieces=pieces, fault=FaultKind.RESET), Script()]}, limits=limits)
    running = asyncio.create_task(run(dispatcher))
    for _ in range(20):
        await asyncio.sleep(0)
    assert dispatcher.router.waiting == 1
    hear(fleet, 1)
    data, trace = await running
    assert data == b"ab"
    assert [(a.node_id, a.reason) for a in trace.attempts] == [(1, "connection_lost"), (1, "")]
    assert trace.queue_ms > 0
    assert idle(dispatcher, fleet)


async def test_dispatcher__caller_leaves_while_no_node_is_there__nobody_waits_any_more() -> None:
    dispatcher, _, fleet = world({1: [Script()]}, limits=RouterLimits(queue_seconds=5, absence_seconds=5))
    fleet.remove(NodeId(1))
    running = asyncio.create_task(run(dispatcher))
    for _ in range(20):
        await asyncio.sleep(0)
    assert dispatcher.router.waiting == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert dispatcher.router.waiting == 0
    assert idle(dispatcher, fleet)


async def test_dispatcher__callers_fault__goes_straight_back() -> None:
    dispatcher, nodes, fleet = world({1: [Script(status=400)], 2: [Script()]})
    with pytest.raises(CallerError):
        await run(dispatcher)
    assert len(nodes.opened) == 1
    assert idle(dispatcher, fleet)


async def test_dispatcher__no_byte_in_time__is_taken_elsewhere() -> None:
    dispatcher, _, fleet = world({1: [Script(delay=30)], 2: [Script()]})
    task = EchoTask()
    task.initial_patience_seconds = 0.05
    data, trace = await run(dispatcher, task)
    assert data == b"ab"
    assert trace.attempts[0].reason == FaultKind.FIRST_BYTE_TIMEOUT
    assert trace.attempts[0].ms < 500
    assert idle(dispatcher, fleet)


async def test_dispatcher__caller_leaves__exchange_closed_and_slot_free() -> None:
    for queued in (False, True):
        dispatcher, nodes, fleet = world({1: [Script(delay=30)]})
        first = asyncio.create_task(run(dispatcher))
        await asyncio.sleep(0.01)
        tasks = [first]
        if queued:
            tasks.append(asyncio.create_task(run(dispatcher, number=2)))
            await asyncio.sleep(0.01)
            assert dispatcher.router.waiting == 1
            tasks.reverse()
        for task in tasks:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert all(exchange.closed for _, exchange in nodes.opened)
        assert dispatcher.router.waiting == 0
        assert idle(dispatcher, fleet)


@pytest.mark.parametrize("ended", [False, True])
async def test_dispatcher__lease_ended_before_the_answer__counts_for_nobody(ended: bool) -> None:
    dispatcher, _, fleet = world({1: [Script()]})
    trace = RequestTrace(bytes(32))

    class Ending(Out):
        def write(self, data: bytes) -> bool:
            if ended and dispatcher.router.leases.release(trace.request_id, 0) is not None:
                fleet.released(next(iter(fleet)))
            return super().write(data)

    out = Ending()
    await dispatcher.run(WorkUnit(trace.request_id, Requirements("m"), "t"), EchoTask(), out, trace)
    assert out.data == b"ab"
    assert [node.succeeded for node in fleet] == [0 if ended else 1]
    assert idle(dispatcher, fleet)


async def test_dispatcher__placed_and_cancelled_at_the_same_moment__keeps_no_slot() -> None:
    dispatcher, _, fleet = world({1: [Script(delay=30)]})
    first = asyncio.create_task(run(dispatcher))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(run(dispatcher, number=2))
    await asyncio.sleep(0.01)
    second.cancel()
    first.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    assert idle(dispatcher, fleet)


def warm(dispatcher: Dispatcher, seconds: float) -> None:
    for _ in range(30):
        dispatcher.router.timings.observe("c", seconds)


async def test_hedge__first_node_slow__second_answers_and_the_first_is_cut() -> None:
    dispatcher, nodes, fleet = world({1: [Script(delay=20)], 2: [Script()]}, hedge_share=1.0)
    dispatcher.hedging.budget = 1000
    warm(dispatcher, 0.02)
    began = time.monotonic()
    data, trace = await run(dispatcher)
    assert data == b"ab"
    assert time.monotonic() - began < 0.5
    assert [(a.node_id, a.outcome, a.reason) for a in trace.attempts] == [
        (1, "failed", "hedge_lost"),
        (2, "ok", ""),
    ]
    assert all(exchange.closed for _, exchange in nodes.opened)
    assert idle(dispatcher, fleet)
    assert fleet.at(NodeId(1)).breaker.faults == 0


async def test_hedge__first_node_answers_after_all__second_is_called_off() -> None:
    dispatcher, nodes, fleet = world({1: [Script(delay=0.12)], 2: [Script(delay=20)]}, hedge_share=1.0)
    dispatcher.hedging.budget = 1000
    warm(dispatcher, 0.02)
    data, trace = await run(dispatcher)
    assert data == b"ab"
    assert [a.node_id for a in trace.attempts] == [1]
    assert [node for node, _ in nodes.opened] == [1, 2]
    assert all(exchange.closed for _, exchange in nodes.opened)
    await asyncio.sleep(0)
    assert idle(dispatcher, fleet)


@pytest.mark.parametrize(("share", "budget"), [(0.0, 1000.0), (0.01, 0.0)])
async def test_hedge__off_or_no_budget__nothing_is_started(share: float, budget: float) -> None:
    dispatcher, nodes, fleet = world({1: [Script(delay=0.12)], 2: [Script()]}, hedge_share=share)
    dispatcher.hedging.budget = budget
    warm(dispatcher, 0.02)
    await run(dispatcher)
    assert [node for node, _ in nodes.opened] == [1]
    assert idle(dispatcher, fleet)


async def test_hedge__both_fail__is_rescued_or_told() -> None:
    slow_reset = Script(delay=0.1, pieces=(), fault=FaultKind.RESET)
    dispatcher, _, fleet = world({1: [slow_reset], 2: [Script(status=500)], 3: [Script()]}, hedge_share=1.0)
    dispatcher.hedging.budget = 1000
    warm(dispatcher, 0.02)
    data, trace = await run(dispatcher)
    assert data == b"ab"
    assert trace.attempts[-1].outcome == "ok"
    assert idle(dispatcher, fleet)
