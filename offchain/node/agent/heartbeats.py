"""Tells every front, every two seconds and at once upon a change, what this node can take. Never waits for one front."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import aiohttp
import orjson
import structlog

from offchain.crypto.keys import Signer
from offchain.domain.eip712 import SigningDomain, keccak256
from offchain.domain.messages import Heartbeat
from offchain.domain.types import NodeId
from offchain.node.agent.metrics import NodeMetrics
from offchain.protocol import headers as header_names
from offchain.protocol.heartbeats import write_header

_log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 2.0
_MAX_BACKOFF_SECONDS = 30.0
_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
_SOON_SECONDS = 0.02


@dataclass(slots=True)
class Beats:
    """Sends heartbeats until cancelled. One task a front, so that a dead front delays no other.

    Attributes:
        describe: the heartbeat's JSON fields as of now, for a front.
        now_ms: Unix milliseconds.
    """

    node_id: NodeId
    signer: Signer
    domain: SigningDomain
    fronts: Sequence[str]
    describe: Callable[[str], dict[str, object]]
    session: aiohttp.ClientSession
    metrics: NodeMetrics
    now_ms: Callable[[], int]
    interval_seconds: float = INTERVAL_SECONDS
    accepted: dict[str, int] = field(default_factory=dict, init=False)
    """When each front last accepted one, Unix milliseconds."""
    refused: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set when a front says that the signature is not the node's: the owner may have bound another key."""
    _changed: dict[str, asyncio.Event] = field(default_factory=dict, init=False)

    def changed(self) -> None:
        """What `describe` says has changed in a way that fronts should know at once (up, down, draining)."""
        for event in self._changed.values():
            event.set()

    def seconds_since(self, front: str) -> float | None:
        """Since a front last accepted one; None before the first."""
        at_ms = self.accepted.get(front)
        return None if at_ms is None else (self.now_ms() - at_ms) / 1000

    async def run(self) -> None:
        """Beat to all fronts until cancelled."""
        if not self.fronts:
            _log.warning("no fronts", hint="nobody learns of this node; set fronts")
            await asyncio.Event().wait()
        async with asyncio.TaskGroup() as group:
            for front in self.fronts:
                self._changed[front] = asyncio.Event()
                group.create_task(self._beat(front))

    async def _beat(self, front: str) -> None:
        backoff = self.interval_seconds
        failing = False
        while True:
            self._changed[front].clear()
            reason = await self.send(front)
            self.metrics.heartbeats[front, "accepted" if reason is None else "failed"] += 1
            if (reason is not None) is not failing:
                failing = reason is not None
                _log.warning("front lost" if failing else "front reached", front=front, reason=reason)
            backoff = self.interval_seconds if not failing else min(_MAX_BACKOFF_SECONDS, backoff * 1.5)
            try:
                async with asyncio.timeout(backoff):
                    await self._changed[front].wait()
            except TimeoutError:
                continue
            await asyncio.sleep(_SOON_SECONDS)

    async def send(self, front: str) -> str | None:
        """One heartbeat to one front. Returns why it failed, or None."""
        body = orjson.dumps(self.describe(front))
        sent_at_ms = self.now_ms()
        beat = Heartbeat(self.node_id, keccak256(body), sent_at_ms)
        signature = self.signer.sign_digest(self.domain.digest(beat.struct_hash()))
        headers = {
            "Content-Type": "application/json",
            header_names.HEARTBEAT: write_header(sent_at_ms, signature),
        }
        url = front.rstrip("/") + "/internal/heartbeat"
        try:
            async with self.session.post(url, data=body, headers=headers, timeout=_TIMEOUT) as answer:
                if answer.status == 204:
                    self.accepted[front] = sent_at_ms
                    return None
                if answer.status == 401:
                    self.refused.set()
                return f"{answer.status} {(await answer.content.read(200)).decode(errors='replace')}"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return type(error).__name__
