"""One node from its settings to its end: signals, checks against the chain, model servers, standby, restarts.

::

    settings, key, manifest -> chain -> model servers -> (standby until the key is bound) -> `Serving` -> end, or anew
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import KW_ONLY, dataclass

import aiohttp
import structlog

from offchain.crypto.keys import Signer
from offchain.domain.types import NodeId
from offchain.errors import TransientError, UserError
from offchain.node.agent.registry import TIMEOUT_SECONDS, RegistryReader
from offchain.node.agent.serving import Serving
from offchain.node.chain import open_chain
from offchain.node.engines.model_server import Engine
from offchain.node.engines.pool import Engines
from offchain.node.machine.manifest import manifest_of
from offchain.node.machine.tls import Certificate
from offchain.node.settings import NodeSettings

_log = structlog.get_logger(__name__)
_STANDBY_POLL_SECONDS = 1.0


@dataclass(eq=False)
class Agent:
    """Runs one node from its settings until it is told to stop.

    Attributes:
        on_ready: told the URL once traffic is accepted.
        standby: load the model and wait until the owner binds the key to a node.
        check: raises UserError while the settings that SIGUSR1 would start anew cannot be used; called in a thread.
        renew: whether it was told to end in order to be started anew, with the settings and the program of that moment.

    Example:
        >>> agent = Agent(NodeSettings.load(Path("node.toml")), on_ready=print)
        >>> await agent.run()  # until SIGTERM, SIGINT or `agent.stop()`
    """

    settings: NodeSettings
    on_ready: Callable[[str], None]
    _: KW_ONLY
    standby: bool = False
    check: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._certificate = _certificate_of(self.settings)
        self._reloads: set[asyncio.Task[None]] = set()
        self.renew = False
        self._stop = asyncio.Event()
        self._serving: Serving | None = None

    def snapshot(self) -> dict[str, object] | None:
        """State for a view; None before the agent listens."""
        return self._serving.snapshot() if self._serving is not None and self._serving.url else None

    def stop(self) -> None:
        """Begin to drain, to end for good."""
        self.renew = False
        self._stop.set()

    def _engine_changed(self, _engine: Engine) -> None:
        if self._serving is not None:
            self._serving.react()

    def _on_renew(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload())
        # The event loop keeps only a weak reference to a task, which may vanish before it is done.
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        """Drain in order to be started anew, unless that would fail."""
        try:
            await asyncio.to_thread(self.check)
        except UserError as error:
            _log.warning("not started anew", reason=str(error))
            return
        if not self._stop.is_set():
            _log.info("starting anew")
            # In this order: `stop` clears `renew`.
            self.stop()
            self.renew = True

    async def run(self) -> None:
        """Serve until `stop`, SIGTERM, SIGINT or the terminal's end; then drain and end the model servers.

        Raises:
            UserError: a setting is wrong, the key has no node, the port is taken.
            FatalError: an RPC endpoint serves another chain.
            TransientError: no RPC endpoint answers.
        """
        settings = self.settings
        settings.make_data_dir()
        signer = Signer.load(settings.keystore, settings.password_file)
        # Read before a model is loaded: a mistake in it ends the start at once.
        manifest = manifest_of(settings)
        self._handle_signals()
        async with aiohttp.ClientSession() as session, AsyncExitStack() as stack:
            chain = await asyncio.to_thread(open_chain, settings, TIMEOUT_SECONDS)
            registry = RegistryReader(chain)
            node_id = await registry.node_of_key(signer.address)
            if node_id is None and not self.standby:
                raise UserError(
                    f"node key {signer.address} is bound to no node; run `parallelix node register`, or set "
                    "keystore to the right file"
                )
            # A standby loads its model before it has a node.
            engines = Engines(settings, manifest, session, self._engine_changed)
            await stack.enter_async_context(engines)
            if node_id is None and (node_id := await self._await_node(registry, signer, engines)) is None:
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
            self._serving = Serving(
                settings, session, registry, chain.deployment, signer, manifest, node_id, engines,
                self._certificate, self._stop, self.stop, self.on_ready,
            )  # fmt: skip
            await self._serving.run()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # SIGHUP: the terminal closed
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGUSR1, self._on_renew)

    async def _await_node(self, registry: RegistryReader, signer: Signer, engines: Engines) -> NodeId | None:
        """The node that the owner binds the key to, once that is done; None when told to stop before."""
        _log.info("standing by", key=signer.address, hint="bind it with `parallelix node rotate-key`")
        while not self._stop.is_set():
            engines.raise_if_ended()
            with contextlib.suppress(TransientError):
                if (found := await registry.node_of_key(signer.address)) is not None:
                    return found
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STANDBY_POLL_SECONDS):
                    await self._stop.wait()
        return None


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
