"""What the readers of the email platforms share: names of events, and the event made of an email activity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from app.addresses import clean_email
from app.events import EmailActivity, Event, Kind, Repeat, Source
from app.webhooks.bodies import as_word, journal_key, plain_name

# Names that people type into a webhook's body or URL, and names of the platforms, without case and separators.
NAMES: Mapping[str, Kind] = {
    name: kind
    for kind, names in {
        Kind.EMAIL_OPENED: """
            open opened opens openemail openedemail emailopen emailopened emailopens mailopened""",
        Kind.EMAIL_CLICKED: """
            click clicked clicks clickemail clickedemail emailclick emailclicked emailclicks mailclicked
            linkclick linkclicked clicklink clickedlink emaillinkclick emaillinkclicked""",
        Kind.UNSUBSCRIBED: """
            unsubscribe unsubscribed unsubscribes optout optedout emailunsubscribe emailunsubscribed
            personunsubscribed userunsubscribed unsubscribeduser contactunsubscribed unsubscribedfromemail""",
        Kind.RESUBSCRIBED: """
            resubscribe resubscribed subscribedagain emailresubscribed personresubscribed userresubscribed
            resubscribeduser contactresubscribed subscribedtoemail""",
        Kind.BOUNCED: """
            bounce bounced bounces emailbounce emailbounced mailbounced bouncedemail
            hardbounce hardbounced softbounce softbounced""",
        Kind.JOURNEY_COMPLETED: """
            journeycomplete journeycompleted completedjourney journeyfinished finishedjourney journeyleft
            leftjourney flowcomplete flowcompleted completedflow flowfinished finishedflow""",
    }.items()
    for name in names.split()
}

# Keys by their plain names, so in any spelling.
LEAD_ID = ("kommoleadid", "kommodealid")
SUBJECT = ("subject", "emailsubject", "mailsubject", "subjectline")
LINK = ("link", "url", "linkurl", "clickedlink", "clickedurl", "href")
FIRST = ("isfirstevent", "isfirst", "firstevent")
MACHINE = ("machine", "ismachine", "bot", "isbot")


def kind_of(name: str) -> Kind:
    """Return the kind that an event's name means, however it is written; OTHER if we know no such name."""
    return NAMES.get(plain_name(name), Kind.OTHER)


def first_email(places: Iterable[Mapping[str, Any]], *names: str) -> str | None:
    """Return the first valid address under one of the names."""
    places = tuple(filter(None, places))
    found = (clean_email(as_word(place.get(name))) for name in names for place in places)
    return next(filter(None, found), None)


def about_sms(places: Iterable[Mapping[str, Any]], *names: str) -> bool:
    """Say whether what happened is about an SMS: what people do with those is no email activity."""
    places = tuple(filter(None, places))
    return any(plain_name(as_word(place.get(name))) == "sms" for name in (*names, "channel") for place in places)


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
