"""Makes the services of one keeper in one process. Each is made when it is first used."""

from dataclasses import dataclass, field
from functools import cached_property

import redis
import structlog

from offchain.chain.deployment import Deployment
from offchain.chain.indexer import Indexer
from offchain.chain.reader import ChainReader
from offchain.chain.rpc import Rpc
from offchain.crypto.keys import TransactionSigner
from offchain.crypto.recovery import recover
from offchain.db.database import Database, open_database
from offchain.dispatch.fleet_store import FleetStore
from offchain.domain.eip712 import keccak256
from offchain.domain.types import FULL_BPS, Bps
from offchain.errors import TransientError
from offchain.evidence.chain_view import ReaderView
from offchain.evidence.epoch_context_reader import EpochContextReader
from offchain.evidence.execution_batches import GatewayBatches
from offchain.evidence.keeper_peers import HttpPeers
from offchain.keeper.attestation.service import AttestService
from offchain.keeper.attestation.settlement import EpochSettlement
from offchain.keeper.lookups import Lookups
from offchain.keeper.market.answer_sampling import ValidateService
from offchain.keeper.market.dispatcher import BlockingDispatcher, DispatchedAnswer, chat_unit
from offchain.keeper.market.fulfil import FulfilService
from offchain.keeper.operator.keys import read_api_key, read_secret
from offchain.keeper.probing.answer_check import (
    AnswerCheck,
    AnswerReference,
    EndpointReference,
    NodesReference,
)
from offchain.keeper.probing.capability_check import CapabilityService
from offchain.keeper.probing.clock_check import ClockCheck
from offchain.keeper.probing.gateway_client import GatewayClient
from offchain.keeper.probing.planner import PlanService
from offchain.keeper.probing.prober import ProbeService, body_of
from offchain.keeper.process.api import KeeperApi
from offchain.keeper.process.health import Health
from offchain.keeper.process.reputation import reputation_document
from offchain.keeper.process.step_ages import StepAges
from offchain.keeper.settings import KeeperSettings
from offchain.keeper.transactions import Intents
from offchain.outbox import Outbox, Sender, SenderSettings
from offchain.outbox.wire import Wire
from offchain.protocol.heartbeats import HeartbeatVerifier
from offchain.runtime.clock import Clock, SystemClock
from offchain.runtime.crash_points import CrashPoint, nowhere

log = structlog.get_logger(__name__)

MAX_DISPATCH_SECONDS = 100.0
"""For one on-chain request; below the soft time limit of its Celery task."""
VALIDATION_SECONDS = 20.0
"""For one answer that is asked for again to compare it."""


@dataclass(eq=False)
class KeeperWiring:
    """One keeper's services and what they need. Make one in each process: connections must not be carried over a fork.

    Attributes:
        broker_url: Redis of this keeper, for queues, nodes' heartbeats and step ages.
        reached: called with a crash point's name; tests kill the process there.
    """

    settings: KeeperSettings
    deployment: Deployment
    signer: TransactionSigner
    broker_url: str
    clock: Clock = field(default_factory=SystemClock)
    reached: CrashPoint = nowhere

    # ------------------------------------------------------------------------------------------------------ resources

    @cached_property
    def database(self) -> Database:
        return open_database(self.settings.database_url)

    @cached_property
    def redis(self) -> "redis.Redis":
        return redis.Redis.from_url(
            self.broker_url, socket_timeout=5, socket_connect_timeout=5, health_check_interval=10
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
    def step_ages(self) -> StepAges:
        return StepAges(self.redis, self.clock)

    @cached_property
    def clock_check(self) -> ClockCheck:
        return ClockCheck(self.database, self.clock)

    @cached_property
    def context_reader(self) -> EpochContextReader:
        return EpochContextReader(self.database, self.view, self.deployment)

    @cached_property
    def fleet(self) -> FleetStore:
        return FleetStore(self.redis, self.clock.now_ms)

    @cached_property
    def lookups(self) -> Lookups:
        return Lookups(
            self.database,
            self.fleet,
            self.view,
            self.deployment.clock(),
            self.clock,
            self.signer.address,
            self.settings.probe_model,
        )

    # ------------------------------------------------------------------------------------------------------- services

    @cached_property
    def indexer(self) -> Indexer:
        return Indexer(self.database, self.reader, reached=self.reached)

    @cached_property
    def intents(self) -> Intents:
        return Intents(Outbox(self.deployment, self.signer.address))

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
    def planner(self) -> PlanService:
        return PlanService(
            self.database, self.view, self.context_reader, self.signer, self.clock, reached=self.reached
        )

    @cached_property
    def prober(self) -> ProbeService:
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
            # A slot: chain, server and heartbeats of an honest change agree sooner (ADR 0045).
            grace_ms=clock.length_seconds * 1000 // clock.slots,
        )

    @cached_property
    def answer_sampling(self) -> ValidateService:
        api_key = read_api_key(self.settings)
        return ValidateService(
            self.database,
            self.view,
            lambda: GatewayClient(self.settings.gateway_url, api_key, VALIDATION_SECONDS),
            lambda: [report.node_id for report, _age in self.fleet.read_all()],
            self.clock,
            lambda request_id: self.lookups.rank(request_id) == 0,
            self.deployment.clock(),
            lambda probe: body_of(probe, self.settings.probe_model, self.signer),
            reached=self.reached,
        )

    @cached_property
    def attest(self) -> AttestService:
        return AttestService(
            self.database,
            self.view,
            self.context_reader,
            self.signer,
            self.clock,
            HttpPeers(),
            self.intents,
            self.settings.peers,
            batches=GatewayBatches(self.settings.gateway_url),
            reached=self.reached,
        )

    @cached_property
    def settlement(self) -> EpochSettlement:
        return EpochSettlement(
            self.database,
            self.view,
            self.attest,
            self.intents,
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
            key_of=self.lookups.key_of,
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
            self.intents,
            self.clock,
            depth=self.settings.confirmations,
            rank=self.lookups.rank,
            reached=self.reached,
        )

    @cached_property
    def health(self) -> Health:
        return Health(self.database, self.step_ages, self.clock, self.deployment.clock(), self._gas_wei)

    @cached_property
    def api(self) -> KeeperApi:
        heartbeats = HeartbeatVerifier(
            self.deployment.signing_domain("NodeRegistryLocker"),
            recover,
            self.lookups.record_of,
            self.clock.now_ms,
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
        """Index what the chain has new. Returns whether there were events."""
        progress = self.indexer.advance()
        # A new block is a second clock (ADR 0077).
        self.clock_check.saw(progress.head)
        return progress.events > 0

    def send(self) -> None:
        """Let the outbox's sender take its next step, and log what became of transactions."""
        done = self.sender.run_once()
        for key, reason in done.faults.items():
            log.error("transaction_fault", intent=key, reason=reason)
        for state in ("sent", "replaced", "mined", "reorganised", "final"):
            for key in getattr(done, state):
                log.info("transaction", state=state, intent=key)
        for key, reason in done.superseded.items():
            log.info("transaction", state="superseded", intent=key, reason=reason)

    # --------------------------------------------------------------------------------------------------------- inside

    def _answer_check(self, timeout_seconds: float) -> AnswerCheck | None:
        settings = self.settings
        if settings.probe_check_share == 0:
            return None
        reference: AnswerReference = NodesReference(self.database, self.lookups.serving)
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

    def _gas_wei(self) -> int:
        answer: str = self.reader.rpc.call("eth_getBalance", self.signer.address, "latest")
        return int(answer, 16)

    def _dispatch(self, request_id: bytes, payload: bytes, seconds: float) -> DispatchedAnswer:
        unit = chat_unit(request_id, payload)
        try:
            return self.dispatcher.dispatch(
                unit, payload, timeout_seconds=min(max(seconds, 1.0), MAX_DISPATCH_SECONDS)
            )
        except TimeoutError:
            raise TransientError("no node answered in time") from None
        except redis.RedisError as error:
            raise TransientError(f"the fleet cannot be read: {type(error).__name__}") from error
