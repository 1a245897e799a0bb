"""Attempts that did not end well are told, and forgotten with their event."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from databases import run_sql
from journal_events import NOW, claim, record, stage

from app.events import Failure, Outcome, State
from app.journal import Attempt, Journal, Settlement
from app.journal.statements import ATTEMPTS_KEPT

DOWN = Outcome(State.PENDING, "Kommo: GET /leads answered 503: down")
GONE = Outcome(State.DEAD, "Kommo: GET /leads answered 400: no such deal")


@pytest.fixture
def journal(database_url: str) -> Iterator[Journal]:
    made = Journal(database_url)
    yield made
    made.close()


def fail(journal: Journal, outcome: Outcome, at: float, failure: Failure) -> None:
    (job,) = claim(journal, now=at)
    journal.settle([Settlement(job, outcome, due_at=at, failed=True, failure=failure)], now=at)


def told(journal: Journal, event_id: int) -> list[Attempt]:
    story = journal.story(event_id)
    assert story is not None
    (job,) = story.event.jobs
    return list(job.failures)


def test_each_failed_attempt_is_told_in_order_and_a_replay_too(journal: Journal) -> None:
    (recorded,) = record(journal, stage(1))
    fail(journal, DOWN, NOW + 1, Failure("passing", 503, 0.4))
    fail(journal, GONE, NOW + 9, Failure("refused", None, 0.1))
    assert journal.take_up_again([recorded.event.id], now=NOW + 60) == 1
    assert told(journal, recorded.event.id) == [
        Attempt(NOW + 1, 0.4, "pending", "passing", 503, DOWN.reason),
        Attempt(NOW + 9, 0.1, "dead", "refused", None, GONE.reason),
        Attempt(NOW + 60, 0.0, "replayed", "", None, GONE.reason),
    ]


def test_what_ended_well_is_not_told_again(journal: Journal) -> None:
    (recorded,) = record(journal, stage(1))
    (job,) = claim(journal)
    journal.settle([Settlement(job, Outcome(State.DONE))], now=NOW)
    assert told(journal, recorded.event.id) == []
    assert journal.take_up_again([recorded.event.id], now=NOW) == 0
    assert told(journal, recorded.event.id) == []


def test_an_attempt_of_a_job_that_was_taken_over_is_not_told(journal: Journal) -> None:
    (recorded,) = record(journal, stage(1))
    (job,) = claim(journal)
    journal.release([job])
    journal.settle([Settlement(job, DOWN, failed=True, failure=Failure("passing", 503, 0.4))], now=NOW)
    assert told(journal, recorded.event.id) == []


def test_long_words_are_cut(journal: Journal) -> None:
    (recorded,) = record(journal, stage(1))
    fail(journal, Outcome(State.PENDING, "x" * 5_000), NOW, Failure("passing", 503, 0.4))
    (attempt,) = told(journal, recorded.event.id)
    assert attempt.words == "x" * 500


def test_they_are_forgotten_with_their_event(journal: Journal, database_url: str) -> None:
    record(journal, stage(1), stage(2))
    for job, outcome in zip(claim(journal), (GONE, DOWN), strict=True):
        journal.settle([Settlement(job, outcome, failure=Failure("refused", 400, 0.1))], now=NOW)
    assert journal.purge(NOW + 100) == 1
    assert run_sql(database_url, "SELECT words FROM attempts") == [(DOWN.reason,)]


def test_of_a_vendor_that_locks_us_out_for_weeks_the_latest_are_kept(journal: Journal, database_url: str) -> None:
    (recorded,) = record(journal, stage(1))
    fail(journal, DOWN, NOW, Failure("locked out", 401, 0.1))
    many = (
        "INSERT INTO attempts (job_id, at, seconds, outcome, fault, words)"
        " SELECT job_id, at + :n, seconds, outcome, fault, words FROM attempts WHERE at = :now"
    )
    for number in range(1, ATTEMPTS_KEPT + 20):
        run_sql(database_url, many, n=number, now=NOW)
    journal.purge(NOW - 100)
    kept = told(journal, recorded.event.id)
    assert [attempt.at for attempt in kept] == [NOW + number for number in range(20, ATTEMPTS_KEPT + 20)]
