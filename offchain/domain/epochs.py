"""Epoch and slot arithmetic.

::

    genesis            start(1)            start(2)
       |------ epoch 0 ----|------ epoch 1 ----|
                           |0|1|2| ... |n-1|     slots of epoch 1, equal up to a second's remainder
"""

from dataclasses import dataclass

from offchain.domain.types import Epoch


@dataclass(frozen=True, slots=True)
class EpochClock:
    """Maps Unix seconds to epochs and slots, exactly as the contracts do.

    Attributes:
        genesis: Unix seconds at which epoch 0 begins.
        length_seconds: length of an epoch.
        slots: probe slots of a node in an epoch.
    """

    genesis: int
    length_seconds: int
    slots: int

    def __post_init__(self) -> None:
        if self.length_seconds <= 0 or not 0 < self.slots <= self.length_seconds:
            raise ValueError("an epoch needs a positive length and between 1 and length_seconds slots")

    def epoch_at(self, timestamp: int) -> Epoch:
        """Epoch that holds `timestamp` (Unix seconds). Raises ValueError before genesis."""
        if timestamp < self.genesis:
            raise ValueError("timestamp lies before genesis")
        return Epoch((timestamp - self.genesis) // self.length_seconds)

    def start(self, epoch: Epoch) -> int:
        """First second of `epoch`, Unix seconds."""
        return self.genesis + epoch * self.length_seconds

    def end(self, epoch: Epoch) -> int:
        """First second after `epoch`, Unix seconds."""
        return self.start(epoch) + self.length_seconds

    def slot_at(self, timestamp: int) -> tuple[Epoch, int]:
        """Epoch and slot that hold `timestamp`. A slot s spans [start + s*L/n, start + (s+1)*L/n), rounded down."""
        epoch = self.epoch_at(timestamp)
        offset = timestamp - self.start(epoch)
        # the largest s with s*L//n <= offset
        slot = ((offset + 1) * self.slots - 1) // self.length_seconds
        return epoch, slot

    def slot_bounds_ms(self, epoch: Epoch, slot: int) -> tuple[int, int]:
        """First millisecond of a slot and first after it, Unix milliseconds. Raises ValueError for a slot out of range."""
        if not 0 <= slot < self.slots:
            raise ValueError(f"slot {slot} is not in 0..{self.slots - 1}")
        start_ms = self.start(epoch) * 1000
        span_ms = self.length_seconds * 1000
        # Multiplied first: neighbours meet, and the last slot ends with the epoch.
        return start_ms + slot * span_ms // self.slots, start_ms + (slot + 1) * span_ms // self.slots
