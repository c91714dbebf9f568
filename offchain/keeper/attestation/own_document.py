"""This keeper's own evidence document of an epoch: signed when the evidence is frozen, and the same bytes from then on."""

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


class OwnDocument:
    """Makes the document of an epoch, and keeps that of the newest one in memory.

    Args:
        batches: asks this keeper's gateway for its batches. While the gateway is away, documents list none.
    """

    def __init__(
        self,
        database: Database,
        open_epochs: OpenEpochs,
        signer: MessageSigner,
        clock: Clock,
        batches: BatchSource,
    ) -> None:
        self._database = database
        self._open_epochs = open_epochs
        self._signer = signer
        self._clock = clock
        self._batches = batches
        self._own: dict[Epoch, Evidence] = {}

    def of(self, context: EpochContext) -> Evidence:
        """This keeper's signed document of a frozen epoch; the same bytes at every call.

        Raises:
            NotReadyError: the gateway is making its batch of the epoch, and there is time to wait for it.
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
        """The gateway's batches as they were at the first call: the document must not change after somebody has seen it."""
        with self._database.read() as session:
            frozen = store.frozen_batches(session, context.epoch)
        if frozen is not None:
            return frozen
        answer = self._batches(Epoch(max(0, context.epoch - LATE_EPOCHS)))
        if answer.making:
            patience = min(self._open_epochs.turn_seconds(context) // 4, MAX_BATCH_WAIT_SECONDS)
            if seconds(self._clock) < frozen_at(context.clock, context.epoch) + patience:
                raise NotReadyError(f"the gateway is making its batch of epoch {context.epoch}")
        with self._database.write() as session:
            fresh = batches_of(session, context, answer.batches)
            return store.freeze_batches(session, context.epoch, fresh, seconds(self._clock))

    def frozen(self, epoch: Epoch) -> Evidence:
        """The document for others to see. Raises NotReadyError before it is frozen: probes stay secret until then."""
        if seconds(self._clock) < frozen_at(self._open_epochs.epochs, epoch):
            raise NotReadyError(f"evidence of epoch {epoch} is not frozen yet")
        return self.of(self._open_epochs.context(epoch))
