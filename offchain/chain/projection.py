"""Applies events to the tables that pages and decisions read.

Each event bears on at most one *entity* (`node:5`, `report:42`, ...), and an entity's rows follow from its own events in
chain order. So a reorganisation is undone by dropping the rows of the entities it touched and replaying what is left.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from offchain.chain.logs import ChainEvent
from offchain.crypto.addresses import checksum
from offchain.db.models import Base, Claim, Event, Gateway, Keeper, MarketRequest, Node, NodeInterval, Report
from offchain.db.upsert import upsert
from offchain.errors import TransientError

K = TypeVar("K")
R = TypeVar("R")

_NO_ADDRESS = "0x" + "0" * 40
_NODE_EVENTS = frozenset({
    "NodeRegistered", "UnstakeRequested", "UnstakeCancelled", "StakeWithdrawn", "NodeKeyRotated", "BeneficiarySet",
    "CapabilitiesSet",
})  # fmt: skip
_KEEPER_EVENTS = frozenset({"KeeperJoined", "KeeperLeaving", "BondWithdrawn", "SlashExecuted"})
_GATEWAY_EVENTS = frozenset({"GatewayListed", "GatewayRemoved"})
_REPORT_EVENTS = frozenset({"ReportSubmitted", "ReportRejected"})
_REQUEST_EVENTS = frozenset({"InferenceRequested", "InferenceFulfilled", "InferenceRefunded"})


def entity_of(event: ChainEvent) -> str | None:
    """The entity that an event bears on, or None when no projection shows it."""
    args = event.args
    if event.name in _NODE_EVENTS:
        return f"node:{args['nodeId']}"
    if event.name == "RewardClaimed":
        return f"claim:{args['nodeId']}:{args['epoch']}"
    if event.name in _REQUEST_EVENTS:
        return f"request:{args['requestId']}"
    if event.name in _REPORT_EVENTS:
        return f"report:{args['epoch']}"
    if event.name in _KEEPER_EVENTS:
        return f"keeper:{args['keeperId']}"
    if event.name in _GATEWAY_EVENTS:
        return f"gateway:{args['signer']}"
    return None


def event_row(event: ChainEvent) -> dict[str, Any]:
    """The row of `events`."""
    node, epoch = event.args.get("nodeId"), event.args.get("epoch")
    return {
        "block_hash": event.block_hash,
        "log_index": event.log_index,
        "block_number": event.block_number,
        "block_timestamp": event.block_timestamp,
        "tx_hash": event.tx_hash,
        "contract": event.contract,
        "name": event.name,
        "args": event.args,
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
    entities = session.scalars(select(Event.entity).where(gone, Event.entity.is_not(None)).distinct()).all()
    deleted: int = session.execute(delete(Event).where(gone)).rowcount  # type: ignore[attr-defined]
    for entity in entities:
        _replay(session, str(entity))
    return deleted


def _replay(session: Session, entity: str) -> None:
    kind, _, rest = entity.partition(":")
    if kind == "node":
        session.execute(delete(Node).where(Node.node_id == int(rest)))
        session.execute(delete(NodeInterval).where(NodeInterval.node_id == int(rest)))
    elif kind == "claim":
        node, _, epoch = rest.partition(":")
        session.execute(delete(Claim).where(Claim.node_id == int(node), Claim.epoch == int(epoch)))
    elif kind == "request":
        session.execute(delete(MarketRequest).where(MarketRequest.request_id == rest))
    elif kind == "report":
        session.execute(delete(Report).where(Report.epoch == int(rest)))
    elif kind == "keeper":
        session.execute(delete(Keeper).where(Keeper.keeper_id == int(rest)))
    else:
        session.execute(delete(Gateway).where(Gateway.signer == rest))
    rows = session.scalars(
        select(Event).where(Event.entity == entity).order_by(Event.block_number, Event.log_index)
    ).all()
    project(session, [_from_row(row) for row in rows])


def _from_row(row: Event) -> ChainEvent:
    return ChainEvent(
        block_number=row.block_number,
        block_hash=row.block_hash,
        block_timestamp=row.block_timestamp,
        tx_hash=row.tx_hash,
        log_index=row.log_index,
        contract=row.contract,
        name=row.name,
        args=row.args,
    )


class _State:
    """Rows in memory while a run of events is applied."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._nodes: dict[int, Node] = {}
        self._keepers: dict[int, Keeper] = {}
        self._requests: dict[str, MarketRequest] = {}
        self._reports: dict[int, Report] = {}
        self._claims: list[dict[str, Any]] = []

    def preload(self, events: Iterable[ChainEvent]) -> None:
        """Read the rows that the events will change, a few hundred a query."""
        ids: dict[str, set[str]] = {"nodeId": set(), "keeperId": set(), "requestId": set(), "epoch": set()}
        for event in events:
            if event.name in _NODE_EVENTS:
                ids["nodeId"].add(event.args["nodeId"])
            elif event.name in _KEEPER_EVENTS:
                ids["keeperId"].add(event.args["keeperId"])
            elif event.name in _REQUEST_EVENTS:
                ids["requestId"].add(event.args["requestId"])
            elif event.name in _REPORT_EVENTS:
                ids["epoch"].add(event.args["epoch"])
        for part in _parts(sorted(map(int, ids["nodeId"]))):
            self._nodes |= {
                n.node_id: n for n in self._session.scalars(select(Node).where(Node.node_id.in_(part)))
            }
        for part in _parts(sorted(map(int, ids["keeperId"]))):
            query = select(Keeper).where(Keeper.keeper_id.in_(part))
            self._keepers |= {keeper.keeper_id: keeper for keeper in self._session.scalars(query)}
        for part in _parts(sorted(map(int, ids["epoch"]))):
            query_reports = select(Report).where(Report.epoch.in_(part))
            self._reports |= {report.epoch: report for report in self._session.scalars(query_reports)}
        for names in _parts(sorted(ids["requestId"])):
            query_requests = select(MarketRequest).where(MarketRequest.request_id.in_(names))
            self._requests |= {row.request_id: row for row in self._session.scalars(query_requests)}

    def apply(self, event: ChainEvent) -> None:
        """One event."""
        if event.name in _NODE_EVENTS:
            self._node(event)
        elif event.name == "RewardClaimed":
            self._claim(event)
        elif event.name in _REQUEST_EVENTS:
            self._request(event)
        elif event.name in _REPORT_EVENTS:
            self._report(event)
        elif event.name in _KEEPER_EVENTS:
            self._keeper(event)
        elif event.name in _GATEWAY_EVENTS:
            self._gateway(event)

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
                beneficiary=args["owner"],
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
            node.withdrawn = True
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
        self._claims.append(
            {
                "node_id": int(args["nodeId"]),
                "epoch": int(args["epoch"]),
                "to_address": args["to"],
                "amount_wei": int(args["amount"]),
                "uptime_bps": int(args["uptimeBps"]),
                "paid_at": event.block_timestamp,
                "tx_hash": event.tx_hash,
            }
        )

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
    return checksum("0x" + key_hash[-40:])


def _text32(value: str) -> str:
    return bytes.fromhex(value[2:]).rstrip(b"\0").decode("utf-8", "replace")


def _parts(values: list[Any], size: int = 500) -> Iterable[list[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))
