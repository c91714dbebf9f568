"""Planning: this keeper's probes of an epoch become rows in the database, if possible before the epoch begins.

::

    seed block final          epoch e
    --|--plan(e)--------------|-probe-probe-...-|
"""

from collections.abc import Iterator
from dataclasses import dataclass

import structlog

from offchain.db.cursors import position
from offchain.db.database import Database
from offchain.domain.measurement.schedule import ProbeSchedule, probe_message, seed_of
from offchain.domain.types import Epoch
from offchain.evidence.chain_view import ChainView
from offchain.evidence.document import MessageSigner
from offchain.evidence.epoch_context import EpochContext, seed_time
from offchain.evidence.epoch_context_reader import EpochContextReader, NotReadyError
from offchain.keeper import store
from offchain.runtime.clock import Clock, seconds
from offchain.runtime.crash_points import CrashPoint, nowhere

log = structlog.get_logger(__name__)


@dataclass(eq=False)
class PlanService:
    """Plans the present epoch and the next one.

    Attributes:
        signer: this keeper's key; its signature over the challenge fixes the schedule.
    """

    database: Database
    view: ChainView
    context_reader: EpochContextReader
    signer: MessageSigner
    clock: Clock
    reached: CrashPoint = nowhere

    def step(self) -> list[Epoch]:
        """Plan the epochs that can be planned now. Returns those that got probes. Safe to run twice.

        An epoch is planned twice: when its seed block is final, and again when its first second is final, for nodes
        that registered in between.
        """
        epochs = self.context_reader.clock
        now = seconds(self.clock)
        if now < epochs.genesis:
            return []
        current = epochs.epoch_at(now)
        return [
            epoch
            for epoch in (current, Epoch(current + 1))
            for kind, horizon in (("plan-early", seed_time(epochs, epoch) + 1), ("plan", epochs.start(epoch)))
            if now >= horizon and self._once(epoch, kind, horizon)
        ]

    def _once(self, epoch: Epoch, kind: str, horizon: int) -> bool:
        with self.database.read() as session:
            indexed = position(session, "finalized")
            if indexed is None or store.is_marked(session, kind, str(epoch)):
                return False
        try:
            context = self.context_reader.read(epoch, indexed, until=horizon)
        except NotReadyError as waiting:
            log.debug("plan_waits", epoch=epoch, reason=str(waiting))
            return False
        now_ms = self.clock.now_ms()
        rows = self._rows(context, now_ms)
        with self.database.write() as session:
            # Rows and mark in one transaction: a planner that is killed in between plans anew.
            count = store.plan_probes(session, rows)
            store.mark(session, kind, str(epoch), now_ms // 1000)
        self.reached("epoch-planned")
        if count:
            log.info("epoch_planned", epoch=epoch, probes=count, phase=kind)
        return count > 0

    def _rows(self, context: EpochContext, now_ms: int) -> Iterator[store.DueProbe]:
        keeper = context.keeper(self.signer.address)
        if keeper is None:
            return
        schedule = ProbeSchedule(context.clock, context.epoch, seed_of(seed_signature(context, self.signer)))
        node_ids = [node.node_id for node in context.nodes.values() if context.evidence_counts(keeper, node)]
        for slot in range(context.clock.slots):
            if context.clock.slot_bounds_ms(context.epoch, slot)[1] > now_ms:
                for node in node_ids:
                    yield store.DueProbe(context.epoch, slot, node, schedule.due_ms(node, slot))


def seed_signature(context: EpochContext, signer: MessageSigner) -> bytes:
    """This keeper's signature over the epoch's challenge, 65 bytes; deterministic."""
    block = bytes.fromhex(context.seed_block.hash[2:])
    return signer.sign(probe_message(context.epoch, block))
