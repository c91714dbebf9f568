"""The entries of some nodes over a range of epochs, read from one snapshot and the chain at the snapshot's block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from webapp.index import ClaimRow, Head, NodeRow, OverrideRow, ReportRow, Snapshot
from webapp.sources.epoch_facts import KnownEpochs
from webapp.sources.sources import Sources
from webapp.sources.status import Status
from webapp.views.earnings.node_epochs import EarningsInputs, NodeEpoch, node_epochs


@dataclass(frozen=True, slots=True)
class History:
    """Every (node, epoch) of some nodes in a range, newest epoch first, with what the entries were computed from."""

    entries: Sequence[NodeEpoch]
    known: KnownEpochs
    reports: Mapping[int, ReportRow]
    overrides: Sequence[OverrideRow]


def history_of(
    sources: Sources,
    snapshot: Snapshot,
    head: Head | None,
    status: Status,
    nodes: Sequence[NodeRow],
    window: int,
    until: int | None = None,
) -> History:
    """Entries of `nodes` in the running epoch and the `window` epochs before it, but none after epoch `until`."""
    if status.epoch is None or not nodes:
        return History([], KnownEpochs({}, frozenset(), None), {}, [])
    current = status.epoch.number
    last = current if until is None else min(current, until)
    starts = [node.active_from for node in nodes] + [start for node in nodes for start, _ in node.earlier]
    first = min(last, max(0, current - window, min(starts)))
    epochs = list(range(last, first - 1, -1))
    ids = [node.node_id for node in nodes]
    reports = snapshot.reports(first, last)
    known = sources.epoch_facts.load(head, epochs, [e for e in epochs if e < current and e not in reports])
    claims = {(claim.node_id, claim.epoch): claim for claim in snapshot.claims(ids, first, last)}
    overrides = [
        row
        for row in snapshot.overrides(first, last, ids)
        if (report := reports.get(row.epoch)) is not None and row.stands(report)
    ]
    uptimes = _unclaimed_uptimes(snapshot, nodes, reports, claims)
    # Over the attested ones, in chain order: the newest appeal is what the contract pays by.
    uptimes.update({(row.node_id, row.epoch): row.recounted_bps for row in overrides})
    constants = sources.constants()
    window_seconds = constants.claim_window_seconds if constants else None
    facts = known.lapsed, known.epochs, uptimes, claims
    inputs = EarningsInputs(current, status.now, reports, *facts, window_seconds)
    return History(node_epochs(nodes, epochs, inputs), known, reports, overrides)


def _unclaimed_uptimes(
    snapshot: Snapshot,
    nodes: Sequence[NodeRow],
    reports: Mapping[int, ReportRow],
    claims: Mapping[tuple[int, int], ClaimRow],
) -> dict[tuple[int, int], int]:
    """Attested uptimes by (node, epoch) of epochs with an unclaimed reward; a claim's own event names its uptime."""
    unclaimed = [
        e for e in reports if any((node.node_id, e) not in claims and node.weight_at(e) for node in nodes)
    ]
    return snapshot.uptimes([node.node_id for node in nodes], unclaimed)
