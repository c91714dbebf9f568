"""Builds the services of one keeper in one process; everything is made when it is first used."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import redis
import structlog
from sqlalchemy.orm import Session

from offchain.chain.deployment import Deployment
from offchain.chain.indexer import Indexer
from offchain.chain.keys import TransactionSigner, recover
from offchain.chain.reader import ChainReader
from offchain.chain.rpc import Rpc
from offchain.crash import CrashPoint, nowhere
from offchain.db import leases
from offchain.db.engine import Database, open_database
from offchain.db.models import Node
from offchain.dispatch.client import Answer, BlockingDispatcher, chat_unit
from offchain.dispatch.fleet_store import FleetStore
from offchain.dispatch.heartbeat import HeartbeatVerifier, NodeRecord
from offchain.domain.hashing import keccak256
from offchain.domain.messages import EpochReport, ServiceReceipt
from offchain.domain.types import FULL_BPS, Bps, Epoch, NodeId
from offchain.errors import TransientError, UserError
from offchain.keeper.api import KeeperApi
from offchain.keeper.attest import AttestService
from offchain.keeper.batches import GatewayBatches
from offchain.keeper.capability import CapabilityService
from offchain.keeper.chain_view import ReaderView
from offchain.keeper.clock import Clock, SystemClock
from offchain.keeper.close import CloseService
from offchain.keeper.frame import FrameReader
from offchain.keeper.fulfil import FulfilService
from offchain.keeper.gateway_client import GatewayClient
from offchain.keeper.health import Health
from offchain.keeper.peers import HttpPeers
from offchain.keeper.plan import PlanService
from offchain.keeper.probe import ProbeService, body_of
from offchain.keeper.pulse import Pulse
from offchain.keeper.reference import AnswerCheck, EndpointReference, NodesReference, Reference
from offchain.keeper.renewal import renewed
from offchain.keeper.reputation import reputation_document
from offchain.keeper.skew import ClockCheck
from offchain.keeper.validate import ValidateService
from offchain.outbox import Outbox, Sender, SenderSettings
from offchain.outbox.wire import Wire
from offchain.settings import KeeperSettings

log = structlog.get_logger(__name__)

ALONE_MS, ALONE_RENEW_SECONDS = 5_000, 1.0
MAX_DISPATCH_SECONDS = 100.0
VALIDATION_SECONDS = 20.0


class Services:
    """One keeper, wired. Make one for each process; not to be carried over a fork.

    Args:
        broker_url: Redis of this keeper: queues, fleet, pulse.
        reached: crash points, for tests.
    """

    def __init__(
        self,
        settings: KeeperSettings,
        deployment: Deployment,
        signer: TransactionSigner,
        broker_url: str,
        clock: Clock | None = None,
        reached: CrashPoint = nowhere,
    ) -> None:
        self.settings = settings
        self.deployment = deployment
        self.signer = signer
        self.clock = clock or SystemClock()
        self.reached = reached
        self._broker_url = broker_url
        self._holder = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"

    # ------------------------------------------------------------------------------------------------------ resources

    @cached_property
    def database(self) -> Database:
        return open_database(self.settings.database_url)

    @cached_property
    def redis(self) -> "redis.Redis":
        return redis.Redis.from_url(
            self._broker_url, socket_timeout=5, socket_connect_timeout=5, health_check_interval=10
        )

    @cached_property
    def reader(self) -> ChainReader:
        return ChainReader(
            Rpc(self.settings.rpc_url), self.deployment, confirmations=self.settings.confirmations
        )

    @cached_property
    def view(self) -> ReaderView:
        return ReaderView(self.reader)

    @cached_property
    def pulse(self) -> Pulse:
        return Pulse(self.redis, self.clock)

    @cached_property
    def clock_check(self) -> ClockCheck:
        return ClockCheck(self.database, self.clock)

    @cached_property
    def frames(self) -> FrameReader:
        return FrameReader(self.database, self.view, self.deployment)

    @cached_property
    def peers(self) -> HttpPeers:
        return HttpPeers()

    @cached_property
    def fleet(self) -> FleetStore:
        return FleetStore(self.redis, self.clock.now_ms)

    # ------------------------------------------------------------------------------------------------------- services

    @cached_property
    def indexer(self) -> Indexer:
        return Indexer(self.database, self.reader, reached=self.reached)

    @cached_property
    def outbox(self) -> Outbox:
        return Outbox(self.deployment, self.signer.address)

    @cached_property
    def sender(self) -> Sender:
        return Sender(
            self.database,
            Wire(self.reader),
            self.signer,
            SenderSettings(max_fee_wei=self.settings.max_fee_gwei * 10**9),
            reached=self.reached,
        )

    @cached_property
    def plan(self) -> PlanService:
        return PlanService(
            self.database, self.view, self.frames, self.signer, self.clock, reached=self.reached
        )

    @cached_property
    def probe(self) -> ProbeService:
        api_key = read_api_key(self.settings)
        timeout = self.settings.probe_timeout_seconds
        return ProbeService(
            self.database,
            self.deployment.clock(),
            lambda: GatewayClient(self.settings.gateway_url, api_key, timeout),
            self.signer,
            self.deployment.signing_domain("UptimeAttestation"),
            self.deployment.signing_domain("InferenceMarket"),
            self.clock,
            model=self.settings.probe_model,
            timeout_ms=int(timeout * 1000),
            check=self._answer_check(timeout),
            contradiction=self.capability.contradiction,
            distrust=self.clock_check.why_not,
            reached=self.reached,
        )

    @cached_property
    def capability(self) -> CapabilityService:
        clock = self.deployment.clock()
        return CapabilityService(
            self.database,
            lambda: [report for report, _age in self.fleet.read_all()],
            self.clock,
            model=self.settings.probe_model,
            grace_ms=clock.length_seconds * 1000 // clock.slots,
        )

    @cached_property
    def validate(self) -> ValidateService:
        api_key = read_api_key(self.settings)
        return ValidateService(
            self.database,
            self.view,
            lambda: GatewayClient(self.settings.gateway_url, api_key, VALIDATION_SECONDS),
            lambda: [report.node_id for report, _age in self.fleet.read_all()],
            self.clock,
            lambda request_id: self._rank(request_id) == 0,
            self.deployment.clock(),
            lambda probe: body_of(probe, self.settings.probe_model, self.signer),
            reached=self.reached,
        )

    @cached_property
    def attest(self) -> AttestService:
        return AttestService(
            self.database,
            self.view,
            self.frames,
            self.signer,
            self.clock,
            self.peers,
            _Intents(self),
            self.settings.peers,
            batches=GatewayBatches(self.settings.gateway_url),
            reached=self.reached,
        )

    @cached_property
    def close_epochs(self) -> CloseService:
        return CloseService(
            self.database,
            self.view,
            self.frames,
            self.attest,
            _Intents(self),
            self.clock,
            self.settings.peers,
            reached=self.reached,
        )

    @cached_property
    def dispatcher(self) -> BlockingDispatcher:
        return BlockingDispatcher(
            fleet_store=self.fleet,
            sign=self.signer.sign,
            recover=recover,
            key_of=self._key_of,
            nodes_domain=self.deployment.signing_domain("NodeRegistryLocker"),
            market_domain=self.deployment.signing_domain("InferenceMarket"),
            now_ms=self.clock.now_ms,
            regions=[self.settings.region],
        )

    @cached_property
    def fulfil(self) -> FulfilService:
        return FulfilService(
            self.database,
            self._dispatch,
            _Intents(self),
            self.clock,
            depth=self.settings.confirmations,
            rank=self._rank,
            reached=self.reached,
        )

    @cached_property
    def health(self) -> Health:
        return Health(self.database, self.pulse, self.clock, self.deployment.clock(), self._gas_wei)

    @cached_property
    def api(self) -> KeeperApi:
        heartbeats = HeartbeatVerifier(
            self.deployment.signing_domain("NodeRegistryLocker"), recover, self._record_of, self.clock.now_ms
        )
        return KeeperApi(
            self.database,
            self.attest,
            heartbeats,
            self.fleet,
            self.health,
            self.signer.address,
            lambda: reputation_document(self.database, self.deployment.clock(), self.clock.now_ms() // 1000),
        )

    # ---------------------------------------------------------------------------------------------------------- steps

    def index(self) -> bool:
        """Bring the index forward. Returns whether there were new events."""
        progress = self.indexer.advance()
        self.clock_check.saw(progress.head)
        return progress.events > 0

    def send(self) -> None:
        """Let the outbox's sender take its next step."""
        done = self.sender.run_once()
        for key, reason in done.faults.items():
            log.error("transaction_fault", intent=key, reason=reason)
        for state in ("sent", "replaced", "mined", "reorganised", "final"):
            for key in getattr(done, state):
                log.info("transaction", state=state, intent=key)
        for key, reason in done.superseded.items():
            log.info("transaction", state="superseded", intent=key, reason=reason)

    @contextmanager
    def alone(self, name: str) -> Iterator[bool]:
        """Hold a named lease for the block; gives False when another worker of this keeper has it."""
        holder = f"{self._holder}-{uuid.uuid4().hex[:12]}"

        def acquire() -> bool:
            with self.database.write() as session:
                return leases.acquire(session, name, holder, self.clock.now_ms(), ALONE_MS)

        if not acquire():
            yield False
            return
        try:
            with renewed(ALONE_RENEW_SECONDS, acquire, name):
                yield True
        finally:
            with self.database.write() as session:
                leases.release(session, name, holder)

    # --------------------------------------------------------------------------------------------------------- inside

    def _answer_check(self, timeout_seconds: float) -> AnswerCheck | None:
        settings = self.settings
        if settings.probe_check_share == 0:
            return None
        reference: Reference = NodesReference(self.database, self._serving)
        if settings.reference_url is not None:
            key_file, revision = settings.reference_api_key_file, settings.reference_revision
            reference = EndpointReference(
                settings.reference_url,
                "" if key_file is None else read_secret(key_file, "reference_api_key_file"),
                timeout_seconds,
                None if revision is None else keccak256(revision.encode()),
            )
        return AnswerCheck(
            reference,
            self.signer,
            self.deployment.signing_domain("InferenceMarket"),
            self.clock,
            settings.probe_model,
            Bps(round(settings.probe_check_share * FULL_BPS)),
        )

    def _serving(self) -> list[tuple[NodeId, bytes]]:
        """Nodes alive that serve the probed model, with their revision's hash."""
        model = self.settings.probe_model
        return [
            (report.node_id, keccak256(report.offers[model].revision.encode()))
            for report, _age in self.fleet.read_all()
            if model in report.offers
        ]

    def _gas_wei(self) -> int:
        answer: str = self.reader.rpc.call("eth_getBalance", self.signer.address, "latest")
        return int(answer, 16)

    def _key_of(self, node_id: NodeId) -> str | None:
        with self.database.read() as session:
            row = session.get(Node, node_id)
            return None if row is None else row.key_address

    def _record_of(self, node_id: NodeId) -> NodeRecord | None:
        with self.database.read() as session:
            row = session.get(Node, node_id)
        if row is None:
            return None
        clock, now = self.deployment.clock(), self.clock.now_ms() // 1000
        ended = row.active_until is not None and now >= clock.start(Epoch(row.active_until))
        return NodeRecord(node_id, row.key_address, row.tier, routable=not (row.withdrawn or ended))

    def _rank(self, request_id: str) -> int:
        """This keeper's place among the present keepers for a request: they take turns by the request's id."""
        clock, now = self.deployment.clock(), self.clock.now_ms() // 1000
        if now < clock.genesis:
            return 0
        block = self.view.latest()
        signers = [item.lower() for item in self.view.keeper_set(clock.epoch_at(now), block).signers]
        mine = self.signer.address.lower()
        if mine not in signers:
            return len(signers)
        return (signers.index(mine) - int(request_id, 16)) % len(signers)

    def _dispatch(self, request_id: bytes, payload: bytes, seconds: float) -> Answer:
        unit = chat_unit(request_id, payload)
        try:
            return self.dispatcher.dispatch(
                unit, payload, timeout_seconds=min(max(seconds, 1.0), MAX_DISPATCH_SECONDS)
            )
        except TimeoutError:
            raise TransientError("no node answered in time") from None
        except redis.RedisError as error:
            raise TransientError(f"the fleet cannot be read: {type(error).__name__}") from error


class _Intents:
    """The keeper's transactions, as intents with unique keys."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def submit_report(
        self, session: Session, epoch: Epoch, report: EpochReport, bitmap: int, signatures: bytes
    ) -> None:
        self._services.outbox.enqueue(
            session,
            f"attest:{epoch}",
            "UptimeAttestation",
            "submit",
            (report_tuple(report), bitmap, signatures),
        )

    def roll_over(self, session: Session, epoch: Epoch) -> None:
        self._services.outbox.enqueue(session, f"rollover:{epoch}", "RewardDistributor", "rollover", (epoch,))

    def fulfil(
        self, session: Session, request_id: str, receipt: ServiceReceipt, signature: bytes, result: bytes
    ) -> None:
        self._services.outbox.enqueue(
            session,
            f"fulfil:{request_id}",
            "InferenceMarket",
            "fulfil",
            (receipt_tuple(receipt), signature, result),
        )


def report_tuple(report: EpochReport) -> tuple[Any, ...]:
    """The report in the order of the contract's struct."""
    return (
        report.epoch,
        report.uptime_root,
        report.node_count,
        report.execution_root,
        report.bundle_hash,
        report.keeper_set_digest,
    )


def receipt_tuple(receipt: ServiceReceipt) -> tuple[Any, ...]:
    """The receipt in the order of the contract's struct."""
    return (
        receipt.request_id,
        receipt.node_id,
        receipt.request_hash,
        receipt.result_hash,
        receipt.poe,
        receipt.model_revision,
        receipt.prompt_tokens,
        receipt.completion_tokens,
        receipt.started_at_ms,
        receipt.finished_at_ms,
        receipt.price_wei,
    )


def read_api_key(settings: KeeperSettings) -> str:
    """This keeper's key at its gateway. Raises UserError when the file is missing or empty."""
    return read_secret(settings.gateway_api_key_file, "gateway_api_key_file")


def read_secret(path: Path, field: str) -> str:
    """The one line of a file that a setting names. Raises UserError when it is missing or empty."""
    try:
        key = path.read_text().strip()
    except OSError as error:
        raise UserError(f"{field} {path} cannot be read: {error.strerror}") from None
    if not key:
        raise UserError(f"{field} {path} is empty; write the key into it")
    return key
