"""What the agent asks the chain while it serves."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from offchain.chain.reader import ChainReader, PinnedReads
from offchain.domain.types import Address, NodeId
from offchain.errors import ParallelixError, TransientError

TIMEOUT_SECONDS = 5.0
"""Limit of one exchange with an RPC endpoint while requests may wait for its answer."""
_THREADS = 16
_MAX_WAITING = 32
"""Questions at once. While an endpoint hangs, further ones fail instead of piling up."""
_Answer = TypeVar("_Answer")


class RegistryReader:
    """Questions to NodeRegistryLocker and KeeperRegistry at the newest block, each asked in a thread."""

    def __init__(self, chain: ChainReader) -> None:
        self._chain = chain
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="rpc")
        self._waiting = 0

    async def is_gateway(self, signer: Address) -> bool:
        """Whether a bonded keeper lists this gateway signer. Raises TransientError."""
        return await self._ask(lambda reads: reads.is_gateway(signer))

    async def node_of_key(self, key: Address) -> NodeId | None:
        """The node that a key is bound to, or None. Raises TransientError."""
        return await self._ask(lambda reads: reads.node_of_key(key))

    async def capability_hash(self, node_id: NodeId) -> bytes:
        """Hash of the manifest that is on chain, 32 bytes. Raises TransientError."""
        return await self._ask(lambda reads: reads.node(node_id).capability_hash)

    async def _ask(self, question: Callable[[PinnedReads], _Answer]) -> _Answer:
        if self._waiting >= _MAX_WAITING:
            raise TransientError("too many questions to the RPC endpoint wait for an answer")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, question, self._chain.newest())
        except TransientError:
            raise
        except ParallelixError as error:
            # The contracts were checked at the start, so an answer of another kind is the endpoint's fault.
            raise TransientError(str(error)) from error
        finally:
            self._waiting -= 1
