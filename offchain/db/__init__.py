"""The index, the outbox and the work of one keeper, in SQLite or PostgreSQL."""
