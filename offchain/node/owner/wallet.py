"""The owner's transactions: simulated first, explained in words, confirmed, sent once and waited for.

The owner is a person with one key and a few transactions a month, so there is no outbox here: one nonce, one wait.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests
from web3 import HTTPProvider, Web3
from web3.contract.contract import Contract, ContractFunction
from web3.exceptions import ContractCustomError, ContractLogicError, TimeExhausted, Web3Exception
from web3.types import TxReceipt

from offchain.chain.deployment import Deployment
from offchain.chain.reader import ChainReader
from offchain.chain.revert_words import RevertDecoder
from offchain.chain.rpc import Rpc
from offchain.crypto.keys import Signer
from offchain.domain.amounts import ETHER
from offchain.domain.eip712 import keccak256, signing_prefix
from offchain.errors import TransientError, UserError
from offchain.runtime.redaction import endpoint_label

_RPC_TIMEOUT_SECONDS = 10
_RECEIPT_TIMEOUT_SECONDS = 180
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Chain:
    """A checked connection to the network's chain."""

    web3: Web3
    deployment: Deployment

    @classmethod
    def connect(cls, rpc_url: str, deployment: Deployment) -> "Chain":
        """Connect and make sure that it is the right chain.

        Raises:
            FatalError: another chain, or other contracts.
            TransientError: the endpoint does not answer.
        """
        web3 = Web3(HTTPProvider(rpc_url, request_kwargs={"timeout": _RPC_TIMEOUT_SECONDS}))
        try:
            ChainReader(Rpc(rpc_url, timeout_seconds=_RPC_TIMEOUT_SECONDS), deployment).check()
        except TransientError:
            raise TransientError(
                f"the RPC endpoint {endpoint_label(rpc_url)} does not answer; check rpc_url"
            ) from None
        return cls(web3, deployment)

    def contract(self, name: str) -> Contract:
        """A contract of the deployment, bound to its address."""
        ref = self.deployment.contract(name)
        return self.web3.eth.contract(
            address=Web3.to_checksum_address(ref.address), abi=[dict(item) for item in ref.abi]
        )

    def call(self, function: ContractFunction, sender: str | None = None) -> Any:
        """Result of a read or a simulation.

        Raises:
            UserError: it reverts; the custom error is decoded.
            TransientError: the endpoint does not answer.
        """
        try:
            return function.call({"from": Web3.to_checksum_address(sender)} if sender else {})
        except ContractCustomError as error:
            raise UserError(f"{function.fn_name} would be refused: {self.explain(error)}") from None
        except ContractLogicError as error:
            raise UserError(f"{function.fn_name} would be refused: {self.explain(error)}") from None
        except (Web3Exception, requests.RequestException, ConnectionError, TimeoutError) as error:
            raise TransientError(
                f"the RPC endpoint failed on {function.fn_name}: {type(error).__name__}"
            ) from error

    def explain(self, error: ContractLogicError) -> str:
        """A revert in words, or the endpoint's text when it gives no revert data."""
        data = error.data if isinstance(error.data, str) else str(error.message or "")
        if data.startswith("0x") and len(data) >= 10:
            return str(RevertDecoder().decode(bytes.fromhex(data[2:])))
        return str(error.message or error)


@dataclass(frozen=True, slots=True)
class Owner:
    """Sends the owner's transactions.

    Attributes:
        confirm: shown a sentence that says amounts and effect; False cancels.
    """

    chain: Chain
    signer: Signer
    confirm: Callable[[str], bool]

    def send(self, function: ContractFunction, effect: str) -> TxReceipt:
        """Simulate, confirm, send and wait until it is mined.

        Args:
            effect: what it does, with amounts, in one sentence.

        Raises:
            UserError: it would revert, was not confirmed, or there is no money for gas.
            TransientError: the RPC endpoint failed, or the transaction is not mined in time; nothing is sent twice.
        """
        web3, address = self.chain.web3, Web3.to_checksum_address(self.signer.address)
        self.chain.call(function, address)
        try:
            gas = function.estimate_gas({"from": address}) * 5 // 4
            block = web3.eth.get_block("latest")
            tip = web3.eth.max_priority_fee
            fee = 2 * block.get("baseFeePerGas", 0) + tip
            balance = web3.eth.get_balance(address)
            if balance < gas * fee:
                raise UserError(
                    f"{address} has {balance / ETHER:.6f} ETH, and this may cost {gas * fee / ETHER:.6f} ETH of gas; "
                    "send it some ETH first"
                )
            if not self.confirm(f"{effect} Gas: at most {gas * fee / ETHER:.6f} ETH."):
                raise UserError("cancelled; nothing was sent")
            built = function.build_transaction(
                {
                    "from": address,
                    "nonce": web3.eth.get_transaction_count(address, "pending"),
                    "gas": gas,
                    "maxFeePerGas": Web3.to_wei(fee, "wei"),
                    "maxPriorityFeePerGas": tip,
                    "chainId": self.chain.deployment.chain_id,
                }
            )
            raw, tx_hash = self.signer.sign_transaction(dict(built))
            web3.eth.send_raw_transaction(raw)
        except ContractLogicError as error:
            raise UserError(f"{function.fn_name} would be refused: {self.chain.explain(error)}") from None
        except (Web3Exception, requests.RequestException, ConnectionError, TimeoutError) as error:
            raise TransientError(
                f"{function.fn_name} could not be sent: {error}; run the command again"
            ) from error
        return self._wait(function.fn_name, tx_hash)

    def _wait(self, name: str, tx_hash: str) -> TxReceipt:
        try:
            receipt = self.chain.web3.eth.wait_for_transaction_receipt(
                tx_hash,  # type: ignore[arg-type]
                timeout=_RECEIPT_TIMEOUT_SECONDS,
                poll_latency=_POLL_SECONDS,
            )
        except TimeExhausted:
            raise TransientError(
                f"{name} was sent as {tx_hash} and is not mined yet; run the command again later, it goes on from there"
            ) from None
        except (Web3Exception, requests.RequestException, ConnectionError) as error:
            raise TransientError(
                f"{name} was sent as {tx_hash} but the RPC endpoint failed ({type(error).__name__}); run it again"
            ) from error
        if receipt["status"] != 1:
            raise UserError(
                f"{name} was mined as {tx_hash} but reverted; the state changed meanwhile, run it again"
            )
        return receipt

    def permit(
        self, token: Contract, spender: str, amount_wei: int, deadline: int
    ) -> tuple[int, bytes, bytes]:
        """An EIP-2612 permit of the token: (v, r, s)."""
        owner = Web3.to_checksum_address(self.signer.address)
        nonce = int(self.chain.call(token.functions.nonces(owner)))
        separator = bytes(self.chain.call(token.functions.DOMAIN_SEPARATOR()))
        words = (
            _address_word(owner),
            _address_word(spender),
            _word(amount_wei),
            _word(nonce),
            _word(deadline),
        )
        digest = keccak256(signing_prefix(separator) + keccak256(_PERMIT_TYPEHASH + b"".join(words)))
        signature = self.signer.sign_digest(digest)
        return signature[64], signature[:32], signature[32:64]

    def chain_time(self) -> int:
        """Unix seconds of the newest block; local chains may run ahead of the wall clock."""
        return max(int(self.chain.web3.eth.get_block("latest")["timestamp"]), int(time.time()))


_PERMIT_TYPEHASH = keccak256(
    b"Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
)


def _word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _address_word(address: str) -> bytes:
    return bytes.fromhex(address.removeprefix("0x")).rjust(32, b"\0")
