"""When a task is due: so long after now or at a time of the day, within the working hours. Pure."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from app.events import Action, WorkingHours

ALWAYS = WorkingHours(days=tuple(range(7)), opens=0, closes=24 * 60)
SOONEST_SECONDS = 60  # a task that is due when it is made is overdue when it is seen


def due_at(action: Action, now: float) -> int:
    """Return when a task that is made now is due, in Unix seconds.

    What would be due outside of the working hours is due when they next begin.
    """
    hours = action.hours or ALWAYS
    zone = ZoneInfo(hours.zone)
    if action.due_at is None:
        due = datetime.fromtimestamp(now + action.due_in, UTC).astimezone(zone)
    else:
        soonest = datetime.fromtimestamp(now + SOONEST_SECONDS, UTC).astimezone(zone)
        due = _next(action.due_at, soonest, hours.days)
    return int(_within(hours, due).timestamp())


def _next(minute: int, soonest: datetime, days: Collection[int]) -> datetime:
    """Return the next time that a clock on the wall shows this minute of a day on which the team works."""
    day = soonest
    while (due := _from(soonest, _on(day, minute))) is None or due.weekday() not in days:
        day += timedelta(days=1)
    return due


def _from(earliest: datetime, due: datetime) -> datetime | None:
    """Return the first moment that shows this time and is not before `earliest`; None if it shows it no more.

    When the clocks go back, an hour is shown twice. Datetimes of one zone are compared by what the clock shows, so
    moments are compared here.
    """
    moments = (due.replace(fold=fold) for fold in (0, 1))
    return next((moment for moment in moments if moment.timestamp() >= earliest.timestamp()), None)


def _within(hours: WorkingHours, due: datetime) -> datetime:
    minute = due.hour * 60 + due.minute
    if due.weekday() in hours.days:
        if minute < hours.opens and (opening := _from(due, _on(due, hours.opens))):
            return opening
        if minute < hours.closes or (minute == hours.closes and not due.second):
            return due
    day = due + timedelta(days=1)
    while day.weekday() not in hours.days:
        day += timedelta(days=1)
    return _on(day, hours.opens)


def _on(day: datetime, minute: int) -> datetime:
    """Return a minute of a day by the clock on the wall; 24:00 is the next day's beginning."""
    begin = datetime.combine(day.date() + timedelta(days=minute // 1440), time(), day.tzinfo)
    return begin.replace(hour=minute % 1440 // 60, minute=minute % 60)
