"""`flask backup`: a copy that is whole or not there; and what comes of going back to it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from held import on_disk
from journal_events import NOW, claim, record, stage
from support import JSON, PROPOSAL_SENT, ROOT, Service, eventually, journal_file, pass_time, rows

from app.events import DOUBTFUL, Lane, Outcome, Owed, Response, State
from app.journal import Journal, JournalError, Settlement, backup, copying
from sandbox.town import Town

ZOE, ZOE_DEAL = "zoe@example.com", 41_500_011


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "journal.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


def flask(variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flask", *arguments],
        cwd=ROOT,
        env={"FLASK_APP": "app:create_command_line", **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_copy_is_whole_while_others_write(url: str, tmp_path: Path) -> None:
    journal = Journal(url)
    written: list[int] = []
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            written.append(record(journal, stage(len(written)), now=NOW)[0].event.id)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        eventually(lambda: len(written) > 50)
        before = len(written)
        size = backup(url, tmp_path / "copy.db")
    finally:
        over.set()
        writer.join()
    journal.close()

    copy = tmp_path / "copy.db"
    assert (stat.S_IMODE(copy.stat().st_mode), copy.stat().st_size) == (0o600, size)
    assert {file.name for file in tmp_path.iterdir()} == {"data", "copy.db"}
    restored = Journal(f"sqlite:///{copy}")
    keys = [job.order_key for job in restored.claim(Lane.RESOLVE, "kommo", 100_000, now=NOW)]
    restored.close()
    assert before <= len(keys) <= len(written)
    assert keys == [f"lead:{number}" for number in range(len(keys))]


def test_what_is_not_done_is_marked_in_the_copy_as_what_may_be_done_by_then(url: str, tmp_path: Path) -> None:
    journal = Journal(url)
    record(journal, stage(1), stage(2), stage(3))
    first, second, _ = claim(journal)
    dead = Outcome(State.DEAD, "no")
    journal.settle([Settlement(first, Outcome(State.DONE)), Settlement(second, dead)], now=NOW)

    backup(url, tmp_path / "copy.db")

    def ledgers(url: str) -> list[list[str]]:
        return [list(json.loads(steps)) for (steps,) in rows({"DATABASE_URL": url}, "SELECT steps FROM jobs")]

    assert ledgers(f"sqlite:///{tmp_path / 'copy.db'}") == [[], [DOUBTFUL], [DOUBTFUL]]
    assert ledgers(url) == [[], [], []]
    journal.close()
    restored = Journal(f"sqlite:///{tmp_path / 'copy.db'}")
    (job,) = claim(restored, now=NOW + 3600)
    owed = Owed(Lane.KOMMO, "lead:3", Response(3, None, ()))
    restored.settle([Settlement(job, Outcome(State.DONE, owed=(owed,)))], now=NOW)
    assert [list(job.steps) for job in claim(restored, lane=Lane.KOMMO, now=NOW)] == [[DOUBTFUL]]
    restored.close()


def test_nothing_that_was_erased_comes_along(url: str, path: Path, tmp_path: Path) -> None:
    Journal(url).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("CREATE TABLE old (words TEXT)")
        connection.execute("INSERT INTO old VALUES (?)", [ZOE * 1_000])
        connection.execute("DROP TABLE old")
    assert ZOE.encode() in on_disk(url)

    backup(url, tmp_path / "copy.db")

    assert ZOE.encode() not in (tmp_path / "copy.db").read_bytes()


def test_progress_is_told(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(url)
    record(journal, *(stage(number) for number in range(500)))
    journal.close()
    monkeypatch.setattr(copying, "STEPS_A_LOOK", 100)
    heard: list[tuple[int, int]] = []

    backup(url, tmp_path / "copy.db", heard=lambda done, total: heard.append((done, total)))

    assert len(heard) > 2
    assert heard == sorted(heard)
    assert heard[-1][0] == heard[-1][1]


def there_already(path: Path, target: Path) -> None:
    target.write_text("mine")


def a_folder(path: Path, target: Path) -> None:
    target.mkdir()


def no_journal(path: Path, target: Path) -> None:
    path.unlink()


def not_a_journal(path: Path, target: Path) -> None:
    path.write_bytes(b"no database" * 1_000)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (there_already, "copy.db is there already: name another file, or say --force"),
        (a_folder, "copy.db is a folder: name a file in it"),
        (no_journal, "there is no journal at "),
        (not_a_journal, "cannot be copied to .*: file is not a database"),
    ],
)
def test_what_cannot_be_done_is_told_and_nothing_is_left(
    url: str, path: Path, tmp_path: Path, spoil: Callable[[Path, Path], None], words: str
) -> None:
    Journal(url).close()
    target = tmp_path / "copy.db"
    spoil(path, target)
    before = sorted(file.name for file in tmp_path.iterdir())

    with pytest.raises(JournalError, match=words):
        backup(url, target)

    assert sorted(file.name for file in tmp_path.iterdir()) == before


@pytest.mark.parametrize("ending", ["", "-wal", "-shm"])
def test_the_journal_itself_is_not_overwritten(url: str, path: Path, ending: str) -> None:
    Journal(url).close()

    with pytest.raises(JournalError, match="is the journal itself"):
        backup(url, path.parent / "." / f"journal.db{ending}", force=True)


def test_a_copy_that_could_not_be_made_leaves_the_old_one(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Journal(url).close()
    target = tmp_path / "copy.db"
    target.write_text("the old one")
    (tmp_path / ".copy.db.new").write_text("left behind by a kill")

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(copying, "_sync", full)
        with pytest.raises(JournalError, match="No space left on device"):
            backup(url, target, force=True)
    assert target.read_text() == "the old one"
    assert not (tmp_path / ".copy.db.new").exists()

    backup(url, target, force=True)
    Journal(f"sqlite:///{target}").close()


def test_the_command_needs_no_other_settings_and_leaves_the_schema_as_it_is(url: str, path: Path) -> None:
    """It is what one runs before an upgrade."""
    Journal(url).close()
    rows({"DATABASE_URL": url}, "UPDATE alembic_version SET version_num = '0001'")
    target = path.parent / "copy.db"

    done = flask({"DATABASE_URL": url}, "backup", str(target))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{target}: 0.")
    for file in (url, f"sqlite:///{target}"):
        assert rows({"DATABASE_URL": file}, "SELECT version_num FROM alembic_version") == [("0001",)]
    again = flask({"DATABASE_URL": url}, "backup", str(target))
    assert (again.returncode, again.stderr) == (
        1,
        f"Error: {target} is there already: name another file, or say --force\n",
    )


def test_of_postgresql_it_names_the_tool(tmp_path: Path) -> None:
    done = flask({"DATABASE_URL": "postgresql://relay@db.example/relay"}, "backup", str(tmp_path / "copy.db"))

    assert done.returncode == 1
    assert "pg_dump --format=custom --file=" in done.stderr
    assert "pg_restore" in done.stderr


# -- going back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("down", ["/api/v4/tasks", "/api/v4/contacts"], ids=["planned", "not yet looked up"])
def test_going_back_doubles_no_task_and_no_note_and_brings_back_the_moves(
    start_service: Callable[..., Service], town: Town, env: dict[str, str], tmp_path: Path, down: str
) -> None:
    """A click is owed when the copy is made, and delivered after it. Then a deal moves; another person clicks."""
    service = start_service(RECONCILE_MINUTES="60")
    service.connect(town)
    fault = town.kommo.faults.add(path=down, status=503)
    service.post("encharge", click_of(ZOE, 1), JSON)
    eventually(lambda: rows(env, "SELECT 1 FROM attempts"))
    assert flask(env, "backup", str(tmp_path / "copy.db")).returncode == 0
    town.kommo.faults.clear()
    assert fault
    pass_time(env)
    eventually(lambda: town.kommo.state()["notes"]["leads"])
    service.post("encharge", click_of("ada@example.com", 2), JSON)
    eventually(lambda: len(town.kommo.state()["tasks"]) == 2)
    town.kommo.move(ZOE_DEAL, PROPOSAL_SENT)
    eventually(lambda: town.encharge.state()["events"] and town.ortto.state()["activities"])
    service.kill()

    journal = journal_file(env)
    shutil.copy(tmp_path / "copy.db", journal)
    for ending in ("-wal", "-shm"):
        journal.with_name(f"{journal.name}{ending}").unlink(missing_ok=True)
    pass_time(env)
    start_service(RECONCILE_MINUTES="60")

    eventually(lambda: rows(env, "SELECT 1 FROM events WHERE kind = 'stage_changed'"))
    eventually(lambda: not rows(env, "SELECT 1 FROM jobs WHERE state != 'done'"))
    # One of each for each click, although the journal knew of none.
    texts = [task["text"] for task in town.kommo.state()["tasks"].values()]
    assert sorted(texts) == sorted(set(texts))
    assert (len(texts), len(town.kommo.state()["notes"]["leads"])) == (2, 2)
    # What came after the copy: Kommo's log told of the move, and nothing can tell of the click.
    assert rows(env, "SELECT kind FROM events ORDER BY id") == [("email_clicked",), ("stage_changed",)]
    assert [event["name"] for event in town.encharge.state()["events"]] == ["deal_moved_to_proposal_sent"] * 2


def click_of(email: str, number: int) -> bytes:
    body = {"event": "email_link_clicked", "email": email, "eventId": number, "broadcastName": "Pricing"}
    return json.dumps(body).encode()
