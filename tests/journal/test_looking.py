"""What is asked of the journal without changing it, on both databases: by `flask explain` and `flask doctor`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from databases import run_sql
from parts import Clock, Desk, email_event, stage_event

from app.events import (
    Contact,
    Context,
    Kind,
    Lane,
    Lead,
    Outcome,
    Owed,
    Response,
    Source,
    StageChange,
    State,
    Webhook,
)
from app.journal import Ending, Journal, JournalError, Settlement, inspect

ZOE = "zoe@example.com"
BODY = Webhook(Source.ENCHARGE, "application/json", b"{}")


@pytest.fixture
def journal(database_url: str) -> Iterator[Journal]:
    made = Journal(database_url)
    yield made
    made.close()


def test_a_cooldown_tells_until_when_and_whose(journal: Journal) -> None:
    desk = Desk(journal)
    desk.record(stage_event(5, 1))
    (job,) = desk.claim(Lane.RESOLVE)
    assert journal.cooldown("task:lead:5") is None
    assert journal.claim_cooldown("task:lead:5", job, 100, now=1_000.0)
    held = journal.cooldown("task:lead:5")
    assert held is not None
    assert (held.until, held.holder) == (1_100.0, f"job:{job.id}")


@pytest.mark.parametrize("kind", [Kind.EMAIL_CLICKED, Kind.EMAIL_OPENED, Kind.UNSUBSCRIBED, Kind.OTHER])
@pytest.mark.parametrize("campaign", ["Pricing", "PRICING", "Other"])
def test_what_is_foreseen_is_what_is_seen(journal: Journal, kind: Kind, campaign: str) -> None:
    now = time.time()
    for number, earlier in enumerate((Kind.EMAIL_OPENED, Kind.EMAIL_CLICKED, Kind.EMAIL_OPENED)):
        event = email_event(number, email=ZOE, kind=earlier)
        journal.record(BODY, [(event, None)], now=now - 60 + number)
    event = email_event(9, email=ZOE, kind=kind, campaign=campaign)
    before = run_sql_all(journal)

    foreseen = journal.foresee(event, ZOE, moments=90, now=now)

    assert run_sql_all(journal) == before
    journal.record(BODY, [(event, None)], now=now)
    (job,) = journal.claim(Lane.RESOLVE, "kommo", 10, now=now)[-1:]
    assert journal.remember({job.id: ZOE}, [job], moments=90) == {job.id: foreseen}
    if kind == Kind.EMAIL_CLICKED and campaign != "Other":
        assert not foreseen.first
        assert foreseen.open_id == 3


def run_sql_all(journal: Journal) -> list[tuple[object, ...]]:
    return journal._read(
        lambda connection: [tuple(row) for row in connection.exec_driver_sql("SELECT * FROM sightings")]
    )


def test_particulars_tell_what_was_said_and_known(journal: Journal) -> None:
    desk = Desk(journal)
    first, second = desk.record(stage_event(5, 1), email_event(email=ZOE))
    job, _ = desk.claim(Lane.RESOLVE)
    context = Context(Lead(5, "Order"), Contact(6, emails=(ZOE,)))
    journal.settle([Settlement(job, Outcome(State.SKIPPED, "so", context))], now=time.time())
    found = journal.particulars([first, second, 99])
    assert set(found) == {first, second}
    assert isinstance(found[first].data, StageChange)
    assert (found[first].data.lead_id, found[first].context) == (5, context)
    assert (found[second].data.email, found[second].context) == (ZOE, None)  # type: ignore[union-attr]
    assert found[second].occurred_at is not None
    assert journal.particulars([]) == {}


def test_each_lane_tells_how_its_last_job_ended(journal: Journal) -> None:
    assert journal.endings() == {}
    desk = Desk(journal, Clock())
    desk.record(stage_event(5, 1), stage_event(6, 1), stage_event(7, 1))
    first, second, _ = desk.claim(Lane.RESOLVE)
    owed = Owed(Lane.KOMMO, "lead:5", Response(5, None, ()))
    journal.settle([Settlement(first, Outcome(State.DONE, owed=(owed,)))], now=10.0)
    journal.settle([Settlement(second, Outcome(State.DEAD, "refused"))], now=20.0)
    assert journal.endings() == {Lane.RESOLVE: Ending(State.DEAD, "refused", 20.0)}


# -- from outside --------------------------------------------------------------------------------------------------


def test_a_journal_in_use_is_inspected(journal: Journal, database_url: str) -> None:
    seen = inspect(database_url)
    assert (seen.exists, seen.known, seen.usable, seen.schema) == (True, True, True, seen.newest)
    assert "secret" not in seen.place
    if database_url.startswith("sqlite"):
        assert seen.size is not None
        assert seen.size > 0
        assert seen.free is not None


@pytest.mark.parametrize(("version", "known"), [("0001", True), ("9999", False)])
def test_another_schema_is_told_and_left(database_url: str, version: str, known: bool) -> None:
    Journal(database_url).close()
    run_sql(database_url, f"UPDATE alembic_version SET version_num = '{version}'")  # noqa: S608
    seen = inspect(database_url)
    assert (seen.schema, seen.known, seen.usable) == (version, known, False)


def test_an_empty_database_is_not_filled(empty_database_url: str) -> None:
    if empty_database_url.startswith("sqlite"):
        Path(empty_database_url.removeprefix("sqlite:///")).touch()
    seen = inspect(empty_database_url)
    assert (seen.exists, seen.schema, seen.known, seen.usable) == (True, None, True, False)
    again = inspect(empty_database_url)
    assert replace(again, free=None) == replace(seen, free=None)


def test_what_is_not_there_is_not_made(tmp_path: Path) -> None:
    seen = inspect(f"sqlite:///{tmp_path}/new/journal.db")
    assert (seen.exists, seen.may_be_made, seen.usable) == (False, True, False)
    (tmp_path / "file").write_text("")
    assert not inspect(f"sqlite:///{tmp_path}/file/journal.db").may_be_made
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_what_is_no_database_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"something else " * 100)
    with pytest.raises(JournalError, match="cannot be opened"):
        inspect(f"sqlite:///{tmp_path}/journal.db")
    with pytest.raises(JournalError, match=r"postgresql://relay:\*\*\*@127.0.0.1:9/relay cannot be opened"):
        inspect("postgresql://relay:secret@127.0.0.1:9/relay")
