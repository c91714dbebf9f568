"""Projections of made-up histories: undoing the newest blocks leaves what the older ones alone would have given."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import delete, insert, select

from offchain.chain.logs import ChainEvent
from offchain.chain.projection import event_row, project, undo
from offchain.crypto.addresses import checksum
from offchain.db.database import Database
from offchain.db.models import Base, Event, Keeper

TABLES = ("nodes", "node_intervals", "keepers", "gateways", "reports", "claims", "market_requests")


class History:
    """Draws events that a real chain could emit, a few to a block."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.nodes = self.keepers = self.requests = 0
        self.active: dict[int, int] = {}
        self.index = 0

    def events(self, blocks: int) -> list[ChainEvent]:
        return [event for block in range(1, blocks + 1) for event in self._block(block)]

    def _block(self, block: int) -> Iterator[ChainEvent]:
        self.index = 0
        for _ in range(self.dice.randint(0, 4)):
            name, args = self._draw(block // 3)
            self.index += 1
            yield ChainEvent(
                block_number=block, block_hash=f"0x{block:064x}", block_timestamp=1_000 + block,
                tx_hash=f"0x{block:064x}", log_index=self.index, contract="X", name=name, args=args,
            )  # fmt: skip

    def _draw(self, epoch: int) -> tuple[str, dict[str, Any]]:
        kinds = ["register", "join", "request", "report"]
        if self.nodes:
            kinds += ["unstake", "cancel", "rotate", "beneficiary", "capabilities", "claim"]
        if self.keepers:
            kinds += ["leave", "slash", "list", "unlist"]
        if self.requests:
            kinds += ["fulfil", "refund"]
        kind = self.dice.choice(kinds)
        node, keeper = (
            str(self.dice.randint(1, max(1, self.nodes))),
            str(self.dice.randint(1, max(1, self.keepers))),
        )
        request = f"0x{self.dice.randint(1, max(1, self.requests)):064x}"
        return getattr(self, f"_{kind}")(epoch, node, keeper, request)  # type: ignore[no-any-return]

    def _address(self) -> str:
        return checksum("0x" + self.dice.randbytes(20).hex())

    def _bytes32(self) -> str:
        return "0x" + self.dice.randbytes(32).hex()

    def _register(self, epoch: int, *_: str) -> tuple[str, dict[str, Any]]:
        self.nodes += 1
        self.active[self.nodes] = epoch + 1
        return "NodeRegistered", {
            "nodeId": str(self.nodes), "owner": self._address(), "tier": "2", "stake": str(10**23),
            "nodeKeyHash": self._bytes32(), "activeFrom": str(epoch + 1),
        }  # fmt: skip

    def _unstake(self, epoch: int, node: str, *_: str) -> tuple[str, dict[str, Any]]:
        return "UnstakeRequested", {"nodeId": node, "activeUntil": str(epoch + 1), "unlockAt": "99"}

    def _cancel(self, epoch: int, node: str, *_: str) -> tuple[str, dict[str, Any]]:
        start = self.dice.choice([self.active[int(node)], epoch + 1])
        self.active[int(node)] = start
        return "UnstakeCancelled", {"nodeId": node, "activeFrom": str(start)}

    def _rotate(self, _epoch: int, node: str, *_: str) -> tuple[str, dict[str, Any]]:
        return "NodeKeyRotated", {
            "nodeId": node,
            "oldKeyHash": self._bytes32(),
            "newKeyHash": self._bytes32(),
        }

    def _beneficiary(self, _epoch: int, node: str, *_: str) -> tuple[str, dict[str, Any]]:
        to = self.dice.choice([self._address(), "0x" + "0" * 40])
        return "BeneficiarySet", {"nodeId": node, "beneficiary": to}

    def _capabilities(self, _epoch: int, node: str, *_: str) -> tuple[str, dict[str, Any]]:
        return "CapabilitiesSet", {"nodeId": node, "manifestHash": self._bytes32(), "uri": "http://m"}

    def _claim(self, epoch: int, node: str, *_: str) -> tuple[str, dict[str, Any]]:
        return "RewardClaimed", {
            "nodeId": node, "epoch": str(epoch), "to": self._address(), "amount": "5", "uptimeBps": "9950",
        }  # fmt: skip

    def _join(self, epoch: int, *_: str) -> tuple[str, dict[str, Any]]:
        self.keepers += 1
        return "KeeperJoined", {
            "keeperId": str(self.keepers), "operator": self._address(), "signer": self._address(), "bond": "1000",
            "region": "0x" + b"eu".hex().ljust(64, "0"), "url": "http://k", "activeFrom": str(epoch + 1),
        }  # fmt: skip

    def _leave(self, epoch: int, _node: str, keeper: str, *_: str) -> tuple[str, dict[str, Any]]:
        return "KeeperLeaving", {"keeperId": keeper, "activeUntil": str(epoch + 1), "unlockAt": "9"}

    def _slash(self, _epoch: int, _node: str, keeper: str, *_: str) -> tuple[str, dict[str, Any]]:
        return "SlashExecuted", {"slashId": "1", "keeperId": keeper, "amount": "10"}

    def _list(self, _epoch: int, _node: str, keeper: str, *_: str) -> tuple[str, dict[str, Any]]:
        signer = checksum(f"0x{self.dice.randint(1, 3):040x}")
        return "GatewayListed", {"keeperId": keeper, "signer": signer, "url": "http://g"}

    def _unlist(self, _epoch: int, _node: str, keeper: str, *_: str) -> tuple[str, dict[str, Any]]:
        return "GatewayRemoved", {"keeperId": keeper, "signer": checksum(f"0x{self.dice.randint(1, 3):040x}")}

    def _report(self, epoch: int, *_: str) -> tuple[str, dict[str, Any]]:
        return "ReportSubmitted", {
            "epoch": str(epoch), "uptimeRoot": self._bytes32(), "nodeCount": "3", "executionRoot": self._bytes32(),
            "bundleHash": self._bytes32(), "signerBitmap": "7", "finalAt": "77",
        }  # fmt: skip

    def _request(self, *_: Any) -> tuple[str, dict[str, Any]]:
        self.requests += 1
        return "InferenceRequested", {
            "requestId": f"0x{self.requests:064x}", "requester": self._address(), "model": self._bytes32(),
            "payload": "0x7b7d", "priceCeiling": "100", "deadline": "2000",
        }  # fmt: skip

    def _fulfil(self, _epoch: int, node: str, _keeper: str, request: str) -> tuple[str, dict[str, Any]]:
        return "InferenceFulfilled", {
            "requestId": request, "nodeId": node, "priceWei": "9", "resultHash": self._bytes32(), "result": "0x6869",
        }  # fmt: skip

    def _refund(self, _epoch: int, _node: str, _keeper: str, request: str) -> tuple[str, dict[str, Any]]:
        return "InferenceRefunded", {"requestId": request, "requester": self._address(), "amount": "100"}


def store(database: Database, events: list[ChainEvent]) -> None:
    with database.write() as session:
        if events:
            session.execute(insert(Event), [event_row(event) for event in events])
            project(session, events)


def contents(database: Database) -> dict[str, list[Any]]:
    with database.read() as session:
        return {
            name: sorted(
                (tuple(row) for row in session.execute(select(Base.metadata.tables[name]))), key=repr
            )
            for name in TABLES
        }


def clear(database: Database) -> None:
    with database.write() as session:
        for name in (*TABLES, "events"):
            session.execute(delete(Base.metadata.tables[name]))


@pytest.mark.parametrize("seed", range(6))
def test_undo__any_history_and_any_block__leaves_what_the_older_blocks_give(
    database: Database, seed: int
) -> None:
    events = History(seed).events(blocks=30)
    block = random.Random(seed).randint(0, 30)
    store(database, [event for event in events if event.block_number <= block])
    expected = contents(database)
    clear(database)
    for first in range(0, 31, 7):  # in pieces, as ranges come
        store(database, [event for event in events if first <= event.block_number < first + 7])
    everything = contents(database)
    with database.write() as session:
        gone = undo(session, block)
    assert gone == sum(event.block_number > block for event in events)
    assert contents(database) == expected
    store(database, [event for event in events if event.block_number > block])
    assert contents(database) == everything


def test_project__slash__lowers_the_bond(database: Database) -> None:
    history = History(1)
    joined = ("KeeperJoined", history._join(0)[1])
    slashed = ("SlashExecuted", {"slashId": "1", "keeperId": "1", "amount": "300"})
    events = [
        ChainEvent(1, "0x1", 1, "0x1", index, "KeeperRegistry", name, args)
        for index, (name, args) in enumerate([joined, slashed])
    ]
    store(database, events)
    with database.read() as session:
        assert session.get_one(Keeper, 1).bond_wei == 700
