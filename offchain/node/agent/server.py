"""The agent's HTTP surface: few routes, no framework."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson

from offchain.node.agent.metrics import NodeMetrics
from offchain.node.agent.proxy import COMPLETION_PATHS, EMBEDDING_PATH, Proxy, ServedCounts
from offchain.node.agent.slots import Slots
from offchain.node.agent.tickets import TicketGate
from offchain.node.engines.model_server import Engine, EngineState
from offchain.node.errors import ServeError
from offchain.node.machine.manifest import Manifest
from offchain.protocol import headers as header_names
from offchain.transport.server import Request, ServerConnection

_JSON = {"content-type": "application/json"}
_Reply = tuple[int, dict[str, str], bytes]
_SERVED_PATHS = frozenset((*COMPLETION_PATHS, EMBEDDING_PATH))


@dataclass
class AgentServer:
    """Routes requests. `handle` answers one, whether its connection was accepted or dialled.

    Attributes:
        about: further fields of `/health` and `/ready`.
    """

    gate: TicketGate
    slots: Slots
    proxy: Proxy
    manifest: Manifest
    metrics: NodeMetrics
    now_ms: Callable[[], int]
    about: Callable[[], dict[str, object]] = dict

    def __post_init__(self) -> None:
        # Gateways compare these bytes with the hash on chain: they are made once, of one manifest.
        self._canonical = self.manifest.canonical()
        self._manifest_hash = "0x" + self.manifest.hash().hex()
        self.totals = {"served": 0, "failed": 0, "refused": 0, "prompt_tokens": 0, "completion_tokens": 0}

    @property
    def engines(self) -> Sequence[Engine]:
        """The model servers behind this agent."""
        return [engine for backend in self.proxy.backends.values() for engine in backend.engines]

    @property
    def ready(self) -> bool:
        """Every model has a server that is up, and the agent is not draining."""
        return not self.slots.draining and all(backend.up for backend in self.proxy.backends.values())

    async def handle(self, request: Request, connection: ServerConnection) -> None:
        """Answer one request."""
        try:
            await self._route(request, connection)
        except ServeError as error:
            self.totals["failed" if error.status >= 500 else "refused"] += 1
            self.metrics.requests[error.kind] += 1
            connection.reply(error.status, error.headers, error.body)

    async def _route(self, request: Request, connection: ServerConnection) -> None:
        path = request.path
        if path in _SERVED_PATHS:
            if request.method != "POST":
                raise ServeError(405, "method_not_allowed", f"use POST for {path}")
            await self._serve(request, connection)
        elif request.method == "GET":
            connection.reply(*self._read(path))
        else:
            raise ServeError(404, "not_found", f"there is no {path} here")

    async def _serve(self, request: Request, connection: ServerConnection) -> None:
        headers = request.headers
        # Before a slot is taken: forged requests must not fill the node.
        admission = await self.gate.check(
            headers.get(header_names.REQUEST_ID), headers.get(header_names.TICKET), request.body
        )
        slot = self.slots.take()
        if slot is None:
            draining, limit = self.slots.draining, self.slots.limit
            reason = "this node is draining" if draining else f"all {limit} slots are taken"
            # Gateways queue, nodes never do.
            raise ServeError(429, "no_slot", f"{reason}; use another node", retry_after_seconds=1)
        with slot:
            admission.use(self.now_ms())  # after the slot: a refused request may come again with its ticket
            began = time.perf_counter()
            outcome = "cancelled"
            try:
                served = await self.proxy.serve(request, connection, admission)
                outcome = "served" if served.whole else "refused" if served.status != 200 else "cut"
                self._count(served)
            except ServeError:
                outcome = "failed"
                raise
            finally:
                if outcome != "failed":
                    self.metrics.requests[outcome] += 1
                self.metrics.seconds.observe(time.perf_counter() - began)

    def _count(self, served: ServedCounts) -> None:
        self.totals["served" if served.whole else "failed"] += 1
        self.totals["prompt_tokens"] += served.prompt_tokens
        self.totals["completion_tokens"] += served.completion_tokens
        self.metrics.tokens["prompt"] += served.prompt_tokens
        self.metrics.tokens["completion"] += served.completion_tokens

    def _read(self, path: str) -> _Reply:
        if path == "/health":
            return self._state(good=any(engine.state is EngineState.UP for engine in self.engines))
        if path == "/ready":
            return self._state(good=self.ready)
        if path == "/manifest":
            return 200, {**_JSON, header_names.MANIFEST_HASH: self._manifest_hash}, self._canonical
        if path == "/metrics":
            text = self.metrics.render(self.slots.limit, self.slots.used, self.engines)
            return 200, {"content-type": "text/plain; version=0.0.4; charset=utf-8"}, text
        raise ServeError(404, "not_found", f"there is no {path} here")

    def _state(self, *, good: bool) -> _Reply:
        return 200 if good else 503, _JSON, orjson.dumps(self.snapshot(good=good))

    def offer(self, *, reachable: bool = True) -> dict[str, object]:
        """What gateways can ask of this node now: the part of a heartbeat that the manifest must cover.

        Args:
            reachable: False while the receiver of the heartbeat has no way to this node.
        """
        models = [
            backend.model.to_json() for backend in self.proxy.backends.values() if backend.up and reachable
        ]
        return {
            "models": models,
            "slots": self.slots.limit,
            "free_slots": self.slots.free if models else 0,
            # The protocol has the field; requests never wait at a node.
            "queue": 0,
            "region": self.manifest.region,
            "tier": int(self.manifest.tier),
            "price_per_token_wei": str(self.manifest.price_per_token_wei),
        }

    def snapshot(self, *, good: bool | None = None) -> dict[str, object]:
        """The body of `/health` and `/ready`; `good` defaults to readiness."""
        good = self.ready if good is None else good
        return {
            "status": "ok" if good else "unavailable",
            **self.about(),
            "draining": self.slots.draining,
            "slots": self.slots.limit,
            "free_slots": self.slots.free,
            "totals": self.totals,
            "offer": self.offer(),
            "engines": [
                {"model": engine.name, "state": engine.state.value}
                | {name: getattr(engine, name) for name in ("reason", "restarts", "version")}
                for engine in self.engines
            ],
        }
