"""This keeper's own evidence of an epoch: signed once it is frozen, and the same bytes from then on."""

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
"""For so long, and no more than a quarter of a turn, a keeper waits for a gateway that is making its batch."""


class OwnEvidence:
    """Makes and keeps the document of the newest epoch.

    Args:
        batches: asks this keeper's gateway for its batches; one that is away costs a document nothing but them.
    """

    def __init__(
        self,
        database: Database,
        closings: OpenEpochs,
        signer: MessageSigner,
        clock: Clock,
        batches: BatchSource,
    ) -> None:
        self._database = database
        self._closings = closings
        self._signer = signer
        self._clock = clock
        self._batches = batches
        self._own: dict[Epoch, Evidence] = {}

    def of(self, context: EpochContext) -> Evidence:
        """This keeper's signed document of a frozen epoch; the same bytes at every call.

        Raises:
            NotReadyError: its gateway is making the epoch's batch, and there is time to wait for it.
        """
        if context.epoch in self._own:
            return self._own[context.epoch]
        with self._database.read() as session:
            answers = store.finished_probes(session, context.epoch, "answered")
            misses = store.finished_probes(session, context.epoch, "missed")
            executions = executions_of(session, context)
        batches = self._frozen_batches(context)
        with self._database.write() as session:
            regions = store.frozen_regions(session, context.epoch, context.nodes, seconds(self._clock))
        document = Evidence(
            domain=context.attestation,
            epoch=context.epoch,
            signer=Address(self._signer.address.lower()),
            seed_block=context.seed_block,
            seed_signature=seed_signature(context, self._signer),
            answers=tuple(answers),
            misses=tuple(misses),
            executions=tuple(executions),
            regions={region: tuple(ids) for region, ids in regions.items()},
            batches=tuple(batches),
        ).sign(self._signer)
        self._own = {context.epoch: document}
        return document

    def _frozen_batches(self, context: EpochContext) -> list[str]:
        """What the gateway gave at the first call for it; the document must not change after somebody has seen it."""
        with self._database.read() as session:
            frozen = store.frozen_batches(session, context.epoch)
        if frozen is not None:
            return frozen
        answer = self._batches(Epoch(max(0, context.epoch - LATE_EPOCHS)))
        if answer.making:
            patience = min(self._closings.turn_seconds(context) // 4, MAX_BATCH_WAIT_SECONDS)
            if seconds(self._clock) < frozen_at(context.clock, context.epoch) + patience:
                raise NotReadyError(f"the gateway is making its batch of epoch {context.epoch}")
        with self._database.write() as session:
            fresh = batches_of(session, context, answer.batches)
            return store.freeze_batches(session, context.epoch, fresh, seconds(self._clock))

    def frozen(self, epoch: Epoch) -> Evidence:
        """Own evidence for others to see. Raises NotReadyError before it is frozen: probes stay secret till then."""
        if seconds(self._clock) < frozen_at(self._closings.epochs, epoch):
            raise NotReadyError(f"evidence of epoch {epoch} is not frozen yet")
        return self.of(self._closings.context(epoch))
