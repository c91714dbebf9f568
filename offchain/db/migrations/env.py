"""Alembic's entry point. The connection, already in a transaction, comes from `offchain.db.migrations.upgrade`."""

from alembic import context

from offchain.db.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
