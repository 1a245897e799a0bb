"""What Encharge's webhooks are read as: every shape, and bodies that nobody should send."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from app.events import EmailActivity, Event, Ignored, Kind, Reading, Repeat, Source, Webhook
from app.webhooks import encharge
from app.webhooks.bodies import BodyError

HOOKS = Path(__file__).parent.parent / "fixtures/encharge/hooks"
NOW = 1_779_300_000.0
JSON, FORM = "application/json", "application/x-www-form-urlencoded"
MARTA, MARTA_ID = "marta.keller@northbay-logistics.example", "3b0c1f52-7d0e-4a7e-9c55-0f6b2d84a911"
TOMAS, TOMAS_ID = "tomas.ibarra@cedarworks.example", "d1f7a2b0-6c43-4e19-b7d8-92ab40c3e57f"
JONAS_ID = "a94e6d3c-21b8-47f1-8e0a-5c7790d1f6be"
ECHO = Ignored("updatedUser", "a change made through Encharge's API, such as our own")
NO_EVENT = (
    "The body names no event: send 'event' with email_opened, email_link_clicked or user_unsubscribed in it, "
    "or add ?event=email_opened to the webhook's URL."
)


def load(name: str) -> bytes:
    return (HOOKS / name).read_bytes()


def event(
    kind: Kind,
    activity: EmailActivity,
    order_key: str,
    *,
    body: bytes = b"",
    index: str = "",
    dedupe_key: str | None = None,
    at: float | None = None,
) -> Event:
    digest = sha256(body).hexdigest() + index
    return Event(
        source=Source.ENCHARGE,
        kind=kind,
        data=activity,
        order_key=order_key,
        dedupe_key=dedupe_key,
        occurred_at=at,
        repeat=None if dedupe_key else Repeat(f"encharge:{activity.name}:{digest}", digest, 300),
        received_at=NOW,
    )


def read(body: bytes | str, content_type: str = JSON, event: str | None = None) -> Reading:
    body = body.encode() if isinstance(body, str) else body
    return encharge.read(Webhook(Source.ENCHARGE, content_type, body), now=NOW, event=event)


def read_object(body: object, event: str | None = None) -> Reading:
    return read(json.dumps(body), event=event)


FIXTURES = {
    "article_email_link_clicked.json": Reading(
        (
            event(
                Kind.EMAIL_CLICKED,
                EmailActivity(
                    email=MARTA, campaign="Proposal follow-up - May", first=False, name="email_link_clicked"
                ),
                f"email:{MARTA}",
                body=load("article_email_link_clicked.json"),
            ),
        )
    ),
    "article_email_opened.json": Reading(
        (
            event(
                Kind.EMAIL_OPENED,
                EmailActivity(email=MARTA, campaign="Proposal follow-up - May", first=True, name="email_opened"),
                f"email:{MARTA}",
                body=load("article_email_opened.json"),
            ),
        )
    ),
    "article_user_unsubscribed.json": Reading(
        (
            event(
                Kind.UNSUBSCRIBED,
                EmailActivity(email=TOMAS, campaign="Product news 14", first=True, name="user_unsubscribed"),
                f"email:{TOMAS}",
                body=load("article_user_unsubscribed.json"),
            ),
        )
    ),
    "flowstep_awkward_values.json": Reading(
        (
            event(
                Kind.EMAIL_CLICKED,
                EmailActivity(
                    email="анна@пример.рф",
                    lead_id=40518835,
                    person_id=JONAS_ID,
                    campaign="R&D + 🚀",
                    subject="R&D + 🚀",
                    link="https://example.test/?a=1&b=2",
                    first=False,
                    name="Email.Link-Clicked",
                ),
                "lead:40518835",
                body=load("flowstep_awkward_values.json"),
                at=1779260400.0,
            ),
        )
    ),
    "flowstep_email_opened.json": Reading(
        (
            event(
                Kind.EMAIL_OPENED,
                EmailActivity(
                    email=MARTA,
                    lead_id=40518833,
                    person_id=MARTA_ID,
                    campaign="Proposal follow-up - May",
                    name="email_opened",
                ),
                "lead:40518833",
                body=load("flowstep_email_opened.json"),
            ),
        )
    ),
    "flowstep_event_id.json": Reading(
        (
            event(
                Kind.EMAIL_OPENED,
                EmailActivity(email=MARTA, person_id=MARTA_ID, campaign="Pricing 2026", name="email_opened"),
                f"email:{MARTA}",
                dedupe_key=f"encharge:email_opened:{MARTA_ID}:7f1c",
            ),
        )
    ),
    "flowstep_link_clicked.form": Reading(
        (
            event(
                Kind.EMAIL_CLICKED,
                EmailActivity(
                    email="jonas+demo@plainfieldtools.example",
                    lead_id=40518834,
                    person_id=JONAS_ID,
                    campaign="Demo & pricing + 🚀",
                    link="https://plainfieldtools.example/demo?a=1&b=2",
                    first=True,
                    name="email_link_clicked",
                ),
                "lead:40518834",
                body=load("flowstep_link_clicked.form"),
            ),
        )
    ),
    "flowstep_link_clicked_unresolved_tags.json": Reading(
        (
            event(
                Kind.EMAIL_CLICKED,
                EmailActivity(
                    email="jonas.weir@plainfieldtools.example",
                    person_id=JONAS_ID,
                    campaign="Demo invitation",
                    name="email_link_clicked",
                ),
                "email:jonas.weir@plainfieldtools.example",
                body=load("flowstep_link_clicked_unresolved_tags.json"),
            ),
        )
    ),
    "flowstep_list.json": Reading(
        (
            event(
                Kind.EMAIL_OPENED,
                EmailActivity(email="a@northbay-logistics.example", name="email_opened"),
                "email:a@northbay-logistics.example",
                body=load("flowstep_list.json"),
                index=":0",
            ),
            event(
                Kind.BOUNCED,
                EmailActivity(email="b@northbay-logistics.example", name="email_bounced"),
                "email:b@northbay-logistics.example",
                body=load("flowstep_list.json"),
                index=":1",
            ),
        ),
        faults=("[2]: The body must be an object and is 'nonsense'.",),
    ),
    "flowstep_other_spellings.json": Reading(
        (
            event(
                Kind.EMAIL_CLICKED,
                EmailActivity(
                    email=MARTA,
                    lead_id=40518833,
                    person_id=MARTA_ID,
                    campaign="Pricing 2026",
                    subject="Hi, our prices",
                    link="https://example.test/pricing",
                    first=True,
                    name="Link clicked",
                ),
                "lead:40518833",
                body=load("flowstep_other_spellings.json"),
            ),
        )
    ),
    "flowstep_subject_only.json": Reading(
        (
            event(
                Kind.EMAIL_OPENED,
                EmailActivity(email=MARTA, campaign="Your proposal", subject="Your proposal", name="email_opened"),
                f"email:{MARTA}",
                body=load("flowstep_subject_only.json"),
            ),
        )
    ),
    "stream_email_opened.json": Reading(
        (
            event(
                Kind.EMAIL_OPENED,
                EmailActivity(
                    email=MARTA,
                    lead_id=40518833,
                    person_id=MARTA_ID,
                    campaign="Proposal follow-up",
                    name="emailOpened",
                ),
                "lead:40518833",
                dedupe_key=f"encharge:emailOpened:{MARTA_ID}:1779260624009:8812",
                at=1779260624.009,
            ),
        )
    ),
    "stream_page_visited.json": Reading(
        (
            event(
                Kind.OTHER,
                EmailActivity(
                    email=TOMAS,
                    person_id=TOMAS_ID,
                    link="https://cedarworks.example/pricing",
                    name="page-visited",
                ),
                f"email:{TOMAS}",
                dedupe_key=f"encharge:page-visited:{TOMAS_ID}:1779260626009:",
                at=1779260626.009,
            ),
        )
    ),
    "stream_sms_sent.json": Reading(
        (
            event(
                Kind.OTHER,
                EmailActivity(email=TOMAS, person_id=TOMAS_ID, name="sms-sent"),
                f"email:{TOMAS}",
                dedupe_key=f"encharge:sms-sent:{TOMAS_ID}:1779260629009:",
                at=1779260629.009,
            ),
        )
    ),
    "stream_unsubscribedUser.json": Reading(
        (
            event(
                Kind.UNSUBSCRIBED,
                EmailActivity(email=TOMAS, person_id=TOMAS_ID, name="unsubscribedUser"),
                f"email:{TOMAS}",
                dedupe_key=f"encharge:unsubscribedUser:{TOMAS_ID}:1779260625009:",
                at=1779260625.009,
            ),
        )
    ),
    "stream_updatedUser_of_our_own.json": Reading(ignored=(ECHO,)),
    "stream_updatedUser_resubscribed.json": Reading(
        (
            event(
                Kind.RESUBSCRIBED,
                EmailActivity(email="ivo.brand@cedarworks.example", person_id=TOMAS_ID, name="updatedUser"),
                "email:ivo.brand@cedarworks.example",
                dedupe_key=f"encharge:updatedUser:{TOMAS_ID}:1779260627009:",
                at=1779260627.009,
            ),
        )
    ),
    "subscription_added_tag_id_only.json": Reading(
        (
            event(
                Kind.EMAIL_CLICKED,
                EmailActivity(person_id=JONAS_ID, campaign="clicked", name="added-tag-clicked"),
                f"encharge:person:{JONAS_ID}",
                body=load("subscription_added_tag_id_only.json"),
                index=":0",
            ),
        )
    ),
    "subscription_removed_tag_id_only.json": Reading(
        (
            event(
                Kind.OTHER,
                EmailActivity(person_id=JONAS_ID, campaign="kommo-demo", name="removed-tag-kommo-demo"),
                f"encharge:person:{JONAS_ID}",
                body=load("subscription_removed_tag_id_only.json"),
                index=":0",
            ),
        )
    ),
    "subscription_unsubscribedUser.json": Reading(
        (
            event(
                Kind.UNSUBSCRIBED,
                EmailActivity(email=TOMAS, lead_id=39900417, person_id=TOMAS_ID, name="unsubscribedUser"),
                "lead:39900417",
                body=load("subscription_unsubscribedUser.json"),
                index=":0",
            ),
        )
    ),
    "subscription_updatedUser.json": Reading(ignored=(ECHO,)),
    "subscription_updatedUser_unsubscribed_by_api.json": Reading(
        (
            event(
                Kind.UNSUBSCRIBED,
                EmailActivity(email=TOMAS, lead_id=39900417, person_id=TOMAS_ID, name="updatedUser"),
                "lead:39900417",
                body=load("subscription_updatedUser_unsubscribed_by_api.json"),
                index=":0",
            ),
        )
    ),
    "subscription_without_event_type.json": Reading(
        (
            event(
                Kind.RESUBSCRIBED,
                EmailActivity(person_id=TOMAS_ID, name="updatedUser"),
                f"encharge:person:{TOMAS_ID}",
                body=load("subscription_without_event_type.json"),
                index=":0",
            ),
        )
    ),
    "subscription_updatedUser_resubscribed.json": Reading(
        (
            event(
                Kind.RESUBSCRIBED,
                EmailActivity(email=TOMAS, person_id=TOMAS_ID, name="updatedUser"),
                f"email:{TOMAS}",
                body=load("subscription_updatedUser_resubscribed.json"),
                index=":0",
            ),
        )
    ),
}


def test_every_fixture_has_its_reading() -> None:
    assert sorted(FIXTURES) == sorted(path.name for path in HOOKS.iterdir())


@pytest.mark.parametrize("name", FIXTURES)
def test_a_fixture_is_read(name: str) -> None:
    assert read(load(name), FORM if name.endswith(".form") else JSON) == FIXTURES[name]


@pytest.mark.parametrize("content_type", ["", "text/plain", FORM])
def test_json_is_read_whatever_its_content_type(content_type: str) -> None:
    assert read(load("article_email_opened.json"), content_type) == FIXTURES["article_email_opened.json"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("email_opened", Kind.EMAIL_OPENED),
        ("emailOpened", Kind.EMAIL_OPENED),
        ("email.opened", Kind.EMAIL_OPENED),
        ("EMAIL-OPENED", Kind.EMAIL_OPENED),
        ("opened", Kind.EMAIL_OPENED),
        ("email_link_clicked", Kind.EMAIL_CLICKED),
        ("link_clicked", Kind.EMAIL_CLICKED),
        ("email_clicked", Kind.EMAIL_CLICKED),
        ("clicked", Kind.EMAIL_CLICKED),
        ("unsubscribedUser", Kind.UNSUBSCRIBED),
        ("user_unsubscribed", Kind.UNSUBSCRIBED),
        ("user_resubscribed", Kind.RESUBSCRIBED),
        ("email_bounced", Kind.BOUNCED),
        ("flow_completed", Kind.JOURNEY_COMPLETED),
        ("newUser", Kind.OTHER),
        ("user_subscribed", Kind.OTHER),
        ("added-tag-demo", Kind.OTHER),
        ("événement", Kind.OTHER),
        ("7", Kind.OTHER),
    ],
)
def test_an_events_name_says_its_kind(name: str, kind: Kind) -> None:
    (found,) = read_object({"event": name, "email": MARTA}).events
    assert (found.kind, found.data.name) == (kind, name)  # type: ignore[union-attr]


def test_the_url_names_the_event_that_the_body_does_not() -> None:
    body = json.dumps({"email": MARTA, "event": "{{ event.name }}"})
    activity = EmailActivity(email=MARTA, name="email_opened")
    assert read(body, event="email_opened") == Reading(
        (event(Kind.EMAIL_OPENED, activity, f"email:{MARTA}", body=body.encode()),)
    )


def test_the_bodys_own_name_wins_over_the_urls() -> None:
    assert read(load("article_email_opened.json"), event="clicked") == FIXTURES["article_email_opened.json"]


def test_the_urls_name_wins_over_a_name_that_we_do_not_know() -> None:
    (found,) = read_object({"event": "Newsletter flow", "email": MARTA}, "email_opened").events
    assert (found.kind, found.data.name) == (Kind.EMAIL_OPENED, "email_opened")  # type: ignore[union-attr]


@pytest.mark.parametrize("key", ["event", "eventType", "event_name", "Event", "action", "trigger", "type", "name"])
def test_the_event_stands_under_any_of_its_keys(key: str) -> None:
    (found,) = read_object({key: "email_opened", "email": MARTA}).events
    assert found.kind == Kind.EMAIL_OPENED


@pytest.mark.parametrize("key", ["action", "trigger", "type", "name"])
def test_a_vague_key_names_the_event_only_by_a_name_that_we_know(key: str) -> None:
    (found,) = read_object({key: "Marta", "email": MARTA}, "clicked").events
    assert (found.kind, found.data.name) == (Kind.EMAIL_CLICKED, "clicked")  # type: ignore[union-attr]
    with pytest.raises(BodyError):
        read_object({key: "Marta", "email": MARTA})


@pytest.mark.parametrize(
    "key", ["kommo_lead_id", "kommoLeadId", "kommo-lead-id", "Kommo Lead ID", "kommo_deal_id", "lead_id", "dealId"]
)
@pytest.mark.parametrize("holder", [None, "data", "properties", "fields"])
def test_the_deal_is_found_in_any_spelling(key: str, holder: str | None) -> None:
    found = {key: "41500011"}
    (read_as,) = read_object({"event": "opened", **({holder: found} if holder else found)}).events
    assert read_as.data.lead_id == 41500011  # type: ignore[union-attr]


@pytest.mark.parametrize("key", ["kommo_lead_id", "kommoLeadId", "kommo-lead-id", "kommo_deal_id"])
@pytest.mark.parametrize("holder", ["person", "user", "contact"])
@pytest.mark.parametrize("inner", [None, "data", "fields"])
def test_the_deal_is_found_on_the_person(key: str, holder: str, inner: str | None) -> None:
    found: dict[str, Any] = {key: 41500011}
    body = {"event": "opened", holder: {"email": MARTA, **({inner: found} if inner else found)}}
    (read_as,) = read_object(body).events
    assert (read_as.data.lead_id, read_as.data.email) == (41500011, MARTA)  # type: ignore[union-attr]


def test_another_systems_lead_id_on_a_person_is_no_deal_of_kommo() -> None:
    body = {"eventType": "unsubscribedUser", "endUserData": [{"email": MARTA, "data": {"lead_id": 7, "dealId": 8}}]}
    (found,) = read_object(body).events
    assert found.data.lead_id is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"event": "opened", "person_id": "p1"}, id="person_id"),
        pytest.param({"event": "opened", "personId": "p1", "email": "{{person.email}}"}, id="personId"),
        pytest.param({"event": "opened", "enchargeId": "p1"}, id="enchargeId"),
        pytest.param({"event": "opened", "id": "p1"}, id="id"),
        pytest.param({"event": "opened", "person": {"id": "p1"}}, id="person.id"),
        pytest.param({"event": "opened", "user": {"id": "p1"}}, id="user.id"),
        pytest.param({"name": "opened", "timestamp": 1, "properties": {}, "id": "p1"}, id="stream"),
        pytest.param({"name": "opened", "timestamp": 1, "properties": {}, "user": {"id": "p1"}}, id="stream user"),
        pytest.param({"eventType": "unsubscribedUser", "endUserData": [{"id": "p1"}]}, id="subscription"),
    ],
)
def test_a_person_known_by_id_only_keeps_it(body: dict[str, Any]) -> None:
    (found,) = read_object(body).events
    (again,) = read_object({**body, "anything": "else"}).events
    assert found.data.person_id == "p1"  # type: ignore[union-attr]
    assert found.order_key == again.order_key == "encharge:person:p1"


@pytest.mark.parametrize(
    ("event_type", "url_event", "kind"),
    [
        ("added-tag-email_opened", None, Kind.EMAIL_OPENED),
        ("added-tag-Unsubscribed", None, Kind.UNSUBSCRIBED),
        ("removed-tag-unsubscribed", None, Kind.RESUBSCRIBED),
        ("removed-tag-clicked", None, Kind.OTHER),
        ("added-tag-hot", None, Kind.OTHER),
        ("added-tag-hot", "email_clicked", Kind.EMAIL_CLICKED),
        ("removed-tag-newsletter", "unsubscribed", Kind.UNSUBSCRIBED),
        ("added-tag-deal_moved_to_won", None, Kind.OTHER),
    ],
)
def test_a_tag_says_what_the_url_or_its_name_says(event_type: str, url_event: str | None, kind: Kind) -> None:
    body = {"eventType": event_type, "eventPayload": {}, "endUserData": [{"id": "p1"}]}
    assert [found.kind for found in read_object(body, url_event).events] == [kind]


@pytest.mark.parametrize(
    ("changed", "source", "is_echo"),
    [
        pytest.param(["firstName", "kommo_current_stage"], "api", True, id="our fields by the API"),
        pytest.param(["companySize"], "api", True, id="a mapped field by the API"),
        pytest.param(["kommo_lead_id", "updatedAt"], None, True, id="our fields, nobody says by whom"),
        pytest.param(["kommo_lead_id", "companySize"], None, False, id="others too, nobody says by whom"),
        pytest.param(["firstName"], "app", False, id="by a person in the app"),
        pytest.param([], None, False, id="nothing"),
    ],
)
def test_our_own_writes_are_ignored(changed: list[str], source: str | None, is_echo: bool) -> None:
    payload = {"changedFields": {field: {"oldValue": 1, "newValue": 2} for field in changed}, "source": source}
    reading = read_object({"eventType": "updatedUser", "eventPayload": payload, "endUserData": [{"email": MARTA}]})
    assert (reading.ignored, [found.kind for found in reading.events]) == (
        ((ECHO,), []) if is_echo else ((), [Kind.OTHER])
    )


@pytest.mark.parametrize(
    "body",
    [
        {"event": "clicked", "channel": "SMS", "email": MARTA},
        {"event": "clicked", "type": "sms", "email": MARTA},
        {"name": "link-clicked", "type": "sms", "timestamp": 1, "properties": {}, "email": MARTA},
        {"event": "sms_clicked", "email": MARTA},
    ],
)
def test_what_is_done_with_an_sms_is_no_email_activity(body: dict[str, Any]) -> None:
    assert [found.kind for found in read_object(body).events] == [Kind.OTHER]


def test_one_body_at_two_urls_is_two_events() -> None:
    body = {"email": MARTA}
    opened, clicked = (read_object(body, event=name).events[0].repeat for name in ("opened", "clicked"))
    assert opened != clicked


def test_the_same_body_again_is_a_repeat_of_the_first() -> None:
    body = load("flowstep_email_opened.json")
    assert read(body).events[0].repeat == read(body).events[0].repeat


def test_an_id_typed_as_a_constant_does_not_join_two_people() -> None:
    first = read_object({"event": "opened", "event_id": "1", "email": "a@b.c"}).events[0].dedupe_key
    second = read_object({"event": "opened", "event_id": "1", "email": "d@e.f"}).events[0].dedupe_key
    assert (first, second) == ("encharge:opened:a@b.c:1", "encharge:opened:d@e.f:1")


@pytest.mark.parametrize(
    "lead_id", ["none", "", -1, 0, 1.5, True, None, [1], {"v": 1}, "{{person.kommo_lead_id}}", 2**63]
)
def test_a_lead_id_that_is_none_counts_as_absent(lead_id: object) -> None:
    (found,) = read_object({"event": "opened", "email": "a@b.c", "kommo_lead_id": lead_id}).events
    assert (found.data.lead_id, found.order_key) == (None, "email:a@b.c")  # type: ignore[union-attr]


@pytest.mark.parametrize("email", ["none", "", None, 7, [], "{{person.email}}", "a@b.c, d@e.f", "a b@c.d"])
def test_an_address_that_is_none_counts_as_absent(email: object) -> None:
    (found,) = read_object({"event": "opened", "email": email, "person_id": "p1"}).events
    assert (found.data.email, found.order_key) == (None, "encharge:person:p1")  # type: ignore[union-attr]


def test_an_activity_of_nobody_is_kept_in_order_by_its_body() -> None:
    body = b'{"event": "opened"}'
    activity = EmailActivity(name="opened")
    order_key = f"encharge:person:{sha256(body).hexdigest()}"
    assert read(body) == Reading((event(Kind.EMAIL_OPENED, activity, order_key, body=body),))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        pytest.param({"oldValue": False, "newValue": True}, Kind.UNSUBSCRIBED, id="unsubscribed"),
        pytest.param({"oldValue": "true", "newValue": "false"}, Kind.RESUBSCRIBED, id="resubscribed"),
        pytest.param({"oldValue": None, "newValue": False}, Kind.OTHER, id="set for the first time"),
        pytest.param("true", Kind.OTHER, id="not a change"),
    ],
)
def test_a_change_of_the_unsubscribed_field_says_so(change: object, kind: Kind) -> None:
    body = {
        "eventType": "updatedUser",
        "eventPayload": {"changedFields": {"unsubscribed": change}},
        "endUserData": [{"email": MARTA}],
    }
    assert [found.kind for found in read_object(body).events] == [kind]


@pytest.mark.parametrize(
    ("people", "emails", "faults"),
    [
        pytest.param([{"email": "a@b.c"}, {"email": "d@e.f"}], ["a@b.c", "d@e.f"], (), id="two"),
        pytest.param({"email": "a@b.c"}, ["a@b.c"], (), id="one, not in a list"),
        pytest.param([], [None], (), id="none"),
        pytest.param(None, [None], (), id="null"),
        pytest.param(
            [{"email": "a@b.c"}, 5], ["a@b.c"], ("endUserData[1] is not a person: 5",), id="a number among them"
        ),
        pytest.param("x", [], ("endUserData is not a person: 'x'",), id="text"),
    ],
)
def test_a_subscription_has_an_event_for_each_person(
    people: object, emails: list[Any], faults: tuple[str, ...]
) -> None:
    reading = read_object({"eventType": "newUser", "endUserData": people})
    assert [found.data.email for found in reading.events] == emails  # type: ignore[union-attr]
    assert reading.faults == faults


def test_people_of_one_delivery_are_no_repeats_of_each_other() -> None:
    reading = read_object({"eventType": "newUser", "endUserData": [{"email": MARTA}, {"email": MARTA}]})
    assert reading.events[0].repeat != reading.events[1].repeat


@pytest.mark.parametrize("timestamp", ["soon", None, 0, [], 10**30])
def test_a_stream_event_without_a_time_is_known_by_its_body(timestamp: object) -> None:
    (found,) = read_object({"name": "opened", "properties": {}, "timestamp": timestamp, "email": MARTA}).events
    assert (found.dedupe_key, found.occurred_at, found.repeat is None) == (None, None, False)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param("", "The body is empty.", id="empty"),
        pytest.param("[]", "The body is an empty list.", id="an empty list"),
        pytest.param("[null]", "[0]: The body must be an object and is null.", id="a list of nothing"),
        pytest.param("7", "The body must be an object and is 7.", id="a number"),
        pytest.param('{"email": ', "The body is not JSON: Expecting value (line 1, column 11).", id="cut off"),
        pytest.param("{}", NO_EVENT, id="an empty object"),
        pytest.param('{"event": null}', NO_EVENT, id="null"),
        pytest.param('{"event": ["opened"]}', NO_EVENT, id="a list for a name"),
        pytest.param('{"event": true, "email": "a@b.c"}', NO_EVENT, id="a boolean for a name"),
        pytest.param('{"endUserData": []}', NO_EVENT.replace("'event'", "'eventType'"), id="subscription"),
        pytest.param(
            '{"name": [], "timestamp": 1, "properties": {}}', NO_EVENT.replace("'event'", "'name'"), id="stream"
        ),
        pytest.param(b"\xff{}", "The body is not UTF-8 (see its byte 0): send it as UTF-8.", id="not UTF-8"),
        pytest.param("[" + "{}," * 10_000 + "{}]", "The body has more than 10000 entries.", id="10,001 bodies"),
        pytest.param(
            json.dumps([{"eventType": "x", "endUserData": [{}] * 6000}] * 2),
            "The body has more than 10000 entries.",
            id="12,000 people in two entries",
        ),
    ],
)
def test_a_body_that_encharge_does_not_send_is_refused(body: bytes | str, message: str) -> None:
    with pytest.raises(BodyError) as caught:
        read(body)
    assert str(caught.value) == message
