"""Epochs that are over and wait for their report: what the chain says of each, and whose turn it is to lead.

::

    end(e)      frozen                          submit deadline
      |--freeze--|-- turn 0 --|-- turn 1 --| ... |
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

FREEZE_SECONDS = CLOCK_TOLERANCE_MS // 1000 + 1
"""Seconds from an epoch's end until its evidence is frozen: answers are accepted up to `CLOCK_TOLERANCE_MS` late."""
MIN_TURN_SECONDS, MAX_TURN_SECONDS = 5, 3_600
"""Bounds of a turn; within them every keeper has two turns in the submit window."""
EPOCHS_BACK = 12
"""So many of the last epochs are looked at: submit and challenge windows of short epochs span several epochs."""


@dataclass(frozen=True, slots=True)
class OpenEpoch:
    """An epoch that is over, as one keeper of its set sees it.

    Attributes:
        me: this keeper.
        urls: base URLs of the other keepers.
        frozen_at: Unix second from which evidence cannot change.
    """

    context: EpochContext
    me: KeeperInfo
    urls: tuple[str, ...]
    frozen_at: int
    turn_seconds: int

    def turn(self, now: int) -> int:
        """Number of the turn at a Unix second, from 0."""
        return max(0, now - self.frozen_at) // self.turn_seconds

    def leader(self, turn: int) -> KeeperInfo:
        """The keeper that leads in a turn."""
        # The epoch shifts the order, so a silent keeper costs the first turn of every n-th epoch only.
        return self.context.keepers[(self.context.epoch + turn) % len(self.context.keepers)]


@dataclass(eq=False)
class OpenEpochs:
    """Reads open epochs for one keeper.

    Attributes:
        me: this keeper's signer.
        peer_urls: base URLs of the other keepers; empty means those that the registry names.
    """

    database: Database
    view: ChainView
    context_reader: EpochContextReader
    clock: Clock
    me: Address
    peer_urls: Sequence[str] = ()

    def awaiting_report(self) -> list[Epoch]:
        """Recent epochs that are over, whose evidence is frozen and for which the chain still takes a report."""
        epochs, now = self.context_reader.clock, seconds(self.clock)
        frozen = [epoch for epoch in self.unsettled() if now >= frozen_at(epochs, epoch)]
        return [epoch for epoch in frozen if self.view.status(epoch) is EpochStatus.OPEN]

    def unsettled(self) -> list[Epoch]:
        """The last `EPOCHS_BACK` epochs that are over, without those that this keeper has settled."""
        epochs, now = self.context_reader.clock, seconds(self.clock)
        if now < epochs.genesis:
            return []
        last = epochs.epoch_at(now) - 1
        recent = [Epoch(number) for number in range(max(1, last - EPOCHS_BACK + 1), last + 1)]
        with self.database.read() as session:
            return [epoch for epoch in recent if not store.is_marked(session, "closed", str(epoch))]

    def of(self, epoch: Epoch) -> OpenEpoch | None:
        """A finished epoch; None when this keeper is not in its set or no node had weight.

        Raises:
            NotReadyError: the epoch is not over in final blocks.
        """
        context = self.context(epoch)
        me = context.keeper(self.me)
        if me is None or not context.nodes:
            return None
        named = [keeper.url for keeper in context.keepers if keeper != me and keeper.url]
        urls = tuple(url.rstrip("/") for url in self.peer_urls or named)
        return OpenEpoch(context, me, urls, frozen_at(context.clock, epoch), self.turn_seconds(context))

    def turn_seconds(self, context: EpochContext) -> int:
        """Seconds for which a keeper leads before the next one does."""
        window = self.view.submit_deadline(context.epoch) - context.clock.end(context.epoch)
        return min(max(MIN_TURN_SECONDS, window // (2 * len(context.keepers))), MAX_TURN_SECONDS)

    def context(self, epoch: Epoch) -> EpochContext:
        """The context of a finished epoch. Raises NotReadyError."""
        with self.database.read() as session:
            # Not "head": nothing is signed from blocks that are not final.
            indexed = position(session, "finalized")
        if indexed is None:
            raise NotReadyError("nothing is indexed yet")
        return self.context_reader.read(epoch, indexed)


def frozen_at(clock: EpochClock, epoch: Epoch) -> int:
    """Unix second from which an epoch's evidence cannot change."""
    return clock.end(epoch) + FREEZE_SECONDS
