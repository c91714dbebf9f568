"""Tells each gateway and keeper, every two seconds and at once upon a change, what this node can take.

One task for each receiver, so that a receiver that does not answer delays no other.
"""

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
from offchain.errors import UserError
from offchain.node.agent.metrics import NodeMetrics
from offchain.protocol import headers as header_names
from offchain.protocol.heartbeats import write_header
from offchain.runtime.redaction import endpoint_label

_log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 2.0
_MAX_BACKOFF_SECONDS = 30.0
_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
_SOON_SECONDS = 0.02
"""Pause after a change, so that several changes at once go out in one heartbeat."""


def receiver_label(url: str) -> str:
    """Host and port of a heartbeat receiver, for the log."""
    try:
        return endpoint_label(url, "heartbeat_receivers")
    except UserError:
        return "(not an http(s) URL)"


def signed_header(
    node_id: NodeId, signer: Signer, domain: SigningDomain, body: bytes, sent_at_ms: int
) -> str:
    """`X-Parallelix-Heartbeat`: 0x-hex of the time (8 bytes) and the node key's signature over body and time (65)."""
    message = Heartbeat(node_id, keccak256(body), sent_at_ms)
    signature = signer.sign_struct(domain, message.struct_hash())
    return write_header(sent_at_ms, signature)


@dataclass(slots=True)
class HeartbeatSender:
    """Sends heartbeats until cancelled.

    Attributes:
        receivers: base URLs of gateways and keepers.
        describe: the heartbeat's JSON fields as of now, for one receiver.
        now_ms: Unix milliseconds.
    """

    node_id: NodeId
    signer: Signer
    domain: SigningDomain
    receivers: Sequence[str]
    describe: Callable[[str], dict[str, object]]
    session: aiohttp.ClientSession
    metrics: NodeMetrics
    now_ms: Callable[[], int]
    interval_seconds: float = INTERVAL_SECONDS
    accepted: dict[str, int] = field(default_factory=dict, init=False)
    """When each receiver last accepted a heartbeat, Unix milliseconds."""
    refused: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set when a receiver says that the signature is not the node's: the owner may have bound another key."""
    _changed: dict[str, asyncio.Event] = field(default_factory=dict, init=False)

    def changed(self) -> None:
        """Call when `describe` gives something else that receivers should know at once (up, down, draining)."""
        for event in self._changed.values():
            event.set()

    def seconds_since(self, receiver: str) -> float | None:
        """Seconds since a receiver last accepted a heartbeat; None before the first."""
        at_ms = self.accepted.get(receiver)
        return None if at_ms is None else (self.now_ms() - at_ms) / 1000

    async def run(self) -> None:
        """Send to all receivers until cancelled."""
        if not self.receivers:
            _log.warning(
                "no heartbeat receivers", hint="no gateway learns of this node; set heartbeat_receivers"
            )
            # Returning would end the agent: `Serving.run` waits for the first of its tasks to end.
            await asyncio.Event().wait()
        async with asyncio.TaskGroup() as group:
            for receiver in self.receivers:
                self._changed[receiver] = asyncio.Event()
                group.create_task(self._keep_telling(receiver))

    async def _keep_telling(self, receiver: str) -> None:
        backoff = self.interval_seconds
        failing = False
        while True:
            self._changed[receiver].clear()  # before describing: a change meanwhile is told in the next one
            reason = await self.send(receiver)
            self.metrics.heartbeats[receiver, "accepted" if reason is None else "failed"] += 1
            if (reason is not None) is not failing:
                failing = reason is not None
                _log.warning(
                    "heartbeat receiver lost" if failing else "heartbeat receiver reached",
                    receiver=receiver_label(receiver),
                    reason=reason,
                )
            backoff = self.interval_seconds if not failing else min(_MAX_BACKOFF_SECONDS, backoff * 1.5)
            try:
                async with asyncio.timeout(backoff):
                    await self._changed[receiver].wait()
            except TimeoutError:
                continue
            await asyncio.sleep(_SOON_SECONDS)

    async def send(self, receiver: str) -> str | None:
        """One heartbeat to one receiver. Returns why it failed, or None."""
        # Dumped once: the signature is over these very bytes.
        body = orjson.dumps(self.describe(receiver))
        sent_at_ms = self.now_ms()
        headers = {
            "Content-Type": "application/json",
            header_names.HEARTBEAT: signed_header(self.node_id, self.signer, self.domain, body, sent_at_ms),
        }
        url = receiver.rstrip("/") + "/internal/heartbeat"
        try:
            async with self.session.post(url, data=body, headers=headers, timeout=_TIMEOUT) as answer:
                if answer.status == 204:
                    self.accepted[receiver] = sent_at_ms
                    return None
                if answer.status == 401:  # perhaps the key was rotated on chain
                    self.refused.set()
                # A receiver is a stranger: never read all it sends.
                return f"{answer.status} {(await answer.content.read(200)).decode(errors='replace')}"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return type(error).__name__
