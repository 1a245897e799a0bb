"""`flask events`, `flask replay` and `flask purge`, on both databases."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from flask import Flask
from flask.testing import FlaskCliRunner

from app import EXTENSION, create_app
from app.dispatcher import Dispatcher
from app.events import (
    Contact,
    Context,
    EmailActivity,
    Event,
    Failure,
    Kind,
    Lane,
    Lead,
    Outcome,
    Owed,
    Response,
    Source,
    StageChange,
    State,
    Step,
    Webhook,
)
from app.journal import Journal, Settlement
from app.settings import Settings

ADDRESS = "ann@example.test"


@pytest.fixture
def app(configured: Settings, database_url: str) -> Iterator[Flask]:
    made = create_app(replace(configured, database_url=database_url))
    yield made
    made.extensions[EXTENSION].close()


@pytest.fixture
def journal(app: Flask) -> Journal:
    dispatcher: Dispatcher = app.extensions[EXTENSION]
    return dispatcher._journal


@pytest.fixture
def runner(app: Flask) -> FlaskCliRunner:
    return app.test_cli_runner()


def stage(lead_id: int) -> Event:
    return Event(Source.KOMMO, Kind.STAGE_CHANGED, StageChange(lead_id, 2, 1), f"lead:{lead_id}", f"k{lead_id}")


def click() -> Event:
    activity = EmailActivity(email=ADDRESS, campaign="Offer")
    return Event(Source.ENCHARGE, Kind.EMAIL_CLICKED, activity, f"email:{ADDRESS}", "click")


@pytest.fixture
def told(journal: Journal) -> Journal:
    """Event 1: its note was refused. 2: delivered. 3: refused at receipt. 4: still owed."""
    now = time.time() - 100
    webhook = Webhook(Source.KOMMO, "text/plain", b"body")
    found = [(click(), None), (stage(5), None), (stage(6), "stage 2 is not in the mapping"), (stage(7), None)]
    journal.record(webhook, found, now=now)
    first, second, _ = journal.claim(Lane.RESOLVE, "kommo", 10, now=now)
    owed = Owed(Lane.KOMMO, "lead:9", Response(9, None, ()))
    context = Context(Lead(5), Contact(1, emails=("zoe@example.com",)))
    journal.settle(
        [
            Settlement(first, Outcome(State.DONE, owed=(owed,))),
            Settlement(second, Outcome(State.DONE, context=context)),
        ],
        now=now,
    )
    (refused,) = journal.claim(Lane.KOMMO, "kommo", 10, now=now)
    journal.write_steps({refused.id: {"task": Step(True, "77"), "note": Step(False)}}, refused.token)
    dead = Outcome(State.DEAD, "Kommo: 400: no such deal")
    journal.settle([Settlement(refused, dead, failure=Failure("refused", 400, 0.25))], now=now)
    return journal


def lines(runner: FlaskCliRunner, *command: str) -> list[str]:
    result = runner.invoke(args=list(command), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return [line.strip() for line in result.output.splitlines()]


def ids(runner: FlaskCliRunner, *options: str) -> list[int]:
    return [json.loads(line)["id"] for line in lines(runner, "events", "--json", *options)]


def test_an_empty_journal_says_so(runner: FlaskCliRunner) -> None:
    assert lines(runner, "events") == ["No events fit."]


SEARCHES = {
    (): [4, 3, 2, 1],
    ("2", "3"): [3, 2],
    ("--state", "dead"): [1],
    ("--state", "pending"): [4],
    ("--state", "skipped"): [3],
    ("--deal", "6"): [3],
    ("--deal", "9"): [1],  # found for the email of event 1
    ("--email", " Ann@Example.test "): [1],
    ("--email", "zoe@example.com"): [2],  # known from Kommo only
    ("--email", "a%@example.test"): [],
    ("--campaign", "oFF"): [1],
    ("--campaign", "o%f"): [],
    ("--source", "encharge"): [1],
    ("--since", "1h"): [4, 3, 2, 1],
    ("--until", "1h"): [],
    ("--since", "2001-02-03", "--until", "2001-02-04T10:00:00+02:00"): [],
    ("--limit", "2"): [4, 3],
}


@pytest.mark.usefixtures("told")
def test_events_are_found(runner: FlaskCliRunner) -> None:
    assert {options: ids(runner, *options) for options in SEARCHES} == SEARCHES


@pytest.mark.usefixtures("told")
def test_an_events_story_is_whole(runner: FlaskCliRunner) -> None:
    (line,) = lines(runner, "events", "1", "--json")
    story = json.loads(line)
    jobs = story.pop("jobs")
    assert story.pop("data")["campaign"] == "Offer"
    del story["received_at"]
    for job in jobs:
        del job["due_at"], job["created_at"], job["settled_at"]
    assert story == {
        "id": 1,
        "source": "encharge",
        "kind": "email_clicked",
        "order_key": f"email:{ADDRESS}",
        "occurred_at": None,
        "email": ADDRESS,
    }
    resolve, kommo = jobs
    assert resolve == {
        "lane": "resolve",
        "order_key": f"email:{ADDRESS}",
        "state": "done",
        "attempts": 0,
        "reason": "",
        "steps": {},
        "failures": [],
    }
    (failure,) = kommo.pop("failures")
    assert failure.pop("at") < time.time()
    assert failure == {
        "seconds": 0.25,
        "outcome": "dead",
        "fault": "refused",
        "status": 400,
        "words": "Kommo: 400: no such deal",
    }
    assert kommo == {
        "lane": "kommo",
        "order_key": "lead:9",
        "state": "dead",
        "attempts": 0,
        "reason": "Kommo: 400: no such deal",
        "steps": {"task": "77", "note": "begun"},
    }


@pytest.mark.usefixtures("told")
def test_the_table_has_a_line_for_each_event(runner: FlaskCliRunner) -> None:
    header, *rows = lines(runner, "events")
    assert header.split() == ["event", "received", "(UTC)", "source", "kind", "of", "jobs"]
    assert [row.split()[0] for row in rows] == ["4", "3", "2", "1"]
    assert rows[1].endswith("lead:6                     resolve skipped (stage 2 is not in the mapping)")


@pytest.mark.usefixtures("told")
def test_a_dry_run_says_what_would_be_done_and_changes_nothing(runner: FlaskCliRunner) -> None:
    before = lines(runner, "events", "--json")
    said = lines(runner, "replay", "--state", "dead", "--dry-run")
    assert said == [
        f"1: email_clicked of email:{ADDRESS}: kommo again (Kommo: 400: no such deal)",
        "That is all (1). Nothing was changed.",
    ]
    assert lines(runner, "events", "--json") == before


@pytest.mark.usefixtures("told")
def test_a_campaign_is_enough_for_a_replay(runner: FlaskCliRunner) -> None:
    assert lines(runner, "replay", "--campaign", "offer", "--dry-run")[0].startswith("1: email_clicked")


def test_a_replay_takes_up_the_dead_job_and_keeps_what_it_has_done(runner: FlaskCliRunner, told: Journal) -> None:
    assert (
        lines(runner, "replay", "1", "--yes")[-1]
        == "Due again: 1 of their jobs. The running service carries them out."
    )
    (job,) = told.claim(Lane.KOMMO, "kommo", 10, now=time.time())
    assert (job.event.id, job.attempts) == (1, 0)
    assert dict(job.steps) == {"task": Step(True, "77"), "note": Step(False)}


def test_a_replay_asks_first(runner: FlaskCliRunner, told: Journal) -> None:
    result = runner.invoke(args=["replay", "--state", "skipped"], input="n\n")
    assert (result.exit_code, "Take these up again (1)? [y/N]" in result.output) == (1, True)
    assert ids(runner, "--state", "skipped") == [3]
    result = runner.invoke(args=["replay", "--state", "skipped"], input="y\n")
    assert result.exit_code == 0
    # It is resolved anew: the mapping may know its stage by now.
    claimed = told.claim(Lane.RESOLVE, "kommo", 10, now=time.time() + 3600)
    assert [job.event.id for job in claimed] == [3, 4]


@pytest.mark.usefixtures("told")
def test_a_delivered_event_is_not_replayed(runner: FlaskCliRunner) -> None:
    said = lines(runner, "replay", "2", "--yes")
    assert said == ["Nothing to take up: no dead or skipped job among these events."]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        pytest.param(
            ["replay"], "Say which events: their ids, or options such as --state dead.", id="replay of nothing"
        ),
        pytest.param(
            ["events", "--since", "soon"], "'soon' is neither like 30m, 6h or 2d (ago) nor an ISO date", id="time"
        ),
        pytest.param(["events", "--state", "lost"], "'lost' is not one of", id="state"),
        pytest.param(["events", "--deal", "abc"], "'abc' is not a valid integer", id="deal"),
        pytest.param(["purge", "--days", "-1"], "-1 is not in the range", id="days"),
    ],
)
def test_a_wrong_option_is_named(runner: FlaskCliRunner, command: list[str], words: str) -> None:
    result = runner.invoke(args=command)
    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.usefixtures("told")
def test_purge_forgets_what_is_finished_and_keeps_what_is_owed(runner: FlaskCliRunner) -> None:
    assert lines(runner, "purge", "--yes")[-1] == "Done: 0 events forgotten."
    assert lines(runner, "purge", "--days", "0", "--yes")[-1] == "Done: 3 events forgotten."
    assert ids(runner) == [4]


@pytest.mark.usefixtures("told")
def test_purge_asks_first(runner: FlaskCliRunner) -> None:
    assert runner.invoke(args=["purge", "--days", "0"], input="\n").exit_code == 1
    assert ids(runner) == [4, 3, 2, 1]
