"""Customer.io's reporting webhooks. Reference: https://docs.customer.io/api/webhooks/"""

from __future__ import annotations

from collections.abc import Mapping

from app.events import EmailActivity, Event, Kind, Reading, Source, Webhook
from app.webhooks.activity import email_event, first_email
from app.webhooks.bodies import (
    BodyError,
    as_mapping,
    as_text,
    as_time,
    as_word,
    decode,
    digest,
    journal_key,
    parse_object,
)

REPEAT_SECONDS = 300  # without an id, the same body again

KINDS: Mapping[tuple[str, str], Kind] = {
    ("email", "opened"): Kind.EMAIL_OPENED,
    ("email", "clicked"): Kind.EMAIL_CLICKED,
    ("email", "bounced"): Kind.BOUNCED,
    ("customer", "unsubscribed"): Kind.UNSUBSCRIBED,  # `email_unsubscribed` tells it once more, of the email
    ("customer", "subscribed"): Kind.RESUBSCRIBED,
}
METRICS = {kind: names for names, kind in KINDS.items()}


def read(webhook: Webhook, *, now: float, event: str | None = None) -> Reading:
    """Return what the body says; it names its event itself. Raises BodyError if it is none of Customer.io's."""
    said = parse_object(decode(webhook.body))
    what, metric = as_word(said.get("object_type"), limit=50), as_word(said.get("metric"), limit=50)
    if not what or not metric:
        raise BodyError("The body is none of Customer.io's: it needs object_type and metric.")
    data = as_mapping(said.get("data"))
    identifiers = as_mapping(data.get("identifiers"))
    activity = EmailActivity(
        email=first_email([identifiers, data], "email", "recipient"),
        person_id=as_word(identifiers.get("id") or data.get("customer_id")) or None,
        campaign=as_text(data.get("subject")),
        subject=as_text(data.get("subject")),
        link=as_text(data.get("href"), limit=2000) or None,
        name=f"{what}_{metric}",
    )
    event_id, body_digest = as_word(said.get("event_id")), digest(webhook.body)
    return Reading(
        events=(_event(KINDS.get((what, metric), Kind.OTHER), activity, event_id, body_digest, said, now),)
    )


def pretended(kind: Kind, activity: EmailActivity) -> Mapping[str, object]:
    """Return the webhook of an email activity; of what Customer.io does not tell, one that says so."""
    what, metric = METRICS.get(kind, ("email", kind.value))
    return {
        "object_type": what,
        "metric": metric,
        "data": {
            "identifiers": {"email": activity.email},
            "subject": activity.subject or activity.campaign,
            "href": activity.link,
        },
    }


def _event(
    kind: Kind, activity: EmailActivity, event_id: str, body_digest: str, said: Mapping[str, object], now: float
) -> Event:
    return email_event(
        Source.CUSTOMERIO,
        kind,
        activity,
        now=now,
        body_digest=body_digest,
        dedupe_key=journal_key("customerio", event_id) if event_id else None,
        repeat_seconds=REPEAT_SECONDS,
        occurred_at=as_time(said.get("timestamp")),
    )
