"""Figures of now and of the last 24 hours: what waits, what failed, how much came and how long it took."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Integer, bindparam, case, cast, func, literal, select, union_all

from app.events import Lane, State
from app.journal import statements as sql
from app.journal.tables import events, jobs

HOURS = 24
IDS_A_STATEMENT = 500  # databases take some thousands of values at most
HOUR_SECONDS = 3600.0
SAMPLE = 2_000  # events of the last 24 hours whose delay is looked up; of more, only each second, third …

_since = events.c.received_at >= bindparam("since")
DIED = select(events.c.received_at).where(_since, events.c.id.in_(select(jobs.c.event_id).where(sql.DEAD)))
FIRST = select(events.c.id).where(_since).order_by(events.c.received_at).limit(1)
NEWEST = select(func.max(events.c.id))
# When all that was owed for an event was settled, and some of it was carried out.
TOOK = (
    select(events.c.received_at, func.max(jobs.c.settled_at))
    .join(jobs, jobs.c.event_id == events.c.id)
    .where(_since, events.c.id.in_(bindparam("ids", expanding=True)))
    .group_by(events.c.id, events.c.received_at)
    .having(
        func.count() == func.count(jobs.c.settled_at),
        func.sum(case((jobs.c.state == State.DONE.value, 1), else_=0)) > 0,
    )
)


@dataclass(frozen=True)
class LaneFigures:
    """What a lane still owes: all, those of them that failed before, and since when the oldest is owed."""

    waiting: int
    failed_before: int
    since: float


@dataclass(frozen=True)
class Figures:
    """How it stands now. `lanes`: those that owe something. `newest`: the id of the newest event, or 0."""

    lanes: dict[Lane, LaneFigures]
    dead: int
    skipped: int
    newest: int


@dataclass(frozen=True)
class Hour:
    """An hour of receipt: the events that came, those that ended dead, and how long it took until all was done.

    The delays are seconds, of a sample if many came; None if nothing of that hour is done.
    """

    begins: float
    came: int
    dead: int
    median: float | None
    slow: float | None  # one in twenty took longer


def now(connection: Connection) -> Figures:
    """Return what waits and what failed."""
    owed = (
        select(
            jobs.c.lane,
            func.count().label("waiting"),
            func.sum(cast(jobs.c.attempts > 0, Integer)).label("failed_before"),
            func.min(jobs.c.created_at).label("since"),
        )
        .where(sql.OWED)
        .group_by(jobs.c.lane)
    )
    return Figures(
        lanes={
            Lane(row["lane"]): LaneFigures(row["waiting"], row["failed_before"], row["since"])
            for row in connection.execute(owed).mappings()
        },
        dead=_count(connection, sql.DEAD),
        skipped=_count(connection, sql.SKIPPED),
        newest=connection.execute(NEWEST).scalar() or 0,
    )


def _count(connection: Connection, so: ColumnElement[bool]) -> int:
    return connection.execute(select(func.count()).select_from(jobs).where(so)).scalar_one()


def hours(connection: Connection, at: float) -> list[Hour]:
    """Return the last 24 hours, the oldest first; the last one ends `at` this time."""
    begins = [at - (HOURS - number) * HOUR_SECONDS for number in range(HOURS)]
    came = _came(connection, begins)
    dead = Counter(_hour(received, at) for received in connection.scalars(DIED, {"since": begins[0]}))
    took: dict[int, list[float]] = {number: [] for number in range(HOURS)}
    for received, settled in _sample(connection, begins[0]):
        took[_hour(received, at)].append(max(0.0, settled - received))
    return [
        Hour(begin, came[number], dead[number], _quantile(took[number], 0.5), _quantile(took[number], 0.95))
        for number, begin in enumerate(begins)
    ]


def _came(connection: Connection, begins: Sequence[float]) -> list[int]:
    """Return how many events came in each hour. The parts of a union need only the index."""
    parts = [
        select(literal(number).label("number"), func.count().label("came"))
        .select_from(events)
        .where(events.c.received_at >= begin, events.c.received_at < begin + HOUR_SECONDS)
        for number, begin in enumerate(begins)
    ]
    found = {row.number: row.came for row in connection.execute(union_all(*parts))}
    return [found[number] for number in range(len(begins))]


def _sample(connection: Connection, since: float) -> Iterator[tuple[float, float]]:
    """Return when some events were received and settled: each second, third … of them, by their ids."""
    first = connection.execute(FIRST, {"since": since}).scalar()
    newest = connection.execute(NEWEST).scalar()
    if first is None or newest is None:
        return
    ids = range(first, newest + 1, max(1, math.ceil((newest - first + 1) / SAMPLE)))
    for start in range(0, len(ids), IDS_A_STATEMENT):
        some = {"since": since, "ids": list(ids[start : start + IDS_A_STATEMENT])}
        yield from ((received, settled) for received, settled in connection.execute(TOOK, some))


def _hour(received: float, at: float) -> int:
    """Return in which of the last 24 hours a time lies; a clock may have been set since."""
    return min(HOURS - 1, max(0, math.floor(HOURS - (at - received) / HOUR_SECONDS)))


def _quantile(values: list[float], part: float) -> float | None:
    if not values:
        return None
    return sorted(values)[min(len(values) - 1, math.floor(part * len(values)))]
