"""The bodies of Ortto's webhooks, in every shape a user can set up, and the rules of their delivery."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sandbox.ortto.activities import Activity
from sandbox.ortto.people import EMAIL, Person

SHAPES = ("dynamic", "activity", "journey", "playbook", "article", "test")
ACTIONS = ("journey", "playbook")
"""The shapes whose answer must be JSON, and may change the contact."""
LEAD_ID = "str:cm:kommo-lead-id"
CONTACT_NAMES = {"str::first": "first_name", "str::last": "last_name", LEAD_ID: "kommo_lead_id"}
"""The fields that the user added to the webhook, and the names Ortto gives them there."""

NOT_RETRIED = (400, 401, 403, 404, 405)
RETRIES = 12
FIRST_WAIT, LAST_WAIT = 300, 86_400
# From 5 minutes to a day in 12 steps; that they grow evenly is a guess.
WAITS = tuple(round(FIRST_WAIT * (LAST_WAIT / FIRST_WAIT) ** (step / (RETRIES - 1)), 1) for step in range(RETRIES))


@dataclass(frozen=True)
class Kind:
    """Something that a person can do with an email or in a journey."""

    activity_id: str
    type: str
    """The word for it in bodies that the user wrote; Ortto has none itself."""


KINDS = {
    "opened": Kind("act::o", "email.opened"),
    "clicked": Kind("act::c", "email.link_clicked"),
    "unsubscribed": Kind("act::u-all", "person.unsubscribed"),
    "resubscribed": Kind("act::s-all", "person.resubscribed"),
    "bounced": Kind("act::b", "email.bounced"),
    "journey_completed": Kind("act::lj", "journey.completed"),
}


@dataclass(frozen=True)
class Act:
    """What a person did, and in which mail of which campaign."""

    event: str
    subject: str
    campaign: str
    link: str
    machine: bool
    campaign_id: str
    email_id: str
    run_id: str

    @property
    def kind(self) -> Kind:
        """Return what kind of doing it was."""
        return KINDS[self.event]

    @property
    def tracked_link(self) -> str:
        """Return the link with Ortto's tracking parameter."""
        return f"{self.link}{'&' if '?' in self.link else '?'}utm_source=ortto"


@dataclass
class Webhook:
    """One call of the user's webhook, with all its attempts."""

    id: str
    shape: str
    event: str
    email: str
    body: dict[str, Any]
    attempts: list[int] = field(default_factory=list)
    """The status of each attempt; 0 = no answer."""
    outcome: str = "sent"
    """`sent`, then `delivered` or `failed` by the last attempt; `no target` if there was nowhere to send it."""
    problem: str = ""


def attributes(act: Act, email: str) -> dict[str, Any]:
    """Build the attributes of Ortto's activity for an act, keys as in a recorded schema."""
    return _ATTRIBUTES[act.event](act, email)


def _campaign(act: Act, email: str) -> dict[str, Any]:
    return {"idt::c": act.campaign_id, "str::cn": act.campaign}


def _mail(act: Act, email: str) -> dict[str, Any]:
    return {
        **_campaign(act, email),
        "str::ct": "journey",
        "idt::ei": act.email_id,
        "str::asn": f"{act.campaign} mail",
        "str::s": act.subject,
    }


def _run(act: Act) -> dict[str, Any]:
    return {"str::jsi": "3", "idt::jri": act.run_id}


def _opened(act: Act, email: str) -> dict[str, Any]:
    return {**_mail(act, email), **_run(act), "bol::m": act.machine}


def _clicked(act: Act, email: str) -> dict[str, Any]:
    link = {"str::c": act.link, "str::rc": act.tracked_link, "int::li": 2, "str::us": "ortto", "str::um": "email"}
    return {**_mail(act, email), **link, **_run(act), "bol::m": act.machine}


def _unsubscribed(act: Act, email: str) -> dict[str, Any]:
    reason = {"str::s": act.subject, "str::rn": "Too many emails", "str::is": "Unsubscribe link"}
    return {**_campaign(act, email), **reason}


def _resubscribed(act: Act, email: str) -> dict[str, Any]:
    # Recorded with the source API only; the word for a person's own doing is a guess.
    return {"str::is": "Preference center"}


def _bounced(act: Act, email: str) -> dict[str, Any]:
    bounce = {"str::be": email, "str::bc": "hard", "str::br": "550 No such user here", "str::bt": "Permanent"}
    return {**_mail(act, email), **bounce}


def _left_journey(act: Act, email: str) -> dict[str, Any]:
    # What str::pr says at a regular end is unsure.
    return {**_campaign(act, email), "str::pr": "exit", "str::jsi": "9", "idt::jri": act.run_id}


_ATTRIBUTES: dict[str, Callable[[Act, str], dict[str, Any]]] = {
    "opened": _opened,
    "clicked": _clicked,
    "unsubscribed": _unsubscribed,
    "resubscribed": _resubscribed,
    "bounced": _bounced,
    "journey_completed": _left_journey,
}


def activity_part(activity: Activity) -> dict[str, Any]:
    """Build the `activity` of a body."""
    return {
        "id": activity.id,
        "field_id": activity.activity_id,
        "created": activity.created,
        "attr": activity.attributes,
    }


def activity_body(activity: Activity, person: Person, ids: dict[str, str]) -> dict[str, Any]:
    """Build an activity webhook: activities synced to the data source."""
    contact = {"contact_id": person.id, "email": person.fields.get(EMAIL), **_contact(person)}
    return {"activity": activity_part(activity), "contact": contact, **ids}


def journey_body(
    act: Act, person: Person, ids: dict[str, str], activity: Activity | None, url: str
) -> dict[str, Any]:
    """Build the webhook of a journey's action: flat (help.ortto.com/a-626).

    Where the activity stands when the data source sends it too is unsure.
    """
    return {
        **_action_body(act, person, activity),
        "id": ids["id"],
        "run_id": act.run_id,
        "shape_id": "4",
        "shape_title": url,
        "time": ids["time"],
        "webhook_id": ids["webhook_id"],
    }


def playbook_body(act: Act, person: Person, ids: dict[str, str], activity: Activity | None) -> dict[str, Any]:
    """Build the webhook of a playbook's action.

    The locked fields are known at second hand; that the time comes along as in a journey is assumed.
    """
    return {
        **_action_body(act, person, activity),
        "action_id": "7",
        "action_name": "Send to webhook",
        "time": ids["time"],
    }


def _action_body(act: Act, person: Person, activity: Activity | None) -> dict[str, Any]:
    return {
        **({"activity": activity_part(activity)} if activity else {}),
        "campaign_id": act.campaign_id,
        "campaign_name": act.campaign,
        "contact_id": person.id,
        "email": person.fields.get(EMAIL),
        **_contact(person),
    }


def dynamic_body(act: Act, person: Person, occurred_at: str) -> dict[str, Any]:
    """Build a dynamic webhook with the body that our set-up guide has the user paste (help.ortto.com/a-959)."""
    fields = {name: person.fields[name] for name in (EMAIL, LEAD_ID) if name in person.fields}
    link = {"link": act.tracked_link} if act.event == "clicked" else {}
    return {
        "type": act.kind.type,
        "event_id": f"{act.campaign_id}-{person.id}-{act.run_id}",
        "occurred_at": occurred_at,
        "person": {"id": person.id, "fields": fields},
        "email": {"subject": act.subject, **link},
    }


def article_body(act: Act, person: Person) -> dict[str, Any]:
    """Build a dynamic webhook with a body as in the article: wrapped values and a field id of its own."""
    named = {EMAIL: EMAIL, "str::kommo_lead_id": LEAD_ID}
    fields = {name: {"v": person.fields[field_id]} for name, field_id in named.items() if field_id in person.fields}
    return {"type": act.kind.type, "person": {"fields": fields}, "email": {"subject": act.subject}}


def test_body(activity_id: str, created: str, ids: dict[str, str]) -> dict[str, Any]:
    """Build what the data source's Test button sends."""
    return {
        "activity": {"id": activity_id, "field_id": "act::test_webhook", "created": created, "attr": {}},
        "contact": {
            "contact_id": "0" * 24,
            "email": "test.contact@example.test",
            "first_name": "Test",
            "last_name": "Contact",
        },
        **ids,
    }


def waits_after(status: int) -> tuple[float, ...]:
    """Return the waits between attempts after a status: 400 to 599 but five are retried, and silence."""
    if status in NOT_RETRIED or 0 < status < 400:
        return ()
    return WAITS


def failure(shape: str, status: int, content: bytes) -> str:
    """Say why an attempt failed; empty if it did not. Only actions need JSON (help.ortto.com/a-626)."""
    if not 200 <= status < 300:
        return f"status {status}" if status else "no answer"
    if shape not in ACTIONS:
        return ""
    try:
        json.loads(content)
    except ValueError:
        return "the answer is not JSON"
    return ""


def _contact(person: Person) -> dict[str, Any]:
    return {name: person.fields[field_id] for field_id, name in CONTACT_NAMES.items() if field_id in person.fields}
