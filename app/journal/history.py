"""Looking back: which events came, how their jobs stand, and taking some up again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    RowMapping,
    Select,
    and_,
    func,
    insert,
    literal,
    literal_column,
    null,
    select,
    union,
    update,
)

from app.events import Kind, Lane, Source, State
from app.journal.rows import folded, read_steps
from app.journal.tables import attempts, events, jobs, webhooks

RETURNABLE = (State.DEAD.value, State.SKIPPED.value)
REPLAYED = "replayed"  # the outcome that stands for a person's word, among those of attempts
IDS_A_STATEMENT = 500  # databases take some thousands of values at most

Ids = Select[tuple[int]] | CompoundSelect[tuple[int]]


@dataclass(frozen=True)
class Search:
    """Which events to find; what is not said does not matter. Times are of receipt."""

    ids: Sequence[int] = ()
    state: State | None = None  # at least one job of the event stands so
    lead_id: int | None = None
    email: str | None = None
    campaign: str | None = None  # words that its name holds, in any case
    source: Source | None = None
    since: float | None = None
    until: float | None = None
    above: int | None = None  # only events with a higher id
    below: int | None = None  # only events with a lower id
    limit: int = 50


@dataclass(frozen=True)
class Attempt:
    """An attempt at a job that did not end well, or (`outcome` `replayed`) a person's word to take it up again.

    `fault`: whose it was. `seconds`: how long it took. `words`: the vendor's, or why it ended so.
    """

    at: float
    seconds: float
    outcome: str
    fault: str
    status: int | None
    words: str


@dataclass(frozen=True)
class JobStory:
    """How one job stands; `steps`: what was done, with what the vendor said of it."""

    lane: Lane
    order_key: str
    state: State
    attempts: int
    due_at: float
    reason: str
    steps: dict[str, str]
    created_at: float
    settled_at: float | None
    failures: tuple[Attempt, ...]  # the latest ones, the oldest first


@dataclass(frozen=True)
class EventStory:
    """An event and its jobs. `data`: what it says, as the journal has it."""

    id: int
    source: Source
    kind: Kind
    order_key: str
    received_at: float
    occurred_at: float | None
    email: str | None
    data: dict[str, Any]
    jobs: tuple[JobStory, ...]


@dataclass(frozen=True)
class WholeStory:
    """All that is known of an event: also its webhook, what Kommo knew, and what its jobs are to do, by lane.

    `told_with`: the other events of the same webhook.
    """

    event: EventStory
    dedupe_key: str
    content_type: str
    body: bytes
    told_with: tuple[int, ...]
    context: dict[str, Any] | None
    plans: dict[Lane, dict[str, Any]]


def find(connection: Connection, search: Search) -> list[EventStory]:
    """Return the newest events that fit, newest first."""
    rows = [row for some in _batches(search.ids) for row in connection.execute(_wanted(search, some)).mappings()]
    rows = sorted(rows, key=lambda row: -row["id"])[: search.limit]
    of_event = _jobs_of(connection, [row["id"] for row in rows])
    return [_event(row, of_event[row["id"]]) for row in rows]


def count(connection: Connection, search: Search) -> int:
    """Return how many events fit, at most the search's limit."""
    ids = select(events.c.id).where(*_conditions(search, search.ids)).limit(search.limit).subquery()
    return connection.execute(select(func.count()).select_from(ids)).scalar_one()


def story(connection: Connection, event_id: int) -> WholeStory | None:
    """Return all that is known of an event, or None if there is none with this id."""
    wanted = (
        select(events, webhooks.c.content_type, webhooks.c.body)
        .join(webhooks, webhooks.c.id == events.c.webhook_id)
        .where(events.c.id == event_id)
    )
    row = connection.execute(wanted).mappings().first()
    if row is None:
        return None
    siblings = select(events.c.id).where(events.c.webhook_id == row["webhook_id"], events.c.id != event_id)
    planned = select(jobs.c.lane, jobs.c.plan).where(jobs.c.event_id == event_id, jobs.c.plan.is_not(None))
    return WholeStory(
        event=_event(row, _jobs_of(connection, [event_id])[event_id]),
        dedupe_key=row["dedupe_key"],
        content_type=row["content_type"],
        body=bytes(row["body"]),
        told_with=tuple(connection.scalars(siblings.order_by(events.c.id).limit(IDS_A_STATEMENT))),
        context=json.loads(row["context"]) if row["context"] else None,
        plans={Lane(lane): json.loads(plan) for lane, plan in connection.execute(planned)},
    )


def take_up_again(connection: Connection, event_ids: Sequence[int], now: float) -> int:
    """Make dead and skipped jobs of events due again, with what they have done already ticked off; count them."""
    taken = 0
    for some in _batches(event_ids):
        again = and_(jobs.c.event_id.in_(some), jobs.c.state.in_(RETURNABLE))
        words = (jobs.c.id, literal(now), literal(0.0), literal(REPLAYED), literal(""), null(), jobs.c.reason)
        columns = [column.name for column in attempts.columns if column.name != "id"]
        connection.execute(insert(attempts).from_select(columns, select(*words).where(again)))
        values = {"state": State.PENDING.value, "due_at": now, "attempts": 0, "created_at": now, "settled_at": None}
        taken += connection.execute(update(jobs).where(again).values(**values)).rowcount
    return taken


def _batches(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Return ids in batches that a statement takes; of none, one empty batch."""
    yield from (ids[start : start + IDS_A_STATEMENT] for start in range(0, len(ids) or 1, IDS_A_STATEMENT))


def _wanted(search: Search, ids: Sequence[int]) -> Select[Any]:
    fits = _conditions(search, ids)
    return select(events).where(*fits).order_by(events.c.id.desc()).limit(search.limit)


def _jobs_of(connection: Connection, event_ids: Sequence[int]) -> dict[int, list[JobStory]]:
    found: dict[int, list[JobStory]] = {event_id: [] for event_id in event_ids}
    for some in _batches(event_ids):
        rows = (
            connection.execute(select(jobs).where(jobs.c.event_id.in_(some)).order_by(jobs.c.id)).mappings().all()
        )
        failures = _failures_of(connection, some)
        for row in rows:
            found[row["event_id"]].append(_job(row, failures.get(row["id"], [])))
    return found


def _failures_of(connection: Connection, event_ids: Sequence[int]) -> dict[int, list[Attempt]]:
    wanted = (
        select(attempts)
        .join(jobs, jobs.c.id == attempts.c.job_id)
        .where(jobs.c.event_id.in_(event_ids))
        .order_by(attempts.c.id)
    )
    found: dict[int, list[Attempt]] = {}
    for row in connection.execute(wanted).mappings():
        found.setdefault(row["job_id"], []).append(
            Attempt(row["at"], row["seconds"], row["outcome"], row["fault"], row["status"], row["words"])
        )
    return found


def _event(row: RowMapping, of_event: Sequence[JobStory]) -> EventStory:
    return EventStory(
        id=row["id"],
        source=Source(row["source"]),
        kind=Kind(row["kind"]),
        order_key=row["order_key"],
        received_at=row["received_at"],
        occurred_at=row["occurred_at"],
        email=row["email"],
        data=json.loads(row["data"]),
        jobs=tuple(of_event),
    )


def _job(row: RowMapping, failures: Sequence[Attempt]) -> JobStory:
    return JobStory(
        lane=Lane(row["lane"]),
        order_key=row["order_key"],
        state=State(row["state"]),
        attempts=row["attempts"],
        due_at=row["due_at"],
        reason=row["reason"],
        steps={
            name: step.note or ("done" if step.finished else "begun")
            for name, step in read_steps(row["steps"]).items()
        },
        created_at=row["created_at"],
        settled_at=row["settled_at"],
        failures=tuple(failures),
    )


def _conditions(search: Search, ids: Sequence[int]) -> list[ColumnElement[bool]]:
    conditions = _of_event(search)
    if ids:
        conditions.append(events.c.id.in_(ids))
    if search.state:
        conditions.append(_stands(search.state))
    found = []
    if search.lead_id is not None:
        found.append(_of_deal(search.lead_id))
    if search.email:
        found.append(_of_address(search.email))
    if search.campaign:
        found.append(_of_campaign(search.campaign))
    return conditions + [events.c.id.in_(those) for those in found]


def _of_event(search: Search) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if search.above is not None:
        conditions.append(events.c.id > search.above)
    if search.below is not None:
        conditions.append(events.c.id < search.below)
    if search.source:
        conditions.append(events.c.source == search.source.value)
    if search.since is not None:
        conditions.append(events.c.received_at >= search.since)
    if search.until is not None:
        conditions.append(events.c.received_at < search.until)
    return conditions


def _stands(state: State) -> ColumnElement[bool]:
    # Spelled out, not bound: a partial index is used only for a literal condition.
    so = jobs.c.state == literal_column(f"'{state.value}'")
    if state == State.DONE:  # nearly all
        return select(jobs.c.id).where(jobs.c.event_id == events.c.id, so).exists()
    return events.c.id.in_(select(jobs.c.event_id).where(so))


def _of_deal(lead_id: int) -> Ids:
    # Each event has a first job of its own key; the jobs that follow for a deal have the deal's.
    return select(jobs.c.event_id).where(jobs.c.order_key == f"lead:{lead_id}")


def _of_address(email: str) -> Ids:
    told, more = events.alias("told"), events.alias("more")
    others = and_(more.c.other_emails.is_not(None), more.c.other_emails.contains(f" {email} ", autoescape=True))
    return union(select(told.c.id).where(told.c.email == email), select(more.c.id).where(others))


def _of_campaign(words: str) -> Ids:
    named = events.alias("named")
    holds = named.c.campaign.contains(folded(words), autoescape=True)
    return select(named.c.id).where(named.c.campaign.is_not(None), holds)
