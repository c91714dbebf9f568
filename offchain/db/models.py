"""Tables. `events` is the truth that the chain gave; the tables below it are projections that can be rebuilt from it.

Every row of `events` and of a projection comes from the *head* cursor and may still be reorganised away; whoever signs
or pays reads only blocks at or below the *finalized* cursor.
"""

from typing import Any

from sqlalchemy import JSON, BigInteger, Index, LargeBinary, String, Text, UniqueConstraint, text
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator


class Uint256(TypeDecorator[int]):
    """An unsigned integer of any size, kept as 78 zero-padded decimal digits: exact, and sorts as a number."""

    impl = String(78)
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        if value < 0:
            raise ValueError(f"{value} is negative")
        return f"{value:078d}"  # 10^77 < 2^256 < 10^78

    def process_result_value(self, value: str | None, dialect: Dialect) -> int | None:
        return None if value is None else int(value)


class Base(DeclarativeBase):
    """Base of all tables."""


# --------------------------------------------------------------------------------------------------- the chain, read


class Cursor(Base):
    """How far a scan has come: `head` (provisional) or `finalized`. Moves by compare-and-set with its rows."""

    __tablename__ = "cursors"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    block_number: Mapped[int] = mapped_column(BigInteger)
    block_hash: Mapped[str] = mapped_column(String(66))
    block_timestamp: Mapped[int] = mapped_column(BigInteger)


class Block(Base):
    """Recent canonical headers, to find where a reorganisation forked off."""

    __tablename__ = "blocks"

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    hash: Mapped[str] = mapped_column(String(66))
    parent_hash: Mapped[str] = mapped_column(String(66))
    timestamp: Mapped[int] = mapped_column(BigInteger)


class Event(Base):
    """One decoded log of one of our contracts. Identity: (block hash, log index) on the database's one chain."""

    __tablename__ = "events"
    __table_args__ = (
        Index("ix_events_place", "block_number", "log_index"),
        Index("ix_events_node", "node_id", "block_number"),
        Index("ix_events_entity", "entity", "block_number", "log_index"),
        Index("ix_events_epoch", "epoch"),
        Index(
            "ix_events_overridden",
            "epoch",
            "node_id",
            sqlite_where=text("name = 'UptimeOverridden'"),
            postgresql_where=text("name = 'UptimeOverridden'"),
        ),
    )

    block_hash: Mapped[str] = mapped_column(String(66), primary_key=True)
    log_index: Mapped[int] = mapped_column(primary_key=True)
    block_number: Mapped[int] = mapped_column(BigInteger)
    block_timestamp: Mapped[int] = mapped_column(BigInteger)
    tx_hash: Mapped[str] = mapped_column(String(66))
    contract: Mapped[str] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(40))
    args: Mapped[dict[str, Any]] = mapped_column(JSON)
    """Arguments by name: integers as decimal text, bytes as 0x-hex, addresses checksummed."""
    node_id: Mapped[int | None]
    epoch: Mapped[int | None] = mapped_column(BigInteger)
    entity: Mapped[str | None] = mapped_column(String(80))
    """The one projection that this event bears on, e.g. `node:5`; null when none. All events of an entity, in
    order, give its rows: that is how a reorganisation is replayed."""


class Node(Base):
    """A registered node. `active_until` is null while it stays; weight counts in [active_from, active_until)."""

    __tablename__ = "nodes"

    node_id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(String(42), index=True)
    beneficiary: Mapped[str] = mapped_column(String(42))
    key_address: Mapped[str] = mapped_column(String(42), index=True)
    key_hash: Mapped[str] = mapped_column(String(66))
    tier: Mapped[int]
    stake_wei: Mapped[int] = mapped_column(Uint256)
    active_from: Mapped[int] = mapped_column(BigInteger)
    active_until: Mapped[int | None] = mapped_column(BigInteger)
    unlock_at: Mapped[int | None] = mapped_column(BigInteger)
    withdrawn: Mapped[bool] = mapped_column(default=False)
    manifest_hash: Mapped[str | None] = mapped_column(String(66))
    manifest_uri: Mapped[str | None] = mapped_column(Text)
    registered_block: Mapped[int] = mapped_column(BigInteger)
    registered_at: Mapped[int] = mapped_column(BigInteger)
    """Unix seconds of that block."""


class NodeInterval(Base):
    """An earlier activity interval [active_from, active_until), kept when an unstake is cancelled."""

    __tablename__ = "node_intervals"

    node_id: Mapped[int] = mapped_column(primary_key=True)
    active_from: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    active_until: Mapped[int] = mapped_column(BigInteger)


class Keeper(Base):
    """A bonded keeper; its index in an epoch's signer set is read from the contract."""

    __tablename__ = "keepers"

    keeper_id: Mapped[int] = mapped_column(primary_key=True)
    operator: Mapped[str] = mapped_column(String(42))
    signer: Mapped[str] = mapped_column(String(42), index=True)
    bond_wei: Mapped[int] = mapped_column(Uint256)
    region: Mapped[str] = mapped_column(String(32))
    url: Mapped[str] = mapped_column(Text)
    active_from: Mapped[int] = mapped_column(BigInteger)
    active_until: Mapped[int | None] = mapped_column(BigInteger)


class Gateway(Base):
    """A ticket signer that a keeper has listed."""

    __tablename__ = "gateways"

    signer: Mapped[str] = mapped_column(String(42), primary_key=True)
    keeper_id: Mapped[int]
    url: Mapped[str] = mapped_column(Text)


class Report(Base):
    """The report of an epoch that the chain accepted."""

    __tablename__ = "reports"

    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    uptime_root: Mapped[str] = mapped_column(String(66))
    node_count: Mapped[int]
    execution_root: Mapped[str] = mapped_column(String(66))
    bundle_hash: Mapped[str] = mapped_column(String(66))
    signer_bitmap: Mapped[int] = mapped_column(Uint256)
    rejected: Mapped[bool] = mapped_column(default=False)
    submitted_at: Mapped[int] = mapped_column(BigInteger)
    final_at: Mapped[int] = mapped_column(BigInteger)
    tx_hash: Mapped[str] = mapped_column(String(66))


class Claim(Base):
    """A reward that was paid. A node's years lie side by side on disk: they are read together."""

    __tablename__ = "claims"
    __table_args__ = ({"sqlite_with_rowid": False},)

    node_id: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    to_address: Mapped[str] = mapped_column(String(42))
    amount_wei: Mapped[int] = mapped_column(Uint256)
    uptime_bps: Mapped[int]
    paid_at: Mapped[int] = mapped_column(BigInteger)
    tx_hash: Mapped[str] = mapped_column(String(66))


class MarketRequest(Base):
    """An on-chain inference request and what became of it: `open`, `fulfilled` or `refunded`."""

    __tablename__ = "market_requests"
    __table_args__ = (Index("ix_market_requests_node", "node_id", "status", "price_wei"),)

    request_id: Mapped[str] = mapped_column(String(66), primary_key=True)
    requester: Mapped[str] = mapped_column(String(42))
    model_hash: Mapped[str] = mapped_column(String(66))
    payload: Mapped[bytes] = mapped_column(LargeBinary)
    price_ceiling_wei: Mapped[int] = mapped_column(Uint256)
    deadline: Mapped[int] = mapped_column(BigInteger)
    requested_block: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(String(16), index=True)
    node_id: Mapped[int | None]
    price_wei: Mapped[int | None] = mapped_column(Uint256)
    result: Mapped[bytes | None] = mapped_column(LargeBinary)


# -------------------------------------------------------------------------------------------------- the chain, written


class Intent(Base):
    """A transaction that must happen once, written before anything is broadcast.

    `status`: pending -> sent -> mined -> final, or fault (somebody is alerted), or superseded (somebody else did it).
    """

    __tablename__ = "intents"
    # The last guard of ADR 0040: no two intents share a nonce, even if a lease fails.
    __table_args__ = (UniqueConstraint("signer", "nonce"),)

    key: Mapped[str] = mapped_column(String(120), primary_key=True)
    """Unique name of the effect, e.g. `attest:42`, `fulfil:0x..`."""
    signer: Mapped[str] = mapped_column(String(42))
    to_address: Mapped[str] = mapped_column(String(42))
    data: Mapped[bytes] = mapped_column(LargeBinary)
    contract: Mapped[str] = mapped_column(String(40))
    function: Mapped[str] = mapped_column(String(80))
    """Contract and function by name, for people and for decoding errors."""
    status: Mapped[str] = mapped_column(String(16), index=True)
    nonce: Mapped[int | None] = mapped_column(BigInteger)
    gas_limit: Mapped[int | None] = mapped_column(BigInteger)
    gas_used: Mapped[int | None] = mapped_column(BigInteger)
    mined_block: Mapped[int | None] = mapped_column(BigInteger)
    mined_hash: Mapped[str | None] = mapped_column(String(66))
    """Hash of the block it was mined in; a reorganisation shows as a difference."""
    reverted: Mapped[bool] = mapped_column(default=False)
    """Mined, but the transaction failed."""
    tx_hash: Mapped[str | None] = mapped_column(String(66))
    error: Mapped[str | None] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(default=0)
    retry_at: Mapped[int] = mapped_column(BigInteger, default=0)
    """Unix seconds before which a pending intent is left alone."""
    created_at: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[int] = mapped_column(BigInteger)


class Broadcast(Base):
    """One signed transaction of an intent; a replacement has the same nonce and higher fees."""

    __tablename__ = "broadcasts"

    tx_hash: Mapped[str] = mapped_column(String(66), primary_key=True)
    intent_key: Mapped[str] = mapped_column(String(120), index=True)
    nonce: Mapped[int] = mapped_column(BigInteger)
    raw: Mapped[bytes] = mapped_column(LargeBinary)
    max_fee_wei: Mapped[int] = mapped_column(Uint256)
    priority_fee_wei: Mapped[int] = mapped_column(Uint256)
    cancels: Mapped[bool] = mapped_column(default=False)
    """An empty transaction to oneself that only uses the nonce up, because the intent's own could no longer succeed."""
    sent_at: Mapped[int] = mapped_column(BigInteger)
    """Unix seconds at which it was first handed to an RPC endpoint; 0 before."""


class ProcessLease(Base):
    """A named right that one process holds at a time, such as sending for a signer. Times are Unix milliseconds."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    holder: Mapped[str] = mapped_column(String(64))
    until_ms: Mapped[int] = mapped_column(BigInteger)


# ------------------------------------------------------------------------------------------------------- keeper's work


class Job(Base):
    """A unit of durable work. A row whose lease ran out is enqueued again by the sweep; the broker is only messenger.

    `kind`: `fulfil` (ref = request id) and later batches. `status`: ready, leased, done, failed.
    """

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_due", "status", "lease_until"),)

    kind: Mapped[str] = mapped_column(String(24), primary_key=True)
    ref: Mapped[str] = mapped_column(String(120), primary_key=True)
    status: Mapped[str] = mapped_column(String(16))
    lease_until: Mapped[int] = mapped_column(BigInteger, default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None] = mapped_column(Text)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    created_at: Mapped[int] = mapped_column(BigInteger)


class Probe(Base):
    """A planned or finished probe of this keeper; once finished it holds signed evidence.

    `outcome`: null until finished, then `answered` (dual-signed receipt) or `missed` (signed miss).
    """

    __tablename__ = "probes"
    __table_args__ = (Index("ix_probes_due", "outcome", "due_at_ms"),)

    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    slot: Mapped[int] = mapped_column(primary_key=True)
    node_id: Mapped[int] = mapped_column(primary_key=True)
    due_at_ms: Mapped[int] = mapped_column(BigInteger)
    lease_until_ms: Mapped[int] = mapped_column(BigInteger, default=0)
    outcome: Mapped[str | None] = mapped_column(String(16))
    evidence: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """As it stands in the keeper's evidence document and in the bundle."""
    latency_ms: Mapped[int | None]


class Bundle(Base):
    """Evidence bundle of an epoch, by its keccak256: canonical bytes, served to anybody."""

    __tablename__ = "bundles"

    hash: Mapped[str] = mapped_column(String(66), primary_key=True)
    epoch: Mapped[int] = mapped_column(BigInteger, index=True)
    body: Mapped[bytes] = mapped_column(LargeBinary)


class ReportSignature(Base):
    """A keeper's signature under a report, own or collected. One keeper signs one report an epoch, ever."""

    __tablename__ = "report_signatures"

    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    signer: Mapped[str] = mapped_column(String(42), primary_key=True)
    report: Mapped[dict[str, Any]] = mapped_column(JSON)
    signature: Mapped[str] = mapped_column(String(132))


class SlotRecord(Base):
    """State of one (node, slot) of an attested epoch, as the bundle shows it; what dashboards read.

    The index answers "a node's uptime over a year" without touching the states.
    """

    __tablename__ = "slot_records"
    __table_args__ = (Index("ix_slot_records_node", "node_id", "epoch", "uptime_bps"),)

    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    node_id: Mapped[int] = mapped_column(primary_key=True)
    states: Mapped[str] = mapped_column(Text)
    """One letter a slot: u up, m missed, n unconfirmed, a abstained."""
    uptime_bps: Mapped[int]
