"""Recognises a stage change that is told twice: by a webhook, and by the vendor's own log of events.

The log has every move of a deal, once, under an id. A webhook may never come, come late, or come in two kinds:
with a time (which may be a little later than the move) or without one. Neither carries the other's id. So they are
counted against each other: an event that a webhook made stands for one entry of the log at most, and the other way
round, of the same deal, into the same stage, at about the same time. As the log has all moves, the count comes out
right even where the wrong two are paired: the entry that is then left over becomes an event of its own.

A pair is written down under `twin:<event>:<who told it>`, beside the cooldowns, and forgotten with them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import TypeAdapter
from sqlalchemy import Connection, RowMapping, bindparam, func, insert, literal, select

from app.events import LOGGED, Event, Kind, Lane, StageChange
from app.journal.tables import cooldowns, events, jobs

NEAR_SECONDS = 300.0  # between the two times of one move, and between the vendor's clock and ours
LATE_SECONDS = 3600.0  # within which a webhook without a time is sent again
EARLIER_SECONDS = 3600.0  # how much earlier than it happened our clock may say that we heard of a move
LOG = "log"

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
    """A stage change as one side tells it, at `at`; it happened between `first` and `last`."""

    key: str
    change: StageChange
    at: float
    first: float
    last: float
    event_id: int = 0

    def may_be(self, other: _Telling) -> bool:
        """Say whether both may be the same move."""
        ours, theirs = self.change, other.change
        pipelines = {ours.pipeline_id, theirs.pipeline_id} - {None}  # some webhooks do not say it
        same = ours.status_id == theirs.status_id and len(pipelines) < 2
        return same and self.first <= other.last and other.first <= self.last


def pair(connection: Connection, batch: Sequence[Event], now: float) -> dict[int, int]:
    """Return the ids of the events that the other side made of these moves, by place in the batch.

    All are of one side. Those that lie nearest find each other first; pairs are written down.
    """
    of_deal: dict[str, dict[int, _Telling]] = defaultdict(dict)
    for place, event in enumerate(batch):
        if isinstance(event.data, StageChange):
            of_deal[event.order_key][place] = _telling(event.dedupe_key or "", event.data, event.occurred_at, now)
    found: dict[int, int] = {}
    for order_key, new in of_deal.items():
        found |= _pair_of_deal(connection, order_key, new, _side(batch[0]), now)
    return found


def _pair_of_deal(
    connection: Connection, order_key: str, new: Mapping[int, _Telling], side: str, now: float
) -> dict[int, int]:
    since = min(telling.first for telling in new.values()) - EARLIER_SECONDS
    statement = HOOKED_OF_DEAL if side == LOG else LOGGED_OF_DEAL
    rows = connection.execute(statement, {"order_key_": order_key, "since_": since}).mappings()
    told = [_read(row) for row in rows]
    alike = [(place, one, other) for place, one in new.items() for other in told if one.may_be(other)]
    if not alike:
        return {}
    slots = {other.event_id: f"twin:{other.event_id}:{side}" for _, _, other in alike}
    taken = {row.key: row.holder for row in connection.execute(TWINS, {"keys": list(slots.values())})}
    found = {
        place: other.event_id
        for place, one, other in alike
        if one.key and taken.get(slots[other.event_id]) == one.key
    }
    for place, one, other in sorted(alike, key=lambda pair: abs(pair[1].at - pair[2].at)):
        slot = slots[other.event_id]
        if place not in found and slot not in taken:
            found[place] = other.event_id
            taken[slot] = one.key
            # Forgotten no later than the event: SQLite may give its id to another one.
            connection.execute(ADD_TWIN, {"key": slot, "holder": one.key, "until": min(now, other.at)})
    return found


def is_latest(connection: Connection, event: Event) -> bool:
    """Say whether no later stage of the event's deal is known."""
    latest = connection.execute(LATEST_OF_DEAL, {"order_key_": event.order_key}).scalar()
    return latest is None or latest <= event.moment


def _side(event: Event) -> str:
    if event.logged:
        return LOG
    return "timed" if event.occurred_at else "untimed"


def _read(row: RowMapping) -> _Telling:
    change = _stage_change.validate_json(row["data"])
    telling = _telling(row["dedupe_key"], change, row["occurred_at"], row["received_at"])
    return replace(telling, event_id=row["id"])


def _telling(key: str, change: StageChange, occurred_at: float | None, received_at: float) -> _Telling:
    at = received_at if occurred_at is None else occurred_at
    if key.startswith(LOGGED):
        return _Telling(key, change, at, at, at)
    earlier = LATE_SECONDS if occurred_at is None else NEAR_SECONDS
    return _Telling(key, change, at, at - earlier, at + NEAR_SECONDS)
