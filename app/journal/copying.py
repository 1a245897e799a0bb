"""A copy of an SQLite journal, made while others write, that the service can be started with.

VACUUM INTO copies the rows and nothing else, as they are at one moment: nothing of what was erased before comes
along. Reference: https://www.sqlite.org/lang_vacuum.html
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from sqlalchemy import make_url

from app.events import DOUBTFUL, State, Step
from app.journal.errors import JournalError
from app.journal.rows import read_steps, steps_text
from app.journal.schema import BUSY_SECONDS

STEPS_A_LOOK = 100_000  # of SQLite's machine, between two looks at how far it is
POSTGRESQL = """DATABASE_URL is a PostgreSQL database, which has tools of its own:
pg_dump --format=custom --file={target} "$DATABASE_URL" makes a backup while the service runs, and
pg_restore --clean --if-exists --dbname="$DATABASE_URL" {target} brings it back while the service is stopped."""


def backup(
    url: str, target: Path, *, force: bool = False, heard: Callable[[int, int], None] = lambda done, total: None
) -> int:
    """Copy an SQLite journal into a file, wholly or not at all; return the copy's size in bytes.

    `force`: in place of a file that is there. `heard`: how many bytes of about how many are written, now and then.
    The copy is as the journal was when it began, but for one thing: of each job that is not done it says that its
    steps may have been taken, for they will have been when somebody goes back to it. Raises JournalError.
    """
    made = make_url(url)
    if made.get_backend_name() != "sqlite":
        raise JournalError(POSTGRESQL.format(target=target))
    source = Path(made.database or "")
    _check(source, target, force=force)
    beside = target.with_name(f".{target.name}.new")
    try:
        beside.unlink(missing_ok=True)  # left behind by a kill
        os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        _copy(source, beside, heard)
        _mark(beside)
        _sync(beside)
        if target.exists() and not force:
            raise JournalError(f"{target} has come to be there meanwhile: name another file, or say --force")
        beside.replace(target)
        _sync(target.parent)
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"the journal at {source} cannot be copied to {target}: {error}") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    return target.stat().st_size


def _check(source: Path, target: Path, *, force: bool) -> None:
    if not source.is_file():
        raise JournalError(f"there is no journal at {source} (DATABASE_URL)")
    own = {source.with_name(f"{source.name}{ending}").resolve() for ending in ("", "-wal", "-shm", "-journal")}
    if target.resolve() in own:
        raise JournalError(f"{target} is the journal itself: name another file")
    if target.is_dir():
        raise JournalError(f"{target} is a folder: name a file in it")
    if target.exists() and not force:
        raise JournalError(f"{target} is there already: name another file, or say --force")
    if not target.parent.is_dir():
        raise JournalError(f"there is no folder {target.parent}")


def _copy(source: Path, beside: Path, heard: Callable[[int, int], None]) -> None:
    """Copy the rows; others write meanwhile, and what they write is not in it."""
    wal = source.with_name(f"{source.name}-wal")
    total = source.stat().st_size + (wal.stat().st_size if wal.exists() else 0)

    def look() -> int:
        heard(min(beside.stat().st_size, total), total)
        return 0  # go on

    with closing(sqlite3.connect(source, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
        connection.set_progress_handler(look, STEPS_A_LOOK)
        connection.execute("VACUUM INTO ?", [str(beside)])
    heard(total, total)


def _mark(copy: Path) -> None:
    """Say of what is not done that it may have been by the time somebody goes back to it; see that all is sound."""
    with closing(sqlite3.connect(copy)) as connection, connection:
        open_jobs = connection.execute("SELECT id, steps FROM jobs WHERE state != ?", [State.DONE.value]).fetchall()
        doubtful = {DOUBTFUL: Step(finished=False)}
        marked = [(steps_text({**read_steps(steps), **doubtful}), job_id) for job_id, steps in open_jobs]
        connection.executemany("UPDATE jobs SET steps = ? WHERE id = ?", marked)
        connection.commit()
        said = connection.execute("PRAGMA integrity_check").fetchone()[0]
    if said != "ok":
        raise JournalError(f"the copy is not sound, so the journal may not be either: {said}")


def _sync(path: Path) -> None:
    """Have a file, or a folder's entries, on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
