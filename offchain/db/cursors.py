"""How far the index has come."""

from typing import Literal

from sqlalchemy import update
from sqlalchemy.orm import Session

from offchain.db.models import Cursor
from offchain.db.upsert import changed, insert_or_ignore
from offchain.domain.types import BlockRef

CursorName = Literal["head", "finalized"]


def position(session: Session, name: CursorName) -> BlockRef | None:
    """The last block whose events are in the database (`head`), or can no longer change (`finalized`); None at first.

    What is signed or paid reads only events at or below `finalized`.
    """
    row = session.get(Cursor, name)
    return None if row is None else BlockRef(row.block_number, row.block_hash, row.block_timestamp)


def move(session: Session, name: CursorName, expected: BlockRef | None, to: BlockRef) -> bool:
    """Compare-and-set: move the cursor if it still stands at `expected`. Returns whether it moved."""
    values = {"block_number": to.number, "block_hash": to.hash, "block_timestamp": to.timestamp}
    if expected is None:
        return insert_or_ignore(session, Cursor, {"name": name, **values})
    stands = (Cursor.name == name, Cursor.block_number == expected.number, Cursor.block_hash == expected.hash)
    return changed(session, update(Cursor).where(*stands).values(**values)) == 1
