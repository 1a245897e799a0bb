"""Writing webhooks down: all that gathered while the last ones were written, with a statement for each kind of row.

A statement costs more than a row: a burst of webhooks is taken several times as fast as one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row

from app.events import EmailActivity, Event, StageChange, Webhook
from app.journal import memory, twins
from app.journal import statements as sql
from app.journal.erasure import forgotten_key
from app.journal.rows import event_row, first_job_row, webhook_row

KEYS_A_STATEMENT = 500  # databases take some thousands of values at most


@dataclass(frozen=True)
class Recorded:
    """An event as the journal has it: new, or the first one of which this is a duplicate.

    `refused`: why there is nothing to do for it, if that was clear from the start.
    """

    event: Event
    duplicate: bool = False
    refused: str = ""


@dataclass(frozen=True)
class Told:
    """A webhook, and its events, each with the reason why nothing needs to be done for it, or None."""

    webhook: Webhook
    found: Sequence[tuple[Event, str | None]]
    now: float


@dataclass
class _New:
    """An event that is not known yet; `id` once it is written."""

    told: Told
    event: Event
    refusal: str | None
    id: int = 0

    def recorded(self) -> Recorded:
        """Return it as the journal has it."""
        return Recorded(replace(self.event, id=self.id, received_at=self.told.now), refused=self.refusal or "")


_Ref = int | _New  # an event of the journal, or one that is about to be


@dataclass(frozen=True)
class _Repeat:
    """An event that repeats another one."""

    event: Event
    first: _Ref

    def recorded(self) -> Recorded:
        """Return it with the id of the first one."""
        first = self.first.id if isinstance(self.first, _New) else self.first
        return Recorded(replace(self.event, id=first), duplicate=True)


def record(connection: Connection, upserts: sql.Upserts, batch: Sequence[Told]) -> list[list[Recorded]]:
    """Write webhooks down, their events and their first jobs; duplicates find the event they repeat.

    What stands earlier in the batch counts as having come before. Entries of a log must be alone in their batch.
    """
    finder = _Finder(connection, batch)
    outcomes = [[finder.find(told, event, refusal) for event, refusal in told.found] for told in batch]
    new = [one for told in outcomes for one in told if isinstance(one, _New)]
    _write(connection, new)
    _write_scopes(connection, upserts, new)
    memory.remember(
        connection, upserts, [(replace(one.event, id=one.id), _address(one.event), one.told.now) for one in new]
    )
    return [[outcome.recorded() for outcome in told] for told in outcomes]


class _Finder:
    """Tells what is new from what came before, in the journal or in the batch."""

    def __init__(self, connection: Connection, batch: Sequence[Told]) -> None:
        self._connection = connection
        events = [event for told in batch for event, _ in told.found]
        keys = {key: event.dedupe_key for event in events if event.dedupe_key for key in _keys(event)}
        self._known: dict[str, _Ref] = {
            keys[row.dedupe_key]: row.id for row in select_by_keys(connection, sql.FIND_EVENTS, "dedupe_keys", keys)
        }
        scopes = {scope(event.repeat.scope) for event in events if event.repeat and not event.logged}
        # By scope: its latest event, that one's fingerprint, and when it came.
        self._latest: dict[str, tuple[_Ref, str, float]] = {}
        for row in select_by_keys(connection, sql.LATEST_OF_SCOPES, "keys", scopes):
            event_id, fingerprint = row.holder.split(" ", 1)
            self._latest[row.key] = (int(event_id), fingerprint, row.until)
        self._twins = self._twins_of_log(batch)
        deals = {event.order_key for event in events if isinstance(event.data, StageChange) and not event.logged}
        self._logged_deals = {
            row.order_key for row in select_by_keys(connection, sql.LOGGED_DEALS, "order_keys", deals)
        }

    def _twins_of_log(self, batch: Sequence[Told]) -> Mapping[str | None, int]:
        """Return the ids of the events that webhooks made of a log's new entries, by the entries' keys."""
        found: dict[str | None, int] = {}
        for told in batch:
            fresh = [event for event, _ in told.found if event.logged and event.dedupe_key not in self._known]
            pairs = twins.pair(self._connection, fresh, told.now)
            found |= {fresh[place].dedupe_key: event_id for place, event_id in pairs.items()}
        return found

    def find(self, told: Told, event: Event, refusal: str | None) -> _New | _Repeat:
        """Tell whether an event is new; what comes after it in the batch may repeat it."""
        first = self._first(told, event)
        if first is not None:
            return _Repeat(event, first)
        one = _New(told, event, refusal)
        if event.dedupe_key:
            self._known[event.dedupe_key] = one
        if event.repeat and not event.logged:
            self._latest[scope(event.repeat.scope)] = (one, event.repeat.fingerprint, told.now)
        return one

    def _first(self, told: Told, event: Event) -> _Ref | None:
        if event.dedupe_key and event.dedupe_key in self._known:
            return self._known[event.dedupe_key]
        if event.logged:
            return self._twins.get(event.dedupe_key)
        if event.order_key in self._logged_deals:
            twin = twins.pair(self._connection, [event], told.now).get(0)
            if twin is not None:
                return twin
        latest = self._latest.get(scope(event.repeat.scope)) if event.repeat else None
        if event.repeat is None or latest is None:
            return None
        first, fingerprint, came = latest
        # Measured from the earlier event, with the window of this one: the two may differ.
        same = fingerprint == event.repeat.fingerprint and came + event.repeat.seconds > told.now
        return first if same else None


def _write(connection: Connection, new: Sequence[_New]) -> None:
    """Write webhooks that hold something new, the new events, and the first job of each."""
    if not new:
        return
    tellings = list({id(one.told): one.told for one in new}.values())
    webhook_rows = [webhook_row(told.webhook, told.now) for told in tellings]
    ids: dict[Any, list[int]] = {}  # webhooks that are alike in all are as good as each other
    for written in connection.execute(sql.ADD_WEBHOOKS, webhook_rows):
        ids.setdefault(_likeness(written._asdict()), []).append(written.id)
    of_telling = {id(told): ids[_likeness(row)].pop() for told, row in zip(tellings, webhook_rows, strict=True)}
    rows = [event_row(one.event, of_telling[id(one.told)], one.told.now) for one in new]
    of_key = {row["dedupe_key"]: one for one, row in zip(new, rows, strict=True)}
    for event_id, key in connection.execute(sql.ADD_EVENTS, rows):
        of_key[key].id = event_id
    connection.execute(
        sql.ADD_JOBS, [first_job_row(one.id, one.event.order_key, one.refusal, one.told.now) for one in new]
    )


def _likeness(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["source"], row["content_type"], row["body"], row["received_at"]


def _write_scopes(connection: Connection, upserts: sql.Upserts, new: Sequence[_New]) -> None:
    """Note the latest event of each scope."""
    latest: dict[str, dict[str, Any]] = {}
    for one in new:
        repeat = one.event.repeat
        # What a log tells late is not what the deal's next webhook has to be compared with.
        if repeat and (not one.event.logged or twins.is_latest(connection, one.event)):
            key = scope(repeat.scope)
            latest[key] = {"key": key, "holder": f"{one.id} {repeat.fingerprint}", "until": one.told.now}
    if latest:
        connection.execute(upserts.set_scope, list(latest.values()))


def select_by_keys(
    connection: Connection, statement: Any, name: str, values: Collection[str], **more: object
) -> Iterator[Row[Any]]:
    """Yield the rows of a statement for many keys, some at a time; `name`: the parameter that takes them."""
    wanted = list(values)
    for start in range(0, len(wanted), KEYS_A_STATEMENT):
        yield from connection.execute(statement, {name: wanted[start : start + KEYS_A_STATEMENT], **more})


def scope(name: str) -> str:
    """Return the key under which the latest event of a scope is noted."""
    return f"repeat:{name}"


def _keys(event: Event) -> Iterator[str]:
    """Yield the keys under which an event may be known."""
    key = event.dedupe_key or ""
    yield key
    if isinstance(event.data, EmailActivity):
        yield forgotten_key(key)  # if it was a person's who is forgotten


def _address(event: Event) -> str:
    return (isinstance(event.data, EmailActivity) and event.data.email) or ""
