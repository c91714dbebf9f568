"""Builds the `EpochContext` of an epoch from the index and the chain; all keepers and auditors get the same context."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from offchain.chain.deployment import Deployment
from offchain.db.database import Database
from offchain.db.models import Event
from offchain.domain.eip712 import address_bytes
from offchain.domain.epochs import EpochClock
from offchain.domain.types import Address, BlockRef, Epoch, KeeperId, NodeId, Wei
from offchain.errors import TransientError
from offchain.evidence.chain_view import ChainView, last_block_until
from offchain.evidence.epoch_context import (
    LATE_EPOCHS,
    EpochContext,
    KeeperInfo,
    NodeInfo,
    SeedBlock,
    seed_time,
)

_GATEWAY_EVENTS = ("GatewayListed", "GatewayRemoved", "KeeperLeaving", "KeeperEjected")
_NODE_EVENTS = ("NodeRegistered", "UnstakeRequested", "UnstakeCancelled", "NodeKeyRotated")
_FOREVER = 2**32
"""An epoch that is later than all others."""
_NO_END = 1 << 62
"""A Unix second that is later than all others."""
_KEPT = 4
"""Contexts in memory: that of the last epoch and of a few that wait for their report."""


class NotReadyError(TransientError):
    """The epoch's context is not known yet: final blocks do not reach far enough."""


@dataclass(slots=True)
class _NodeHistory:
    owner: Address
    tier: int
    stake: Wei
    intervals: list[list[int]]
    keys: list[tuple[int, bytes]] = field(default_factory=list)
    """(Unix second from which the key holds, 20-byte address), ascending"""

    def active(self, epoch: Epoch) -> bool:
        return any(begin <= epoch < end for begin, end in self.intervals)

    def keys_between(self, start: int, end: int) -> frozenset[bytes]:
        ends = [*(since for since, _ in self.keys[1:]), _NO_END]
        spans = zip(self.keys, ends, strict=True)
        # A rotation in the epoch's first second leaves the old key valid: blocks are no finer than seconds.
        return frozenset(key for (since, key), until in spans if since < end and until >= start)


@dataclass(eq=False)
class EpochContextReader:
    """Reads the contexts of epochs.

    Attributes:
        database: a keeper's index, or an auditor's own scan.
        view: the chain.
        deployment: addresses, for the signing domains.
    """

    database: Database
    view: ChainView
    deployment: Deployment
    _known: dict[Epoch, EpochContext] = field(default_factory=dict, init=False)

    @cached_property
    def clock(self) -> EpochClock:
        """The network's epochs."""
        return self.deployment.clock()

    def read(self, epoch: Epoch, indexed: BlockRef, *, until: int | None = None) -> EpochContext:
        """The context of `epoch` as of block `indexed`, which must be final and indexed.

        Args:
            until: Unix second that final blocks must have reached; by default the epoch's end. Planning passes an
                earlier second, because nodes get their weight before the epoch begins.

        Raises:
            NotReadyError: `indexed` lies before `until`, or the seed block is not final.
            TransientError: the chain or the database does not answer.
        """
        if until is None and epoch in self._known:
            return self._known[epoch]
        clock = self.clock
        horizon = clock.end(epoch) if until is None else until
        if indexed.timestamp < horizon:
            raise NotReadyError(f"final blocks reach {indexed.timestamp}, epoch {epoch} needs {horizon}")
        seed = self.seed_block(epoch, indexed)
        chosen = self.view.keeper_set(epoch, indexed)
        with self.database.read() as session:
            # Up to `indexed`: the index runs on to blocks that are not final, and differ between keepers.
            histories = node_histories(session, clock.end(epoch), indexed.number)
            joined = keeper_directory(session, indexed.number)
            since = clock.start(Epoch(max(0, epoch - LATE_EPOCHS)))
            gateways = listed_gateways(session, since, clock.end(epoch), indexed.number)
        start, end = clock.start(epoch), clock.end(epoch)
        nodes = {
            node: NodeInfo(node, seen.owner, seen.tier, seen.keys_between(start, end), seen.stake)
            for node, seen in histories.items()
            if seen.active(epoch)
        }
        context = EpochContext(
            clock=clock,
            epoch=epoch,
            node_count=max(histories, default=0),
            nodes=nodes,
            keepers=tuple(_place(i, signer, joined) for i, signer in enumerate(chosen.signers)),
            quorum=chosen.quorum,
            set_digest=chosen.digest,
            seed_block=seed,
            attestation=self.deployment.signing_domain("UptimeAttestation"),
            market=self.deployment.signing_domain("InferenceMarket"),
            gateways=gateways,
        )
        if until is None:  # a whole epoch in final blocks never changes again
            self._known[epoch] = context
            while len(self._known) > _KEPT:
                self._known.pop(next(iter(self._known)))
        return context

    def seed_block(self, epoch: Epoch, finalized: BlockRef) -> SeedBlock:
        """The epoch's seed block. Raises NotReadyError while it is not final."""
        found = last_block_until(self.view, seed_time(self.clock, epoch), finalized)
        if found is None:
            raise NotReadyError(f"the seed block of epoch {epoch} is not final yet")
        return SeedBlock(found.number, found.hash)


def node_histories(session: Session, before: int, up_to_block: int) -> dict[NodeId, _NodeHistory]:
    """Every node registered before Unix second `before`, with its activity intervals and keys."""
    histories: dict[NodeId, _NodeHistory] = {}
    for event in _events(session, _NODE_EVENTS, up_to_block):
        if event.block_timestamp >= before:
            continue
        args, node = event.args, NodeId(int(event.args["nodeId"]))
        if event.name == "NodeRegistered":
            histories[node] = _NodeHistory(
                owner=Address(args["owner"]),
                tier=int(args["tier"]),
                stake=Wei(int(args["stake"])),
                intervals=[[int(args["activeFrom"]), _FOREVER]],
                keys=[(event.block_timestamp, _key(args["nodeKeyHash"]))],
            )
        elif event.name == "UnstakeRequested":
            histories[node].intervals[-1][1] = int(args["activeUntil"])
        elif event.name == "UnstakeCancelled":
            # A new interval, not a longer one: in the epochs between them the node has no weight.
            histories[node].intervals.append([int(args["activeFrom"]), _FOREVER])
        else:
            histories[node].keys.append((event.block_timestamp, _key(args["newKeyHash"])))
    return histories


def keeper_directory(session: Session, up_to_block: int) -> Mapping[str, Mapping[str, Any]]:
    """Arguments of `KeeperJoined` by lower-case signer."""
    return {
        event.args["signer"].lower(): event.args for event in _events(session, ("KeeperJoined",), up_to_block)
    }


def listed_gateways(session: Session, since: int, before: int, up_to_block: int) -> frozenset[bytes]:
    """Ticket signers (20 bytes) that a keeper listed at some time in [since, before), Unix seconds.

    A listing ends when it is removed and when its keeper asks to leave or is ejected, as in `KeeperRegistry.isGateway`.
    """
    listed: dict[str, int] = {}
    found = set[str]()
    for event in _events(session, _GATEWAY_EVENTS, up_to_block):
        if event.block_timestamp >= before:
            continue
        keeper, ended = int(event.args["keeperId"]), set[str]()
        if event.name == "GatewayListed":
            listed[event.args["signer"]] = keeper
        elif event.name == "GatewayRemoved":
            ended = {event.args["signer"]}
        else:
            ended = {signer for signer, by in listed.items() if by == keeper}
        for signer in ended:
            if listed.pop(signer, None) is not None and event.block_timestamp >= since:
                found.add(signer)
    return frozenset(address_bytes(signer) for signer in found | set(listed))


def region_name(word: str) -> str:
    """Text of a bytes32 label in 0x-hex; other text is returned as it is."""
    if word.startswith("0x") and len(word) == 66:
        return bytes.fromhex(word[2:]).rstrip(b"\0").decode(errors="replace")
    return word


def _place(index: int, signer: Address, joined: Mapping[str, Mapping[str, Any]]) -> KeeperInfo:
    args = joined.get(signer.lower())
    if args is None:
        raise NotReadyError(f"keeper {signer} of the signer set is not indexed yet")
    return KeeperInfo(
        index=index,
        keeper_id=KeeperId(int(args["keeperId"])),
        signer=signer,
        operator=Address(args["operator"]),
        region=region_name(args["region"]),
        url=str(args["url"]),
    )


def _events(session: Session, names: Iterable[str], up_to_block: int) -> Iterable[Any]:
    """Rows of (name, block_timestamp, args) in the chain's order; ORM entities would take twice the time."""
    query = (
        select(Event.name, Event.block_timestamp, Event.args)
        .where(Event.name.in_(list(names)), Event.block_number <= up_to_block)
        .order_by(Event.block_number, Event.log_index)
    )
    return session.execute(query)


def _key(key_hash: str) -> bytes:
    return bytes.fromhex(key_hash[2:])[12:]
