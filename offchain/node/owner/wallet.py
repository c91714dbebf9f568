"""The owner's transactions: simulated first, explained in words, confirmed, sent once and waited for.

The owner is a person with one key and a few transactions a month, so there is no outbox here: one nonce, one wait.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from offchain.chain.reader import ChainReader, PinnedReads
from offchain.crypto.keys import Signer
from offchain.domain.amounts import ETHER
from offchain.domain.eip712 import address_bytes, keccak256, word
from offchain.domain.types import Wei
from offchain.errors import TransientError, UserError
from offchain.outbox.fees import Fees, suggest, transaction
from offchain.outbox.wire import Receipt, RevertedError, TransactionRefusedError, Wire

_RECEIPT_TIMEOUT_SECONDS = 180
_POLL_SECONDS = 0.2
_MAX_FEE_WEI = 10_000 * 10**9
"""No fee per gas has ever been above this: an endpoint that names a higher one is wrong."""
# The text is EIP-2612's, to the letter: its hash is part of what is signed.
_PERMIT_TYPEHASH = keccak256(
    b"Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
)


def max_fees(wire: Wire) -> Fees:
    """Fees at which a transaction is mined even if the base fee doubles. Raises TransientError."""
    fees = suggest(wire.fee_history(), _MAX_FEE_WEI)
    if fees is None:
        raise TransientError("the RPC endpoint names an absurd gas price; nothing was sent, use another")
    return fees


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner's key on a checked chain.

    Attributes:
        confirm: shown a sentence that says amounts and effect; False cancels.
    """

    chain: ChainReader
    signer: Signer
    confirm: Callable[[str], bool]

    def now(self) -> PinnedReads:
        """Reads at the newest block. Take a new one after each transaction."""
        return self.chain.at(self.chain.head_block())

    def send(self, contract: str, function: str, args: tuple[Any, ...], effect: str) -> str:
        """Simulate, confirm, send and wait until the transaction is mined.

        Args:
            effect: what the transaction does, with amounts, in one sentence.

        Returns:
            The transaction's hash, 0x-hex.

        Raises:
            UserError: the transaction would revert, was not confirmed, or there is no money for gas.
            TransientError: the RPC endpoint failed, or the transaction is not mined in time; nothing is sent twice.
        """
        to = self.chain.deployment.contract(contract).address
        data = self.chain.abi(contract).encode(function, args)
        wire = Wire(self.chain)
        try:
            # A quarter more: the state may change before it is mined.
            gas = wire.simulate(self.signer.address, to, data) * 5 // 4
        except RevertedError as error:
            raise UserError(f"{function} would be refused: {error.reason}") from None
        except TransactionRefusedError as error:
            raise TransientError(f"{function} was not sent: {error}; run the command again") from None
        fees = max_fees(wire)
        balance, nonce = wire.funds(self.signer.address)
        cost = gas * fees.max_fee_wei
        if balance < cost:
            raise UserError(
                f"{self.signer.address} has {balance / ETHER:.6f} ETH, and this may cost {cost / ETHER:.6f} ETH of gas; "
                "send it some ETH first"
            )
        if not self.confirm(f"{effect} Gas: at most {cost / ETHER:.6f} ETH."):
            raise UserError("cancelled; nothing was sent")
        chain_id = self.chain.deployment.chain_id
        raw, tx_hash = self.signer.sign_transaction(transaction(chain_id, nonce, to, data, gas, fees))
        objection = wire.broadcast(raw)
        if objection is not None:
            raise TransientError(f"{function} could not be sent: {objection}; run the command again")
        receipt = self._wait(wire, function, tx_hash)
        if not receipt.succeeded:
            reason = wire.why_it_reverted(self.signer.address, to, data, receipt.block)
            raise UserError(f"{function} was mined as {tx_hash} but failed: {reason}; run the command again")
        return tx_hash

    def _wait(self, wire: Wire, function: str, tx_hash: str) -> Receipt:
        deadline = time.monotonic() + _RECEIPT_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(TransientError):  # the endpoint may come back before the deadline
                if (receipt := wire.receipts([tx_hash]).get(tx_hash)) is not None:
                    return receipt
            time.sleep(_POLL_SECONDS)
        raise TransientError(
            f"{function} was sent as {tx_hash} and is not mined yet; run the command again later, it goes on from there"
        )

    def permit(self, spender: str, amount_wei: Wei, deadline: int) -> tuple[int, bytes, bytes]:
        """An EIP-2612 permit of the token: (v, r, s). `deadline` in Unix seconds."""
        owner = self.signer.address
        nonce = self.now().permit_nonce(owner)
        fields = (
            bytes(12) + address_bytes(owner),
            bytes(12) + address_bytes(spender),
            *(word(value) for value in (amount_wei, nonce, deadline)),
        )
        # The token's EIP-712 name and version are those of every contract of ours.
        domain = self.chain.deployment.signing_domain("ParallelixToken")
        signature = self.signer.sign_struct(domain, keccak256(_PERMIT_TYPEHASH + b"".join(fields)))
        return signature[64], signature[:32], signature[32:64]

    def time(self) -> int:
        """Unix seconds of the newest block or of this machine, the later: a local chain may run ahead."""
        return max(self.chain.head_block().timestamp, int(time.time()))
