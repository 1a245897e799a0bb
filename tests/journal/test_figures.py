"""Figures of now and of the last 24 hours, on both databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from journal_events import NOW, claim, owed, record, stage

from app.events import Failure, Lane, Outcome, State, skipped
from app.journal import Figures, Hour, Journal, LaneFigures, Settlement, figures

HOUR = 3600.0


@pytest.fixture
def journal(database_url: str) -> Iterator[Journal]:
    made = Journal(database_url)
    yield made
    made.close()


def settle(
    journal: Journal, outcome: Outcome, at: float, *, lane: Lane = Lane.RESOLVE, due_at: float = 0.0
) -> None:
    """Let the oldest due job of a lane end so."""
    job, *_ = claim(journal, 1, lane=lane, now=at)
    failed = outcome.state in (State.PENDING, State.DEAD)
    failure = Failure("passing", 503, 0.1) if failed else None
    journal.settle([Settlement(job, outcome, due_at=due_at, failed=failed, failure=failure)], now=at)


def test_what_waits_and_what_failed_is_counted(journal: Journal) -> None:
    assert journal.figures() == Figures({}, dead=0, skipped=0, newest=0)
    for number in range(1, 6):
        record(journal, stage(number), now=NOW + number)
    settle(journal, Outcome(State.DONE, owed=(owed(Lane.ORTTO, 1), owed(Lane.ENCHARGE, 1))), NOW + 10)
    settle(journal, Outcome(State.DEAD, "gone"), NOW + 11)
    settle(journal, skipped("no email"), NOW + 12)
    settle(journal, Outcome(State.PENDING, "busy"), NOW + 13, due_at=NOW + 99)
    settle(journal, Outcome(State.DONE), NOW + 14, lane=Lane.ENCHARGE)
    assert journal.figures() == Figures(
        {Lane.RESOLVE: LaneFigures(2, 1, NOW + 4), Lane.ORTTO: LaneFigures(1, 0, NOW + 10)},
        dead=1,
        skipped=1,
        newest=5,
    )


def test_the_last_24_hours_are_told_one_by_one(journal: Journal) -> None:
    now = NOW + 24 * HOUR
    record(journal, stage(99), now=NOW - 1)  # longer ago
    settle(journal, Outcome(State.DEAD, "gone"), NOW - 1)
    for number, (hour, took) in enumerate([(0, 1.0), (5, 2.0), (5, 3.0), (5, 100.0), (23, 4.0)]):
        at = NOW + hour * HOUR
        record(journal, stage(number), now=at)
        settle(journal, Outcome(State.DONE, owed=(owed(Lane.ORTTO, number),)), at)
        settle(journal, Outcome(State.DONE), at + took, lane=Lane.ORTTO)
    record(journal, stage(50), now=NOW + 5 * HOUR)
    settle(journal, Outcome(State.DEAD, "gone"), NOW + 5 * HOUR + 900)  # nothing was carried out
    record(journal, stage(51), now=NOW + 6 * HOUR)
    settle(journal, Outcome(State.DONE, owed=(owed(Lane.ORTTO, 51),)), NOW + 6 * HOUR)  # not over
    record(journal, stage(52), now=NOW + 7 * HOUR)
    settle(journal, skipped("no email"), NOW + 7 * HOUR)

    told = {
        0: (1, 0, 1.0, 1.0),
        5: (4, 1, 3.0, 100.0),
        6: (1, 0, None, None),
        7: (1, 0, None, None),
        23: (1, 0, 4.0, 4.0),
    }
    assert journal.hours(now=now) == [
        Hour(NOW + hour * HOUR, *told.get(hour, (0, 0, None, None))) for hour in range(24)
    ]


def test_of_many_events_a_sample_is_enough(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "SAMPLE", 5)
    record(journal, *(stage(number) for number in range(10)), now=NOW)
    for job in claim(journal, now=NOW):
        journal.settle([Settlement(job, Outcome(State.DONE))], now=NOW + job.event.id)
    *_, last = journal.hours(now=NOW + 60)
    assert (last.came, last.median, last.slow) == (10, 5.0, 9.0)  # of the events 1, 3, 5, 7 and 9
