"""Encharge's REST and Ingest APIs in both dialects: each call's exact request, and what its errors mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import responses
from parts import encharge_client
from requests import PreparedRequest
from responses import matchers

from app.clients.encharge import (
    LAST_EVENT,
    Account,
    ArticleEnchargeClient,
    Broadcast,
    BroadcastActivity,
    EnchargeClient,
    Person,
)
from app.clients.errors import ApiError, Fault
from app.events import FoundPerson
from sandbox.town import Town

API, INGEST = "https://api.encharge.io/v1", "https://ingest.encharge.io/v1"
API_KEY, WRITE_KEY = "api-key-0123456789", "write-key-0123456789"

Load = Callable[[str], bytes]

ZOE = Person(
    email="zoe@example.com",
    first_name="Zoë",
    last_name="Example",
    fields={"kommo_lead_id": "41500011", "kommo_current_stage": "qualified", "jobTitle": "Head of Sales"},
)
ZOE_FLAT = {
    "email": "zoe@example.com",
    "firstName": "Zoë",
    "lastName": "Example",
    "kommo_lead_id": "41500011",
    "kommo_current_stage": "qualified",
    "jobTitle": "Head of Sales",
}
NAMELESS = Person(email="kim@example.com", first_name="", last_name="", fields={})
KEY = "kommo-relay-7"
PROPERTIES = {"lead_id": "41500011", "stage": "qualified", "pipeline_id": None, "deal_value": 1500}

ONE, TWO, THREE = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2, 3))

with_api_key = matchers.header_matcher({"X-Encharge-Token": API_KEY, "Content-Type": "application/json"})
with_write_key = matchers.header_matcher({"X-Encharge-Token": WRITE_KEY, "Content-Type": "application/json"})
with_bearer = matchers.header_matcher({"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"})
with_api_key_alone = matchers.header_matcher({"X-Encharge-Token": API_KEY})
with_bearer_alone = matchers.header_matcher({"Authorization": f"Bearer {API_KEY}"})


@pytest.fixture
def wire() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def encharge() -> EnchargeClient:
    return EnchargeClient(API, INGEST, API_KEY, WRITE_KEY)


@pytest.fixture
def article() -> ArticleEnchargeClient:
    return ArticleEnchargeClient(API, INGEST, API_KEY, None)


@pytest.fixture
def answer(load_fixture: Load) -> Load:
    return lambda name: load_fixture(f"encharge/api/{name}")


def sent(wire: responses.RequestsMock) -> list[tuple[str | None, str | None, Any]]:
    """Return the requests that went out: method, whole URL, JSON body."""
    return [
        (call.request.method, call.request.url, json.loads(call.request.body) if call.request.body else None)
        for call in wire.calls
    ]


# -- the documented dialect -------------------------------------------------------------------------------------


def test_people_go_flat_in_one_call_without_empty_names(
    wire: responses.RequestsMock, encharge: EnchargeClient, answer: Load
) -> None:
    wire.post(f"{API}/people", body=answer("upsert_people_200.json"), match=[with_api_key])

    encharge.upsert_people([ZOE, NAMELESS])

    assert sent(wire) == [
        (
            "POST",
            f"{API}/people",
            [
                ZOE_FLAT,
                {"email": "kim@example.com"},
            ],
        )
    ]


@pytest.mark.parametrize("body", ["track_200.json", "", "OK"], ids=["JSON", "nothing", "plain words"])
def test_an_event_goes_to_the_ingest_host_with_the_write_key(
    wire: responses.RequestsMock, encharge: EnchargeClient, answer: Load, body: str
) -> None:
    wire.post(f"{INGEST}/", body=answer(body) if body.endswith("json") else body, match=[with_write_key])

    encharge.track(ZOE, event="deal_moved_to_qualified", properties=PROPERTIES, key=KEY)

    assert sent(wire) == [
        (
            "POST",
            f"{INGEST}/",
            {"name": "deal_moved_to_qualified", "user": {**ZOE_FLAT, LAST_EVENT: KEY}, "properties": PROPERTIES},
        )
    ]


def test_without_a_write_key_the_ingest_host_gets_the_api_key(wire: responses.RequestsMock) -> None:
    wire.post(f"{INGEST}/", match=[with_api_key])

    EnchargeClient(API, INGEST, API_KEY, None).track(NAMELESS, event="e", properties={}, key=KEY)

    assert sent(wire) == [
        ("POST", f"{INGEST}/", {"name": "e", "user": {"email": NAMELESS.email, LAST_EVENT: KEY}, "properties": {}})
    ]


def test_a_tag_is_added(wire: responses.RequestsMock, encharge: EnchargeClient) -> None:
    wire.post(f"{API}/tags", status=201, match=[with_api_key])

    encharge.add_tag(email="zoe@example.com", tag="deal_moved_to_qualified")

    assert sent(wire) == [("POST", f"{API}/tags", {"tag": "deal_moved_to_qualified", "email": "zoe@example.com"})]


# -- the article's dialect --------------------------------------------------------------------------------------


def test_the_article_sends_each_person_alone_with_nested_fields(
    wire: responses.RequestsMock, article: ArticleEnchargeClient
) -> None:
    wire.post(f"{API}/people", json={"user": {}}, match=[with_bearer])
    wire.post(f"{API}/people", json={"user": {}}, match=[with_bearer])

    article.upsert_people([ZOE, NAMELESS])

    assert sent(wire) == [
        (
            "POST",
            f"{API}/people",
            {
                "email": "zoe@example.com",
                "firstName": "Zoë",
                "lastName": "Example",
                "fields": {
                    "kommo_lead_id": "41500011",
                    "kommo_current_stage": "qualified",
                    "jobTitle": "Head of Sales",
                },
            },
        ),
        ("POST", f"{API}/people", {"email": "kim@example.com", "fields": {}}),
    ]


def test_the_article_posts_events_to_the_rest_host(
    wire: responses.RequestsMock, article: ArticleEnchargeClient
) -> None:
    wire.post(f"{API}/events", match=[with_bearer])

    article.track(ZOE, event="deal_moved_to_qualified", properties=PROPERTIES, key=KEY)

    assert sent(wire) == [
        (
            "POST",
            f"{API}/events",
            {"name": "deal_moved_to_qualified", "email": "zoe@example.com", "properties": PROPERTIES},
        )
    ]


def test_the_article_adds_tags_with_its_own_header(
    wire: responses.RequestsMock, article: ArticleEnchargeClient
) -> None:
    wire.post(f"{API}/tags", status=201, match=[with_bearer])

    article.add_tag(email="zoe@example.com", tag="a")

    assert sent(wire) == [("POST", f"{API}/tags", {"tag": "a", "email": "zoe@example.com"})]


# -- reading people ---------------------------------------------------------------------------------------------


def asked(request: PreparedRequest) -> list[str]:
    """Return the ids that a request asks for, in order."""
    assert (request.method, request.path_url.partition("?")[0]) == ("GET", "/v1/people")
    params: dict[str, str] = request.params  # type: ignore[attr-defined]
    assert list(params) == [f"people[{number}][id]" for number in range(len(params))]
    return list(params.values())


def test_people_are_read_by_their_ids(wire: responses.RequestsMock, encharge: EnchargeClient) -> None:
    users = [
        {"id": ONE, "email": " Zoe@Example.com ", "kommo_lead_id": "41500011", "tags": None},
        {"id": TWO, "email": None, "data": {"kommo_lead_id": 41500012}},
    ]
    wire.get(f"{API}/people", json={"users": users}, match=[with_api_key_alone])

    assert encharge.find_people([ONE, TWO, THREE]) == {
        ONE: FoundPerson("zoe@example.com", 41500011),
        TWO: FoundPerson(None, 41500012),
    }
    assert sent(wire) == [
        (
            "GET",
            f"{API}/people?people%5B0%5D%5Bid%5D={ONE}&people%5B1%5D%5Bid%5D={TWO}&people%5B2%5D%5Bid%5D={THREE}",
            None,
        )
    ]


def test_the_article_reads_people_with_its_own_header(
    wire: responses.RequestsMock, article: ArticleEnchargeClient
) -> None:
    wire.get(f"{API}/people", json={"users": []}, match=[with_bearer_alone])

    assert article.find_people([ONE]) == {}
    assert asked(wire.calls[0].request) == [ONE]


def test_people_tell_the_last_event_that_came_with_them(
    wire: responses.RequestsMock, encharge: EnchargeClient
) -> None:
    users = [
        {"id": ONE, "email": " Zoe@Example.com ", LAST_EVENT: "a"},
        {"id": TWO, "email": "kim@example.com", "data": {LAST_EVENT: "b"}},
        {"id": THREE, "email": "new@example.com", LAST_EVENT: None},
    ]
    wire.get(f"{API}/people", json={"users": users}, match=[with_api_key_alone])

    told = encharge.last_events(["zoe@example.com", "kim@example.com", "zoe@example.com", "who@example.com"])

    assert told == {"zoe@example.com": "a", "kim@example.com": "b", "new@example.com": ""}
    params: dict[str, str] = wire.calls[0].request.params  # type: ignore[attr-defined]
    assert params == {
        "people[0][email]": "zoe@example.com",
        "people[1][email]": "kim@example.com",
        "people[2][email]": "who@example.com",
    }


@pytest.mark.parametrize(
    ("user", "person"),
    [
        ({"email": "zoe@"}, FoundPerson()),
        ({"email": 7, "data": None}, FoundPerson()),
        ({"email": "zoe@example.com", "data": []}, FoundPerson("zoe@example.com")),
        ({"kommo_lead_id": "{{lead}}", "data": {"kommo_lead_id": " 7 "}}, FoundPerson(lead_id=7)),
        ({"kommo_lead_id": 8, "data": {"kommo_lead_id": 7}}, FoundPerson(lead_id=8)),
        *(
            ({"kommo_lead_id": value}, FoundPerson())
            for value in (0, "0", -7, "-7", 7.5, True, "", None, [7], "٧", 2**63, "1" * 20)
        ),
        ({"kommo_lead_id": 2**63 - 1}, FoundPerson(lead_id=2**63 - 1)),
    ],
    ids=repr,
)
def test_what_is_no_address_and_no_deal_is_left_out(
    wire: responses.RequestsMock, encharge: EnchargeClient, user: dict[str, Any], person: FoundPerson
) -> None:
    wire.get(f"{API}/people", json={"users": [{"id": ONE, **user}]})

    assert encharge.find_people([ONE]) == {ONE: person}


def test_people_are_asked_for_once_and_a_hundred_at_a_time(
    wire: responses.RequestsMock, encharge: EnchargeClient
) -> None:
    ids = [f"00000000-0000-4000-8000-{number:012}" for number in range(101)]
    for part in (ids[:100], ids[100:]):
        wire.get(f"{API}/people", json={"users": [{"id": one} for one in part]})

    assert encharge.find_people([*ids, *ids]) == dict.fromkeys(ids, FoundPerson())
    assert [asked(call.request) for call in wire.calls] == [ids[:100], ids[100:]]


def test_words_that_are_no_id_are_nobody_and_not_asked_for(encharge: EnchargeClient) -> None:
    with responses.RequestsMock() as nothing_may_go_out:
        assert encharge.find_people([]) == {}
        assert encharge.find_people(["", "7", "{{person.id}}", f"{ONE}0", f"{ONE}\n"]) == {}
        assert len(nothing_may_go_out.calls) == 0


def test_unknown_people_may_be_a_404(wire: responses.RequestsMock, encharge: EnchargeClient) -> None:
    def answered(request: PreparedRequest) -> tuple[int, dict[str, str], str]:
        ids = asked(request)
        if TWO in ids:
            return 404, {}, '{"error": {"message": "Person not found."}}'
        return 200, {}, json.dumps({"users": [{"id": one} for one in ids]})

    wire.add_callback("GET", f"{API}/people", callback=answered)

    assert encharge.find_people([TWO]) == {}
    assert encharge.find_people([ONE, TWO, THREE]) == {ONE: FoundPerson(), THREE: FoundPerson()}


@pytest.mark.parametrize(
    ("status", "fixture", "fault"),
    [
        (401, "error_401.json", Fault.LOCKED_OUT),
        (404, "error_404.html", Fault.LOCKED_OUT),  # no call of that name, which says nothing of people
        (422, "error_422.json", Fault.REFUSED),
        (429, "error_422.json", Fault.PASSING),
        (500, "error_500.json", Fault.PASSING),
    ],
    ids=["401", "404", "422", "429", "500"],
)
def test_a_read_that_fails_says_what_may_help(
    wire: responses.RequestsMock,
    encharge: EnchargeClient,
    answer: Load,
    status: int,
    fixture: str,
    fault: Fault,
) -> None:
    wire.get(f"{API}/people", status=status, body=answer(fixture), headers={"Retry-After": "7"})

    with pytest.raises(ApiError, match=f"^Encharge: GET /people answered {status}: ") as caught:
        encharge.find_people([ONE, TWO])

    assert (caught.value.fault, caught.value.status, caught.value.retry_after) == (fault, status, 7.0)
    assert len(wire.calls) == 1


@pytest.mark.parametrize(
    "body", ["", "null", "[]", "{}", '{"users": null}', '{"users": [7]}', '{"users": [{"email": "a@b.cd"}]}']
)
def test_people_of_an_unexpected_shape_are_an_error(
    wire: responses.RequestsMock, encharge: EnchargeClient, body: str
) -> None:
    wire.get(f"{API}/people", body=body)

    with pytest.raises(ApiError, match="Encharge: the answer to GET /people has an unexpected shape") as caught:
        encharge.find_people([ONE])

    assert caught.value.fault == Fault.PASSING


@pytest.mark.parametrize("unknown", ["left out", "404"])
@pytest.mark.parametrize("dialect", ["documented", "article"])
def test_the_sandbox_knows_the_people_that_were_written(town: Town, dialect: str, unknown: str) -> None:
    town.encharge.switch(dialect=dialect, unknown_people=unknown)
    client = encharge_client(town, dialect)
    client.upsert_people([ZOE, NAMELESS])
    zoe, kim = (person["id"] for person in town.encharge.state()["people"])

    assert client.find_people([ONE, zoe, TWO, kim]) == {
        zoe: FoundPerson("zoe@example.com", 41500011),
        kim: FoundPerson("kim@example.com"),
    }
    assert client.find_people([ONE, TWO]) == {}


# -- broadcasts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", [EnchargeClient, ArticleEnchargeClient])
def test_broadcasts_come_with_their_totals(
    wire: responses.RequestsMock, dialect: type[EnchargeClient], answer: Load
) -> None:
    key = with_bearer_alone if dialect is ArticleEnchargeClient else with_api_key_alone
    wire.get(f"{API}/broadcasts", body=answer("broadcasts_200.json"), content_type="application/json", match=[key])

    assert dialect(API, INGEST, API_KEY, None).broadcasts() == [
        Broadcast(
            id=501,
            name="Angebot für Zoë",
            status="sent",
            sent_at=1767607200.0,
            entered=2000,
            delivered=1960,
            opened=812,
            clicked=0,
            bounced=40,
            unsubscribed=3,
            counted_at=1767610800.5,
        ),
        Broadcast(id=502, name="News", status="draft"),
        Broadcast(id=503, name="", status="", entered=0),
    ]


@pytest.mark.parametrize(
    "item",
    [
        {"cachedMetric": {}},
        {"cachedMetric": {"data": None, "updatedAt": "soon"}, "sendAt": ""},
        {"cachedMetric": {"data": {"open": None, "click": "many", "delivered": True}}, "sendAt": -1},
        {"peopleEntered": {}, "sendAt": 1e300},
    ],
)
def test_a_total_that_is_not_said_is_not_zero(
    wire: responses.RequestsMock, encharge: EnchargeClient, item: dict[str, Any]
) -> None:
    wire.get(f"{API}/broadcasts", json={"items": [{"id": 1, "name": "a", "status": "sent", **item}]})

    assert encharge.broadcasts() == [Broadcast(1, "a", "sent")]


@pytest.mark.parametrize(
    "body", ["", "[]", '{"items": null}', '{"items": [{}]}', '{"items": [{"id": 1, "cachedMetric": "a"}]}']
)
def test_broadcasts_of_an_unexpected_shape_are_an_error(
    wire: responses.RequestsMock, encharge: EnchargeClient, body: str
) -> None:
    wire.get(f"{API}/broadcasts", body=body)

    with pytest.raises(ApiError, match="Encharge: the answer to GET /broadcasts has an unexpected shape"):
        encharge.broadcasts()


def test_the_documented_api_does_not_say_who_did_what(encharge: EnchargeClient) -> None:
    with responses.RequestsMock() as nothing_may_go_out:
        assert encharge.broadcast_activity(501) is None
        assert len(nothing_may_go_out.calls) == 0


CLICK = {"at": "2026-01-05T10:00:00.000Z", "event": "clicked", "email": "Zoe@Example.com", "link": "https://x.de/p"}


@pytest.mark.parametrize(
    "body", [{"activity": [CLICK]}, {"activities": [CLICK]}, {"items": [CLICK]}, [CLICK]], ids=str
)
def test_the_article_says_who_did_what(
    wire: responses.RequestsMock, article: ArticleEnchargeClient, body: Any
) -> None:
    wire.get(f"{API}/broadcasts/501/activity", json=body, match=[with_bearer_alone])

    assert article.broadcast_activity(501) == [
        BroadcastActivity("zoe@example.com", "clicked", "https://x.de/p", 1767607200.0)
    ]
    assert sent(wire) == [("GET", f"{API}/broadcasts/501/activity", None)]


def test_an_entry_says_what_it_knows(wire: responses.RequestsMock, article: ArticleEnchargeClient) -> None:
    items = [
        {},
        {"type": "emailOpened", "timestamp": 1767607200000, "email": None},
        {"name": "c", "url": "u", "createdAt": "2026-01-05T10:00:00"},
    ]
    wire.get(f"{API}/broadcasts/501/activity", json=items)

    assert article.broadcast_activity(501) == [
        BroadcastActivity(None, ""),
        BroadcastActivity(None, "emailOpened", at=1767607200.0),
        BroadcastActivity(None, "c", "u", 1767607200.0),
    ]


@pytest.mark.parametrize("body", ["", "{}", '{"activity": null}', "[7]", '"a"'])
def test_activity_of_an_unexpected_shape_is_an_error(
    wire: responses.RequestsMock, article: ArticleEnchargeClient, body: str
) -> None:
    wire.get(f"{API}/broadcasts/501/activity", body=body)

    with pytest.raises(ApiError, match="Encharge: the answer to GET /broadcasts/501/activity has an unexpected"):
        article.broadcast_activity(501)


# -- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fixture", "words", "fault", "ambiguous"),
    [
        (
            "error_401.json",
            "User not logged in: Unauthorized request: no authentication given",
            Fault.LOCKED_OUT,
            False,
        ),
        (
            "error_401__malformed_key.json",
            "Token without payload (should be JWT token).",
            Fault.LOCKED_OUT,
            False,
        ),
        (
            "error_404.html",
            '<!DOCTYPE html> <html lang="en"> <head> <meta charset="utf-8"> <title>Error</title> </head> <body>',
            Fault.LOCKED_OUT,
            False,
        ),
        ("error_422.json", "Invalid value for email", Fault.REFUSED, False),
        # Never its stack.
        ("error_500.json", "Cannot read properties of undefined", Fault.PASSING, True),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("error_") else "",
)
def test_an_error_of_the_rest_api_says_what_may_help(
    wire: responses.RequestsMock,
    encharge: EnchargeClient,
    answer: Load,
    fixture: str,
    words: str,
    fault: Fault,
    ambiguous: bool,
) -> None:
    status = int(fixture[6:9])
    wire.post(f"{API}/people", status=status, body=answer(fixture))

    with pytest.raises(ApiError) as caught:
        encharge.upsert_people([ZOE])

    assert str(caught.value) == f"Encharge: POST /people answered {status}: {words}"
    assert vars(caught.value) == {
        "vendor": "encharge",
        "fault": fault,
        "status": status,
        "retry_after": None,
        "ambiguous": ambiguous,
    }


@pytest.mark.parametrize(
    ("fixture", "words", "fault"),
    [
        ("error_400__ingest.json", "Missing Encharge write key.", Fault.REFUSED),
        ("error_403__ingest.json", "API events are not part of your plan.", Fault.LOCKED_OUT),
    ],
    ids=["400", "403"],
)
def test_an_error_of_the_ingest_api_is_a_text(
    wire: responses.RequestsMock, encharge: EnchargeClient, answer: Load, fixture: str, words: str, fault: Fault
) -> None:
    status = int(fixture[6:9])
    wire.post(f"{INGEST}/", status=status, body=answer(fixture))

    with pytest.raises(ApiError) as caught:
        encharge.track(ZOE, event="e", properties={}, key=KEY)

    assert str(caught.value) == f"Encharge Ingest: POST / answered {status}: {words}"
    assert vars(caught.value) == {
        "vendor": "encharge",
        "fault": fault,
        "status": status,
        "retry_after": None,
        "ambiguous": False,
    }


@pytest.mark.parametrize(
    "body",
    ['{"error": {"message": null}}', '{"error": null}', '{"error": ["a"]}', '{"error": 7}', '{"message": "a"}'],
)
def test_an_error_in_another_form_is_still_an_error(
    wire: responses.RequestsMock, encharge: EnchargeClient, body: str
) -> None:
    wire.post(f"{API}/tags", status=429, body=body, headers={"Retry-After": "2.5"})

    with pytest.raises(ApiError) as caught:
        encharge.add_tag(email="zoe@example.com", tag="a")

    assert str(caught.value) == f"Encharge: POST /tags answered 429: {body}"
    assert vars(caught.value) == {
        "vendor": "encharge",
        "fault": Fault.PASSING,
        "status": 429,
        "retry_after": 2.5,
        "ambiguous": False,
    }


def test_the_article_stops_at_the_first_person_that_fails(
    wire: responses.RequestsMock, article: ArticleEnchargeClient, answer: Load
) -> None:
    wire.post(f"{API}/people", json={"user": {}})
    wire.post(f"{API}/people", status=500, body=answer("error_500.json"))

    with pytest.raises(ApiError):
        article.upsert_people([ZOE, NAMELESS, ZOE])

    assert len(wire.calls) == 2


def test_no_key_is_told(wire: responses.RequestsMock, encharge: EnchargeClient) -> None:
    wire.post(f"{INGEST}/", status=403, json={"error": f"{WRITE_KEY} is not a write key"})

    with pytest.raises(ApiError) as caught:
        encharge.track(ZOE, event="e", properties={}, key=KEY)

    assert str(caught.value) == "Encharge Ingest: POST / answered 403: *** is not a write key"
    assert WRITE_KEY not in repr(caught.value)


def test_the_account_is_told(wire: responses.RequestsMock, encharge: EnchargeClient) -> None:
    wire.get(f"{API}/accounts/info", json={"name": "Acme", "status": "trial"}, match=[with_api_key_alone])
    wire.get(f"{API}/accounts/info", json={}, match=[with_api_key_alone])
    assert encharge.account() == Account("Acme", "trial")
    assert encharge.account() == Account("", "")
