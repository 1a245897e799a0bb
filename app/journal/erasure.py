"""What the journal holds of a person, by their addresses: found, told as JSON, and erased.

Most of it is found by indexes. As an address may stand anywhere (in a body, a deal's name, a vendor's answer), all
text of all tables is read besides, in parts: none holds up the writer, and what is found is looked at again in the
transaction that changes it.

An erased event keeps its row until it is purged, with neither person nor content, so that the same webhook, sent
again, still is a duplicate. So do its jobs: SQLite gives the ids of deleted rows again, and cooldowns name jobs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    LargeBinary,
    RowMapping,
    Table,
    Text,
    cast,
    delete,
    false,
    func,
    literal,
    or_,
    select,
    update,
)

from app.events import LOGGED, Kind, State
from app.journal import statements as sql
from app.journal.rows import Row
from app.journal.tables import attempts, consents, cooldowns, events, jobs, metadata, sightings, webhooks

FORGOTTEN = "forgotten"
NOT_DELIVERED = "forgotten before it was delivered"
BATCH = 200  # events that are erased in one transaction: webhooks wait for it
PART = 20_000  # rows that are looked through in one statement
KEPT_KEYS = ("once:", LOGGED, f"{FORGOTTEN}:")  # dedupe keys that tell nothing of a person

Heard = Callable[[int, int], None]
"""Hears how many rows have been looked through, and of how many."""


@dataclass(frozen=True)
class Unfinished:
    """A job that is still owed. `held`: a process is carrying it out."""

    event_id: int
    lane: str
    reason: str
    held: bool


@dataclass(frozen=True)
class Holdings:
    """Where something of a person stands.

    `events`: theirs, with all that belongs to them. `webhooks`: their bodies; `shared`: those of them that tell of
    others too. `mentions`: rows of others in which an address stands, by table. `others`: more addresses that Kommo
    has of the same contact.
    """

    emails: tuple[str, ...]
    events: tuple[int, ...] = ()
    webhooks: tuple[int, ...] = ()
    shared: tuple[int, ...] = ()
    sightings: int = 0
    consents: int = 0
    mentions: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    unfinished: tuple[Unfinished, ...] = ()
    others: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Say whether there is anything."""
        return bool(self.events or self.webhooks or self.sightings or self.consents or self.mentions)


def forgotten_key(key: str) -> str:
    """Return what stands for the dedupe key of an erased event: nobody can read it, but the key itself finds it."""
    return f"{FORGOTTEN}:{sha256(key.encode()).hexdigest()}"


# -- how an address is spelled -------------------------------------------------------------------------------------


def spelled(emails: Collection[str], before: str = r"[\w.+-]") -> re.Pattern[str]:
    """Return the pattern of addresses in any text: in any case, percent-encoded, with JSON's escapes.

    `before`: what makes another address of it when it stands in front.
    """
    # What ends an encoded character or an escape in front is no part of a longer address.
    begins = rf"(?:(?<!{before})|(?<=%[0-9a-f]{{2}})|(?<=\\[bfnrt])|(?<=\\u[0-9a-f]{{4}}))"
    return re.compile(rf"{begins}(?:{_one_of(emails)})(?![\w-]|\.\w)", re.IGNORECASE)


def raw_spelled(emails: Collection[str]) -> re.Pattern[bytes]:
    """Return the pattern of addresses in a database's file, in which texts stand side by side."""
    return re.compile(_one_of(emails).encode(), re.IGNORECASE)


def _one_of(emails: Collection[str]) -> str:
    return "|".join("".join(map(_spellings, email)) for email in emails)


def _spellings(letter: str) -> str:
    if re.fullmatch(r"[a-z0-9.\-]", letter):
        return re.escape(letter)
    ways = {letter, letter.upper()}
    escaped = {"".join(f"\\u{unit:04x}" for unit in _units(way)) for way in ways}
    percent = {"".join(f"%{byte:02x}" for byte in way.encode()) for way in ways}
    return f"(?:{'|'.join(re.escape(way) for way in sorted(ways | escaped | percent))})"


def _units(letter: str) -> list[int]:
    """Return the UTF-16 units by which JSON escapes a character."""
    encoded = letter.encode("utf-16-be")
    return [int.from_bytes(encoded[place : place + 2]) for place in range(0, len(encoded), 2)]


def _roughly(email: str) -> str:
    """Return an address as a pattern for LIKE: its parts that are spelled alike everywhere, but for their case."""
    return f"%{'%'.join(re.findall(r'[a-z0-9.-]+', email))}%"


# -- finding -------------------------------------------------------------------------------------------------------


def find(connection: Connection, emails: Sequence[str], now: float, heard: Heard) -> Holdings:
    """Return where something of a person stands."""
    mine, others = _events_of(connection, emails)
    bodies, mentions = _look_through(connection, emails, mine, heard)
    told = set(_ids(connection, select(events.c.webhook_id), events.c.id, mine)) | bodies
    strangers = select(events.c.webhook_id, events.c.id)
    shared = {row[0] for row in _rows(connection, strangers, events.c.webhook_id, told) if row[1] not in mine}
    seen = select(sightings.c.id)
    return Holdings(
        emails=tuple(emails),
        events=tuple(sorted(mine)),
        webhooks=tuple(sorted(told)),
        shared=tuple(sorted(shared)),
        sightings=len(
            {*_ids(connection, seen, sightings.c.event_id, mine), *_ids(connection, seen, sightings.c.who, emails)}
        ),
        consents=len(list(_ids(connection, select(consents.c.email), consents.c.email, emails))),
        mentions=mentions,
        unfinished=tuple(_unfinished(connection, mine, now)),
        others=tuple(sorted(others)),
    )


def _events_of(connection: Connection, emails: Sequence[str]) -> tuple[set[int], set[str]]:
    """Return the events of a person, and more addresses of theirs."""
    named: set[int] = set()
    for email in emails:
        more = events.c.other_emails.contains(f" {email} ", autoescape=True)
        named |= set(connection.scalars(select(events.c.id).where(events.c.email == email)))
        named |= set(connection.scalars(select(events.c.id).where(events.c.other_emails.is_not(None), more)))
        named |= set(connection.scalars(select(jobs.c.event_id).where(jobs.c.order_key == f"email:{email}")))
    person = _Person(emails)
    wanted = select(events.c.id, events.c.source, events.c.kind, events.c.data, events.c.context)
    mine = {row.id for row in _rows(connection, wanted, events.c.id, named) if person.has(row)}
    # Of what was never looked up only the person's id at a platform is known, or only the deal.
    return mine | _of_keys(connection, person.keys) | _of_deals(connection, person.deals), person.others


class _Person:
    """Tells a person's events from those of others that name them, and learns by what else the person is known."""

    def __init__(self, emails: Collection[str]) -> None:
        self._emails = set(emails)
        self.keys: set[str] = set()
        self.deals: set[str] = set()
        self.others: set[str] = set()

    def has(self, row: Any) -> bool:
        data, context = json.loads(row.data), json.loads(row.context or "{}")
        contact = set((context.get("contact") or {}).get("emails") or ())
        told = data.get("email")
        is_theirs = bool(self._emails & contact)
        if told is None:
            mine = is_theirs or context.get("email") in self._emails
        else:
            # The deal that somebody's webhook names may have another contact than them.
            mine = told in self._emails or (is_theirs and told in contact)
        if mine and data.get("person_id"):
            self.keys.add(f"{row.source}:person:{data['person_id']}")
        if mine and is_theirs:
            self.others |= contact - self._emails
            if context.get("lead"):
                self.deals.add(f"lead:{context['lead']['id']}")
        return mine


def _of_keys(connection: Connection, keys: Collection[str]) -> set[int]:
    return set(_ids(connection, select(jobs.c.event_id), jobs.c.order_key, keys))


def _of_deals(connection: Connection, keys: Collection[str]) -> set[int]:
    """Return the moves of deals of which it is not known whose they are: a body may hold a deal's name."""
    unknown = select(events.c.id).join(jobs, jobs.c.event_id == events.c.id)
    unknown = unknown.where(
        events.c.kind == Kind.STAGE_CHANGED.value, events.c.email.is_(None), events.c.context.is_(None)
    )
    return set(_ids(connection, unknown, jobs.c.order_key, keys))


def _unfinished(connection: Connection, mine: Collection[int], now: float) -> Iterator[Unfinished]:
    owed = select(jobs).where(sql.OWED)
    for row in _rows(connection, owed, jobs.c.event_id, mine):
        yield Unfinished(row.event_id, row.lane, row.reason, row.owner is not None and row.lease_until > now)


def _look_through(
    connection: Connection, emails: Sequence[str], mine: Collection[int], heard: Heard
) -> tuple[set[int], dict[str, tuple[Any, ...]]]:
    """Read everything; return the webhooks, and the rows that are not the person's, in which an address stands."""
    own_jobs = set(_ids(connection, select(jobs.c.id), jobs.c.event_id, mine))
    theirs: dict[str, tuple[str, Collection[Any]]] = {
        "events": ("id", mine),
        "jobs": ("event_id", mine),
        "attempts": ("job_id", own_jobs),
        "sightings": ("who", emails),
        "consents": ("email", emails),
    }
    sizes = {table: _last_id(connection, table) for table in metadata.sorted_tables}
    done, total = 0, sum(sizes.values())
    found: dict[str, list[Any]] = {}
    for table, size in sizes.items():
        column, known = theirs.get(table.name, ("", ()))
        for part in _parts(table, size):
            for row in _naming(connection, table, emails, part):
                if not column or row[column] not in known:
                    found.setdefault(table.name, []).append(_key_of(table, row))
            done += min(PART, size)
            heard(min(done, total), total)
    bodies = {key[0] for key in found.pop("webhooks", [])}
    return bodies, {name: tuple(keys) for name, keys in found.items()}


def _last_id(connection: Connection, table: Table) -> int:
    return int(connection.execute(select(func.max(table.c.id))).scalar() or 0) if "id" in table.c else 1


def _parts(table: Table, size: int) -> Iterator[Any]:
    """Yield the conditions that part a table."""
    if "id" not in table.c:
        yield literal(value=True)
        return
    for start in range(0, size, PART):
        yield table.c.id.between(start + 1, start + PART)


def _naming(connection: Connection, table: Table, emails: Sequence[str], part: Any) -> Iterator[RowMapping]:
    """Yield the rows of a part of a table in which one of the addresses stands."""
    columns = _texts(table)
    is_sqlite = connection.dialect.name == "sqlite"
    may_hold = [_may_hold(column, _roughly(email), is_sqlite) for column in columns for email in emails]
    pattern = _pattern_for(table, emails)
    for row in connection.execute(select(table).where(part, or_(false(), *may_hold))).mappings():
        if any(pattern.search(_as_text(row[column.name])) for column in columns):
            yield row


def _may_hold(column: Column[Any], pattern: str, is_sqlite: bool) -> Any:
    """Say whether a column may hold an address: roughly, which is quick."""
    if not is_sqlite:
        text = func.encode(column, "escape") if isinstance(column.type, LargeBinary) else column
        return text.ilike(pattern)
    # LIKE ends at a NUL, which a body may hold.
    found = cast(column, Text).op("LIKE")(pattern)
    return or_(found, func.instr(column, b"\0") > 0) if isinstance(column.type, LargeBinary) else found


def _texts(table: Table) -> list[Column[Any]]:
    return [column for column in table.columns if isinstance(column.type, Text | LargeBinary)]


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else bytes(value or b"").decode("utf-8", "replace")


def _pattern_for(table: Table, emails: Collection[str]) -> re.Pattern[str]:
    # In a form `+` is a space. A body that goes without need is no loss: what it said stands in its events.
    return spelled(emails, before=r"[\w.-]") if table is webhooks else spelled(emails)


def _key_of(table: Table, row: RowMapping) -> tuple[Any, ...]:
    return tuple(row[column.name] for column in table.primary_key.columns)


# -- erasing -------------------------------------------------------------------------------------------------------


def erase_events(connection: Connection, ids: Sequence[int], now: float) -> None:
    """Take out of events all that they say of people, and end what is still owed for them."""
    of_these = select(jobs.c.id).where(jobs.c.event_id.in_(ids))
    connection.execute(delete(attempts).where(attempts.c.job_id.in_(of_these)))
    connection.execute(delete(sightings).where(sightings.c.event_id.in_(ids)))
    scrubbed: Row = {"plan": None, "steps": "{}", "owner": None, "lease_until": 0.0}
    ended = scrubbed | {"state": State.DONE.value, "reason": NOT_DELIVERED, "settled_at": now}
    connection.execute(update(jobs).where(jobs.c.event_id.in_(ids), sql.OWED).values(**ended))
    # What was dead or skipped is `done` too: nobody is to take it up again.
    connection.execute(
        update(jobs)
        .where(jobs.c.event_id.in_(ids), jobs.c.reason != NOT_DELIVERED)
        .values(**scrubbed, state=State.DONE.value, reason=FORGOTTEN)
    )
    nobody: Row = {"context": None, "email": None, "other_emails": None, "campaign": None}
    rows = connection.execute(select(events.c.id, events.c.kind, events.c.dedupe_key).where(events.c.id.in_(ids)))
    activities = [row for row in rows if row.kind != Kind.STAGE_CHANGED]
    # Which deal moved when stays: it is nobody's, and known again when the webhook or Kommo's log tells it again.
    connection.execute(update(events).where(events.c.id.in_(ids)).values(**nobody))
    for row in activities:
        known = row.dedupe_key.startswith(KEPT_KEYS)
        key = row.dedupe_key if known else forgotten_key(row.dedupe_key)
        emptied = update(events).where(events.c.id == row.id)
        connection.execute(emptied.values(data="{}", order_key=FORGOTTEN, dedupe_key=key))
    unkeyed = update(jobs).where(jobs.c.event_id.in_([row.id for row in activities]))
    connection.execute(unkeyed.values(order_key=FORGOTTEN))


def erase_bodies(connection: Connection, ids: Sequence[int]) -> None:
    """Empty the bodies of webhooks."""
    emptied = update(webhooks).where(webhooks.c.id.in_(ids))
    connection.execute(emptied.values(body=FORGOTTEN.encode(), content_type="text/plain"))


def erase_memory(connection: Connection, emails: Sequence[str]) -> None:
    """Forget what people with these addresses did, and their consent."""
    connection.execute(delete(sightings).where(sightings.c.who.in_(emails)))
    connection.execute(delete(consents).where(consents.c.email.in_(emails)))
    connection.execute(delete(cooldowns).where(cooldowns.c.key.in_([f"consent:{email}" for email in emails])))


def erase_mentions(connection: Connection, name: str, keys: Sequence[Any], emails: Sequence[str]) -> None:
    """Put a word in the place of addresses in rows that are not the person's."""
    table = metadata.tables[name]
    pattern = _pattern_for(table, emails)
    primary = list(table.primary_key.columns)
    for key in keys:
        this = [column == value for column, value in zip(primary, key, strict=True)]
        row = connection.execute(select(table).where(*this)).mappings().first()
        if row is None:
            continue
        if any(pattern.search(_as_text(row[column.name])) for column in primary if column in _texts(table)):
            connection.execute(delete(table).where(*this))
            continue
        texts = {column.name: _as_text(row[column.name]) for column in _texts(table) if row[column.name]}
        changed: Row = {column: pattern.sub(FORGOTTEN, text) for column, text in texts.items()}
        changed = {column: text for column, text in changed.items() if text != texts[column]}
        if table is events and "context" in changed:
            changed["context"] = None  # it holds more of the contact than the address, and is only shown
        if changed:
            connection.execute(update(table).where(*this).values(**changed))


# -- telling -------------------------------------------------------------------------------------------------------


def dossier(connection: Connection, held: Holdings) -> dict[str, Any]:
    """Return all that is held of a person, and nothing of others, as JSON has it."""
    return {
        "emails": list(held.emails),
        "other_addresses": list(held.others),
        "events": [_told(connection, event_id, held) for event_id in held.events],
        "activities_remembered": [
            {"kind": row.kind, "campaign": row.campaign, "at": _when(row.at)}
            for row in connection.execute(
                select(sightings).where(sightings.c.who.in_(held.emails)).order_by(sightings.c.id)
            )
        ],
        "consents": [
            {"email": row.email, "at": row.source, "unsubscribed": bool(row.unsubscribed), "since": _when(row.at)}
            for row in connection.execute(select(consents).where(consents.c.email.in_(held.emails)))
        ],
        "named_in_rows_of_others": {name: len(keys) for name, keys in held.mentions.items()},
    }


def _told(connection: Connection, event_id: int, held: Holdings) -> dict[str, Any]:
    wanted = select(events, webhooks.c.content_type, webhooks.c.body).join(webhooks)
    row = connection.execute(wanted.where(events.c.id == event_id)).mappings().one()
    shared = row["webhook_id"] in held.shared
    return {
        "id": row["id"],
        "source": row["source"],
        "kind": row["kind"],
        "received_at": _when(row["received_at"]),
        "occurred_at": _when(row["occurred_at"]),
        "data": json.loads(row["data"]),
        "looked_up": _of_themselves(json.loads(row["context"] or "null"), held.emails),
        "webhook": {
            "content_type": row["content_type"],
            "body": "(it tells of other people too)" if shared else _as_text(row["body"]),
        },
        "jobs": [
            _job(connection, job)
            for job in _rows(connection, select(jobs).order_by(jobs.c.id), jobs.c.event_id, [event_id])
        ],
    }


def _of_themselves(context: dict[str, Any] | None, emails: Collection[str]) -> dict[str, Any] | None:
    """Return what was looked up, without a contact who is somebody else."""
    contact = (context or {}).get("contact")
    if context and contact and not set(contact.get("emails") or ()) & set(emails):
        return {**context, "contact": None}
    return context


def _job(connection: Connection, job: Any) -> dict[str, Any]:
    failed = connection.execute(select(attempts).where(attempts.c.job_id == job.id).order_by(attempts.c.id))
    return {
        "lane": job.lane,
        "state": job.state,
        "reason": job.reason,
        "plan": json.loads(job.plan or "null"),
        "steps": json.loads(job.steps),
        "created_at": _when(job.created_at),
        "settled_at": _when(job.settled_at),
        "failed_attempts": [{"at": _when(row.at), "status": row.status, "words": row.words} for row in failed],
    }


def _when(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


# -- inside --------------------------------------------------------------------------------------------------------


def parts(ids: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield ids in parts that a statement takes, and after which others may write."""
    yield from (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))


def _rows(connection: Connection, wanted: Any, column: Any, values: Collection[Any]) -> Iterator[Any]:
    for some in parts(sorted(values)):
        yield from connection.execute(wanted.where(column.in_(some)))


def _ids(connection: Connection, wanted: Any, column: Any, values: Collection[Any]) -> Iterator[Any]:
    return (row[0] for row in _rows(connection, wanted, column, values))
