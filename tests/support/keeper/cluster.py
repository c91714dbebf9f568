"""Several keepers' attestation services in one process: real databases, messages handed over in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from offchain.chain.reader import EpochStatus, KeeperSet
from offchain.db.cursors import move
from offchain.db.database import Database, open_database
from offchain.db.migrations import upgrade
from offchain.domain.canonical_json import canonical, parse
from offchain.domain.evidence_entries import AnswerEntry, Miss, SignedExecutionBatch
from offchain.domain.messages import EpochReport
from offchain.domain.types import BlockRef, Epoch, NodeId, Wei
from offchain.errors import TransientError
from offchain.evidence.document import Evidence
from offchain.evidence.epoch_context import EpochContext
from offchain.evidence.epoch_context_reader import NotReadyError
from offchain.evidence.execution_batches import GatewayAnswer
from offchain.evidence.keeper_peers import ProposalReply
from offchain.keeper import store
from offchain.keeper.attestation.ballot import BallotRefusedError
from offchain.keeper.attestation.epoch_summary import epoch_summary
from offchain.keeper.attestation.open_epochs import frozen_at
from offchain.keeper.attestation.service import AttestService
from tests.support.keeper.epoch_factory import EPOCH, EpochWorld


@dataclass
class Hands:
    """A clock that is moved by hand, in Unix milliseconds."""

    ms: int

    def now_ms(self) -> int:
        return self.ms


@dataclass
class StillView:
    """A chain that says what the test wants."""

    clock: Hands
    deadline: int
    state: EpochStatus = EpochStatus.OPEN
    pool_wei: int = 0

    def latest(self) -> BlockRef:
        return BlockRef(100, "0x" + "00" * 32, self.clock.ms // 1000)

    def block(self, number: int) -> BlockRef:
        raise TransientError(f"no block {number}")

    def keeper_set(self, epoch: Epoch, at: BlockRef) -> KeeperSet:
        raise TransientError("not asked here")

    def status(self, epoch: Epoch) -> EpochStatus:
        return self.state if epoch == EPOCH else EpochStatus.LAPSED

    def submit_deadline(self, epoch: Epoch) -> int:
        return self.deadline

    def pool(self, epoch: Epoch) -> Wei:
        return Wei(self.pool_wei)


@dataclass
class OneContextReader:
    """`EpochContextReader` that knows one epoch."""

    context: EpochContext

    @property
    def clock(self) -> Any:
        return self.context.clock

    def read(self, epoch: Epoch, indexed: BlockRef, *, until: int | None = None) -> EpochContext:
        if epoch != self.context.epoch:
            raise NotReadyError("another epoch")
        return self.context


@dataclass
class Sent:
    """What was handed to the outbox, by key; a second one of a key is dropped, as the outbox does."""

    intents: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def submit_report(
        self, session: Session, epoch: Epoch, report: EpochReport, bitmap: int, signatures: bytes
    ) -> None:
        self.intents.setdefault(f"attest:{epoch}", (report, bitmap, signatures))

    def roll_over(self, session: Session, epoch: Epoch) -> None:
        self.intents.setdefault(f"rollover:{epoch}", (epoch,))


class Ring:
    """Keepers of an `EpochWorld`, each with its own database, that reach each other unless switched off."""

    def __init__(
        self, world: EpochWorld, folder: Path, documents: Mapping[int, Evidence] | None = None
    ) -> None:
        self.world = world
        clock = world.context.clock
        self.time = Hands((frozen_at(clock, EPOCH) + 1) * 1000)
        self.view = StillView(self.time, clock.end(EPOCH) + 120)
        self.offline: set[int] = set()
        self.tamper: dict[str, Any] = {}
        self.making: set[int] = set()
        """Keepers whose gateway says that it is making a batch."""
        self.gateways: dict[int, list[SignedExecutionBatch]] = {}
        """What each keeper's gateway serves; a keeper without one here finds its gateway away."""
        self.databases: list[Database] = []
        self.services: list[AttestService] = []
        self.sent: list[Sent] = []
        for index, signer in enumerate(world.keeper_keys):
            url = f"sqlite:///{folder / f'keeper-{index}.db'}"
            upgrade(url)
            database = open_database(url)
            self.databases.append(database)
            self.sent.append(Sent())
            self.services.append(
                AttestService(
                    database,
                    self.view,
                    OneContextReader(world.context),  # type: ignore[arg-type]
                    signer,
                    self.time,
                    self.peers_of(index),
                    self.sent[index],
                    [str(other) for other in range(len(world.keeper_keys)) if other != index],
                    batches=partial(self.gateway_answer, index),
                )
            )
            with database.write() as session:
                move(session, "finalized", None, BlockRef(100, "0x" + "00" * 32, clock.end(EPOCH)))
            fill(database, (documents or {}).get(index) or world.document(index))

    def gateway_answer(self, index: int, _since: Epoch) -> GatewayAnswer:
        """What a keeper's gateway says."""
        return GatewayAnswer(self.gateways.get(index, []), index in self.making)

    def peers_of(self, index: int) -> "RingPeers":
        """The network as a keeper sees it."""
        return RingPeers(self, index)

    def turn_of(self, index: int) -> None:
        """Move time into the next turn in which this keeper leads."""
        for _ in range(len(self.services)):
            open_epoch = self.services[index].open_epochs.of(EPOCH)
            assert open_epoch is not None
            if open_epoch.leader(open_epoch.turn(self.time.ms // 1000)) == open_epoch.me:
                return
            self.time.ms += open_epoch.turn_seconds * 1000

    def late_in_turn(self, index: int) -> None:
        """Move time to the end of a turn in which this keeper leads, when it no longer waits for others."""
        self.turn_of(index)
        open_epoch = self.services[index].open_epochs.of(EPOCH)
        assert open_epoch is not None
        self.time.ms += (open_epoch.turn_seconds * 1000 * 3) // 4

    def close(self) -> None:
        """Close the databases."""
        for database in self.databases:
            database.close()


@dataclass
class RingPeers:
    """`Peers` that calls the other services directly; documents go through their bytes, as over HTTP."""

    ring: Ring
    me: int

    def _up(self, urls: Sequence[str]) -> list[int]:
        return [int(url) for url in urls if url.isdigit() and int(url) not in self.ring.offline | {self.me}]

    def evidence(self, urls: Sequence[str], epoch: Epoch) -> dict[str, Any]:
        return {
            str(i): self.ring.tamper.get(f"evidence:{i}")
            or parse(canonical(self.ring.services[i].own_document.frozen(epoch).to_json()))
            for i in self._up(urls)
        }

    def epoch(self, urls: Sequence[str], epoch: Epoch) -> dict[str, Any]:
        keys = self.ring.world.keeper_keys
        return {str(i): epoch_summary(self.ring.databases[i], epoch, keys[i].address) for i in self._up(urls)}

    def bundle(self, urls: Sequence[str], bundle_hash: str) -> bytes | None:
        for i in self._up([*urls, *(str(i) for i in range(len(self.ring.services)))]):
            with self.ring.databases[i].read() as session:
                raw = store.load_bundle(session, bundle_hash)
            if raw is not None:
                return raw
        return None

    def propose(self, urls: Sequence[str], epoch: Epoch, proposal: Mapping[str, Any]) -> list[ProposalReply]:
        replies = []
        for i in self._up(urls):
            try:
                replies.append(
                    ProposalReply(
                        str(i), self.ring.services[i].follower.answer_proposal(epoch, dict(proposal))
                    )
                )
            except BallotRefusedError as refused:
                replies.append(ProposalReply(str(i), None, str(refused)))
        return replies


def fill(database: Database, document: Evidence) -> None:
    """Write a document's entries as finished probes."""
    with database.write() as session:
        for text in document.answers:
            answer = AnswerEntry.unpack(text)
            probe = store.DueProbe(EPOCH, answer.slot, answer.receipt.node_id, 0)
            store.plan_probes(session, [probe])
            store.record_probe(session, probe, "answered", {"entry": text}, 1)
        for text in document.misses:
            miss = Miss.unpack(text)
            probe = store.DueProbe(EPOCH, miss.slot, NodeId(miss.node_id), 0)
            store.plan_probes(session, [probe])
            store.record_probe(session, probe, "missed", {"entry": text}, None)
