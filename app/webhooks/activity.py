"""What the readers of the email platforms share: names of events, and the event made of an email activity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from app.addresses import clean_email
from app.events import EmailActivity, Event, Kind, Repeat, Source
from app.webhooks.bodies import as_text, journal_key, plain_name

# Names that people type into a webhook's body or URL, without case and separators.
NAMES: Mapping[str, Kind] = {
    "open": Kind.EMAIL_OPENED,
    "opened": Kind.EMAIL_OPENED,
    "emailopen": Kind.EMAIL_OPENED,
    "emailopened": Kind.EMAIL_OPENED,
    "openedemail": Kind.EMAIL_OPENED,
    "click": Kind.EMAIL_CLICKED,
    "clicked": Kind.EMAIL_CLICKED,
    "emailclick": Kind.EMAIL_CLICKED,
    "emailclicked": Kind.EMAIL_CLICKED,
    "clickedemail": Kind.EMAIL_CLICKED,
    "linkclicked": Kind.EMAIL_CLICKED,
    "emaillinkclicked": Kind.EMAIL_CLICKED,
    "unsubscribed": Kind.UNSUBSCRIBED,
    "emailunsubscribed": Kind.UNSUBSCRIBED,
    "personunsubscribed": Kind.UNSUBSCRIBED,
    "userunsubscribed": Kind.UNSUBSCRIBED,
    "unsubscribeduser": Kind.UNSUBSCRIBED,
    "resubscribed": Kind.RESUBSCRIBED,
    "emailresubscribed": Kind.RESUBSCRIBED,
    "personresubscribed": Kind.RESUBSCRIBED,
    "userresubscribed": Kind.RESUBSCRIBED,
    "resubscribeduser": Kind.RESUBSCRIBED,
    "bounce": Kind.BOUNCED,
    "bounced": Kind.BOUNCED,
    "emailbounced": Kind.BOUNCED,
    "journeycompleted": Kind.JOURNEY_COMPLETED,
    "completedjourney": Kind.JOURNEY_COMPLETED,
    "flowcompleted": Kind.JOURNEY_COMPLETED,
    "completedflow": Kind.JOURNEY_COMPLETED,
}


def kind_of(name: str) -> Kind:
    """Return the kind that an event's name means, however it is written; OTHER if we know no such name."""
    return NAMES.get(plain_name(name), Kind.OTHER)


def first_email(places: Iterable[Mapping[str, Any]], *names: str) -> str | None:
    """Return the first valid address under one of the names."""
    places = tuple(places)
    found = (clean_email(as_text(place.get(name))) for name in names for place in places)
    return next(filter(None, found), None)


def email_event(
    source: Source,
    kind: Kind,
    activity: EmailActivity,
    *,
    now: float,
    body_digest: str,
    dedupe_key: str | None,
    repeat_seconds: int,
    occurred_at: float | None,
) -> Event:
    """Return the event of an email activity; without a dedupe key the same body counts once in `repeat_seconds`.

    The event's name stands beside the body's digest: two webhooks may differ only in their URLs' `?event=`.
    """
    scope = journal_key(source, activity.name, body_digest)
    return Event(
        source=source,
        kind=kind,
        data=activity,
        order_key=_order_key(source, activity, body_digest),
        dedupe_key=dedupe_key,
        occurred_at=occurred_at,
        repeat=None if dedupe_key else Repeat(scope, body_digest, repeat_seconds),
        received_at=now,
    )


def _order_key(source: Source, activity: EmailActivity, body_digest: str) -> str:
    """Return the key of what must stay in order: the deal, else the address, else the platform's person."""
    if activity.lead_id:
        return f"lead:{activity.lead_id}"
    if activity.email:
        return f"email:{activity.email}"
    return journal_key(source, "person", activity.person_id or body_digest)
