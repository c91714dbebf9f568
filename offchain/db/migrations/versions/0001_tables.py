"""All tables of the first version."""

import sqlalchemy as sa
from alembic import op

from offchain.db.models import Uint256

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "blocks",
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(length=66), nullable=False),
        sa.Column("parent_hash", sa.String(length=66), nullable=False),
        sa.Column("timestamp", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_table(
        "broadcasts",
        sa.Column("tx_hash", sa.String(length=66), nullable=False),
        sa.Column("intent_key", sa.String(length=120), nullable=False),
        sa.Column("nonce", sa.BigInteger(), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("max_fee_wei", Uint256(), nullable=False),
        sa.Column("priority_fee_wei", Uint256(), nullable=False),
        sa.Column("cancels", sa.Boolean(), nullable=False),
        sa.Column("sent_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tx_hash"),
    )
    op.create_index(op.f("ix_broadcasts_intent_key"), "broadcasts", ["intent_key"], unique=False)
    op.create_table(
        "bundles",
        sa.Column("hash", sa.String(length=66), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("hash"),
    )
    op.create_index(op.f("ix_bundles_epoch"), "bundles", ["epoch"], unique=False)
    op.create_table(
        "claims",
        sa.Column("node_id", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("to_address", sa.String(length=42), nullable=False),
        sa.Column("amount_wei", Uint256(), nullable=False),
        sa.Column("uptime_bps", sa.Integer(), nullable=False),
        sa.Column("paid_at", sa.BigInteger(), nullable=False),
        sa.Column("tx_hash", sa.String(length=66), nullable=False),
        sa.PrimaryKeyConstraint("node_id", "epoch"),
    )
    op.create_table(
        "cursors",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("block_hash", sa.String(length=66), nullable=False),
        sa.Column("block_timestamp", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "events",
        sa.Column("block_hash", sa.String(length=66), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("block_timestamp", sa.BigInteger(), nullable=False),
        sa.Column("tx_hash", sa.String(length=66), nullable=False),
        sa.Column("contract", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("args", sa.JSON(), nullable=False),
        sa.Column("node_id", sa.Integer(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=True),
        sa.Column("entity", sa.String(length=80), nullable=True),
        sa.PrimaryKeyConstraint("block_hash", "log_index"),
    )
    op.create_index("ix_events_entity", "events", ["entity", "block_number", "log_index"], unique=False)
    op.create_index("ix_events_epoch", "events", ["epoch"], unique=False)
    op.create_index("ix_events_node", "events", ["node_id", "block_number"], unique=False)
    op.create_index("ix_events_place", "events", ["block_number", "log_index"], unique=False)
    op.create_table(
        "gateways",
        sa.Column("signer", sa.String(length=42), nullable=False),
        sa.Column("keeper_id", sa.Integer(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("signer"),
    )
    op.create_table(
        "intents",
        sa.Column("key", sa.String(length=120), nullable=False),
        sa.Column("signer", sa.String(length=42), nullable=False),
        sa.Column("to_address", sa.String(length=42), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("contract", sa.String(length=40), nullable=False),
        sa.Column("function", sa.String(length=80), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("nonce", sa.BigInteger(), nullable=True),
        sa.Column("gas_limit", sa.BigInteger(), nullable=True),
        sa.Column("gas_used", sa.BigInteger(), nullable=True),
        sa.Column("mined_block", sa.BigInteger(), nullable=True),
        sa.Column("mined_hash", sa.String(length=66), nullable=True),
        sa.Column("reverted", sa.Boolean(), nullable=False),
        sa.Column("tx_hash", sa.String(length=66), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("retry_at", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("signer", "nonce"),
    )
    op.create_index(op.f("ix_intents_status"), "intents", ["status"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("kind", sa.String(length=24), nullable=False),
        sa.Column("ref", sa.String(length=120), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "ref"),
    )
    op.create_index("ix_jobs_due", "jobs", ["status", "lease_until"], unique=False)
    op.create_table(
        "keepers",
        sa.Column("keeper_id", sa.Integer(), nullable=False),
        sa.Column("operator", sa.String(length=42), nullable=False),
        sa.Column("signer", sa.String(length=42), nullable=False),
        sa.Column("bond_wei", Uint256(), nullable=False),
        sa.Column("region", sa.String(length=32), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("active_from", sa.BigInteger(), nullable=False),
        sa.Column("active_until", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("keeper_id"),
    )
    op.create_index(op.f("ix_keepers_signer"), "keepers", ["signer"], unique=False)
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "market_requests",
        sa.Column("request_id", sa.String(length=66), nullable=False),
        sa.Column("requester", sa.String(length=42), nullable=False),
        sa.Column("model_hash", sa.String(length=66), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("price_ceiling_wei", Uint256(), nullable=False),
        sa.Column("deadline", sa.BigInteger(), nullable=False),
        sa.Column("requested_block", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("node_id", sa.Integer(), nullable=True),
        sa.Column("price_wei", Uint256(), nullable=True),
        sa.Column("result", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("request_id"),
    )
    op.create_index(op.f("ix_market_requests_status"), "market_requests", ["status"], unique=False)
    op.create_table(
        "node_intervals",
        sa.Column("node_id", sa.Integer(), nullable=False),
        sa.Column("active_from", sa.BigInteger(), nullable=False),
        sa.Column("active_until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("node_id", "active_from"),
    )
    op.create_table(
        "nodes",
        sa.Column("node_id", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(length=42), nullable=False),
        sa.Column("beneficiary", sa.String(length=42), nullable=False),
        sa.Column("key_address", sa.String(length=42), nullable=False),
        sa.Column("key_hash", sa.String(length=66), nullable=False),
        sa.Column("tier", sa.Integer(), nullable=False),
        sa.Column("stake_wei", Uint256(), nullable=False),
        sa.Column("active_from", sa.BigInteger(), nullable=False),
        sa.Column("active_until", sa.BigInteger(), nullable=True),
        sa.Column("unlock_at", sa.BigInteger(), nullable=True),
        sa.Column("withdrawn", sa.Boolean(), nullable=False),
        sa.Column("manifest_hash", sa.String(length=66), nullable=True),
        sa.Column("manifest_uri", sa.Text(), nullable=True),
        sa.Column("registered_block", sa.BigInteger(), nullable=False),
        sa.Column("registered_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("node_id"),
    )
    op.create_index(op.f("ix_nodes_key_address"), "nodes", ["key_address"], unique=False)
    op.create_index(op.f("ix_nodes_owner"), "nodes", ["owner"], unique=False)
    op.create_table(
        "probes",
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("node_id", sa.Integer(), nullable=False),
        sa.Column("due_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("lease_until_ms", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("evidence", sa.JSON(), nullable=True),
        sa.Column("latency_ms", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("epoch", "slot", "node_id"),
    )
    op.create_index("ix_probes_due", "probes", ["outcome", "due_at_ms"], unique=False)
    op.create_table(
        "report_signatures",
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("signer", sa.String(length=42), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("signature", sa.String(length=132), nullable=False),
        sa.PrimaryKeyConstraint("epoch", "signer"),
    )
    op.create_table(
        "reports",
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("uptime_root", sa.String(length=66), nullable=False),
        sa.Column("node_count", sa.Integer(), nullable=False),
        sa.Column("execution_root", sa.String(length=66), nullable=False),
        sa.Column("bundle_hash", sa.String(length=66), nullable=False),
        sa.Column("signer_bitmap", Uint256(), nullable=False),
        sa.Column("rejected", sa.Boolean(), nullable=False),
        sa.Column("submitted_at", sa.BigInteger(), nullable=False),
        sa.Column("final_at", sa.BigInteger(), nullable=False),
        sa.Column("tx_hash", sa.String(length=66), nullable=False),
        sa.PrimaryKeyConstraint("epoch"),
    )
    op.create_table(
        "slot_records",
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("node_id", sa.Integer(), nullable=False),
        sa.Column("states", sa.Text(), nullable=False),
        sa.Column("uptime_bps", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("epoch", "node_id"),
    )


def downgrade() -> None:
    op.drop_table("slot_records")
    op.drop_table("reports")
    op.drop_table("report_signatures")
    op.drop_index("ix_probes_due", table_name="probes")
    op.drop_table("probes")
    op.drop_index(op.f("ix_nodes_owner"), table_name="nodes")
    op.drop_index(op.f("ix_nodes_key_address"), table_name="nodes")
    op.drop_table("nodes")
    op.drop_table("node_intervals")
    op.drop_index(op.f("ix_market_requests_status"), table_name="market_requests")
    op.drop_table("market_requests")
    op.drop_table("leases")
    op.drop_index(op.f("ix_keepers_signer"), table_name="keepers")
    op.drop_table("keepers")
    op.drop_index("ix_jobs_due", table_name="jobs")
    op.drop_table("jobs")
    op.drop_index(op.f("ix_intents_status"), table_name="intents")
    op.drop_table("intents")
    op.drop_table("gateways")
    op.drop_index("ix_events_place", table_name="events")
    op.drop_index("ix_events_node", table_name="events")
    op.drop_index("ix_events_epoch", table_name="events")
    op.drop_index("ix_events_entity", table_name="events")
    op.drop_table("events")
    op.drop_table("cursors")
    op.drop_table("claims")
    op.drop_index(op.f("ix_bundles_epoch"), table_name="bundles")
    op.drop_table("bundles")
    op.drop_index(op.f("ix_broadcasts_intent_key"), table_name="broadcasts")
    op.drop_table("broadcasts")
    op.drop_table("blocks")
