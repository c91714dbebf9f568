"""The packed uptime tree of an epoch: fixed depth 13, 16 nodes a leaf; UptimeAttestation checks the same hashes.

::

    root  = keccak256(0x02 || epoch:4 || nodeCount:4 || top)
    inner = keccak256(0x01 || left || right)
    leaf  = keccak256(0x00 || epoch:4 || packed:32)
    packed(i) holds ids 16i..16i+15, uptime(id) = packed >> (16 * (id & 15)) & 0xffff

The place of a leaf is its index, so leaving a node out is provable, and a proof has exactly 13 hashes.
"""

from collections.abc import Mapping

from offchain.domain.eip712 import keccak256
from offchain.domain.types import FULL_BPS, MAX_NODES, Bps, Epoch, NodeId

DEPTH = 13
NODES_PER_LEAF = 16


class UptimeTree:
    """Merkle tree over the uptimes of one epoch, in basis points.

    Args:
        epoch: the epoch that the leaves are bound to.
        node_count: highest node id covered, 0..131,071.
        uptimes: uptime of each node; ids that are absent count as 0.

    Raises:
        ValueError: an id outside 1..node_count, or an uptime over 10,000.
    """

    def __init__(self, epoch: Epoch, node_count: int, uptimes: Mapping[NodeId, Bps]) -> None:
        if not 0 <= node_count <= MAX_NODES:
            raise ValueError(f"node_count {node_count} is not in 0..{MAX_NODES}")
        self.epoch = epoch
        self.node_count = node_count
        packed = [0] * (node_count // NODES_PER_LEAF + 1)
        for node, uptime in uptimes.items():
            if not 1 <= node <= node_count:
                raise ValueError(f"node {node} is not in 1..{node_count}")
            if not 0 <= uptime <= FULL_BPS:
                raise ValueError(f"uptime {uptime} of node {node} is over {FULL_BPS} basis points")
            packed[node // NODES_PER_LEAF] |= uptime << (16 * (node % NODES_PER_LEAF))
        self._packed = [value.to_bytes(32, "big") for value in packed]
        self._levels, self._empty = self._build()

    def _build(self) -> tuple[list[list[bytes]], list[bytes]]:
        # The first byte keeps leaf, inner node and root apart: none of them can be passed off as another.
        tag = b"\x00" + self.epoch.to_bytes(4, "big")
        level = [keccak256(tag + leaf) for leaf in self._packed]
        levels, empty = [level], [keccak256(tag + bytes(32))]
        for _ in range(DEPTH):
            if len(level) % 2:
                # Empty subtrees are hashed once a level, not leaf by leaf: the whole tree has 8,192.
                level = [*level, empty[-1]]
            level = [keccak256(b"\x01" + level[i] + level[i + 1]) for i in range(0, len(level), 2)]
            levels.append(level)
            empty.append(keccak256(b"\x01" + empty[-1] + empty[-1]))
        return levels, empty

    @property
    def root(self) -> bytes:
        """The 32 bytes that a report carries."""
        top = self._levels[DEPTH][0]
        return keccak256(b"\x02" + self.epoch.to_bytes(4, "big") + self.node_count.to_bytes(4, "big") + top)

    def leaf(self, node: NodeId) -> bytes:
        """The packed leaf, 32 bytes, that holds `node`. Raises ValueError for an id the tree does not cover."""
        self._check(node)
        return self._packed[node // NODES_PER_LEAF]

    def proof(self, node: NodeId) -> list[bytes]:
        """The 13 sibling hashes from leaf to top. Raises ValueError for an id the tree does not cover."""
        self._check(node)
        index = node // NODES_PER_LEAF
        siblings = []
        for depth in range(DEPTH):
            level, sibling = self._levels[depth], index ^ 1
            siblings.append(level[sibling] if sibling < len(level) else self._empty[depth])
            index >>= 1
        return siblings

    def uptime(self, node: NodeId) -> Bps:
        """Uptime of `node` as the tree holds it."""
        packed = int.from_bytes(self.leaf(node), "big")
        return Bps(packed >> (16 * (node % NODES_PER_LEAF)) & 0xFFFF)

    def _check(self, node: NodeId) -> None:
        if not 1 <= node <= self.node_count:
            raise ValueError(f"node {node} is not in 1..{self.node_count}")


def verify(root: bytes, epoch: Epoch, node_count: int, node: NodeId, leaf: bytes, proof: list[bytes]) -> bool:
    """Whether `leaf` stands at the place of `node` under `root`; the same walk as the contract's."""
    if len(proof) != DEPTH or len(leaf) != 32 or not 1 <= node <= node_count <= MAX_NODES:
        return False
    value = keccak256(b"\x00" + epoch.to_bytes(4, "big") + leaf)
    index = node // NODES_PER_LEAF
    for sibling in proof:
        pair = sibling + value if index & 1 else value + sibling
        value = keccak256(b"\x01" + pair)
        index >>= 1
    return root == keccak256(b"\x02" + epoch.to_bytes(4, "big") + node_count.to_bytes(4, "big") + value)
