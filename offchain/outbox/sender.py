"""The sender: one round of `run_once` looks at every live intent and takes it one step further.

What makes each intent happen once:

- its nonce and its signed bytes are stored, in one transaction, before anything is broadcast, and all its later
  transactions (replacements, cancellations) have the same nonce: the chain mines at most one of them;
- only the holder of the signer's lease stores such a thing, and every such write checks the lease;
- whatever is broadcast was stored, so broadcasting again after a crash repeats the same bytes;
- an intent gets another nonce only when its old one was used by a final block without it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field

from offchain.crypto.keys import TransactionSigner
from offchain.db.database import Database
from offchain.db.models import Broadcast, Intent
from offchain.outbox import fees
from offchain.outbox.fees import Fees, transaction
from offchain.outbox.intents import FAULT, FINAL, MINED, PENDING, SENT, SUPERSEDED
from offchain.outbox.journal import Journal
from offchain.outbox.rules import DEFAULT_RULES, RevertRule, RevertVerdict, verdict
from offchain.outbox.wire import (
    AccountState,
    Receipt,
    RevertedError,
    TransactionRefusedError,
    Wire,
    is_too_cheap,
)
from offchain.runtime.crash_points import CrashPoint, nowhere

FILLER = "filler"
"""Kind of the intents that close a gap between nonces."""


@dataclass(frozen=True, slots=True)
class SenderSettings:
    """How the sender behaves.

    Attributes:
        max_fee_wei: cap on what is paid per gas.
        replace_after_seconds: a transaction that waits longer, and whose turn it is, is replaced with higher fees.
        max_in_flight: transactions waiting at the same time.
        retry_seconds: pause before an intent that is too early, or failed to be simulated, is tried again.
        lease_ms: how long a killed sender keeps others out.
        gas_percent: gas limit in per cent of the estimate.
    """

    max_fee_wei: int
    replace_after_seconds: int = 30
    max_in_flight: int = 16
    retry_seconds: int = 5
    lease_ms: int = 5_000
    gas_percent: int = 125


@dataclass(slots=True)
class Round:
    """What one call of `run_once` did; the keys of the intents that reached each state.

    `blocked` says for each intent that could not go on what stands in the way.
    """

    ran: bool = True
    sent: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    mined: list[str] = field(default_factory=list)
    reorganised: list[str] = field(default_factory=list)
    final: list[str] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)
    superseded: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)


@dataclass
class Sender:
    """Sends for one signer. Any number may run; one at a time works.

    Attributes:
        signer: key that signs and pays.
        rules: what reverts mean, by kind of intent.
        on_end: called after an intent ended, with key, status (final, fault, superseded) and error; not called again if
            the process dies in between, so it may alert but must not be relied on.
        now: Unix seconds.
        reached: crash points, for tests.
    """

    database: Database
    wire: Wire
    signer: TransactionSigner
    settings: SenderSettings
    _: KW_ONLY
    rules: Mapping[str, RevertRule] = field(default_factory=lambda: DEFAULT_RULES)
    on_end: Callable[[str, str, str | None], None] | None = None
    now: Callable[[], float] = time.time
    reached: CrashPoint = nowhere

    def __post_init__(self) -> None:
        self._journal = Journal(self.database, self.signer.address, self.settings.lease_ms, self.now)

    def run_once(self) -> Round:
        """Take every live intent one step further; `ran` is False when another sender is at work.

        Raises:
            TransientError: an endpoint or the database did not answer; call again.
        """
        result = Round()
        if not self._journal.take_lease():
            result.ran = False
            return result
        self.reached("lease-taken")
        try:
            if self._journal.is_idle():
                return result
            account = self.wire.account(self.signer.address)
            # First, so that what a reorganisation took is broadcast again in this very round.
            self._settle(account, result)
            self.reached("settled")
            self._push(account, result)
            self._fill_gap(account, result)
            self._start(account, result)
            return result
        finally:
            self.reached("lease-kept")
            self._journal.release_lease()

    # ------------------------------------------------------------------------------------- what became of those sent

    def _settle(self, account: AccountState, result: Round) -> None:
        with self.database.read() as session:
            intents = self._journal.intents(session, SENT, MINED)
            # Any of them may be mined, not only the last.
            broadcasts = {intent.key: self._journal.broadcasts(session, intent) for intent in intents}
        hashes = [broadcast.tx_hash for listed in broadcasts.values() for broadcast in listed]
        receipts = self.wire.receipts(hashes)
        for intent in intents:
            found = [(b, receipts[b.tx_hash]) for b in broadcasts[intent.key] if b.tx_hash in receipts]
            if found:
                # All have one nonce, so the chain holds one of them at most (ADR 0040).
                self._mined(intent, found[0][0], found[0][1], account, result)
            elif intent.status == MINED:
                self._unmined(intent, result)
            # The count at the final block: a reorganisation can give a nonce of the newest one back.
            elif intent.nonce is not None and intent.nonce < account.final_nonce:
                self._nonce_lost(intent, result)

    def _mined(
        self, intent: Intent, broadcast: Broadcast, receipt: Receipt, account: AccountState, result: Round
    ) -> None:
        if intent.status == SENT or intent.mined_hash != receipt.block.hash:
            error = intent.error if broadcast.cancels else None
            if not receipt.succeeded:
                error = self.wire.why_it_reverted(
                    intent.signer, intent.to_address, intent.data, receipt.block
                )
            with self._journal.change(intent) as row:
                row.status, row.tx_hash = MINED, receipt.tx_hash
                row.mined_block, row.mined_hash = receipt.block.number, receipt.block.hash
                row.gas_used = receipt.gas_used
                # A cancellation that is mined means that the intent itself did not happen.
                row.reverted, row.error = broadcast.cancels or not receipt.succeeded, error
            intent = row
            result.mined.append(intent.key)
            self.reached("mined")
        if receipt.block.number > account.final.number:  # a reorganisation may still take it
            return
        if not intent.reverted:
            self._end(intent, FINAL, None, result)
        elif verdict(self.rules, intent.key, intent.error or "") is RevertVerdict.SUPERSEDED:
            self._end(intent, SUPERSEDED, intent.error, result)
        else:
            self._end(intent, FAULT, intent.error, result)
        self.reached("finalized")

    def _unmined(self, intent: Intent, result: Round) -> None:
        """A reorganisation took the block; the stored bytes are broadcast again in this same round."""
        with self._journal.change(intent) as row:
            row.status, row.reverted, row.error = SENT, False, None
            row.mined_block = row.mined_hash = row.gas_used = None
        result.reorganised.append(intent.key)

    def _nonce_lost(self, intent: Intent, result: Round) -> None:
        """A final block has the nonce without the intent: none of its transactions can ever be mined."""
        if intent.key.startswith(FILLER):
            self._end(intent, SUPERSEDED, "the nonce was in use already", result)
            return
        with self._journal.change(intent) as row:
            row.status, row.nonce, row.tx_hash = PENDING, None, None
            row.error = f"nonce {intent.nonce} was used by a transaction that is not in this outbox"
        result.blocked[intent.key] = row.error

    # ---------------------------------------------------------------------------------------------- those on the way

    def _push(self, account: AccountState, result: Round) -> None:
        """Broadcast what the endpoint does not know; replace what waits too long and is next in line."""
        with self.database.read() as session:
            waiting = [
                (intent, self._journal.broadcasts(session, intent)[-1])
                for intent in self._journal.intents(session, SENT)
            ]
        for intent, broadcast in sorted(waiting, key=lambda pair: pair[1].nonce):
            # One slow endpoint (10 s) outlasts the lease (5 s), so it is renewed before each step.
            self._journal.keep_lease()
            is_next = broadcast.nonce == account.nonce  # later ones wait for it: bumping them would not help
            if broadcast.sent_at == 0 or not self.wire.is_known(broadcast.tx_hash):
                objection = self._broadcast(intent, broadcast, "broadcast", result)
                if is_next and objection is not None and is_too_cheap(objection):
                    self._replace(intent, broadcast, result)
            elif is_next and self.now() - broadcast.sent_at >= self.settings.replace_after_seconds:
                self._replace(intent, broadcast, result)

    def _replace(self, intent: Intent, previous: Broadcast, result: Round) -> None:
        cancels, reason = previous.cancels, intent.error
        if not cancels:
            try:
                # A call that would fail by now is cancelled: mined, it would only cost gas.
                self.wire.simulate(intent.signer, intent.to_address, intent.data)
            except RevertedError as error:
                cancels, reason = True, error.reason
            except TransactionRefusedError:
                pass  # nothing learnt; the replacement is the same call
        bumped = fees.replacement(
            Fees(previous.max_fee_wei, previous.priority_fee_wei),
            self.wire.fee_history(),
            self.settings.max_fee_wei,
        )
        if bumped is None:
            result.blocked[intent.key] = (
                "a replacement would cost more than max_fee_gwei allows; the transaction waits"
            )
            self._note(intent, result.blocked[intent.key])
            return
        broadcast = self._sign(intent, previous.nonce, int(intent.gas_limit or 0), bumped, cancels=cancels)
        with self._journal.fenced() as session:
            row = self._journal.unchanged(session, intent)
            row.error, row.tx_hash = reason if cancels else None, broadcast.tx_hash
            row.attempts += 1
            row.updated_at = int(self.now())
            session.add(broadcast)
        result.replaced.append(intent.key)
        self.reached("replacement-stored")
        self._broadcast(row, broadcast, "replacement-broadcast", result)

    def _broadcast(self, intent: Intent, broadcast: Broadcast, point: str, result: Round) -> str | None:
        """Hand stored bytes to the endpoint; its objection, if it has one."""
        objection = self.wire.broadcast(broadcast.raw)
        self.reached(point)
        if broadcast.sent_at == 0:
            with self._journal.fenced() as session:
                session.get_one(Broadcast, broadcast.tx_hash).sent_at = int(self.now())
        self.reached("marked")
        if objection is not None:
            result.blocked[intent.key] = f"the RPC endpoint objects: {objection}"
            self._note(intent, result.blocked[intent.key])
        return objection

    def _fill_gap(self, account: AccountState, result: Round) -> None:
        """Use up a nonce that nobody has while later ones wait for it, as after an endpoint gave too high a count."""
        with self.database.read() as session:
            nonces = self._journal.nonces(session)
            waiting = [
                intent.nonce for intent in self._journal.intents(session, SENT) if intent.nonce is not None
            ]
        if not waiting or account.nonce in nonces or min(waiting) <= account.nonce:
            return
        key = f"{FILLER}:{self.signer.address}:{account.nonce}"
        now = int(self.now())
        intent = Intent(
            key=key, signer=self.signer.address, to_address=self.signer.address, data=b"", contract="", function="",
            status=PENDING, attempts=0, retry_at=0, reverted=False, created_at=now, updated_at=now,
        )  # fmt: skip
        price = fees.suggest(self.wire.fee_history(), self.settings.max_fee_wei)
        if price is None:
            result.blocked[key] = "fees are above max_fee_gwei"
            return
        # 21,000 is the gas of a bare transfer, which needs no estimate.
        broadcast = self._sign(intent, account.nonce, 21_000, price, cancels=False)
        with self._journal.fenced() as session:
            if session.get(Intent, key) is not None:
                return
            intent.status, intent.nonce, intent.gas_limit = SENT, account.nonce, 21_000
            intent.tx_hash = broadcast.tx_hash
            session.add_all([intent, broadcast])
        self.reached("stored")
        self._broadcast(intent, broadcast, "broadcast", result)

    # ---------------------------------------------------------------------------------------------------- new ones

    def _start(self, account: AccountState, result: Round) -> None:
        with self.database.read() as session:
            in_flight = len(self._journal.intents(session, SENT))
            due = self._journal.due(session, max(0, self.settings.max_in_flight - in_flight))
        if not due:
            return
        price = fees.suggest(self.wire.fee_history(), self.settings.max_fee_wei)
        for intent in due:
            if price is None:
                result.blocked[intent.key] = "fees are above max_fee_gwei; waiting for them to fall"
                continue
            self._journal.keep_lease()
            self._start_one(intent, price, account, result)

    def _start_one(self, intent: Intent, price: Fees, account: AccountState, result: Round) -> None:
        try:
            gas = self.wire.simulate(intent.signer, intent.to_address, intent.data)
        except RevertedError as error:
            self._would_revert(intent, error.reason, result)
            return
        except TransactionRefusedError as error:
            self._retry_later(intent, str(error), result)
            return
        self.reached("simulated")
        gas_limit = gas * self.settings.gas_percent // 100
        with self.database.read() as session:
            used = self._journal.highest_nonce(session)
        # The chain's count lacks what still waits, so our own highest nonce counts too.
        nonce = account.nonce if used is None else max(account.nonce, used + 1)
        # Outside the transaction: a remote signer may take its time.
        broadcast = self._sign(intent, nonce, gas_limit, price, cancels=False)
        with self._journal.fenced() as session:
            row = session.get_one(Intent, intent.key, with_for_update=True)
            # Another sender was faster.
            if row.status != PENDING or self._journal.highest_nonce(session) != used:
                return
            session.add(broadcast)
            row.status, row.nonce, row.gas_limit, row.tx_hash = SENT, nonce, gas_limit, broadcast.tx_hash
            row.attempts, row.error, row.updated_at = row.attempts + 1, None, int(self.now())
        result.sent.append(row.key)
        self.reached("stored")
        self._broadcast(row, broadcast, "broadcast", result)

    def _would_revert(self, intent: Intent, reason: str, result: Round) -> None:
        found = verdict(self.rules, intent.key, reason)
        if found is RevertVerdict.RETRY:
            self._retry_later(intent, reason, result)
        else:
            self._end(intent, SUPERSEDED if found is RevertVerdict.SUPERSEDED else FAULT, reason, result)

    def _retry_later(self, intent: Intent, reason: str, result: Round) -> None:
        with self._journal.change(intent) as row:
            row.error, row.retry_at = reason, int(self.now()) + self.settings.retry_seconds
        result.blocked[intent.key] = reason

    # -------------------------------------------------------------------------------------------------------- parts

    def _sign(self, intent: Intent, nonce: int, gas_limit: int, price: Fees, *, cancels: bool) -> Broadcast:
        # A cancellation sends nothing to oneself: all it does is use the nonce up.
        to, data = (self.signer.address, b"") if cancels else (intent.to_address, intent.data)
        gas = 21_000 if cancels else gas_limit
        raw, tx_hash = self.signer.sign_transaction(
            transaction(self.wire.chain_id, nonce, to, data, gas, price)
        )
        return Broadcast(
            tx_hash=tx_hash, intent_key=intent.key, nonce=nonce, raw=raw, max_fee_wei=price.max_fee_wei,
            priority_fee_wei=price.priority_fee_wei, cancels=cancels, sent_at=0,
        )  # fmt: skip

    def _end(self, intent: Intent, status: str, error: str | None, result: Round) -> None:
        with self._journal.change(intent) as row:
            row.status, row.error = status, error
        if status == FINAL:
            result.final.append(intent.key)
        else:
            (result.faults if status == FAULT else result.superseded)[intent.key] = error or ""
        if self.on_end is not None:
            self.on_end(intent.key, status, error)

    def _note(self, intent: Intent, error: str) -> None:
        if intent.error == error:
            return
        with self._journal.change(intent) as row:
            row.error = error
