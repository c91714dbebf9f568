"""Pools, totals and lapses of past epochs: asked of the chain once, kept while they cannot change.

::

    start(e) finalized?  --yes-->  pool(e), totalWeight(e) are kept for ever
                         --no -->  read again at the page's block (a reorganisation may still move them)
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from offchain.chain.reader import Read
from offchain.domain.epochs import EpochClock
from offchain.domain.types import Epoch
from webapp.index import Head
from webapp.sources.chain import ChainEpoch, ChainSource, ChainUnavailableError

_BATCH = 240
_LAPSED = 3
_COOL_OFF_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class FactSet:
    """What is known of some epochs.

    Attributes:
        epochs: facts by epoch; an epoch is absent while the chain cannot be asked.
        lapsed: epochs without a report whose deadline has passed.
        error: why the chain could not be asked; None when it could.
    """

    epochs: Mapping[int, ChainEpoch]
    lapsed: frozenset[int]
    error: str | None


class EpochFacts:
    """Cache in front of the chain, shared by all requests of a process.

    Args:
        chain: pinned reads.
        clock: the network's epochs.
        known: facts to begin with.
        keep: called with what becomes permanent, to write it down.
        monotonic: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        chain: ChainSource,
        clock: EpochClock,
        known: Mapping[int, ChainEpoch] | None = None,
        keep: Callable[[Mapping[int, ChainEpoch]], None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chain = chain
        self._clock = clock
        self._known = dict(known or {})
        self._lapsed: set[int] = set()
        self._keep = keep
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._failed_at: float | None = None
        self._error = ""
        self._fresh: tuple[str, dict[int, ChainEpoch], set[int]] = ("", {}, set())

    def load(self, head: Head | None, epochs: Sequence[int], unreported: Collection[int] = ()) -> FactSet:
        """Facts of epochs that have begun, pinned at the head; `unreported` ones are also asked whether they lapsed."""
        if head is None:
            return FactSet({}, frozenset(), None)
        with self._lock:
            seen_hash, fresh, fresh_lapsed = self._fresh
            if seen_hash != head.block_hash:
                fresh, fresh_lapsed = {}, set()
                self._fresh = (head.block_hash, fresh, fresh_lapsed)
            asked_before = set(fresh)
        have = {e: self._known.get(e) or fresh.get(e) for e in epochs}
        missing = [e for e, facts in have.items() if facts is None]
        # a lapse is asked for once a block: an epoch that was read at this block has its answer
        open_ones = [e for e in unreported if e not in self._lapsed and e not in asked_before]
        error = None
        if missing or open_ones:
            try:
                facts, lapsed = self._ask(head, missing, open_ones)
                self._remember(head, facts, lapsed, fresh, fresh_lapsed)
            except ChainUnavailableError as failure:
                error = str(failure)
        found = {e: known for e in epochs if (known := self._known.get(e) or fresh.get(e)) is not None}
        return FactSet(
            found, frozenset(e for e in unreported if e in self._lapsed or e in fresh_lapsed), error
        )

    def _ask(
        self, head: Head, missing: Sequence[int], unreported: Sequence[int]
    ) -> tuple[dict[int, ChainEpoch], set[int]]:
        if self._failed_at is not None and self._monotonic() - self._failed_at < _COOL_OFF_SECONDS:
            raise ChainUnavailableError(self._error)
        calls = [Read("RewardDistributor", "poolOf", (e,)) for e in missing]
        calls += [Read("NodeRegistryLocker", "totalWeightAt", (e,)) for e in missing]
        calls += [Read("UptimeAttestation", "status", (e,)) for e in unreported]
        results: list[int | None] = []
        try:
            for start in range(0, len(calls), _BATCH):
                results += self._chain.read(calls[start : start + _BATCH], head.block_hash)
        except ChainUnavailableError as failure:
            self._failed_at, self._error = self._monotonic(), str(failure)
            raise
        self._failed_at = None
        n = len(missing)
        facts = {}
        for i, epoch in enumerate(missing):
            pool, total = results[i], results[n + i]
            if pool is not None and total is not None:
                facts[epoch] = ChainEpoch(pool, total)
        lapsed = {e for e, state in zip(unreported, results[2 * n :], strict=True) if state == _LAPSED}
        return facts, lapsed

    def _remember(
        self,
        head: Head,
        facts: Mapping[int, ChainEpoch],
        lapsed: Collection[int],
        fresh: dict[int, ChainEpoch],
        fresh_lapsed: set[int],
    ) -> None:
        permanent = {e: f for e, f in facts.items() if self._clock.start(Epoch(e)) <= head.final_timestamp}
        with self._lock:
            self._known.update(permanent)
            fresh.update(facts)
            fresh_lapsed.update(lapsed)
        if permanent and self._keep is not None:
            self._keep(permanent)
