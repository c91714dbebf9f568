"""Pool, total weight and lapse of past epochs: read from the chain once, then kept while they cannot change.

::

    start(e) finalized?  --yes-->  pool(e), totalWeight(e) are kept for ever
                         --no -->  read again at each block of the index (a reorganisation may change them)
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from offchain.chain.reader import EpochStatus, Read
from offchain.domain.epochs import EpochClock
from offchain.domain.types import Epoch
from webapp.index import Head
from webapp.sources.chain import ChainEpoch, ChainSource, ChainUnavailableError

_COOL_OFF_SECONDS = 3.0
"""After a failed read, pages do without the chain for this long instead of waiting for it one after another."""


@dataclass(frozen=True, slots=True)
class KnownEpochs:
    """What is known of some epochs.

    Attributes:
        epochs: pool and total weight by epoch; an epoch is absent while the chain cannot be asked.
        lapsed: epochs without a report whose deadline has passed.
        error: why the chain could not be asked; None when it could.
    """

    epochs: Mapping[int, ChainEpoch]
    lapsed: frozenset[int]
    error: str | None


@dataclass(slots=True)
class _AtBlock:
    """What was read at one block.

    Attributes:
        asked: unreported epochs whose status was read.
        lapsed: those of them that lapsed.
    """

    block_hash: str
    epochs: dict[int, ChainEpoch] = field(default_factory=dict)
    asked: set[int] = field(default_factory=set)
    lapsed: set[int] = field(default_factory=set)


class EpochFacts:
    """Cache in front of the chain, shared by all requests of a process."""

    def __init__(
        self, chain: ChainSource, clock: EpochClock, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._chain = chain
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._final: dict[int, ChainEpoch] = {}
        self._latest = _AtBlock("")
        self._failed_at: float | None = None
        self._error = ""

    def load(self, head: Head | None, epochs: Sequence[int], unreported: Collection[int] = ()) -> KnownEpochs:
        """Pool and total weight of `epochs`, and which of the `unreported` epochs lapsed, all read at the head."""
        if head is None:
            return KnownEpochs({}, frozenset(), None)
        with self._lock:
            # The hash, not the number: after a reorganisation the same number is another block.
            if self._latest.block_hash != head.block_hash:
                self._latest = _AtBlock(head.block_hash)
            here = self._latest
            missing = [e for e in epochs if e not in self._final and e not in here.epochs]
            unasked = [e for e in unreported if e not in here.asked]
        error = None
        if missing or unasked:
            try:
                # Without the lock: a slow endpoint must not hold up pages whose epochs are known.
                self._ask(head, missing, unasked, here)
            except ChainUnavailableError as failure:
                error = str(failure)
        with self._lock:
            found = {e: known for e in epochs if (known := self._final.get(e) or here.epochs.get(e))}
            return KnownEpochs(found, frozenset(here.lapsed.intersection(unreported)), error)

    def _ask(self, head: Head, missing: Sequence[int], unreported: Sequence[int], here: _AtBlock) -> None:
        if self._failed_at is not None and self._monotonic() - self._failed_at < _COOL_OFF_SECONDS:
            raise ChainUnavailableError(self._error)
        calls = [Read("RewardDistributor", "poolOf", (e,)) for e in missing]
        calls += [Read("NodeRegistryLocker", "totalWeightAt", (e,)) for e in missing]
        calls += [Read("UptimeAttestation", "status", (e,)) for e in unreported]
        try:
            results = iter(self._chain.read(calls, head.ref))
        except ChainUnavailableError as failure:
            self._failed_at, self._error = self._monotonic(), str(failure)
            raise
        self._failed_at = None
        pools, totals = ({e: next(results) for e in missing} for _ in range(2))
        pairs = {e: (pools[e], totals[e]) for e in missing}
        read = {e: ChainEpoch(*pair) for e, pair in pairs.items() if None not in pair}
        # Both are fixed when the epoch begins, so it is enough that its beginning is finalized.
        final = {e: known for e, known in read.items() if self._clock.start(Epoch(e)) <= head.final_timestamp}
        with self._lock:
            here.epochs.update(read)
            here.asked.update(unreported)
            here.lapsed.update(e for e in unreported if next(results) == EpochStatus.LAPSED)
            self._final.update(final)
