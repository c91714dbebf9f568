"""Closing an epoch, wired: own documents, the leader's bundle, everybody's own check of it, signatures, one submission.

In its turn a leader proposes a report until the quorum has signed, and then enqueues its submission. A keeper signs one
report an epoch, ever. A later leader therefore takes up a report that somebody has signed already, if its bundle holds:
a leader that withholds signatures costs one turn and not the epoch.
"""

from collections.abc import Sequence

from offchain.db.database import Database
from offchain.domain.types import Epoch
from offchain.evidence.chain_view import ChainView
from offchain.evidence.document import MessageSigner
from offchain.evidence.epoch_context_reader import EpochContextReader
from offchain.evidence.execution_batches import BatchSource, GatewayAnswer
from offchain.evidence.keeper_peers import Peers
from offchain.keeper.attestation.ballot import Ballot
from offchain.keeper.attestation.follower import Follower
from offchain.keeper.attestation.leader import Leader
from offchain.keeper.attestation.open_epochs import OpenEpochs
from offchain.keeper.attestation.own_document import OwnDocument
from offchain.keeper.transactions import Intents
from offchain.runtime.clock import Clock
from offchain.runtime.crash_points import CrashPoint, nowhere


def _no_gateway(_since: Epoch) -> GatewayAnswer:
    return GatewayAnswer()


class AttestService:
    """The parts of one keeper that close epochs. `leader` and `follower` may work at the same time.

    ::

        attest = AttestService(database, view, context_reader, signer, clock, peers, intents)
        attest.leader.step(fence)                           # propose, gather signatures, submit
        attest.follower.answer_proposal(epoch, proposal)    # check another leader's report and sign it
        attest.own_document.frozen(epoch)                   # this keeper's evidence, for everybody

    Args:
        peer_urls: base URLs of the other keepers; empty means those that the registry names.
        batches: asks this keeper's gateway for its batches. While the gateway is away, documents list none.
    """

    def __init__(
        self,
        database: Database,
        view: ChainView,
        context_reader: EpochContextReader,
        signer: MessageSigner,
        clock: Clock,
        peers: Peers,
        submitter: Intents,
        peer_urls: Sequence[str] = (),
        *,
        batches: BatchSource = _no_gateway,
        reached: CrashPoint = nowhere,
    ) -> None:
        self.open_epochs = OpenEpochs(database, view, context_reader, clock, signer.address, peer_urls)
        self.own_document = OwnDocument(database, self.open_epochs, signer, clock, batches)
        self.ballot = Ballot(database, signer, clock)
        shared = database, self.open_epochs, self.own_document, self.ballot
        self.follower = Follower(*shared, clock, peers, reached)
        self.leader = Leader(*shared, self.follower, signer, clock, peers, submitter, reached)
