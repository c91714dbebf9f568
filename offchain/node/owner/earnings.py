"""Uptime and earnings of the last epochs, for a view that must not wait for them."""

import asyncio
from dataclasses import dataclass, field

import requests
import structlog
from web3.exceptions import Web3Exception

from offchain.chain.deployment import Deployment
from offchain.errors import ParallelixError
from offchain.node.owner import stake
from offchain.node.owner.keeper_client import epoch_uptimes
from offchain.node.owner.stake import Earning, RegisteredNode
from offchain.node.owner.wallet import Chain
from offchain.node.settings import NodeSettings

_log = structlog.get_logger(__name__)

EPOCHS = 6
_REFRESH_SECONDS = 30.0


@dataclass(slots=True)
class NodeEarnings:
    """Reads chain and keeper now and then; between that it is what was read last.

    Attributes:
        node: as the registry has it; None until it was read.
        earnings: of the last epochs, newest first.
        reason: why they are not known; empty when they are.
    """

    settings: NodeSettings
    node: RegisteredNode | None = field(default=None, init=False)
    earnings: tuple[Earning, ...] = field(default=(), init=False)
    reason: str = field(default="not read yet", init=False)

    def read(self, node_id: int) -> None:
        """Read now; a failure becomes `reason` and keeps what was known."""
        keeper_url = self.settings.keeper_url
        try:
            chain = Chain.connect(self.settings.rpc_url, Deployment.load(self.settings.deployment))
            self.node = stake.view(chain, node_id)
            if keeper_url is None:
                self.reason = "set keeper_url to see them"
                return
            epochs = stake.epochs_of(chain, node_id, EPOCHS)
            self.earnings = tuple(
                stake.earning(chain, node_id, epoch, lambda e: epoch_uptimes(keeper_url, e))
                for epoch in reversed(epochs)
            )
            self.reason = "" if epochs else "no epoch of this node has ended yet"
        except (ParallelixError, Web3Exception, requests.RequestException) as error:
            self.reason = str(error)
            _log.debug("earnings not read", reason=self.reason)

    async def watch(self, node_id: int) -> None:
        """Read again and again, in a thread, until cancelled."""
        while True:
            await asyncio.to_thread(self.read, node_id)
            await asyncio.sleep(_REFRESH_SECONDS)
