"""How the journal stands: what waits, what is dead, what may still be called, how large it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from parts import Clock, Desk, stage_event

from app.events import Lane, Outcome, Priority, State
from app.journal import Journal, Queue, Settlement
from app.journal.budget import Budget

NOW = 1_800_000_000.0


@pytest.fixture
def desk(database_url: str) -> Iterator[Desk]:
    journal = Journal(database_url)
    yield Desk(journal)
    journal.close()


def give_up(desk: Desk, count: int = 250) -> list[int]:
    settled = [Settlement(job, Outcome(State.DEAD, "no")) for job in desk.claim(Lane.RESOLVE, count)]
    desk.journal.settle(settled, now=desk.clock())
    return [settlement.job.id for settlement in settled]


def test_an_empty_journal_owes_nothing(desk: Desk) -> None:
    standing = desk.journal.standing("kommo", 7.0, now=desk.clock())
    assert standing.queues == dict.fromkeys(Lane, Queue())
    assert standing.pauses == {}
    assert (standing.calls.left, standing.calls.booked, standing.calls.per_second) == (7, 0, 7.0)
    assert standing.size > 10_000


def test_it_tells_what_waits_since_when_and_what_is_dead(desk: Desk) -> None:
    began = desk.clock()
    desk.record(*(stage_event(lead_id, 1) for lead_id in (1, 2, 3)))
    (dead,) = give_up(desk, 1)
    desk.clock.put_forward(100)
    desk.record(stage_event(4, 1))
    desk.journal.pause("ortto", desk.clock() + 60, "it said no")

    standing = desk.journal.standing("kommo", 7.0, now=desk.clock())

    queue = standing.queues[Lane.RESOLVE]
    assert (queue.waiting, queue.dead) == (3, 1)
    assert queue.oldest == queue.due == pytest.approx(began, abs=5)
    assert standing.queues[Lane.ORTTO] == Queue()
    assert {vendor: pause.reason for vendor, pause in standing.pauses.items()} == {"ortto": "it said no"}
    assert desk.journal.dead() == 1
    assert [death.job_id for death in desk.journal.died_since(began - 1)] == [dead]
    assert desk.journal.died_since(desk.clock()) == []


def test_its_size_grows_with_what_is_written(desk: Desk) -> None:
    before = desk.journal.standing("kommo", 7.0, now=desk.clock()).size
    desk.record(*(stage_event(lead_id, 1) for lead_id in range(1, 500)))
    assert desk.journal.standing("kommo", 7.0, now=desk.clock()).size > before + 50_000


def test_what_is_kept_is_not_purged(desk: Desk) -> None:
    desk.journal.keep("alerts", "x")
    desk.journal.keep("alerts", "y")
    desk.journal.purge(desk.clock() + 1e9)
    assert desk.journal.bookmark("alerts") == "y"


# -- the budget -------------------------------------------------------------------------------------------------


def test_calls_that_went_leave_fewer_and_booked_ones_none() -> None:
    budget = Budget()
    left = []
    for number in range(9):
        left.append(budget.left(NOW, 7.0))
        budget.book(NOW, 7.0, Priority.TASKS, str(number))
    assert left == [7, 6, 5, 4, 3, 2, 1, 0, 0]
    assert budget.left(NOW + 3, 7.0) == 7


def test_to_ask_how_many_are_left_books_nothing() -> None:
    budget = Budget()
    budget.book(NOW, 7.0, Priority.STAGES, "a")
    before = budget.text()
    budget.left(NOW + 0.1, 7.0)
    assert budget.text() == before


def test_after_a_refusal_none_is_left_for_a_while_and_then_fewer() -> None:
    budget = Budget()
    budget.refuse(NOW, 7.0, retry_after=10.0)
    assert budget.left(NOW + 5, 7.0) == 0
    assert 0 < budget.left(NOW + 11, 7.0) < 7


def test_a_limit_below_one_a_second_has_one_call() -> None:
    budget = Budget()
    assert budget.left(NOW, 0.5) == 1
    budget.book(NOW, 0.5, Priority.TASKS, "a")
    assert budget.left(NOW + 1, 0.5) == 0


def test_a_clock_that_runs_ahead_elsewhere_hides_nothing() -> None:
    budget = Budget()
    budget.book(Clock()() + 1, 7.0, Priority.TASKS, "a")
    assert budget.left(Clock()(), 7.0) == 6
