"""A journal that a released version left is brought up to date by this one, whatever comes in between.

The dumps were made by really running those versions: tests/fixtures/journals/make.py.
"""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from databases import run_sql
from support import JSON, Service, arrived, eventually, pass_time

from app.journal import Journal, JournalError
from app.journal.schema import known_versions
from sandbox.town import Town

ROOT = Path(__file__).parent.parent.parent
DUMPS = ROOT / "tests/fixtures/journals"
VERSIONS = sorted(path.name.removesuffix(".sqlite.sql") for path in DUMPS.glob("*.sqlite.sql"))
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

MARTA_DEAL = 40_518_833
MARTA = "marta.keller@northbay-logistics.example"
JOBS = "SELECT id, event_id, lane, order_key, state, attempts, plan, steps, reason FROM jobs ORDER BY id"
EVENTS = "SELECT id, webhook_id, source, kind, dedupe_key, order_key, data, context FROM events ORDER BY id"
WEBHOOKS = "SELECT id, source, content_type, body FROM webhooks ORDER BY id"
COOLDOWNS = "SELECT key, holder FROM cooldowns ORDER BY key"
TIMES = {
    "webhooks": ["received_at"],
    "events": ["received_at"],
    "jobs": ["due_at", "created_at", "settled_at"],
    "cooldowns": ["until"],
    "lanes": ["paused_until"],
}


@pytest.fixture(params=VERSIONS)
def left_by(request: pytest.FixtureRequest, empty_database_url: str) -> str:
    """The URL of a journal that a version left, as if it had stopped just now."""
    url = empty_database_url
    kind = "sqlite" if url.startswith("sqlite") else "postgresql"
    text = (DUMPS / f"{request.param}.{kind}.sql").read_text(encoding="utf-8")
    if kind == "sqlite":
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.executescript(text)
            connection.execute("PRAGMA journal_mode = WAL")
    else:
        with closing(psycopg.connect(url, autocommit=True)) as session:
            session.execute(text.encode())
    ((last,),) = run_sql(url, "SELECT max(received_at) FROM webhooks")
    later = time.time() - float(last)
    for table, columns in TIMES.items():
        for column in columns:
            run_sql(url, f"UPDATE {table} SET {column} = {column} + :later", later=later)  # noqa: S608
    return url


def schema_of(url: str) -> str:
    ((version,),) = run_sql(url, "SELECT version_num FROM alembic_version")
    return str(version)


def test_every_released_version_has_its_dumps() -> None:
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", CHANGELOG, re.MULTILINE)
    assert sorted(released) == VERSIONS, "make them: tests/fixtures/journals/make.py VERSION COMMIT"
    assert all((DUMPS / f"{version}.postgresql.sql").exists() for version in VERSIONS)


def test_the_service_takes_over_what_a_released_version_left(
    left_by: str, start_service: Callable[..., Service], town: Town
) -> None:
    before = {query: run_sql(left_by, query) for query in (JOBS, EVENTS, WEBHOOKS, COOLDOWNS)}
    states = {job[4] for job in before[JOBS]}
    assert states == {"done", "skipped", "dead", "pending"}
    assert schema_of(left_by) != known_versions()[0]
    pass_time({"DATABASE_URL": left_by})

    service = start_service(DATABASE_URL=left_by)

    assert schema_of(left_by) == known_versions()[0]
    eventually(lambda: not run_sql(left_by, "SELECT 1 FROM jobs WHERE state = 'pending'"))
    after = {job[0]: job for job in run_sql(left_by, JOBS)}
    assert [job for job in before[JOBS] if job[4] != "pending"] == [
        after[job[0]] for job in before[JOBS] if job[4] != "pending"
    ]
    assert {after[job[0]][4] for job in before[JOBS] if job[4] == "pending"} == {"done"}
    assert run_sql(left_by, WEBHOOKS) == before[WEBHOOKS]
    assert [row[:7] for row in run_sql(left_by, EVENTS)] == [row[:7] for row in before[EVENTS]]
    assert dict(before[COOLDOWNS]).items() <= dict(run_sql(left_by, COOLDOWNS)).items()

    # What was owed has arrived, and what was done has not been done again.
    told = arrived(town)
    sent = [(event["name"], event["email"]) for event in told["encharge_events"]]
    proposals = [("deal_moved_to_proposal_sent", f"{who}@example.com") for who in ("ada", "zoe")]
    assert sorted(sent) == proposals
    stages = [(item["email"], item["attributes"]["str:cm:stage"]) for item in told["ortto_activities"]]
    assert sorted(stages) == [
        ("ada@example.com", "Proposal sent"),
        ("ada@example.com", "Qualification"),
        ("zoe@example.com", "Proposal sent"),
    ]
    assert [task["entity_id"] for task in told["tasks"]] == [MARTA_DEAL]

    # A webhook that came before the upgrade, sent again; and the cooldown of a task that was made before it.
    for _, source, content_type, body in before[WEBHOOKS]:
        again = service.post(source, bytes(body), content_type)
        assert {entry["status"] for entry in again.json()["events"]} == {"duplicate"}, source
    click = b'{"event": "email_link_clicked", "email": "zoe@example.com", "eventId": 77, "broadcastName": "New"}'
    service.post("encharge", click, JSON)
    eventually(lambda: len(town.kommo.state()["notes"]["leads"]) == 2)
    assert [task["entity_id"] for task in arrived(town)["tasks"]] == [MARTA_DEAL]
    # What was dead can be taken up again, and its address is found.
    journal = Journal(left_by)
    dead = [job[1] for job in before[JOBS] if job[4] == "dead"]
    assert journal.take_up_again(dead, now=time.time()) == 1
    journal.close()
    eventually(lambda: ("deal_moved_to_qualified", MARTA) in events_at_encharge(town))


def events_at_encharge(town: Town) -> list[tuple[str, str]]:
    return [(event["name"], event["email"]) for event in town.encharge.state()["events"]]


START = "from app.journal import Journal; Journal({url!r}).close()"
DIE = """
import os, signal
from sqlalchemy import Engine, event
@event.listens_for(Engine, "before_cursor_execute")
def die(connection, cursor, statement, *rest):
    if {words!r} in statement:
        os.kill(os.getpid(), signal.SIGKILL)
"""
TELL = "import logging; logging.basicConfig(level=logging.INFO)\n"


def python(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env={"PATH": os.environ["PATH"]}, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("words", ["UPDATE events SET email"])
def test_an_upgrade_that_was_killed_can_be_started_again(left_by: str, words: str) -> None:
    before = schema_of(left_by), run_sql(left_by, EVENTS), run_sql(left_by, JOBS)

    killed = python(DIE.format(words=words) + START.format(url=left_by))
    killed.communicate(timeout=60)

    assert killed.returncode == -signal.SIGKILL
    assert (schema_of(left_by), run_sql(left_by, EVENTS), run_sql(left_by, JOBS)) == before
    Journal(left_by).close()
    assert schema_of(left_by) == known_versions()[0]
    assert run_sql(left_by, EVENTS) == before[1]


def test_two_that_start_at_once_upgrade_once(left_by: str) -> None:
    steps = known_versions().index(schema_of(left_by))

    both = [python(TELL + START.format(url=left_by)) for _ in range(2)]
    told = [process.communicate(timeout=60)[1] for process in both]

    assert [process.returncode for process in both] == [0, 0], told
    # One ran all the steps, and the other found nothing left to do.
    assert sorted(words.count("Running upgrade") for words in told) == [0, steps]
    assert schema_of(left_by) == known_versions()[0]


def test_a_newer_schema_is_refused(left_by: str) -> None:
    run_sql(left_by, "UPDATE alembic_version SET version_num = '0999'")

    with pytest.raises(
        JournalError, match=r"^the journal has schema 0999, made by a newer version of Kommo Relay: "
    ):
        Journal(left_by)

    assert schema_of(left_by) == "0999"
    if left_by.startswith("postgresql"):
        others = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid()"
        eventually(lambda: not run_sql(left_by, others))
