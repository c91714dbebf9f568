"""What the agent asks the chain while it serves: few reads, cached, over one JSON-RPC connection."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from offchain.chain.deployment import Deployment
from offchain.chain.rpc import endpoint_label
from offchain.domain.eip712 import address_bytes, keccak256, word
from offchain.domain.types import Address, NodeId
from offchain.errors import FatalError, TransientError

_TIMEOUT_SECONDS = 5.0


class RegistryReader:
    """Reads of NodeRegistryLocker and KeeperRegistry at the newest block."""

    def __init__(self, session: aiohttp.ClientSession, rpc_url: str, deployment: Deployment) -> None:
        self._session = session
        self._rpc_url = rpc_url
        self._deployment = deployment
        self._ids = itertools.count(1)

    async def check_chain(self) -> None:
        """Make sure that the endpoint serves the deployment's chain. Raises FatalError, TransientError."""
        chain_id = int(await self._call_rpc("eth_chainId", []), 16)
        if chain_id != self._deployment.chain_id:
            raise FatalError(
                f"{self._rpc_url} serves chain {chain_id}, but {self._deployment.path} is of chain "
                f"{self._deployment.chain_id}; point rpc_url at the right chain"
            )
        address = self._deployment.contract("NodeRegistryLocker").address
        if await self._call_rpc("eth_getCode", [address, "latest"]) == "0x":
            raise FatalError(
                f"there is no contract at {address}; {self._deployment.path} is not of this chain's state"
            )

    async def is_gateway(self, signer: Address) -> bool:
        """Whether a bonded keeper lists this gateway signer. Raises TransientError."""
        return (
            int.from_bytes(await self._read("KeeperRegistry", "isGateway(address)", _address(signer)), "big")
            == 1
        )

    async def node_of_key(self, key: Address) -> NodeId:
        """The node that a key speaks for; 0 for none. Raises TransientError."""
        return NodeId(
            int.from_bytes(await self._read("NodeRegistryLocker", "nodeOfKey(address)", _address(key)), "big")
        )

    async def capability_hash(self, node_id: NodeId) -> bytes:
        """The manifest hash on chain, 32 bytes (the last word of the node's view). Raises TransientError."""
        return (await self._read("NodeRegistryLocker", "nodes(uint32)", word(node_id)))[9 * 32 : 10 * 32]

    async def _read(self, contract: str, signature: str, arguments: bytes) -> bytes:
        data = keccak256(signature.encode())[:4] + arguments
        call = {"to": self._deployment.contract(contract).address, "data": "0x" + data.hex()}
        return bytes.fromhex((await self._call_rpc("eth_call", [call, "latest"]))[2:])

    async def _call_rpc(self, method: str, params: list[object]) -> str:
        request = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        try:
            timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
            async with self._session.post(self._rpc_url, json=request, timeout=timeout) as answer:
                data = await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise TransientError(
                f"RPC endpoint {endpoint_label(self._rpc_url)} does not answer ({type(error).__name__}); "
                "start it or correct rpc_url"
            ) from error
        if not isinstance(data, dict) or not isinstance(data.get("result"), str):
            detail = data.get("error") if isinstance(data, dict) else data
            raise TransientError(f"the RPC endpoint refused {method}: {detail}")
        return str(data["result"])


def _address(address: Address) -> bytes:
    return bytes(12) + address_bytes(address)


@dataclass(slots=True)
class _Known:
    listed: bool
    asked_at: float


class GatewayList:
    """`isGateway` with a bounded cache: answers from memory, refreshes behind, keeps the last word while RPC is down.

    Attributes:
        fresh_seconds: a listed signer is asked about again after this long, without making the request wait.
        stale_seconds: without any answer for this long, a listed signer is no longer trusted.
        refuse_seconds: an unlisted signer is not asked about again before this has passed.
        questions_per_second: unknown signers beyond this rate are refused unasked, so that forged tickets (each of
            which recovers to another address) cannot flood the RPC endpoint.
    """

    def __init__(
        self,
        lookup: Callable[[Address], Awaitable[bool]],
        clock: Callable[[], float] = time.monotonic,
        fresh_seconds: float = 15.0,
        stale_seconds: float = 3600.0,
        refuse_seconds: float = 2.0,
        capacity: int = 1024,
        questions_per_second: float = 20.0,
    ) -> None:
        self._lookup = lookup
        self._clock = clock
        self.fresh_seconds = fresh_seconds
        self.stale_seconds = stale_seconds
        self.refuse_seconds = refuse_seconds
        self._capacity = capacity
        self._rate = questions_per_second
        self._allowance = questions_per_second
        self._allowed_at = clock()
        self._known: dict[Address, _Known] = {}
        self._asking: dict[Address, asyncio.Task[bool]] = {}

    async def __call__(self, signer: Address) -> bool:
        """Whether the signer is listed; False when that cannot be found out."""
        known = self._known.get(signer)
        now = self._clock()
        if known is not None:
            age = now - known.asked_at
            if known.listed and age < self.stale_seconds:
                if age >= self.fresh_seconds:
                    self._ask(signer)
                return True
            if not known.listed and age < self.refuse_seconds:
                return False
        if not self._may_ask(now):
            return False
        try:
            return await asyncio.shield(self._ask(signer))
        except TransientError:
            return False

    def _may_ask(self, now: float) -> bool:
        self._allowance = min(self._rate, self._allowance + (now - self._allowed_at) * self._rate)
        self._allowed_at = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    def _ask(self, signer: Address) -> asyncio.Task[bool]:
        task = self._asking.get(signer)
        if task is None:
            task = self._asking[signer] = asyncio.ensure_future(self._find(signer))
            task.add_done_callback(lambda done: self._asked(signer, done))
        return task

    def _asked(self, signer: Address, task: asyncio.Task[bool]) -> None:
        self._asking.pop(signer, None)
        if not task.cancelled():
            task.exception()  # a failed refresh is retried by the next request

    async def _find(self, signer: Address) -> bool:
        listed = await self._lookup(signer)
        if len(self._known) >= self._capacity and signer not in self._known:
            unlisted = next((key for key, known in self._known.items() if not known.listed), None)
            self._known.pop(unlisted if unlisted is not None else next(iter(self._known)))
        self._known[signer] = _Known(listed, self._clock())
        return listed
