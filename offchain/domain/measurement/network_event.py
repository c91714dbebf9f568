"""Network events: many nodes seem down at once, but only from few places. Then the network between failed, not the nodes.

Looked at are the whole network and each region of nodes. In a slot such a group has a network event when all three hold:

- at least `MIN_NODES` of its nodes were probed in the slot,
- more than half of them would lose it,
- it is seen from few places: fewer than two thirds of the epoch's keepers signed a miss, or the region has keepers of its
  own and none of them did, so that all misses came from outside.

In a suspended slot only one region's misses stay, so that the slot counts as probed and as up for the group's nodes.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from offchain.domain.measurement.uptime import REGIONS_FOR_A_MISS, Observation
from offchain.domain.types import Address, NodeId

MIN_NODES = 10
EVERYWHERE = ""
"""The group of all nodes."""
OWNER_SHARE = 3
"""A region counts only while no owner has more than a third of its nodes: nobody makes a region of his own."""


@dataclass(frozen=True, slots=True, order=True)
class NetworkEvent:
    """A slot that is suspended for a region's nodes, or for all when `region` is empty."""

    slot: int
    region: str


def regions_of(
    published: Iterable[Mapping[str, Sequence[int]]], owners: Mapping[NodeId, Address]
) -> dict[NodeId, str]:
    """Region of each node, by majority of the keepers.

    A node has no region without a strict majority, in a region of fewer than `MIN_NODES` nodes, or in one that is mostly
    one owner's.

    Args:
        published: for each keeper, nodes by region.
        owners: owner of every node of the epoch.
    """
    votes: dict[NodeId, list[str]] = defaultdict(list)
    for regions in published:
        for region, nodes in regions.items():
            for node in nodes:
                votes[NodeId(node)].append(region)
    agreed: dict[NodeId, str] = {}
    for node, labels in votes.items():
        label, count = Counter(labels).most_common(1)[0]
        if node in owners and 2 * count > len(labels):
            agreed[node] = label
    sizes = Counter(agreed.values())
    largest: Counter[str] = Counter()
    for (region, _owner), count in Counter((region, owners[node]) for node, region in agreed.items()).items():
        largest[region] = max(largest[region], count)
    fair = {
        region
        for region, size in sizes.items()
        if size >= MIN_NODES and OWNER_SHARE * largest[region] <= size
    }
    return {node: region for node, region in agreed.items() if region in fair}


def network_events(
    seen: Mapping[int, Sequence[Observation]],
    keepers: int,
    regions: Mapping[NodeId, str],
    homes: Collection[str],
) -> tuple[NetworkEvent, ...]:
    """All network events of an epoch, in order.

    Args:
        seen: verified observations by keeper.
        keepers: size of the epoch's keeper set.
        regions: of the nodes, as `regions_of` gives them.
        homes: regions in which the epoch has keepers.
    """
    missed: dict[NetworkEvent, dict[NodeId, set[str]]] = defaultdict(lambda: defaultdict(set))
    witnesses: dict[NetworkEvent, set[tuple[int, str]]] = defaultdict(set)
    up: dict[NetworkEvent, set[NodeId]] = defaultdict(set)
    for keeper, observations in seen.items():
        for item in observations:
            if not item.answered:
                for place in _places(item, regions):
                    missed[place][item.node].add(item.region)
                    witnesses[place].add((keeper, item.region))
    slots = {place.slot for place in missed}
    for observations in seen.values():
        for item in observations:
            if item.answered and item.slot in slots:
                for place in _places(item, regions):
                    up[place].add(item.node)
    found = []
    for place, nodes in missed.items():
        lost = sum(
            1 for node, where in nodes.items() if node not in up[place] and len(where) >= REGIONS_FOR_A_MISS
        )
        probed = len(up[place] | nodes.keys())
        # A keeper there that is cut off signs nothing, as in an outage of its region (ADR 0078).
        outside = place.region in homes and all(region != place.region for _, region in witnesses[place])
        few = outside or 3 * len(witnesses[place]) < 2 * keepers
        if probed >= MIN_NODES and 2 * lost > probed and few:
            found.append(place)
    return tuple(sorted(found))


def without(
    seen: Mapping[int, Sequence[Observation]], events: Collection[NetworkEvent], regions: Mapping[NodeId, str]
) -> list[Observation]:
    """All observations, with the misses that an event suspends cut to those of one region."""
    suspended = set(events)

    def is_suspended(item: Observation) -> bool:
        return not item.answered and any(place in suspended for place in _places(item, regions))

    first: dict[int, str] = {}
    if suspended:
        for observations in seen.values():
            for item in observations:
                if is_suspended(item):
                    # Any one region would do, but all keepers must keep the same one.
                    first[item.slot] = min(first.get(item.slot, item.region), item.region)
    return [
        item
        for observations in seen.values()
        for item in observations
        if not suspended or not is_suspended(item) or item.region == first[item.slot]
    ]


def _places(item: Observation, regions: Mapping[NodeId, str]) -> Iterator[NetworkEvent]:
    yield NetworkEvent(item.slot, EVERYWHERE)
    region = regions.get(item.node)
    if region is not None:
        yield NetworkEvent(item.slot, region)
