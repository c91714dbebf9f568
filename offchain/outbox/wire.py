"""The sender's calls to the chain: account, simulation, fees, receipts, broadcast."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from offchain.chain.reader import ChainReader
from offchain.chain.rpc import Call, RpcError
from offchain.domain.types import BlockRef
from offchain.errors import TransientError
from offchain.outbox.fees import FeeHistory

_HISTORY_BLOCKS = 10
_KNOWN_WORDS = ("already known", "known transaction", "already imported", "already exists")
_USED_WORDS = ("nonce too low", "nonce is too low", "nonce has already been used", "invalid nonce")
_CHEAP_WORDS = ("underpriced", "base fee", "basefee", "fee too low", "gas price too low", "feecap")


class RevertedError(Exception):
    """A call would revert; `reason` is the decoded error, `str(Revert)`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TransactionRefusedError(Exception):
    """The endpoint understood a simulation and did not run it, for a reason that is not the contract's."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a transaction was mined, and whether it succeeded."""

    tx_hash: str
    block: BlockRef
    succeeded: bool
    gas_used: int


@dataclass(frozen=True, slots=True)
class AccountState:
    """The chain as one round of sending sees it.

    Attributes:
        nonce: transactions of the signer in the newest block.
        final_nonce: the same in the newest final block.
    """

    head: BlockRef
    final: BlockRef
    nonce: int
    final_nonce: int


class Wire:
    """The sender's side of an RPC endpoint."""

    def __init__(self, chain: ChainReader) -> None:
        self._chain = chain
        self._rpc = chain.rpc
        self.chain_id = chain.deployment.chain_id

    def account(self, signer: str) -> AccountState:
        """Newest and final block, and the signer's nonces there."""
        # In this order, so that the final block is never newer than the head.
        final, head = self._chain.finalized_block(), self._chain.head_block()
        blocks = ("latest", hex(final.number))
        counts = self._rpc.batch([("eth_getTransactionCount", [signer, block]) for block in blocks])
        return AccountState(head, final, *map(_quantity, counts))

    def funds(self, signer: str) -> tuple[int, int]:
        """Wei of the chain's own coin that an account holds, and its next nonce with transactions that still wait."""
        balance, nonce = self._rpc.batch(
            [("eth_getBalance", [signer, "latest"]), ("eth_getTransactionCount", [signer, "pending"])]
        )
        return _quantity(balance), _quantity(nonce)

    def simulate(self, signer: str, to: str, data: bytes) -> int:
        """Gas that a call needs.

        Raises:
            RevertedError: it would revert.
            TransactionRefusedError: the endpoint does not run it.
            TransientError: no endpoint answered.
        """
        call = {"from": signer, "to": to, "data": "0x" + data.hex()}
        # eth_call first: the revert is named even where eth_estimateGas gives no data.
        calls: list[Call] = [("eth_call", [call, "latest"]), ("eth_estimateGas", [call, "latest"])]
        _, gas = answers = self._rpc.batch(calls)
        for answer in answers:
            if isinstance(answer, RpcError):
                if answer.data is None and "revert" not in answer.message.lower():
                    raise TransactionRefusedError(f"the RPC endpoint refuses to simulate: {answer.message}")
                raise RevertedError(str(self._chain.errors.decode(answer.data)))
        return _quantity(gas)

    def why_it_reverted(self, signer: str, to: str, data: bytes, block: BlockRef) -> str:
        """The error that a mined, failed transaction most likely met, by replaying its call before its block."""
        call = {"from": signer, "to": to, "data": "0x" + data.hex()}
        # Before its block, then at its end: another transaction of that block may be the reason.
        for number in (max(0, block.number - 1), block.number):
            answer = self._rpc.batch([("eth_call", [call, hex(number)])])[0]
            if isinstance(answer, RpcError):
                return str(self._chain.errors.decode(answer.data))
        return "reverted in its block, though not when called alone; another transaction came first or gas ran out"

    def fee_history(self) -> FeeHistory:
        """Recent fees."""
        answer = self._rpc.call("eth_feeHistory", hex(_HISTORY_BLOCKS), "latest", [50])
        try:
            base = [int(value, 16) for value in answer["baseFeePerGas"]]
            rewards = tuple(int(row[0], 16) for row in answer.get("reward") or ())
            # One base fee more than blocks: the last is that of the block to come (EIP-1559).
            return FeeHistory(base[-1], rewards)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise TransientError("the RPC endpoint gave a malformed fee history") from error

    def receipts(self, tx_hashes: Sequence[str]) -> dict[str, Receipt]:
        """Receipts of those transactions that are in the canonical chain."""
        if not tx_hashes:
            return {}
        calls: list[Call] = [("eth_getTransactionReceipt", [tx_hash]) for tx_hash in tx_hashes]
        found: dict[str, Receipt] = {}
        for tx_hash, answer in zip(tx_hashes, self._rpc.batch(calls), strict=True):
            if isinstance(answer, dict) and answer.get("blockHash"):
                found[tx_hash] = _receipt(tx_hash, answer)
        if not found:
            return found
        # Endpoints may keep receipts of blocks that were reorganised away.
        numbers = sorted({receipt.block.number for receipt in found.values()})
        canonical = {header.number: header.ref for header in self._chain.blocks.many(numbers)}
        return {
            tx_hash: Receipt(tx_hash, canonical[receipt.block.number], receipt.succeeded, receipt.gas_used)
            for tx_hash, receipt in found.items()
            if canonical[receipt.block.number].hash == receipt.block.hash
        }

    def is_known(self, tx_hash: str) -> bool:
        """Whether the endpoint still has a transaction, mined or waiting."""
        return self._rpc.call("eth_getTransactionByHash", tx_hash) is not None

    def broadcast(self, raw: bytes) -> str | None:
        """Hand a signed transaction to the chain.

        Returns:
            None when the endpoint has it (or its nonce is used, which receipts will explain), else its objection.

        Raises:
            TransientError: no endpoint answered; it may or may not have arrived.
        """
        answer = self._rpc.batch([("eth_sendRawTransaction", ["0x" + raw.hex()])])[0]
        if not isinstance(answer, RpcError):
            return None
        message = answer.message.lower()
        if any(words in message for words in _KNOWN_WORDS + _USED_WORDS):
            return None
        return answer.message


def is_too_cheap(objection: str) -> bool:
    """Whether an endpoint's objection to a transaction is about its fees, so that higher ones would help."""
    lower = objection.lower()
    return any(words in lower for words in _CHEAP_WORDS)


def _receipt(tx_hash: str, answer: dict[str, Any]) -> Receipt:
    try:
        block = BlockRef(int(answer["blockNumber"], 16), answer["blockHash"], 0)
        return Receipt(tx_hash, block, int(answer["status"], 16) == 1, int(answer["gasUsed"], 16))
    except (KeyError, TypeError, ValueError) as error:
        raise TransientError("the RPC endpoint gave a malformed receipt") from error


def _quantity(answer: Any) -> int:
    if isinstance(answer, RpcError):
        raise TransientError(f"the RPC endpoint refuses: {answer.message}")
    try:
        return int(answer, 16)
    except (TypeError, ValueError):
        raise TransientError("the RPC endpoint gave a malformed number") from None
