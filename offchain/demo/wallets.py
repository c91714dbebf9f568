"""The people of the demo: fresh keys in encrypted files, ether from the local chain, and their transactions.

Only the story's own actors (requester, keepers' owners, the deployer) send from here; keepers and nodes send through
their own code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from web3 import Web3
from web3.contract import Contract
from web3.contract.contract import ContractFunction
from web3.types import Nonce, TxParams, TxReceipt

from offchain.chain.deployment import Deployment
from offchain.crypto.keys import Signer, create_keystore
from offchain.errors import UserError

ETHER = 10**18


@dataclass(frozen=True, slots=True)
class Wallet:
    """A key of the demo.

    Attributes:
        name: whose it is.
        signer: the open key.
        keystore, password_file: where it lies encrypted, readable by its owner alone.
    """

    name: str
    signer: Signer
    keystore: Path
    password_file: Path

    @property
    def address(self) -> str:
        """EIP-55 address."""
        return self.signer.address


def create(folder: Path, name: str) -> Wallet:
    """A new wallet in `folder`."""
    keystore, password_file = folder / f"{name}.json", folder / f"{name}.password"
    create_keystore(keystore, password_file)
    return Wallet(name, Signer.load(keystore, password_file), keystore, password_file)


class LocalChain:
    """The demo's chain: gives ether away and sends the actors' transactions.

    Args:
        rpc_url: the local chain's RPC.
    """

    def __init__(self, rpc_url: str) -> None:
        self.web3 = Web3(Web3.HTTPProvider(rpc_url, request_kwargs={"timeout": 10}))
        self._nonces: dict[str, int] = {}

    def endow(self, wallet: Wallet, ether: int = 100) -> None:
        """Set a wallet's ether, as only a local chain lets one."""
        self.web3.provider.make_request("anvil_setBalance", [wallet.address, hex(ether * ETHER)])  # type: ignore[arg-type]

    def contract(self, deployment: Deployment, name: str) -> Contract:
        """A contract of the deployment, bound to this chain."""
        found = deployment.contract(name)
        return self.web3.eth.contract(
            address=Web3.to_checksum_address(found.address), abi=[dict(item) for item in found.abi]
        )

    def send(self, wallet: Wallet, call: ContractFunction) -> str:
        """Broadcast a call without waiting for it; the transaction's hash. Raises UserError when it would revert."""
        nonce = self._nonces.get(wallet.address)
        if nonce is None:
            nonce = self.web3.eth.get_transaction_count(Web3.to_checksum_address(wallet.address))
        fields: TxParams = {
            "from": Web3.to_checksum_address(wallet.address),
            "nonce": Nonce(nonce),
            "gas": 3_000_000,
            "maxFeePerGas": Web3.to_wei(20, "gwei"),
            "maxPriorityFeePerGas": Web3.to_wei(1, "gwei"),
            "chainId": self.web3.eth.chain_id,
        }
        transaction: dict[str, Any] = dict(call.build_transaction(fields))
        raw, tx_hash = wallet.signer.sign_transaction(transaction)
        self.web3.eth.send_raw_transaction(raw)
        self._nonces[wallet.address] = nonce + 1
        return tx_hash

    def wait(self, hashes: Sequence[str], seconds: float = 30.0) -> list[TxReceipt]:
        """Receipts of transactions. Raises UserError when one reverted."""
        receipts = []
        for tx_hash in hashes:
            receipt = self.web3.eth.wait_for_transaction_receipt(tx_hash, timeout=seconds, poll_latency=0.1)  # type: ignore[arg-type]
            if receipt["status"] != 1:
                raise UserError(
                    f"transaction {tx_hash} reverted; this is a fault of the demo or its contracts"
                )
            receipts.append(receipt)
        return receipts

    def transact(self, wallet: Wallet, call: ContractFunction) -> TxReceipt:
        """Broadcast a call and wait for it."""
        return self.wait([self.send(wallet, call)])[0]
