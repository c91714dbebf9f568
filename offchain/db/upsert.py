"""INSERT ... ON CONFLICT, which is the same in SQLite and PostgreSQL; SQLAlchemy has it in each dialect only."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from sqlalchemy import CursorResult, Table, UpdateBase
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from offchain.db.models import Base


def insert_or_ignore(session: Session, model: type[Base], row: Mapping[str, Any]) -> bool:
    """Insert a row unless its primary key exists. Returns whether it was inserted."""
    key = next(iter(cast("Table", model.__table__).primary_key.columns))
    # RETURNING tells on both databases; a row count does not.
    statement = _insert(session, model).values(dict(row)).on_conflict_do_nothing().returning(key)
    return session.execute(statement).first() is not None


def upsert(session: Session, model: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; where a primary key exists, overwrite the other columns that the rows name."""
    if not rows:
        return
    table = cast("Table", model.__table__)
    keys = [column.name for column in table.primary_key.columns]
    statement = _insert(session, model)
    # All rows of a call name the same columns, so the first one tells.
    others = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    if others:
        statement = statement.on_conflict_do_update(index_elements=keys, set_=others)
    else:
        statement = statement.on_conflict_do_nothing()
    session.execute(statement, [dict(row) for row in rows])  # executemany: one round trip a page, not a row


def changed(session: Session, statement: UpdateBase) -> int:
    """Execute an UPDATE or DELETE. Returns how many rows it met."""
    return cast("CursorResult[Any]", session.execute(statement)).rowcount


def _insert(session: Session, model: type[Base]) -> Any:
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    return dialect.insert(model)
