"""Joining the registry: approve the bond, join with the keeper's signer, list the signer for tickets.

The three transactions go through an outbox of the operator's account in the keeper's database. After an interruption,
give the command again: transactions that were sent are not sent twice.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from offchain.chain.deployment import Deployment
from offchain.chain.reader import ChainReader
from offchain.chain.rpc import Rpc
from offchain.crypto.keys import Signer
from offchain.db.database import Database, open_database
from offchain.db.migrations import upgrade
from offchain.domain.types import Wei
from offchain.errors import TransientError, UserError
from offchain.keeper.operator.keys import load_signer
from offchain.keeper.settings import KeeperSettings
from offchain.outbox import Outbox, Sender, SenderSettings
from offchain.outbox.intents import FAULT, FINAL, MINED, SUPERSEDED, get
from offchain.outbox.wire import Wire

STEP_SECONDS = 0.3
PATIENCE_SECONDS = 180.0


@dataclass(eq=False)
class Joiner:
    """Bonds a keeper.

    Attributes:
        operator: account that owns the bond. It pays gas for joining and is needed again only to leave.
        signer: the keeper's signing address.
        say: called with one line for each step.
    """

    reader: ChainReader
    database: Database
    operator: Signer
    signer: str
    max_fee_gwei: int
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        settings = SenderSettings(max_fee_wei=self.max_fee_gwei * 10**9)
        self._outbox = Outbox(self.reader.deployment, self.operator.address)
        self._sender = Sender(self.database, Wire(self.reader), self.operator, settings)

    def join(self, bond: Wei | None, region: str, url: str) -> int:
        """Join and list the signer; steps that are done already are skipped.

        Args:
            bond: in wei; None means the registry's minimum.
            region: free label of at most 32 bytes.
            url: base URL at which other keepers and nodes reach this keeper's API.

        Returns:
            The keeper's id.

        Raises:
            UserError: too few tokens, a bond below the minimum, or a transaction that reverts.
        """
        label = region.encode()
        if not 0 < len(label) <= 32:
            raise UserError("a region has 1 to 32 bytes; shorten it")
        reads = self.reader.at(self.reader.head_block())
        keeper_id = int(reads.one("KeeperRegistry", "keeperOfSigner", self.signer))
        if keeper_id == 0:
            minimum = int(reads.one("KeeperRegistry", "minBond"))
            amount = minimum if bond is None else int(bond)
            if amount < minimum:
                raise UserError(f"the bond must be at least {minimum} wei")
            held = int(reads.one("ParallelixToken", "balanceOf", self.operator.address))
            if held < amount:
                raise UserError(
                    f"{self.operator.address} has {held} wei of PRLX, the bond is {amount} wei; fund it first"
                )
            registry = self.reader.deployment.contract("KeeperRegistry").address
            self._do(f"approve-bond:{self.signer}", "ParallelixToken", "approve", (registry, amount))
            self._do(
                f"join:{self.signer}",
                "KeeperRegistry",
                "join",
                (amount, self.signer, label.ljust(32, b"\0"), url),
            )
            reads = self.reader.at(self.reader.head_block())
            keeper_id = int(reads.one("KeeperRegistry", "keeperOfSigner", self.signer))
        if reads.gateway_keeper(self.signer) is None:
            self._do(f"list:{self.signer}", "KeeperRegistry", "setGateway", (keeper_id, self.signer, url))
        return keeper_id

    def _do(self, key: str, contract: str, function: str, args: tuple[Any, ...]) -> None:
        with self.database.write() as session:
            self._outbox.enqueue(session, key, contract, function, args)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            self._sender.run_once()
            with self.database.read() as session:
                intent = get(session, key)
            if intent is not None and intent.status in (MINED, FINAL):
                self.say(f"{function}: {intent.tx_hash}")
                return
            if intent is not None and intent.status in (FAULT, SUPERSEDED):
                raise UserError(f"{function} fails: {intent.error}")
            time.sleep(STEP_SECONDS)
        raise TransientError(
            f"{function} was not mined within {PATIENCE_SECONDS:.0f} s; give the command again"
        )


def join(
    settings: KeeperSettings, operator: Signer, bond: Wei | None, url: str, say: Callable[[str], None]
) -> int:
    """Bond the keeper of these settings. Returns its id; errors as `Joiner.join`."""
    signer = load_signer(settings)
    reader = ChainReader(
        Rpc(settings.rpc_url), Deployment.load(settings.deployment), confirmations=settings.confirmations
    )
    reader.check()
    upgrade(settings.database_url)
    database = open_database(settings.database_url)
    try:
        joiner = Joiner(reader, database, operator, signer.address, settings.max_fee_gwei, say)
        return joiner.join(bond, settings.region, url)
    finally:
        database.close()
