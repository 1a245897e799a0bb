"""Opens the journal's database and brings its schema up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError

from app.journal.errors import JournalError

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 5


def open_engines(url: str) -> tuple[Engine, Engine]:
    """Return the writer's engine, whose transactions take SQLite's write lock at once, and the readers'.

    Raises JournalError if the database is of a kind that is not supported, or its folder cannot be made.
    """
    made = make_url(url)
    if made.get_backend_name() != "sqlite":
        raise JournalError(
            f"DATABASE_URL: {made.get_backend_name()} is not supported yet: use sqlite:///data/journal.db"
        )
    try:
        Path(made.database or "").parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JournalError(f"DATABASE_URL: the folder of {made.database} cannot be made: {error}") from error
    arguments = {"timeout": BUSY_SECONDS, "check_same_thread": False}
    writer = create_engine(made, connect_args=arguments)
    reader = create_engine(made, connect_args=arguments, isolation_level="AUTOCOMMIT")

    @event.listens_for(writer, "connect")
    def configure(connection: Any, _: object) -> None:
        # The driver would begin its transactions too late; we say BEGIN ourselves, below.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(writer, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return writer, reader


def upgrade(engine: Engine) -> None:
    """Create the schema or upgrade an older one; several processes may do so at once.

    Raises JournalError if the database cannot be opened, or if it was made by a newer version of the service.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    known = {revision.revision for revision in ScriptDirectory.from_config(config).walk_revisions()}
    try:
        with engine.begin() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
            if current is not None and current not in known:
                raise JournalError(
                    f"the journal has schema {current}, made by a newer version of Kommo Relay: "
                    "install that version, or point DATABASE_URL at another database"
                )
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except SQLAlchemyError as error:
        raise JournalError(f"the journal at {engine.url!r} cannot be opened (DATABASE_URL): {error}") from error
