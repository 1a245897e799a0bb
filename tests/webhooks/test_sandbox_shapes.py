"""Each activity in each shape that the sandbox sends, written from the vendors' documents, means what it says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.events import EmailActivity, Event, Kind, Source, Webhook
from app.webhooks import encharge, ortto
from sandbox.encharge.bodies import FLOW_ROWS, Act, act_body, events_of, subscription
from sandbox.encharge.people import Change, Person
from sandbox.town import Town

EMAIL, LEAD = "marta.keller@northbay-logistics.example", 41500011
MAIL, LINK = "Pricing 2026", "https://example.test/pricing"
KINDS = {
    "opened": Kind.EMAIL_OPENED,
    "clicked": Kind.EMAIL_CLICKED,
    "unsubscribed": Kind.UNSUBSCRIBED,
    "resubscribed": Kind.RESUBSCRIBED,
    "bounced": Kind.BOUNCED,
    "journey_completed": Kind.JOURNEY_COMPLETED,
}
ENCHARGE = [
    (shape, event)
    for shape in ("flow", "article", "stream", "subscription")
    for event in KINDS
    if event != "journey_completed" and (shape != "subscription" or event == "unsubscribed")
    # The article's word for those who come back, `user_subscribed`, is that for new people too.
    if (shape, event) != ("article", "resubscribed")
]


def activity(event: Event) -> EmailActivity:
    assert isinstance(event.data, EmailActivity)
    return event.data


def encharge_reads(body: Any) -> Event:
    raw = json.dumps(body).encode()
    (event,) = encharge.read(Webhook(Source.ENCHARGE, "application/json", raw), now=0).events
    return event


@pytest.mark.parametrize(("shape", "event"), ENCHARGE)
def test_encharges_shapes(shape: str, event: str) -> None:
    person = Person({"id": "p1", "email": EMAIL, "kommo_lead_id": str(LEAD)})
    change = Change(person, {}, {"unsubscribed": {"oldValue": True, "newValue": False}})
    act = Act(person, event, MAIL, 3101, LINK, True, 1_779_260_624.0, change if event == "resubscribed" else None)
    found = encharge_reads(act_body(shape, act, FLOW_ROWS))
    assert (found.kind, activity(found).email) == (KINDS[event], EMAIL)
    if shape == "flow":
        assert (activity(found).lead_id, activity(found).campaign, activity(found).link) == (LEAD, MAIL, LINK)


@pytest.mark.parametrize(("before", "kind"), [(False, Kind.UNSUBSCRIBED), (True, Kind.RESUBSCRIBED)])
@pytest.mark.parametrize("source", ["api", "app"])
def test_a_change_of_consent_at_encharge_counts_whoever_made_it(before: bool, kind: Kind, source: str) -> None:
    person = Person({"id": "p1", "email": EMAIL, "unsubscribed": not before})
    fields = {"unsubscribed": {"oldValue": before, "newValue": not before}}
    change = Change(person, {**person.values, "unsubscribed": before}, fields)
    (told,) = events_of(change, source)
    assert encharge_reads(subscription(*told)).kind == kind


@pytest.mark.parametrize("event", KINDS)
@pytest.mark.parametrize(
    ("shape", "with_activity"),
    [
        ("dynamic", False),
        ("article", False),
        ("activity", True),
        ("journey", False),
        ("journey", True),
        ("playbook", False),
        ("playbook", True),
    ],
)
def test_orttos_shapes(town: Town, shape: str, with_activity: bool, event: str) -> None:
    town.ortto.add_person(EMAIL, kommo_lead_id=str(LEAD))
    town.ortto.switch(send_activity=with_activity)
    town.ortto.act(EMAIL, event, shape=shape)
    raw = json.dumps(town.ortto.state()["webhooks"][-1]["body"]).encode()
    url_event = None if with_activity or shape not in ("journey", "playbook") else event
    (found,) = ortto.read(Webhook(Source.ORTTO, "application/json", raw), now=0, event=url_event).events
    assert (found.kind, activity(found).email, activity(found).lead_id) == (KINDS[event], EMAIL, LEAD)
