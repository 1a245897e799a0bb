"""Encharge's webhooks: what people did with its emails.

Encharge sends three shapes: a flow's Send Webhook step (a flat body whose keys the user types), event subscriptions
(https://app-encharge-resources.s3.amazonaws.com/redoc.html) and the Activity Stream
(https://docs.encharge.io/advanced/activity-stream).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.events import EmailActivity, Event, Ignored, Kind, Reading, Source, Webhook
from app.webhooks.activity import email_event, first_email, kind_of
from app.webhooks.bodies import (
    BodyError,
    as_flag,
    as_mapping,
    as_text,
    as_time,
    decode,
    digest,
    first_id,
    first_text,
    first_time,
    is_json,
    items,
    journal_key,
    parse_form,
    parse_json,
    shown,
)

REPEAT_SECONDS = 300  # the same body again: a person who opens twice in five minutes opened once

LEAD_ID = ("kommo_lead_id", "kommoLeadId")
CAMPAIGN = ("broadcastName", "broadcast", "campaign", "campaignName", "emailName", "subject")
# Not `id`: in a flow step people type `id` for the person's id, which would make all their events one.
EVENT_ID = ("event_id", "eventId", "activity_id", "activityId")
TIME = ("occurred_at", "occurredAt", "timestamp", "time")


@dataclass(frozen=True)
class _Origin:
    """What is known of a body besides its words."""

    digest: str
    event: str  # the event's name from the webhook's URL, or empty
    now: float


def read(webhook: Webhook, *, now: float, event: str | None = None) -> Reading:
    """Return what the body says; `event` is the name in the webhook's URL, for bodies that name none.

    Raises BodyError if it is no such body, or names no event.
    """
    text = decode(webhook.body)
    said = parse_json(text) if is_json(webhook.content_type, text) else parse_form(text)
    origin = _Origin(digest(webhook.body), as_text(event, limit=100), now)
    return _read_list(said, origin) if isinstance(said, list) else _read_one(said, origin)


def _read_list(said: list[Any], origin: _Origin) -> Reading:
    """Read a list of bodies; a wrong one among good ones is a fault."""
    events: list[Event] = []
    ignored: list[Ignored] = []
    faults: list[str] = []
    for index, (path, one) in enumerate(items(said, "")):
        try:
            reading = _read_one(one, _Origin(f"{origin.digest}:{index}", origin.event, origin.now))
        except BodyError as error:
            faults.append(f"{path}: {error}")
            continue
        events += reading.events
        ignored += reading.ignored
        faults += [f"{path}.{fault}" for fault in reading.faults]
    if not events and not ignored:
        raise BodyError(faults[0] if faults else "The body is an empty list.")
    return Reading(tuple(events), tuple(ignored), tuple(faults))


def _read_one(said: object, origin: _Origin) -> Reading:
    """Read one body, by the shape that it has."""
    if not isinstance(said, dict):
        raise BodyError(f"The body must be an object and is {shown(said)}.")
    if "endUserData" in said:
        return _read_subscription(said, origin)
    if _is_stream(said):
        return Reading(events=(_stream_event(said, origin),))
    return Reading(events=(_flat_event(said, origin),))


def _name(said: Mapping[str, Any], origin: _Origin, *names: str) -> str:
    """Return the event's name, from the body or else from the URL; raise BodyError if neither says it."""
    name = first_text([said], *names, limit=100) or origin.event
    if not name:
        raise BodyError(
            f"The body names no event: send {names[0]!r} with email_opened, email_link_clicked or "
            "user_unsubscribed in it, or add ?event=email_opened to the webhook's URL."
        )
    return name


# -- a flow's Send Webhook step ------------------------------------------------------------------------------------


def _flat_event(said: Mapping[str, Any], origin: _Origin) -> Event:
    """Read the body of a flow step, or one such as our source article shows."""
    name = _name(said, origin, "event", "eventType", "event_type")
    activity = _activity(name, _person(said), said)
    event_id = first_text([said], *EVENT_ID)
    # The person and the name belong to the key: an id typed as a constant must not make two people's events one.
    who = activity.person_id or activity.email or ""
    return email_event(
        Source.ENCHARGE,
        kind_of(name),
        activity,
        now=origin.now,
        body_digest=origin.digest,
        dedupe_key=journal_key("encharge", name, who, event_id) if event_id else None,
        repeat_seconds=REPEAT_SECONDS,
        occurred_at=first_time([said], *TIME),
    )


def _person(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the person inside a body, if it has one there."""
    return as_mapping(said.get("person")) or as_mapping(said.get("user"))


def _activity(name: str, person: Mapping[str, Any], said: Mapping[str, Any]) -> EmailActivity:
    """Return what the person did; what is not said of the person may stand around it, too."""
    around = (said, as_mapping(said.get("data")), as_mapping(said.get("properties")))
    everywhere = (person, as_mapping(person.get("data")), *around)
    return EmailActivity(
        email=first_email(everywhere, "email"),
        lead_id=first_id(everywhere, *LEAD_ID),
        person_id=first_text(everywhere, "person_id", "personId") or first_text([person, said], "id") or None,
        campaign=first_text(around, *CAMPAIGN),
        link=first_text(around, "link", "url", limit=2000) or None,
        first=as_flag(said.get("isFirstEvent")),
        name=name,
    )


# -- the Activity Stream -------------------------------------------------------------------------------------------


def _is_stream(said: Mapping[str, Any]) -> bool:
    """Say whether a body is an event of the Activity Stream."""
    return "name" in said and "timestamp" in said and isinstance(said.get("properties"), dict)


def _stream_event(said: Mapping[str, Any], origin: _Origin) -> Event:
    """Read an event of the Activity Stream, which has a time in milliseconds and no id."""
    name = _name(said, origin, "name")
    activity = _activity(name, _person(said), said)
    at = as_time(said["timestamp"])
    who = activity.person_id or activity.email
    email_id = as_text(said["properties"].get("emailId"))
    return email_event(
        Source.ENCHARGE,
        kind_of(name),
        activity,
        now=origin.now,
        body_digest=origin.digest,
        dedupe_key=journal_key("encharge", name, who, round(at * 1000), email_id) if at and who else None,
        repeat_seconds=REPEAT_SECONDS,
        occurred_at=at,
    )


# -- event subscriptions -------------------------------------------------------------------------------------------


def _read_subscription(said: Mapping[str, Any], origin: _Origin) -> Reading:
    """Read the delivery of an event subscription: one event for each person in it."""
    name = _name(said, origin, "eventType", "event")
    payload = as_mapping(said.get("eventPayload"))
    kind = _subscription_kind(name, payload)
    if kind is Kind.OTHER and payload.get("source") == "api":
        # Each person that we write comes back so; it must not fill the journal.
        return Reading(ignored=(Ignored(name, "a change made through Encharge's API, such as our own"),))
    people = said["endUserData"]
    entries = items([people] if isinstance(people, dict) else people or [{}], "endUserData")
    events: list[Event] = []
    faults: list[str] = []
    for index, (path, person) in enumerate(entries):
        if not isinstance(person, dict):
            faults.append(f"{path} is not a person: {shown(person)}")
            continue
        events.append(
            email_event(
                Source.ENCHARGE,
                kind,
                _activity(name, person, {}),
                now=origin.now,
                body_digest=f"{origin.digest}:{index}",
                dedupe_key=None,
                repeat_seconds=REPEAT_SECONDS,
                occurred_at=None,
            )
        )
    return Reading(tuple(events), faults=tuple(faults))


def _subscription_kind(name: str, payload: Mapping[str, Any]) -> Kind:
    """Return what happened; a resubscription is known only as a person's `unsubscribed` changing back."""
    change = as_mapping(as_mapping(payload.get("changedFields")).get("unsubscribed"))
    was, is_now = as_flag(change.get("oldValue")), as_flag(change.get("newValue"))
    if is_now is True:
        return Kind.UNSUBSCRIBED
    if was is True and is_now is False:
        return Kind.RESUBSCRIBED
    return kind_of(name)
