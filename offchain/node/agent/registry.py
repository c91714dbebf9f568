"""What the agent asks the chain while it serves: few reads, cached, over one JSON-RPC connection."""

import itertools

import aiohttp

from offchain.chain.deployment import Deployment
from offchain.domain.eip712 import address_bytes, keccak256, word
from offchain.domain.types import Address, NodeId
from offchain.errors import FatalError, TransientError
from offchain.runtime.redaction import endpoint_label

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
