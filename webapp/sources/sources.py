"""The sources of all figures, made once per process and handed to every page."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from offchain.chain.deployment import Deployment
from offchain.chain.reader import Read
from offchain.domain.epochs import EpochClock
from webapp.index import Head, Index, Snapshot
from webapp.sources.chain import ChainSource, ChainUnavailableError
from webapp.sources.epoch_facts import EpochFacts
from webapp.sources.status import Status, status_of

_CONSTANTS = [
    Read("NodeRegistryLocker", "minStake"),
    Read("NodeRegistryLocker", "cooldown"),
    Read("RewardDistributor", "CLAIM_WINDOW"),
    Read("UptimeAttestation", "SUBMIT_WINDOW"),
    Read("UptimeAttestation", "CHALLENGE_WINDOW"),
]


@dataclass(frozen=True, slots=True)
class Constants:
    """Parameters of the deployed contracts that pages name, e.g. the least stake; read in the order of `_CONSTANTS`."""

    min_stake_wei: int
    cooldown_seconds: int
    claim_window_seconds: int
    submit_window_seconds: int
    challenge_window_seconds: int


@dataclass(slots=True)
class Sources:
    """The index, the chain and the clock.

    Attributes:
        clock: the network's epochs.
        time: Unix seconds; injected so that tests can stand still.
    """

    deployment: Deployment
    clock: EpochClock
    index: Index
    chain: ChainSource
    epoch_facts: EpochFacts
    time: Callable[[], float]
    _constants: Constants | None = None
    _constants_minute: int = -1
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def open(self) -> Iterator[tuple[Snapshot, Head | None, Status]]:
        """One snapshot with its status. Raises IndexUnavailableError."""
        with self.index.snapshot() as snapshot:
            head = snapshot.head()
            yield snapshot, head, self.status(head)

    def present_status(self) -> Status:
        """The status of the index now, for pages that show nothing else of the index. Raises IndexUnavailableError."""
        with self.open() as (_, _, status):
            return status

    def close(self) -> None:
        """Close database and RPC connections."""
        self.index.close()
        self.chain.close()

    def status(self, head: Head | None) -> Status:
        """Block, age and epoch that belong to a head."""
        return status_of(head, self.clock, self.deployment.chain_id, self.deployment.network, self.time)

    def constants(self) -> Constants | None:
        """Parameters at the newest block, read once a minute; None until the chain could be read once."""
        with self._lock:
            minute = int(self.time()) // 60
            if self._constants is not None and self._constants_minute == minute:
                return self._constants
            try:
                values = self.chain.read(_CONSTANTS)
            except ChainUnavailableError:
                return self._constants
            if None in values:
                return self._constants
            self._constants, self._constants_minute = Constants(*values), minute
            return self._constants
