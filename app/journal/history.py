"""Looking back: which events came, how their jobs stand, and taking some up again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, or_, select, update

from app.events import Kind, Lane, Source, State
from app.journal.rows import read_steps
from app.journal.tables import events, jobs

RETURNABLE = (State.DEAD.value, State.SKIPPED.value)


@dataclass(frozen=True)
class Search:
    """Which events to find; what is not said does not matter. Times are of receipt."""

    ids: Sequence[int] = ()
    state: State | None = None  # at least one job of the event stands so
    lead_id: int | None = None
    email: str | None = None
    source: Source | None = None
    since: float | None = None
    until: float | None = None
    limit: int = 50


@dataclass(frozen=True)
class JobStory:
    """How one job stands; `steps`: what was done, with what the vendor said of it."""

    lane: Lane
    state: State
    attempts: int
    due_at: float
    reason: str
    steps: dict[str, str]


@dataclass(frozen=True)
class EventStory:
    """An event and its jobs."""

    id: int
    source: Source
    kind: Kind
    order_key: str
    received_at: float
    jobs: tuple[JobStory, ...]


def find(connection: Connection, search: Search) -> list[EventStory]:
    """Return the newest events that fit, newest first."""
    wanted = select(events).where(*_conditions(search)).order_by(events.c.id.desc()).limit(search.limit)
    rows = connection.execute(wanted).mappings().all()
    of_event: dict[int, list[JobStory]] = {row["id"]: [] for row in rows}
    owed = select(jobs).where(jobs.c.event_id.in_(list(of_event))).order_by(jobs.c.id)
    for row in connection.execute(owed).mappings():
        steps = {
            name: step.note or ("done" if step.finished else "begun")
            for name, step in read_steps(row["steps"]).items()
        }
        of_event[row["event_id"]].append(
            JobStory(Lane(row["lane"]), State(row["state"]), row["attempts"], row["due_at"], row["reason"], steps)
        )
    return [
        EventStory(
            id=row["id"],
            source=Source(row["source"]),
            kind=Kind(row["kind"]),
            order_key=row["order_key"],
            received_at=row["received_at"],
            jobs=tuple(of_event[row["id"]]),
        )
        for row in rows
    ]


def take_up_again(connection: Connection, event_ids: Sequence[int], now: float) -> int:
    """Make dead and skipped jobs of events due again, with what they have done already ticked off; count them."""
    again = and_(jobs.c.event_id.in_(event_ids), jobs.c.state.in_(RETURNABLE))
    values = {"state": State.PENDING.value, "due_at": now, "attempts": 0, "created_at": now, "settled_at": None}
    return connection.execute(update(jobs).where(again).values(**values)).rowcount


def _conditions(search: Search) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if search.ids:
        conditions.append(events.c.id.in_(search.ids))
    if search.source:
        conditions.append(events.c.source == search.source.value)
    if search.since is not None:
        conditions.append(events.c.received_at >= search.since)
    if search.until is not None:
        conditions.append(events.c.received_at < search.until)
    if search.state:
        conditions.append(events.c.id.in_(select(jobs.c.event_id).where(jobs.c.state == search.state.value)))
    if search.lead_id is not None:
        key = f"lead:{search.lead_id}"
        conditions.append(
            or_(events.c.order_key == key, events.c.id.in_(select(jobs.c.event_id).where(jobs.c.order_key == key)))
        )
    if search.email:
        # Stage changes know the address only from what Kommo said of the deal.
        address = f'"{search.email}"'
        conditions.append(
            or_(
                events.c.data.contains(address, autoescape=True),
                events.c.context.contains(address, autoescape=True),
            )
        )
    return conditions
