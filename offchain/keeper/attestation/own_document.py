"""This keeper's own evidence document of an epoch: signed when the evidence is frozen, and the same bytes from then on."""

from dataclasses import dataclass, field

from offchain.db.database import Database
from offchain.domain.types import Address, Epoch
from offchain.evidence.document import Evidence, MessageSigner
from offchain.evidence.epoch_context import LATE_EPOCHS, EpochContext
from offchain.evidence.epoch_context_reader import NotReadyError
from offchain.evidence.execution_batches import BatchSource, batches_of
from offchain.keeper import store
from offchain.keeper.attestation.open_epochs import OpenEpochs, frozen_at
from offchain.keeper.attestation.own_executions import executions_of
from offchain.keeper.probing.planner import seed_signature
from offchain.runtime.clock import Clock, seconds

MAX_BATCH_WAIT_SECONDS = 300
"""Seconds, and at most a quarter of a turn, that a keeper waits for a gateway that is making its batch."""


@dataclass(eq=False)
class OwnDocument:
    """Makes the document of an epoch, and keeps that of the newest one in memory.

    Attributes:
        batches: asks this keeper's gateway for its batches. While the gateway is away, documents list none.
    """

    database: Database
    open_epochs: OpenEpochs
    signer: MessageSigner
    clock: Clock
    batches: BatchSource
    _own: dict[Epoch, Evidence] = field(default_factory=dict, init=False)

    def of(self, context: EpochContext) -> Evidence:
        """This keeper's signed document of a frozen epoch; the same bytes at every call.

        Raises:
            NotReadyError: the gateway is making its batch of the epoch, and there is time to wait for it.
        """
        if context.epoch in self._own:
            return self._own[context.epoch]
        with self.database.read() as session:
            answers = store.finished_probes(session, context.epoch, "answered")
            misses = store.finished_probes(session, context.epoch, "missed")
            executions = executions_of(session, context)
        batches = self._frozen_batches(context)
        with self.database.write() as session:
            # In the database: API and worker each make the document, and its bytes must be the same.
            regions = store.frozen_regions(session, context.epoch, context.nodes, seconds(self.clock))
        document = Evidence(
            domain=context.attestation,
            epoch=context.epoch,
            signer=Address(self.signer.address.lower()),
            seed_block=context.seed_block,
            seed_signature=seed_signature(context, self.signer),
            answers=tuple(answers),
            misses=tuple(misses),
            executions=tuple(executions),
            regions={region: tuple(ids) for region, ids in regions.items()},
            batches=tuple(batches),
        ).sign(self.signer)
        self._own = {context.epoch: document}  # only the newest: a large network's has 100 MB
        return document

    def _frozen_batches(self, context: EpochContext) -> list[str]:
        """The gateway's batches as they were at the first call: the document must not change after somebody has seen it."""
        with self.database.read() as session:
            frozen = store.frozen_batches(session, context.epoch)
        if frozen is not None:
            return frozen
        # Asked between the transactions: an answer may take two seconds.
        answer = self.batches(Epoch(max(0, context.epoch - LATE_EPOCHS)))
        # A gateway that is away is not waited for: its batch may come three epochs late (ADR 0083).
        if answer.making:
            patience = min(self.open_epochs.turn_seconds(context) // 4, MAX_BATCH_WAIT_SECONDS)
            if seconds(self.clock) < frozen_at(context.clock, context.epoch) + patience:
                raise NotReadyError(f"the gateway is making its batch of epoch {context.epoch}")
        with self.database.write() as session:
            fresh = batches_of(session, context, answer.batches)
            return store.freeze_batches(session, context.epoch, fresh, seconds(self.clock))

    def frozen(self, epoch: Epoch) -> Evidence:
        """The document for others to see. Raises NotReadyError before it is frozen: probes stay secret until then."""
        if seconds(self.clock) < frozen_at(self.open_epochs.context_reader.clock, epoch):
            raise NotReadyError(f"evidence of epoch {epoch} is not frozen yet")
        return self.of(self.open_epochs.context(epoch))
