"""Which node takes a unit: rules in a fixed order, then a recorded random sample.

1. capability: nodes that offer it, in the wanted revision and context size, at an accepted price;
2. region: the preferred ones in their order, then all others by name;
3. best fit: the lowest adequate tier with a free slot, so that large nodes stay free for large work;
4. capacity: the pools hold only nodes with a free slot, and a node is sampled in proportion to its slots;
5. of four sampled candidates the one with the lowest expected cost in seconds, divided by its reputation.

A `Decision` holds every input, so that `replay` can compute it again. For example `parallelix gateway explain` does.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from offchain.domain.types import FULL_BPS, NodeId
from offchain.scheduler.fleet import Fleet, LiveNode
from offchain.scheduler.weighted_pool import SampleSource, SplitMix64, WeightedPool, WeightedSample, sample
from offchain.scheduler.work import Requirements

CHOICES = 4
MAX_SAMPLES = 16
_NOBODY: frozenset[NodeId] = frozenset()
_SECONDS = ("rtt_seconds", "first_byte_seconds")
DEFAULT_FIRST_BYTE_SECONDS = 0.05


class Candidate(NamedTuple):
    """A sampled node and the values that its cost was computed from.

    Attributes:
        busy, slots: slots in use or queued for, and slots in all.
        rtt_seconds, first_byte_seconds: measured means; 0 when unknown.
        uncached: share of the input's prefixes that the node has not seen lately, in thousandths.
        reputation_bps: 10,000 for a node without a record; 0 (suspended) occurs only for pinned units.
    """

    node_id: NodeId
    busy: int
    slots: int
    rtt_seconds: float
    first_byte_seconds: float
    uncached: int
    reputation_bps: int = FULL_BPS

    def cost(self) -> float:
        """Expected seconds to the first byte, `rtt + ttft x (0.5 + busy/slots) x (0.5 + uncached/2)`, over the reputation.

        Measured times are rounded to two significant bits: then nodes of nearly the same speed are equal, and the seed
        decides between them, not noise. Infinite for a suspended node.
        """
        if not self.reputation_bps:
            return math.inf
        first_byte = _coarse(self.first_byte_seconds or DEFAULT_FIRST_BYTE_SECONDS)
        load = self.busy / self.slots
        seconds = _coarse(self.rtt_seconds) + first_byte * (0.5 + load) * (0.5 + self.uncached / 2000)
        return seconds * FULL_BPS / self.reputation_bps


class Decision:
    """The choice of a node, and everything that it follows from.

    Attributes:
        seed: of the samples.
        region, tier: the pool that was sampled; empty and 0 for a pinned unit.
        shape: the pool's buckets at that time, see `WeightedPool.shape`.
        samples: in order; empty when the pool had at most four members, which were then all candidates.
        candidates: sampled nodes that fit the unit, in order.
        chosen: the node.
    """

    __slots__ = ("candidates", "chosen", "region", "samples", "seed", "shape", "tier")

    def __init__(
        self,
        seed: int,
        region: str,
        tier: int,
        shape: list[tuple[int, int, int]],
        samples: list[WeightedSample],
        candidates: list[Candidate],
        chosen: NodeId,
    ) -> None:
        self.seed = seed
        self.region = region
        self.tier = tier
        self.shape = shape
        self.samples = samples
        self.candidates = candidates
        self.chosen = chosen

    def to_json(self) -> dict[str, object]:
        """The decision as route receipts show it."""
        return {
            "seed": str(self.seed),
            "region": self.region,
            "tier": self.tier,
            "pool": [list(bucket) for bucket in self.shape],
            "draws": [[d.limit, d.place, d.member, d.weight, d.accepted] for d in self.samples],
            "candidates": [
                {**c._asdict(), "cost_seconds": c.cost() if c.reputation_bps else None}
                for c in self.candidates
            ],
            "chosen": int(self.chosen),
        }

    @classmethod
    def from_json(cls, data: dict[str, object]) -> "Decision":
        """Inverse of `to_json`. Raises ValueError when something is missing or malformed."""
        try:
            return cls(
                seed=int(str(data["seed"])),
                region=str(data["region"]),
                tier=int(str(data["tier"])),
                shape=[(int(a), int(b), int(c)) for a, b, c in _rows(data["pool"])],
                samples=[
                    WeightedSample(int(limit), int(index), int(member), int(weight), bool(accepted))
                    for limit, index, member, weight, accepted in _rows(data["draws"])
                ],
                candidates=[
                    Candidate._make([float(c[n]) if n in _SECONDS else c[n] for n in Candidate._fields])
                    for c in _rows(data["candidates"])
                ],
                chosen=NodeId(int(str(data["chosen"]))),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a recorded decision: {error!r}") from None


def _rows(value: object) -> list[Any]:
    if isinstance(value, list):
        return value
    raise ValueError("not a recorded decision: a list is missing")


def _coarse(seconds: float) -> float:
    """Seconds, rounded down to the two highest bits of their microseconds, e.g. 0.000_011 to 0.000_008."""
    if not seconds:
        return 0.0
    micros = int(seconds * 1_000_000)
    shift = micros.bit_length() - 2
    return (micros >> shift << shift if shift > 0 else micros) / 1_000_000


def fits(node: LiveNode, wants: Requirements) -> bool:
    """Whether a node's offer satisfies everything that the unit requires."""
    report = node.report
    offer = report.offers.get(wants.capability)
    if offer is None or offer.context_size < wants.context_size or report.tier < wants.min_tier:
        return False
    if wants.revision is not None and offer.revision != wants.revision:
        return False
    return wants.max_price_wei is None or report.price_per_token_wei <= wants.max_price_wei


def pick(
    fleet: Fleet,
    wants: Requirements,
    seed: int,
    regions: Sequence[str],
    excluded: Collection[NodeId] = (),
    affinity: tuple[int, ...] = (),
) -> Decision | None:
    """Choose an available node; None when no node fits.

    Args:
        seed: 64 bits; the same seed over the same fleet picks the same node.
        regions: in order of preference; regions not named come after them by name.
        excluded: nodes that must not be chosen, because they have failed this unit.
        affinity: hashes of growing prefixes of the input, see `WorkUnit`.
    """
    barred = frozenset(excluded) if excluded else _NOBODY
    by_region = fleet.pools(wants.capability)
    for region in _order(regions, by_region):
        for tier, pool in by_region[region].items():
            if tier < wants.min_tier or not len(pool):
                continue
            decision = _pick_from(fleet, pool, region, tier, wants, seed, barred, affinity)
            if decision is not None:
                return decision
    return None


def _order(preferred: Sequence[str], present: Collection[str]) -> Iterator[str]:
    """Regions in the order in which they are tried. Lazy: others are sorted only when no preferred region has a node."""
    for region in preferred:
        if region in present:
            yield region
    yield from sorted(region for region in present if region not in preferred)


def _pick_from(
    fleet: Fleet,
    pool: WeightedPool,
    region: str,
    tier: int,
    wants: Requirements,
    seed: int,
    barred: frozenset[NodeId],
    affinity: tuple[int, ...],
) -> Decision | None:
    shape = pool.shape()
    candidates: list[Candidate] = []
    samples: list[WeightedSample] = []
    if len(pool) > CHOICES:
        random = SplitMix64(seed)
        sampled: set[int] = set()
        refused: WeightedSample | None = None
        while len(samples) < MAX_SAMPLES and len(candidates) < CHOICES:
            one = sample(pool, shape, pool.total, random, refused)
            samples.append(one)
            refused = None if one.accepted else one
            if one.accepted and one.member not in sampled:
                sampled.add(one.member)
                _consider(fleet, NodeId(one.member), wants, barred, affinity, candidates)
    if not candidates:  # a small pool; or one in which hardly a node fits, which the samples missed
        for member in sorted(pool.members()):
            _consider(fleet, NodeId(member), wants, barred, affinity, candidates)
    if not candidates:
        return None
    return Decision(seed, region, tier, shape, samples, candidates, choose(seed, candidates))


def _consider(
    fleet: Fleet,
    node_id: NodeId,
    wants: Requirements,
    barred: frozenset[NodeId],
    affinity: tuple[int, ...],
    candidates: list[Candidate],
) -> None:
    node = fleet.get(node_id)
    if node is None or node_id in barred or not fits(node, wants):
        return
    candidates.append(candidate_of(node, _uncached(node, affinity)))


def candidate_of(node: LiveNode, uncached: int = 1000) -> Candidate:
    """A node as a candidate, as it is now."""
    report = node.report
    busy = node.leases + node.foreign + report.queue
    rtt, first_byte = node.rtt_seconds, node.first_byte_seconds
    return Candidate(report.node_id, busy, report.slots, rtt, first_byte, uncached, node.reputation_bps)


def _uncached(node: LiveNode, affinity: tuple[int, ...]) -> int:
    if not affinity:
        return 1000
    seen = 0
    for value in affinity:
        if value not in node.prefixes:
            break
        seen += 1
    return 1000 - 1000 * seen // len(affinity)


def choose(seed: int, candidates: Sequence[Candidate]) -> NodeId:
    """The candidate with the lowest cost; the seed decides between equal ones."""
    if len(candidates) == 1:
        return candidates[0].node_id
    cheapest = float("inf")
    equal: list[NodeId] = []
    for candidate in candidates:
        cost = candidate.cost()
        if cost < cheapest:
            cheapest, equal = cost, [candidate.node_id]
        elif cost == cheapest:
            equal.append(candidate.node_id)
    # another stream of numbers from the same seed, so that it does not follow the samples
    return equal[0] if len(equal) == 1 else equal[SplitMix64(seed ^ 0x5DEECE66D).below(len(equal))]


class _RecordedPool:
    """The pool as far as a decision recorded it. Raises LookupError for a place that was not sampled."""

    def __init__(self, decision: Decision) -> None:
        self._places = {(d.limit, d.place): (d.member, d.weight) for d in decision.samples}

    def member_at(self, limit: int, index: int) -> tuple[int, int]:
        return self._places[limit, index]


def replay(decision: Decision) -> NodeId:
    """Compute a recorded decision again from its seed, pool shape, samples and candidates. Returns the node.

    Raises:
        ValueError: the samples do not follow from the seed, or a candidate was not sampled.
    """
    random = SplitMix64(decision.seed)
    source: SampleSource = _RecordedPool(decision)
    total = sum(weight for _, _, weight in decision.shape)
    refused: WeightedSample | None = None
    for recorded in decision.samples:
        again: WeightedSample | None = None
        with suppress(LookupError, StopIteration):
            again = sample(source, decision.shape, total, random, refused)
        if again != recorded:
            raise ValueError(f"the sample of node {recorded.member} does not follow from the seed")
        refused = None if recorded.accepted else recorded
    accepted = {d.member for d in decision.samples if d.accepted}
    strangers = [c.node_id for c in decision.candidates if c.node_id not in accepted]
    if decision.samples and strangers and len(strangers) != len(decision.candidates):
        raise ValueError(f"candidates {strangers} were not sampled")
    if not decision.candidates:
        raise ValueError("a decision without a candidate")
    return choose(decision.seed, decision.candidates)
