"""A registered node that takes requests: the HTTP server, heartbeats and dialled connections, until it is told to stop.

::

    listen -> heartbeats, dialled connections, watch of key and certificate -> stop asked -> drain -> close
"""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import structlog

from offchain import __version__
from offchain.chain.deployment import Deployment
from offchain.crypto.keys import Signer
from offchain.domain.types import NodeId, Wei
from offchain.errors import TransientError, UserError
from offchain.node.agent.dial_out import DIAL_PATH, DialOut, dialled_url
from offchain.node.agent.gateway_list import GatewayList
from offchain.node.agent.heartbeats import HeartbeatSender
from offchain.node.agent.metrics import NodeMetrics
from offchain.node.agent.proxy import Proxy
from offchain.node.agent.receipts import ReceiptMaker
from offchain.node.agent.registry import RegistryReader
from offchain.node.agent.replay_guard import ReplayGuard
from offchain.node.agent.server import AgentServer
from offchain.node.agent.slots import Slots
from offchain.node.agent.tickets import TicketGate
from offchain.node.engines.pool import Engines
from offchain.node.machine.manifest import Manifest
from offchain.node.machine.tls import Certificate
from offchain.node.rotating_file import RotatingFile
from offchain.node.settings import NodeSettings
from offchain.protocol.openai_errors import server_error_body
from offchain.runtime.files import write_atomically
from offchain.transport.server import HttpLimits, HttpServer, Request, ServerConnection

_log = structlog.get_logger(__name__)
_LAST_BYTES_SECONDS = 1.0
"""For the last bytes of answers, after draining."""
_KEY_POLL_SECONDS = 10.0
_KEY_PAUSE_SECONDS = 1.0
_HANDOVER_SECONDS = 5.0
"""The agent serves on for this long after its node was bound to another key, while the other machine takes over."""
_RECEIPT_FILE_BYTES = 64 * 1024 * 1024
_RECEIPT_FILES = 7


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass
class Serving:
    """Serves one registered node. `run` returns after the drain that `stopped` asks for.

    Attributes:
        certificate: None for plain HTTP.
        stop: sets `stopped`; called when another machine has taken the node over.
        on_ready: told the URL once traffic is accepted.
        url: where others reach the node inbound, once it listens; `local_url`: where this machine does.
    """

    settings: NodeSettings
    session: aiohttp.ClientSession
    registry: RegistryReader
    deployment: Deployment
    signer: Signer
    manifest: Manifest
    node_id: NodeId
    engines: Engines
    certificate: Certificate | None
    stopped: asyncio.Event
    stop: Callable[[], None]
    on_ready: Callable[[str], None]
    url: str = field(default="", init=False)
    local_url: str = field(default="", init=False)

    def __post_init__(self) -> None:
        settings, node_id, signer = self.settings, self.node_id, self.signer
        domain = self.deployment.signing_domain("NodeRegistryLocker")
        metrics = NodeMetrics()
        self._announced = False
        self._slots = Slots(settings.slots)
        self._guard = ReplayGuard(settings.data_dir / "tickets", now_ms())
        self._receipts = RotatingFile(
            settings.data_dir / "receipts" / "receipts.jsonl", _RECEIPT_FILE_BYTES, _RECEIPT_FILES
        )
        receipts = ReceiptMaker(
            node_id,
            signer,
            self.deployment.signing_domain("InferenceMarket"),
            Wei(settings.price_per_token_wei),
            now_ms,
            lambda receipt: self._receipts.append(receipt + b"\n"),
        )
        self._proxy = Proxy(self.engines.backends, receipts, now_ms)
        gateways = GatewayList(self.registry.is_gateway)
        gate = TicketGate(node_id, domain, gateways, self._guard, now_ms, signer.agree)
        self._server = AgentServer(
            gate, self._slots, self._proxy, self.manifest, metrics, now_ms, self._about
        )
        self._http = HttpServer(
            self._handle, HttpLimits(max_body=settings.max_request_bytes), _handler_failed, server_error_body
        )
        receivers = settings.heartbeat_receivers
        self._heartbeats = HeartbeatSender(
            node_id, signer, domain, receivers, self._describe, self.session, metrics, now_ms
        )
        self._dial = DialOut(
            node_id, signer, domain, receivers, self._http, settings.slots, now_ms, self._heartbeats.changed
        )

    def snapshot(self) -> dict[str, object]:
        """State for a view, as `/ready` says it, with the node's URL."""
        return {**self._server.snapshot(), "url": self.url}

    def react(self) -> None:
        """Call when a model server went up or down: gateways are told, and the first time all are up the operator."""
        self._heartbeats.changed()
        if self.url and self._server.ready and not self._announced:
            self._announced = True
            self._announce()

    async def run(self) -> None:
        """Serve until stopped, then drain. Raises UserError when the port is taken."""
        tasks: list[asyncio.Task[Any]] = []
        try:
            # The port before the heartbeats: what they announce must answer already.
            self.url = await self._listen()
            self.react()
            tasks = self._start_tasks()
            stop_asked = asyncio.create_task(self.stopped.wait())
            tasks.append(stop_asked)
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stop_asked}:
                task.result()  # none of them ends by itself: show why it did
            await self._drain()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._close()

    def _start_tasks(self) -> list[asyncio.Task[Any]]:
        settings, certificate = self.settings, self.certificate
        work: list[Coroutine[Any, Any, None]] = [
            self._heartbeats.run(),
            self._watch_key(),
            self.engines.wait(),
        ]
        if settings.dial_out and settings.heartbeat_receivers:
            work.append(self._dial.run())
        if certificate is not None:
            work.append(certificate.watch(self._heartbeats.changed))
        return [asyncio.create_task(coroutine) for coroutine in work]

    async def _drain(self) -> None:
        _log.info("draining", running=self._slots.used)
        # Told before the wait: gateways choose other nodes while the last answers run.
        self._slots.draining = True
        self._heartbeats.changed()
        cut_off = await self._slots.drain(self.settings.drain_seconds)
        _log.info("drained", cut_off=cut_off)

    async def _close(self) -> None:
        await self._http.stop(_LAST_BYTES_SECONDS)  # before the pools: running answers still read from them
        self._proxy.close()
        self._guard.close()
        self._receipts.close()
        if self.settings.ready_file is not None:
            self.settings.ready_file.unlink(missing_ok=True)

    async def _handle(self, request: Request, connection: ServerConnection) -> None:
        self._dial.nudge()
        await self._server.handle(request, connection)

    async def _watch_key(self) -> None:
        """End in good order when the owner has bound the node to another key: another machine serves it now."""
        refused = self._heartbeats.refused
        while True:
            # One question a second at most, however often receivers refuse.
            await asyncio.sleep(_KEY_PAUSE_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_KEY_POLL_SECONDS):
                    await refused.wait()
            refused.clear()  # before asking: a refusal meanwhile asks again
            try:
                found = await self.registry.node_of_key(self.signer.address)
            except TransientError:
                continue
            if found != self.node_id:
                _log.warning("this key speaks for the node no more", hint="another machine serves it; ending")
                # Its receipts count for 30 s after a rotation (ADR 0051).
                await asyncio.sleep(_HANDOVER_SECONDS)
                self.stop()

    # ------------------------------------------------------------------------------------- what others are told

    def _about(self) -> dict[str, object]:
        """The part of `/ready` that only this class knows; `fronts` is the field's name on the wire."""
        receivers = [
            {"url": url, "accepted_s_ago": self._heartbeats.seconds_since(url), "way": self._way(url)}
            for url in self.settings.heartbeat_receivers
        ]
        return {"node_id": int(self.node_id), "fronts": receivers}

    def _describe(self, receiver: str) -> dict[str, object]:
        """The heartbeat for one receiver. A receiver that has no way to this node yet is told of no model."""
        url = self._url_for(receiver)
        return {
            "node_id": int(self.node_id),
            # A heartbeat must name a URL; nobody uses this one, since no model comes with it.
            "url": url or dialled_url(self.node_id),
            **self._server.offer(reachable=url is not None),
            "versions": {"agent": __version__, "vllm": self.engines.version},
        }

    def _url_for(self, receiver: str) -> str | None:
        """Where a receiver reaches this node; None while it does not."""
        certificate = self.certificate
        inbound = self.url if certificate is None else certificate.pinned(self.url)
        if not self.settings.dial_out:
            return inbound
        return self._dial.url_for(receiver, inbound if self.settings.public_url is not None else None)

    def _way(self, receiver: str) -> str:
        """How requests of a receiver come: `dialled`, `relayed` by a gateway, `inbound`, or `none` yet."""
        if self._dial.holds(receiver):
            return "dialled"
        url = self._url_for(receiver)
        return "none" if url is None else "relayed" if DIAL_PATH in url else "inbound"

    # ------------------------------------------------------------------------------------------------- listening

    async def _listen(self) -> str:
        settings, certificate = self.settings, self.certificate
        try:
            tls = None if certificate is None else certificate.context
            port = await self._http.start(settings.host, settings.port, tls)
        except OSError as error:
            raise UserError(
                f"{settings.host}:{settings.port} cannot be listened on: {error.strerror}; choose another port, "
                "or 0 for a free one"
            ) from None
        scheme = "http" if certificate is None else "https"
        self.local_url = f"{scheme}://{settings.host.replace('0.0.0.0', '127.0.0.1')}:{port}"  # noqa: S104
        return (settings.public_url or f"{scheme}://{settings.host}:{port}").rstrip("/")

    def _announce(self) -> None:
        ready_file = self.settings.ready_file
        if ready_file is not None:
            found = {"url": self.url, "pid": os.getpid(), "local_url": self.local_url, "since_ms": now_ms()}
            write_atomically(ready_file, json.dumps(found), mode=0o644)
        self.on_ready(self.url)


def _handler_failed(error: BaseException) -> None:
    _log.error("request failed", exc_info=error)
