"""Keeps the database in step with the chain.

::

    deployed            finalized            head                 chain's newest block
       |--- final ranges ---|--- open ranges ---|------- to do -------|
                                                ^ moves by compare-and-set, in one transaction with its rows

The head cursor follows the newest block and may be rolled back; the finalized cursor follows behind it and never is.
Any number of workers may call `advance` at the same time: the loser of a compare-and-set writes nothing.
"""

import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from offchain.chain.blocks import Header
from offchain.chain.logs import LogSource, ScannedRange
from offchain.chain.projection import event_row, project, undo
from offchain.chain.ranges import AdaptiveRange
from offchain.chain.reader import ChainReader
from offchain.chain.rpc import DisagreementError, RangeTooLargeError
from offchain.db import cursors
from offchain.db.database import Database
from offchain.db.models import Block, Event
from offchain.domain.types import BlockRef
from offchain.errors import FatalError, TransientError
from offchain.runtime.crash_points import CrashPoint, nowhere

KEEP_FINAL_HEADERS = 256
MAX_OPEN_BLOCKS = 200
_FORK_STRIDE = 32


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the index stands after a call.

    Attributes:
        head: last block whose events are in the database.
        finalized: last of them that can no longer change; None before the first.
        chain_head: height of the chain's newest block, or of its newest final one when no more is read.
        events: events that this call added.
        rolled_back: blocks that this call undid.
        contended: another worker was faster; nothing is wrong.
    """

    head: BlockRef
    finalized: BlockRef | None
    chain_head: int
    events: int = 0
    rolled_back: int = 0
    contended: bool = False

    @property
    def behind(self) -> int:
        """Blocks still to be read."""
        return max(0, self.chain_head - self.head.number)


@dataclass
class Indexer:
    """Scans one deployment into one database. Keep one for each process: it remembers how large a range goes well.

    With `final_only` it never reads beyond the chain's newest final block, so that the whole database is of one view
    of the chain that cannot change.
    """

    database: Database
    chain: ChainReader
    _: KW_ONLY
    ranges: AdaptiveRange = field(default_factory=AdaptiveRange)
    monotonic: Callable[[], float] = time.monotonic
    final_only: bool = False
    reached: CrashPoint = nowhere

    def __post_init__(self) -> None:
        self._source = LogSource(self.chain.rpc, self.chain.blocks, self.chain.deployment)

    def advance(self, budget_seconds: float = 0.8) -> Progress:
        """Read on until the chain's newest (or final) block, or until the budget is used up (at least one range).

        Raises:
            TransientError: an answer was missing or could not be right; nothing of that range was kept. Call again.
            FatalError: the chain changed below a final block; a person must look.
        """
        deadline = self.monotonic() + budget_seconds
        final = self.chain.finalized_block()
        # Asked after the final block, so that this one is the newer of the two.
        head = final if self.final_only else self.chain.head_block()
        position, undone = self._follow_fork(self._start(), head)
        events, contended = 0, position is None
        while position is not None and position.number < head.number:
            added = self._read_range(position, head, final)
            if added is None:
                contended = True
                break
            position, count = added
            events += count
            if self.monotonic() >= deadline:
                break
        self._finalize(final)
        with self.database.read() as session:
            finalized = cursors.position(session, "finalized")
        return Progress(self._start(), finalized, head.number, events, undone, contended)

    def backfill(self, on_progress: Callable[[Progress], None], budget_seconds: float = 2.0) -> Progress:
        """Call `advance` until the newest block is reached, showing each step; resumes where an earlier run stopped.

        Raises:
            TransientError, FatalError: as `advance`.
        """
        while True:
            progress = self.advance(budget_seconds)
            on_progress(progress)
            if progress.behind == 0:
                return progress

    # ------------------------------------------------------------------------------------------------------ reading

    def _start(self) -> BlockRef:
        """The head cursor, made just below the deployment when there is none."""
        with self.database.read() as session:
            position = cursors.position(session, "head")
        if position is not None:
            return position
        first = self.chain.blocks.at(max(0, self.chain.deployment.deployed_at_block - 1))
        with self.database.write() as session:
            if cursors.move(session, "head", None, first.ref):
                session.execute(insert(Block), [_block_row(first)])
        return first.ref

    def _read_range(self, position: BlockRef, head: BlockRef, final: BlockRef) -> tuple[BlockRef, int] | None:
        first = position.number + 1
        is_final = first <= final.number
        last = min(final.number, position.number + self.ranges.size) if is_final else head.number
        if not is_final:
            # An open range fetches every header, so it stays short.
            last = min(last, position.number + min(self.ranges.size, MAX_OPEN_BLOCKS))
        begin = self.monotonic()
        try:
            if is_final:
                scanned = self._source.final_range(first, last)
            else:
                scanned = self._source.open_range(first, last, position.hash)
        except RangeTooLargeError:
            self.ranges.refused(last - first + 1)
            # One block cannot be halved.
            if first == last:
                raise
            return position, 0
        except TransientError:
            self.ranges.failed()  # a timeout may mean that the range was too large
            raise
        to = scanned.last.ref
        self.reached("range-read")
        with self.database.write() as session:
            if not cursors.move(session, "head", position, to):  # first, so that the loser writes nothing
                return None
            self._store(session, scanned)
        self.reached("range-written")
        # A range that the chain's head cut short says little about what the endpoint can take.
        if last - first + 1 >= self.ranges.size or self.monotonic() - begin > self.ranges.target_seconds:
            self.ranges.succeeded(self.monotonic() - begin, len(scanned.events))
        return to, len(scanned.events)

    def _store(self, session: Session, scanned: ScannedRange) -> None:
        # A final range may have thousands; a fork is looked for among the newest only.
        headers = scanned.headers[-MAX_OPEN_BLOCKS:]
        numbers = [header.number for header in headers]
        session.execute(delete(Block).where(Block.number.in_(numbers)))
        session.execute(insert(Block), [_block_row(header) for header in headers])
        if scanned.events:
            session.execute(insert(Event), [event_row(event) for event in scanned.events])
            project(session, scanned.events)

    # ------------------------------------------------------------------------------------------------------- forks

    def _follow_fork(self, position: BlockRef, head: BlockRef) -> tuple[BlockRef | None, int]:
        """Undo what the chain no longer has.

        Returns:
            The head cursor and how many blocks were undone; the cursor is None when another worker moved it.
        """
        if head.number < position.number:
            with self.database.read() as session:
                ours = session.get(Block, head.number)
            if ours is None or ours.hash == head.hash:
                # The endpoint lags, or looks back further than we remember: nothing to learn.
                return position, 0
        elif self.chain.blocks.at(position.number).hash == position.hash:
            return position, 0
        fork = self._fork_point(position, head)
        with self.database.write() as session:
            finalized = cursors.position(session, "finalized")
            if finalized is not None and fork.number < finalized.number:
                self._refuse_deep_fork(finalized)
            if not cursors.move(session, "head", position, fork):
                return None, 0
            undo(session, fork.number)
            session.execute(delete(Block).where(Block.number > fork.number))
        return fork, position.number - fork.number

    def _fork_point(self, position: BlockRef, head: BlockRef) -> BlockRef:
        """The newest block that the database and the chain share."""
        below = min(position.number, head.number) + 1
        while True:
            with self.database.read() as session:
                query = select(Block).where(Block.number < below).order_by(Block.number.desc())
                ours = session.scalars(query.limit(_FORK_STRIDE)).all()
            if not ours:
                raise FatalError(
                    f"no block of the index is on the RPC endpoint's chain below {below}; it is another chain, or the "
                    "local chain was started anew: use its own database"
                )
            theirs = self.chain.blocks.many([block.number for block in ours])
            for block, header in zip(ours, theirs, strict=True):
                if block.hash == header.hash:
                    return header.ref
            below = ours[-1].number

    def _refuse_deep_fork(self, finalized: BlockRef) -> None:
        # Fatal only when none of those asked has our final block: one that lies must not stop a keeper.
        answers = self.chain.rpc.batch_each([("eth_getBlockByNumber", [hex(finalized.number), False])])
        hashes = {answer.get("hash") for (answer,) in answers.values() if isinstance(answer, dict)}
        if finalized.hash in hashes:
            raise DisagreementError(
                f"RPC endpoints {' and '.join(answers)} disagree about final block {finalized.number}"
            )
        raise FatalError(
            f"the chain changed below final block {finalized.number} ({finalized.hash}); nothing more is signed or sent; "
            "check the RPC endpoint and the confirmations setting"
        )

    # ---------------------------------------------------------------------------------------------------- finality

    def _finalize(self, final: BlockRef) -> None:
        """Move the finalized cursor as far as the chain's finality and our own reading allow."""
        with self.database.read() as session:
            at, done = cursors.position(session, "head"), cursors.position(session, "finalized")
            if at is None:
                return
            target = at if at.number <= final.number else final
            if done is not None and target.number <= done.number:
                return
            if target is final:
                ours = session.get(Block, final.number)
                if ours is None or ours.hash != final.hash:
                    return  # a fork that the next call will follow
        self._cross_check(done, target)  # before the cursor moves: nothing below it is ever read again
        with self.database.write() as session:
            if cursors.move(session, "finalized", done, target):
                # Some final headers stay: by them a fork below finality is told from another chain.
                session.execute(delete(Block).where(Block.number < target.number - KEEP_FINAL_HEADERS))
        self.reached("final-moved")

    def _cross_check(self, done: BlockRef | None, target: BlockRef) -> None:
        """With several endpoints, compare the logs that become final with two of them first.

        When the two agree with each other and not with the index, an endpoint gave the index too few or false logs before:
        the index goes back to the last final block and reads again.
        """
        # With one endpoint there is nothing to compare (ADR 0042).
        if len(self.chain.rpc.endpoints) < 2:
            return
        begin = self.chain.deployment.deployed_at_block if done is None else done.number + 1
        for first in range(begin, target.number + 1, self.ranges.size):
            last = min(target.number, first + self.ranges.size - 1)
            try:
                answers = self._source.identities(first, last)
            except RangeTooLargeError:
                self.ranges.refused(last - first + 1)
                raise
            with self.database.read() as session:
                query = select(Event.block_hash, Event.log_index).where(
                    Event.block_number.between(first, last)
                )
                ours = {(block_hash, index) for block_hash, index in session.execute(query)}
            theirs, *others = answers.values()
            if any(other != theirs for other in others):
                raise DisagreementError(
                    f"RPC endpoints {' and '.join(answers)} disagree about logs {first}..{last}"
                )
            if ours != theirs:
                self._read_again(done)
                raise DisagreementError(
                    f"the index lacked or invented logs in {first}..{last}; it reads them again"
                )

    def _read_again(self, done: BlockRef | None) -> None:
        with self.database.write() as session:
            at = cursors.position(session, "head")
            # Before the first final block, the oldest header is the one just below the deployment.
            query = select(Block).order_by(Block.number).limit(1)
            block = session.scalars(
                query if done is None else query.where(Block.number == done.number)
            ).first()
            if at is None or block is None:
                return
            back = BlockRef(block.number, block.hash, block.timestamp)
            if cursors.move(session, "head", at, back):
                undo(session, back.number)
                session.execute(delete(Block).where(Block.number > back.number))


def _block_row(header: Header) -> dict[str, object]:
    return {name: getattr(header, name) for name in ("number", "hash", "parent_hash", "timestamp")}
