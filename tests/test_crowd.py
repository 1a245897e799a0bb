"""When webhooks are a crowd, and what waits for it."""

from __future__ import annotations

import pytest

from app.crowd import CALM_SECONDS, LONGEST_SECONDS, MANY, WITHIN_SECONDS, Crowd


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def crowd(time: Time) -> Crowd:
    return Crowd(time)


def come(crowd: Crowd, time: Time, count: int, every: float) -> None:
    for _ in range(count):
        crowd.comes()
        time.now += every


def test_a_few_webhooks_are_no_crowd_however_close(crowd: Crowd, time: Time) -> None:
    come(crowd, time, MANY - 1, 0.0)

    assert not crowd.waits()


def test_many_webhooks_in_a_short_time_are_a_crowd_until_they_have_come_in(crowd: Crowd, time: Time) -> None:
    come(crowd, time, MANY, 0.001)
    assert crowd.waits()

    time.now += CALM_SECONDS
    assert not crowd.waits()
    crowd.comes()
    assert crowd.waits(), "it was only a gap"


def test_many_webhooks_over_a_long_time_are_no_crowd(crowd: Crowd, time: Time) -> None:
    come(crowd, time, 10 * MANY, WITHIN_SECONDS / (MANY - 1))

    assert not crowd.waits()


def test_a_crowd_that_goes_on_is_the_usual_load(crowd: Crowd, time: Time) -> None:
    every = WITHIN_SECONDS / MANY / 2
    come(crowd, time, int(LONGEST_SECONDS / every) - MANY, every)
    assert crowd.waits()

    come(crowd, time, 2 * MANY, every)
    assert not crowd.waits()


def test_after_a_calm_the_next_crowd_is_one_again(crowd: Crowd, time: Time) -> None:
    come(crowd, time, int(2 * LONGEST_SECONDS / 0.001), 0.001)
    assert not crowd.waits()

    time.now += WITHIN_SECONDS
    come(crowd, time, MANY, 0.001)
    assert crowd.waits()
