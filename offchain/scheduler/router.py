"""Every decision about a unit, without I/O: a simulator and the network drive this same object.

The clock (seconds) and the entropy (64 bits a call) come from outside.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from offchain.domain.types import NodeId
from offchain.scheduler.breaker import BreakerState
from offchain.scheduler.fair_queue import FairQueue
from offchain.scheduler.fleet import Fleet, LiveNode
from offchain.scheduler.latency import Timings
from offchain.scheduler.lease import Lease, LeaseTable
from offchain.scheduler.pick import Candidate, Decision, fits, pick
from offchain.scheduler.work import FAULT_WEIGHT, FaultKind, NoCapacityError, Priority, Requirements, WorkUnit

MAX_LATE = 4096
SETTLE_SECONDS = 3.0
"""After its start a router has heard of every node that lives, and knows by then which capabilities nobody has."""

Tried: TypeAlias = Mapping[NodeId, bool]
"""Nodes that failed a unit, and whether they may be tried again: those may whose breaker their fault has opened, once it
half-opens and nobody else can serve."""
NOBODY_TRIED: Tried = MappingProxyType({})


class Placement(NamedTuple):
    """A unit that has a slot on a node until it is released."""

    unit: WorkUnit
    node: LiveNode
    lease: Lease
    decision: Decision


@dataclass(slots=True, eq=False)
class Waiter:
    """A unit in the queue. `placed` is called once, with a placement or with the reason why there is none."""

    unit: WorkUnit
    attempt: int
    tried: Tried
    placed: Callable[[Placement | NoCapacityError], None]
    deadline: float
    gone: bool = False
    absent: bool = False

    @property
    def tenant(self) -> str:
        """Whose unit it is."""
        return self.unit.tenant

    @property
    def priority(self) -> Priority:
        """Its admission class."""
        return self.unit.priority

    @property
    def capability(self) -> str:
        """What it waits for; a pinned unit waits for its node, in a line of its own."""
        wants = self.unit.requirements
        return wants.capability if wants.node_id is None else f"{wants.capability}@{wants.node_id}"


@dataclass(slots=True)
class RouterLimits:
    """Bounds of a router.

    Attributes:
        queue_length: units that may wait in all.
        tenant_queue_length: units of one tenant that may wait.
        queue_seconds: how long one may wait for a slot.
        absence_seconds: for so long after a node was last heard of it is expected back, and a unit that nobody else can
            take waits for it, no longer than for a slot; 0: none does.
        absent_length: units that may wait for nodes to come back; the next ones are told at once.
    """

    queue_length: int = 10_000
    tenant_queue_length: int = 1_000
    queue_seconds: float = 10.0
    absence_seconds: float = 0.0
    absent_length: int = 1_000


@dataclass(slots=True)
class Router:
    """Places units on nodes, keeps the leases, learns from how attempts end.

    Attributes:
        fleet: the live index.
        regions: in order of preference, our own first.
        clock: seconds, monotonic.
        entropy: 64 random bits; each placement's seed.
    """

    fleet: Fleet
    regions: Sequence[str]
    clock: Callable[[], float]
    entropy: Callable[[], int]
    limits: RouterLimits = field(default_factory=RouterLimits)
    timings: Timings = field(default_factory=Timings)
    leases: LeaseTable = field(default_factory=LeaseTable)
    _waiting: FairQueue[Waiter] = field(default_factory=FairQueue)
    _absent: dict[Waiter, None] = field(default_factory=dict)
    """Who waits for a node to come back, in order; apart from the queue, so that nobody stands behind them."""
    _late: dict[str, set[NodeId]] = field(default_factory=dict)
    """Timing class -> nodes that let it wait too long since it last had a first byte."""
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.clock()

    @property
    def waiting(self) -> int:
        """Units that wait, for a slot or for a node."""
        return len(self._waiting) + len(self._absent)

    # ------------------------------------------------------------------------------------------------- placing

    def place(self, unit: WorkUnit, attempt: int = 0, tried: Tried = NOBODY_TRIED) -> Placement | None:
        """Give a unit a slot now; None: capable nodes are full, or are expected back, so that it may wait.

        Raises:
            NoCapacityError: no node that is up or expected can take this unit, so that waiting would not help.
        """
        now = self.clock()
        self.fleet.reopen(now)
        wants = unit.requirements
        if attempt == 0 and wants.node_id is None and self._waiting.has(wants.capability):
            return None
        try:
            return self._place(unit, attempt, tried, now)
        except NoCapacityError as nobody:
            if now < nobody.expected_until:
                return None
            raise

    def enqueue(
        self,
        unit: WorkUnit,
        attempt: int,
        tried: Tried,
        placed: Callable[[Placement | NoCapacityError], None],
    ) -> Waiter:
        """Wait for a slot; late binding: the node is chosen when one is free. Or wait for a node that is expected back.

        Raises:
            NoCapacityError: the queue is full.
        """
        if self.waiting >= self.limits.queue_length:
            raise NoCapacityError(
                "full", "every capable node is busy and the queue is full", self._drain_estimate()
            )
        if self._waiting.waiting_of(unit.tenant) >= self.limits.tenant_queue_length:
            raise NoCapacityError(
                "full",
                "every capable node is busy and too many of your requests wait",
                self._drain_estimate(),
            )
        now = self.clock()
        waiter = Waiter(unit, attempt, dict(tried), placed, now + self.limits.queue_seconds)
        nobody = None if unit.requirements.node_id is not None else self._why_not(unit, tried, now)
        if nobody is None:
            self._waiting.push(waiter, first=attempt > 0)
        elif not self._await_return(waiter, nobody, now):
            raise nobody
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Stop waiting."""
        if waiter.gone:
            return
        waiter.gone = True
        if waiter.absent:
            del self._absent[waiter]
        else:
            self._waiting.remove(waiter)

    def pump(self) -> None:
        """Place whoever can be placed, in the order of fairness."""
        if not len(self._waiting):
            return
        now = self.clock()
        for capability in self._waiting.capabilities():
            while self._serve_one(capability, now):
                pass

    def _serve_one(self, capability: str, now: float) -> bool:
        for waiter in self._waiting.order(capability):
            try:
                placement = self._place(waiter.unit, waiter.attempt, waiter.tried, now)
            except NoCapacityError as nobody:
                self._waiting.remove(waiter)
                if not self._await_return(waiter, nobody, now):
                    waiter.gone = True
                    waiter.placed(nobody)
                return True
            if placement is not None:
                self.leave(waiter)
                waiter.placed(placement)
                return True
        return False

    def _turn_away(self, now: float) -> None:
        for waiter in self._waiting.everybody():
            if now >= waiter.deadline:
                self.leave(waiter)
                waited = f"every capable node was busy for {self.limits.queue_seconds:g} s"
                waiter.placed(NoCapacityError("full", waited, self._drain_estimate()))

    def _await_return(self, waiter: Waiter, nobody: NoCapacityError, now: float) -> bool:
        """Let a unit that stands in no line wait for a node, if one is expected. Returns whether it does."""
        waiter.absent = now < nobody.expected_until and len(self._absent) < self.limits.absent_length
        if waiter.absent:
            self._absent[waiter] = None
        return waiter.absent

    def _recall(self, now: float) -> None:
        """Those whose node is back stand in line; those who can expect none any more are told why."""
        found: dict[tuple[Requirements, frozenset[NodeId]], NoCapacityError | None] = {}
        for waiter in list(self._absent):
            unit, tried = waiter.unit, waiter.tried
            key = (unit.requirements, frozenset(node_id for node_id, again in tried.items() if not again))
            if key not in found:
                found[key] = self._why_not(unit, tried, now)
            nobody = found[key]
            if nobody is None:
                del self._absent[waiter]
                waiter.absent = False
                self._waiting.push(waiter, first=waiter.attempt > 0)
            elif now >= min(waiter.deadline, nobody.expected_until):
                self.leave(waiter)
                waiter.placed(self._why_not(unit, tried, now) or nobody)

    def tick(self) -> list[LiveNode]:
        """What time alone brings about: silent nodes leave, breakers half-open, waiters move or give up.

        Returns:
            The nodes that have just fallen silent.
        """
        now = self.clock()
        silent = self.fleet.expire(now)
        self.fleet.reopen(now)
        if self._absent:
            self._recall(now)
        if len(self._waiting):
            self.pump()
            self._turn_away(now)
        return silent

    # ------------------------------------------------------------------------------------------------ outcomes

    def first_byte(self, placement: Placement, seconds: float) -> None:
        """The answer has begun, `seconds` after the attempt did."""
        placement.node.first_byte_took(seconds)
        self.timings.observe(placement.unit.timing_class, seconds)
        if self._late:
            self._late.pop(placement.unit.timing_class, None)

    def answered(self, placement: Placement) -> bool:
        """The answer is out. False when its lease had ended before, so that nothing may be counted."""
        held = self._release(placement)
        self.pump()
        return held

    def credit(self, placement: Placement) -> None:
        """An answer that was held to be good: it counts for its node."""
        self.fleet.succeeded(placement.node)
        if placement.unit.affinity:
            placement.node.remember_prefixes(placement.unit.affinity)

    def failed(self, placement: Placement, kind: FaultKind, waited_seconds: float = 0.0) -> bool:
        """The attempt failed. Returns whether the node's breaker opened."""
        self._release(placement)
        if kind is FaultKind.NO_SLOT:
            self.fleet.occupied(placement.node)
        if kind is FaultKind.FIRST_BYTE_TIMEOUT:
            self._came_too_late(placement, waited_seconds)
        opened = self.fleet.failed(placement.node, FAULT_WEIGHT[kind], self.clock())
        self.pump()
        return opened

    def _came_too_late(self, placement: Placement, waited_seconds: float) -> None:
        """Be more patient with a class that all nodes are slow at, and not because one of them hangs."""
        unit = placement.unit
        if len(self._late) > MAX_LATE:
            self._late.clear()
        late = self._late.setdefault(unit.timing_class, set())
        late.add(placement.lease.node_id)
        if len(late) >= min(2, len(self.fleet.capable(unit.requirements.capability))):
            self.timings.observe(unit.timing_class, waited_seconds)

    def abandoned(self, placement: Placement) -> None:
        """The attempt ended for a reason that says nothing of its node (the caller left, or its own fault)."""
        self._release(placement)
        self.pump()

    def patience(self, unit: WorkUnit, initial_seconds: float) -> float:
        """Seconds to wait for a first byte."""
        return self.timings.patience(unit.timing_class, initial_seconds)

    # -------------------------------------------------------------------------------------------------- inside

    def _place(self, unit: WorkUnit, attempt: int, tried: Tried, now: float) -> Placement | None:
        wants = unit.requirements
        if wants.node_id is not None:
            return self._place_pinned(unit, wants.node_id, attempt, tried)
        seed = self.entropy()
        regions = self.regions if wants.region is None else (wants.region, *self.regions)
        decision = pick(self.fleet, wants, seed, regions, tried, unit.affinity)
        if decision is None and tried and self.limits.absence_seconds:
            barred = [node_id for node_id, again in tried.items() if not again]
            decision = pick(self.fleet, wants, seed, regions, barred, unit.affinity)
        if decision is None:
            nobody = self._why_not(unit, tried, now)
            if nobody is None:
                return None
            raise nobody
        return self._lease(unit, attempt, decision, self.fleet.at(decision.chosen))

    def _place_pinned(self, unit: WorkUnit, node_id: NodeId, attempt: int, tried: Tried) -> Placement | None:
        node = self.fleet.get(node_id)
        if node is None or node_id in tried or not fits(node, unit.requirements):
            raise NoCapacityError(
                "node_unavailable", f"node {node_id} is not up, or does not offer what is asked"
            )
        if node.free <= 0:
            return None
        report = node.report
        candidate = Candidate(
            node_id,
            node.leases + node.foreign + report.queue,
            report.slots,
            node.rtt_seconds,
            node.first_byte_seconds,
            1000,
            node.reputation_bps,
        )
        return self._lease(unit, attempt, Decision(0, "", 0, [], [], [candidate], node_id), node)

    def _lease(self, unit: WorkUnit, attempt: int, decision: Decision, node: LiveNode) -> Placement:
        lease = Lease(unit.request_id, attempt, decision.chosen)
        self.leases.grant(lease)
        self.fleet.leased(node)
        if attempt == 0:
            self._waiting.charge(unit.tenant, unit.cost)
        return Placement(unit, node, lease, decision)

    def _release(self, placement: Placement) -> bool:
        if self.leases.release(placement.lease.request_id, placement.lease.attempt) is None:
            return False
        self.fleet.released(placement.node)
        return True

    def _why_not(self, unit: WorkUnit, tried: Tried, now: float) -> NoCapacityError | None:
        """Why no node can take a unit, and until when one may be expected to; None when some are merely full."""
        wants = unit.requirements
        name = wants.capability
        capable = self.fleet.capable(name)
        absence = self.limits.absence_seconds
        reopens: float | None = None
        expected = 0.0
        failed = fitting = 0
        for node_id, node in capable.items():
            if not fits(node, wants):
                continue
            fitting += 1
            if node_id in tried:
                failed += 1
            if (
                node.draining
                or not node.reputation_bps
                or (node_id in tried and not (absence and tried[node_id]))
            ):
                continue
            breaker = node.breaker
            if breaker.state is not BreakerState.OPEN:
                return None
            if node_id not in tried:
                wait = max(0.0, breaker.open_until - now)
                reopens = wait if reopens is None else min(reopens, wait)
            if breaker.open_seconds <= absence:
                expected = max(expected, node.seen_at + absence)
        if not capable:
            heard = self.fleet.last_heard(name)
            if heard is None:
                settled = self._began + min(absence, SETTLE_SECONDS)
                message = f"no node has ever offered {name!r} here"
                return NoCapacityError("unknown_capability", message, expected_until=settled)
            expected = heard + absence
        reason, message, retry = "no_capable_node", f"no node that serves {name!r} is up", 2.0
        if failed and failed == fitting:
            reason, message = "failed", f"every node that can serve {name!r} was tried and failed"
            retry = 1.0
        elif reopens is not None or failed:
            message = f"the nodes that serve {name!r} are failing; they are tried again soon"
            retry = max(1.0, reopens or 0.0)
        elif capable and not fitting:
            message = f"{len(capable)} node(s) offer {name!r}, but none with the size, revision, tier or price asked for"
            retry = 1.0
        return NoCapacityError(reason, message, retry, expected)

    def _drain_estimate(self) -> float:
        return max(1.0, min(30.0, self.limits.queue_seconds * len(self._waiting) / self.limits.queue_length))
