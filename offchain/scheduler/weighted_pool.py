"""Weighted draws from a changing set, from a seed that is kept: the same seed over the same set draws the same.

A pool keeps its members in buckets of similar weight (powers of two). A draw chooses a bucket by its total weight and
then, uniformly, members of it until one is accepted with probability weight / bucket limit, which is at least one half. All
of insertion, removal and draw cost O(number of buckets), so 100,000 members cost as much as ten.
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
        """64 bits."""
        self._state = z = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def below(self, bound: int) -> int:
        """A number in 0..bound-1."""
        return (self.next() * bound) >> 64


@dataclass(slots=True)
class Bucket:
    """Members whose weight lies in (limit / 2, limit], with their weights at the same places."""

    limit: int
    members: list[int] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    total: int = 0


class Draw(NamedTuple):
    """One draw: which place of which bucket, who was there, and whether it was taken."""

    limit: int
    place: int
    member: int
    weight: int
    accepted: bool


class DrawSource(Protocol):
    """What a draw needs to see of a pool; a recorded decision can play the part of the pool."""

    def shape(self) -> list[tuple[int, int, int]]:
        """(limit, number of members, total weight) of each bucket, by limit."""

    def member_at(self, limit: int, index: int) -> tuple[int, int]:
        """(member, weight) at a place of a bucket."""


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

    def __contains__(self, member: int) -> bool:
        return member in self._places

    def members(self) -> list[int]:
        """All members, in no promised order."""
        return list(self._places)

    def add(self, member: int, weight: int) -> None:
        """Insert a member, or change its weight. Raises ValueError for a weight below 1."""
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
        """Take a member out; nothing happens when it is not in."""
        place = self._places.pop(member, None)
        if place is None:
            return
        self._shape = None
        bucket, index, weight = place
        last, last_weight = bucket.members.pop(), bucket.weights.pop()
        if last != member:
            bucket.members[index], bucket.weights[index] = last, last_weight
            self._places[last] = (bucket, index, last_weight)
        bucket.total -= weight
        self.total -= weight

    def shape(self) -> list[tuple[int, int, int]]:
        if self._shape is None:  # decisions keep it, so that a change makes a new one
            self._shape = [(b.limit, len(b.members), b.total) for b in self._buckets.values() if b.members]
        return self._shape

    def member_at(self, limit: int, index: int) -> tuple[int, int]:
        bucket = self._buckets[limit]
        return bucket.members[index], bucket.weights[index]


def draw(
    source: DrawSource,
    shape: list[tuple[int, int, int]],
    total: int,
    random: SplitMix64,
    refused: Draw | None = None,
) -> Draw:
    """One try of a weighted draw: a bucket by weight, a place in it, accepted by weight.

    One number decides all three: `bits * n` has in its upper half a number below n, in its lower half bits for the next.

    Args:
        shape: `source.shape()`, not empty; taken once for several draws.
        total: weight of all members, the sum over `shape`.
        refused: the try before, when it was not accepted: the next one stays in its bucket.
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
    return Draw(limit, index, member, weight, weight == limit or bits * limit >> 64 < weight)
