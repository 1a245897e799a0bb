"""The whole way: every captured webhook in, what arrives at the vendors out. Over real sockets to the vendors."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from support import (
    FORM,
    JSON,
    PROPOSAL_SENT,
    SECRET,
    Service,
    add_deals,
    arrived,
    environment,
    eventually,
    in_the_end,
    rows,
    stage_hook,
)

from app import EXTENSION, create_app, settings
from sandbox.town import Town

FIXTURES = Path(__file__).parent / "fixtures"
OTHER_SECRET = "the-next-secret-0123456789"


class Now:
    """Equal to a time of these minutes, whenever it is looked at."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float | int) and abs(other - time.time()) < 600

    __hash__ = None  # type: ignore[assignment]


NOW = Now()  # what has no time of its own is dated when it came
MARTA, TOMAS, JONAS, ANN, BO, CHI = 40_518_833, 39_900_417, 40_518_834, 7_351, 7_420, 7_498
TOMAS_CONTACT, BO_CONTACT, ZOE_CONTACT = 52_300_032, 52_300_035, 52_300_021


@pytest.fixture
def env(town: Town, tmp_path: Path, database_url: str) -> dict[str, str]:
    """The whole way holds on both databases."""
    return {**environment(town, tmp_path), "DATABASE_URL": database_url}


# -- what arrives ------------------------------------------------------------------------------------------------


def zoe_enters(
    lead_id: int, stage: str, label: str, value: int, created: object, *, is_in: tuple[str, str] | None = None
) -> dict[str, Any]:
    """Return what a stage change of one of Zoë's deals brings; `is_in`: where the deal is by now, if elsewhere."""
    person_stage, person_label = is_in or (stage, label)
    person = {
        "email": "zoe@example.com",
        "firstName": "Zoë",
        "lastName": "Example",
        "kommo_lead_id": str(lead_id),
        "kommo_current_stage": person_stage,
        "jobTitle": "Owner",
        "companySize": "12",
        "industry": "Food",
    }
    event = {"lead_id": str(lead_id), "stage": stage, "pipeline_id": 7_100_010, "deal_value": value}
    fields = {
        "str::email": "zoe@example.com",
        "str::first": "Zoë",
        "str::last": "Example",
        "str:cm:kommo-lead-id": str(lead_id),
        "str:cm:kommo-stage": person_label,
        "str:cm:job-title": "Owner",
        "int:cm:company-size": 12,
        "str:cm:industry": "Food",
    }
    activity = {
        "activity_id": "act:cm:crm-stage-changed",
        "email": "zoe@example.com",
        "attributes": {
            "str:cm:lead-id": str(lead_id),
            "str:cm:stage": label,
            "int:cm:deal-value": value * 1000,
        },
        "created_at": created,
    }
    return {
        "encharge_people": [person],
        "encharge_events": [
            {"name": f"deal_moved_to_{stage}", "email": "zoe@example.com", "properties": event},
        ],
        "ortto_people": [fields],
        "ortto_activities": [activity],
    }


def task_and_note(lead_id: int, who: str, did: str, campaign: str, link: str = "") -> dict[str, Any]:
    """Return the task for the deal's owner, due in two hours, and the note that an Encharge mail brings."""
    text = f"Encharge: {who} {did} in '{campaign}'. Follow up within 1–2 hours, while it is fresh."
    task = {
        "entity_id": lead_id,
        "responsible_user_id": 9_200_001,
        "task_type_id": 1,
        "text": text,
        "due_in": pytest.approx(7200, abs=60),
    }
    return {"tasks": [task], **note(lead_id, f"Encharge: {who} {did}: '{campaign}'{link and ' ' + link}")}


def note(lead_id: int, text: str) -> dict[str, Any]:
    return {"notes": [{"entity_id": lead_id, "text": text}]}


def note_and_field(lead_id: int, text: str, value: str) -> dict[str, Any]:
    return {**note(lead_id, text), "fields": {lead_id: {"Last email activity": value}}}


def unsubscribed(lead_id: int, contact_id: int) -> dict[str, Any]:
    return {"fields": {lead_id: {"Email status": "Unsubscribed"}}, "tags": {contact_id: ["Email Unsubscribed"]}}


# -- the table ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """How one body is answered (always with 200), event by event, and what arrives."""

    status: str
    events: list[tuple[str | None, str, str]]  # kind, status, reason
    arrives: dict[str, Any] = field(default_factory=dict)


def delivered(kind: str, arrives: dict[str, Any]) -> Case:
    return Case("delivered", [(kind, "delivered", "")], arrives)


def ignored(*events: tuple[str | None, str, str]) -> Case:
    return Case("ignored", list(events))


def nobody(platform: str = "Encharge") -> str:
    return f"no email address: {platform} tells none for this person, or its API key is not set"


def foreign(kind: str, count: int = 1) -> tuple[str, str, str]:
    return kind, "ignored", f"{count} of them; only leads.status and leads.add are carried on"


UNMAPPED = ("stage_changed", "ignored", "stage 61000101 of pipeline 7100010 is not in the mapping")
NO_DEAL = "no active deal: neither the deal it names nor a contact with this email has one"
NO_NAME = "it does not say what happened: add ?event=email.opened, or what it is sent for, to its URL"
ENCHARGES_ECHO = ("updatedUser", "ignored", "a change made through Encharge's API, such as our own")
OUR_CONSENT = "a change of consent that this service made"
DELETED = ("stage_changed", "skipped", "deal 41500013 is gone")
MARTA_IS = "Marta Keller (marta.keller@northbay-logistics.example)"
ANN_IS = "Ann Keller (ann.keller@example.test)"
MAY = "Proposal follow-up - May"
QUALIFIED_AT = 1_767_607_800.0
WON_AT = 1_767_607_900.0
ZOE_QUALIFIED = zoe_enters(41_500_011, "qualified", "Qualification", 1500, QUALIFIED_AT)

CASES = {
    "kommo/contact_update.form": ignored(foreign("contacts.update")),
    "kommo/dp_lead_add.form": ignored(UNMAPPED),
    "kommo/dp_lead_status.form": delivered(
        "stage_changed",
        zoe_enters(41_500_011, "proposal_sent", "Proposal sent", 1500, NOW, is_in=("qualified", "Qualification")),
    ),
    "kommo/lead_add.form": ignored(UNMAPPED),
    "kommo/lead_delete.form": ignored(foreign("leads.delete")),
    "kommo/lead_note.form": ignored(foreign("leads.note")),
    "kommo/lead_status_and_contact_update.form": ignored(
        UNMAPPED,
        ("stage_changed", "skipped", "deal 41500017 is gone"),
        foreign("leads.update", 2),
        foreign("contacts.update"),
    ),
    "kommo/lead_status_awkward_values.form": ignored(("stage_changed", "skipped", "deal 41500016 is gone")),
    "kommo/lead_status_indexed.json": Case(
        "delivered",
        [("stage_changed", "delivered", ""), DELETED],
        zoe_enters(41_500_012, "won", "Won", 12_000, NOW),
    ),
    "kommo/lead_status_list.json": delivered("stage_changed", ZOE_QUALIFIED),
    "kommo/lead_status_settings.form": delivered("stage_changed", ZOE_QUALIFIED),
    "kommo/lead_status_two_leads.form": Case(
        "delivered",
        [("stage_changed", "delivered", ""), DELETED],
        zoe_enters(41_500_012, "won", "Won", 12_000, WON_AT),
    ),
    "kommo/lead_update_account_last.form": ignored(foreign("leads.update")),
    "kommo/task_update_completed.form": ignored(foreign("task.update")),
    "encharge/article_email_link_clicked.json": ignored(
        ("email_clicked", "ignored", "not the first event of its kind")
    ),
    "encharge/article_email_opened.json": delivered(
        "email_opened", task_and_note(MARTA, MARTA_IS, "opened an email", MAY)
    ),
    "encharge/article_user_unsubscribed.json": delivered("unsubscribed", unsubscribed(TOMAS, TOMAS_CONTACT)),
    "encharge/flowstep_awkward_values.json": ignored(
        ("email_clicked", "ignored", "not the first event of its kind")
    ),
    "encharge/flowstep_email_opened.json": delivered(
        "email_opened", task_and_note(MARTA, MARTA_IS, "opened an email", MAY)
    ),
    "encharge/flowstep_event_id.json": delivered(
        "email_opened", task_and_note(MARTA, MARTA_IS, "opened an email", "Pricing 2026")
    ),
    "encharge/flowstep_link_clicked.form": delivered(
        "email_clicked",
        task_and_note(
            JONAS,
            "Jonas Weir (jonas+demo@plainfieldtools.example)",
            "clicked a link",
            "Demo & pricing + 🚀",
            "https://plainfieldtools.example/demo?a=1&b=2",
        ),
    ),
    "encharge/flowstep_link_clicked_unresolved_tags.json": delivered(
        "email_clicked",
        task_and_note(
            JONAS, "Jonas Weir (jonas.weir@plainfieldtools.example)", "clicked a link", "Demo invitation"
        ),
    ),
    "encharge/flowstep_list.json": ignored(
        ("email_opened", "ignored", "no rule is for email_opened from encharge"),
        ("bounced", "skipped", NO_DEAL),
        (None, "ignored", "[2]: The body must be an object and is 'nonsense'."),
    ),
    "encharge/flowstep_other_spellings.json": delivered(
        "email_clicked",
        task_and_note(MARTA, MARTA_IS, "clicked a link", "Pricing 2026", "https://example.test/pricing"),
    ),
    "encharge/flowstep_subject_only.json": delivered(
        "email_opened", task_and_note(MARTA, MARTA_IS, "opened an email", "Your proposal")
    ),
    "encharge/stream_email_opened.json": delivered(
        "email_opened", task_and_note(MARTA, MARTA_IS, "opened an email", "Proposal follow-up")
    ),
    "encharge/stream_page_visited.json": ignored(("other", "ignored", "'page-visited' is not an event we act on")),
    "encharge/stream_sms_sent.json": ignored(("other", "ignored", "'sms-sent' is not an event we act on")),
    "encharge/stream_updatedUser_of_our_own.json": ignored(ENCHARGES_ECHO),
    "encharge/stream_updatedUser_resubscribed.json": ignored(("resubscribed", "skipped", NO_DEAL)),
    "encharge/stream_unsubscribedUser.json": delivered("unsubscribed", unsubscribed(TOMAS, TOMAS_CONTACT)),
    "encharge/subscription_added_tag_id_only.json": ignored(("email_clicked", "skipped", nobody())),
    "encharge/subscription_removed_tag_id_only.json": ignored(
        ("other", "ignored", "'removed-tag-kommo-demo' is not an event we act on")
    ),
    "encharge/subscription_unsubscribedUser.json": delivered("unsubscribed", unsubscribed(TOMAS, TOMAS_CONTACT)),
    "encharge/subscription_updatedUser.json": ignored(ENCHARGES_ECHO),
    "encharge/subscription_updatedUser_unsubscribed_by_api.json": delivered(
        "unsubscribed", unsubscribed(TOMAS, TOMAS_CONTACT)
    ),
    "encharge/subscription_without_event_type.json": ignored(("resubscribed", "skipped", nobody())),
    "encharge/subscription_updatedUser_resubscribed.json": delivered(
        "resubscribed", {"fields": {TOMAS: {"Email status": "Subscribed"}}}
    ),
    "ortto/01-article-email-opened.json": delivered(
        "email_opened",
        note_and_field(
            ANN, f"Ortto: {ANN_IS} opened an email: 'Your offer is ready'", "email_opened: Your offer is ready"
        ),
    ),
    "ortto/02-article-person-unsubscribed.json": delivered("unsubscribed", unsubscribed(BO, BO_CONTACT)),
    "ortto/03-article-dynamic-template-link-clicked.json": delivered(
        "email_clicked",
        note_and_field(
            ANN,
            f"Ortto: {ANN_IS} clicked a link: 'Your offer is ready' "
            "https://shop.example.test/offer?utm_source=ortto",
            "email_clicked: Your offer is ready",
        ),
    ),
    "ortto/04-activity-email-clicked.json": delivered(
        "email_clicked",
        note_and_field(
            ANN,
            f"Ortto: {ANN_IS} clicked a link: 'Your offer is ready' https://shop.example.test/offer",
            "email_clicked: Your offer is ready",
        ),
    ),
    "ortto/05-activity-unsubscribed-all.json": delivered("unsubscribed", unsubscribed(BO, BO_CONTACT)),
    "ortto/06-activity-test-event.json": ignored(("act::test_webhook", "ignored", "Ortto's test event")),
    "ortto/07-journey-send-to-webhook.json": ignored(("Opened offer -> CRM", "ignored", NO_NAME)),
    "ortto/08-journey-with-activity-and-fields.json": delivered(
        "journey_completed",
        note(CHI, "Ortto: Chi Mori (chi.mori@example.test) completed a journey: 'Welcome series'"),
    ),
    "ortto/09-playbook-action.json": ignored(("Bounced -> CRM", "ignored", NO_NAME)),
    "ortto/10-activity-machine-open.json": ignored(("email_opened", "ignored", "opened or clicked by a machine")),
    "ortto/11-activity-of-our-own.json": ignored(
        ("act:cm:crm-stage-changed", "ignored", "an activity that this service writes")
    ),
    "ortto/12-article-journey-completed.json": delivered(
        "journey_completed",
        note(CHI, "Ortto: Chi Mori (chi.mori@example.test) completed a journey: 'Welcome series'"),
    ),
    "ortto/13-awkward-values.json": ignored(("email_clicked", "skipped", NO_DEAL)),
    "ortto/14-dynamic-flat.json": ignored(("email_clicked", "ignored", "opened or clicked by a machine")),
    "ortto/15-activity-left-audience.json": delivered("unsubscribed", unsubscribed(BO, BO_CONTACT)),
    "ortto/16-activity-unsubscribed-by-us.json": ignored(("act::u-all", "ignored", OUR_CONSENT)),
    "ortto/17-activity-resubscribed-by-us.json": ignored(("act::s-all", "ignored", OUR_CONSENT)),
    "ortto/18-activity-skewed-values.json": delivered(
        "email_clicked",
        note_and_field(
            ANN,
            f"Ortto: {ANN_IS} clicked a link: 'Your offer' https://shop.example.test/offer",
            "email_clicked: Your offer",
        ),
    ),
    "ortto/19-activity-unsubscribed-from-sms.json": ignored(
        ("other", "ignored", "'act::oos-all' is not an event we act on")
    ),
    "ortto/20-activity-by-id-only.json": ignored(("email_opened", "skipped", nobody("Ortto"))),
}

# Told already by another file of the table: the same move, or the same activity.
REPEATS = {"kommo/lead_status_settings.form", "kommo/lead_status_two_leads.form"}


def captured(name: str) -> tuple[str, bytes, str]:
    """Return a fixture's route, body and content type as its vendor sends it."""
    vendor, file = name.split("/")
    return vendor, (FIXTURES / vendor / "hooks" / file).read_bytes(), FORM if file.endswith(".form") else JSON


def test_the_table_has_every_captured_body() -> None:
    assert set(CASES) == {f"{path.parts[-3]}/{path.name}" for path in FIXTURES.glob("*/hooks/*")}


@pytest.mark.parametrize("name", CASES)
def test_a_captured_webhook_is_answered_and_arrives(name: str, client: FlaskClient, town: Town) -> None:
    vendor, body, content_type = captured(name)

    answer = client.post(f"/webhooks/{vendor}", data=body, content_type=content_type)

    entries = [(entry["kind"], entry["status"], entry["reason"]) for entry in answer.json["events"]]
    case = CASES[name]
    assert (answer.status_code, answer.json["status"], entries) == (200, case.status, case.events)
    assert arrived(town) == case.arrives


def test_every_captured_webhook_is_answered_so_under_gunicorn(
    start_service: Callable[..., Service], town: Town
) -> None:
    town.kommo.switch(rate=0)
    service = start_service(KOMMO_RATE_LIMIT="50")

    answers = {name: in_the_end(service, service.post(*captured(name))) for name in sorted(CASES)}

    assert {name: answer["status"] for name, answer in answers.items()} == {
        name: "duplicate" if name in REPEATS else case.status for name, case in CASES.items()
    }


def test_the_answer_waits_for_the_work_and_says_that_it_is_done(service: Service, town: Town) -> None:
    """On a busy machine not every time; but if it never waited, then never."""
    deals = iter(add_deals(town, 200))

    eventually(lambda: service.post("kommo", stage_hook(next(deals)), FORM).json()["status"] == "delivered")


# -- what a fixture cannot show ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "event", "arrives"),
    [
        pytest.param(
            "ortto/07-journey-send-to-webhook.json",
            "email.opened",
            note_and_field(
                ANN, f"Ortto: {ANN_IS} opened an email: 'Opened offer -> CRM'", "email_opened: Opened offer -> CRM"
            ),
            id="a journey",
        ),
        pytest.param(
            "ortto/09-playbook-action.json",
            "bounced",
            note(ANN, f"Ortto: {ANN_IS} did not get an email (it bounced): 'Bounced -> CRM'"),
            id="a playbook",
        ),
    ],
)
def test_the_url_names_the_event_of_a_body_that_names_none(
    name: str, event: str, arrives: dict[str, Any], client: FlaskClient, town: Town
) -> None:
    _, body, content_type = captured(name)

    answer = client.post(f"/webhooks/ortto?event={event}", data=body, content_type=content_type)

    assert answer.json["status"] == "delivered"
    assert arrived(town) == arrives


def test_tags_are_added_and_taken_off_beside_those_of_others(client: FlaskClient, town: Town) -> None:
    def tell(event: str) -> list[str]:
        answer = client.post("/webhooks/encharge", json={"event": event, "email": "zoe@example.com"})
        assert answer.json["status"] == "delivered"
        contact = town.kommo.state()["contacts"][str(ZOE_CONTACT)]
        return [tag["name"] for tag in contact["_embedded"]["tags"]]

    assert tell("user_unsubscribed") == ["vip", "Email Unsubscribed"]
    assert tell("resubscribed") == ["vip"]


def test_the_person_gets_the_stage_of_now_and_the_event_the_stage_of_the_webhook(
    client: FlaskClient, town: Town
) -> None:
    """The webhook of a move comes when the deal is two stages further."""
    town.kommo.move(41_500_011, 61_000_104)
    at = int(time.time())

    client.post("/webhooks/kommo", data=stage_hook(41_500_011, status=PROPOSAL_SENT, at=at), content_type=FORM)

    moved_on = ("negotiation", "Negotiation")
    assert arrived(town) == zoe_enters(41_500_011, "proposal_sent", "Proposal sent", 1500, at, is_in=moved_on)


def test_one_webhook_reads_many_deals_in_two_calls(client: FlaskClient, town: Town) -> None:
    deals = [
        town.kommo.add_deal("Deal", 61_000_102, contact_ids=[town.kommo.add_contact(f"P {n}", [f"p{n}@a.example"])])
        for n in range(60)
    ]

    answer = client.post("/webhooks/kommo", data=stage_hook(*deals), content_type=FORM)

    assert answer.json["status"] == "delivered"
    calls = {name: [(call.method, call.path) for call in vendor.calls] for name, vendor in town.vendors.items()}
    assert {**calls, "ingest": len(calls["ingest"])} == {
        "kommo": [("GET", "/api/v4/leads"), ("GET", "/api/v4/contacts")],
        "encharge": [],  # the events carry their persons
        "ingest": 60,
        "ortto": [("POST", "/v1/activities/create")],
    }


def test_what_the_service_writes_comes_back_and_starts_nothing(
    start_service: Callable[..., Service], town: Town
) -> None:
    """Every hook that Kommo has, and Encharge's of a changed person, are sent to the service."""
    service = start_service(REPLY_BUDGET_SECONDS="0")
    service.connect(town)
    every = [f"{action}_{entity}" for entity in ("lead", "contact") for action in ("add", "update", "note")]
    town.kommo.hook(f"{service.url}/webhooks/kommo/{SECRET}", [*every, "status_lead", "add_task", "update_task"])
    town.encharge.subscribe("updatedUser", f"{service.url}/webhooks/encharge?secret={SECRET}")
    town.kommo.move(MARTA, 61_000_104)
    eventually(lambda: len(town.ortto.state()["activities"]) == 1)
    town.kommo.move(MARTA, 61_000_103)
    eventually(lambda: len(town.ortto.state()["activities"]) == 2)

    town.ortto.act("marta.keller@northbay-logistics.example", "unsubscribed", shape="activity")
    town.encharge.act("marta.keller@northbay-logistics.example", "clicked")
    expected = {"status_lead", "add_task", "note_lead", "update_contact", "updatedUser"}
    eventually(lambda: expected <= {delivery.kind for delivery in list(town.courier.deliveries)})
    eventually(lambda: not rows(service.variables, "SELECT 1 FROM jobs WHERE state = 'pending'"))
    assert town.courier.wait()

    # 0 is an answer that took more than Kommo's 2 seconds, on a busy machine.
    assert {delivery.status for delivery in town.courier.deliveries} - {0} == {200}
    found = arrived(town)
    assert {name: len(what) for name, what in found.items()} == {
        "encharge_people": 1,
        "encharge_events": 2,
        "ortto_people": 1,
        "ortto_activities": 2,
        "tasks": 1,
        "notes": 1,
        "fields": 1,
        "tags": 1,
    }


# -- who gets in -------------------------------------------------------------------------------------------------

BODY = (FIXTURES / "kommo" / "hooks" / "lead_note.form").read_bytes()


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        pytest.param("/webhooks/kommo", {"X-Webhook-Secret": SECRET}, id="header"),
        pytest.param("/webhooks/kommo", {"Authorization": f"Bearer {SECRET}"}, id="bearer"),
        pytest.param("/webhooks/kommo", {"auth": ("anybody", SECRET)}, id="basic"),
        pytest.param(f"/webhooks/kommo?secret={SECRET}", {}, id="query"),
        pytest.param(f"/webhooks/kommo/{SECRET}", {}, id="path"),
        pytest.param("/webhooks/kommo/stage", {"X-Webhook-Secret": SECRET}, id="alias"),
        pytest.param(f"/webhooks/kommo/stage/{SECRET}", {}, id="alias and path"),
        pytest.param(f"/webhooks/kommo/{OTHER_SECRET}", {}, id="the second of two"),
    ],
)
def test_the_secret_may_come_in_any_place(path: str, headers: dict[str, Any], env: dict[str, str]) -> None:
    app = create_app(settings.load({**env, "KOMMO_WEBHOOK_SECRET": f"{SECRET},{OTHER_SECRET}"}))
    auth = headers.pop("auth", None) if (headers := dict(headers)) else None

    answer = app.test_client().post(path, data=BODY, content_type=FORM, headers=headers, auth=auth)

    app.extensions[EXTENSION].close()
    assert (answer.status_code, answer.json["status"]) == (200, "ignored")


REFUSAL = (
    "The webhook's secret is missing or wrong: send it as X-Webhook-Secret, as Authorization, "
    "as ?secret= or as the last part of the path."
)


@pytest.mark.parametrize("route", ["kommo", "kommo/stage", "encharge", "ortto"])
@pytest.mark.parametrize(
    ("more", "headers"),
    [
        pytest.param("", {}, id="none"),
        pytest.param("", {"X-Webhook-Secret": ""}, id="an empty one"),
        pytest.param("", {"X-Webhook-Secret": SECRET[:-1]}, id="a part of it"),
        pytest.param("", {"X-Webhook-Secret": f"{SECRET},{OTHER_SECRET}"}, id="the setting as it stands"),
        pytest.param("?secret=" + SECRET.upper(), {}, id="in capitals"),
        pytest.param("/" + OTHER_SECRET, {}, id="one of another time"),
        pytest.param("", {"Authorization": "Basic bm9uZQ=="}, id="half a basic"),
        pytest.param("?secret=п%D1%80ивет", {}, id="not ASCII"),
    ],
)
def test_nobody_gets_in_without_it(route: str, more: str, headers: dict[str, str], client: FlaskClient) -> None:
    del client.environ_base["HTTP_X_WEBHOOK_SECRET"]

    answer = client.post(f"/webhooks/{route}{more}", data=b"not even read", headers=headers)

    assert (answer.status_code, answer.json) == (401, {"error": REFUSAL})


@pytest.mark.parametrize("vendor", ["encharge", "ortto"])
def test_a_vendor_that_is_off_has_no_route(vendor: str, env: dict[str, str]) -> None:
    ours = {name: value for name, value in env.items() if not name.startswith(vendor.upper())}
    app = create_app(settings.load(ours))

    answer = app.test_client().post(f"/webhooks/{vendor}", data=b"{}", headers={"X-Webhook-Secret": SECRET})

    app.extensions[EXTENSION].close()
    variable = f"{vendor.upper()}_WEBHOOK_SECRET"
    assert (answer.status_code, answer.json) == (404, {"error": f"This route is off: set {variable} to use it."})
