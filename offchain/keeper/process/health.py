"""Whether this keeper does its work (`/ready`), and the figures of `/metrics` that alerts watch."""

from collections.abc import Callable, Iterable
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
NEEDED = ("chain.index", "chain.send", "inference.sweep", "uptime.probe", "uptime.plan", "uptime.attest")


class Health:
    """Readiness and metrics of one keeper, read anew at each call."""

    def __init__(
        self,
        database: Database,
        step_ages: StepAges,
        clock: Clock,
        epochs: EpochClock,
        gas_wei: Callable[[], int],
    ) -> None:
        """
        Args:
            gas_wei: the signer's balance; asked at most every `GAS_SECONDS`.
        """
        self._database = database
        self._step_ages = step_ages
        self._clock = clock
        self._epochs = epochs
        self._gas_wei = gas_wei
        self._gas: tuple[int, int] | None = None

    def problems(self) -> list[str]:
        """What keeps this keeper from working, in words; empty when the keeper is ready."""
        found = []
        try:
            with self._database.read() as session:
                if position(session, "head") is None:
                    found.append("nothing is indexed yet")
        except TransientError as error:
            found.append(str(error))
        try:
            ages = self._step_ages.ages_ms(NEEDED)
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
        registry = CollectorRegistry()
        database = _gauge(registry, "parallelix_keeper_database_up", "1 while the database answers")
        try:
            with self._database.read() as session:
                self._index_metrics(registry, session)
                _work_metrics(registry, session)
                self._transaction_metrics(registry, session)
                self._probe_metrics(registry, session)
                _capability_metric(registry, session)
            database.set(1)
        except TransientError:
            database.set(0)
        self._gas_metric(registry)
        self._step_metrics(registry)
        return generate_latest(registry)

    def _step_metrics(self, registry: CollectorRegistry) -> None:
        broker = _gauge(registry, "parallelix_keeper_broker_up", "1 while the broker answers")
        age = _gauge(registry, "parallelix_keeper_step_age_seconds", "Since a step last ran well", "step")
        try:
            for name, value in self._step_ages.ages_ms(tick.task for tick in TICKS).items():
                if value is not None:
                    age.labels(name).set(value / 1000)
            broker.set(1)
        except TransientError:
            broker.set(0)

    def _gas_metric(self, registry: CollectorRegistry) -> None:
        now = seconds(self._clock)
        if self._gas is None or now - self._gas[0] >= GAS_SECONDS:
            try:
                self._gas = (now, self._gas_wei())
            except (TransientError, RpcError):
                return  # an old figure would hide that the endpoint is gone
        _, balance = self._gas
        _gauge(registry, "parallelix_keeper_gas_wei", "Balance of the signer in wei").set(balance)

    def _index_metrics(self, registry: CollectorRegistry, session: Session) -> None:
        """How far the index has come, and how far this clock is from the chain's."""
        now = seconds(self._clock)
        block = _gauge(registry, "parallelix_keeper_block", "Height of a cursor", "cursor")
        lag = _gauge(registry, "parallelix_keeper_block_age_seconds", "Age of a cursor's block", "cursor")
        for name in ("head", "finalized"):
            found = position(session, name)
            if found is not None:
                block.labels(name).set(found.number)
                lag.labels(name).set(max(0, now - found.timestamp))
        offset = clock_offset_ms(session)
        if offset is not None:
            _gauge(
                registry,
                "parallelix_keeper_clock_skew_seconds",
                "By how much this clock is ahead of the chain's blocks, or the index late",
            ).set(offset / 1000)

    def _transaction_metrics(self, registry: CollectorRegistry, session: Session) -> None:
        statuses = session.execute(select(Intent.status, func.count()).group_by(Intent.status))
        _count(_gauge(registry, "parallelix_keeper_intents", "Transactions by status", "status"), statuses)
        oldest = oldest_unfinished(session)
        _gauge(
            registry,
            "parallelix_keeper_oldest_intent_age_seconds",
            "Age of the oldest transaction that is not over, 0 when all are",
        ).set(0 if oldest is None else max(0, seconds(self._clock) - oldest))

    def _probe_metrics(self, registry: CollectorRegistry, session: Session) -> None:
        """Probes by outcome; of the present epoch: those that were due, those without a result, and misses by reason."""
        outcomes = session.execute(select(Probe.outcome, func.count()).group_by(Probe.outcome))
        _count(
            _gauge(registry, "parallelix_keeper_probes", "Probes on record by outcome", "outcome"), outcomes
        )
        due = _gauge(registry, "parallelix_keeper_probes_due", "Probes of this epoch whose slot is over")
        silent = _gauge(registry, "parallelix_keeper_probes_abstained", "Those without a result")
        now = seconds(self._clock)
        if now < self._epochs.genesis:
            return
        epoch = self._epochs.epoch_at(now)
        over = now * 1000 - self._epochs.length_seconds * 1000 // self._epochs.slots
        rows = select(func.count()).where(Probe.epoch == epoch, Probe.due_at_ms <= over)
        due.set(session.scalar(rows) or 0)
        silent.set(session.scalar(rows.where(Probe.outcome.is_(None))) or 0)
        reason = Probe.evidence["reason"].as_string()
        found = session.execute(
            select(reason, func.count())
            .where(Probe.epoch == epoch, Probe.outcome == "missed")
            .group_by(reason)
        )
        counts: dict[str | None, int] = dict(found.all())
        misses = _gauge(
            registry, "parallelix_keeper_misses", "Signed misses of this epoch by reason", "reason"
        )
        for miss in MissReason:
            misses.labels(miss.name.lower()).set(counts.get(miss.name.lower(), 0))


def _work_metrics(registry: CollectorRegistry, session: Session) -> None:
    """Settled epochs and durable jobs."""
    closed = session.scalars(select(Job.result).where(Job.kind == "closed")).all()
    epochs = _gauge(registry, "parallelix_keeper_epochs", "Settled epochs by outcome", "outcome")
    for outcome in OUTCOMES:
        epochs.labels(outcome).set(sum(1 for row in closed if row and row.get("outcome") == outcome))
    jobs = _gauge(registry, "parallelix_keeper_jobs", "Durable jobs by kind and status", "kind", "status")
    for kind in store.ALERTED:  # Prometheus sees an increase only from a figure that was there before
        jobs.labels(kind, "done").set(0)
    by_status = select(Job.kind, Job.status, func.count()).group_by(Job.kind, Job.status)
    for kind, status, count in session.execute(by_status):
        jobs.labels(kind, status).set(count)


def _capability_metric(registry: CollectorRegistry, session: Session) -> None:
    """Nodes in the network whose manifest contradicts the hash on chain or what they show."""
    found = (
        select(func.count())
        .select_from(Job)
        .join(Node, Node.node_id == cast(Job.ref, BigInteger))
        .where(Job.kind == CAPABILITY, Job.result["found"].as_string() != "[]", Node.withdrawn.is_(False))
    )
    gauge = _gauge(
        registry, "parallelix_keeper_capability_mismatches", "Nodes that are not what they declared"
    )
    gauge.set(session.scalar(found) or 0)


def _gauge(registry: CollectorRegistry, name: str, text: str, *labels: str) -> Gauge:
    return Gauge(name, text, labels, registry=registry)


def _count(gauge: Gauge, rows: Iterable[Any]) -> None:
    for value, count in rows:
        gauge.labels(value or "pending").set(count)
