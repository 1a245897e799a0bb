"""What the journal remembers of people for longer than of events: what they did before, and their consent."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from app.events import CONSENT_KINDS, EmailActivity, Event, Kind, Lane, Response, Seen, SeenClick, Source
from app.journal import statements as sql
from app.journal.rows import Row, folded, read_activity, read_response, read_steps

LATER_THAN_ALL = 2**62  # an id
AHEAD_SECONDS = 300  # how far a platform's clock may be ahead of ours


def remember(connection: Connection, upserts: sql.Upserts, people: Iterable[tuple[Event, str, float]]) -> None:
    """Note what people did, once each: the event, who it was, and when it came.

    Who: their address or what stands for it, "" if nothing is known yet. What a machine did, they did not do.
    """
    sightings: list[Row] = []
    timed: list[Row] = []
    untimed: list[Row] = []
    for event, who, now in people:
        sighting = _sighting(event, who, now)
        if sighting is None:
            continue
        at, dated = sighting["at"], _is_dated(event, now)
        sightings.append(sighting)
        if event.kind in CONSENT_KINDS and "@" in who:
            said = {
                "email": who,
                "source": event.source.value,
                "unsubscribed": int(event.kind == Kind.UNSUBSCRIBED),
                "at": at,
                "event_id": event.id,
            }
            (timed if dated else untimed).append(said)
    for statement, rows in (
        (upserts.sight, sightings),
        (upserts.set_consent, timed),
        (upserts.set_consent_now, untimed),
    ):
        if rows:
            connection.execute(statement, rows)


def _sighting(event: Event, who: str, now: float) -> Row | None:
    """Return the row that notes what somebody did; None: it is not to be noted."""
    activity = event.data
    if not who or not isinstance(activity, EmailActivity) or event.kind == Kind.OTHER or activity.machine:
        return None
    at = event.occurred_at if event.occurred_at and _is_dated(event, now) else now
    campaign = folded(activity.campaign)
    return {"event_id": event.id, "who": who, "kind": event.kind.value, "campaign": campaign, "at": at}


def _is_dated(event: Event, now: float) -> bool:
    """Say whether an event's own time counts.

    What is dated far ahead counts as said now, whosever clock is wrong: consent of years ahead could not be
    changed any more, and if it is our clock that was set back, this is later than all that we know.
    """
    return event.occurred_at is not None and event.occurred_at <= now + AHEAD_SECONDS


def seen(connection: Connection, event_id: int, moments: float) -> Seen:
    """Return what a person had done before an event; an open and a click within `moments` seconds are partners."""
    mine = connection.execute(sql.SIGHTING, {"event_id_": event_id}).mappings().first()
    return _seen(connection, dict(mine), moments) if mine else Seen()


def foreseen(connection: Connection, event: Event, who: str, now: float, moments: float) -> Seen:
    """Return what `seen` would say of an event that is not written down."""
    mine = _sighting(event, who, now)
    return _seen(connection, {**mine, "id": LATER_THAN_ALL}, moments) if mine else Seen()


def _seen(connection: Connection, mine: Mapping[str, Any], moments: float) -> Seen:
    before = {"who_": mine["who"], "id_": mine["id"]}
    same = before | {"campaign_": mine["campaign"], "kind_": mine["kind"]}
    last = connection.execute(sql.LAST_ACT, before).scalar()
    near = same | {"from_": mine["at"] - moments, "to_": mine["at"] + moments}
    partner = connection.execute(sql.PARTNER, near).first() if moments else None
    click = None
    if partner and partner.kind == Kind.EMAIL_CLICKED:
        click = SeenClick(partner.event_id, read_activity(partner.data), seen(connection, partner.event_id, 0))
    return Seen(
        first=connection.execute(sql.SEEN_BEFORE, same).first() is None,
        quiet_seconds=None if last is None else max(0.0, mine["at"] - last),
        open_id=partner.event_id if partner and partner.kind == Kind.EMAIL_OPENED else 0,
        click=click,
    )


def unsubscribed(connection: Connection, emails: Collection[str]) -> dict[str, tuple[Source, ...]]:
    """Return the platforms at which addresses are unsubscribed; addresses that are nowhere so are missing."""
    found: dict[str, tuple[Source, ...]] = {}
    for email, source in connection.execute(sql.UNSUBSCRIBED, {"emails": list(emails)}):
        found[email] = (*found.get(email, ()), Source(source))
    return found


def made_under(connection: Connection, scopes: Collection[str]) -> dict[str, str]:
    """Return what Kommo said of the entry that was made under each scope: its id, where there is one."""
    holders = connection.execute(sql.HOLDERS, {"keys": list(scopes)}).all()
    jobs = {row.holder: int(row.holder.removeprefix("job:")) for row in holders}
    ledgers = {row.id: row for row in connection.execute(sql.LEDGERS, {"job_ids": list(jobs.values())})}
    found: dict[str, str] = {}
    for scope, holder in holders:
        row = ledgers.get(jobs[holder])
        name = row and row.plan and _claimed_by(read_response(row.plan), scope)
        step = read_steps(row.steps).get(name) if row and name else None
        if step and step.finished:
            found[scope] = step.note
    return found


def made_by(connection: Connection, event_ids: Sequence[int]) -> dict[int, Mapping[str, str]]:
    """Return what Kommo said of each finished step of events, by event id and step."""
    asked = {"event_ids": list(event_ids), "lane_": Lane.KOMMO.value}
    return {
        row.event_id: {name: step.note for name, step in read_steps(row.steps).items() if step.finished}
        for row in connection.execute(sql.LEDGERS_OF_EVENTS, asked)
    }


def _claimed_by(response: Response, scope: str) -> str | None:
    return next((action.name for action in response.actions if action.scope == scope), None)
