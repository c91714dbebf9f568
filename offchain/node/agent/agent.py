"""One running node: wires settings, key, chain, model servers, server and heartbeats together, and ends them cleanly."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
import structlog

from offchain import __version__
from offchain.chain.deployment import Deployment
from offchain.crypto.keys import Signer
from offchain.domain.types import NodeId, Wei
from offchain.errors import TransientError, UserError
from offchain.node.agent.dial_out import DIAL_PATH, DialOut, dialled_url
from offchain.node.agent.gateway_list import GatewayList
from offchain.node.agent.heartbeats import Beats
from offchain.node.agent.metrics import NodeMetrics
from offchain.node.agent.proxy import Proxy
from offchain.node.agent.receipt_log import ReceiptLog
from offchain.node.agent.receipts import ReceiptMaker
from offchain.node.agent.registry import RegistryReader
from offchain.node.agent.replay_guard import ReplayGuard
from offchain.node.agent.server import AgentServer
from offchain.node.agent.slots import Slots
from offchain.node.agent.tickets import TicketGate
from offchain.node.engines.model_server import Engine
from offchain.node.engines.pool import Engines
from offchain.node.machine.manifest import Manifest, manifest_of
from offchain.node.machine.tls import Certificate
from offchain.node.settings import NodeSettings
from offchain.protocol.openai_errors import server_error_body
from offchain.runtime.files import write_atomically
from offchain.transport.server import HttpLimits, HttpServer, Request, ServerConnection

_log = structlog.get_logger(__name__)
# For the last bytes of answers, after draining.
_LAST_BYTES_SECONDS = 1.0
_STANDBY_POLL_SECONDS = 1.0
_KEY_POLL_SECONDS = 10.0
_KEY_PAUSE_SECONDS = 1.0
_HANDOVER_SECONDS = 5.0
"""For so long the agent serves on after its node was bound to another key, while the other machine takes over."""


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Agent:
    """Runs one node from its settings until it is told to stop.

    Attributes:
        url: where others reach it inbound, once it listens; `local_url`: where this machine does.
        renew: whether it was told to end in order to be started anew, with whatever settings and program are there then.
    """

    def __init__(
        self,
        settings: NodeSettings,
        on_ready: Callable[[str], None],
        *,
        standby: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            on_ready: told the URL once traffic is accepted.
            standby: wait for the owner to bind the key to the node, with the model loaded.
            check: raises UserError while what SIGUSR1 would start anew cannot start; called in a thread.
        """
        self._settings = settings
        self._on_ready = on_ready
        self._standby = standby
        self._check = check
        self._certificate = _certificate_of(settings)
        self._reloads: set[asyncio.Task[None]] = set()
        self.renew = False
        self._stop = asyncio.Event()
        self._react: Callable[[], None] = lambda: None
        self._snapshot: Callable[[], dict[str, object]] | None = None
        self.url = ""
        self.local_url = ""

    def snapshot(self) -> dict[str, object] | None:
        """State for a view; None before the agent listens."""
        return None if self._snapshot is None else self._snapshot()

    def stop(self) -> None:
        """Begin to drain, to end for good."""
        self.renew = False
        self._stop.set()

    def _changed(self, _engine: Engine) -> None:
        self._react()

    def _on_renew(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        """Drain in order to be started anew, unless that would fail."""
        try:
            await asyncio.to_thread(self._check)
        except UserError as error:
            _log.warning("not started anew", reason=str(error))
            return
        if not self._stop.is_set():
            _log.info("starting anew")
            self.stop()
            self.renew = True

    async def run(self) -> None:
        """Serve until `stop`, SIGTERM, SIGINT or the terminal's end; then drain and end the model servers.

        Raises:
            UserError: a setting is wrong, the key has no node, the port is taken.
            FatalError: the RPC endpoint serves another chain.
            TransientError: the RPC endpoint does not answer.
        """
        settings = self._settings
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        deployment = Deployment.load(settings.deployment)
        signer = Signer.load(settings.keystore, settings.password_file)
        manifest = manifest_of(settings)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGUSR1, self._on_renew)
        async with aiohttp.ClientSession() as session, AsyncExitStack() as stack:
            registry = RegistryReader(session, settings.rpc_url, deployment)
            await registry.check_chain()
            node_id = await registry.node_of_key(signer.address)
            if not node_id and not self._standby:
                raise UserError(
                    f"node key {signer.address} is bound to no node; run `parallelix node register`, or set "
                    "keystore to the right file"
                )
            engines = Engines(settings, manifest, session, self._changed)
            await stack.enter_async_context(engines)
            if not node_id:
                node_id = await self._await_key(registry, signer, engines)
                if not node_id:
                    return
            if settings.node_id and settings.node_id != node_id:
                raise UserError(
                    f"node key {signer.address} is bound to node {node_id}, not to node {settings.node_id}; "
                    "correct node_id or keystore"
                )
            structlog.contextvars.bind_contextvars(node=int(node_id))
            if await registry.capability_hash(node_id) != manifest.hash():
                _log.warning(
                    "the manifest on chain is another",
                    hint="run `parallelix node register` again to update it",
                )
            parts = _Parts(session, registry, deployment, signer, manifest, node_id, engines)
            await self._serve(parts)

    async def _await_key(self, registry: RegistryReader, signer: Signer, engines: "Engines") -> NodeId:
        """Wait until the owner binds the key; 0 when told to stop before."""
        _log.info("standing by", key=signer.address, hint="bind it with `parallelix node rotate-key`")
        while not self._stop.is_set():
            engines.raise_if_ended()
            with contextlib.suppress(TransientError):
                if found := await registry.node_of_key(signer.address):
                    return found
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STANDBY_POLL_SECONDS):
                    await self._stop.wait()
        return NodeId(0)

    async def _serve(self, parts: "_Parts") -> None:
        settings, node_id, signer = self._settings, parts.node_id, parts.signer
        metrics = NodeMetrics()
        slots = Slots(settings.slots)
        domain = parts.deployment.signing_domain("NodeRegistryLocker")
        guard = ReplayGuard(settings.data_dir / "tickets", now_ms())
        gate = TicketGate(
            node_id, domain, GatewayList(parts.registry.is_gateway), guard, now_ms, signer.agree
        )
        kept = ReceiptLog(settings.data_dir / "receipts")
        receipts = ReceiptMaker(
            node_id,
            signer,
            parts.deployment.signing_domain("InferenceMarket"),
            Wei(settings.price_per_token_wei),
            now_ms,
            kept.append,
        )
        backends = parts.engines.backends
        proxy = Proxy(backends, receipts, now_ms)

        def about() -> dict[str, object]:
            fronts = [
                {"url": url, "accepted_s_ago": beats.seconds_since(url), "way": self._way(url, dial)}
                for url in settings.fronts
            ]
            return {"node_id": int(node_id), "fronts": fronts}

        server = AgentServer(gate, slots, proxy, parts.manifest, metrics, now_ms, about)

        async def handle(request: Request, connection: ServerConnection) -> None:
            dial.nudge()
            await server.handle(request, connection)

        http = HttpServer(
            handle, HttpLimits(max_body=settings.max_request_bytes), _handler_failed, server_error_body
        )

        def describe(front: str) -> dict[str, object]:
            url = self._url_for(front, dial)
            return {
                "node_id": int(node_id),
                "url": url or dialled_url(node_id),
                **server.offer(reachable=url is not None),
                "versions": {"agent": __version__, "vllm": parts.engines.version},
            }

        beats = Beats(node_id, signer, domain, settings.fronts, describe, parts.session, metrics, now_ms)
        dial = DialOut(node_id, signer, domain, settings.fronts, http, settings.slots, now_ms, beats.changed)
        announced = False

        def react() -> None:
            nonlocal announced
            beats.changed()
            if server.ready and not announced:
                announced = True
                self._announce()

        tasks: list[asyncio.Task[None]] = []
        try:
            self.url = await self._listen(http)
            self._snapshot = lambda: {**server.snapshot(), "url": self.url}
            self._react = react
            react()
            tasks = [
                asyncio.create_task(beats.run()),
                asyncio.create_task(self._watch_key(parts, beats.refused)),
                asyncio.create_task(parts.engines.wait()),
            ]
            if settings.dial_out and settings.fronts:
                tasks.append(asyncio.create_task(dial.run()))
            if self._certificate is not None:
                tasks.append(asyncio.create_task(self._certificate.watch(beats.changed)))
            stopped = asyncio.create_task(self._stop_asked())
            tasks.append(stopped)
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                task.result()  # none of them ends by itself: show why it did
            _log.info("draining", running=slots.used)
            slots.draining = True
            beats.changed()
            cut_off = await slots.drain(settings.drain_seconds)
            _log.info("drained", cut_off=cut_off)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await http.stop(_LAST_BYTES_SECONDS)
            proxy.close()
            guard.close()
            kept.close()
            if settings.ready_file is not None:
                settings.ready_file.unlink(missing_ok=True)

    async def _stop_asked(self) -> None:
        await self._stop.wait()

    async def _watch_key(self, parts: "_Parts", refused: asyncio.Event) -> None:
        """End in good order when the owner has bound the node to another key: another machine serves it now."""
        while True:
            await asyncio.sleep(_KEY_PAUSE_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_KEY_POLL_SECONDS):
                    await refused.wait()
            refused.clear()
            try:
                found = await parts.registry.node_of_key(parts.signer.address)
            except TransientError:
                continue
            if found != parts.node_id:
                _log.warning("this key speaks for the node no more", hint="another machine serves it; ending")
                await asyncio.sleep(_HANDOVER_SECONDS)
                self.stop()

    def _url_for(self, front: str, dial: DialOut) -> str | None:
        """Where a front reaches this node; None while it does not."""
        settings = self._settings
        inbound = self.url if self._certificate is None else self._certificate.pinned(self.url)
        if not settings.dial_out:
            return inbound
        return dial.url_for(front, inbound if settings.public_url is not None else None)

    def _way(self, front: str, dial: DialOut) -> str:
        """How requests of a front come: `dialled`, `relayed` by another front, `inbound`, or `none` yet."""
        if dial.holds(front):
            return "dialled"
        url = self._url_for(front, dial)
        return "none" if url is None else "relayed" if DIAL_PATH in url else "inbound"

    async def _listen(self, http: HttpServer) -> str:
        settings = self._settings
        try:
            tls = None if self._certificate is None else self._certificate.context
            port = await http.start(settings.host, settings.port, tls)
        except OSError as error:
            raise UserError(
                f"{settings.host}:{settings.port} cannot be listened on: {error.strerror}; choose another port, "
                "or 0 for a free one"
            ) from None
        scheme = "http" if self._certificate is None else "https"
        self.local_url = f"{scheme}://{settings.host.replace('0.0.0.0', '127.0.0.1')}:{port}"  # noqa: S104
        return (settings.public_url or f"{scheme}://{settings.host}:{port}").rstrip("/")

    def _announce(self) -> None:
        ready_file = self._settings.ready_file
        if ready_file is not None:
            found = {"url": self.url, "pid": os.getpid(), "local_url": self.local_url, "since_ms": now_ms()}
            write_atomically(ready_file, json.dumps(found), mode=0o644)
        self._on_ready(self.url)


@dataclass(frozen=True, slots=True)
class _Parts:
    session: aiohttp.ClientSession
    registry: RegistryReader
    deployment: Deployment
    signer: Signer
    manifest: Manifest
    node_id: NodeId
    engines: "Engines"


def _certificate_of(settings: NodeSettings) -> Certificate | None:
    """Raises UserError when only half of a certificate is set, or its address is not an https one."""
    if settings.tls_certificate is None and settings.tls_key is None:
        return None
    if settings.tls_certificate is None or settings.tls_key is None:
        raise UserError("tls_certificate and tls_key belong together; set both, or neither")
    if settings.public_url is not None and not settings.public_url.startswith("https://"):
        raise UserError(
            f"public_url {settings.public_url} must begin with https:// when tls_certificate is set"
        )
    return Certificate(settings.tls_certificate, settings.tls_key)


def _handler_failed(error: BaseException) -> None:
    _log.error("request failed", exc_info=error)
