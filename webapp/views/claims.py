"""Claims that can be sent now, with the Merkle proofs that the distributor asks for.

A proof is offered only when the tree that the index gives has the root of the report on chain.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from offchain.domain.types import NodeId
from webapp.index import NodeRow
from webapp.sources.sources import Sources
from webapp.sources.status import Status
from webapp.sources.uptime_trees import Trees
from webapp.views.earnings import Stage, history_of

MAX_CLAIMS = 50
"""Claims of one transaction: about 2 M gas, far below a block's limit."""
HISTORY_EPOCHS = 365


@dataclass(frozen=True, slots=True)
class ClaimLine:
    """One claim, ready for `claim` or `claimMany`. Bytes as 0x-hex."""

    node_id: int
    epoch: int
    amount_wei: int
    packed_leaf: str
    proof: Sequence[str]


@dataclass(frozen=True, slots=True)
class ClaimsView:
    """Claims of some nodes, oldest epoch first.

    Attributes:
        left: number of claims beyond the first MAX_CLAIMS.
        broken: epochs whose uptimes in the index do not give the root of the report; nothing is offered for them.
    """

    status: Status
    claims: Sequence[ClaimLine]
    total_wei: int
    left: int
    broken: Sequence[int]


class ClaimBuilder:
    """Builds the claims of an operator or of a node."""

    def __init__(self, sources: Sources, trees: Trees) -> None:
        self._sources = sources
        self._trees = trees

    def of_operator(self, address: str, epoch: int | None = None) -> ClaimsView:
        """Claims of all nodes of an owner, of one epoch or of all. Raises IndexUnavailableError."""
        with self._sources.open() as (snapshot, _, _):
            nodes = snapshot.nodes_of(address)
        return self._view(nodes, epoch)

    def of_node(self, node_id: int, epoch: int | None = None) -> ClaimsView | None:
        """Claims of one node; None when there is no such node. Raises IndexUnavailableError."""
        with self._sources.open() as (snapshot, _, _):
            node = snapshot.node(node_id)
        return self._view([node], epoch) if node else None

    def _view(self, nodes: Sequence[NodeRow], epoch: int | None) -> ClaimsView:
        with self._sources.open() as (snapshot, head, status):
            history = history_of(self._sources, snapshot, head, status, nodes, HISTORY_EPOCHS)
            due = [
                entry
                for entry in reversed(history.entries)
                if entry.stage is Stage.CLAIMABLE and (epoch is None or entry.epoch == epoch)
            ]
            chosen = due[:MAX_CLAIMS]
            epochs = sorted({entry.epoch for entry in chosen})
            reports = snapshot.reports(epochs[0], epochs[-1]) if epochs else {}
            trees = {e: self._trees.of(snapshot, reports[e]) for e in epochs if e in reports}
        lines = []
        for entry in chosen:
            tree = trees.get(entry.epoch)
            if tree is None:
                continue
            node = NodeId(entry.node_id)
            lines.append(
                ClaimLine(
                    entry.node_id,
                    entry.epoch,
                    entry.claimable_wei,
                    "0x" + tree.leaf(node).hex(),
                    ["0x" + sibling.hex() for sibling in tree.proof(node)],
                )
            )
        return ClaimsView(
            status,
            lines,
            sum(line.amount_wei for line in lines),
            len(due) - len(chosen),
            [e for e in epochs if trees.get(e) is None],
        )
