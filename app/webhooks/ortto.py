"""Ortto's webhooks: what people did with its emails and in its journeys.

Ortto has no typed webhook events. Shape A is a dynamic webhook's, written by the user
(https://help.ortto.com/a-959-dynamic-webhooks); B carries an activity (https://help.ortto.com/a-251-configuring-a-webhook);
C is the flat body of a journey's or a playbook's action, with an activity if the user ticks it
(https://help.ortto.com/a-626-how-to-update-contact-data-from-a-webhook-in-a-journey-or-playbook).
docs/ortto.md has a table of them.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    as_mapping,
    as_word,
    by_plain_name,
    decode,
    digest,
    first_flag,
    first_id,
    first_text,
    first_time,
    first_word,
    journal_key,
    parse_object,
    plain_name,
)

# A body without an id: Ortto repeats a failed delivery after 5 minutes and then ever later, so a shorter window
# would catch no retry, and a longer one would swallow more of what people really did twice.
REPEAT_SECONDS = 900

TEST = "act::test_webhook"  # the Test button in Ortto
OURS = "act:cm:crm-"  # the activities that we write
OUR_CONTEXT = "Kommo Relay"  # how the context begins with which we change a person's permission

# Reference: https://help.ortto.com/a-755-system-activities; the ids stand in the schema that the API returns.
ACTIVITIES: Mapping[str, Kind] = {
    "act::o": Kind.EMAIL_OPENED,
    "act::c": Kind.EMAIL_CLICKED,
    "act::u-all": Kind.UNSUBSCRIBED,  # from all email
    "act::u-a": Kind.UNSUBSCRIBED,  # from one audience: rather believe a "no" too many
    "act::s-all": Kind.RESUBSCRIBED,
    "act::b": Kind.BOUNCED,
    "act::lj": Kind.JOURNEY_COMPLETED,  # left the journey, for whatever reason: Ortto has no narrower one
}

# Keys by their plain names, so in any spelling; `str:cm:kommo-lead-id` and `kommo_lead_id` are one.
EVENT = ("type", "event", "eventtype", "eventname")
TYPED_LEAD_ID = ("leadid", "dealid")  # typed for us; on a person they may be another system's
PERSON_ID = ("contactid", "personid")
WHO = ("email", *PERSON_ID, *LEAD_ID)
CAMPAIGN = ("campaignname", "campaign", "journeyname", "journey", "playbookname", "playbook")
TIME = ("occurredat", "time", "timestamp")

Values = Mapping[str, Any]


def read(webhook: Webhook, *, now: float, event: str | None = None) -> Reading:
    """Return what the body says; `event` is the name in the webhook's URL, for bodies that name none.

    Raises BodyError if it has none of Ortto's shapes.
    """
    said = _Said(parse_object(decode(webhook.body)), as_word(event, limit=100))
    name = said.name()
    if not name:
        reason = "it does not say what happened: add ?event=email.opened, or what it is sent for, to its URL"
        return Reading(ignored=(Ignored(said.campaign_name() or "journey action", reason),))
    if name == TEST:
        return Reading(ignored=(Ignored(name, "Ortto's test event"),))
    if name.startswith(OURS):
        return Reading(ignored=(Ignored(name, "an activity that this service writes"),))
    if first_text([said.attributes], "str::u-ctx", "str::s-ctx").startswith(OUR_CONTEXT):
        return Reading(ignored=(Ignored(name, "a change of consent that this service made"),))
    return Reading(events=(_event(name, said, digest(webhook.body), now),))


def pretended(kind: Kind, activity: EmailActivity) -> Mapping[str, object]:
    """Return the body of a dynamic webhook."""
    fields = {"str::email": activity.email, "str:cm:kommo-lead-id": activity.lead_id}
    body = {"type": kind.value, "person": {"fields": fields}}
    if kind is Kind.JOURNEY_COMPLETED:
        return body | {"journey": {"name": activity.campaign}}
    return body | {"email": {"subject": activity.subject or activity.campaign, "link": activity.link}}


class _Said:
    """A body and the parts of it, their keys by their plain names; only an activity's attributes keep their ids."""

    def __init__(self, body: Values, url_event: str) -> None:
        self.url_event = url_event
        self.body = by_plain_name(_plain(body))
        self.person = self._inside("person") or self._inside("contact") or self._inside("people")
        activity = _plain(self.body.get("activity"))
        if not activity and as_word(self.body.get("fieldid")).startswith("act:"):
            activity = _plain(body)  # the activity itself, as Ortto's API tells it
        self.attributes = _plain(activity.get("attr"))
        self.activity = by_plain_name(activity)
        self.around = (self.body, self._inside("data"), self._inside("email"))
        nested = (by_plain_name(_plain(self.person.get(name))) for name in ("fields", "custom", "data"))
        # Where a field of the person may stand.
        self.everywhere = (*nested, self.person, self._inside("contact"), self._inside("fields"), *self.around)

    def _inside(self, name: str) -> Values:
        return by_plain_name(_plain(self.body.get(name)))

    def name(self) -> str:
        """Return the name of what happened, by the shape of the body; empty if neither body nor URL says it."""
        activity_id = as_word(self.activity.get("fieldid"))
        if activity_id:  # B, or C with its activity
            return activity_id
        typed = first_word(self.around[:2], *EVENT, limit=100)
        known = typed if _kind_of(typed) is not Kind.OTHER else ""
        if self._is_action():  # C: an unknown `type` in it is a field of the person
            action = first_word([self.body], "actionname", limit=100)
            return known or self.url_event or (action if _kind_of(action) is not Kind.OTHER else "")
        # What is typed wins over the URL if we know it, and what stands in the URL over what we do not.
        name = known or self.url_event or typed
        if name and ("person" in self.body or self._names_person()):  # A
            return name
        raise BodyError(
            "The body is none of Ortto's: it needs activity.field_id (an activity), type and person (a dynamic "
            "webhook), or campaign_id and contact_id (a journey's action)."
        )

    def _names_person(self) -> bool:
        """Say whether a body that may be anything says of whom it speaks."""
        return bool(self.person) or bool(first_word(self.around, *WHO))

    def _is_action(self) -> bool:
        """Say whether a body is the flat one of a journey's or a playbook's action."""
        action = first_word([self.body], "campaignid", "runid", "actionid", "shapeid")
        return bool(action and first_word([self.body], "contactid", "email"))

    def person_id(self) -> str | None:
        """Return Ortto's id of the person. A body's own `id` is that of the delivery."""
        return first_word(self.everywhere, *PERSON_ID) or first_word([self.person], "id") or None

    def subject(self) -> str:
        """Return the email's subject."""
        return first_text([self.attributes], "str::s") or first_text(self.around, *SUBJECT)

    def campaign(self, kind: Kind) -> str:
        """Return the email's subject, or the nearest to it; of a journey its name."""
        if kind is Kind.JOURNEY_COMPLETED:
            journey = first_text([self._inside("journey")], "name")
            return first_text([self.attributes], "str::cn") or journey or self.campaign_name()
        return self.subject() or first_text([self.attributes], "str::asn", "str::cn") or self.campaign_name()

    def campaign_name(self) -> str:
        """Return the name of the journey or playbook that sent the webhook."""
        return first_text(self.around, *CAMPAIGN)

    def dedupe_key(self, name: str) -> str | None:
        """Return what Ortto's redelivery of the event has in common with it, if the body has such a thing."""
        if as_word(self.activity.get("fieldid")):
            activity_id = as_word(self.activity.get("id"))
            webhook_id = as_word(self.body.get("webhookid"))
            return journal_key("ortto", "activity", webhook_id, activity_id) if activity_id else None
        who = first_word(self.everywhere, *PERSON_ID, "email")
        event_id = first_word(self.around, "eventid")
        if plain_name(event_id):  # not one of which the merge tags left only the hyphens
            # The person belongs to the key: an id typed as a constant must not make two people's events one.
            return journal_key("ortto", "event", name, who, event_id)
        run = as_word(self.body.get("runid"))
        step = first_word([self.body], "shapeid", "actionid")
        return journal_key("ortto", "run", as_word(self.body.get("campaignid")), who, run, step) if run else None


def _event(name: str, said: _Said, body_digest: str, now: float) -> Event:
    """Return the event of a body whose event has a name."""
    kind = _kind(name, said)
    return email_event(
        Source.ORTTO,
        kind,
        _activity(name, kind, said),
        now=now,
        body_digest=body_digest,
        dedupe_key=said.dedupe_key(name),
        repeat_seconds=REPEAT_SECONDS,
        occurred_at=first_time([said.activity], "created", "createdat") or first_time(said.around, *TIME),
    )


def _kind(name: str, said: _Said) -> Kind:
    """Return what happened."""
    if about_sms([said.attributes], "str::ct") or about_sms(said.around):
        return Kind.OTHER
    return _kind_of(name)


def _kind_of(name: str) -> Kind:
    return ACTIVITIES.get(name) or kind_of(name)


def _activity(name: str, kind: Kind, said: _Said) -> EmailActivity:
    """Return what the person did."""
    link = first_text([said.attributes], "str::c", "str::rc", limit=2000)
    return EmailActivity(
        email=first_email(said.everywhere, "email", "emailaddress"),
        lead_id=first_id(said.everywhere, *LEAD_ID) or first_id(said.around, *TYPED_LEAD_ID),
        person_id=said.person_id(),
        campaign=said.campaign(kind),
        subject=said.subject(),
        link=link or first_text(said.around, *LINK, limit=2000) or None,
        first=first_flag(said.around, *FIRST),
        machine=(first_flag([said.attributes], "bol::m") or first_flag(said.around, *MACHINE)) is True,
        name=name,
    )


# -- Ortto's values ------------------------------------------------------------------------------------------------


def _plain(values: object) -> Values:
    """Return an object with its values unwrapped: some templates write {"v": …} around each."""
    return {name: _unwrapped(value) for name, value in as_mapping(_unwrapped(values)).items()}


def _unwrapped(value: object) -> Any:
    """Return what an object with the one key `v` holds, and anything else as it is."""
    while isinstance(value, dict) and value.keys() == {"v"}:
        value = value["v"]
    return value
