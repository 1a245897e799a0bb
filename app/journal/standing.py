"""How the journal stands: what waits and what is dead in each lane, which vendors are paused, how large it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, func, select, text

from app.events import Lane
from app.journal import statements as sql
from app.journal.budget import Budget
from app.journal.tables import jobs, metadata

WAITING = (
    select(
        jobs.c.lane,
        func.count().label("waiting"),
        func.min(jobs.c.created_at).label("oldest"),
        func.min(jobs.c.due_at).label("due"),
    )
    .where(sql.OWED)
    .group_by(jobs.c.lane)
)
DEAD = select(jobs.c.lane, func.count().label("dead")).where(sql.DEAD).group_by(jobs.c.lane)
ALL_DEAD = select(func.count()).select_from(jobs).where(sql.DEAD)
DIED_SINCE = (
    select(jobs.c.id, jobs.c.event_id, jobs.c.lane, jobs.c.settled_at)
    .where(sql.DEAD, jobs.c.lane.in_([lane.value for lane in Lane]), jobs.c.settled_at >= sql.now())
    .order_by(jobs.c.settled_at, jobs.c.id)
)


@dataclass(frozen=True)
class Pause:
    """A vendor that is left alone for a while."""

    until: float
    reason: str


@dataclass(frozen=True)
class Queue:
    """What one lane owes. `oldest`, `due`: when the oldest waiting job was made, and since when one is due."""

    waiting: int = 0
    oldest: float | None = None
    due: float | None = None
    dead: int = 0


@dataclass(frozen=True)
class Calls:
    """A vendor's budget of calls: how many may go at once now, how many have their turn later, and the rate."""

    left: int
    booked: int
    per_second: float


@dataclass(frozen=True)
class Death:
    """A job that was given up."""

    job_id: int
    event_id: int
    lane: Lane
    at: float


@dataclass(frozen=True)
class Standing:
    """The journal at one moment: true for all processes on it."""

    queues: Mapping[Lane, Queue]
    pauses: Mapping[str, Pause]
    calls: Calls
    size: int  # bytes


def queues(connection: Connection) -> dict[Lane, Queue]:
    """Return what each lane owes."""
    dead = {row.lane: row.dead for row in connection.execute(DEAD)}
    waiting = {row.lane: row for row in connection.execute(WAITING)}
    return {
        lane: Queue(row.waiting, row.oldest, row.due, dead.get(lane, 0))
        if (row := waiting.get(lane))
        else Queue(dead=dead.get(lane, 0))
        for lane in Lane
    }


def pauses(connection: Connection, now: float) -> dict[str, Pause]:
    """Return the vendors that are paused now."""
    rows = connection.execute(sql.PAUSES, {"now": now}).mappings()
    return {row["vendor"]: Pause(row["paused_until"], row["reason"]) for row in rows}


def calls(connection: Connection, vendor: str, limit: float, now: float) -> Calls:
    """Return how a vendor's budget stands."""
    budget = Budget.read(connection.execute(sql.CALLS, {"vendor_": vendor}).scalar())
    booked = sum(place.at > now for place in budget.places)
    return Calls(left=budget.left(now, limit), booked=booked, per_second=budget.rate_at(now, limit))


def size(connection: Connection) -> int:
    """Return how many bytes the journal takes on disk."""
    if connection.dialect.name == "sqlite":
        path = Path(connection.engine.url.database or "")
        files = (path, path.with_name(f"{path.name}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())
    parts = (f"pg_total_relation_size('{table}')" for table in metadata.tables)
    return int(connection.execute(text(f"SELECT {' + '.join(parts)}")).scalar_one())


def died_since(connection: Connection, since: float) -> list[Death]:
    """Return the jobs that are dead and were given up since a time, oldest first."""
    rows = connection.execute(DIED_SINCE, {"now": since})
    return [Death(row.id, row.event_id, Lane(row.lane), row.settled_at) for row in rows]
