"""Recognises a stage change that is told twice: by a webhook, and by the vendor's own log of events.

The log has every move of a deal, once, under an id. A webhook may never come, come late, or come in two kinds:
with a time (which may be a little later than the move) or without one. Neither carries the other's id. So they are
counted against each other: an event that a webhook made stands for one entry of the log at most, and the other way
round, of the same deal, into the same stage, at about the same time. As the log has all moves, the count comes out
right even where the wrong two are paired: the entry that is then left over becomes an event of its own.

A pair is written down under `twin:<event>:<who told it>`, beside the cooldowns, and forgotten with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter
from sqlalchemy import Connection, bindparam, func, insert, literal, select

from app.events import LOGGED, Event, Kind, Lane, StageChange
from app.journal.tables import cooldowns, events, jobs

NEAR_SECONDS = 300.0  # between the two times of one move, and between the vendor's clock and ours
LATE_SECONDS = 3600.0  # within which a webhook without a time is sent again
EARLIER_SECONDS = 3600.0  # how much earlier than it happened our clock may say that we heard of a move

_stage_change = TypeAdapter(StageChange)
_stages_of_deal = (
    select(events.c.id, events.c.dedupe_key, events.c.occurred_at, events.c.received_at, events.c.data)
    .join(jobs, jobs.c.event_id == events.c.id)
    .where(
        jobs.c.order_key == bindparam("order_key_"),
        jobs.c.lane == literal(Lane.RESOLVE.value),
        events.c.kind == literal(Kind.STAGE_CHANGED.value),
    )
)
_since = events.c.received_at >= bindparam("since_")
LOGGED_OF_DEAL = _stages_of_deal.where(_since, events.c.dedupe_key.startswith(LOGGED))
HOOKED_OF_DEAL = _stages_of_deal.where(_since, ~events.c.dedupe_key.startswith(LOGGED))
_told = _stages_of_deal.subquery()
LATEST_OF_DEAL = select(func.max(func.coalesce(_told.c.occurred_at, _told.c.received_at)))
TWINS = select(cooldowns.c.key, cooldowns.c.holder).where(cooldowns.c.key.in_(bindparam("keys", expanding=True)))
ADD_TWIN = insert(cooldowns)


@dataclass(frozen=True)
class _Telling:
    """A stage change as one side tells it; it happened between `first` and `last`."""

    event_id: int
    key: str
    change: StageChange
    first: float
    last: float

    def may_be(self, other: _Telling) -> bool:
        """Say whether both may be the same move."""
        ours, theirs = self.change, other.change
        pipelines = {ours.pipeline_id, theirs.pipeline_id} - {None}  # some webhooks do not say it
        same = ours.status_id == theirs.status_id and len(pipelines) < 2
        return same and self.first <= other.last and other.first <= self.last


def find(connection: Connection, event: Event, now: float) -> int | None:
    """Return the id of the event that the other side made of this move, or None; write new pairs down."""
    if not isinstance(event.data, StageChange):
        return None
    new = _telling(0, event.dedupe_key or "", event.data, event.occurred_at, now)
    side = "log" if event.logged else "hook with a time" if event.occurred_at else "hook without a time"
    asked = {"order_key_": event.order_key, "since_": new.first - EARLIER_SECONDS}
    rows = connection.execute(HOOKED_OF_DEAL if event.logged else LOGGED_OF_DEAL, asked)
    told = [_telling(row.id, row.dedupe_key, _stage_change.validate_json(row.data), *row[2:4]) for row in rows]
    alike = [other for other in told if new.may_be(other)]
    if not alike:
        return None
    taken = _twins(connection, [_slot(other.event_id, side) for other in alike])
    for other in alike:
        if new.key and taken.get(_slot(other.event_id, side)) == new.key:
            return other.event_id
    free = [other for other in alike if _slot(other.event_id, side) not in taken]
    if not free:
        return None
    # The one whose time runs out first: so as many find a twin as can, and the order stays.
    first = min(free, key=lambda other: other.last)
    pair = {"key": _slot(first.event_id, side), "holder": new.key, "until": now}
    connection.execute(ADD_TWIN, pair)
    return first.event_id


def is_latest(connection: Connection, event: Event) -> bool:
    """Say whether no later stage of the event's deal is known."""
    latest = connection.execute(LATEST_OF_DEAL, {"order_key_": event.order_key}).scalar()
    return latest is None or latest <= event.moment


def _telling(
    event_id: int, key: str, change: StageChange, occurred_at: float | None, received_at: float
) -> _Telling:
    if key.startswith(LOGGED):
        assert occurred_at is not None  # noqa: S101 - every entry of a log has its time
        return _Telling(event_id, key, change, occurred_at, occurred_at)
    earliest = received_at - LATE_SECONDS if occurred_at is None else occurred_at - NEAR_SECONDS
    latest = (received_at if occurred_at is None else occurred_at) + NEAR_SECONDS
    return _Telling(event_id, key, change, earliest, latest)


def _slot(event_id: int, side: str) -> str:
    return f"twin:{event_id}:{side}"


def _twins(connection: Connection, keys: Sequence[str]) -> dict[str, str]:
    return {row.key: row.holder for row in connection.execute(TWINS, {"keys": keys})}
