"""On-chain requests: from the event to one `fulfil` intent each, even if a worker dies in between.

::

    InferenceRequested --scan--> job --sweep--> message --run--> node --> receipt --> intent fulfil:<id>
                                  ^                |
                                  +--lease ran out-+

The job's row is the truth. A message may come twice, late or never. `run` works only while it holds the job's lease and
renews the lease meanwhile; the sweep sends a new message for every job that no worker holds.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import structlog
from sqlalchemy import select

from offchain.db import jobs, market
from offchain.db.cursors import position
from offchain.db.database import Database
from offchain.db.models import Event, MarketRequest
from offchain.errors import SkipError, TransientError
from offchain.keeper.attestation.lease import renewed
from offchain.keeper.attestation.own_executions import FULFIL
from offchain.keeper.market.dispatcher import DispatchedAnswer
from offchain.keeper.transactions import Intents
from offchain.runtime.clock import Clock, seconds
from offchain.runtime.crash_points import CrashPoint, nowhere

log = structlog.get_logger(__name__)

LEASE_SECONDS = 3
"""After this time another worker takes over the job of a killed one."""
RENEW_SECONDS = 0.8
RETRY_SECONDS = 2
"""Pause after an attempt that may succeed later."""
STAGGER_SECONDS = 8
"""A keeper of rank n starts n times this many seconds later: one keeper works, the others stand by."""


Dispatch = Callable[[bytes, bytes, float], DispatchedAnswer]
"""Gets the answer for a request id (32 bytes), a payload and a time limit in seconds.

Raises TransientError, or SkipError for a request that no node can ever serve.
"""


@dataclass(eq=False)
class FulfilService:
    """One keeper's work on on-chain requests.

    Attributes:
        depth: blocks by which a request must lie below the head: work on one that is reorganised away is not paid.
        rank: this keeper's place in the queue for a request, 0 for the first.
    """

    database: Database
    dispatch: Dispatch
    outbox: Intents
    clock: Clock
    _: KW_ONLY
    depth: int
    rank: Callable[[str], int]
    reached: CrashPoint = nowhere

    def scan(self) -> int:
        """Make a job of every open request for which this keeper's time has come. Returns how many are new."""
        now, new = seconds(self.clock), 0
        # The head and not the final block: a requester waits. A reorganised request costs the keeper an answer, no more.
        with self.database.read() as session:
            head = position(session, "head")
            if head is None:
                return 0
            found = market.open_requests(session, up_to_block=head.number - self.depth, now=now)
            rows = session.execute(
                select(Event.block_number, Event.block_timestamp).where(
                    Event.name == "InferenceRequested",
                    Event.block_number.in_({row.requested_block for row in found}),
                )
            )
            times = {row.block_number: row.block_timestamp for row in rows}
        for row in found:
            asked_at = times.get(row.requested_block, 0)
            if now < asked_at + self.rank(row.request_id) * STAGGER_SECONDS:
                continue
            with self.database.write() as session:
                new += jobs.enqueue(session, FULFIL, row.request_id, now)
            self.reached("job-enqueued")
        return new

    def due(self) -> list[str]:
        """Ids (0x-hex) of requests whose job no worker holds; the sweep sends a message for each."""
        with self.database.read() as session:
            return list(jobs.due(session, FULFIL, seconds(self.clock)))

    def run(self, request_id: str) -> bool:
        """Work on one job if no other worker holds it. Returns whether this call finished it. Safe to repeat."""
        now = seconds(self.clock)
        with self.database.write() as session:
            attempt = jobs.lease(session, FULFIL, request_id, now, LEASE_SECONDS)
            request = market.get(session, request_id) if attempt is not None else None
        if attempt is None:
            return False
        self.reached("job-leased")
        if request is None:
            # Not for good: the request may come back in another block.
            return self._end(request_id, attempt, "the request was reorganised away", for_good=False)
        if request.status != "open":
            return self._end(request_id, attempt, f"already {request.status}", for_good=True)
        if request.deadline <= now:
            return self._end(request_id, attempt, "the deadline has passed", for_good=True)
        return self._work(request, attempt, now)

    def _work(self, request: MarketRequest, attempt: int, now: int) -> bool:
        request_id = request.request_id
        log.info("fulfilment_started", request=request_id, attempt=attempt)
        try:
            with renewed(RENEW_SECONDS, lambda: self._extend(request_id, attempt), request_id):
                answer = self.dispatch(
                    bytes.fromhex(request_id[2:]), bytes(request.payload), float(request.deadline - now)
                )
        except SkipError as error:
            return self._end(request_id, attempt, str(error), for_good=True)
        except TransientError as error:
            return self._end(request_id, attempt, str(error), for_good=False)
        self.reached("job-answered")
        signed = answer.receipt
        # Job and intent in one transaction: either both are written or the next attempt starts over.
        with self.database.write() as session:
            finished = jobs.finish(session, FULFIL, request_id, attempt, signed.to_json())
            if finished:
                self.outbox.fulfil(session, request_id, signed.receipt, signed.signature, answer.result)
        self.reached("job-finished")
        log.info("fulfilment_answered", request=request_id, node=signed.receipt.node_id, kept=finished)
        return finished

    def _end(self, request_id: str, attempt: int, reason: str, *, for_good: bool) -> bool:
        log.info("fulfilment_ended", request=request_id, attempt=attempt, reason=reason, for_good=for_good)
        with self.database.write() as session:
            if for_good:
                jobs.fail(session, FULFIL, request_id, attempt, reason[:500])
            else:
                retry_at = seconds(self.clock) + RETRY_SECONDS
                jobs.release(session, FULFIL, request_id, attempt, reason[:500], retry_at)
        return False

    def _extend(self, request_id: str, attempt: int) -> bool:
        until = seconds(self.clock) + LEASE_SECONDS
        with self.database.write() as session:
            return jobs.extend(session, FULFIL, request_id, attempt, until)
