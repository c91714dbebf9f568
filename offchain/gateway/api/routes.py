"""Routes of the gateway's HTTP API. Add an endpoint to `_public` (no API key), `_authenticated`, or `_by_id` (path with an id)."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, unquote

import orjson
from redis.exceptions import RedisError

from offchain.domain.types import NodeId
from offchain.gateway.api.inference import Inference
from offchain.gateway.api.openapi import document
from offchain.gateway.batches.routes import BATCHES, FILES
from offchain.gateway.dependencies import GatewayDependencies
from offchain.gateway.errors import ApiError, invalid_value, unavailable, unknown_url, whole_number
from offchain.gateway.tenants.registry import Tenant
from offchain.protocol import headers as header_names
from offchain.protocol.heartbeats import HeartbeatRefusedError
from offchain.transport.server import Request, ServerConnection
from offchain.workloads.inference.request import Kind

JSON = {"content-type": "application/json"}
MAX_USAGE_DAYS = 90

Route = Callable[[Request, ServerConnection, Tenant], Awaitable[None]]


class GatewayService:
    """Gives each request to the method that answers it. One instance a process, on its one event loop."""

    def __init__(self, deps: GatewayDependencies) -> None:
        self._deps = deps
        self._inference = Inference(deps)
        infer = self._inference.answer
        self._public: dict[str, tuple[str, Callable[[Request, ServerConnection], None]]] = {
            "/health": ("GET", self._health),
            "/ready": ("GET", self._ready),
            "/metrics": ("GET", self._metrics),
            "/openapi.json": ("GET", self._openapi),
            "/v1/executions": ("GET", self._executions),
            "/internal/heartbeat": ("POST", self._heartbeat),
        }
        self._authenticated: dict[str, tuple[str, Route]] = {
            **{kind.value: ("POST", partial(infer, kind)) for kind in Kind},
            "/v1/models": ("GET", self._models),
            "/v1/usage": ("GET", self._usage),
        }
        self._by_id: dict[str, Callable[[Request, ServerConnection, str], Awaitable[None]]] = {
            "/v1/receipts/": self._receipt,
            "/v1/nodes/": self._node,
            "/v1/executions/": self._execution,
            "/v1/models/": self._model,
        }

    async def handle(self, request: Request, connection: ServerConnection) -> None:
        """Answer one request."""
        try:
            await self._route(request, connection)
        except ApiError as error:
            # the label is never a caller's text
            route = request.path if request.path in self._authenticated else "other"
            self._deps.metrics.requests[route, error.status] += 1
            connection.reply(error.status, {**JSON, **error.headers}, error.body)

    def verify_and_record(self) -> None:
        """See `Inference.verify_and_record`."""
        self._inference.verify_and_record()

    async def _route(self, request: Request, connection: ServerConnection) -> None:
        path = request.path
        if request.method == "GET":
            self.verify_and_record()  # whoever reads sees every request that has ended before
        known = self._authenticated.get(path)
        if known is not None:
            method, route = known
            _need(request, method)
            await route(request, connection, self._tenant(request))
            return
        plain = self._public.get(path)
        if plain is not None:
            _need(request, plain[0])
            plain[1](request, connection)
            return
        for prefix, by_id in self._by_id.items():
            if path.startswith(prefix):
                _need(request, "GET")
                await by_id(request, connection, path.removeprefix(prefix))
                return
        if path.startswith((FILES, BATCHES)):
            tenant = self._tenant(request)
            if self._deps.batches is None:
                raise unavailable("batches are kept in Redis; this gateway has none", "no_store")
            await self._deps.batches.answer(request, connection, tenant.name)
            return
        raise unknown_url(request.method, path)

    def _tenant(self, request: Request) -> Tenant:
        authorization = request.headers.get("authorization")
        tenant = self._deps.authenticator.tenant_of(authorization)
        if tenant is None:
            message = "Incorrect API key provided. Ask the gateway's operator for one."
            if authorization is None:
                message = "You didn't provide an API key. Send it as `Authorization: Bearer YOUR_KEY`."
            raise ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        return tenant

    # ------------------------------------------------------------------------------------------- read from memory

    async def _models(self, request: Request, connection: ServerConnection, tenant: Tenant) -> None:
        models = [self._describe(name) for name in sorted(self._deps.fleet.capabilities())]
        _json(connection, {"object": "list", "data": models})

    async def _model(self, request: Request, connection: ServerConnection, text: str) -> None:
        self._tenant(request)
        name = unquote(text)
        if name not in self._deps.fleet.capabilities():
            message = f"The model {name[:256]!r} does not exist"
            raise ApiError(404, message, param="model", code="model_not_found")
        _json(connection, self._describe(name))

    def _describe(self, name: str) -> dict[str, Any]:
        nodes = self._deps.fleet.capable(name)
        longest = max(node.report.offers[name].context_size for node in nodes.values())
        return {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "parallelix",
            "max_model_len": longest,
            "nodes": len(nodes),
        }

    async def _node(self, request: Request, connection: ServerConnection, text: str) -> None:
        """What this gateway knows of a node, and what keeps work from it. Public: it shows nobody's requests."""
        is_id = text.isascii() and text.isdigit() and len(text) < 10
        node = self._deps.fleet.get(NodeId(int(text))) if is_id else None
        if node is None:
            raise ApiError(404, "No heartbeat of such a node came lately.", code="node_not_live")
        report = node.report
        shown = {
            "id": int(report.node_id),
            "object": "node",
            "region": report.region,
            "models": sorted(report.offers),
            "slots": report.slots,
            "free_slots": max(0, node.free),
            "queue": report.queue,
            "breaker": node.breaker.state.value,
            "reputation_bps": node.reputation_bps,
            "attempts_running": node.leases,
            "attempts_succeeded": node.succeeded,
            "attempts_failed": node.failed,
            "first_byte_ms": round(node.first_byte_seconds * 1000, 1) if node.first_byte_seconds else None,
            "round_trip_ms": round(node.rtt_seconds * 1000, 1) if node.rtt_seconds else None,
        }
        _json(connection, shown)

    async def _receipt(self, request: Request, connection: ServerConnection, text: str) -> None:
        tenant, record = self._tenant(request), None
        request_id = _request_id(text)
        if request_id is not None:
            record = self._deps.request_log.get(request_id)
            if record is None and self._deps.cluster is not None:
                record = await self._deps.cluster.record(request_id)
        if record is None or record["tenant"] != tenant.name:
            raise ApiError(404, "No such request, or it is forgotten already.", code="request_not_found")
        _json(connection, self._deps.sign_record(record))

    def _executions(self, request: Request, connection: ServerConnection) -> None:
        """Commitments to the execution records of past epochs. Public: keepers and auditors ask for them."""
        since = dict(parse_qsl(request.query)).get("since", "0")
        if not since.isascii() or not since.isdigit() or len(since) > 10:
            raise invalid_value("since", "since must be the number of an epoch")
        executions = self._deps.executions
        # read before the list: a batch that is signed in between is then in the list
        making = executions.making
        _json(connection, {"object": "list", "making": making, "data": executions.listed(int(since))})

    async def _execution(self, request: Request, connection: ServerConnection, text: str) -> None:
        """A request's execution record and its Merkle proof in its batch. Whoever knows the request's id may ask."""
        request_id, find = _request_id(text), self._deps.executions.find
        found = None if request_id is None else await asyncio.to_thread(find, request_id)
        if found is None:
            raise ApiError(
                404,
                "No batch of execution records has this request: it was not answered here, its epoch is not over, or it is too old.",
                code="execution_not_found",
            )
        _json(connection, found)

    async def _usage(self, request: Request, connection: ServerConnection, tenant: Tenant) -> None:
        shared = self._deps.cluster
        if shared is None:
            raise unavailable("usage is kept in Redis; this gateway has none", "no_store")
        asked = whole_number(dict(parse_qsl(request.query)).get("days", "30"), "days", MAX_USAGE_DAYS)
        try:
            days = await shared.usage(tenant.name, asked)
        except (RedisError, OSError, TimeoutError):
            raise unavailable("usage cannot be read now") from None
        used, credit = self._deps.quotas.usage(tenant.name), tenant.limits.credit_wei
        spent = used.spent_wei + used.spent_elsewhere_wei
        found = None if credit is None else {"credit_wei": str(credit), "spent_wei": str(spent)}
        _json(connection, {"object": "list", "tenant": tenant.name, "credit": found, "data": days})

    def _heartbeat(self, request: Request, connection: ServerConnection) -> None:
        deps = self._deps
        try:
            report = deps.heartbeats.verify(request.body, request.headers.get(header_names.HEARTBEAT))
        except HeartbeatRefusedError as refused:
            deps.metrics.heartbeats[refused.code] += 1
            connection.reply(refused.status, JSON, orjson.dumps(refused.to_json()))
            return
        deps.fleet.update(report, deps.clock())
        deps.metrics.heartbeats["accepted"] += 1
        deps.dispatcher.router.pump()
        if deps.cluster is not None:
            deps.cluster.report(report)
        connection.reply(204, {}, b"")

    def _openapi(self, request: Request, connection: ServerConnection) -> None:
        _json(connection, document())

    def _health(self, request: Request, connection: ServerConnection) -> None:
        _json(connection, {"status": "ok"})

    def _ready(self, request: Request, connection: ServerConnection) -> None:
        reason = self._deps.ready()
        status = "ready" if reason is None else "not_ready"
        shown = {"status": status, "reason": reason, "nodes": len(self._deps.fleet)}
        _json(connection, shown, 200 if reason is None else 503)

    def _metrics(self, request: Request, connection: ServerConnection) -> None:
        dispatcher = self._deps.dispatcher
        gauges = {
            "attempts_running": dispatcher.running,
            "requests_waiting": dispatcher.router.waiting,
            "nodes": len(self._deps.fleet),
            "execution_records_lost": self._deps.executions.lost,
            "compiled": int(self._deps.compiled),
        }
        headers = {"content-type": "text/plain; version=0.0.4; charset=utf-8"}
        connection.reply(200, headers, self._deps.metrics.render(gauges))


def _need(request: Request, method: str) -> None:
    if request.method != method:
        message = f"{request.path} takes {method}, not {request.method}"
        raise ApiError(405, message, code="method_not_allowed", headers={"allow": method})


def _request_id(text: str) -> bytes | None:
    """The 32 bytes of a request id in a path, e.g. `0x01ab...`; None for any other text."""
    if not text.startswith("0x") or len(text) != 66:
        return None
    try:
        return bytes.fromhex(text[2:])
    except ValueError:
        return None


def _json(connection: ServerConnection, document: object, status: int = 200) -> None:
    connection.reply(status, JSON, orjson.dumps(document))
