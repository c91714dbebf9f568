"""Epochs that are over and wait for their report: the frame to judge each, and whose turn it is.

::

    end(e)      frozen                          submit deadline
      |--settle--|-- turn 0 --|-- turn 1 --| ... |
                  leader e%n   leader (e+1)%n
"""

from collections.abc import Sequence
from dataclasses import dataclass

from offchain.db.cursors import position
from offchain.db.database import Database
from offchain.domain.epochs import EpochClock
from offchain.domain.types import Address, Epoch
from offchain.evidence.bundle import CLOCK_TOLERANCE_MS
from offchain.evidence.chain_view import ChainView, EpochStatus
from offchain.evidence.epoch_context import EpochContext, KeeperInfo
from offchain.evidence.epoch_context_reader import EpochContextReader, NotReadyError
from offchain.keeper import store
from offchain.runtime.clock import Clock, seconds

SETTLE_SECONDS = CLOCK_TOLERANCE_MS // 1000 + 1
"""From an epoch's end until its evidence cannot change any more."""
MIN_TURN_SECONDS, MAX_TURN_SECONDS = 5, 3_600
EPOCHS_BACK = 12
"""Finished epochs that are looked after; submit and challenge windows of short epochs span several of them."""


@dataclass(frozen=True, slots=True)
class OpenEpoch:
    """An epoch that is over, with the frame to judge it."""

    context: EpochContext
    me: KeeperInfo
    urls: tuple[str, ...]
    frozen_at: int
    turn_seconds: int

    def turn(self, now: int) -> int:
        """Number of the present turn, from 0."""
        return max(0, now - self.frozen_at) // self.turn_seconds

    def leader(self, turn: int) -> KeeperInfo:
        """Who leads in a turn."""
        return self.context.keepers[(self.context.epoch + turn) % len(self.context.keepers)]


class OpenEpochs:
    """Reads them for one keeper.

    Args:
        me: this keeper's signer.
        peer_urls: base URLs of the other keepers; empty means those that the registry names.
    """

    def __init__(
        self,
        database: Database,
        view: ChainView,
        frames: EpochContextReader,
        clock: Clock,
        me: Address,
        peer_urls: Sequence[str] = (),
    ) -> None:
        self._database = database
        self._view = view
        self._frames = frames
        self._clock = clock
        self._me = me
        self._peer_urls = tuple(url.rstrip("/") for url in peer_urls)

    @property
    def epochs(self) -> EpochClock:
        """The network's epochs."""
        return self._frames.clock

    def open_epochs(self) -> list[Epoch]:
        """Recent epochs that are over, whose evidence is frozen and for which the chain still takes a report."""
        epochs, now = self._frames.clock, seconds(self._clock)
        if now < epochs.genesis:
            return []
        last = epochs.epoch_at(now) - 1
        return [
            Epoch(number)
            for number in range(max(1, last - EPOCHS_BACK + 1), last + 1)
            if now >= frozen_at(epochs, Epoch(number))
            and not self._over(Epoch(number))
            and self._view.status(Epoch(number)) is EpochStatus.OPEN
        ]

    def _over(self, epoch: Epoch) -> bool:
        with self._database.read() as session:
            return store.is_marked(session, "closed", str(epoch))

    def of(self, epoch: Epoch) -> OpenEpoch | None:
        """The frame of a finished epoch; None when this keeper is not in its set or nobody had weight.

        Raises:
            NotReadyError: the epoch is not over in final blocks.
        """
        context = self.context(epoch)
        me = context.keeper(self._me)
        if me is None or not context.nodes:
            return None
        urls = self._peer_urls or tuple(
            keeper.url.rstrip("/") for keeper in context.keepers if keeper != me and keeper.url
        )
        return OpenEpoch(context, me, urls, frozen_at(context.clock, epoch), self.turn_seconds(context))

    def turn_seconds(self, context: EpochContext) -> int:
        """How long each keeper may lead before the next one does."""
        window = self._view.submit_deadline(context.epoch) - context.clock.end(context.epoch)
        return min(max(MIN_TURN_SECONDS, window // (2 * len(context.keepers))), MAX_TURN_SECONDS)

    def context(self, epoch: Epoch) -> EpochContext:
        """The frame of a finished epoch. Raises NotReadyError."""
        with self._database.read() as session:
            indexed = position(session, "finalized")
        if indexed is None:
            raise NotReadyError("nothing is indexed yet")
        return self._frames.read(epoch, indexed)


def frozen_at(clock: EpochClock, epoch: Epoch) -> int:
    """Unix second from which the epoch's evidence cannot change."""
    return clock.end(epoch) + SETTLE_SECONDS
