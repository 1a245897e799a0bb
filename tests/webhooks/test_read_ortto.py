"""What Ortto's webhooks are read as: every shape, and bodies that nobody should send."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from app.events import EmailActivity, Event, Ignored, Kind, Reading, Repeat, Source, Webhook
from app.webhooks import ortto
from app.webhooks.bodies import BodyError

HOOKS = Path(__file__).parent.parent / "fixtures/ortto/hooks"
NOW = 1_772_700_000.0
ANN, ANN_ID = "ann.keller@example.test", "0069a80d40c1e5a07b3f2d00"
WEBHOOK = "69a1c0de5f2b8e0012ab34cd"
NO_SHAPE = (
    "The body is none of Ortto's: it needs activity.field_id (an activity), type and person (a dynamic webhook), "
    "or campaign_id and contact_id (a journey's action)."
)
OUR_CHANGE = "a change of consent that this service made"
NO_EVENT = "it does not say what happened: add ?event=email.opened, or what it is sent for, to its URL"


def load(name: str) -> bytes:
    return (HOOKS / name).read_bytes()


def event(
    kind: Kind,
    activity: EmailActivity,
    order_key: str,
    *,
    body: bytes = b"",
    dedupe_key: str | None = None,
    at: float | None = None,
) -> Event:
    digest = sha256(body).hexdigest()
    return Event(
        source=Source.ORTTO,
        kind=kind,
        data=activity,
        order_key=order_key,
        dedupe_key=dedupe_key,
        occurred_at=at,
        repeat=None if dedupe_key else Repeat(f"ortto:{activity.name}:{digest}", digest, 900),
        received_at=NOW,
    )


def read(body: bytes | str, event: str | None = None) -> Reading:
    body = body.encode() if isinstance(body, str) else body
    return ortto.read(Webhook(Source.ORTTO, "application/json", body), now=NOW, event=event)


def read_object(body: object, event: str | None = None) -> Reading:
    return read(json.dumps(body), event)


FIXTURES = {
    "01-article-email-opened.json": Reading(
        (
            event(
                Kind.EMAIL_OPENED,
                EmailActivity(
                    email=ANN,
                    lead_id=7351,
                    campaign="Your offer is ready",
                    subject="Your offer is ready",
                    name="email.opened",
                ),
                "lead:7351",
                body=load("01-article-email-opened.json"),
            ),
        )
    ),
    "02-article-person-unsubscribed.json": Reading(
        (
            event(
                Kind.UNSUBSCRIBED,
                EmailActivity(
                    email="bo.lind@example.test",
                    lead_id=7420,
                    campaign="March news",
                    subject="March news",
                    name="person.unsubscribed",
                ),
                "lead:7420",
                body=load("02-article-person-unsubscribed.json"),
            ),
        )
    ),
    "03-article-dynamic-template-link-clicked.json": Reading(
        (
            event(
                Kind.EMAIL_CLICKED,
                EmailActivity(
                    email=ANN,
                    lead_id=7351,
                    person_id=ANN_ID,
                    campaign="Your offer is ready",
                    subject="Your offer is ready",
                    link="https://shop.example.test/offer?utm_source=ortto",
                    name="email.link_clicked",
                ),
                "lead:7351",
                dedupe_key=f"ortto:event:email.link_clicked:{ANN}:"
                "69a2b7734e19c20035d0f6a1-0069a80d40c1e5a07b3f2d00-69a80f02a7d3c1000f5e7788",
                at=1772620930.0,
            ),
        )
    ),
    "04-activity-email-clicked.json": Reading(
        (
            event(
                Kind.EMAIL_CLICKED,
                EmailActivity(
                    email=ANN,
                    lead_id=7351,
                    person_id=ANN_ID,
                    campaign="Your offer is ready",
                    subject="Your offer is ready",
                    link="https://shop.example.test/offer",
                    name="act::c",
                ),
                "lead:7351",
                dedupe_key=f"ortto:activity:{WEBHOOK}:0069a80c82d7c4b19a3e6f12",
                at=1772620930.0,
            ),
        )
    ),
    "05-activity-unsubscribed-all.json": Reading(
        (
            event(
                Kind.UNSUBSCRIBED,
                EmailActivity(
                    email="bo.lind@example.test",
                    person_id="0069a80e1277b94c10d8aa00",
                    campaign="March news",
                    subject="March news",
                    name="act::u-all",
                ),
                "email:bo.lind@example.test",
                dedupe_key=f"ortto:activity:{WEBHOOK}:0069a9123fb0d6e45511c7a3",
                at=1772687935.0,
            ),
        )
    ),
    "06-activity-test-event.json": Reading(ignored=(Ignored("act::test_webhook", "Ortto's test event"),)),
    "07-journey-send-to-webhook.json": Reading(ignored=(Ignored("Opened offer -> CRM", NO_EVENT),)),
    "08-journey-with-activity-and-fields.json": Reading(
        (
            event(
                Kind.JOURNEY_COMPLETED,
                EmailActivity(
                    email="chi.mori@example.test",
                    lead_id=7498,
                    person_id="0069a90f3344de21907c5b00",
                    campaign="Welcome series",
                    name="act::lj",
                ),
                "lead:7498",
                dedupe_key=f"ortto:activity:{WEBHOOK}:0069a9148bc3d2e18f705a66",
                at=1772688523.0,
            ),
        )
    ),
    "09-playbook-action.json": Reading(ignored=(Ignored("Bounced -> CRM", NO_EVENT),)),
    "10-activity-machine-open.json": Reading(
        (
            event(
                Kind.EMAIL_OPENED,
                EmailActivity(
                    email=ANN,
                    campaign="Your offer is ready",
                    subject="Your offer is ready",
                    machine=True,
                    name="act::o",
                ),
                f"email:{ANN}",
                dedupe_key=f"ortto:activity:{WEBHOOK}:0069a80c82d7c4b19a3e6f13",
                at=1772620800.0,
            ),
        )
    ),
    "11-activity-of-our-own.json": Reading(
        ignored=(Ignored("act:cm:crm-stage-changed", "an activity that this service writes"),)
    ),
    "12-article-journey-completed.json": Reading(
        (
            event(
                Kind.JOURNEY_COMPLETED,
                EmailActivity(
                    email="chi.mori@example.test", lead_id=7498, campaign="Welcome series", name="journey.completed"
                ),
                "lead:7498",
                body=load("12-article-journey-completed.json"),
            ),
        )
    ),
    "13-awkward-values.json": Reading(
        (
            event(
                Kind.EMAIL_CLICKED,
                EmailActivity(
                    email="anna+büro@beispiel.test",
                    person_id="0069a80d40c1e5a07b3f2d11",
                    campaign="R&D + 🚀 «Оферта»",
                    subject="R&D + 🚀 «Оферта»",
                    name="Email Link-Clicked",
                ),
                "email:anna+büro@beispiel.test",
                body=load("13-awkward-values.json"),
            ),
        )
    ),
    "14-dynamic-flat.json": Reading(
        (
            event(
                Kind.EMAIL_CLICKED,
                EmailActivity(
                    email=ANN,
                    lead_id=7351,
                    person_id=ANN_ID,
                    campaign="your offer is ready",
                    subject="your offer is ready",
                    link="https://shop.example.test/offer",
                    machine=True,
                    name="email_clicked",
                ),
                "lead:7351",
                body=load("14-dynamic-flat.json"),
            ),
        )
    ),
    "15-activity-left-audience.json": Reading(
        (
            event(
                Kind.UNSUBSCRIBED,
                EmailActivity(
                    email="bo.lind@example.test",
                    person_id="0069a80e1277b94c10d8aa00",
                    campaign="March news",
                    subject="March news",
                    name="act::u-a",
                ),
                "email:bo.lind@example.test",
                dedupe_key=f"ortto:activity:{WEBHOOK}:0069a9123fb0d6e45511c7b1",
                at=1772687935.0,
            ),
        )
    ),
    "16-activity-unsubscribed-by-us.json": Reading(ignored=(Ignored("act::u-all", OUR_CHANGE),)),
    "17-activity-resubscribed-by-us.json": Reading(ignored=(Ignored("act::s-all", OUR_CHANGE),)),
    "18-activity-skewed-values.json": Reading(
        (
            event(
                Kind.EMAIL_CLICKED,
                EmailActivity(
                    lead_id=7351,
                    person_id=ANN_ID,
                    campaign="Your offer",
                    subject="Your offer",
                    link="https://shop.example.test/offer",
                    name="act::c",
                ),
                "lead:7351",
                dedupe_key=f"ortto:activity:{WEBHOOK}:0069a80c82d7c4b19a3e6f20",
                at=1772620930.0,
            ),
        )
    ),
    "19-activity-unsubscribed-from-sms.json": Reading(
        (
            event(
                Kind.OTHER,
                EmailActivity(
                    email="bo.lind@example.test", person_id="0069a80e1277b94c10d8aa00", name="act::oos-all"
                ),
                "email:bo.lind@example.test",
                dedupe_key=f"ortto:activity:{WEBHOOK}:0069a9123fb0d6e45511c7b4",
                at=1772687935.0,
            ),
        )
    ),
    "20-activity-by-id-only.json": Reading(
        (
            event(
                Kind.EMAIL_OPENED,
                EmailActivity(
                    person_id="0069a80e1277b94c10d8aa00",
                    campaign="March news",
                    subject="March news",
                    name="act::o",
                ),
                "ortto:person:0069a80e1277b94c10d8aa00",
                dedupe_key=f"ortto:activity:{WEBHOOK}:0069a9123fb0d6e45511c7b5",
                at=1772687935.0,
            ),
        )
    ),
}

# What the bodies of journeys and playbooks say once the webhook's URL names the event.
WITH_EVENT = {
    "07-journey-send-to-webhook.json": (
        "email.opened",
        event(
            Kind.EMAIL_OPENED,
            EmailActivity(email=ANN, person_id=ANN_ID, campaign="Opened offer -> CRM", name="email.opened"),
            f"email:{ANN}",
            dedupe_key=f"ortto:run:69a2b7734e19c20035d0f6a1:{ANN_ID}:69a80f02a7d3c1000f5e7788:4",
            at=1772620954.89503,
        ),
    ),
    "09-playbook-action.json": (
        "act::b",
        event(
            Kind.BOUNCED,
            EmailActivity(email=ANN, lead_id=7351, person_id=ANN_ID, campaign="Bounced -> CRM", name="act::b"),
            "lead:7351",
            body=load("09-playbook-action.json"),
            at=1772620954.89503,
        ),
    ),
}


def test_every_fixture_has_its_reading() -> None:
    assert sorted(FIXTURES) == sorted(path.name for path in HOOKS.iterdir())


@pytest.mark.parametrize("name", FIXTURES)
def test_a_fixture_is_read(name: str) -> None:
    assert read(load(name)) == FIXTURES[name]


@pytest.mark.parametrize("name", WITH_EVENT)
def test_the_url_names_the_event_that_the_body_does_not(name: str) -> None:
    url_event, expected = WITH_EVENT[name]
    assert read(load(name), url_event) == Reading((expected,))


@pytest.mark.parametrize("name", sorted(set(FIXTURES) - set(WITH_EVENT)))
def test_the_bodys_own_name_wins_over_the_urls(name: str) -> None:
    assert read(load(name), "email.bounced") == FIXTURES[name]


def test_the_urls_name_wins_over_a_type_that_we_do_not_know() -> None:
    (found,) = read_object({"type": "Offer journey", "person": {"email": ANN}}, "email.opened").events
    assert (found.kind, found.data.name) == (Kind.EMAIL_OPENED, "email.opened")  # type: ignore[union-attr]


def test_a_persons_type_is_no_event() -> None:
    body = {**json.loads(load("07-journey-send-to-webhook.json")), "type": "customer"}
    assert read_object(body) == FIXTURES["07-journey-send-to-webhook.json"]
    assert read_object(body, "email.opened").events[0].kind == Kind.EMAIL_OPENED


def test_the_name_of_a_playbooks_action_may_say_what_happened() -> None:
    body = {"action_id": "7", "action_name": "Email opened", "email": ANN, "contact_id": ANN_ID}
    (found,) = read_object(body).events
    assert (found.kind, found.data.name) == (Kind.EMAIL_OPENED, "Email opened")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"activity": {"field_id": "act::o"}, "contact": {"contact_id": "p1"}}, id="activity"),
        pytest.param({"activity": {"field_id": "act::o"}, "contact": {"id": "p1"}}, id="contact.id"),
        pytest.param({"activity": {"field_id": "act::o"}, "contact_id": "p1"}, id="journey with activity"),
        pytest.param({"field_id": "act::o", "attr": {}, "id": "a", "person_id": "p1"}, id="the activity itself"),
        pytest.param({"campaign_id": "c", "contact_id": "p1", "event": "opened"}, id="journey"),
        pytest.param({"action_id": "7", "contact_id": "p1", "event": "opened"}, id="playbook"),
        pytest.param({"type": "opened", "person": {"id": "p1"}}, id="dynamic, person.id"),
        pytest.param({"type": "opened", "person": {"fields": {"str::person_id": {"v": "p1"}}}}, id="its field"),
        pytest.param({"type": "opened", "person_id": "p1", "email": "{{ people.email }}"}, id="dynamic, flat"),
    ],
)
def test_a_person_known_by_id_only_keeps_it(body: dict[str, Any]) -> None:
    (found,) = read_object(body).events
    (again,) = read_object({**body, "anything": "else"}).events
    assert found.data.person_id == "p1"  # type: ignore[union-attr]
    assert found.order_key == again.order_key == "ortto:person:p1"


@pytest.mark.parametrize("context", ["str::u-ctx", "str::s-ctx"])
@pytest.mark.parametrize(
    ("words", "ours"), [("Kommo Relay: from Encharge", True), ("Unsubscribed in Kommo", False)]
)
def test_a_change_of_consent_is_ours_by_its_context(context: str, words: str, ours: bool) -> None:
    field_id = "act::u-all" if context == "str::u-ctx" else "act::s-all"
    body = {
        "activity": {"field_id": field_id, "attr": {"str::is": "API", context: words}},
        "contact": {"email": ANN},
    }
    reading = read_object(body)
    assert (bool(reading.ignored), bool(reading.events)) == (ours, not ours)


@pytest.mark.parametrize(
    "body",
    [
        {"activity": {"field_id": "act::c", "attr": {"str::ct": "sms"}}, "contact": {"email": ANN}},
        {"type": "clicked", "channel": "SMS", "person": {"email": ANN}},
        {"type": "sms.clicked", "person": {"email": ANN}},
    ],
)
def test_what_is_done_with_an_sms_is_no_email_activity(body: dict[str, Any]) -> None:
    assert [found.kind for found in read_object(body).events] == [Kind.OTHER]


def test_an_id_whose_merge_tags_were_empty_tells_no_events_apart() -> None:
    for event_id in ("--", "{{a}}-{{b}}", "c-{{b}}"):
        (found,) = read_object({"type": "opened", "person": {"email": ANN}, "event_id": event_id}).events
        assert found.dedupe_key is None


def test_an_id_typed_as_a_constant_does_not_join_two_people() -> None:
    first, second = (
        read_object({"type": "opened", "person": {"email": email}, "event_id": "1"}).events[0].dedupe_key
        for email in ("a@b.c", "d@e.f")
    )
    assert (first, second) == ("ortto:event:opened:a@b.c:1", "ortto:event:opened:d@e.f:1")


@pytest.mark.parametrize(
    ("field_id", "kind"),
    [
        ("act::o", Kind.EMAIL_OPENED),
        ("act::c", Kind.EMAIL_CLICKED),
        ("act::u-all", Kind.UNSUBSCRIBED),
        ("act::u-a", Kind.UNSUBSCRIBED),
        ("act::s-all", Kind.RESUBSCRIBED),
        ("act::b", Kind.BOUNCED),
        ("act::lj", Kind.JOURNEY_COMPLETED),
        ("act::oos-all", Kind.OTHER),
        ("act::ej", Kind.OTHER),
        ("act:cm:demo-booked", Kind.OTHER),
        ("act::", Kind.OTHER),
    ],
)
def test_an_activitys_id_says_its_kind(field_id: str, kind: Kind) -> None:
    (found,) = read_object({"activity": {"field_id": field_id}}).events
    assert (found.kind, found.data.name) == (kind, field_id)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("email.opened", Kind.EMAIL_OPENED),
        ("email.clicked", Kind.EMAIL_CLICKED),
        ("email.link_clicked", Kind.EMAIL_CLICKED),
        ("Person.Unsubscribed", Kind.UNSUBSCRIBED),
        ("person.resubscribed", Kind.RESUBSCRIBED),
        ("email.bounced", Kind.BOUNCED),
        ("journey.completed", Kind.JOURNEY_COMPLETED),
        ("journey.started", Kind.OTHER),
    ],
)
def test_a_type_says_its_kind(name: str, kind: Kind) -> None:
    (found,) = read_object({"type": name, "person": {}}).events
    assert found.kind == kind


@pytest.mark.parametrize(
    "holder",
    [
        pytest.param(lambda value: {"person": {"fields": value}}, id="person.fields"),
        pytest.param(lambda value: {"person": value}, id="person"),
        pytest.param(lambda value: {"person": {}, "contact": value}, id="contact"),
        pytest.param(lambda value: {"person": {}, **value}, id="top level"),
    ],
)
@pytest.mark.parametrize(
    "name",
    ["str:cm:kommo-lead-id", "int:cm:kommo-lead-id", "str::kommo_lead_id", "kommo_lead_id", "kommo-lead-id"],
)
@pytest.mark.parametrize("value", ["7351", 7351, {"v": "7351"}, {"v": 7351}], ids=repr)
def test_the_deal_is_found_wherever_it_stands(holder: Any, name: str, value: object) -> None:
    (found,) = read_object({"type": "email.opened", **holder({name: value})}).events
    assert (found.data.lead_id, found.order_key) == (7351, "lead:7351")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "machine"),
    [(True, True), ("true", True), (1, True), ({"v": True}, True), (False, False), ("false", False), (None, False)],
    ids=repr,
)
def test_a_machines_open_is_marked(value: object, machine: bool) -> None:
    (found,) = read_object({"activity": {"field_id": "act::o", "attr": {"bol::m": value}}}).events
    assert found.data.machine is machine  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("attributes", "campaign"),
    [
        ({"str::s": "Subject", "str::asn": "Email", "str::cn": "Campaign"}, "Subject"),
        ({"str::asn": "Email", "str::cn": "Campaign"}, "Email"),
        ({"str::s": "", "str::cn": "Campaign"}, "Campaign"),
        ({}, "Journey"),
        ({"str::s": 5.5, "str::asn": []}, "Journey"),
    ],
)
def test_the_campaign_is_the_nearest_to_the_emails_subject(attributes: dict[str, Any], campaign: str) -> None:
    body = {"activity": {"field_id": "act::o", "attr": attributes}, "campaign_name": "Journey"}
    (found,) = read_object(body).events
    assert found.data.campaign == campaign  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("body", "dedupe_key"),
    [
        pytest.param(
            {"activity": {"field_id": "act::o", "id": "a"}, "webhook_id": "w"}, "ortto:activity:w:a", id="activity"
        ),
        pytest.param({"activity": {"field_id": "act::o"}, "webhook_id": "w"}, None, id="activity without id"),
        pytest.param({"type": "opened", "person": {}, "event_id": 7}, "ortto:event:opened::7", id="dynamic"),
        pytest.param({"type": "opened", "person": {}}, None, id="dynamic without id"),
        pytest.param(
            {"campaign_id": "c", "contact_id": "p", "run_id": "r", "action_id": "2", "event": "opened"},
            "ortto:run:c:p:r:2",
            id="playbook",
        ),
        pytest.param(
            {"run_id": "r", "email": "a@b.c", "shape_id": 4, "event": "opened"},
            "ortto:run::a@b.c:r:4",
            id="journey without campaign and contact",
        ),
        pytest.param({"campaign_id": "c", "contact_id": "p", "event": "opened"}, None, id="journey without run"),
    ],
)
def test_a_redelivery_is_known_by_what_the_body_offers(body: dict[str, Any], dedupe_key: str | None) -> None:
    (found,) = read_object(body).events
    assert (found.dedupe_key, found.repeat is None) == (dedupe_key, dedupe_key is not None)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"type": "opened", "person": None}, id="person null"),
        pytest.param({"type": "opened", "person": [], "contact": 1, "email": True}, id="other types"),
        pytest.param({"type": {"v": "opened"}, "person": {"fields": "x"}}, id="fields that are text"),
        pytest.param({"type": "opened", "person": {"fields": {"str::email": ["a@b.c"]}}}, id="a list of addresses"),
    ],
)
def test_an_activity_of_nobody_is_kept_in_order_by_its_body(body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    order_key = f"ortto:person:{sha256(raw).hexdigest()}"
    assert read(raw) == Reading((event(Kind.EMAIL_OPENED, EmailActivity(name="opened"), order_key, body=raw),))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param("", "The body is empty.", id="empty"),
        pytest.param("a=1", "The body is not JSON: Expecting value (line 1, column 1).", id="a form"),
        pytest.param("[]", "The body must be a JSON object and is a list.", id="a list"),
        pytest.param("null", "The body must be a JSON object and is null.", id="null"),
        pytest.param("{}", NO_SHAPE, id="an empty object"),
        pytest.param('{"activity": "act::o"}', NO_SHAPE, id="text for an activity"),
        pytest.param('{"activity": {"field_id": null}}', NO_SHAPE, id="an activity without an id"),
        pytest.param('{"type": "email.opened"}', NO_SHAPE, id="a type and no person"),
        pytest.param('{"person": {}}', NO_SHAPE, id="a person and no type"),
        pytest.param('{"campaign_id": "c"}', NO_SHAPE, id="a campaign and no contact"),
        pytest.param(b"\xff", "The body is not UTF-8 (see its byte 0): send it as UTF-8.", id="not UTF-8"),
        pytest.param('{"a":' * 100_000, "The body is nested too deep.", id="nested deep"),
    ],
)
def test_a_body_that_ortto_does_not_send_is_refused(body: bytes | str, message: str) -> None:
    with pytest.raises(BodyError) as caught:
        read(body)
    assert str(caught.value) == message
