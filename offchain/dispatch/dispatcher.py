"""Drives one unit of work through its attempts until it is answered: place, send, watch, try elsewhere.

::

    Router.place --> Task.call --> Upstream.start --> Task.feed ... Task.end --> Sink
                                        | too slow, cut, false
                                        +--> the next node, where `Task.call` goes on behind what the caller has

The dispatcher knows neither HTTP nor what the work is: an `Upstream` carries bytes, a `Task` understands them. Example::

    dispatcher = Dispatcher(Router(fleet, ("eu",), time.monotonic, entropy), HttpUpstream(ticket))
    delivered = await dispatcher.answer(unit, task, sink, RequestTrace(unit.request_id))
    if delivered is not None:
        dispatcher.verify_and_record(delivered)
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from offchain.dispatch.answer_status import first_bytes, refuse
from offchain.dispatch.hedging import HedgePolicy
from offchain.dispatch.task import Sink, Task
from offchain.dispatch.upstream import Call, Exchange, Upstream
from offchain.domain.types import NodeId
from offchain.scheduler.breaker import FAULT_LIMIT
from offchain.scheduler.router import Placement, Router, Tried
from offchain.scheduler.work import (
    FAULT_WEIGHT,
    Attempt,
    CallerError,
    FaultKind,
    NoCapacityError,
    NodeError,
    NotResumableError,
    RequestTrace,
    WorkUnit,
)

TICK_SECONDS = 0.025


class _Running:
    """An attempt in flight. `call` and `exchange` exist once it is in `_running`. Times are seconds of the router's clock."""

    __slots__ = (
        "answering", "began", "blocked", "call", "exchange", "hedge", "hedge_at", "node_id", "patience", "placement",
        "progressed",
    )  # fmt: skip

    call: Call
    exchange: Exchange

    def __init__(self, node_id: NodeId, began: float, placement: Placement) -> None:
        self.node_id = node_id
        self.began = began
        self.patience = float("inf")
        self.progressed = began
        self.placement = placement
        self.hedge_at = float("inf")
        self.hedge: _Hedge | None = None
        self.blocked = False
        self.answering = False


class DeliveredAnswer:
    """An answer that the caller has, and whose node has not been credited or charged for it yet.

    Attributes:
        held: whether the attempt's lease was still held when the answer ended; else it does not count for its node.
    """

    __slots__ = ("attempt", "held", "placement", "task", "unit")

    def __init__(
        self, unit: WorkUnit, placement: Placement, attempt: Attempt, task: Task, held: bool
    ) -> None:
        self.unit = unit
        self.placement = placement
        self.attempt = attempt
        self.task = task
        self.held = held


@dataclass(slots=True, eq=False)
class _Hedge:
    """A second attempt beside a slow first one. Whichever has a first byte goes on, the other is cancelled."""

    placement: Placement
    exchange: Exchange
    began: float
    waiting: "asyncio.Task[bytes] | None" = None
    won: bool = False


class Dispatcher:
    """Runs units of work, many at a time, on one event loop."""

    def __init__(
        self,
        router: Router,
        upstream: Upstream,
        *,
        max_attempts: int = 4,
        connect_seconds: float = 0.9,
        stall_seconds: float = 5.0,
        record_decisions: bool = True,
        hedge_share: float = 0.0,
    ) -> None:
        """
        Args:
            hedge_share: see `HedgePolicy`.
            max_attempts: nodes that one unit may be sent to.
            connect_seconds: time to open a connection to a node.
            stall_seconds: time without a byte, in the middle of an answer, after which the node counts as hung.
        """
        self.router = router
        self._upstream = upstream
        self._max_attempts = max_attempts
        self._connect_seconds = connect_seconds
        self._stall_seconds = stall_seconds
        self._record_decisions = record_decisions
        self.hedging = HedgePolicy(hedge_share)
        self._hedges: set[asyncio.Task[bytes]] = set()
        self._running: set[_Running] = set()
        self._ticker: asyncio.TimerHandle | None = None
        self.on_attempt: Callable[[WorkUnit, Attempt], None] | None = None

    @property
    def running(self) -> int:
        """Attempts in flight."""
        return len(self._running)

    async def run(self, unit: WorkUnit, task: Task, sink: Sink, trace: RequestTrace) -> None:
        """`answer`, then `verify_and_record` at once."""
        answered = await self.answer(unit, task, sink, trace)
        if answered is not None:
            self.verify_and_record(answered)

    async def answer(
        self, unit: WorkUnit, task: Task, sink: Sink, trace: RequestTrace
    ) -> "DeliveredAnswer | None":
        """Send a unit to nodes until one has answered it. `trace` gets each attempt, also when this raises.

        Returns:
            What to pass to `verify_and_record` soon; None when a failed attempt had already given the whole answer.

        Raises:
            NoCapacityError: no node could take the unit, or all that could have failed.
            CallerError: a node refused the unit for a fault of the caller.
            NotResumableError: the caller has part of the answer, the node failed, and no node can continue it exactly.
        """
        tried: dict[NodeId, bool] = {}
        hedge: _Hedge | None = None
        self.hedging.earn(unit.cost)
        while True:
            number = len(trace.attempts)
            placement = self.router.place(unit, number, tried) if hedge is None else hedge.placement
            if placement is None:
                placement = await self._queued(unit, number, tried, trace)
            node_id = placement.lease.node_id
            attempt = Attempt(node_id, number, self.router.clock() * 1000, resumed_from=task.delivered)
            trace.attempts.append(attempt)
            if self._record_decisions:
                trace.decisions.append(placement.decision)
            try:
                hedge = await self._attempt(placement, attempt, task, sink, hedge)
                if hedge is None:
                    return DeliveredAnswer(unit, placement, attempt, task, self.router.answered(placement))
                tried[node_id] = False
            except NodeError as fault:
                hedge = None
                if fault.kind is not FaultKind.NO_SLOT:  # a full node may get the unit again
                    tried[node_id] = FAULT_WEIGHT[fault.kind] >= FAULT_LIMIT
                if (rest := task.rest_if_complete()) is not None:
                    if not sink.write(rest):
                        await sink.drain()
                    return None
                # another revision of the model would give other tokens: the rest has to come from the same one
                if task.delivered and unit.requirements.revision is None:
                    offer = placement.node.report.offers[unit.requirements.capability]
                    wants = unit.requirements._replace(revision=offer.revision)
                    unit = unit._replace(requirements=wants)
                if number + 1 >= self._max_attempts:
                    raise NoCapacityError("failed", f"all of {number + 1} attempts failed") from fault
                if unit.requirements.node_id is not None and fault.kind is not FaultKind.NO_SLOT:
                    if task.delivered:
                        raise NotResumableError("the one node that was asked for failed") from fault
                    raise NoCapacityError("node_unavailable", f"node {node_id} failed: {fault}") from fault
            finally:
                if self.on_attempt is not None and attempt.outcome != "ok":
                    self.on_attempt(unit, attempt)

    def verify_and_record(self, answered: "DeliveredAnswer") -> None:
        """Check the receipt of a delivered answer, then credit its node or charge it with a fault."""
        attempt, placement = answered.attempt, answered.placement
        fault = answered.task.verdict()
        if fault is not None:
            attempt.reason, attempt.detail = fault.kind.value, fault.detail
            self.router.failed(placement, fault.kind)
        elif answered.held:
            self.router.credit(placement)
        if self.on_attempt is not None:
            self.on_attempt(answered.unit, attempt)

    async def _queued(self, unit: WorkUnit, number: int, tried: Tried, trace: RequestTrace) -> Placement:
        """Wait in the router's queue for a node. Raises NoCapacityError."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[Placement | NoCapacityError] = loop.create_future()
        began = self.router.clock()

        def placed(outcome: Placement | NoCapacityError) -> None:
            if not ready.done():
                ready.set_result(outcome)
            elif isinstance(outcome, Placement):  # cancelled before we took the slot: give it back
                self.router.abandoned(outcome)

        waiter = self.router.enqueue(unit, number, tried, placed)
        self._wake_ticker()
        try:
            outcome = await ready
        except asyncio.CancelledError:
            if ready.done() and not ready.cancelled() and isinstance(ready.result(), Placement):
                self.router.abandoned(ready.result())  # type: ignore[arg-type]
            raise
        finally:
            self.router.leave(waiter)
            trace.queue_ms += (self.router.clock() - began) * 1000
        if isinstance(outcome, NoCapacityError):
            raise outcome
        return outcome

    async def _attempt(
        self, placement: Placement, attempt: Attempt, task: Task, sink: Sink, ready: _Hedge | None
    ) -> _Hedge | None:
        """Run one attempt to its end. Returns None, or the hedge that was faster: it is the next attempt.

        Args:
            ready: a hedge that was faster; its exchange is open and has its first bytes.
        """
        router = self.router
        began = router.clock() if ready is None else ready.began
        watch = _Running(placement.lease.node_id, began, placement)
        exchange: Exchange | None = None
        try:
            exchange = self._open(watch, task, ready)
            await exchange.head()
            if exchange.status >= 400:
                await refuse(exchange)
            task.head(exchange.status, exchange.headers)
            first = b"" if ready is None or ready.waiting is None else ready.waiting.result()
            await self._body(exchange, watch, attempt, placement, task, sink, first)
            attempt.outcome = "ok"
        except NodeError as fault:
            attempt.outcome, attempt.reason, attempt.detail = "failed", fault.kind.value, fault.detail
            router.failed(placement, fault.kind, router.clock() - began)
            if fault.kind is FaultKind.HEDGE_LOST and watch.hedge is not None:
                # its exchange is the next attempt: the `finally` below must not call it off
                winner, watch.hedge = watch.hedge, None
                return winner
            raise
        except CallerError:
            attempt.outcome = "refused"
            router.abandoned(placement)
            raise
        except NotResumableError:
            attempt.outcome, attempt.reason = "failed", "not_resumable"
            router.abandoned(placement)
            raise
        except BaseException:
            # usually the caller has left; that says nothing about the node, which should stop working
            attempt.outcome, attempt.reason = "cancelled", FaultKind.CANCELLED.value
            if exchange is not None:
                exchange.close()
            router.abandoned(placement)
            raise
        finally:
            attempt.ms = (router.clock() - began) * 1000
            self._running.discard(watch)
            if watch.hedge is not None:
                self._call_off(watch)
            if exchange is not None:
                exchange.close()
        return None

    def _open(self, watch: _Running, task: Task, ready: _Hedge | None) -> Exchange:
        """Send the request, unless a hedge has done so, and put the attempt under watch."""
        placement, router = watch.placement, self.router
        watch.call = call = task.call(watch.node_id)
        timing_class = placement.unit.timing_class
        watch.patience = router.timings.patience(timing_class, task.initial_patience_seconds)
        if self.hedging.share and ready is None and not task.delivered:
            watch.hedge_at = watch.began + (router.timings.p95(timing_class) or float("inf"))
        if ready is None:
            exchange = self._upstream.start(watch.node_id, placement.node.report.url, call)
        else:
            exchange = ready.exchange
        watch.exchange = exchange
        self._running.add(watch)
        self._wake_ticker()
        return exchange

    async def _body(
        self,
        exchange: Exchange,
        watch: _Running,
        attempt: Attempt,
        placement: Placement,
        task: Task,
        sink: Sink,
        first: bytes,
    ) -> None:
        clock = self.router.clock
        while data := first or await exchange.read():
            first = b""
            watch.progressed = now = clock()
            if not watch.answering:
                watch.answering = True
                if watch.hedge is not None:
                    self._call_off(watch)
                attempt.first_byte_ms = (now - watch.began) * 1000
                self.router.first_byte(placement, now - watch.began)
            out = task.feed(data)
            if out and not sink.write(out):
                watch.blocked = True
                await sink.drain()
                watch.blocked = False
                watch.progressed = clock()
        tail = task.end()
        if tail and not sink.write(tail):
            await sink.drain()

    # ----------------------------------------------------------------------------------------------- the hedge

    def _start_hedge(self, watch: _Running) -> None:
        """Send the unit to a second node, unless a unit waits, no node is free, or the budget is spent."""
        watch.hedge_at = float("inf")
        unit, router = watch.placement.unit, self.router
        if unit.requirements.node_id is not None or router.waiting or not self.hedging.spend(unit.cost):
            return
        try:
            # the number that the next attempt would have: both leases are held at once
            placement = router.place(unit, watch.placement.lease.attempt + 1, {watch.node_id: False})
        except NoCapacityError:
            placement = None
        if placement is None:
            self.hedging.budget += unit.cost  # nothing was spent
            return
        exchange = self._upstream.start(placement.lease.node_id, placement.node.report.url, watch.call)
        watch.hedge = hedge = _Hedge(placement, exchange, router.clock())
        hedge.waiting = asyncio.get_running_loop().create_task(first_bytes(exchange))
        # the event loop itself holds tasks weakly
        self._hedges.add(hedge.waiting)
        hedge.waiting.add_done_callback(self._hedges.discard)
        hedge.waiting.add_done_callback(lambda _: self._hedge_ended(watch, hedge))

    def _hedge_ended(self, watch: _Running, hedge: _Hedge) -> None:
        if watch.hedge is not hedge or hedge.waiting is None or hedge.waiting.cancelled():
            return
        if hedge.waiting.exception() is not None or watch.answering or not hedge.waiting.result():
            self._call_off(watch)
            return
        hedge.won = True
        faster = f"node {hedge.placement.lease.node_id} was faster"
        watch.exchange.abort(NodeError(FaultKind.HEDGE_LOST, faster))

    def _call_off(self, watch: _Running) -> None:
        """Cancel an attempt's hedge."""
        hedge, watch.hedge = watch.hedge, None
        if hedge is not None:
            if hedge.waiting is not None:
                hedge.waiting.cancel()
            hedge.exchange.close()
            self.router.abandoned(hedge.placement)

    # ----------------------------------------------------------------------------------------------- the watch

    def _wake_ticker(self) -> None:
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._ticker = None
        silent = {node.report.node_id for node in self.router.tick()}
        now = self.router.clock()
        for watch in list(self._running):  # an abort may end the attempt at once
            fault = self._overdue(watch, now, silent)
            if fault is not None:
                if watch.hedge is None or not watch.hedge.won:  # the hedge that won has aborted it
                    watch.exchange.abort(fault)
            elif now >= watch.hedge_at and not watch.answering:
                self._start_hedge(watch)
        if self._running or self.router.waiting:
            self._wake_ticker()

    def _overdue(self, watch: _Running, now: float, silent: set[NodeId]) -> NodeError | None:
        if watch.blocked:  # the caller is slow, which says nothing about the node
            return None
        if not watch.exchange.connected and now - watch.began > self._connect_seconds:
            return NodeError(FaultKind.UNREACHABLE, f"no connection in {self._connect_seconds:g} s")
        if watch.answering:
            if now - watch.progressed > self._stall_seconds:
                return NodeError(FaultKind.STALLED, f"no byte for {self._stall_seconds:g} s")
        elif now - watch.began > watch.patience:
            return NodeError(FaultKind.FIRST_BYTE_TIMEOUT, f"no first byte in {watch.patience:.3g} s")
        if watch.node_id in silent:
            return NodeError(FaultKind.SILENT, "its heartbeats stopped")
        return None
