"""Applies events to the tables that pages and decisions read.

Each event bears on at most one *entity* (`node:5`, `report:42`, ...), and an entity's rows follow from its own events in
chain order. So a reorganisation is undone by dropping the rows of the entities it touched and replaying what is left.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar, cast

from sqlalchemy import Column, Table, delete, select
from sqlalchemy.orm import Session

from offchain.chain.logs import ChainEvent
from offchain.crypto.addresses import checksum
from offchain.db.models import Base, Claim, Event, Gateway, Keeper, MarketRequest, Node, NodeInterval, Report
from offchain.db.upsert import changed, upsert
from offchain.errors import TransientError

K = TypeVar("K")
R = TypeVar("R")

_NO_ADDRESS = "0x" + "0" * 40
_KEYS_A_QUERY = 500


@dataclass(frozen=True, eq=False, slots=True)
class _Kind:
    """One kind of entity: the events that bear on it, their arguments that name it, and the tables of its rows.

    The arguments are the first columns of each table's primary key. The first table holds the row that events change.
    """

    name: str
    tables: tuple[type[Base], ...]
    arguments: tuple[str, ...]
    events: tuple[str, ...]


_KINDS = (
    _Kind("node", (Node, NodeInterval), ("nodeId",), (
        "NodeRegistered", "UnstakeRequested", "UnstakeCancelled", "StakeWithdrawn", "NodeKeyRotated", "BeneficiarySet",
        "CapabilitiesSet",
    )),
    _Kind("claim", (Claim,), ("nodeId", "epoch"), ("RewardClaimed",)),
    _Kind("request", (MarketRequest,), ("requestId",), (
        "InferenceRequested", "InferenceFulfilled", "InferenceRefunded",
    )),
    _Kind("report", (Report,), ("epoch",), ("ReportSubmitted", "ReportRejected")),
    _Kind("keeper", (Keeper,), ("keeperId",), ("KeeperJoined", "KeeperLeaving", "BondWithdrawn", "SlashExecuted")),
    _Kind("gateway", (Gateway,), ("signer",), ("GatewayListed", "GatewayRemoved")),
)  # fmt: skip
_KIND_OF_EVENT = {event: kind for kind in _KINDS for event in kind.events}
_TABLES = {kind.name: kind.tables for kind in _KINDS}
_EVENT_FIELDS = tuple(field.name for field in fields(ChainEvent))


def entity_of(event: ChainEvent) -> str | None:
    """The entity that an event bears on, or None when no projection shows it."""
    kind = _KIND_OF_EVENT.get(event.name)
    return None if kind is None else ":".join((kind.name, *(event.args[name] for name in kind.arguments)))


def event_row(event: ChainEvent) -> dict[str, Any]:
    """The row of `events`."""
    node, epoch = event.args.get("nodeId"), event.args.get("epoch")
    return {
        **{name: getattr(event, name) for name in _EVENT_FIELDS},
        "node_id": None if node is None else int(node),
        "epoch": None if epoch is None else int(epoch),
        "entity": entity_of(event),
    }


def project(session: Session, events: Sequence[ChainEvent]) -> None:
    """Apply events, in chain order, to the rows that earlier events left.

    Raises:
        TransientError: the events cannot follow on what is there, so some are missing: the endpoint left logs out.
    """
    state = _State(session)
    state.preload(events)
    for event in events:
        state.apply(event)
    state.flush()


def undo(session: Session, above_block: int) -> int:
    """Delete the events above a block and put every entity that they touched back to where it was.

    Returns:
        How many events were deleted.
    """
    gone = Event.block_number > above_block
    # Read before the events go: nothing else says which rows they made.
    entities = session.scalars(select(Event.entity).where(gone, Event.entity.is_not(None)).distinct()).all()
    deleted = changed(session, delete(Event).where(gone))
    for entity in entities:
        _replay(session, str(entity))
    return deleted


def _replay(session: Session, entity: str) -> None:
    kind, *key = entity.split(":")
    for table in _TABLES[kind]:
        # An interval's key is longer than its entity's: all intervals of the node go.
        named = zip(_key_columns(table), key, strict=False)
        session.execute(
            delete(table).where(*(column == column.type.python_type(text) for column, text in named))
        )
    rows = session.scalars(
        select(Event).where(Event.entity == entity).order_by(Event.block_number, Event.log_index)
    ).all()
    project(session, [ChainEvent(**{name: getattr(row, name) for name in _EVENT_FIELDS}) for row in rows])


def _key_columns(table: type[Base]) -> Sequence[Column[Any]]:
    return cast("Table", table.__table__).primary_key.columns.values()


class _State:
    """Rows in memory while a run of events is applied."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._nodes: dict[int, Node] = {}
        self._keepers: dict[int, Keeper] = {}
        self._requests: dict[str, MarketRequest] = {}
        self._reports: dict[int, Report] = {}
        self._claims: list[dict[str, Any]] = []
        self._apply: dict[str, Callable[[ChainEvent], None]] = {
            "node": self._node, "claim": self._claim, "request": self._request, "report": self._report,
            "keeper": self._keeper, "gateway": self._gateway,
        }  # fmt: skip

    def preload(self, events: Iterable[ChainEvent]) -> None:
        """Read the rows that the events will change, a few hundred a query."""
        wanted: dict[_Kind, set[Any]] = defaultdict(set)
        for event in events:
            if (kind := _KIND_OF_EVENT.get(event.name)) is not None:
                wanted[kind].add(event.args[kind.arguments[0]])
        # Claims and gateways are written whole, whatever was there.
        loaded: dict[type[Base], dict[Any, Any]] = {
            Node: self._nodes, Keeper: self._keepers, MarketRequest: self._requests, Report: self._reports,
        }  # fmt: skip
        for kind, texts in wanted.items():
            table = kind.tables[0]
            if table not in loaded:
                continue
            column = _key_columns(table)[0]
            keys = sorted(map(column.type.python_type, texts))
            for start in range(0, len(keys), _KEYS_A_QUERY):
                query = select(table).where(column.in_(keys[start : start + _KEYS_A_QUERY]))
                loaded[table] |= {getattr(row, column.name): row for row in self._session.scalars(query)}

    def apply(self, event: ChainEvent) -> None:
        """One event."""
        if (kind := _KIND_OF_EVENT.get(event.name)) is not None:
            self._apply[kind.name](event)

    def flush(self) -> None:
        """Write everything."""
        upsert(self._session, Claim, self._claims)
        self._session.flush()

    def _node(self, event: ChainEvent) -> None:
        args = event.args
        node_id = int(args["nodeId"])
        if event.name == "NodeRegistered":
            self._refuse_gap(Node, self._nodes, node_id, event)
            node = Node(
                node_id=node_id,
                owner=args["owner"],
                beneficiary=args["owner"],  # until BeneficiarySet
                key_hash=args["nodeKeyHash"],
                key_address=_key_address(args["nodeKeyHash"]),
                tier=int(args["tier"]),
                stake_wei=int(args["stake"]),
                active_from=int(args["activeFrom"]),
                registered_block=event.block_number,
                registered_at=event.block_timestamp,
            )
            self._session.add(node)
            self._nodes[node_id] = node
            return
        node = _found(self._nodes, node_id, event)
        if event.name == "UnstakeRequested":
            node.active_until, node.unlock_at = int(args["activeUntil"]), int(args["unlockAt"])
        elif event.name == "UnstakeCancelled":
            self._cancel(node, int(args["activeFrom"]))
        elif event.name == "StakeWithdrawn":
            node.withdrawn = True  # the row stays: claims of its last epochs refer to it
        elif event.name == "NodeKeyRotated":
            node.key_hash = args["newKeyHash"]
            node.key_address = _key_address(args["newKeyHash"])
        elif event.name == "BeneficiarySet":
            node.beneficiary = node.owner if args["beneficiary"] == _NO_ADDRESS else args["beneficiary"]
        else:
            node.manifest_hash, node.manifest_uri = args["manifestHash"], args["uri"]

    def _refuse_gap(
        self, table: type[Base], rows: Mapping[int, object], new_id: int, event: ChainEvent
    ) -> None:
        """Ids are given in sequence, so the one before a new one must be known."""
        if new_id > 1 and new_id - 1 not in rows and self._session.get(table, new_id - 1) is None:
            raise TransientError(
                f"{event.name} in block {event.block_number} has id {new_id} but {new_id - 1} is not known; "
                "the RPC endpoint left logs out"
            )

    def _cancel(self, node: Node, active_from: int) -> None:
        """The registry keeps an ended interval unless it was empty; a cancel before the end leaves the interval alone."""
        until = node.active_until
        if active_from != node.active_from and until is not None:
            if node.active_from < until:
                interval = {"node_id": node.node_id, "active_from": node.active_from, "active_until": until}
                self._session.flush()
                upsert(self._session, NodeInterval, [interval])
            node.active_from = active_from
        node.active_until = node.unlock_at = None

    def _claim(self, event: ChainEvent) -> None:
        args = event.args
        row = {"node_id": int(args["nodeId"]), "epoch": int(args["epoch"]), "to_address": args["to"]}
        row |= {"amount_wei": int(args["amount"]), "uptime_bps": int(args["uptimeBps"])}
        self._claims.append({**row, "paid_at": event.block_timestamp, "tx_hash": event.tx_hash})

    def _request(self, event: ChainEvent) -> None:
        args = event.args
        request_id = args["requestId"]
        if event.name == "InferenceRequested":
            row = MarketRequest(
                request_id=request_id,
                requester=args["requester"],
                model_hash=args["model"],
                payload=bytes.fromhex(args["payload"][2:]),
                price_ceiling_wei=int(args["priceCeiling"]),
                deadline=int(args["deadline"]),
                requested_block=event.block_number,
                status="open",
            )
            self._session.add(row)
            self._requests[request_id] = row
            return
        row = _found(self._requests, request_id, event)
        if event.name == "InferenceRefunded":
            row.status = "refunded"
            return
        row.status = "fulfilled"
        row.node_id = int(args["nodeId"])
        row.price_wei = int(args["priceWei"])
        row.result = bytes.fromhex(args["result"][2:])

    def _report(self, event: ChainEvent) -> None:
        args = event.args
        epoch = int(args["epoch"])
        if event.name == "ReportRejected":
            _found(self._reports, epoch, event).rejected = True
            return
        # After a rejection another report of the same epoch takes over the row.
        row = self._reports.get(epoch)
        if row is None:
            row = self._reports[epoch] = Report(epoch=epoch)
            self._session.add(row)
        row.uptime_root, row.node_count = args["uptimeRoot"], int(args["nodeCount"])
        row.execution_root, row.bundle_hash = args["executionRoot"], args["bundleHash"]
        row.signer_bitmap, row.final_at = int(args["signerBitmap"]), int(args["finalAt"])
        row.submitted_at, row.tx_hash, row.rejected = event.block_timestamp, event.tx_hash, False

    def _keeper(self, event: ChainEvent) -> None:
        args = event.args
        keeper_id = int(args["keeperId"])
        if event.name == "KeeperJoined":
            self._refuse_gap(Keeper, self._keepers, keeper_id, event)
            keeper = Keeper(
                keeper_id=keeper_id,
                operator=args["operator"],
                signer=args["signer"],
                bond_wei=int(args["bond"]),
                region=_text32(args["region"]),
                url=args["url"],
                active_from=int(args["activeFrom"]),
            )
            self._session.add(keeper)
            self._keepers[keeper_id] = keeper
            return
        keeper = _found(self._keepers, keeper_id, event)
        if event.name == "KeeperLeaving":
            keeper.active_until = int(args["activeUntil"])
        else:
            keeper.bond_wei = max(0, keeper.bond_wei - int(args["amount"]))

    def _gateway(self, event: ChainEvent) -> None:
        signer = event.args["signer"]
        self._session.flush()
        if event.name == "GatewayListed":
            row = {"signer": signer, "keeper_id": int(event.args["keeperId"]), "url": event.args["url"]}
            upsert(self._session, Gateway, [row])
        else:
            self._session.execute(delete(Gateway).where(Gateway.signer == signer))


def _found(rows: dict[K, R], key: K, event: ChainEvent) -> R:
    row = rows.get(key)
    if row is None:
        raise TransientError(
            f"{event.name} in block {event.block_number} is about {key}, of which no earlier event is known; "
            "the RPC endpoint left logs out"
        )
    return row


def _key_address(key_hash: str) -> str:
    return checksum("0x" + key_hash[-40:])  # an address is the last 20 bytes of the key's hash


def _text32(value: str) -> str:
    return bytes.fromhex(value[2:]).rstrip(b"\0").decode("utf-8", "replace")
