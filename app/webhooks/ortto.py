"""Ortto's webhooks: what people did with its emails and in its journeys.

Ortto has no typed webhook events. Shape A is a dynamic webhook's, written by the user
(https://help.ortto.com/a-959-dynamic-webhooks); B carries an activity (https://help.ortto.com/a-251-configuring-a-webhook);
C is the flat body of a journey's action, with an activity if the user ticks it
(https://help.ortto.com/a-626-how-to-update-contact-data-from-a-webhook-in-a-journey-or-playbook).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.events import EmailActivity, Event, Ignored, Kind, Reading, Source, Webhook
from app.webhooks.activity import email_event, first_email, kind_of
from app.webhooks.bodies import (
    BodyError,
    as_flag,
    as_mapping,
    as_text,
    decode,
    digest,
    first_id,
    first_text,
    first_time,
    journal_key,
    parse_object,
)

# A body without an id: Ortto repeats a failed delivery after 5 minutes and then ever later, so a shorter window
# would catch no retry, and a longer one would swallow more of what people really did twice.
REPEAT_SECONDS = 900

TEST = "act::test_webhook"  # the Test button in Ortto
OURS = "act:cm:crm-"  # the activities that we write

# Reference: https://help.ortto.com/a-755-system-activities; the ids stand in the schema that the API returns.
ACTIVITIES: Mapping[str, Kind] = {
    "act::o": Kind.EMAIL_OPENED,
    "act::c": Kind.EMAIL_CLICKED,
    "act::u-all": Kind.UNSUBSCRIBED,  # from all email
    "act::u-a": Kind.UNSUBSCRIBED,  # from one audience
    "act::s-all": Kind.RESUBSCRIBED,
    "act::b": Kind.BOUNCED,
    "act::lj": Kind.JOURNEY_COMPLETED,  # left the journey, for whatever reason: Ortto has no narrower one
}

LEAD_ID = (
    "str:cm:kommo-lead-id",
    "int:cm:kommo-lead-id",
    "str::kommo_lead_id",
    "kommo_lead_id",
    "kommo-lead-id",
)

Values = Mapping[str, Any]


def read(webhook: Webhook, *, now: float, event: str | None = None) -> Reading:
    """Return what the body says; `event` is the name in the webhook's URL, for bodies that name none.

    Raises BodyError if it has none of Ortto's shapes.
    """
    said = _plain(parse_object(decode(webhook.body)))
    name = _name(said, as_text(event, limit=100))
    if not name:
        reason = "it does not say what happened: add ?event=email.opened, or what it is sent for, to its URL"
        return Reading(ignored=(Ignored(_campaign_name(said) or "journey action", reason),))
    if name == TEST:
        return Reading(ignored=(Ignored(name, "Ortto's test event"),))
    if name.startswith(OURS):
        return Reading(ignored=(Ignored(name, "an activity that this service writes"),))
    return Reading(events=(_event(name, said, digest(webhook.body), now),))


def _name(said: Values, event: str) -> str:
    """Return the name of what happened, by the shape of the body; empty if neither body nor URL says it."""
    activity_id = _text(_inside(said, "activity"), "field_id")
    if activity_id:  # B, or C with its activity
        return activity_id
    if "person" in said and (_text(said, "type") or event):  # A
        return _text(said, "type") or event
    if _is_journey_action(said):  # C
        return _text(said, "event") or event
    raise BodyError(
        "The body is none of Ortto's: it needs activity.field_id (an activity), type and person (a dynamic "
        "webhook), or campaign_id and contact_id (a journey's action)."
    )


def _is_journey_action(said: Values) -> bool:
    """Say whether a body is the flat one of a journey's or a playbook's action."""
    return bool(first_text([said], "campaign_id", "run_id") and first_text([said], "contact_id", "email"))


def _event(name: str, said: Values, body_digest: str, now: float) -> Event:
    """Return the event of a body whose event has a name."""
    kind = ACTIVITIES.get(name) or kind_of(name)
    return email_event(
        Source.ORTTO,
        kind,
        _activity(name, kind, said),
        now=now,
        body_digest=body_digest,
        dedupe_key=_dedupe_key(name, said),
        repeat_seconds=REPEAT_SECONDS,
        occurred_at=first_time([_inside(said, "activity"), said], "created", "occurred_at", "time"),
    )


def _activity(name: str, kind: Kind, said: Values) -> EmailActivity:
    """Return what the person did."""
    person, contact = _inside(said, "person"), _inside(said, "contact")
    attributes = _inside(_inside(said, "activity"), "attr")
    email = _inside(said, "email")
    who = (_inside(person, "fields"), person, _inside(contact, "fields"), contact, said)
    return EmailActivity(
        email=first_email(who, "str::email", "email"),
        lead_id=first_id(who, *LEAD_ID),
        person_id=_person_id(said),
        campaign=_campaign(kind, said),
        link=first_text([attributes, email, said], "str::c", "str::rc", "link", "url", limit=2000) or None,
        machine=as_flag(attributes.get("bol::m")) is True,
        name=name,
    )


def _person_id(said: Values) -> str | None:
    """Return Ortto's id of the person."""
    person = _inside(said, "person")
    found = first_text([_inside(said, "contact"), person, said], "contact_id") or first_text([person], "id")
    return found or None


def _campaign(kind: Kind, said: Values) -> str:
    """Return the email's subject, or the nearest to it; of a journey its name."""
    attributes = _inside(_inside(said, "activity"), "attr")
    if kind is Kind.JOURNEY_COMPLETED:
        return _text(attributes, "str::cn") or _text(_inside(said, "journey"), "name") or _campaign_name(said)
    places = (attributes, _inside(said, "email"), said)
    return first_text(places, "str::s", "subject", "str::asn", "str::cn") or _campaign_name(said)


def _campaign_name(said: Values) -> str:
    """Return the name of the journey or playbook that sent the webhook."""
    return first_text([said], "campaign_name", "journey_name", "journey")


def _dedupe_key(name: str, said: Values) -> str | None:
    """Return what Ortto's redelivery of the same event has in common with it, if the body has such a thing."""
    activity = _inside(said, "activity")
    if _text(activity, "field_id"):
        activity_id = _text(activity, "id")
        return journal_key("ortto", "activity", _text(said, "webhook_id"), activity_id) if activity_id else None
    if "person" in said:
        event_id = _text(said, "event_id")
        return journal_key("ortto", "event", name, event_id) if event_id else None
    run = _text(said, "run_id")
    step = first_text([said], "shape_id", "action_id")
    who = first_text([said], "contact_id", "email")
    return journal_key("ortto", "run", _text(said, "campaign_id"), who, run, step) if run else None


# -- Ortto's values ------------------------------------------------------------------------------------------------


def _plain(values: object) -> Values:
    """Return an object with its values unwrapped: some templates write {"v": …} around each."""
    return {name: _unwrapped(value) for name, value in as_mapping(values).items()}


def _unwrapped(value: object) -> Any:
    """Return what an object with the one key `v` holds, and anything else as it is."""
    return value["v"] if isinstance(value, dict) and value.keys() == {"v"} else value


def _inside(values: Values, name: str) -> Values:
    """Return the object of that name, or an empty one."""
    return _plain(values.get(name))


def _text(values: Values, name: str) -> str:
    """Return the text of that name, or an empty one."""
    return as_text(values.get(name))
