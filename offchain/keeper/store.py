"""The keeper's own rows: planned and finished probes, bundles, signatures under reports, slot states, job leases."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

from sqlalchemy import CursorResult, Update, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from offchain.db.models import Bundle, Job, Probe, ReportSignature, SlotRecord
from offchain.db.upsert import insert_or_ignore, upsert
from offchain.domain.measurement.uptime import UptimeTable
from offchain.domain.types import Epoch, NodeId

_BATCH = 5_000
_PLANNED = ("epoch", "slot", "node_id", "due_at_ms")
BATCHES = "batches"
REFUSAL = "refusal"
"""Kind of the mark that this keeper did not sign a report."""
TWO_BATCHES = "two-batches"
"""Kind of the mark that a gateway committed twice to the records of an epoch."""
ALERTED = (REFUSAL, TWO_BATCHES)
REGION, REGIONS = "region", "regions"
# One letter for each slot: `offchain/db/reputation.py` counts the "m" in SQL.
STATE_LETTERS = {"up": "u", "missed": "m", "unconfirmed": "n", "abstained": "a"}


@dataclass(frozen=True, slots=True)
class DueProbe:
    """A planned probe; `due_at_ms` in Unix milliseconds."""

    epoch: Epoch
    slot: int
    node_id: NodeId
    due_at_ms: int


def plan_probes(session: Session, rows: Iterable[DueProbe]) -> int:
    """Insert probes; those that are planned already stay as they are. Returns the number of `rows`."""
    dialect: Any = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    # An epoch is planned twice; the second time meets the rows of the first.
    statement = dialect.insert(Probe).on_conflict_do_nothing()
    left, count = iter(rows), 0
    while batch := [
        {name: getattr(probe, name) for name in _PLANNED} | {"lease_until_ms": 0}
        for probe in islice(left, _BATCH)
    ]:
        session.execute(statement, batch)
        count += len(batch)
    return count


def is_marked(session: Session, kind: str, ref: str) -> bool:
    """Whether `mark` was called for this kind and ref."""
    row = session.get(Job, (kind, ref))
    return row is not None and row.status == "done"


def result_of(session: Session, kind: str, ref: str) -> dict[str, Any]:
    """What was noted with a mark or a finished job; empty when there is none."""
    row = session.get(Job, (kind, ref))
    return dict((row.result if row is not None else None) or {})


def mark(session: Session, kind: str, ref: str, now: int, result: Mapping[str, Any] | None = None) -> None:
    """Note at a Unix second that a step which is done once is done. A second call changes nothing."""
    done = {
        "status": "done",
        "lease_until": 0,
        "attempts": 1,
        "result": None if result is None else dict(result),
    }
    # A job that is done from the start, so that `jobs.due` never gives it out.
    insert_or_ignore(session, Job, {"kind": kind, "ref": ref, "created_at": now, **done})


def replace_mark(session: Session, kind: str, ref: str, now: int, result: Mapping[str, Any]) -> None:
    """Note at a Unix second the latest result of a step that is repeated; it replaces the result before."""
    mark(session, kind, ref, now, result)
    session.execute(update(Job).where(Job.kind == kind, Job.ref == ref).values(result=dict(result)))


def lease_due_probes(
    session: Session, now_ms: int, oldest_due_ms: int, lease_ms: int, limit: int
) -> list[DueProbe]:
    """Take probes that are due and not leased by anybody, oldest first.

    Args:
        now_ms: Unix milliseconds.
        oldest_due_ms: probes due before it are left alone: their slot is over.
        lease_ms: no other worker takes them for this long.
    """
    query = (
        select(Probe)
        .where(Probe.outcome.is_(None), Probe.lease_until_ms <= now_ms)
        .where(Probe.due_at_ms <= now_ms, Probe.due_at_ms >= oldest_due_ms)
        .order_by(Probe.due_at_ms)
        .limit(limit)
        .with_for_update(skip_locked=True)  # two workers of one keeper lease different probes
    )
    found = []
    for row in session.scalars(query):
        row.lease_until_ms = now_ms + lease_ms
        found.append(DueProbe(Epoch(row.epoch), row.slot, NodeId(row.node_id), row.due_at_ms))
    return found


def release_probes(session: Session, probes: Iterable[DueProbe], retry_at_ms: int) -> None:
    """Give unfinished probes back; they are due again at `retry_at_ms`, Unix milliseconds."""
    for probe in probes:
        session.execute(_unfinished(probe).values(lease_until_ms=retry_at_ms))


def record_probe(
    session: Session, probe: DueProbe, outcome: str, evidence: Mapping[str, Any], latency_ms: int | None
) -> bool:
    """Write a probe's result once; a second result of the same probe is dropped. Returns whether it was written."""
    values = {"outcome": outcome, "evidence": dict(evidence), "latency_ms": latency_ms}
    return cast("CursorResult[Any]", session.execute(_unfinished(probe).values(values))).rowcount == 1


def _unfinished(probe: DueProbe) -> Update:
    place = Probe.epoch == probe.epoch, Probe.slot == probe.slot, Probe.node_id == probe.node_id
    # The first result stays: a worker whose lease ran out may come late with another.
    return update(Probe).where(*place, Probe.outcome.is_(None))


def finished_probes(session: Session, epoch: Epoch, outcome: str) -> list[str]:
    """Packed entries of an epoch's finished probes with this outcome, in document order."""
    query = (
        select(Probe.evidence)
        .where(Probe.epoch == epoch, Probe.outcome == outcome)
        .order_by(Probe.slot, Probe.node_id)
    )
    return [cast("dict[str, str]", row)["entry"] for row in session.scalars(query)]


def drop_probes(session: Session, before: Epoch) -> int:
    """Delete probes of the epochs before `before`. Returns how many."""
    return cast("CursorResult[Any]", session.execute(delete(Probe).where(Probe.epoch < before))).rowcount


def note_region(session: Session, node: NodeId, region: str, now: int) -> None:
    """Remember the region that a node last named in a heartbeat, also after its heartbeats end."""
    replace_mark(session, REGION, str(node), now, {"region": region})


def frozen_regions(
    session: Session, epoch: Epoch, nodes: Container[NodeId], now: int
) -> dict[str, list[int]]:
    """Nodes of an epoch by region, as they were at the first call for that epoch; ids ascend."""
    if session.get(Job, (REGIONS, str(epoch))) is None:
        found: dict[str, list[int]] = {}
        for ref, result in session.execute(select(Job.ref, Job.result).where(Job.kind == REGION)):
            if NodeId(int(ref)) in nodes:
                found.setdefault(result["region"], []).append(int(ref))
        ordered = {region: sorted(ids) for region, ids in sorted(found.items())}
        mark(session, REGIONS, str(epoch), now, ordered)
    return result_of(session, REGIONS, str(epoch))


def frozen_batches(session: Session, epoch: Epoch) -> list[str] | None:
    """Packed batches of gateways in this keeper's document of an epoch, None before they are frozen."""
    entries = result_of(session, BATCHES, str(epoch)).get("entries")
    return None if entries is None else list(entries)


def freeze_batches(session: Session, epoch: Epoch, entries: Sequence[str], now: int) -> list[str]:
    """Store these batches for an epoch unless some are stored already. Returns the stored ones."""
    mark(session, BATCHES, str(epoch), now, {"entries": list(entries)})
    return frozen_batches(session, epoch) or []


def drop_frozen(session: Session, epoch: Epoch) -> None:
    """Delete an old epoch's `frozen_regions` and `frozen_batches`."""
    session.execute(delete(Job).where(Job.kind.in_((REGIONS, BATCHES)), Job.ref == str(epoch)))


def save_bundle(session: Session, epoch: Epoch, bundle_hash: str, raw: bytes) -> None:
    """Store a bundle under its hash; a second call changes nothing."""
    insert_or_ignore(session, Bundle, {"hash": bundle_hash, "epoch": epoch, "body": raw})


def load_bundle(session: Session, bundle_hash: str) -> bytes | None:
    """Bytes of a bundle by its content address."""
    return session.scalar(select(Bundle.body).where(Bundle.hash == bundle_hash))


def own_report(session: Session, epoch: Epoch, signer: str) -> tuple[dict[str, Any], str] | None:
    """The report that this keeper signed for an epoch, and its signature (0x-hex)."""
    row = session.get(ReportSignature, (epoch, signer.lower()))
    return None if row is None else (row.report, row.signature)


def add_signature(
    session: Session, epoch: Epoch, signer: str, report: Mapping[str, Any], signature: str
) -> bool:
    """Store a keeper's signature under a report. A keeper has one report an epoch: the first one stays.

    Returns:
        Whether the stored report of this keeper is this one.
    """
    row = {"epoch": epoch, "signer": signer.lower(), "report": dict(report), "signature": signature}
    if insert_or_ignore(session, ReportSignature, row):
        return True
    stored = own_report(session, epoch, signer)
    return stored is not None and stored[0] == dict(report)


def signatures(session: Session, epoch: Epoch) -> Sequence[ReportSignature]:
    """All signatures known for an epoch."""
    query = select(ReportSignature).where(ReportSignature.epoch == epoch).order_by(ReportSignature.signer)
    return session.scalars(query).all()


def save_slots(session: Session, epoch: Epoch, table: UptimeTable) -> None:
    """Store the slot states of an attested epoch; dashboards show them."""
    rows = []
    for node, states in table.states.items():
        letters = "".join(STATE_LETTERS[state] for state in states)
        rows.append({"epoch": epoch, "node_id": node, "states": letters, "uptime_bps": table.uptime(node)})
    for start in range(0, len(rows), _BATCH):
        # Overwrites: after a rejection the next report of the epoch has other slots.
        upsert(session, SlotRecord, rows[start : start + _BATCH])


def finished_jobs(session: Session, kind: str, since: int) -> Sequence[Job]:
    """Jobs of a kind that were done and created after a Unix second, by ref."""
    query = (
        select(Job).where(Job.kind == kind, Job.status == "done", Job.created_at >= since).order_by(Job.ref)
    )
    return session.scalars(query).all()
