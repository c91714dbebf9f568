"""Whether this keeper does its work, and the figures that alerts are made of."""

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
from offchain.keeper.probing.clock_check import skew_ms
from offchain.keeper.process.celery import TICKS
from offchain.keeper.process.step_ages import Pulse
from offchain.outbox.intents import oldest_unfinished
from offchain.runtime.clock import Clock, seconds

SILENT_MS = 20_000
GAS_SECONDS = 30
OUTCOMES = ("final", "lapsed", "invalid", "differs")
NEEDED = ("chain.index", "chain.send", "inference.sweep", "uptime.probe", "uptime.plan", "uptime.attest")


class Health:
    """Readiness and metrics of one keeper, read when asked."""

    def __init__(
        self,
        database: Database,
        pulse: Pulse,
        clock: Clock,
        epochs: EpochClock,
        gas_wei: Callable[[], int],
    ) -> None:
        """
        Args:
            gas_wei: the signer's balance; asked at most every `GAS_SECONDS`.
        """
        self._database = database
        self._pulse = pulse
        self._clock = clock
        self._epochs = epochs
        self._gas_wei = gas_wei
        self._gas: tuple[int, int] | None = None

    def problems(self) -> list[str]:
        """What keeps this keeper from working, in words; empty when it is ready."""
        found = []
        try:
            with self._database.read() as session:
                if position(session, "head") is None:
                    found.append("nothing is indexed yet")
        except TransientError as error:
            found.append(str(error))
        try:
            ages = self._pulse.ages_ms(NEEDED)
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
        """Prometheus text."""
        registry = CollectorRegistry()
        try:
            self._database_metrics(registry)
        except TransientError:
            Gauge("parallelix_keeper_database_up", "1 while the database answers", registry=registry).set(0)
        else:
            Gauge("parallelix_keeper_database_up", "1 while the database answers", registry=registry).set(1)
        broker = Gauge("parallelix_keeper_broker_up", "1 while the broker answers", registry=registry)
        self._gas_metric(registry)
        age = Gauge(
            "parallelix_keeper_step_age_seconds", "Since a step last ran well", ["step"], registry=registry
        )
        try:
            for name, value in self._pulse.ages_ms(tick.task for tick in TICKS).items():
                if value is not None:
                    age.labels(name).set(value / 1000)
            broker.set(1)
        except TransientError:
            broker.set(0)
        return generate_latest(registry)

    def _gas_metric(self, registry: CollectorRegistry) -> None:
        now = seconds(self._clock)
        if self._gas is None or now - self._gas[0] >= GAS_SECONDS:
            try:
                self._gas = (now, self._gas_wei())
            except (TransientError, RpcError):
                return  # an old figure would hide that the endpoint is gone
        gauge = Gauge("parallelix_keeper_gas_wei", "Balance of the signer in wei", registry=registry)
        gauge.set(self._gas[1])

    def _database_metrics(self, registry: CollectorRegistry) -> None:
        now = seconds(self._clock)
        block = Gauge("parallelix_keeper_block", "Height of a cursor", ["cursor"], registry=registry)
        lag = Gauge(
            "parallelix_keeper_block_age_seconds", "Age of a cursor's block", ["cursor"], registry=registry
        )
        with self._database.read() as session:
            for name in ("head", "finalized"):
                found = position(session, name)
                if found is not None:
                    block.labels(name).set(found.number)
                    lag.labels(name).set(max(0, now - found.timestamp))
            _count(
                registry,
                "parallelix_keeper_probes",
                "Probes on record by outcome",
                ("outcome",),
                session.execute(select(Probe.outcome, func.count()).group_by(Probe.outcome)),
            )
            _count(
                registry,
                "parallelix_keeper_intents",
                "Transactions by status",
                ("status",),
                session.execute(select(Intent.status, func.count()).group_by(Intent.status)),
            )
            oldest = oldest_unfinished(session)
            waiting = Gauge(
                "parallelix_keeper_oldest_intent_age_seconds",
                "Age of the oldest transaction that is not over, 0 when all are",
                registry=registry,
            )
            waiting.set(0 if oldest is None else max(0, now - oldest))
            self._probe_metrics(registry, session, now)
            self._capability_metric(registry, session)
            skew = skew_ms(session)
            if skew is not None:
                Gauge(
                    "parallelix_keeper_clock_skew_seconds",
                    "By how much this clock is ahead of the chain's blocks, or the index late",
                    registry=registry,
                ).set(skew / 1000)
            closed = session.scalars(select(Job.result).where(Job.kind == "closed")).all()
            outcomes = Gauge(
                "parallelix_keeper_epochs", "Settled epochs by outcome", ["outcome"], registry=registry
            )
            for outcome in OUTCOMES:
                outcomes.labels(outcome).set(
                    sum(1 for row in closed if row and row.get("outcome") == outcome)
                )
            jobs = session.execute(select(Job.kind, Job.status, func.count()).group_by(Job.kind, Job.status))
            gauge = Gauge(
                "parallelix_keeper_jobs",
                "Durable jobs by kind and status",
                ["kind", "status"],
                registry=registry,
            )
            for kind in store.ALERTED:  # an increase is seen from a figure that was there before
                gauge.labels(kind, "done").set(0)
            for kind, status, count in jobs:
                gauge.labels(kind, status).set(count)

    def _probe_metrics(self, registry: CollectorRegistry, session: Session, now: int) -> None:
        """Probes of the present epoch that were due, and those of them that learnt nothing."""
        due = Gauge(
            "parallelix_keeper_probes_due", "Probes of this epoch whose slot is over", registry=registry
        )
        silent = Gauge("parallelix_keeper_probes_abstained", "Those without a result", registry=registry)
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
        misses = Gauge(
            "parallelix_keeper_misses", "Signed misses of this epoch by reason", ["reason"], registry=registry
        )
        for miss in MissReason:
            misses.labels(miss.name.lower()).set(counts.get(miss.name.lower(), 0))

    def _capability_metric(self, registry: CollectorRegistry, session: Session) -> None:
        """Nodes in the network that show something else than the manifest whose hash stands on chain."""
        found = (
            select(func.count())
            .select_from(Job)
            .join(Node, Node.node_id == cast(Job.ref, BigInteger))
            .where(Job.kind == CAPABILITY, Job.result["found"].as_string() != "[]", Node.withdrawn.is_(False))
        )
        gauge = Gauge(
            "parallelix_keeper_capability_mismatches",
            "Nodes that are not what they declared",
            registry=registry,
        )
        gauge.set(session.scalar(found) or 0)


def _count(
    registry: CollectorRegistry,
    name: str,
    text: str,
    labels: tuple[str, ...],
    rows: Iterable[Any],
) -> None:
    gauge = Gauge(name, text, labels, registry=registry)
    for value, count in rows:
        gauge.labels(value or "pending").set(count)
