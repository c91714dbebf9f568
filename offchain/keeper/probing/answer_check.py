"""Compares a probed node's answer with a reference. One mismatch alone never counts.

::

    answer --same as the reference?--yes--> holds
              | no
    a second prompt, to the node and to the reference --same?--yes--> holds (rounding, or a tie between two tokens)
              | no
    WRONG_ANSWER

Probes are greedy and a few tokens long, so honest nodes of one model revision agree to the token. Without a reference
the answer holds. A wrong answer becomes a signed miss like any other: it costs the node its slot only if a keeper of
another region signed a miss too, after a prompt of its own, and no keeper holds a receipt for the slot.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import aiohttp
import orjson
import structlog

from offchain.db.database import Database
from offchain.domain.answer_text import answer_result
from offchain.domain.eip712 import SigningDomain, keccak256
from offchain.domain.messages import ServiceReceipt
from offchain.domain.types import FULL_BPS, NodeId
from offchain.evidence.document import MessageSigner
from offchain.keeper.lookups import independent_nodes
from offchain.keeper.probing.gateway_client import Asker, Reply, ReplyKind, read_body
from offchain.keeper.probing.prober import ProbedNode, ProbeOutcome, assess_reply, body_of, probe_seed
from offchain.keeper.store import DueProbe
from offchain.protocol.receipts import check_result
from offchain.runtime.clock import Clock

log = structlog.get_logger(__name__)

# Two witnesses that agree (ADR 0044); a third is asked only when the first two differ.
MAJORITY = 2
MAX_ASKED = 3


class AnswerReference(Protocol):
    """Gives the right answer to a probe."""

    async def result(
        self, gateway: Asker, subject: NodeId, revision: bytes, body: bytes, seed: bytes
    ) -> bytes | None:
        """The result bytes of a greedy request under a model revision, None when there is no reference for it.

        Args:
            subject: the probed node. Neither this node nor another one of its owner is asked.
            seed: secret of this keeper, new for each probe; decides which nodes are asked.
        """


@dataclass(eq=False)
class NodesReference:
    """The majority of other nodes of the same model revision, each of another owner, asked through the gateway.

    Attributes:
        serving: nodes alive now, each with the hash of the model revision that it serves.
    """

    database: Database
    serving: Callable[[], Sequence[tuple[NodeId, bytes]]]

    async def result(
        self, gateway: Asker, subject: NodeId, revision: bytes, body: bytes, seed: bytes
    ) -> bytes | None:
        alive = [node for node, served in self.serving() if served == revision]
        chosen = independent_nodes(
            self.database, alive, subject, lambda node: keccak256(seed + node.to_bytes(4, "big"))
        )[:MAX_ASKED]
        votes = Counter[bytes]()
        for batch in (chosen[:MAJORITY], chosen[MAJORITY:]):
            replies = await asyncio.gather(*(gateway.ask(node, body) for node in batch))
            votes.update(found for reply in replies if (found := _result_of(reply, revision)) is not None)
            if votes and votes.most_common(1)[0][1] >= MAJORITY:
                return votes.most_common(1)[0][0]
        return None


@dataclass(eq=False)
class EndpointReference:
    """An OpenAI-compatible server that this keeper's operator trusts, with the model that is probed.

    Attributes:
        url: base URL.
        api_key: sent as a bearer token unless empty; never logged.
        revision: hash of the model revision that it serves; None: its answers count for every revision.
    """

    url: str
    api_key: str
    timeout_seconds: float
    revision: bytes | None = None

    async def result(
        self, gateway: Asker, subject: NodeId, revision: bytes, body: bytes, seed: bytes
    ) -> bytes | None:
        if self.revision not in (None, revision):
            return None
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        # Whole even if the probe was a stream: the result is the same bytes either way (ADR 0003).
        whole = json.dumps({**json.loads(body), "stream": False}, separators=(",", ":")).encode()
        try:
            async with (
                aiohttp.ClientSession(
                    timeout=aiohttp.ClientTimeout(self.timeout_seconds), headers=headers
                ) as session,
                session.post(f"{self.url.rstrip('/')}/v1/chat/completions", data=whole) as response,
            ):
                if response.status != 200:
                    log.warning("reference_refused", status=response.status)
                    return None
                return answer_result(orjson.loads(await read_body(response)))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            log.warning("reference_failed", error=type(error).__name__)
            return None


@dataclass(eq=False)
class AnswerCheck:
    """Decides whether an answered probe was answered wrongly.

    Attributes:
        share_bps: share of the answers that are checked; a secret of this keeper decides which.
    """

    reference: AnswerReference
    signer: MessageSigner
    market: SigningDomain
    clock: Clock
    model: str
    share_bps: int = FULL_BPS

    async def wrong(self, gateway: Asker, probe: DueProbe, node: ProbedNode, found: ProbeOutcome) -> str:
        """Why the answer is wrong; empty when it holds, or when there is no reference."""
        # From a secret of this keeper, so that nobody can steer who is asked (ADR 0044).
        seed = keccak256(b"parallelix.probe.reference" + probe_seed(probe, self.signer))
        if int.from_bytes(seed[:8], "big") % FULL_BPS >= self.share_bps:
            return ""
        if await self._holds(gateway, probe, found, seed, again=False):
            return ""
        body = body_of(probe, self.model, self.signer, again=True)
        reply = await gateway.ask(probe.node_id, body)
        second = assess_reply(reply, body, node, self.market, self.clock.now_ms())
        # A second answer that is bad in itself proves nothing about the first: one mismatch never counts.
        if second.receipt is None or await self._holds(gateway, probe, second, seed, again=True):
            log.info("answer_differs_once", epoch=probe.epoch, slot=probe.slot, node=probe.node_id)
            return ""
        return "differs from the reference in two prompts"

    async def _holds(
        self, gateway: Asker, probe: DueProbe, found: ProbeOutcome, seed: bytes, *, again: bool
    ) -> bool:
        if found.receipt is None:
            return True
        body = body_of(probe, self.model, self.signer, again=again)
        revision = found.receipt.model_revision
        expected = await self.reference.result(gateway, probe.node_id, revision, body, seed)
        return expected is None or expected == found.result


def _result_of(reply: Reply, revision: bytes) -> bytes | None:
    """The result in a reference node's reply, if the receipt names this revision and the result's hash."""
    if reply.kind is not ReplyKind.ANSWER:
        return None
    try:
        receipt, result = ServiceReceipt.from_json(reply.envelope["receipt"]), answer_result(reply.answer)
        check_result(receipt, result)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return result if receipt.model_revision == revision else None
