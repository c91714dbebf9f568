"""Uptime and earnings of the last epochs, for a view that must not wait for them."""

import asyncio
from dataclasses import dataclass, field

import structlog

from offchain.chain.reader import ChainReader, NodeView
from offchain.domain.types import NodeId
from offchain.errors import ParallelixError
from offchain.node.chain import open_chain
from offchain.node.owner import stake
from offchain.node.owner.keeper_client import epoch_uptimes
from offchain.node.owner.stake import Earning
from offchain.node.settings import NodeSettings

_log = structlog.get_logger(__name__)

EPOCHS = 6
_REFRESH_SECONDS = 30.0


@dataclass(slots=True)
class NodeEarnings:
    """What chain and keeper said when they were read last.

    Attributes:
        node: as the registry shows it; None before the first read.
        earnings: of the last epochs, newest first.
        reason: why `earnings` are not known, or not up to date; empty when they are.
    """

    settings: NodeSettings
    node: NodeView | None = field(default=None, init=False)
    earnings: tuple[Earning, ...] = field(default=(), init=False)
    reason: str = field(default="not read yet", init=False)
    _chain: ChainReader | None = field(default=None, init=False)

    def read(self, node_id: NodeId) -> None:
        """Read now. A failure becomes `reason` and keeps what was known."""
        keeper_url = self.settings.keeper_url
        try:
            chain = self._chain = self._chain or open_chain(self.settings)
            reads = chain.at(chain.head_block())
            self.node = stake.registered_node(reads, node_id)
            if keeper_url is None:
                self.reason = "set keeper_url to see them"
                return
            epochs = stake.earning_epochs(reads, node_id, EPOCHS)
            self.earnings = tuple(
                stake.earning(reads, node_id, epoch, lambda e: epoch_uptimes(keeper_url, e))
                for epoch in reversed(epochs)
            )
            self.reason = "" if epochs else "no epoch of this node has ended yet"
        except ParallelixError as error:
            self.reason = str(error)
            _log.debug("earnings not read", reason=self.reason)

    async def watch(self, node_id: NodeId) -> None:
        """Read every 30 seconds, in a thread, until cancelled."""
        while True:
            await asyncio.to_thread(self.read, node_id)
            await asyncio.sleep(_REFRESH_SECONDS)
