"""The retry decision: a pure table, and what it adds up to over days."""

from __future__ import annotations

import random

import pytest

from app.clients.errors import ApiError, Fault
from app.retry import (
    ENOUGH_ATTEMPTS,
    GIVE_UP_SECONDS,
    LOCKED_OUT_SECONDS,
    LONGEST_PAUSE_SECONDS,
    LONGEST_SECONDS,
    Decision,
    decide,
)

HOUR = 3600.0
YEAR = 365 * 24 * HOUR


class Latest(random.Random):
    """A chance that always takes the latest moment."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Soonest(random.Random):
    """A chance that always takes the soonest moment."""

    def uniform(self, a: float, b: float) -> float:
        return a


def error(fault: Fault, retry_after: float | None = None) -> ApiError:
    return ApiError("words", fault=fault, retry_after=retry_after)


@pytest.mark.parametrize(
    ("fault", "asked", "attempts", "age", "streak", "decision"),
    [
        pytest.param(Fault.REFUSED, None, 0, 0.0, 0, Decision(None), id="refused"),
        pytest.param(Fault.REFUSED, 30.0, 0, 0.0, 0, Decision(None), id="refused, whatever it asks"),
        pytest.param(
            Fault.LOCKED_OUT, None, 0, 0.0, 0, Decision(300.0, pause=300.0, counts=False), id="locked out"
        ),
        pytest.param(
            Fault.LOCKED_OUT, None, 500, YEAR, 5000, Decision(300.0, pause=300.0, counts=False), id="for a year"
        ),
        pytest.param(
            Fault.LOCKED_OUT, 15.0, 0, 0.0, 0, Decision(300.0, pause=300.0, counts=False), id="asked for less"
        ),
        pytest.param(
            Fault.LOCKED_OUT, 900.0, 0, 0.0, 0, Decision(900.0, pause=900.0, counts=False), id="asked for more"
        ),
        pytest.param(Fault.PASSING, None, 0, 0.0, 0, Decision(1.0, pause=1.0), id="the first failure"),
        pytest.param(Fault.PASSING, None, 1, 0.0, 1, Decision(2.0, pause=2.0), id="the second"),
        pytest.param(Fault.PASSING, None, 3, 0.0, 0, Decision(8.0, pause=1.0), id="of a vendor that is well"),
        pytest.param(Fault.PASSING, None, 0, 0.0, 4, Decision(1.0, pause=16.0), id="of one that is not"),
        pytest.param(Fault.PASSING, None, 0, 0.0, 5, Decision(1.0, pause=30.0), id="the longest pause"),
        pytest.param(Fault.PASSING, None, 0, 0.0, 10**6, Decision(1.0, pause=30.0), id="after a million failures"),
        pytest.param(Fault.PASSING, None, 10**6, 0.0, 0, Decision(LONGEST_SECONDS, pause=1.0), id="the longest"),
        pytest.param(Fault.PASSING, 10.0, 0, 0.0, 0, Decision(10.0, pause=10.0), id="asked for more than backoff"),
        pytest.param(Fault.PASSING, 300.0, 0, 0.0, 9, Decision(300.0, pause=300.0), id="more than any pause"),
        pytest.param(Fault.PASSING, 10.0, 6, 0.0, 0, Decision(64.0, pause=10.0), id="asked for less than backoff"),
        pytest.param(Fault.PASSING, 0.0, 0, 0.0, 0, Decision(1.0, pause=1.0), id="asked for nothing"),
        pytest.param(
            Fault.PASSING, None, 500, GIVE_UP_SECONDS - 1, 0, Decision(LONGEST_SECONDS, pause=1.0), id="not yet"
        ),
        pytest.param(
            Fault.PASSING, None, ENOUGH_ATTEMPTS, GIVE_UP_SECONDS, 0, Decision(None), id="old, and often tried"
        ),
        pytest.param(
            Fault.PASSING, None, 0, YEAR, 0, Decision(1.0, pause=1.0), id="old, but it was locked out till now"
        ),
    ],
)
def test_the_decision(
    fault: Fault, asked: float | None, attempts: int, age: float, streak: int, decision: Decision
) -> None:
    """`chance` takes the latest moment, so that the bounds show."""
    assert decide(error(fault, asked), attempts=attempts, age=age, streak=streak, chance=Latest()) == decision


def test_nothing_comes_back_within_a_second() -> None:
    decision = decide(error(Fault.PASSING), attempts=12, age=0, streak=0, chance=Soonest())

    assert decision == Decision(1.0, pause=1.0)


@pytest.mark.parametrize("attempts", [0, 1, 5, 12, 20, 40])
def test_the_jitter_is_spread_over_its_whole_range_and_stays_within(attempts: int) -> None:
    longest = min(2.0**attempts, LONGEST_SECONDS)
    chance = random.Random(7)

    waits = [
        decide(error(Fault.PASSING), attempts=attempts, age=0, streak=0, chance=chance).seconds or 0.0
        for _ in range(1000)
    ]

    assert 1.0 <= min(waits) <= max(1.0, 0.02 * longest)
    assert 0.98 * longest <= max(waits) <= longest
    assert attempts == 0 or len(set(waits)) > 400


@pytest.mark.parametrize(
    "chance",
    [Soonest(), Latest(), *(random.Random(seed) for seed in range(50))],
    ids=["soonest", "latest", *(f"seed {seed}" for seed in range(50))],
)
@pytest.mark.parametrize("asked", [None, 300.0], ids=["", "asked for 5 min"])
def test_a_job_is_tried_for_at_least_75_hours_and_not_for_ever(chance: random.Random, asked: float | None) -> None:
    age, attempts = 0.0, 0
    while True:
        decision = decide(error(Fault.PASSING, asked), attempts=attempts, age=age, streak=attempts, chance=chance)
        if decision.seconds is None:
            break
        # The dispatcher leaves the vendor alone for the pause, too.
        age += max(decision.seconds, decision.pause)
        attempts += 1

    assert 75 * HOUR <= age < 90 * HOUR
    assert attempts >= ENOUGH_ATTEMPTS


def test_a_job_that_was_locked_out_for_days_is_still_tried_for_hours() -> None:
    age, attempts = 7 * 24 * HOUR, 0
    chance = random.Random(7)
    began = age
    while (
        seconds := decide(error(Fault.PASSING), attempts=attempts, age=age, streak=0, chance=chance).seconds
    ) is not None:
        age += seconds
        attempts += 1

    assert attempts == ENOUGH_ATTEMPTS
    assert age - began > 6 * HOUR


def test_the_pause_grows_with_the_streak_and_is_capped() -> None:
    pauses = [
        decide(error(Fault.PASSING), attempts=0, age=0, streak=streak, chance=random.Random(7)).pause
        for streak in (*range(8), 1023, 1024, 10_000)
    ]

    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, *[LONGEST_PAUSE_SECONDS] * 6]


def test_a_locked_out_job_is_probed_for_years_without_counting() -> None:
    decisions = {
        decide(error(Fault.LOCKED_OUT), attempts=attempts, age=age, streak=streak, chance=random.Random(7))
        for attempts, age, streak in [(0, 0.0, 0), (99, YEAR, 99), (9999, 10 * YEAR, 9999)]
    }

    assert decisions == {Decision(LOCKED_OUT_SECONDS, pause=LOCKED_OUT_SECONDS, counts=False)}
