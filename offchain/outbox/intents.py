"""Intents: the transactions that must happen, each once, and what became of them.

::

    pending --simulated, signed, stored--> sent --> mined --> final
       |  \\                                 ^         |  \\
       |   +--> superseded, fault           +--reorg--+   +--reverted--> superseded, fault
       +<---- retry ----- fault
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from offchain.chain.abi import ContractAbi
from offchain.chain.deployment import Deployment
from offchain.db.models import Intent
from offchain.db.upsert import insert_or_ignore
from offchain.errors import UserError

PENDING, SENT, MINED = "pending", "sent", "mined"
FINAL, FAULT, SUPERSEDED = "final", "fault", "superseded"
LIVE = (PENDING, SENT, MINED)


class Outbox:
    """Takes the keeper's intended calls, which the `Sender` sends. Every method works in the caller's database transaction."""

    def __init__(self, deployment: Deployment, signer: str, *, now: Callable[[], float] = time.time) -> None:
        """Intents for one signer (EIP-55) on one deployment; `now` gives Unix seconds."""
        self._deployment = deployment
        self._signer = signer
        self._now = now
        self._abis: dict[str, ContractAbi] = {}

    def enqueue(
        self,
        session: Session,
        key: str,
        contract: str,
        function: str,
        args: Sequence[Any],
        *,
        not_before: int = 0,
    ) -> bool:
        """Put down that a call must happen once. Nothing is sent here.

        Args:
            session: the caller's write transaction: the intent exists if and only if that commits.
            key: unique name of the effect, `kind:what`, e.g. `attest:42`. A key that exists is left as it is.
            contract: name in the deployment.
            function: name in its ABI.
            args: arguments in order; a struct may be a dict by field name.
            not_before: Unix seconds before which nothing is tried.

        Returns:
            Whether the intent is new.

        Raises:
            ValueError: no such function, or arguments that do not fit it.
        """
        ref = self._deployment.contract(contract)
        if contract not in self._abis:
            self._abis[contract] = ContractAbi(ref.abi)
        now = int(self._now())
        row = {
            "key": key,
            "signer": self._signer,
            "to_address": ref.address,
            "data": self._abis[contract].encode(function, args),
            "contract": contract,
            "function": function,
            "status": PENDING,
            "retry_at": not_before,
            "attempts": 0,
            "reverted": False,
            "created_at": now,
            "updated_at": now,
        }
        # Whoever was killed after its commit comes again with the same key, and changes nothing.
        return insert_or_ignore(session, Intent, row)

    def retry(self, session: Session, key: str) -> None:
        """Put a fault back to pending; its transaction, if there was one, has failed for good.

        Raises:
            UserError: there is no such intent, or it is no fault.
        """
        intent = session.get(Intent, key)
        if intent is None:
            raise UserError(f"the outbox has no intent {key}; `parallelix keeper outbox list` shows them")
        if intent.status != FAULT:
            raise UserError(f"intent {key} is {intent.status}; only a fault can be retried")
        intent.status, intent.retry_at, intent.updated_at = PENDING, 0, int(self._now())
        # A fresh nonce: the old one was used by the failed transaction.
        intent.nonce = intent.tx_hash = intent.mined_block = intent.mined_hash = intent.error = None
        intent.reverted = False


def get(session: Session, key: str) -> Intent | None:
    """One intent by its key."""
    return session.get(Intent, key)


def listed(session: Session, statuses: Sequence[str] = (), limit: int = 100) -> Sequence[Intent]:
    """The newest intents, newest first, of some statuses or of all."""
    query = select(Intent).order_by(Intent.created_at.desc(), Intent.key).limit(limit)
    if statuses:
        query = query.where(Intent.status.in_(statuses))
    return session.scalars(query).all()


def counts(session: Session) -> dict[str, int]:
    """How many intents have each status; statuses without any are left out."""
    query = select(Intent.status, func.count()).group_by(Intent.status)
    return dict(session.execute(query).all())


def oldest_unfinished(session: Session) -> int | None:
    """Unix seconds at which the oldest intent that is not over was made; None when all are over."""
    return session.scalar(select(func.min(Intent.created_at)).where(Intent.status.in_(LIVE)))
