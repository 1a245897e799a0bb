"""Opening the journal: new, old, newer and broken files, several processes at once."""

from __future__ import annotations

import sqlite3
import stat
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import nursery
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from journal_events import NOW, claim, keys, record, stage
from sqlalchemy import create_engine

from app.journal import Journal, JournalError, schema
from app.journal.tables import metadata

ROOT = Path(__file__).parent.parent.parent
HEAD = "0006"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have SQLite wait for a lock for a moment only, so that the tests need not wait either."""
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.2)


def opened(path: Path) -> None:
    Journal(f"sqlite:///{path}").close()


def run(path: Path, *statements: str) -> None:
    """Change a file behind the journal's back."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def answers(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def test_a_new_file_is_for_its_own_user_only(path: Path) -> None:
    """It holds people's addresses. One that is there keeps its mode."""
    journal = Journal(f"sqlite:///{path}")
    made = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.glob(f"{path.name}*")}
    journal.close()
    assert made == dict.fromkeys((path.name, f"{path.name}-wal", f"{path.name}-shm"), 0o600)
    path.chmod(0o640)
    opened(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_migrations_lead_to_the_tables(path: Path) -> None:
    opened(path)

    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()

    assert differences == []
    assert answers(path, "SELECT version_num FROM alembic_version") == [(HEAD,)]


def test_the_partial_indexes_are_partial(path: Path) -> None:
    opened(path)

    owed = answers(path, "SELECT name FROM sqlite_master WHERE type = 'index' AND sql LIKE '%state = ''pending''%'")

    assert sorted(owed) == [("jobs_by_age",), ("jobs_by_due",), ("jobs_by_key",)]


def test_a_journal_survives_a_crash_of_the_machine(path: Path) -> None:
    journal = Journal(f"sqlite:///{path}")
    record(journal, stage(1))

    assert answers(path, "PRAGMA journal_mode") == [("wal",)]
    journal.close()


def test_missing_folders_are_made(tmp_path: Path) -> None:
    opened(tmp_path / "a" / "b" / "journal.db")

    assert (tmp_path / "a" / "b" / "journal.db").is_file()


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param([], id="no file"),
        pytest.param(["VACUUM"], id="an empty file"),
        pytest.param(
            ["CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"], id="before the first schema"
        ),
    ],
)
def test_an_older_schema_is_upgraded(path: Path, statements: list[str]) -> None:
    if statements:
        run(path, *statements)

    opened(path)

    assert answers(path, "SELECT version_num FROM alembic_version") == [(HEAD,)]


def test_what_was_there_stays(path: Path) -> None:
    journal = Journal(f"sqlite:///{path}")
    record(journal, stage(1, "a"))
    journal.close()

    journal = Journal(f"sqlite:///{path}")
    assert keys(claim(journal)) == ["lead:1"]
    assert record(journal, stage(1, "a"))[0].duplicate
    journal.close()


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    opened(path)
    run(path, "UPDATE alembic_version SET version_num = '0999'", "ALTER TABLE jobs ADD COLUMN newer TEXT")

    with pytest.raises(JournalError) as caught:
        Journal(f"sqlite:///{path}")

    assert str(caught.value) == (
        "the journal has schema 0999, made by a newer version of Kommo Relay: "
        "install that version, or point DATABASE_URL at another database"
    )
    assert answers(path, "SELECT version_num FROM alembic_version") == [("0999",)]


def test_two_journals_may_open_an_empty_file_at_once(path: Path) -> None:
    start = threading.Barrier(8)

    def attempt(number: int) -> int:
        start.wait()
        journal = Journal(f"sqlite:///{path}")
        event_id = record(journal, stage(number))[0].event.id
        journal.close()
        return event_id

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(attempt, range(8))) == list(range(1, 9))


def test_several_processes_may_open_an_empty_file_at_once(path: Path) -> None:
    code = f"from app.journal import Journal; Journal('sqlite:///{path}').close()"
    with (path.parent / "errors.txt").open("wb") as errors:
        processes = [
            nursery.Process([sys.executable, "-c", code], cwd=ROOT, env={}, stderr=errors) for _ in range(4)
        ]
        assert [process.wait(60) for process in processes] == [0] * 4
    assert (path.parent / "errors.txt").read_text() == ""
    assert answers(path, "SELECT version_num FROM alembic_version") == [(HEAD,)]


def not_a_database(path: Path) -> None:
    path.write_bytes(b"this is not a database, however long one looks at it" * 100)


def a_folder(path: Path) -> None:
    path.mkdir()


def somebody_elses(path: Path) -> None:
    run(path, "CREATE TABLE jobs (id INTEGER PRIMARY KEY)")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (not_a_database, "file is not a database"),
        (a_folder, "unable to open database file"),
        (somebody_elses, "table jobs already exists"),
    ],
)
def test_a_file_that_is_no_journal_is_refused(path: Path, spoil: Callable[[Path], None], words: str) -> None:
    spoil(path)

    with pytest.raises(JournalError, match=rf"^the journal at .* cannot be opened \(DATABASE_URL\): .*{words}"):
        Journal(f"sqlite:///{path}")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(JournalError, match=r"^DATABASE_URL: the folder of .*/file/journal\.db cannot be made: "):
        Journal(f"sqlite:///{tmp_path}/file/journal.db")


@pytest.mark.usefixtures("impatient")
def test_a_locked_file_is_told_in_time(path: Path) -> None:
    opened(path)
    began = time.monotonic()

    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match=r"cannot be opened \(DATABASE_URL\): .*database is locked"):
            Journal(f"sqlite:///{path}")

    assert time.monotonic() - began < 8
    opened(path)


def test_a_file_that_cannot_be_written_stops_the_start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened read-only by its address, since permissions do not bind a test that runs as root."""
    opened(path)
    monkeypatch.chdir(path.parent)
    threads = threading.active_count()

    with pytest.raises(JournalError, match=r"^the journal cannot be written: .*readonly database"):
        Journal(f"sqlite:///file:{path}?mode=ro&uri=true")

    assert threading.active_count() == threads


def test_a_journal_that_could_not_be_opened_leaves_no_thread_behind(path: Path) -> None:
    not_a_database(path)
    before = threading.active_count()

    with pytest.raises(JournalError):
        Journal(f"sqlite:///{path}")

    assert threading.active_count() == before


def test_closing_leaves_one_file_and_no_thread(path: Path) -> None:
    before = threading.active_count()
    journal = Journal(f"sqlite:///{path}")
    record(journal, stage(1), now=NOW)

    journal.close()

    assert [file.name for file in path.parent.iterdir()] == ["journal.db"]
    assert threading.active_count() == before
