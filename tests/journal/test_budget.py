"""The budget of calls by itself: hours of it in no time, on a clock of its own."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.events import Priority, Turn
from app.journal.budget import FIRM_SECONDS, MARGIN, Budget
from sandbox.kommo.limits import Limiter

NOW = 1_767_607_800.0
LIMIT = 7.0
PLACE = MARGIN / LIMIT  # seconds from one place to the next where they are spread evenly
TASKS, STAGES, BACKFILL = Priority


class Call(NamedTuple):
    """A call that went."""

    at: float
    priority: Priority
    waited: float


@dataclass
class Callers:
    """Callers who ask again as soon as they may, as threads of many processes do; what they did is in `went`."""

    limit: float = LIMIT
    refuses: Callable[[float], bool] = lambda at: False
    budget: Budget = field(default_factory=Budget)
    went: list[Call] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    _agenda: list[tuple[float, int, Callable[[float], None]]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def add(
        self, priority: Priority, at: float = NOW, *, every: float | None = 0.05, retry_after: float = 0
    ) -> None:
        """Let one more call from then on, its next call `every` seconds after the last one; None: just once."""

        def ask(now: float) -> None:
            holder = str(next(self._numbers))
            # Written down and read again each time, as the journal does.
            self.budget = Budget.read(self.budget.text())
            turn = self.budget.book(now, self.limit, priority, holder)
            if turn.closed:
                self._at(turn.at, ask)
            else:
                self._at(turn.at, lambda then: wake(then, now, holder))

        def wake(now: float, asked: float, holder: str) -> None:
            at = self.budget.held_by(holder)
            if at is None:
                return ask(now)
            if at > now:
                return self._at(at, lambda then: wake(then, asked, holder))
            self.went.append(Call(now, priority, now - asked))
            if self.refuses(now):
                self.refused.append(now)
                self.budget.refuse(now, self.limit, retry_after)
            if every is not None:
                self._at(now + every, ask)
            return None

        self._at(at, ask)

    def _at(self, at: float, what: Callable[[float], None]) -> None:
        heapq.heappush(self._agenda, (at, next(self._numbers), what))

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._agenda and self._agenda[0][0] <= until:
            at, _, what = heapq.heappop(self._agenda)
            what(at)

    def rate(self, since: float, until: float) -> float:
        """Return how many calls a second went between two times."""
        return sum(since <= call.at < until for call in self.went) / (until - since)


def closest(times: list[float], count: int) -> float:
    """Return the shortest time in which more than `count` calls went."""
    times = sorted(times)
    return min((late - early for early, late in zip(times, times[count:], strict=False)), default=1e9)


# -- the limit ----------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(
    limit=st.sampled_from([7.0, 50.0, 2.5, 1.0, 0.5]),
    asks=st.lists(
        st.tuples(
            st.sampled_from([-0.9, 0.0, 0.001, 0.05, 0.3, 2.0]), st.sampled_from(Priority), st.integers(0, 30)
        ),
        max_size=50,
    ),
)
def test_no_window_ever_holds_more_places_than_the_limit_and_each_is_one_callers(
    limit: float, asks: list[tuple[float, Priority, int]]
) -> None:
    """Whatever is asked when, by clocks that differ, and with refusals in between."""
    budget, now, seen = Budget(), NOW, set[float]()
    count = max(1, int(limit))
    for number, (step, priority, luck) in enumerate(asks):
        now += step
        if luck == 0:
            budget.refuse(now, limit, 0.0)
        before = {place.holder: place.at for place in budget.places if place.at <= now + FIRM_SECONDS}
        turn = budget.book(now, limit, priority, str(number))
        seen |= {place.at for place in budget.places}

        assert turn.closed or turn.at >= now
        assert len({place.holder for place in budget.places}) == len(budget.places)
        assert {
            place.holder: place.at for place in budget.places if place.holder in before
        }.items() <= before.items()

    assert closest(list(seen), count) >= count / limit * 1.07


def test_a_clock_that_is_behind_does_not_book_where_the_past_is_forgotten() -> None:
    budget = Budget()
    for number in range(12):
        budget.book(NOW + 1.1 * (number // 7), LIMIT, TASKS, str(number))

    assert budget.book(NOW + 0.4, LIMIT, TASKS, "behind").at == NOW + 1.1


@pytest.mark.parametrize("priority", Priority)
@pytest.mark.parametrize("callers", [1, 3])
def test_who_calls_alone_gets_the_whole_rate(priority: Priority, callers: int) -> None:
    town = Callers()
    for _ in range(callers):
        town.add(priority)
    town.run(NOW + 60)

    assert town.rate(NOW, NOW + 60) > 0.98 * LIMIT / MARGIN


def test_a_burst_goes_at_once_but_for_what_is_kept_for_the_more_urgent() -> None:
    went = {}
    for priority in Priority:
        budget = Budget()
        turns = [budget.book(NOW, LIMIT, priority, str(number)) for number in range(8)]
        went[priority] = sum(turn.at == NOW for turn in turns)

    assert went == {TASKS: 7, STAGES: 5, BACKFILL: 1}


# -- who goes first -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("busy", "callers", "caller", "places"),
    [
        pytest.param(BACKFILL, 1, TASKS, 2, id="a task before a backfill"),
        pytest.param(BACKFILL, 8, TASKS, 2, id="a task before eight backfills"),
        pytest.param(STAGES, 3, TASKS, 3, id="a task before the stages of a process"),
        pytest.param(STAGES, 12, TASKS, 3, id="a task before the stages of four processes"),
        pytest.param(BACKFILL, 8, STAGES, 2, id="a stage before eight backfills"),
    ],
)
def test_an_urgent_call_waits_for_a_place_or_two_whoever_else_waits(
    busy: Priority, callers: int, caller: Priority, places: int
) -> None:
    chance = random.Random(7)
    town = Callers()
    for _ in range(callers):
        town.add(busy)
    for second in range(5, 300, 5):
        town.add(caller, NOW + second + chance.random(), every=None)
    town.run(NOW + 310)

    waits = [call.waited for call in town.went if call.priority == caller]
    assert len(waits) == 59
    assert max(waits) <= places * PLACE + FIRM_SECONDS + 0.01
    assert town.rate(NOW, NOW + 300) > 0.97 * LIMIT / MARGIN


def test_nobody_starves_and_the_more_urgent_get_more() -> None:
    """More tasks than the limit allows, for a minute, beside stages and a backfill."""
    town = Callers()
    for priority in (*[TASKS] * 8, *[STAGES] * 4, BACKFILL):
        town.add(priority)
    town.run(NOW + 60)

    counts = Counter(call.priority for call in town.went)
    assert counts[TASKS] > counts[STAGES] > counts[BACKFILL]
    assert counts[STAGES] > 60
    assert counts[BACKFILL] > 0.8 * 60
    assert max(call.waited for call in town.went if call.priority == BACKFILL) < 2


def test_those_who_move_back_keep_their_order() -> None:
    budget = Budget()
    for number in range(8):
        budget.book(NOW, LIMIT, BACKFILL, f"backfill {number}")
    for name, priority in (("stage", STAGES), ("task", TASKS), ("later task", TASKS), ("later stage", STAGES)):
        budget.book(NOW + 0.5, LIMIT, priority, name)

    waiting = [place.holder for place in budget.places if place.at > NOW + 0.5 + FIRM_SECONDS]
    urgent = ["stage", "later stage", "task", "later task"]  # two stages are due after so many others
    assert waiting == [*urgent, *(f"backfill {number}" for number in range(4, 8))]


def test_a_place_that_is_about_to_come_is_not_taken() -> None:
    budget = Budget()
    for number in range(8):
        budget.book(NOW, LIMIT, BACKFILL, f"backfill {number}")
    seventh, eighth = NOW + 6 * PLACE, NOW + 7 * PLACE

    late = budget.book(seventh - 0.9 * FIRM_SECONDS, LIMIT, TASKS, "late task")

    assert late == Turn(pytest.approx(eighth), taken=True)
    assert budget.held_by("backfill 6") == pytest.approx(seventh)
    assert budget.held_by("backfill 7") == pytest.approx(eighth + PLACE)


# -- when others use the limit too --------------------------------------------------------------------------------


def test_calls_refused_together_halve_the_rate_once() -> None:
    budget = Budget()
    assert budget.refuse(NOW, LIMIT, 0)
    assert not budget.refuse(NOW + 0.5, LIMIT, 0)

    assert budget.rate_at(NOW + 0.5, LIMIT) == pytest.approx(3.5, abs=0.05)
    assert budget.refuse(NOW + 10, LIMIT, 0)
    for number in range(5):
        budget.refuse(NOW + 20 + 10 * number, LIMIT, 0)
    assert budget.rate_at(NOW + 60, LIMIT) == 1.0
    assert budget.rate_at(NOW + 4000, LIMIT) == LIMIT


def test_a_slow_limit_is_not_made_faster() -> None:
    budget = Budget()
    budget.refuse(NOW, 0.5, 0)

    assert budget.rate_at(NOW, 0.5) == 0.5


def test_the_rate_is_back_after_some_minutes_without_a_refusal() -> None:
    budget = Budget()
    budget.refuse(NOW, LIMIT, 60)

    rates = [budget.rate_at(NOW + 60 + 60 * minute, LIMIT) for minute in range(4)]

    assert rates == [3.5, pytest.approx(4.9), pytest.approx(6.3), 7.0]


def test_a_rate_that_was_refused_again_comes_back_more_slowly_and_not_ever_more_so() -> None:
    budget = Budget()
    slopes = []
    for number in range(4):
        at = NOW + 30 * number
        budget.refuse(at, LIMIT, 0)
        slopes.append(budget.rate_at(at + 30, LIMIT) - budget.rate_at(at, LIMIT))

    assert slopes == [pytest.approx(0.7), *[pytest.approx(0.35)] * 3]
    later = NOW + 1000
    assert budget.rate_at(later, LIMIT) == LIMIT
    budget.refuse(later, LIMIT, 0)
    assert budget.rate_at(later + 30, LIMIT) == pytest.approx(4.2)


def test_no_call_goes_for_as_long_as_the_vendor_asks() -> None:
    town = Callers(refuses=lambda at: int(at) == int(NOW + 10))
    for priority in Priority:
        town.add(priority, retry_after=30)
    town.run(NOW + 80)

    (first, *_) = town.refused
    after = [call.at for call in town.went if call.at > first]
    assert min(after) >= first + 30
    assert town.rate(first + 30, first + 60) == pytest.approx(3.5 / MARGIN, rel=0.2)


@pytest.mark.parametrize("retry_after", [0, 300])
def test_beside_another_integration_few_calls_are_refused_and_the_rate_comes_back(retry_after: float) -> None:
    """Another one makes 4 of the account's 7 calls a second for an hour; a backfill wants all it can get."""
    kommo = Limiter()
    stops = NOW + 3600
    town = Callers(refuses=lambda at: kommo.judge(at, 7.0, 10, 10.0, 4.0 if at < stops else 0.0) != "go")
    for _ in range(3):
        town.add(BACKFILL, retry_after=retry_after)
    town.run(stops + 840)

    assert sum(at < NOW + 600 for at in town.refused) <= 8
    assert 1 <= sum(NOW + 600 <= at < stops for at in town.refused) <= 25
    assert sum(at > stops for at in town.refused) == 0
    if not retry_after:
        # Most of what the other one leaves is used.
        assert town.rate(NOW + 600, stops) > 0.75 * 3
    assert town.rate(stops + 720, stops + 840) > 0.98 * LIMIT / MARGIN


def test_what_the_version_before_wrote_is_long_past() -> None:
    assert Budget.read("[1767607800.5, 1767607801.2]") == Budget.read("[]") == Budget.read(None) == Budget()
