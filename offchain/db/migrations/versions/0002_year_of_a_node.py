"""A node's year is read in one stretch: claims lie in the order of their key, uptimes in an index of their own, and
the few uptimes that an appeal set and the requests that a node served are found without a scan.
"""

import sqlalchemy as sa
from alembic import op

from offchain.db.models import Uint256

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


_OVERRIDDEN = sa.text("name = 'UptimeOverridden'")


def upgrade() -> None:
    op.create_index(
        "ix_events_overridden",
        "events",
        ["epoch", "node_id"],
        unique=False,
        sqlite_where=_OVERRIDDEN,
        postgresql_where=_OVERRIDDEN,
    )
    op.create_index("ix_slot_records_node", "slot_records", ["node_id", "epoch", "uptime_bps"], unique=False)
    op.create_index(
        "ix_market_requests_node", "market_requests", ["node_id", "status", "price_wei"], unique=False
    )
    _rewrite_claims(with_rowid=False)


def downgrade() -> None:
    op.drop_index("ix_market_requests_node", table_name="market_requests")
    op.drop_index("ix_events_overridden", table_name="events")
    op.drop_index("ix_slot_records_node", table_name="slot_records")
    _rewrite_claims(with_rowid=True)


def _rewrite_claims(*, with_rowid: bool) -> None:
    """SQLite keeps rows in the order of the key only in a table without row ids; PostgreSQL has no such thing."""
    if op.get_bind().dialect.name != "sqlite":
        return
    op.rename_table("claims", "claims_before")
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
        sqlite_with_rowid=with_rowid,
    )
    op.execute("INSERT INTO claims SELECT * FROM claims_before ORDER BY node_id, epoch")
    op.drop_table("claims_before")
