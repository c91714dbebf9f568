"""Puts a gateway together from its settings and runs it until it is told to stop."""

import asyncio
import gc
import signal
import time
from dataclasses import dataclass, replace
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
from offchain.dispatch.http_upstream import HttpUpstream
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


@dataclass(slots=True)
class _State:
    """What the background loops and `/ready` share."""

    index_error: str | None = None


def run(settings: GatewaySettings, *, interpreted: str | None, announce_json: bool) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Args:
        interpreted: why the hot path is not native code, None when it is (offchain/runtime/native_code.py).

    Raises:
        UserError: a setting, file, key or port cannot be used.
    """
    configure_logs(settings.log_level, "gateway")
    log.info("gateway.starting", compiled=interpreted is None, reason=interpreted)
    deployment = Deployment.load(settings.deployment)
    signer = Signer.load(settings.keystore, settings.password_file)
    keys = Authenticator(settings.api_keys_file, keccak256(signer.sign_digest(keccak256(_SALT_TAG))))
    _check_chain(settings, deployment)
    database = open_database(settings.database_url, read_only=True)
    directory = NodeDirectory(database, deployment.clock())
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, deployment, signer, keys, directory, interpreted is None, announce_json))
    database.close()


def _check_chain(settings: GatewaySettings, deployment: Deployment) -> None:
    """Refuse a foreign chain. An endpoint that is down is no reason to stay down: routing reads the index."""
    try:
        ChainReader(Rpc(settings.rpc_url), deployment).check()
    except TransientError as error:
        log.warning("chain_not_checked", reason=str(error))


async def _serve(
    settings: GatewaySettings,
    deployment: Deployment,
    signer: Signer,
    keys: Authenticator,
    directory: NodeDirectory,
    compiled: bool,
    announce_json: bool,
) -> None:
    state = _State()
    own_urls = [settings.public_url] if settings.public_url is not None else []
    fleet = Fleet()
    entropy = Entropy()
    recover = CachedRecovery()
    nodes_domain = deployment.signing_domain("NodeRegistryLocker")
    router = Router(
        fleet,
        (settings.region,),
        time.monotonic,
        entropy.bits,
        RouterLimits(absence_seconds=settings.absence_seconds),
    )

    def sole_key_of(node_id: NodeId) -> bytes | None:
        """While a node's key is being rotated it has two, and no public one before it has signed something here."""
        keys = directory.keys_of(node_id)
        return recover.public_key_of(keys[0]) if len(keys) == 1 else None

    macs = GatewayMacs(signer.public_key, signer.agree, sole_key_of)
    upstream = DialInUpstream(TicketSigner(nodes_domain, signer.sign, now_ms, macs.ticket))
    upstream.on_round_trip = fleet.round_trip_took
    engine = Dispatcher(
        router,
        upstream,
        stall_seconds=settings.stall_timeout_seconds,
        hedge_share=settings.hedge_share,
    )

    quotas = Quotas(time.time)
    redis = batches = None
    records_folder = settings.data_dir / "executions"
    records_folder.mkdir(exist_ok=True)
    if settings.redis_url is not None:
        redis = Redis.from_url(settings.redis_url, socket_timeout=2.0, socket_connect_timeout=2.0)
        blocking = SyncRedis.from_url(settings.redis_url, socket_timeout=5.0, socket_connect_timeout=2.0)
        batches = BatchRoutes(BatchStore(blocking))
    executions = ExecutionLog(
        records_folder,
        open_pending(records_folder, settings.redis_url),
        deployment.clock(),
        deployment.signing_domain("UptimeAttestation"),
        signer.sign,
        now_ms,
        partial(ExecutionBatchProcess, records_folder, settings.redis_url),
    )

    def relayed(report: NodeReport) -> NodeReport:
        """A report for those who hold no connection of the node: they reach it through us."""
        if not is_dialed(report.url):
            return report
        return replace(report, url=f"{own_urls[0].rstrip('/')}{DIAL_PATH}/{report.node_id}")

    shared = (
        None
        if redis is None
        else ClusterState(
            redis, quotas, keys, lambda report, age: _take_in(fleet, directory, report, age), now_ms, relayed
        )
    )

    def not_ready() -> str | None:
        if server.draining:
            return "draining"
        return None if directory.loaded else state.index_error or "the index has not been read yet"

    service = GatewayService(
        GatewayDependencies(
            engine=engine,
            fleet=fleet,
            keys=keys,
            heartbeats=HeartbeatVerifier(nodes_domain, recover, directory.get, now_ms),
            receipts=ReceiptVerifier(
                deployment.signing_domain("InferenceMarket"), recover, directory.keys_of
            ),
            book=RequestLog(),
            metrics=(metrics := GatewayMetrics()),
            new_id=lambda: new_request_id(now_ms(), entropy.take),
            ready=not_ready,
            quotas=quotas,
            seal=RouteReceiptSigner(signer.address, signer.sign_digest),
            executions=executions,
            shared=shared,
            batches=batches,
            compiled=compiled,
            proved=macs.proved,
            first_byte_seconds=settings.first_byte_timeout_seconds,
        )
    )

    def on_error(error: BaseException) -> None:
        metrics.internal_errors += 1
        log.error("request.failed", exc_info=error)

    dialin = DialIn(upstream, nodes_domain, recover, directory.get, lambda: own_urls)
    server = HttpServer(
        dialin.before(service.handle),
        HttpLimits(max_body=settings.max_request_bytes),
        on_error,
        server_error_body,
    )
    await _refresh_once(directory, keys, fleet, state)
    try:
        port = await server.start(settings.host, settings.port)
    except OSError as error:
        raise UserError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}); choose another port"
        ) from None
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{port}"
    own_urls.append(url)
    tasks = [
        asyncio.create_task(_refresh(directory, keys, fleet, state, upstream)),
        asyncio.create_task(_sweep(engine, upstream)),
        asyncio.create_task(_rate(directory, fleet)),
        asyncio.create_task(executions.run()),
    ]
    if shared is not None:
        shared.url = settings.public_url or url
        await shared.exchange()
        tasks.append(asyncio.create_task(_share(shared)))
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)  # next to nothing here is cyclic, and the kept records are many
    announce_ready("gateway", url, settings.ready_file, as_json=announce_json)
    await stopping.wait()
    await server.stop(DRAIN_SECONDS)
    service.settle()
    executions.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    upstream.close()
    await asyncio.to_thread(executions.write_new)
    if batches is not None:
        batches.close()
    if shared is not None and redis is not None:
        await shared.exchange()
        await redis.aclose()
    if settings.ready_file is not None:
        settings.ready_file.unlink(missing_ok=True)


async def _refresh_once(directory: NodeDirectory, keys: Authenticator, fleet: Fleet, state: _State) -> None:
    keys.refresh()
    try:
        changed = await asyncio.to_thread(directory.refresh)
        state.index_error = None
    except TransientError as error:
        state.index_error = str(error)
        log.warning("index.unavailable", error=str(error))
        return
    if changed:
        for node in list(fleet):
            record = directory.get(node.report.node_id)
            if record is None or not record.routable:
                fleet.remove(node.report.node_id)


async def _refresh(
    directory: NodeDirectory, keys: Authenticator, fleet: Fleet, state: _State, upstream: DialInUpstream
) -> None:
    """Keeps node records, API keys and the right to dialled connections fresh."""
    while True:
        await asyncio.sleep(REFRESH_SECONDS)
        await _refresh_once(directory, keys, fleet, state)
        upstream.revoke(directory.keys_of)


async def _rate(directory: NodeDirectory, fleet: Fleet) -> None:
    """Keeps the nodes' reputation."""
    while True:
        try:
            fleet.rate(await asyncio.to_thread(directory.reputation))
        except TransientError as error:
            log.warning("reputation.unavailable", error=str(error))
        await asyncio.sleep(RATE_SECONDS)


async def _sweep(engine: Dispatcher, upstream: HttpUpstream) -> None:
    """Lets silent nodes leave also while nothing is asked."""
    while True:
        await asyncio.sleep(0.5)
        if not engine.running:
            for node in engine.router.tick():
                upstream.forget(node.report.url)


async def _share(shared: ClusterState) -> None:
    """Exchanges with the other gateways."""
    while True:
        await asyncio.sleep(PUBLISH_SECONDS)
        await shared.exchange()


def _take_in(fleet: Fleet, directory: NodeDirectory, report: NodeReport, age_seconds: float) -> None:
    record = directory.get(report.node_id)
    if record is None or not record.routable or record.tier != report.tier:
        return
    known = fleet.get(report.node_id)
    if (
        known is not None
        and is_dialed(known.report.url)
        and time.monotonic() - known.seen_at < SILENCE_SECONDS
    ):
        return  # it is connected to us; the others reach it through somebody
    seen_at = time.monotonic() - age_seconds
    if known is None or seen_at > known.seen_at + 0.25:
        fleet.update(report, seen_at)
