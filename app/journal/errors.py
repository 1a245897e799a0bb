"""What can go wrong with the journal."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, SQLAlchemyError


def words(error: SQLAlchemyError) -> str:
    """Return what the database said, without the statement and its values: they may hold a body or an address."""
    return str(error.orig).strip() if isinstance(error, DBAPIError) else type(error).__name__


class JournalError(Exception):
    """The journal cannot be opened, read or written; nothing was recorded."""
