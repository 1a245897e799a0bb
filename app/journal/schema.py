"""Opens the journal's database and brings its schema up to date."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError

from app.journal.errors import JournalError, words

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 5
WRITERS_TURN = 7_356_691_010  # any number that no other program on the database uses


def open_engines(url: str) -> tuple[Engine, Engine]:
    """Return the writer's engine and the readers'. On both databases one transaction writes at a time.

    SQLite knows nothing else. On PostgreSQL the replicas take turns by an advisory lock: as the writers commit in
    groups that costs little, and what holds in one process (no duplicate slips in between a look and a write, no
    job overtakes another of its key) holds over all of them. Raises JournalError if the database cannot be one.
    """
    made = make_url(url)
    if made.get_backend_name() == "sqlite":
        return _sqlite(made)
    return _postgresql(made.set(drivername="postgresql+psycopg"))


def _sqlite(url: URL) -> tuple[Engine, Engine]:
    path = Path(url.database or "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JournalError(f"DATABASE_URL: the folder of {url.database} cannot be made: {error}") from error
    if url.database and not path.exists():
        with suppress(OSError):  # why it cannot be made is told when it is opened
            path.touch(mode=0o600)  # it will hold addresses; what SQLite puts beside it gets the same mode
    arguments = {"timeout": BUSY_SECONDS, "check_same_thread": False}
    writer = create_engine(url, connect_args=arguments)
    reader = create_engine(url, connect_args=arguments, isolation_level="AUTOCOMMIT")

    @event.listens_for(writer, "connect")
    def configure(connection: Any, _: object) -> None:
        # The driver would begin its transactions too late; we say BEGIN ourselves, below.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        # What is deleted is overwritten: it may be of a person who wants to be forgotten.
        connection.execute("PRAGMA secure_delete = ON")

    @event.listens_for(reader, "connect")
    def keep_little(connection: Any, _: object) -> None:
        # The system has the file in memory. With 2 MB for each of them, the default, this process would grow for as
        # long as the journal does.
        connection.execute("PRAGMA cache_size = -256")

    @event.listens_for(writer, "begin")
    def begin(connection: Any) -> None:
        # In WAL mode NORMAL does not wait for the disk; the next FULL commit takes what came before it along.
        wanted = "FULL" if _durable(connection) else "NORMAL"
        if connection.info.get("synchronous", "FULL") != wanted:
            connection.exec_driver_sql(f"PRAGMA synchronous = {wanted}")
            connection.info["synchronous"] = wanted
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return writer, reader


def _postgresql(url: URL) -> tuple[Engine, Engine]:
    # A process that is frozen in mid-transaction must not stop the others for longer than this.
    writing = {
        "connect_timeout": BUSY_SECONDS,
        "options": f"-c idle_in_transaction_session_timeout={BUSY_SECONDS}s",
    }
    # A connection that died with its server is found out before it is used, not by a webhook.
    writer = create_engine(url, pool_size=1, max_overflow=1, pool_pre_ping=True, connect_args=writing)
    reading = {"connect_timeout": BUSY_SECONDS}
    reader = create_engine(url, pool_pre_ping=True, isolation_level="AUTOCOMMIT", connect_args=reading)

    @event.listens_for(writer, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITERS_TURN})")
        if not _durable(connection):
            connection.exec_driver_sql("SET LOCAL synchronous_commit = off")

    return writer, reader


def _durable(connection: Any) -> bool:
    """Say whether what is about to be written must be on disk when the commit returns."""
    return bool(connection.get_execution_options().get("durable", True))


@cache
def known_versions() -> tuple[str, ...]:
    """Return the schema's versions, the newest first."""
    return tuple(revision.revision for revision in ScriptDirectory.from_config(_config()).walk_revisions())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def upgrade(engine: Engine) -> None:
    """Create the schema or upgrade an older one; several processes may do so at once.

    Raises JournalError if the database cannot be opened, or if it was made by a newer version of the service.
    """
    config = _config()
    try:
        with engine.begin() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
            if current == known_versions()[0]:
                return  # as at most starts
            if current is not None and current not in known_versions():
                raise JournalError(
                    f"the journal has schema {current}, made by a newer version of Kommo Relay: "
                    "install that version, or point DATABASE_URL at another database"
                )
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except SQLAlchemyError as error:
        # A query may hold a password too.
        raise JournalError(
            f"the journal at {engine.url.set(query={})!r} cannot be opened (DATABASE_URL): {words(error)}"
        ) from error
