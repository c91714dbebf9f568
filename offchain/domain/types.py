"""Names for the plain integers and strings that travel through the system."""

from dataclasses import dataclass
from typing import NewType

Wei = NewType("Wei", int)
"""An amount of a token, in its smallest unit."""
Weight = NewType("Weight", int)
"""stake_wei x tier multiplier in basis points; never divided, so that totals are exact sums."""
Epoch = NewType("Epoch", int)
NodeId = NewType("NodeId", int)
KeeperId = NewType("KeeperId", int)
Bps = NewType("Bps", int)
"""Basis points; 10,000 is the whole."""
Address = NewType("Address", str)
"""A 20-byte address as EIP-55 text."""

FULL_BPS = 10_000
MAX_NODES = 131_071
"""Highest node id: the uptime tree has 8,192 leaves of 16 slots and id 0 is never given."""


@dataclass(frozen=True, slots=True)
class BlockRef:
    """One block that a whole decision is read from.

    Attributes:
        number: height.
        hash: 32 bytes as 0x-hex.
        timestamp: Unix seconds of the block.
    """

    number: int
    hash: str
    timestamp: int
