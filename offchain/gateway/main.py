"""Puts a gateway together from its settings and runs it until SIGTERM or SIGINT."""

import asyncio
import gc
import signal
import time
from dataclasses import replace
from functools import partial

import structlog
import uvloop
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from offchain.chain.deployment import Deployment
from offchain.chain.reader import ChainReader
from offchain.chain.rpc import Rpc
from offchain.crypto.keys import Signer
from offchain.crypto.recovery_cache import CachedRecovery
from offchain.db.database import open_database
from offchain.dispatch.dispatcher import Dispatcher
from offchain.domain.eip712 import keccak256
from offchain.domain.types import NodeId
from offchain.errors import TransientError, UserError
from offchain.gateway.api.routes import GatewayService
from offchain.gateway.batches.routes import BatchRoutes
from offchain.gateway.batches.store import BatchStore
from offchain.gateway.cluster import ClusterState, new_request_id
from offchain.gateway.dependencies import GatewayDependencies
from offchain.gateway.metrics import GatewayMetrics
from offchain.gateway.nodes.dial_in import PATH as DIAL_PATH
from offchain.gateway.nodes.dial_in import DialIn, DialInUpstream, is_dialed
from offchain.gateway.nodes.directory import NodeDirectory
from offchain.gateway.records.execution_batch_process import ExecutionBatchProcess
from offchain.gateway.records.execution_log import ExecutionLog
from offchain.gateway.records.pending_executions import open_pending
from offchain.gateway.records.request_log import RequestLog
from offchain.gateway.records.route_receipt import RouteReceiptSigner
from offchain.gateway.settings import GatewaySettings
from offchain.gateway.tenants.authenticator import Authenticator
from offchain.protocol.heartbeats import HeartbeatVerifier
from offchain.protocol.openai_errors import server_error_body
from offchain.protocol.pair_mac import GatewayMacs
from offchain.protocol.receipts import ReceiptVerifier
from offchain.protocol.tickets import TicketSigner
from offchain.runtime.entropy import Entropy
from offchain.runtime.logs import configure_logs
from offchain.runtime.ready import announce_ready
from offchain.scheduler.fleet import SILENCE_SECONDS, Fleet, NodeReport
from offchain.scheduler.quotas import Quotas
from offchain.scheduler.router import Router, RouterLimits
from offchain.transport.server import HttpLimits, HttpServer

log = structlog.get_logger("gateway")

REFRESH_SECONDS = 1.0
RATE_SECONDS = 300.0
PUBLISH_SECONDS = 0.5
DRAIN_SECONDS = 30.0
_SALT_TAG = b"parallelix.cache_salt.v1"


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def run(settings: GatewaySettings, *, interpreted: str | None, announce_json: bool) -> None:
    """Serve until SIGTERM or SIGINT, then let running answers end.

    Args:
        interpreted: why the hot path is not native code, None when it is (offchain/runtime/native_code.py).

    Raises:
        UserError: a setting, file, key or port cannot be used.
    """
    configure_logs(settings.log_level, "gateway")
    log.info("gateway.starting", compiled=interpreted is None, reason=interpreted)
    gateway = _GatewayProcess(settings, compiled=interpreted is None)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(gateway.serve(announce_json))


def _check_chain(settings: GatewaySettings, deployment: Deployment) -> None:
    """Refuse a foreign chain. An endpoint that is down is no reason to stay down: routing reads the index."""
    try:
        ChainReader(Rpc(settings.rpc_url), deployment).check()
    except TransientError as error:
        log.warning("chain_not_checked", reason=str(error))


class _GatewayProcess:
    """The parts of a gateway, made in the order in which they need each other, and its background loops."""

    def __init__(self, settings: GatewaySettings, *, compiled: bool) -> None:
        self._settings = settings
        self._deployment = deployment = Deployment.load(settings.deployment)
        self._signer = signer = Signer.load(settings.keystore, settings.password_file)
        # all gateways with this key derive the same salts
        salt_secret = keccak256(signer.sign_digest(keccak256(_SALT_TAG)))
        self._authenticator = authenticator = Authenticator(settings.api_keys_file, salt_secret)
        _check_chain(settings, deployment)
        self._database = open_database(settings.database_url, read_only=True)
        self._directory = directory = NodeDirectory(self._database, deployment.clock())
        settings.make_data_dir()
        self._index_error: str | None = None
        self._own_urls = [settings.public_url] if settings.public_url is not None else []
        self._fleet = Fleet()
        self._entropy = Entropy()
        self._recover = CachedRecovery()
        self._nodes_domain = deployment.signing_domain("NodeRegistryLocker")
        self._macs = GatewayMacs(signer.public_key, signer.agree, self._sole_public_key_of)
        ticket = TicketSigner(self._nodes_domain, signer.sign, now_ms, self._macs.ticket)
        self._upstream = DialInUpstream(ticket)
        self._upstream.on_round_trip = self._fleet.round_trip_took
        self._dispatcher = self._make_dispatcher()
        self._quotas = Quotas(time.time)
        self._executions = self._make_execution_log()
        self._redis: Redis | None = None
        self._cluster: ClusterState | None = None
        self._batches: BatchRoutes | None = None
        if settings.redis_url is not None:
            self._redis = Redis.from_url(settings.redis_url, socket_timeout=2.0, socket_connect_timeout=2.0)
            self._cluster = ClusterState(
                self._redis, self._quotas, authenticator, self._take_in, now_ms, self._relayed
            )
            blocking = SyncRedis.from_url(settings.redis_url, socket_timeout=5.0, socket_connect_timeout=2.0)
            self._batches = BatchRoutes(BatchStore(blocking))
        self._metrics = GatewayMetrics()
        self._service = GatewayService(self._dependencies(compiled))
        dial_in = DialIn(
            self._upstream, self._nodes_domain, self._recover, directory.get, lambda: self._own_urls
        )
        handler, limits = (
            dial_in.before(self._service.handle),
            HttpLimits(max_body=settings.max_request_bytes),
        )
        self._server = HttpServer(handler, limits, self._on_error, server_error_body)

    # ------------------------------------------------------------------------------------------------ the parts

    def _make_dispatcher(self) -> Dispatcher:
        settings = self._settings
        limits = RouterLimits(absence_seconds=settings.absence_seconds)
        router = Router(self._fleet, (settings.region,), time.monotonic, self._entropy.bits, limits)
        stall, share = settings.stall_timeout_seconds, settings.hedge_share
        return Dispatcher(router, self._upstream, stall_seconds=stall, hedge_share=share)

    def _make_execution_log(self) -> ExecutionLog:
        folder, redis_url = self._settings.data_dir / "executions", self._settings.redis_url
        folder.mkdir(exist_ok=True)
        return ExecutionLog(
            folder,
            open_pending(folder, redis_url),
            self._deployment.clock(),
            self._deployment.signing_domain("UptimeAttestation"),
            self._signer.sign,
            now_ms,
            partial(ExecutionBatchProcess, folder, redis_url),
        )

    def _dependencies(self, compiled: bool) -> GatewayDependencies:
        return GatewayDependencies(
            dispatcher=self._dispatcher,
            fleet=self._fleet,
            authenticator=self._authenticator,
            heartbeats=HeartbeatVerifier(self._nodes_domain, self._recover, self._directory.get, now_ms),
            receipts=ReceiptVerifier(
                self._deployment.signing_domain("InferenceMarket"), self._recover, self._directory.keys_of
            ),
            request_log=RequestLog(),
            metrics=self._metrics,
            new_id=lambda: new_request_id(now_ms(), self._entropy.take),
            ready=self._not_ready,
            quotas=self._quotas,
            sign_record=RouteReceiptSigner(self._signer.address, self._signer.sign_digest),
            executions=self._executions,
            cluster=self._cluster,
            batches=self._batches,
            compiled=compiled,
            proved=self._macs.proved,
            first_byte_seconds=self._settings.first_byte_timeout_seconds,
        )

    def _sole_public_key_of(self, node_id: NodeId) -> bytes | None:
        """None while a node's key is being rotated (it has two then), or before the key has signed something here."""
        keys = self._directory.keys_of(node_id)
        return self._recover.public_key_of(keys[0]) if len(keys) == 1 else None

    def _relayed(self, report: NodeReport) -> NodeReport:
        """A report as other processes need it: they reach a node that dialled in to us through our relay."""
        if not is_dialed(report.url):
            return report
        return replace(report, url=f"{self._own_urls[0].rstrip('/')}{DIAL_PATH}/{report.node_id}")

    def _take_in(self, report: NodeReport, age_seconds: float) -> None:
        """Take in a report that another process published `age_seconds` ago."""
        record = self._directory.get(report.node_id)
        if record is None or not record.routable or record.tier != report.tier:
            return
        known, now = self._fleet.get(report.node_id), time.monotonic()
        if known is not None and is_dialed(known.report.url) and now - known.seen_at < SILENCE_SECONDS:
            return  # the node is connected to us; the published address is another gateway's relay
        seen_at = now - age_seconds
        # what we published ourselves comes back through Redis, some milliseconds off
        if known is None or seen_at > known.seen_at + 0.25:
            self._fleet.update(report, seen_at)

    def _not_ready(self) -> str | None:
        if self._server.draining:
            return "draining"
        return None if self._directory.loaded else self._index_error or "the index has not been read yet"

    def _on_error(self, error: BaseException) -> None:
        self._metrics.internal_errors += 1
        log.error("request.failed", exc_info=error)

    # ------------------------------------------------------------------------------------------------- its life

    async def serve(self, announce_json: bool) -> None:
        """Listen, run the background loops until SIGTERM or SIGINT, then stop. Raises UserError."""
        await self._refresh_once()
        url = await self._listen()
        self._own_urls.append(url)
        loops = [self._refresh(), self._sweep(), self._rate(), self._executions.run()]
        if self._cluster is not None:
            self._cluster.url = self._settings.public_url or url
            await self._cluster.exchange()
            loops.append(_exchange_forever(self._cluster))
        tasks = [asyncio.create_task(loop) for loop in loops]
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)  # next to nothing here is cyclic, and the kept records are many
        announce_ready("gateway", url, self._settings.ready_file, as_json=announce_json)
        await stopping.wait()
        await self._stop(tasks)

    async def _listen(self) -> str:
        """Our base URL, from now on open."""
        settings = self._settings
        try:
            port = await self._server.start(settings.host, settings.port)
        except OSError as error:
            raise UserError(
                f"cannot listen on {settings.host}:{settings.port} ({error.strerror}); choose another port"
            ) from None
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return f"http://{host}:{port}"

    async def _stop(self, tasks: list[asyncio.Task[None]]) -> None:
        # in this order: nothing new, what has ended is recorded, records are written, and Redis has them
        await self._server.stop(DRAIN_SECONDS)
        self._service.verify_and_record()
        self._executions.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._upstream.close()
        await asyncio.to_thread(self._executions.write_new)
        if self._batches is not None:
            self._batches.close()
        if self._cluster is not None:
            await self._cluster.exchange()
        if self._redis is not None:
            await self._redis.aclose()
        if self._settings.ready_file is not None:
            self._settings.ready_file.unlink(missing_ok=True)
        self._database.close()

    async def _refresh_once(self) -> None:
        self._authenticator.refresh()
        try:
            changed = await asyncio.to_thread(self._directory.refresh)
            self._index_error = None
        except TransientError as error:
            self._index_error = str(error)
            log.warning("index.unavailable", error=str(error))
            return
        if changed:
            for node in list(self._fleet):
                record = self._directory.get(node.report.node_id)
                if record is None or not record.routable:
                    self._fleet.remove(node.report.node_id)

    async def _refresh(self) -> None:
        """Reads node records and API keys again, and drops dialled connections whose key is no longer the node's."""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            await self._refresh_once()
            self._upstream.revoke(self._directory.keys_of)

    async def _rate(self) -> None:
        """Reads the nodes' reputation again."""
        while True:
            try:
                self._fleet.rate(await asyncio.to_thread(self._directory.reputation))
            except TransientError as error:
                log.warning("reputation.unavailable", error=str(error))
            await asyncio.sleep(RATE_SECONDS)

    async def _sweep(self) -> None:
        """Removes silent nodes while no attempt runs; attempts have a ticker of their own."""
        while True:
            await asyncio.sleep(0.5)
            if not self._dispatcher.running:
                for node in self._dispatcher.router.tick():
                    self._upstream.forget(node.report.url)


async def _exchange_forever(cluster: ClusterState) -> None:
    while True:
        await asyncio.sleep(PUBLISH_SECONDS)
        await cluster.exchange()
