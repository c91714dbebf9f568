"""Weighted random sampling from a changing set. It is reproducible: the same seed over the same set samples the same member.

A pool keeps its members in buckets of similar weight (powers of two). A sample chooses a bucket by its total weight, then
members of it uniformly until one is accepted with probability weight / bucket limit, which is above one half. Insertion,
removal and sampling cost O(number of buckets), so 100,000 members cost as much as ten.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

_MASK = (1 << 64) - 1


class SplitMix64:
    """A 64-bit generator with a 64-bit seed (Steele, Lea, Flood, "Fast splittable pseudorandom number generators")."""

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def next(self) -> int:
        """The next 64 bits."""
        self._state = z = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def below(self, bound: int) -> int:
        """A number from 0 to bound - 1."""
        return (self.next() * bound) >> 64


@dataclass(slots=True)
class Bucket:
    """Members whose weight lies in (limit / 2, limit]; `weights[i]` is the weight of `members[i]`."""

    limit: int
    members: list[int] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    total: int = 0


class WeightedSample(NamedTuple):
    """One try of a sample: bucket (by its limit), index in it, the member there with its weight, and whether it was accepted."""

    limit: int
    place: int
    member: int
    weight: int
    accepted: bool


class SampleSource(Protocol):
    """What `sample` reads of a pool. `pick.replay` puts a recorded decision in the pool's place."""

    def member_at(self, limit: int, index: int) -> tuple[int, int]:
        """(member, weight) at an index of the bucket with this limit."""


class WeightedPool:
    """A set of integers with positive integer weights."""

    __slots__ = ("_buckets", "_places", "_shape", "total")

    def __init__(self) -> None:
        self._buckets: dict[int, Bucket] = {}
        self._places: dict[int, tuple[Bucket, int, int]] = {}
        self._shape: list[tuple[int, int, int]] | None = None
        self.total = 0

    def __len__(self) -> int:
        return len(self._places)

    def members(self) -> list[int]:
        """All members, in any order."""
        return list(self._places)

    def add(self, member: int, weight: int) -> None:
        """Insert a member or change its weight. Raises ValueError for a weight below 1."""
        if weight < 1:
            raise ValueError("a weight is at least 1")
        if member in self._places:
            if self._places[member][2] == weight:
                return
            self.remove(member)
        self._shape = None
        limit = 1 << (weight - 1).bit_length()
        bucket = self._buckets.get(limit)
        if bucket is None:
            self._buckets[limit] = Bucket(limit)
            self._buckets = dict(sorted(self._buckets.items()))
            bucket = self._buckets[limit]
        self._places[member] = (bucket, len(bucket.members), weight)
        bucket.members.append(member)
        bucket.weights.append(weight)
        bucket.total += weight
        self.total += weight

    def remove(self, member: int) -> None:
        """Remove a member, if it is in the pool."""
        place = self._places.pop(member, None)
        if place is None:
            return
        self._shape = None
        bucket, index, weight = place
        last, last_weight = bucket.members.pop(), bucket.weights.pop()
        if last != member:  # the last member fills the gap: O(1)
            bucket.members[index], bucket.weights[index] = last, last_weight
            self._places[last] = (bucket, index, last_weight)
        bucket.total -= weight
        self.total -= weight

    def shape(self) -> list[tuple[int, int, int]]:
        """(limit, number of members, total weight) of each bucket, ascending by limit."""
        if self._shape is None:  # decisions keep the list, so a change makes a new one instead of editing it
            self._shape = [(b.limit, len(b.members), b.total) for b in self._buckets.values() if b.members]
        return self._shape

    def member_at(self, limit: int, index: int) -> tuple[int, int]:
        bucket = self._buckets[limit]
        return bucket.members[index], bucket.weights[index]


def sample(
    source: SampleSource,
    shape: list[tuple[int, int, int]],
    total: int,
    random: SplitMix64,
    refused: WeightedSample | None = None,
) -> WeightedSample:
    """One try of a weighted sample: a bucket by its weight, an index in it, accepted by the member's weight.

    One 64-bit number decides all three: `bits * n` holds a number below n in its upper 64 bits and fresh bits in its lower 64.

    Args:
        shape: `WeightedPool.shape` of the source, not empty; callers read it once for several tries.
        total: weight of all members: the sum over `shape`.
        refused: the previous try if it was not accepted; this one stays in its bucket.
    """
    bits = random.next()
    place = 0
    if refused is not None:
        place = next(i for i, (limit, _, _) in enumerate(shape) if limit == refused.limit)
    elif len(shape) > 1:
        bits *= total
        point, bits = bits >> 64, bits & _MASK
        while point >= shape[place][2]:
            point -= shape[place][2]
            place += 1
    limit, count, _ = shape[place]
    bits *= count
    index, bits = bits >> 64, bits & _MASK
    member, weight = source.member_at(limit, index)
    return WeightedSample(limit, index, member, weight, weight == limit or bits * limit >> 64 < weight)
