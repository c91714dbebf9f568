"""The sender's side of the database: its lease, and changes that only the lease's holder completes."""

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from offchain.db import leases
from offchain.db.database import Database
from offchain.db.leases import LeaseLostError
from offchain.db.models import Broadcast, Intent
from offchain.outbox.intents import LIVE, PENDING


@dataclass
class Journal:
    """Intents and transactions of one signer (EIP-55), as one would-be sender sees them.

    The lease lasts `lease_ms` milliseconds after each renewal; `now` gives Unix seconds.
    """

    database: Database
    signer: str
    lease_ms: int
    now: Callable[[], float]

    def __post_init__(self) -> None:
        self._lease = f"sender:{self.signer}"
        self._holder = secrets.token_hex(16)  # not the pid: machines share the database

    def take_lease(self) -> bool:
        """Take or renew the right to send; False while another process has it."""
        with self.database.write() as session:
            return leases.acquire(session, self._lease, self._holder, int(self.now() * 1000), self.lease_ms)

    def keep_lease(self) -> None:
        """Renew. Raises LeaseLostError when another process took over."""
        if not self.take_lease():
            raise LeaseLostError("another process sends for this signer now")

    def release_lease(self) -> None:
        """Let another process send at once."""
        with self.database.write() as session:
            leases.release(session, self._lease, self._holder)

    @contextmanager
    def fenced(self) -> Iterator[Session]:
        """A write transaction that only the lease's holder completes. Raises LeaseLostError."""
        with self.database.write() as session:
            leases.fence(session, self._lease, self._holder)
            yield session

    @contextmanager
    def change(self, intent: Intent) -> Iterator[Intent]:
        """The intent's row, to be changed under the lease. Raises LeaseLostError as `fenced` and `unchanged` do."""
        with self.fenced() as session:
            row = self.unchanged(session, intent)
            yield row
            row.updated_at = int(self.now())

    @staticmethod
    def unchanged(session: Session, intent: Intent) -> Intent:
        """The intent's row, locked. Raises LeaseLostError when its state is no longer the one that was read."""
        row = session.get_one(Intent, intent.key, with_for_update=True)
        # A lease can run out between reading and writing.
        if (row.status, row.nonce, row.mined_hash) != (intent.status, intent.nonce, intent.mined_hash):
            raise LeaseLostError(f"intent {intent.key} was changed by another process")
        return row

    def intents(self, session: Session, *statuses: str) -> Sequence[Intent]:
        """Intents of some statuses, by nonce."""
        query = select(Intent).where(Intent.signer == self.signer, Intent.status.in_(statuses))
        return session.scalars(query.order_by(Intent.nonce)).all()

    def due(self, session: Session, limit: int) -> Sequence[Intent]:
        """Intents that may be started now, oldest first."""
        query = (
            select(Intent)
            .where(Intent.signer == self.signer, Intent.status == PENDING, Intent.retry_at <= int(self.now()))
            .order_by(Intent.created_at, Intent.key)
            .limit(limit)
        )
        return session.scalars(query).all()

    def is_idle(self) -> bool:
        """Whether no intent is live."""
        with self.database.read() as session:
            query = select(Intent.key).where(Intent.signer == self.signer, Intent.status.in_(LIVE)).limit(1)
            return session.scalar(query) is None

    @staticmethod
    def broadcasts(session: Session, intent: Intent) -> Sequence[Broadcast]:
        """Transactions of the intent's present nonce, the newest last."""
        query = select(Broadcast).where(Broadcast.intent_key == intent.key, Broadcast.nonce == intent.nonce)
        # Every replacement pays more, so the order of fees is that of time.
        return session.scalars(query.order_by(Broadcast.max_fee_wei)).all()

    def nonces(self, session: Session) -> set[int]:
        """Every nonce that this outbox ever signed for."""
        return set(session.scalars(self._of_signer(select(Broadcast.nonce))))

    def highest_nonce(self, session: Session) -> int | None:
        """The highest of `nonces`, None when there is none."""
        return session.scalar(self._of_signer(select(func.max(Broadcast.nonce))))

    def _of_signer(self, query: Select[int]) -> Select[int]:
        return query.join(Intent, Intent.key == Broadcast.intent_key).where(Intent.signer == self.signer)
