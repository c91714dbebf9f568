"""Closing an epoch: own evidence, the leader's bundle, everybody's own check of it, signatures, one submission.

In its turn a leader proposes a report until the quorum has signed, and then enqueues its submission. A keeper signs one
report an epoch, ever: a later leader therefore takes up a report that somebody has signed already, if its bundle
holds, so that a leader which withholds costs one turn and not the epoch.
"""

from collections.abc import Sequence
from typing import Any

from offchain.db.database import Database
from offchain.domain.types import Epoch
from offchain.evidence.bundle import BundleVerdict, EvidenceBundle
from offchain.evidence.chain_view import ChainView
from offchain.evidence.document import Evidence, MessageSigner
from offchain.evidence.epoch_context import EpochContext
from offchain.evidence.epoch_context_reader import EpochContextReader
from offchain.evidence.execution_batches import BatchSource, GatewayAnswer
from offchain.evidence.keeper_peers import Peers
from offchain.keeper.attestation.ballot import Ballot
from offchain.keeper.attestation.follower import Follower
from offchain.keeper.attestation.leader import Leader, Submitter
from offchain.keeper.attestation.lease import Fence
from offchain.keeper.attestation.open_epochs import OpenEpoch, OpenEpochs
from offchain.keeper.attestation.own_document import OwnEvidence
from offchain.runtime.clock import Clock
from offchain.runtime.crash_points import CrashPoint, nowhere


class AttestService:
    """One keeper's part in closing epochs. `step` leads, `answer_proposal` follows; both may run at the same time.

    Args:
        peer_urls: base URLs of the other keepers; empty means those that the registry names.
        batches: asks this keeper's gateway for its batches; one that is away costs a document nothing but them.
    """

    def __init__(
        self,
        database: Database,
        view: ChainView,
        frames: EpochContextReader,
        signer: MessageSigner,
        clock: Clock,
        peers: Peers,
        submitter: Submitter,
        peer_urls: Sequence[str] = (),
        *,
        batches: BatchSource = lambda _since: GatewayAnswer(),
        reached: CrashPoint = nowhere,
    ) -> None:
        self.closings = OpenEpochs(database, view, frames, clock, signer.address, peer_urls)
        self.evidence = OwnEvidence(database, self.closings, signer, clock, batches)
        self.ballot = Ballot(database, signer, clock)
        self._follower = Follower(database, self.closings, self.evidence, self.ballot, clock, peers, reached)
        self._leader = Leader(
            database,
            self.closings,
            self.evidence,
            self.ballot,
            self._follower,
            signer,
            clock,
            peers,
            submitter,
            reached,
        )

    def step(self, fence: Fence) -> None:
        """See `Leader.step`."""
        self._leader.step(fence)

    def answer_proposal(self, epoch: Epoch, data: Any) -> str:
        """See `Follower.answer_proposal`."""
        return self._follower.answer_proposal(epoch, data)

    def closing(self, epoch: Epoch) -> OpenEpoch | None:
        """See `OpenEpochs.of`."""
        return self.closings.of(epoch)

    def context(self, epoch: Epoch) -> EpochContext:
        """See `OpenEpochs.context`."""
        return self.closings.context(epoch)

    def own_evidence(self, context: EpochContext) -> Evidence:
        """See `OwnEvidence.of`."""
        return self.evidence.of(context)

    def frozen_evidence(self, epoch: Epoch) -> Evidence:
        """See `OwnEvidence.frozen`."""
        return self.evidence.frozen(epoch)

    def judged_bundle(
        self, context: EpochContext, bundle_hash: str, urls: Sequence[str]
    ) -> tuple[EvidenceBundle, BundleVerdict]:
        """See `Follower.judged_bundle`."""
        return self._follower.judged_bundle(context, bundle_hash, urls)
