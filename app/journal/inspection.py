"""Looks at a journal from outside: nothing is made, and nothing brought up to date."""

from __future__ import annotations

import os
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from app.journal.errors import JournalError, words
from app.journal.schema import BUSY_SECONDS, known_versions


@dataclass(frozen=True)
class Inspection:
    """What stands where the journal is to be. `size` and `free` in bytes, None where nobody tells.

    `may_be_made`: a new one could be made there. `schema`: None where there is none yet.
    """

    place: str
    exists: bool
    may_be_made: bool
    schema: str | None
    newest: str
    known: bool = True  # the schema is of this version of the service, or an older one
    size: int | None = None
    free: int | None = None

    @property
    def usable(self) -> bool:
        """Say whether the service would work with it as it is."""
        return self.exists and self.schema == self.newest


def inspect(url: str) -> Inspection:
    """Look at the journal at a URL. Raises JournalError if it cannot be opened."""
    made = make_url(url)
    if made.get_backend_name() != "sqlite":
        engine = create_engine(
            made.set(drivername="postgresql+psycopg"), connect_args={"connect_timeout": BUSY_SECONDS}
        )
        return _look(engine, made.render_as_string(hide_password=True), size=None, free=None)
    path = Path(made.database or "")
    folder = next((parent for parent in path.absolute().parents if parent.exists()), Path("/"))
    if not path.exists():
        may_be_made = folder.is_dir() and os.access(folder, os.W_OK)
        free = shutil.disk_usage(folder).free
        return Inspection(str(path), False, may_be_made, None, known_versions()[0], free=free)

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=rw", uri=True, timeout=BUSY_SECONDS)

    beside = (path.with_name(f"{path.name}{ending}") for ending in ("", "-wal"))
    size = sum(part.stat().st_size for part in beside if part.exists())
    return _look(create_engine("sqlite://", creator=connect), str(path), size, shutil.disk_usage(folder).free)


def _look(engine: Engine, place: str, size: int | None, free: int | None) -> Inspection:
    try:
        with engine.connect() as connection:
            schema = MigrationContext.configure(connection).get_current_revision()
    except SQLAlchemyError as error:
        raise JournalError(f"the journal at {place} cannot be opened (DATABASE_URL): {words(error)}") from error
    finally:
        engine.dispose()
    versions = known_versions()
    return Inspection(place, True, True, schema, versions[0], schema in (None, *versions), size, free)
