"""Claims that can be sent now, with the Merkle proofs that the distributor asks for.

A proof is offered only when the tree that the index gives has the root of the report on chain.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from offchain.domain.types import NodeId
from offchain.domain.uptime_tree import UptimeTree
from webapp.index import NodeRow, Snapshot
from webapp.sources.sources import Sources
from webapp.sources.status import Status
from webapp.sources.uptime_trees import Trees
from webapp.views.earnings import NodeEpoch, Stage, history_of

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


def claims_of(
    sources: Sources, trees: Trees, find: Callable[[Snapshot], Sequence[NodeRow]], epoch: int | None
) -> ClaimsView:
    """Claims of the nodes that `find` gives, of one epoch or of all. Raises what `find` raises, and IndexUnavailableError."""
    with sources.open() as (snapshot, head, status):
        history = history_of(sources, snapshot, head, status, find(snapshot), HISTORY_EPOCHS)
        due = [
            entry
            for entry in reversed(history.entries)
            if entry.stage is Stage.CLAIMABLE and (epoch is None or entry.epoch == epoch)
        ]
        chosen = due[:MAX_CLAIMS]
        epochs = sorted({entry.epoch for entry in chosen})
        reports = snapshot.reports(epochs[0], epochs[-1]) if epochs else {}
        found = {e: trees.of(snapshot, reports[e]) for e in epochs if e in reports}
    lines = [_line(entry, tree) for entry in chosen if (tree := found.get(entry.epoch)) is not None]
    broken = [e for e in epochs if found.get(e) is None]
    total = sum(line.amount_wei for line in lines)
    return ClaimsView(status, lines, total, len(due) - len(chosen), broken)


def _line(entry: NodeEpoch, tree: UptimeTree) -> ClaimLine:
    node = NodeId(entry.node_id)
    proof = ["0x" + sibling.hex() for sibling in tree.proof(node)]
    return ClaimLine(node, entry.epoch, entry.claimable_wei, "0x" + tree.leaf(node).hex(), proof)
