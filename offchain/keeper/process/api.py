"""The keeper's HTTP API: health, evidence and proposals for other keepers, bundles for everybody, nodes' heartbeats."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from offchain.db.database import Database
from offchain.dispatch.fleet_store import FleetStore
from offchain.domain.canonical_json import canonical
from offchain.domain.types import Address, Epoch
from offchain.errors import TransientError
from offchain.evidence.epoch_context_reader import NotReadyError
from offchain.keeper import store
from offchain.keeper.attestation.ballot import BallotRefusedError
from offchain.keeper.attestation.epoch_summary import epoch_summary
from offchain.keeper.attestation.service import AttestService
from offchain.keeper.process.health import Health
from offchain.protocol import headers as header_names
from offchain.protocol.heartbeats import HeartbeatRefusedError, HeartbeatVerifier

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 1 << 20
_IMMUTABLE = "public, max-age=31536000, immutable"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(eq=False)
class KeeperApi:
    """The routes. Each handler parses the request, calls one service in a thread (services block) and answers.

    Attributes:
        address: this keeper's signer, shown in `/health` and in epoch summaries.
        reputation: gives the document behind GET /v1/reputation.
    """

    database: Database
    attest: AttestService
    heartbeats: HeartbeatVerifier
    fleet: FleetStore
    health: Health
    address: Address
    reputation: Callable[[], dict[str, Any]]

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors])
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/ready", self._ready),
                web.get("/metrics", self._metrics),
                web.post("/internal/heartbeat", self._heartbeat),
                web.get(r"/v1/epochs/{epoch:\d{1,10}}", self._epoch),
                web.get(r"/v1/epochs/{epoch:\d{1,10}}/evidence", self._evidence),
                web.post(r"/v1/epochs/{epoch:\d{1,10}}/proposal", self._proposal),
                web.get("/v1/reputation", self._reputation),
                web.get(r"/v1/bundles/{hash:0x[0-9a-f]{64}}", self._bundle),
            ]
        )
        return app

    async def _health(self, _request: web.Request) -> web.Response:
        return _json({"status": "ok", "signer": self.address})

    async def _ready(self, _request: web.Request) -> web.Response:
        problems = await asyncio.to_thread(self.health.problems)
        return _json({"ready": not problems, "problems": problems}, status=503 if problems else 200)

    async def _metrics(self, _request: web.Request) -> web.Response:
        body = await asyncio.to_thread(self.health.metrics)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _heartbeat(self, request: web.Request) -> web.Response:
        body = await request.read()
        header = request.headers.get(header_names.HEARTBEAT)

        def accept() -> None:
            self.fleet.write(self.heartbeats.verify(body, header))

        try:
            await asyncio.to_thread(accept)
        except HeartbeatRefusedError as refused:
            return _json(refused.to_json(), status=refused.status)
        return web.Response(status=204)

    async def _epoch(self, request: web.Request) -> web.Response:
        epoch = _epoch(request)
        return _json(await asyncio.to_thread(epoch_summary, self.database, epoch, self.address))

    async def _reputation(self, _request: web.Request) -> web.Response:
        return _json(await asyncio.to_thread(self.reputation))

    async def _evidence(self, request: web.Request) -> web.Response:
        epoch = _epoch(request)
        try:
            document = await asyncio.to_thread(self.attest.own_document.frozen, epoch)
        except NotReadyError as waiting:
            return _json({"error": str(waiting)}, status=425)  # Too Early, RFC 8470
        body = await asyncio.to_thread(lambda: canonical(document.to_json()))
        return web.Response(body=body, content_type="application/json")

    async def _proposal(self, request: web.Request) -> web.Response:
        epoch = _epoch(request)
        try:
            data = orjson.loads(await request.read())
        except orjson.JSONDecodeError:
            return _json({"error": "the body is not JSON"}, status=400)
        try:
            # Nobody logs in here: the proposal itself is signed by the leader of the turn.
            signature = await asyncio.to_thread(self.attest.follower.answer_proposal, epoch, data)
        except BallotRefusedError as refused:
            return _json({"error": str(refused), "disagreement": refused.disagreement}, status=409)
        return _json({"signature": signature})

    async def _bundle(self, request: web.Request) -> web.Response:
        bundle_hash = request.match_info["hash"]

        def load() -> bytes | None:
            with self.database.read() as session:
                return store.load_bundle(session, bundle_hash)

        raw = await asyncio.to_thread(load)
        if raw is None:
            return _json({"error": "this keeper does not have that bundle"}, status=404)
        return web.Response(body=raw, content_type="application/json", headers={"Cache-Control": _IMMUTABLE})


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except TransientError as error:
        return _json({"error": str(error)}, status=503)
    except web.HTTPException as error:
        return _json({"error": error.reason}, status=error.status)
    except Exception:
        log.exception("request_failed", path=request.path)
        return _json({"error": "internal error; see the keeper's log"}, status=500)


def _epoch(request: web.Request) -> Epoch:
    return Epoch(int(request.match_info["epoch"]))


def _json(data: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(data), status=status, content_type="application/json")
