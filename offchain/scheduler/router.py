"""Every decision about a unit of work, without I/O: on which node it goes, how long it waits, what an attempt's end means.

The clock (seconds) and the entropy (64 bits a call) are handed in, so tests and benches drive the same object as the gateway.
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
from offchain.scheduler.pick import Decision, candidate_of, fits, pick
from offchain.scheduler.work import FAULT_WEIGHT, FaultKind, NoCapacityError, Priority, Requirements, WorkUnit

MAX_LATE = 4096
LEARNING_SECONDS = 3.0
"""Seconds after its start by which a router has had a heartbeat of every live node. Before, an unknown model may be waited for."""

Tried: TypeAlias = Mapping[NodeId, bool]
"""Nodes that failed a unit. True: this node may get the unit again, but only after its circuit breaker half-opens and no
other node can serve it. False: never."""
NOBODY_TRIED: Tried = MappingProxyType({})


class Placement(NamedTuple):
    """A unit and the node of which it holds a slot, until the attempt ends."""

    unit: WorkUnit
    node: LiveNode
    lease: Lease
    decision: Decision


@dataclass(slots=True, eq=False)
class Waiter:
    """A unit that waits for a slot (or, when `absent`, for a node to come back).

    `placed` is called once, with a placement or with the reason why there is none.
    """

    unit: WorkUnit
    attempt: int
    tried: Tried
    placed: Callable[[Placement | NoCapacityError], None]
    deadline: float
    gone: bool = False
    absent: bool = False

    @property
    def tenant(self) -> str:
        return self.unit.tenant

    @property
    def priority(self) -> Priority:
        return self.unit.priority

    @property
    def capability(self) -> str:
        """The queue's key: the capability, or for a pinned unit `capability@node`."""
        wants = self.unit.requirements
        return wants.capability if wants.node_id is None else f"{wants.capability}@{wants.node_id}"


@dataclass(slots=True)
class RouterLimits:
    """Bounds of a router.

    Attributes:
        queue_length, tenant_queue_length: most units that may wait, in all and of one tenant.
        queue_seconds: longest wait for a slot.
        absence_seconds: seconds that a silent node still counts as expected back. A unit that only this node can serve
            waits that long, at most `queue_seconds`. 0 turns waiting for nodes off.
        absent_length: most units that may wait for nodes to come back; further ones are refused at once.
    """

    queue_length: int = 10_000
    tenant_queue_length: int = 1_000
    queue_seconds: float = 10.0
    absence_seconds: float = 0.0
    absent_length: int = 1_000


@dataclass(slots=True)
class Router:
    """Places units on nodes, keeps their leases, and learns from how attempts end. Example::

        placement = router.place(unit)         # None: `enqueue` it
        ...                                    # send it to placement.node
        if router.answered(placement):         # or `failed`, or `abandoned`: each placement ends once
            router.credit(placement)

    Attributes:
        fleet: the live index.
        regions: in order of preference, the gateway's own first.
        clock: seconds, monotonic.
        entropy: gives 64 random bits, the seed of one placement.
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
    """Units that wait for a node to come back, in order. Not in `_waiting`, where they would block those behind them."""
    _late: dict[str, set[NodeId]] = field(default_factory=dict)
    """Timing class -> nodes that timed out since the class last had a first byte."""
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.clock()

    @property
    def waiting(self) -> int:
        """Units that wait for a slot or for a node."""
        return len(self._waiting) + len(self._absent)

    # ------------------------------------------------------------------------------------------------- placing

    def place(self, unit: WorkUnit, attempt: int = 0, tried: Tried = NOBODY_TRIED) -> Placement | None:
        """Give a unit a slot now. None: every capable node is full or expected back, so the unit may `enqueue`.

        Raises:
            NoCapacityError: no node that is up or expected back could take this unit; waiting would not help.
        """
        now = self.clock()
        self.fleet.reopen(now)
        wants = unit.requirements
        if attempt == 0 and wants.node_id is None and self._waiting.has(wants.capability):
            return None  # those that wait go first, even if a slot is free just now
        try:
            return self._place(unit, attempt, tried, now)
        except NoCapacityError as no_capacity:
            if now < no_capacity.expected_until:
                return None
            raise

    def enqueue(
        self,
        unit: WorkUnit,
        attempt: int,
        tried: Tried,
        placed: Callable[[Placement | NoCapacityError], None],
    ) -> Waiter:
        """Let a unit wait for a slot (its node is chosen when one is free), or for a node that is expected back.

        Raises:
            NoCapacityError: the queue is full.
        """
        bound = None
        if self.waiting >= self.limits.queue_length:
            bound = "the queue is full"
        elif self._waiting.waiting_of(unit.tenant) >= self.limits.tenant_queue_length:
            bound = "too many of your requests wait"
        if bound is not None:
            message = f"every capable node is busy and {bound}"
            raise NoCapacityError("full", message, self._drain_estimate())
        now = self.clock()
        waiter = Waiter(unit, attempt, dict(tried), placed, now + self.limits.queue_seconds)
        no_capacity = None if unit.requirements.node_id is not None else self._why_not(unit, tried, now)
        if no_capacity is None:
            self._waiting.push(waiter, first=attempt > 0)  # its tenant paid for it already
        elif not self._await_return(waiter, no_capacity, now):
            raise no_capacity
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
        """Place every waiting unit that can be placed now, in the fair queue's order."""
        if not len(self._waiting):
            return
        now = self.clock()
        for capability in self._waiting.capabilities():
            while self._serve_one(capability, now):  # each placement changes whose turn it is
                pass

    def _serve_one(self, capability: str, now: float) -> bool:
        for waiter in self._waiting.order(capability):
            try:
                placement = self._place(waiter.unit, waiter.attempt, waiter.tried, now)
            except NoCapacityError as no_capacity:
                self._waiting.remove(waiter)
                if not self._await_return(waiter, no_capacity, now):
                    waiter.gone = True
                    waiter.placed(no_capacity)
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

    def _await_return(self, waiter: Waiter, no_capacity: NoCapacityError, now: float) -> bool:
        """Let a unit that no live node can take wait for a node, if one is expected back. Returns whether it waits."""
        waiter.absent = now < no_capacity.expected_until and len(self._absent) < self.limits.absent_length
        if waiter.absent:
            self._absent[waiter] = None
        return waiter.absent

    def _recall(self, now: float) -> None:
        """Move units whose node is back to the queue, and refuse those that no node is expected back for."""
        # one look for all units with the same wish: a thousand may wait
        found: dict[tuple[Requirements, frozenset[NodeId]], NoCapacityError | None] = {}
        for waiter in list(self._absent):
            unit, tried = waiter.unit, waiter.tried
            key = (unit.requirements, frozenset(node_id for node_id, again in tried.items() if not again))
            if key not in found:
                found[key] = self._why_not(unit, tried, now)
            no_capacity = found[key]
            if no_capacity is None:
                del self._absent[waiter]
                waiter.absent = False
                self._waiting.push(waiter, first=waiter.attempt > 0)
            elif now >= min(waiter.deadline, no_capacity.expected_until):
                self.leave(waiter)
                waiter.placed(self._why_not(unit, tried, now) or no_capacity)

    def tick(self) -> list[LiveNode]:
        """Do what is due by time: remove silent nodes, half-open breakers, place or refuse waiting units.

        Returns:
            The nodes that were removed as silent.
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
        """The first byte of the answer came `seconds` after the attempt began."""
        placement.node.first_byte_took(seconds)
        self.timings.observe(placement.unit.timing_class, seconds)
        if self._late:
            self._late.pop(placement.unit.timing_class, None)

    def answered(self, placement: Placement) -> bool:
        """The answer ended: free the slot. False when the lease was not held any more; then the answer must not be counted."""
        held = self._release(placement)
        self.pump()
        return held

    def credit(self, placement: Placement) -> None:
        """Count an answer whose checks passed in favour of its node."""
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
        """Wait longer for a timing class once two nodes (or the only one) timed out on it: one alone may simply hang."""
        unit = placement.unit
        if len(self._late) > MAX_LATE:
            self._late.clear()
        late = self._late.setdefault(unit.timing_class, set())
        late.add(placement.lease.node_id)
        if len(late) >= min(2, len(self.fleet.capable(unit.requirements.capability))):
            self.timings.observe(unit.timing_class, waited_seconds)

    def abandoned(self, placement: Placement) -> None:
        """The attempt ended for a reason that says nothing about its node: the caller left, or the request was at fault."""
        self._release(placement)
        self.pump()

    # -------------------------------------------------------------------------------------------------- inside

    def _place(self, unit: WorkUnit, attempt: int, tried: Tried, now: float) -> Placement | None:
        wants = unit.requirements
        if wants.node_id is not None:
            return self._place_pinned(unit, wants.node_id, attempt, tried)
        seed = self.entropy()
        regions = self.regions if wants.region is None else (wants.region, *self.regions)
        decision = pick(self.fleet, wants, seed, regions, tried, unit.affinity)
        # nobody is left who was not tried: those whose breaker has half-opened may have it again
        if decision is None and tried and self.limits.absence_seconds:
            barred = [node_id for node_id, again in tried.items() if not again]
            decision = pick(self.fleet, wants, seed, regions, barred, unit.affinity)
        if decision is None:
            no_capacity = self._why_not(unit, tried, now)
            if no_capacity is None:
                return None
            raise no_capacity
        return self._lease(unit, attempt, decision, self.fleet.at(decision.chosen))

    def _place_pinned(self, unit: WorkUnit, node_id: NodeId, attempt: int, tried: Tried) -> Placement | None:
        node = self.fleet.get(node_id)
        if node is None or node_id in tried or not fits(node, unit.requirements):
            message = f"node {node_id} is not up, or does not offer what is asked"
            raise NoCapacityError("node_unavailable", message)
        if node.free <= 0:
            return None
        decision = Decision(0, "", 0, [], [], [candidate_of(node)], node_id)
        return self._lease(unit, attempt, decision, node)

    def _lease(self, unit: WorkUnit, attempt: int, decision: Decision, node: LiveNode) -> Placement:
        lease = Lease(unit.request_id, attempt, decision.chosen)
        self.leases.grant(lease)
        self.fleet.leased(node)
        if attempt == 0:  # a tenant does not pay for its nodes' faults
            self._waiting.charge(unit.tenant, unit.cost)
        return Placement(unit, node, lease, decision)

    def _release(self, placement: Placement) -> bool:
        if self.leases.release(placement.lease.request_id, placement.lease.attempt) is None:
            return False
        self.fleet.released(placement.node)
        return True

    def _why_not(self, unit: WorkUnit, tried: Tried, now: float) -> NoCapacityError | None:
        """Why no node can take a unit, and until when one is expected back; None when some capable node is merely full."""
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
            if not node.reputation_bps or (node_id in tried and not (absence and tried[node_id])):
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
                learned_at = self._began + min(absence, LEARNING_SECONDS)
                message = f"no node has ever offered {name!r} here"
                return NoCapacityError("unknown_capability", message, expected_until=learned_at)
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
