"""Encharge's webhooks: what people did with its emails.

Encharge sends three shapes: a flow's Send Webhook step (a flat body whose keys the user types), event subscriptions
(https://app-encharge-resources.s3.amazonaws.com/redoc.html) and the Activity Stream
(https://docs.encharge.io/advanced/activity-stream). docs/encharge.md has a table of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.events import EmailActivity, Event, Ignored, Kind, Reading, Source, Webhook
from app.webhooks.activity import (
    FIRST,
    LEAD_ID,
    LINK,
    MACHINE,
    SUBJECT,
    about_sms,
    email_event,
    first_email,
    kind_of,
)
from app.webhooks.bodies import (
    BodyError,
    as_flag,
    as_mapping,
    as_time,
    as_word,
    bound,
    by_plain_name,
    decode,
    digest,
    first_flag,
    first_id,
    first_text,
    first_time,
    first_word,
    is_json,
    items,
    journal_key,
    parse_form,
    parse_json,
    plain_name,
    shown,
)

REPEAT_SECONDS = 300  # the same body again: a person who opens twice in five minutes opened once

# Keys by their plain names, so in any spelling.
EVENT = ("event", "eventtype", "eventname")
VAGUE_EVENT = ("action", "activity", "trigger", "type", "name")  # they name the event only if we know the name
PERSON = ("person", "user", "contact", "enduser")
PERSON_ID = ("personid", "enchargeid", "contactid")
TYPED_LEAD_ID = ("leadid", "dealid")  # typed for us; on a person they may be another system's
CAMPAIGN = ("broadcastname", "broadcast", "campaignname", "campaign", "emailname", "mailname", "flowname", "flow")
# Not `id`: in a flow step people type `id` for the person's id, which would make all their events one.
EVENT_ID = ("eventid", "activityid")
TIME = ("occurredat", "timestamp", "time")

TAG = re.compile(r"(added|removed)-tag-(.+)", re.DOTALL)

# What this service writes on a person, and what changes along with it.
WRITTEN = frozenset(
    {"email", "firstname", "lastname", "name", "kommoleadid", "kommocurrentstage", "updatedat", "lastactivity"}
)


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
    origin = _Origin(digest(webhook.body), as_word(event, limit=100), now)
    return _read_list(said, origin) if isinstance(said, list) else _read_one(said, origin)


def pretended(kind: Kind, activity: EmailActivity) -> Mapping[str, object]:
    """Return the body of a flow's Send Webhook step."""
    return {
        "event": kind.value,
        "email": activity.email,
        "kommo_lead_id": activity.lead_id,
        "broadcastName": activity.campaign,
        "subject": activity.subject,
        "link": activity.link,
    }


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
        bound(len(events) + len(ignored) + len(faults))  # one entry may tell of many people
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
        return _read_stream(said, origin)
    return Reading(events=(_flat_event(by_plain_name(said), origin),))


def _no_name(key: str) -> BodyError:
    return BodyError(
        f"The body names no event: send {key!r} with email_opened, email_link_clicked or "
        "user_unsubscribed in it, or add ?event=email_opened to the webhook's URL."
    )


# -- a flow's Send Webhook step ------------------------------------------------------------------------------------


def _flat_event(said: Mapping[str, Any], origin: _Origin) -> Event:
    """Read the body of a flow step, or one such as our source article shows."""
    around = _around(said)
    typed = first_word(around, *EVENT, limit=100)
    # What is typed wins over the URL if we know it, and what stands in the URL over what we do not.
    name = typed if kind_of(typed) is not Kind.OTHER else _vague_name(around) or origin.event or typed
    if not name:
        raise _no_name("event")
    activity = _activity(name, _person(said), said)
    event_id = first_word(around, *EVENT_ID)
    # The person and the name belong to the key: an id typed as a constant must not make two people's events one.
    who = activity.person_id or activity.email or ""
    return email_event(
        Source.ENCHARGE,
        Kind.OTHER if about_sms(around, "type") else kind_of(name),
        activity,
        now=origin.now,
        body_digest=origin.digest,
        dedupe_key=journal_key("encharge", name, who, event_id) if event_id else None,
        repeat_seconds=REPEAT_SECONDS,
        occurred_at=first_time(around, *TIME),
    )


def _vague_name(around: tuple[Mapping[str, Any], ...]) -> str:
    """Return the event's name from under a key that may as well hold something else."""
    found = (as_word(place.get(key), limit=100) for key in VAGUE_EVENT for place in around)
    return next((name for name in found if kind_of(name) is not Kind.OTHER), "")


def _around(said: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Return the places of what was typed into a body, keys by their plain names."""
    return (said, *(by_plain_name(as_mapping(said.get(name))) for name in ("data", "properties", "fields")))


def _person(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the person inside a body, if it has one there; keys by their plain names."""
    return next((by_plain_name(found) for name in PERSON if (found := as_mapping(said.get(name)))), {})


def _activity(name: str, person: Mapping[str, Any], said: Mapping[str, Any]) -> EmailActivity:
    """Return what the person did; what is not said of the person may stand around it, too.

    All keys by their plain names. Custom fields stand beside the person's own, or under `data`.
    """
    around = _around(said)
    everywhere = (*_around(person), *around)
    subject = first_text(around, *SUBJECT)
    return EmailActivity(
        email=first_email(everywhere, "email", "emailaddress"),
        lead_id=first_id(everywhere, *LEAD_ID) or first_id(around, *TYPED_LEAD_ID),
        person_id=first_word(everywhere, *PERSON_ID) or first_word([person, said], "id") or None,
        campaign=first_text(around, *CAMPAIGN) or subject,
        subject=subject,
        link=first_text(around, *LINK, limit=2000) or None,
        first=first_flag(around, *FIRST),
        machine=first_flag(around, *MACHINE) is True,
        name=name,
    )


# -- the Activity Stream -------------------------------------------------------------------------------------------


def _is_stream(said: Mapping[str, Any]) -> bool:
    """Say whether a body is an event of the Activity Stream."""
    return "name" in said and "timestamp" in said and isinstance(said.get("properties"), dict)


def _read_stream(said: Mapping[str, Any], origin: _Origin) -> Reading:
    """Read an event of the Activity Stream, which has a time in milliseconds and no id."""
    name = as_word(said["name"], limit=100) or origin.event
    if not name:
        raise _no_name("name")
    properties = said["properties"]
    kind = _consent(properties) or kind_of(name)
    if kind is Kind.OTHER and _is_echo(properties):
        return Reading(ignored=(_echo(name),))
    plain = by_plain_name(said)
    activity = _activity(name, _person(plain), plain)
    at = as_time(said["timestamp"])
    who = activity.person_id or activity.email
    email_id = as_word(properties.get("emailId"))
    event = email_event(
        Source.ENCHARGE,
        Kind.OTHER if about_sms([plain], "type") else kind,
        activity,
        now=origin.now,
        body_digest=origin.digest,
        dedupe_key=journal_key("encharge", name, who, round(at * 1000), email_id) if at and who else None,
        repeat_seconds=REPEAT_SECONDS,
        occurred_at=at,
    )
    return Reading(events=(event,))


# -- event subscriptions -------------------------------------------------------------------------------------------


def _read_subscription(said: Mapping[str, Any], origin: _Origin) -> Reading:
    """Read the delivery of an event subscription: one event for each person in it."""
    payload = as_mapping(said.get("eventPayload"))
    name = first_word([said], "eventType", "event", limit=100) or origin.event
    if not name and as_mapping(payload.get("changedFields")):
        name = "updatedUser"  # the reference shows no `eventType`
    if not name:
        raise _no_name("eventType")
    tag = TAG.fullmatch(name)
    kind = _consent(payload) or (_tag_kind(tag, origin.event) if tag else kind_of(name))
    if kind is Kind.OTHER and _is_echo(payload):
        return Reading(ignored=(_echo(name),))
    around = {"campaign": tag[2]} if tag else {}
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
                _activity(name, by_plain_name(person), around),
                now=origin.now,
                body_digest=f"{origin.digest}:{index}",
                dedupe_key=None,
                repeat_seconds=REPEAT_SECONDS,
                occurred_at=None,
            )
        )
    return Reading(tuple(events), faults=tuple(faults))


def _tag_kind(tag: re.Match[str], url_event: str) -> Kind:
    """Return what a tag stands for: what the URL of its subscription says, or else its own name."""
    kind = kind_of(url_event)
    if kind is not Kind.OTHER:
        return kind
    kind = kind_of(tag[2])
    if tag[1] == "added":
        return kind
    return Kind.RESUBSCRIBED if kind is Kind.UNSUBSCRIBED else Kind.OTHER


def _consent(payload: Mapping[str, Any]) -> Kind | None:
    """Return how a change of a person changes consent; a resubscription is known only in this way."""
    change = as_mapping(by_plain_name(as_mapping(payload.get("changedFields"))).get("unsubscribed"))
    was, is_now = as_flag(change.get("oldValue")), as_flag(change.get("newValue"))
    if is_now is True:
        return Kind.UNSUBSCRIBED
    return Kind.RESUBSCRIBED if was is True and is_now is False else None


def _is_echo(payload: Mapping[str, Any]) -> bool:
    """Say whether a change of a person that changes no consent comes from our own write.

    Each person that we write comes back so; it must not fill the journal. Which fields we write is up to the
    mapping file, so a change made through the API counts as ours whatever it changes: nothing would follow from
    other fields anyway. `unsubscribed` is never written by us: whoever changes it through the API means it, and
    that is no echo. The Activity Stream does not say who made a change; there the fields that we always write tell.
    """
    source = as_word(payload.get("source"))
    if source:
        return source.lower() == "api"
    changed = {plain_name(field) for field in as_mapping(payload.get("changedFields"))}
    return bool(changed) and changed <= WRITTEN


def _echo(name: str) -> Ignored:
    return Ignored(name, "a change made through Encharge's API, such as our own")
