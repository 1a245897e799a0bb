"""Group commit: what one caller's failure, a failing commit and a full disk mean for those who write with it."""

from __future__ import annotations

import json
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import nursery
import pytest
from sqlalchemy import Connection, Engine, event, text

from app.journal import JournalError
from app.journal.schema import open_engines
from app.journal.writer import GROUP_LIMIT, Writer

ROOT = Path(__file__).parent.parent.parent
SECONDS = 20

Work = Callable[[Connection], Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE words (word TEXT PRIMARY KEY)")
        connection.execute("CREATE TABLE children (word TEXT REFERENCES words DEFERRABLE INITIALLY DEFERRED)")
    return path


@pytest.fixture
def engine(path: Path) -> Iterator[Engine]:
    writing, reading = open_engines(f"sqlite:///{path}")
    yield writing
    writing.dispose()
    reading.dispose()


@pytest.fixture
def writer(engine: Engine) -> Iterator[Writer]:
    made = Writer(engine)
    yield made
    made.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(GROUP_LIMIT + 50) as made:
        yield made


class Group:
    """Holds the writer in one write while others gather behind it."""

    def __init__(self, writer: Writer, pool: ThreadPoolExecutor) -> None:
        self._writer = writer
        self._pool = pool
        self._go = threading.Event()
        holding = threading.Event()

        def hold(_: Connection) -> None:
            holding.set()
            assert self._go.wait(SECONDS)

        self.first = pool.submit(writer.run, "hold", hold)
        assert holding.wait(SECONDS)

    def ask(self, work: Work, **how: Any) -> Future[Any]:
        """Queue a write behind those that were asked for before."""
        queued = self._writer._queue.qsize()
        asked = self._pool.submit(self._writer.run, "ask", work, **how)
        while self._writer._queue.qsize() == queued and not asked.done():
            pass
        return asked

    def go(self) -> None:
        self._go.set()


@pytest.fixture
def group(writer: Writer, pool: ThreadPoolExecutor) -> Iterator[Group]:
    made = Group(writer, pool)
    yield made
    made.go()


def add(word: str) -> Callable[[Connection], str]:
    """Return work that adds a word and returns it."""

    def work(connection: Connection) -> str:
        connection.execute(text("INSERT INTO words VALUES (:word)"), {"word": word})
        return word

    return work


def orphan(connection: Connection) -> None:
    """Write what SQLite refuses only at the commit."""
    connection.execute(text("INSERT INTO children VALUES ('nobody')"))


def words(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [word for (word,) in connection.execute("SELECT word FROM words ORDER BY rowid")]


def test_a_write_is_on_disk_when_it_returns(writer: Writer, path: Path) -> None:
    assert writer.run("add", add("a")) == "a"
    assert words(path) == ["a"]


def test_what_gathers_is_committed_at_once(group: Group, engine: Engine, path: Path) -> None:
    commits: list[Connection] = []
    event.listen(engine, "commit", commits.append)
    asked = [group.ask(add(str(number))) for number in range(50)]

    group.go()

    assert [future.result(SECONDS) for future in asked] == [str(number) for number in range(50)]
    assert words(path) == [str(number) for number in range(50)]
    assert len(commits) == 2


def test_a_group_has_a_limit(group: Group, engine: Engine) -> None:
    commits: list[Connection] = []
    event.listen(engine, "commit", commits.append)
    asked = [group.ask(add(str(number))) for number in range(GROUP_LIMIT + 1)]

    group.go()

    for future in asked:
        future.result(SECONDS)
    assert len(commits) == 3


def test_one_failing_write_does_not_undo_the_others_of_its_group(group: Group, path: Path) -> None:
    def half(connection: Connection) -> None:
        add("half")(connection)
        add("a")(connection)

    def stumble(connection: Connection) -> None:
        add("stumbled")(connection)
        raise ValueError("our own fault")

    before, failing, stumbling, after = (group.ask(work) for work in (add("a"), half, stumble, add("b")))
    group.go()

    assert [before.result(SECONDS), after.result(SECONDS)] == ["a", "b"]
    with pytest.raises(JournalError, match=r"^the journal cannot be written: .*UNIQUE constraint failed"):
        failing.result(SECONDS)
    with pytest.raises(ValueError, match="our own fault"):
        stumbling.result(SECONDS)
    assert words(path) == ["a", "b"]


def test_a_failing_commit_reaches_every_caller(group: Group, writer: Writer, path: Path) -> None:
    heard: list[str] = []
    asked = [group.ask(work, committed=heard.append) for work in (add("a"), orphan, add("b"))]

    group.go()

    for future in asked:
        with pytest.raises(JournalError, match=r"^the journal cannot be written: .*FOREIGN KEY constraint failed"):
            future.result(SECONDS)
    assert (words(path), heard) == ([], [])
    assert writer.run("add", add("c")) == "c"


def test_committed_hears_the_result_before_any_caller(group: Group) -> None:
    heard: list[str] = []
    told = threading.Event()

    def tell(_: Future[Any]) -> None:
        heard.append("told")
        told.set()

    group.ask(add("a"), committed=lambda word: heard.append(f"committed {word}"))
    group.ask(lambda _: "claimed").add_done_callback(tell)
    group.go()

    assert told.wait(SECONDS)
    assert heard == ["committed a", "told"]


def test_committed_does_not_hear_of_what_failed(group: Group) -> None:
    heard: list[str] = []
    asked = [group.ask(add("a"), committed=heard.append) for _ in range(2)]

    group.go()

    assert asked[0].result(SECONDS) == "a"
    with pytest.raises(JournalError):
        asked[1].result(SECONDS)
    assert heard == ["a"]


def test_a_stumbling_listener_does_not_stop_the_writer(group: Group, path: Path) -> None:
    def stumble(_: str) -> None:
        raise ValueError("our own fault")

    stumbling = group.ask(add("a"), committed=stumble, seconds=SECONDS)
    after = group.ask(add("b"), seconds=SECONDS)
    group.go()

    assert after.result(SECONDS) == "b"
    with pytest.raises(ValueError, match="our own fault"):
        stumbling.result(SECONDS)
    assert words(path) == ["a", "b"]


def test_what_a_caller_gave_up_before_its_turn_is_not_written(group: Group, writer: Writer, path: Path) -> None:
    late = group.ask(add("late"), seconds=0.1)
    with pytest.raises(JournalError, match=r"^the journal did not commit within 0\.1 s$"):
        late.result(SECONDS)
    assert words(path) == []

    group.go()

    writer.run("wait", lambda _: None)
    assert words(path) == []


def test_what_a_caller_gave_up_in_its_turn_may_be_written_all_the_same(
    writer: Writer, pool: ThreadPoolExecutor, path: Path
) -> None:
    heard: list[str] = []
    go = threading.Event()

    def slow(connection: Connection) -> str:
        assert go.wait(SECONDS)
        return add("slow")(connection)

    # Long enough for its turn to come.
    asked = pool.submit(writer.run, "slow", slow, committed=heard.append, seconds=2)
    with pytest.raises(JournalError, match=r"^the journal did not commit within 2 s$"):
        asked.result(SECONDS)
    go.set()

    writer.run("wait", lambda _: None)
    assert words(path) == ["slow"]
    assert heard == [], "nobody waits for it any more"


def test_closing_commits_what_was_asked_for(engine: Engine, pool: ThreadPoolExecutor, path: Path) -> None:
    writer = Writer(engine)
    group = Group(writer, pool)
    asked = [group.ask(add(word)) for word in "abc"]
    closing_ = pool.submit(writer.close)
    group.go()

    closing_.result(SECONDS)

    # Their threads may still be on their way to say so.
    assert [future.result(SECONDS) for future in asked] == ["a", "b", "c"]
    assert words(path) == ["a", "b", "c"]
    with pytest.raises(JournalError, match=r"^the journal did not commit within 0\.1 s$"):
        writer.run("late", add("d"), seconds=0.1)


FULL_DISK = """
import json, os, resource, sqlite3, sys, threading, time
from app.events import Event, Kind, Source, StageChange, Webhook
from app.journal import Journal, JournalError

path, limit = sys.argv[1], int(sys.argv[2])
journal = Journal(f"sqlite:///{path}")
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
told = {}

def send(number):
    event = Event(Source.KOMMO, Kind.STAGE_CHANGED, StageChange(number, 1), f"lead:{number}", str(number))
    body = b"x" * (900_000 if number % 5 == 0 else 10)
    try:
        journal.record(Webhook(Source.KOMMO, "", body), [(event, None)], now=1.0)
        told[str(number)] = "written"
    except JournalError:
        told[str(number)] = "not written"

lock = sqlite3.connect(path, isolation_level=None)
lock.execute("BEGIN IMMEDIATE")
threads = [threading.Thread(target=send, args=(number,)) for number in range(40)]
for thread in threads:
    thread.start()
    time.sleep(0.01)
lock.execute("ROLLBACK")
for thread in threads:
    thread.join()
print(json.dumps(told), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("limit", [300_000, 1_000_000, 2_500_000, 4_000_000])
def test_on_a_full_disk_nobody_is_told_that_lost_words_are_written(tmp_path: Path, limit: int) -> None:
    """SQLite may roll a whole transaction back by itself when it can write no more, and go on with an empty one.

    A process of its own, whose files may not grow beyond a limit, since the limit holds for all of a process's.
    """
    path = tmp_path / "full.db"

    done = nursery.run([sys.executable, "-c", FULL_DISK, str(path), str(limit)], cwd=ROOT, env={})

    assert (done.returncode, done.stderr) == (0, "")
    told = {number for number, word in json.loads(done.stdout).items() if word == "written"}
    with closing(sqlite3.connect(path)) as connection:
        written = {key for (key,) in connection.execute("SELECT dedupe_key FROM events")}
    assert told - written == set()
