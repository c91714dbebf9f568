"""Compares what each node declared on chain with the manifest that it serves, its heartbeats and its receipts.

::

    capabilityHash on chain --+
    GET /manifest ------------+-> contradictions --> kept with their first time --a slot later--> FALSE_MANIFEST
    latest heartbeat ---------+

While a node changes its manifest, the chain, its server and its heartbeats disagree for a moment. A contradiction
therefore counts only when it has lasted `grace_ms`. Nodes that declare nothing, or cannot be reached, are left out.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import aiohttp
import structlog
from sqlalchemy import select

from offchain.db.database import Database
from offchain.db.models import Node
from offchain.domain.tiers import Tier
from offchain.domain.types import NodeId
from offchain.keeper import store
from offchain.keeper.probing.gateway_client import read_body
from offchain.protocol.manifests import contradictions, parse_manifest, revision_hashes
from offchain.runtime.clock import Clock
from offchain.scheduler.fleet import NodeReport
from offchain.transport.certificate_pins import unpinned

log = structlog.get_logger(__name__)

CAPABILITY = "capability"
BATCH, WIDTH = 128, 16
"""Nodes that are checked in one step, and how many of them are asked at once."""
FETCH_SECONDS = 2.0


@dataclass(eq=False)
class CapabilityService:
    """Stores a finding for each node that declared a manifest.

    Attributes:
        fleet: gives the latest heartbeat of each node alive.
        model: name of the model that is probed.
        grace_ms: `contradiction` returns only contradictions that have lasted this long.
    """

    database: Database
    fleet: Callable[[], Sequence[NodeReport]]
    clock: Clock
    _: KW_ONLY
    model: str
    grace_ms: int
    _looked_at: dict[NodeId, int] = field(default_factory=dict, init=False)
    _regions: dict[NodeId, str] = field(default_factory=dict, init=False)

    def step(self) -> int:
        """Check nodes that were last checked at least half of `grace_ms` ago. Returns how many."""
        now_ms = self.clock.now_ms()
        due = [
            report
            for report in self.fleet()
            if now_ms - self._looked_at.get(report.node_id, 0) >= self.grace_ms // 2
        ]
        due = sorted(due, key=lambda report: self._looked_at.get(report.node_id, 0))[:BATCH]
        with self.database.read() as session:
            rows = session.scalars(select(Node).where(Node.node_id.in_({report.node_id for report in due})))
            nodes = {NodeId(row.node_id): row for row in rows if row.manifest_hash}
        # Noted before the fetch, or a node that hangs would be due again at each step.
        self._looked_at |= {report.node_id: now_ms for report in due}
        self._note_regions(due, now_ms // 1000)
        declared = [report for report in due if report.node_id in nodes]
        for report, document in zip(declared, asyncio.run(_fetch_all(declared)), strict=True):
            if document is not None:
                self._keep(report.node_id, check_node(document, nodes[report.node_id], report))
        return len(due)

    def _note_regions(self, reports: Sequence[NodeReport], now: int) -> None:
        moved = {r.node_id: r.region for r in reports if self._regions.get(r.node_id) != r.region}
        if not moved:
            return
        with self.database.write() as session:
            for node, region in moved.items():
                # Goes into the evidence: network events are looked for by region (ADR 0078).
                store.note_region(session, node, region, now)
        self._regions |= moved

    def contradiction(self, node: NodeId, revision: bytes) -> str:
        """The first contradiction of a node that has lasted `grace_ms`, empty when there is none.

        Args:
            revision: the model revision (32 bytes) that the node's receipt names.
        """
        with self.database.read() as session:
            finding = store.result_of(session, CAPABILITY, str(node))
        if not finding or self.clock.now_ms() - int(finding["since_ms"]) < self.grace_ms:
            return ""
        if finding["found"]:
            return str(finding["found"][0])
        declared = finding["revisions"].get(self.model)
        if declared not in (None, revision.hex()):
            return "the receipt names another model revision than the manifest"
        return ""

    def _keep(self, node: NodeId, finding: dict[str, Any]) -> None:
        now_ms = self.clock.now_ms()
        with self.database.write() as session:
            known = store.result_of(session, CAPABILITY, str(node))
            # Without `since_ms`: the same finding keeps its first time, from which the grace counts.
            if finding == {name: known.get(name) for name in finding}:
                return
            store.replace_mark(session, CAPABILITY, str(node), now_ms // 1000, finding | {"since_ms": now_ms})
        if finding["found"]:
            log.warning("capability_mismatch", node=node, found=finding["found"])


def check_node(document: bytes, node: Node, report: NodeReport) -> dict[str, Any]:
    """A finding. `found`: contradictions; `revisions`: the revision hash (hex) of each declared model, if there are none."""
    served: dict[str, Any] = {
        "models": [
            {"name": name, "revision": offer.revision, "context_length": offer.context_size}
            for name, offer in report.offers.items()
        ],
        "slots": report.slots,
        "price_per_token_wei": str(report.price_per_token_wei),
    }
    declared = bytes.fromhex((node.manifest_hash or "").removeprefix("0x"))
    try:
        found = list(contradictions(document, declared, Tier(node.tier), served))
        revisions = {} if found else revision_hashes(parse_manifest(document))
    except (ValueError, TypeError, KeyError) as error:
        return {"found": [f"the manifest is malformed: {type(error).__name__}"], "revisions": {}}
    return {"found": found, "revisions": {name: value.hex() for name, value in revisions.items()}}


async def _fetch_all(reports: Sequence[NodeReport]) -> list[bytes | None]:
    limit = asyncio.Semaphore(WIDTH)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS)) as session:

        async def fetch(url: str) -> bytes | None:
            bare, pins = unpinned(url)
            checks = [aiohttp.Fingerprint(bytes.fromhex(pin)) for pin in sorted(pins)]
            for check in checks or (True,):  # a node that rotates its certificate announces both pins
                try:
                    where = f"{bare}/manifest"
                    # No redirects: a node must not send this keeper to other hosts.
                    async with limit, session.get(where, ssl=check, allow_redirects=False) as response:
                        return await read_body(response) if response.status == 200 else None
                except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
                    continue
            return None

        return list(await asyncio.gather(*(fetch(report.url) for report in reports)))
