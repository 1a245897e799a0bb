"""When a task is due: time zones, days on which the clock is changed, weekends, midnight."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from app.events import Action, WorkingHours
from app.mapping.due import ALWAYS, due_at

HOUR, DAY = 3_600, 86_400
BERLIN, NEW_YORK, KATHMANDU, APIA = "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Apia"
OFFICE = WorkingHours(days=(0, 1, 2, 3, 4), opens=9 * 60, closes=18 * 60, zone=BERLIN)
TWO_HOURS = Action("task", "task", due_in=2 * HOUR)


def in_office(**more: object) -> Action:
    return replace(TWO_HOURS, hours=OFFICE, **more)


def on_the_wall(clock: str, zone: str = BERLIN) -> Action:
    """Return a task that is due at a time of the day, whatever the day."""
    hour, minute = map(int, clock.split(":"))
    return Action("task", "task", due_at=hour * 60 + minute, hours=replace(ALWAYS, zone=zone))


def wall(text: str, zone: str = BERLIN, *, fold: int = 0) -> datetime:
    """Return a time by the clock on the wall; `fold` 1: the second of the two, where the clock is put back."""
    return datetime.strptime(f"2026-{text}", "%Y-%m-%d %H:%M").replace(tzinfo=ZoneInfo(zone), fold=fold)


# In 2026 Berlin's clock is put forward on Sunday, 29 March, 02:00 → 03:00, and back on 25 October, 03:00 → 02:00.
CASES = {
    "so long after now": (TWO_HOURS, wall("03-03 23:00"), wall("03-04 01:00")),
    "within the hours": (in_office(), wall("03-03 10:00"), wall("03-03 12:00")),
    "when the day ends": (in_office(), wall("03-03 16:00"), wall("03-03 18:00")),
    "a minute later, so next morning": (in_office(), wall("03-03 16:01"), wall("03-04 09:00")),
    "when the day begins": (in_office(), wall("03-03 07:00"), wall("03-03 09:00")),
    "before it begins": (in_office(), wall("03-03 03:00"), wall("03-03 09:00")),
    "at night, before midnight": (in_office(), wall("03-03 20:00"), wall("03-04 09:00")),
    "at night, over midnight": (in_office(), wall("03-03 23:30"), wall("03-04 09:00")),
    "Friday evening": (in_office(), wall("03-06 17:00"), wall("03-09 09:00")),
    "Friday night, so on Saturday": (in_office(), wall("03-06 23:00"), wall("03-09 09:00")),
    "Sunday night, so on Monday before it begins": (in_office(), wall("03-08 23:00"), wall("03-09 09:00")),
    "three days on, so on Saturday": (in_office(due_in=3 * DAY), wall("03-04 10:00"), wall("03-09 09:00")),
    "a team that works on Sundays only": (
        replace(TWO_HOURS, hours=replace(OFFICE, days=(6,))),
        wall("03-08 17:00"),
        wall("03-15 09:00"),
    ),
    "until midnight": (
        replace(TWO_HOURS, hours=replace(OFFICE, closes=24 * 60)),
        wall("03-03 21:59"),
        wall("03-03 23:59"),
    ),
    "until midnight, and over it": (
        replace(TWO_HOURS, hours=replace(OFFICE, closes=24 * 60)),
        wall("03-03 22:00"),
        wall("03-04 09:00"),
    ),
    "round the clock, but not on Saturday": (
        replace(TWO_HOURS, hours=replace(OFFICE, opens=0, closes=24 * 60)),
        wall("03-06 23:00"),
        wall("03-09 00:00"),
    ),
    "the hours are those of the team, wherever the server stands": (
        replace(TWO_HOURS, hours=replace(OFFICE, zone=NEW_YORK)),
        wall("03-03 20:00", "UTC"),  # 15:00 there
        wall("03-03 17:00", NEW_YORK),
    ),
    "a zone of quarter hours": (
        replace(TWO_HOURS, hours=replace(OFFICE, zone=KATHMANDU)),
        wall("03-03 10:15", "UTC"),  # 16:00 there
        wall("03-03 18:00", KATHMANDU),
    ),
    "a zone where it is tomorrow already": (
        replace(TWO_HOURS, hours=replace(OFFICE, zone=APIA)),
        wall("03-06 10:30", "UTC"),  # 23:30 of Friday there
        wall("03-09 09:00", APIA),
    ),
    "over the night on which the clock is put forward": (
        in_office(due_in=2 * DAY),
        wall("03-27 10:00"),
        wall("03-30 09:00"),
    ),
    "two hours are two hours, though the clock is put forward": (
        TWO_HOURS,
        wall("03-29 01:30"),
        wall("03-29 04:30"),
    ),
    "two hours are two hours, though the clock is put back": (
        TWO_HOURS,
        wall("10-25 01:30"),
        wall("10-25 02:30", fold=1),
    ),
    "on Monday after the clock was put back": (in_office(), wall("10-23 17:00"), wall("10-26 09:00")),
    "at a time, later today": (on_the_wall("16:30"), wall("03-03 11:00"), wall("03-03 16:30")),
    "at a time, past for today": (on_the_wall("09:30"), wall("03-03 11:00"), wall("03-04 09:30")),
    "at a time, in less than a minute, so tomorrow": (
        on_the_wall("11:00"),
        wall("03-03 11:00"),
        wall("03-04 11:00"),
    ),
    "at a time, in a minute": (on_the_wall("11:01"), wall("03-03 11:00"), wall("03-03 11:01")),
    "at a time of the team's clock": (
        on_the_wall("09:30", NEW_YORK),
        wall("03-03 12:00", "UTC"),  # 07:00 there
        wall("03-03 09:30", NEW_YORK),
    ),
    "at midnight, 24:00": (on_the_wall("24:00"), wall("03-03 11:00"), wall("03-04 00:00")),
    "at midnight, 00:00": (on_the_wall("00:00"), wall("03-03 11:00"), wall("03-04 00:00")),
    "at a time, on the day after the clock is put forward": (
        on_the_wall("09:30"),
        wall("03-28 11:00"),
        wall("03-29 09:30"),
    ),
    "at a time that the clock leaps over": (on_the_wall("02:30"), wall("03-28 11:00"), wall("03-29 03:30")),
    "at a time that the clock shows twice: the first": (
        on_the_wall("02:30"),
        wall("10-24 11:00"),
        wall("10-25 02:30"),
    ),
    "at a time that the clock shows twice, in its second hour": (
        on_the_wall("02:30"),
        wall("10-25 02:45", fold=1),
        wall("10-26 02:30"),
    ),
    "at a time before the team begins": (
        in_office(due_in=0, due_at=7 * 60),
        wall("03-03 11:00"),
        wall("03-04 09:00"),
    ),
    "at a time when the team has gone": (
        in_office(due_in=0, due_at=20 * 60),
        wall("03-03 11:00"),
        wall("03-04 09:00"),
    ),
    "at a time on Saturday, so at that time on Monday": (
        in_office(due_in=0, due_at=14 * 60 + 30),
        wall("03-06 17:00"),
        wall("03-09 14:30"),
    ),
    "at midnight after Friday, so when Monday begins": (
        replace(on_the_wall("24:00"), hours=replace(OFFICE, opens=0, closes=24 * 60)),
        wall("03-06 17:00"),
        wall("03-09 00:00"),
    ),
}


@pytest.mark.parametrize(("task", "now", "due"), CASES.values(), ids=CASES.keys())
def test_a_task_is_due(task: Action, now: datetime, due: datetime) -> None:
    found = datetime.fromtimestamp(due_at(task, now.timestamp()), due.tzinfo)
    assert found.isoformat() == due.isoformat()  # with its offset: the same time on the wall may come twice


@pytest.mark.parametrize("minute", range(0, 7 * 24 * 60, 97))
def test_a_task_is_never_due_outside_of_the_hours_nor_before_now(minute: int) -> None:
    now = wall("03-27 00:00").timestamp() + minute * 60
    for task in (in_office(), in_office(due_in=0, due_at=10 * 60)):
        due = datetime.fromtimestamp(due_at(task, now), ZoneInfo(BERLIN))
        assert due.timestamp() >= now + 60
        assert due.weekday() in OFFICE.days
        assert OFFICE.opens <= due.hour * 60 + due.minute <= OFFICE.closes


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, "Australia/Lord_Howe", "America/St_Johns", APIA])
@pytest.mark.parametrize("month", [3, 4, 10, 11])
def test_no_task_is_due_before_it_is_made_whatever_the_clocks_do(zone: str, month: int) -> None:
    """Each quarter of an hour of the months in which clocks change, for times of the day and opening hours."""
    begin = int(datetime(2026, month, 1, tzinfo=ZoneInfo("UTC")).timestamp())
    opens = replace(ALWAYS, opens=2 * 60 + 30, closes=20 * 60, zone=zone)
    tasks = [on_the_wall(clock, zone) for clock in ("01:45", "02:30", "03:00")]
    tasks.append(Action("task", "task", due_in=60, hours=opens))

    for now in range(begin, begin + 31 * DAY, HOUR // 4):
        assert all(now < due_at(task, now) <= now + 2 * DAY for task in tasks)


def test_a_time_that_the_clock_shows_twice_is_the_next_of_the_two() -> None:
    now = wall("10-25 02:15", fold=1).timestamp()

    assert due_at(on_the_wall("02:30"), now) == wall("10-25 02:30", fold=1).timestamp()
