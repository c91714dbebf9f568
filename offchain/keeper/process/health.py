"""Whether this keeper does its work (`/ready`), and the figures of `/metrics` that alerts watch."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from sqlalchemy import BigInteger, cast, func, select
from sqlalchemy.orm import Session

from offchain.chain.rpc import RpcError
from offchain.db.cursors import position
from offchain.db.database import Database
from offchain.db.models import Intent, Job, Node, Probe
from offchain.domain.epochs import EpochClock
from offchain.domain.messages import MissReason
from offchain.domain.types import Epoch
from offchain.errors import TransientError
from offchain.keeper import store
from offchain.keeper.probing.capability_check import CAPABILITY
from offchain.keeper.probing.clock_check import clock_offset_ms
from offchain.keeper.process.celery import TICKS
from offchain.keeper.process.step_ages import StepAges
from offchain.outbox.intents import oldest_unfinished
from offchain.runtime.clock import Clock, seconds

SILENT_MS = 20_000
"""A step that did not run well for this long makes the keeper not ready."""
GAS_SECONDS = 30
OUTCOMES = ("final", "lapsed", "invalid", "differs")
# Not validation, manifests and settlement: a keeper that is late with these still measures and signs.
NEEDED = ("chain.index", "chain.send", "inference.sweep", "uptime.probe", "uptime.plan", "uptime.attest")


@dataclass(eq=False)
class Health:
    """Readiness and metrics of one keeper, read anew at each call.

    Attributes:
        gas_wei: the signer's balance; asked at most every `GAS_SECONDS`.
    """

    database: Database
    step_ages: StepAges
    clock: Clock
    epochs: EpochClock
    gas_wei: Callable[[], int]
    _gas: tuple[int, int] | None = field(default=None, init=False)

    def problems(self) -> list[str]:
        """What keeps this keeper from working, in words; empty when the keeper is ready."""
        found = []
        try:
            with self.database.read() as session:
                if position(session, "head") is None:
                    found.append("nothing is indexed yet")
        except TransientError as error:
            found.append(str(error))
        try:
            ages = self.step_ages.ages_ms(NEEDED)
        except TransientError as error:
            return [*found, str(error)]
        found += [f"{name} never ran" for name, age in ages.items() if age is None]
        found += [
            f"{name} last ran {age // 1000} s ago"
            for name, age in ages.items()
            if age is not None and age > SILENT_MS
        ]
        return found

    def metrics(self) -> bytes:
        """Prometheus text. What cannot be read is left out, and `..._database_up` or `..._broker_up` is 0."""
        registry, up = CollectorRegistry(), True
        try:
            with self.database.read() as session:
                self._index_metrics(registry, session)
                _work_metrics(registry, session)
                self._transaction_metrics(registry, session)
                self._probe_metrics(registry, session)
                _capability_metric(registry, session)
        except TransientError:
            up = False
        _show(registry, "parallelix_keeper_database_up", "1 while the database answers", up)
        self._gas_metric(registry)
        self._step_metrics(registry)
        return generate_latest(registry)

    def _step_metrics(self, registry: CollectorRegistry) -> None:
        try:
            ages = self.step_ages.ages_ms(tick.task for tick in TICKS)
        except TransientError:
            ages = {}
        _show(registry, "parallelix_keeper_broker_up", "1 while the broker answers", bool(ages))
        ran = [(name, age / 1000) for name, age in ages.items() if age is not None]
        _show_each(
            registry, "parallelix_keeper_step_age_seconds", "Since a step last ran well", ["step"], ran
        )

    def _gas_metric(self, registry: CollectorRegistry) -> None:
        now = seconds(self.clock)
        if self._gas is None or now - self._gas[0] >= GAS_SECONDS:
            try:
                self._gas = (now, self.gas_wei())
            except (TransientError, RpcError):
                return  # an old figure would hide that the endpoint is gone
        _show(registry, "parallelix_keeper_gas_wei", "Balance of the signer in wei", self._gas[1])

    def _index_metrics(self, registry: CollectorRegistry, session: Session) -> None:
        """How far the index has come, and how far this clock is from the chain's."""
        now = seconds(self.clock)
        found = [(name, position(session, name)) for name in ("head", "finalized")]
        seen = [(name, block) for name, block in found if block is not None]
        ages = [(name, max(0, now - block.timestamp)) for name, block in seen]
        heights = [(name, block.number) for name, block in seen]
        _show_each(registry, "parallelix_keeper_block", "Height of a cursor", ["cursor"], heights)
        name, text = "parallelix_keeper_block_age_seconds", "Age of a cursor's block"
        _show_each(registry, name, text, ["cursor"], ages)
        offset = clock_offset_ms(session)
        if offset is not None:
            text = "By how much this clock is ahead of the chain's blocks, or the index late"
            _show(registry, "parallelix_keeper_clock_skew_seconds", text, offset / 1000)

    def _transaction_metrics(self, registry: CollectorRegistry, session: Session) -> None:
        statuses = session.execute(select(Intent.status, func.count()).group_by(Intent.status))
        _show_each(registry, "parallelix_keeper_intents", "Transactions by status", ["status"], statuses)
        oldest = oldest_unfinished(session)
        age = 0 if oldest is None else max(0, seconds(self.clock) - oldest)
        text = "Age of the oldest transaction that is not over, 0 when all are"
        _show(registry, "parallelix_keeper_oldest_intent_age_seconds", text, age)

    def _probe_metrics(self, registry: CollectorRegistry, session: Session) -> None:
        """Probes by outcome; of the present epoch: those that were due, those without a result, and misses by reason."""
        by_outcome = select(func.coalesce(Probe.outcome, "pending"), func.count()).group_by(Probe.outcome)
        name, text = "parallelix_keeper_probes", "Probes on record by outcome"
        _show_each(registry, name, text, ["outcome"], session.execute(by_outcome))
        now, due, silent = seconds(self.clock), 0, 0
        if now >= self.epochs.genesis:
            epoch = self.epochs.epoch_at(now)
            # Due a whole slot ago: wherever in its slot the probe was due, the slot is over.
            over = now * 1000 - self.epochs.length_seconds * 1000 // self.epochs.slots
            rows = select(func.count()).where(Probe.epoch == epoch, Probe.due_at_ms <= over)
            due = session.scalar(rows) or 0
            silent = session.scalar(rows.where(Probe.outcome.is_(None))) or 0
            _show_misses(registry, session, epoch)
        _show(registry, "parallelix_keeper_probes_due", "Probes of this epoch whose slot is over", due)
        _show(registry, "parallelix_keeper_probes_abstained", "Those without a result", silent)


def _show_misses(registry: CollectorRegistry, session: Session, epoch: Epoch) -> None:
    reason = Probe.evidence["reason"].as_string()
    missed = select(reason, func.count()).where(Probe.epoch == epoch, Probe.outcome == "missed")
    counts: dict[str | None, int] = dict(session.execute(missed.group_by(reason)).all())
    rows = [(name, counts.get(name, 0)) for name in (miss.name.lower() for miss in MissReason)]
    text = "Signed misses of this epoch by reason"
    _show_each(registry, "parallelix_keeper_misses", text, ["reason"], rows)


def _work_metrics(registry: CollectorRegistry, session: Session) -> None:
    """Settled epochs and durable jobs."""
    closed = session.scalars(select(Job.result).where(Job.kind == "closed")).all()
    found = Counter(row.get("outcome") for row in closed if row)
    settled = [(outcome, found[outcome]) for outcome in OUTCOMES]
    _show_each(registry, "parallelix_keeper_epochs", "Settled epochs by outcome", ["outcome"], settled)
    by_status = select(Job.kind, Job.status, func.count()).group_by(Job.kind, Job.status)
    # Prometheus sees an increase only from a figure that was there before.
    rows = [*((kind, "done", 0) for kind in store.ALERTED), *session.execute(by_status)]
    text = "Durable jobs by kind and status"
    _show_each(registry, "parallelix_keeper_jobs", text, ["kind", "status"], rows)


def _capability_metric(registry: CollectorRegistry, session: Session) -> None:
    """Nodes in the network whose manifest contradicts the hash on chain or what they show."""
    found = (
        select(func.count())
        .select_from(Job)
        .join(Node, Node.node_id == cast(Job.ref, BigInteger))
        .where(Job.kind == CAPABILITY, Job.result["found"].as_string() != "[]", Node.withdrawn.is_(False))
    )
    name, text = "parallelix_keeper_capability_mismatches", "Nodes that are not what they declared"
    _show(registry, name, text, session.scalar(found) or 0)


def _show(registry: CollectorRegistry, name: str, text: str, value: float) -> None:
    Gauge(name, text, registry=registry).set(value)


def _show_each(
    registry: CollectorRegistry, name: str, text: str, labels: Sequence[str], rows: Iterable[Any]
) -> None:
    """One figure a row: the labels' values, then the figure. Of two rows with the same labels the last one counts."""
    gauge = Gauge(name, text, labels, registry=registry)
    for *values, figure in rows:
        gauge.labels(*values).set(figure)
