"""The clock of the machine is set while jobs are leased: nobody's work is taken for a dead process's."""

from __future__ import annotations

import time

import pytest
from journal_events import claim, record, stage

from app.clock import ClockWatch
from app.dispatcher import Dispatcher
from app.events import Lane, Priority, Turn
from app.journal import Journal

HOUR = 3600.0


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    real = time.time

    def by(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + seconds)

    return by


@pytest.mark.parametrize("seconds", [HOUR, -HOUR, 5.0])
def test_a_set_clock_is_noticed_once_and_not_trusted_for_a_while(set_clock, seconds: float) -> None:  # type: ignore[no-untyped-def]
    watch = ClockWatch()
    assert (watch.look(), watch.trusted(60)) == (0.0, True)
    set_clock(seconds)
    assert watch.look() == pytest.approx(seconds, abs=0.5)
    assert watch.look() == 0.0
    assert (watch.trusted(60), watch.trusted(-1)) == (False, True)


def test_a_clock_that_is_slewed_is_trusted(set_clock) -> None:  # type: ignore[no-untyped-def]
    watch = ClockWatch()
    set_clock(0.5)
    assert (watch.look(), watch.trusted(60)) == (0.0, True)


def test_a_lease_that_only_the_set_clock_ended_is_not_taken_over(database_url: str) -> None:
    ours, theirs = Journal(database_url), Journal(database_url)
    now = time.time()
    record(ours, stage(1), stage(1), stage(2))
    assert len(claim(ours)) == 3
    later = now + HOUR
    assert theirs.claim(Lane.RESOLVE, "kommo", 10, now=later, take_over=False) == []
    assert [job.event.id for job in theirs.claim(Lane.RESOLVE, "kommo", 10, now=later)] == [1, 2, 3]
    ours.close()
    theirs.close()


def test_after_the_clock_was_set_back_nothing_waits_for_the_old_time(database_url: str) -> None:
    journal = Journal(database_url)
    ahead, now = time.time() + HOUR, time.time()
    record(journal, stage(1), now=ahead)
    journal.pause("kommo", ahead + 10, "429")
    booked = [journal.let_go("kommo", 7, Priority.TASKS, str(number), now=ahead) for number in range(14)]
    assert booked[-1].at > ahead
    journal.slow_down("kommo", 7, retry_after=10, now=ahead)

    journal.clock_was_set_back(now=now, longest_pause=300)

    assert journal.pauses(now=now) == {}
    assert [job.event.id for job in journal.claim(Lane.RESOLVE, "other", 10, now=now)] == [1]
    assert journal.let_go("kommo", 7, Priority.TASKS, "now", now=now) == Turn(now)
    journal.close()


def test_a_lease_given_under_a_clock_that_was_wrong_does_not_count(database_url: str) -> None:
    journal = Journal(database_url)
    ahead, now = time.time() + HOUR, time.time()
    record(journal, stage(1), now=now)
    assert len(journal.claim(Lane.RESOLVE, "kommo", 10, now=ahead)) == 1

    assert [job.event.id for job in journal.claim(Lane.RESOLVE, "kommo", 10, now=now)] == [1]
    # One that was given now is a lease.
    assert journal.claim(Lane.RESOLVE, "kommo", 10, now=now + 1) == []
    journal.close()


def test_a_start_waits_for_no_time_of_a_clock_that_was_wrong(database_url: str) -> None:
    journal = Journal(database_url)
    journal.pause("kommo", time.time() + HOUR, "429")
    dispatcher = Dispatcher(journal, {}, places=1, retention=HOUR)

    dispatcher.start()

    assert journal.pauses(now=time.time()) == {}
    dispatcher.close()
