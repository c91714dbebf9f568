"""The people of the demo: fresh keys in encrypted files, ether from the local chain, and their transactions.

Only the story's own actors (requester, keepers' owners, the deployer) send from here; keepers and nodes send through
their own code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from offchain.chain.deployment import Deployment
from offchain.chain.reader import ChainReader
from offchain.chain.rpc import Rpc
from offchain.crypto.keys import Signer, create_keystore
from offchain.demo.waiting import until
from offchain.errors import TransientError, UserError

ETHER, GWEI = 10**18, 10**9


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

    Example: `chain.transact(wallet, "ParallelixToken", "approve", spender, amount)` after `chain.use(deployment)`.

    Args:
        rpc: of the local chain; the caller closes it.
    """

    reader: ChainReader
    """Of the contracts; set by `use`."""

    def __init__(self, rpc: Rpc) -> None:
        self.rpc = rpc

    def use(self, deployment: Deployment) -> None:
        """Take the contracts of a deployment: what follows calls them by name."""
        self.reader = ChainReader(self.rpc, deployment)

    def is_up(self) -> bool:
        """Whether the chain answers."""
        try:
            self.rpc.call("eth_blockNumber")
        except TransientError:
            return False
        return True

    def time(self) -> int:
        """Unix seconds of the newest block."""
        return self.reader.head_block().timestamp

    def endow(self, wallet: Wallet, ether: int = 100) -> None:
        """Set a wallet's ether, as only a local chain lets one."""
        self.rpc.call("anvil_setBalance", wallet.address, hex(ether * ETHER))

    def read(self, contract: str, function: str, *args: Any) -> Any:
        """Result of a call at the newest block; a struct is a dict by field name."""
        return self.reader.at(self.reader.head_block()).one(contract, function, *args)

    def events(self, contract: str, name: str, from_block: int = 0, **wanted: str) -> list[dict[str, Any]]:
        """Arguments of a contract's events from a block on, those only whose arguments are as wanted (in JSON form)."""
        abi, address = self.reader.abi(contract), self.reader.deployment.contract(contract).address
        found = []
        for log in self.rpc.call("eth_getLogs", {"address": address, "fromBlock": hex(from_block)}):
            topics = [bytes.fromhex(topic[2:]) for topic in log["topics"]]
            event = abi.decode_event(topics, bytes.fromhex(log["data"][2:]))
            if event is not None and event.name == name and wanted.items() <= event.args.items():
                found.append(event.args)
        return found

    def send(self, wallet: Wallet, contract: str, function: str, *args: Any) -> str:
        """Broadcast a call without waiting for it; the transaction's hash."""
        deployment, abi = self.reader.deployment, self.reader.abi(contract)
        # Several go out before one is mined.
        nonce = int(self.rpc.call("eth_getTransactionCount", wallet.address, "pending"), 16)
        to, data = deployment.contract(contract).address, abi.encode(function, args)
        fields = {
            "type": 2,
            "chainId": deployment.chain_id,
            "nonce": nonce,
            "to": to,
            "value": 0,
            "data": data,
        }
        fields |= {"gas": 3_000_000, "maxFeePerGas": 20 * GWEI, "maxPriorityFeePerGas": GWEI}
        raw, tx_hash = wallet.signer.sign_transaction(fields)
        self.rpc.call("eth_sendRawTransaction", "0x" + raw.hex())
        return tx_hash

    def wait(self, hashes: Sequence[str], seconds: float = 30.0) -> int:
        """Wait until transactions are mined; the newest of their blocks. Raises UserError when one reverted."""
        block = 0
        for tx_hash in hashes:
            receipt = until(
                f"transaction {tx_hash}",
                partial(self.rpc.call, "eth_getTransactionReceipt", tx_hash),
                seconds,
            )
            if receipt["status"] != "0x1":
                raise UserError(
                    f"transaction {tx_hash} reverted; this is a fault of the demo or its contracts"
                )
            block = max(block, int(receipt["blockNumber"], 16))
        return block

    def transact(self, wallet: Wallet, contract: str, function: str, *args: Any) -> int:
        """Broadcast a call and wait for it; the block that it is in."""
        return self.wait([self.send(wallet, contract, function, *args)])
