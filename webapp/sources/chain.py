"""Pinned reads of the chain: every figure of a page comes from the block that the index stands at.

One page costs one HTTP round trip: all its calls travel in one JSON-RPC batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from offchain.chain.abi import ContractAbi, MalformedDataError
from offchain.chain.deployment import Deployment
from offchain.chain.reader import Read
from offchain.chain.rpc import Rpc, RpcError
from offchain.errors import TransientError, UserError


class ChainUnavailableError(TransientError):
    """The RPC endpoint did not answer, or does not know the block."""


@dataclass(frozen=True, slots=True)
class ChainEpoch:
    """What does not change once an epoch has begun.

    Attributes:
        pool_wei: what the epoch pays out at most.
        total_weight: sum of all weights, wei-basis-points.
    """

    pool_wei: int
    total_weight: int


class ChainSource:
    """Reads our contracts by JSON-RPC. Opens its connections at the first read, so that a server may fork before.

    Args:
        rpc_url: HTTP endpoints, separated by commas; never sent to browsers.
        deployment: addresses and ABIs.
        timeout_seconds: bound of one batch.
    """

    def __init__(self, rpc_url: str, deployment: Deployment, timeout_seconds: float = 2.0) -> None:
        self.deployment = deployment
        self._url = rpc_url
        self._timeout = timeout_seconds
        self._rpc: Rpc | None = None
        self._abis = {name: ContractAbi(ref.abi) for name, ref in deployment.contracts.items()}

    @property
    def rpc(self) -> Rpc:
        """The client, made when it is first needed."""
        if self._rpc is None:
            self._rpc = Rpc(self._url, timeout_seconds=self._timeout)
        return self._rpc

    def close(self) -> None:
        """Drop the connections; the next read opens them again."""
        if self._rpc is not None:
            self._rpc.close()
            self._rpc = None

    def read(self, reads: Sequence[Read], block_hash: str | None = None) -> list[Any]:
        """Results in the order of the reads; None where a call reverted.

        Args:
            reads: what to read.
            block_hash: the block to read at; None reads the latest.

        Raises:
            ChainUnavailableError: no answer in time, or the block is unknown (pruned, or reorganised away).
            UserError: a contract or function that the deployment does not have.
        """
        if not reads:
            return []
        place: Any = {"blockHash": block_hash, "requireCanonical": True} if block_hash else "latest"
        calls: list[tuple[str, Sequence[Any]]] = []
        for read in reads:
            ref = self.deployment.contract(read.contract)
            try:
                data = self._abis[read.contract].encode(read.function, read.args)
            except ValueError as error:
                raise UserError(f"deployment file {self.deployment.path}: {read.contract}: {error}") from None
            calls.append(("eth_call", [{"to": ref.address, "data": "0x" + data.hex()}, place]))
        try:
            answers = self.rpc.batch(calls)
            return [self._decode(read, answer) for read, answer in zip(reads, answers, strict=True)]
        except ChainUnavailableError:
            raise
        except TransientError as error:
            raise ChainUnavailableError(str(error)) from error

    def _decode(self, read: Read, answer: Any) -> Any:
        if isinstance(answer, RpcError):
            if answer.data is not None or "revert" in answer.message.lower():
                return None
            raise ChainUnavailableError(f"the RPC endpoint refuses: {answer.message[:120]}")
        try:
            return self._abis[read.contract].decode_result(read.function, bytes.fromhex(str(answer)[2:]))
        except (MalformedDataError, ValueError):
            return None
