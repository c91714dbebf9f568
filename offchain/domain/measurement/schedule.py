"""When a keeper probes a node: fixed once its seed is known, unpredictable before.

The seed is the hash of the keeper's deterministic (RFC 6979) signature over `probe_challenge`: nobody else can compute
it, the keeper cannot choose it, and the signature in the bundle lets anybody check it afterwards.
"""

from dataclasses import dataclass

from offchain.domain.eip712 import keccak256, word
from offchain.domain.epochs import EpochClock
from offchain.domain.types import Epoch, NodeId

_TAG = keccak256(b"parallelix.probe.schedule.v1")


def probe_message(epoch: Epoch, block_hash: bytes) -> bytes:
    """What a keeper signs: bound to the epoch and to a block from just before it."""
    return _TAG + word(epoch) + block_hash


def probe_challenge(epoch: Epoch, block_hash: bytes) -> bytes:
    """Hash of `probe_message`, 32 bytes."""
    return keccak256(probe_message(epoch, block_hash))


def seed_of(signature: bytes) -> bytes:
    """Seed of a keeper's schedule, 32 bytes, from its 65-byte signature over the challenge."""
    return keccak256(signature)


@dataclass(frozen=True, slots=True)
class ProbeSchedule:
    """Probe times of one keeper in one epoch.

    Attributes:
        clock: epoch arithmetic.
        epoch: the epoch.
        seed: 32 bytes of `seed_of`.
        window_bps: share of a slot, from its start, in which a probe may begin, so that it can also end in it.
    """

    clock: EpochClock
    epoch: Epoch
    seed: bytes
    window_bps: int = 6_000

    def due_ms(self, node: NodeId, slot: int) -> int:
        """Unix millisecond at which this keeper probes `node` in `slot`. Raises ValueError for a slot out of range."""
        start, end = self.clock.slot_bounds_ms(self.epoch, slot)
        window = max(1, (end - start) * self.window_bps // 10_000)
        draw = keccak256(self.seed + word(node) + word(slot))
        return start + int.from_bytes(draw[:16], "big") % window
