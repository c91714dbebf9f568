"""The queries of the pages. Each method is one query, unless its docstring says otherwise."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from inspect import get_annotations
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, and_, exists, func, or_, select, text

from offchain.db.models import (
    Base,
    Bundle,
    Claim,
    Cursor,
    Event,
    Keeper,
    MarketRequest,
    Node,
    NodeInterval,
    Probe,
    Report,
    SlotRecord,
)
from webapp.index.rows import (
    ClaimRow,
    EventRow,
    FleetGroup,
    Head,
    KeeperRow,
    NodeRow,
    OverrideRow,
    PaidGroup,
    ProbeRow,
    ReportRow,
    SlotRow,
)


def _columns(table: type[Base], row: type) -> list[Any]:
    """The columns of a table that a row type names, in the order of its fields."""
    return [getattr(table, name) for name in get_annotations(row) if hasattr(table, name)]


R = TypeVar("R")
_NODE_COLUMNS = _columns(Node, NodeRow)
_ANSWERED = Probe.outcome == "answered"
_FINISHED = Probe.outcome.in_(("answered", "missed"))


class Snapshot:
    """The index at one moment; usable only inside `with index.snapshot()`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def head(self) -> Head | None:
        """Newest and final block of the index; None before its first block."""
        rows = {
            name: (number, block_hash, timestamp)
            for name, number, block_hash, timestamp in self._connection.execute(
                select(Cursor.name, Cursor.block_number, Cursor.block_hash, Cursor.block_timestamp)
            )
        }
        head = rows.get("head") or rows.get("finalized")
        if head is None:
            return None
        final = rows.get("finalized", (0, "", 0))
        return Head(head[0], head[1], head[2], final[0], final[2])

    # ------------------------------------------------------------------------------------------------------- nodes

    def fleet(self) -> list[FleetGroup]:
        """All nodes, grouped: 100,000 nodes with a few hundred different stakes give a few hundred rows."""
        key = (Node.tier, Node.stake_wei, Node.active_from, Node.active_until, Node.withdrawn)
        return self._rows(FleetGroup, select(*key, func.count()).group_by(*key))

    def nodes(self, limit: int) -> list[NodeRow]:
        """The first nodes in order of their ids, without their earlier intervals."""
        return self._rows(NodeRow, select(*_NODE_COLUMNS).order_by(Node.node_id).limit(limit))

    def nodes_of(self, owner: str) -> list[NodeRow]:
        """All nodes of an owner, with their earlier intervals: two queries when there are nodes."""
        query = select(*_NODE_COLUMNS).where(Node.owner == owner).order_by(Node.node_id)
        return self._with_intervals(self._rows(NodeRow, query))

    def node(self, node_id: int) -> NodeRow | None:
        """One node with its earlier intervals: two queries when there is such a node."""
        query = select(*_NODE_COLUMNS).where(Node.node_id == node_id)
        return next(iter(self._with_intervals(self._rows(NodeRow, query))), None)

    def _rows(self, row: Callable[..., R], query: Select[*tuple[Any, ...]]) -> list[R]:
        """The results of a query, each made into a row of this type; the columns come in the order of its fields."""
        return [row(*found) for found in self._connection.execute(query).all()]

    def _with_intervals(self, rows: list[NodeRow]) -> list[NodeRow]:
        if not rows:
            return rows
        earlier: dict[int, list[tuple[int, int]]] = {}
        query = select(NodeInterval.node_id, NodeInterval.active_from, NodeInterval.active_until).where(
            NodeInterval.node_id.in_([row.node_id for row in rows])
        )
        for node_id, start, end in self._connection.execute(query):
            earlier.setdefault(node_id, []).append((start, end))
        if not earlier:
            return rows
        return [replace(row, earlier=tuple(sorted(earlier.get(row.node_id, ())))) for row in rows]

    def manifests(self) -> list[tuple[str, str, int]]:
        """Hash, one URI, and number of present nodes of each declared manifest."""
        query = (
            # Nodes with one hash may name several places; any will do, as the hash is checked.
            select(Node.manifest_hash, func.min(Node.manifest_uri), func.count())
            .where(Node.manifest_hash.is_not(None), Node.withdrawn.is_(False))
            .group_by(Node.manifest_hash)
        )
        return self._rows(lambda found, uri, count: (str(found), str(uri or ""), count), query)

    # ------------------------------------------------------------------------------------------- keepers and reports

    def keepers(self) -> list[KeeperRow]:
        """All keepers, also those that left."""
        return self._rows(KeeperRow, select(*_columns(Keeper, KeeperRow)).order_by(Keeper.keeper_id))

    def reports(self, first: int, last: int) -> dict[int, ReportRow]:
        """Reports of the epochs first..last, by epoch."""
        query = select(*_columns(Report, ReportRow)).where(
            Report.epoch >= first, Report.epoch <= last, Report.rejected.is_(False)
        )
        return {row.epoch: row for row in self._rows(ReportRow, query)}

    # --------------------------------------------------------------------------------------------- uptime and payment

    def paid_groups(self, epochs: Collection[int]) -> list[PaidGroup]:
        """Attested nodes with weight, grouped by what their reward depends on; one scan of these epochs' slots."""
        if not epochs:
            return []
        active = and_(
            Node.active_from <= SlotRecord.epoch,
            or_(Node.active_until.is_(None), SlotRecord.epoch < Node.active_until),
        )
        # EXISTS, not a join: a node with several earlier intervals would be counted once for each.
        was_active = exists().where(
            NodeInterval.node_id == Node.node_id,
            NodeInterval.active_from <= SlotRecord.epoch,
            SlotRecord.epoch < NodeInterval.active_until,
        )
        key = (SlotRecord.epoch, Node.stake_wei, Node.tier, SlotRecord.uptime_bps)
        query = (
            select(*key, func.count())
            .join(Node, Node.node_id == SlotRecord.node_id)
            .where(SlotRecord.epoch.in_(list(epochs)), or_(active, was_active))
            .group_by(*key)
        )
        return self._rows(PaidGroup, query)

    def slots(self, nodes: Sequence[int], first: int, last: int) -> list[SlotRow]:
        """Slot states of some nodes in the epochs first..last."""
        query = select(*_columns(SlotRecord, SlotRow)).where(
            # A list of epochs, because the key is (epoch, node): a range would read every node of every epoch.
            SlotRecord.epoch.in_(range(first, last + 1)),
            SlotRecord.node_id.in_(list(nodes)),
        )
        return self._rows(SlotRow, query) if nodes and last >= first else []

    def uptimes(self, nodes: Sequence[int], epochs: Collection[int]) -> dict[tuple[int, int], int]:
        """Uptime in basis points by (node, epoch)."""
        if not nodes or not epochs:
            return {}
        query = select(SlotRecord.node_id, SlotRecord.epoch, SlotRecord.uptime_bps).where(
            SlotRecord.epoch.in_(list(epochs)), SlotRecord.node_id.in_(list(nodes))
        )
        return {(node, epoch): bps for node, epoch, bps in self._connection.execute(query).all()}

    def epoch_uptimes(self, epoch: int) -> dict[int, int]:
        """Uptime in basis points of every node of an epoch."""
        query = select(SlotRecord.node_id, SlotRecord.uptime_bps).where(SlotRecord.epoch == epoch)
        return {row.node_id: row.uptime_bps for row in self._connection.execute(query).all()}

    def claims(self, nodes: Sequence[int], first: int = 0, last: int | None = None) -> list[ClaimRow]:
        """Rewards paid for some nodes, in the epochs from `first` on, in no particular order."""
        if not nodes:
            return []
        query = select(*_columns(Claim, ClaimRow)).where(Claim.node_id.in_(list(nodes)), Claim.epoch >= first)
        if last is not None:
            query = query.where(Claim.epoch <= last)
        return self._rows(ClaimRow, query)

    def overrides(self, first: int, last: int, nodes: Sequence[int] | None = None) -> list[OverrideRow]:
        """Uptimes that appeals set in the epochs first..last, of some nodes or of all, in chain order."""
        columns = (Event.epoch, Event.node_id, Event.args, Event.block_timestamp, Event.tx_hash)
        query = (
            select(*columns, Node.stake_wei, Node.tier)
            .join(Node, Node.node_id == Event.node_id)
            # As text: with a bound name the database would not use the partial index on this name.
            .where(text("events.name = 'UptimeOverridden'"), Event.epoch >= first, Event.epoch <= last)
            .order_by(Event.block_number, Event.log_index)
        )
        if nodes is not None:
            query = query.where(Event.node_id.in_(list(nodes)))
        return [
            OverrideRow(epoch, node, int(args["attested"]), int(args["recounted"]), *rest)
            for epoch, node, args, *rest in self._connection.execute(query).all()
        ]

    def own_answers(self, epoch: int, slots: int, node: int) -> list[str]:
        """Packed answers of a node in an epoch that the index's own keeper holds; the keeper deletes them epochs later."""
        query = select(Probe.evidence).where(
            Probe.epoch == epoch,
            # Named, so that the key (epoch, slot, node) is sought and not every probe of the epoch read.
            Probe.slot.in_(range(slots)),
            Probe.node_id == node,
            Probe.outcome == "answered",
        )
        return [str(row["entry"]) for row in self._connection.execute(query).scalars() if row]

    def served(self, node: int) -> tuple[int, int]:
        """Number of on-chain requests that a node answered, and the sum of the prices paid for them, wei."""
        query = (
            # Summed in Python: 256-bit amounts are text in the table, which SQL would add as floats.
            select(MarketRequest.price_wei, func.count())
            .where(MarketRequest.node_id == node, MarketRequest.status == "fulfilled")
            .group_by(MarketRequest.price_wei)
        )
        rows = self._connection.execute(query).all()
        return sum(count for _, count in rows), sum((price or 0) * count for price, count in rows)

    def bundle(self, bundle_hash: str) -> bytes | None:
        """An evidence bundle by its hash; None when the keeper does not keep it."""
        query = select(Bundle.body).where(Bundle.hash == bundle_hash.lower())
        return self._connection.execute(query).scalar()

    def events(
        self,
        limit: int,
        before: tuple[int, int] | None = None,
        after: tuple[int, int] | None = None,
        node: int | None = None,
        epoch: int | None = None,
        names: Collection[str] = (),
    ) -> list[EventRow]:
        """Events, newest first; `before` and `after` are places (block, log index) that are not included."""
        # EventRow's first three fields have other names in the table; `_columns` gives the second one, too.
        place = (Event.block_number, Event.log_index)
        query = select(*place, Event.block_timestamp, *_columns(Event, EventRow)[1:])
        if before is not None:
            block, index = before
            earlier = and_(Event.block_number == block, Event.log_index < index)
            query = query.where(or_(Event.block_number < block, earlier))
        if after is not None:
            block, index = after
            later = or_(Event.block_number > block, Event.log_index > index)
            # `later` implies the first condition; stated alone, it lets the database seek to the block.
            query = query.where(Event.block_number >= block, later)
        if node is not None:
            query = query.where(Event.node_id == node)
        if epoch is not None:
            query = query.where(Event.epoch == epoch)
        if names:
            query = query.where(Event.name.in_(list(names)))
        query = query.order_by(Event.block_number.desc(), Event.log_index.desc()).limit(limit)
        return self._rows(EventRow, query)

    # ---------------------------------------------------------------------------------------------------- live probes

    def probes(
        self, slots: Collection[tuple[int, int]], nodes: Sequence[int] | None = None
    ) -> list[ProbeRow]:
        """Finished probes of this index's keeper in some (epoch, slot), of some nodes or of all, oldest first."""
        if not slots or (nodes is not None and not nodes):
            return []
        places = or_(
            *(
                and_(Probe.epoch == epoch, Probe.slot.in_([s for e, s in slots if e == epoch]))
                for epoch in sorted({epoch for epoch, _ in slots})
            )
        )
        columns = (Probe.epoch, Probe.slot, Probe.node_id, Probe.due_at_ms, _ANSWERED, Probe.latency_ms)
        query = select(*columns).where(places, _FINISHED)
        if nodes is not None:
            query = query.where(Probe.node_id.in_(list(nodes)))
        return self._rows(ProbeRow, query.order_by(Probe.due_at_ms))

    def probe_histogram(self, epoch: int, slot: int) -> list[tuple[bool, int | None, int]]:
        """(Whether answered, latency in ms, number of probes), over all finished probes of a slot."""
        query = (
            select(_ANSWERED, Probe.latency_ms, func.count())
            .where(Probe.epoch == epoch, Probe.slot == slot, _FINISHED)
            .group_by(Probe.outcome, Probe.latency_ms)
        )
        return self._rows(lambda *found: found, query)
