"""Ortto's API: the exact request, the refusals of single items within a 200, and what its errors mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import responses
from parts import ortto_client
from responses import matchers

from app.clients.errors import ApiError, Fault
from app.clients.ortto import Activity, OrttoClient, Person
from app.events import FoundPerson
from sandbox.town import Town

API = "https://api.eu.ap3api.com/v1"
KEY = "PRV-key-0123456789"

ONE, TWO, THREE = (f"00612b2ca4a5dfa46fd8c0f{number}" for number in (1, 2, 3))

Load = Callable[[str], bytes]

ZOE = Activity(
    activity_id="act:cm:crm-stage-changed",
    email="zoe@example.com",
    fields={"str::first": "Zoë", "str:cm:kommo-lead-id": "41500011", "str:cm:kommo-stage": "Квалификация"},
    attributes={"str:cm:lead-id": "41500011", "str:cm:stage": "Квалификация", "int:cm:deal-value": 1500000},
    key="kommo-relay-41500011",
    created_at=1767607800.75,
)
KIM = Activity("act:cm:crm-stage-changed", "kim@example.com", {}, {}, "kommo-relay-41500012", 0)


@pytest.fixture
def wire() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def ortto() -> OrttoClient:
    return OrttoClient(API, KEY)


@pytest.fixture
def answer(load_fixture: Load) -> Load:
    return lambda name: load_fixture(f"ortto/api/{name}")


def sent(wire: responses.RequestsMock) -> list[tuple[str | None, str | None, Any]]:
    """Return the requests that went out: method, whole URL, JSON body."""
    return [
        (call.request.method, call.request.url, json.loads(call.request.body) if call.request.body else None)
        for call in wire.calls
    ]


@pytest.mark.parametrize("reply", ["ingested", "queued"])
def test_activities_and_their_persons_go_in_one_call(
    wire: responses.RequestsMock, ortto: OrttoClient, answer: Load, reply: str
) -> None:
    wire.post(
        f"{API}/activities/create",
        body=answer(f"create_activities_200__{reply}.json"),
        match=[matchers.header_matcher({"X-Api-Key": KEY, "Content-Type": "application/json"})],
    )

    assert ortto.create_activities([ZOE, KIM]) == ["", ""]
    assert sent(wire) == [
        (
            "POST",
            f"{API}/activities/create",
            {
                "activities": [
                    {
                        "activity_id": "act:cm:crm-stage-changed",
                        "fields": {
                            "str::email": "zoe@example.com",
                            "str::first": "Zoë",
                            "str:cm:kommo-lead-id": "41500011",
                            "str:cm:kommo-stage": "Квалификация",
                        },
                        "attributes": {
                            "str:cm:lead-id": "41500011",
                            "str:cm:stage": "Квалификация",
                            "int:cm:deal-value": 1500000,
                        },
                        "key": "kommo-relay-41500011",
                        "created": "2026-01-05T10:10:00Z",
                    },
                    {
                        "activity_id": "act:cm:crm-stage-changed",
                        "fields": {"str::email": "kim@example.com"},
                        "attributes": {},
                        "key": "kommo-relay-41500012",
                        "created": "1970-01-01T00:00:00Z",
                    },
                ],
                "merge_by": ["str::email"],
                "merge_strategy": 2,
            },
        )
    ]


@pytest.mark.parametrize(
    ("reply", "refusals"),
    [
        ("one_invalid", ["failed to validate field str:cm:nope in schema: str:cm:nope: Object not found", ""]),
        ("one_suppressed", ["", "suppressed"]),
    ],
)
def test_single_activities_may_be_refused_within_a_200(
    wire: responses.RequestsMock, ortto: OrttoClient, answer: Load, reply: str, refusals: list[str]
) -> None:
    wire.post(f"{API}/activities/create", body=answer(f"create_activities_200__{reply}.json"))

    assert ortto.create_activities([ZOE, KIM]) == refusals


@pytest.mark.parametrize(
    "body",
    [
        "",
        "OK",
        "null",
        "[]",
        '"queued"',
        "{}",
        '{"activities": null}',
        '{"activities": {}}',
        '{"activities": [{"status": "queued"}]}',
        '{"activities": [null, "queued"]}',
    ],
)
def test_an_answer_that_says_nothing_of_single_activities_means_taken(
    wire: responses.RequestsMock, ortto: OrttoClient, body: str
) -> None:
    wire.post(f"{API}/activities/create", body=body)

    assert ortto.create_activities([ZOE, KIM]) == ["", ""]


@pytest.mark.parametrize(
    ("fixture", "words", "expected"),
    [
        (
            "error_400.json",
            "No valid contacts provided "
            "(failed to validate field str::nope in schema: str::nope: Object not found)",
            {"fault": Fault.REFUSED, "status": 400, "retry_after": None, "ambiguous": False},
        ),
        (
            "error_401.json",
            "Invalid API key",
            {"fault": Fault.LOCKED_OUT, "status": 401, "retry_after": None, "ambiguous": False},
        ),
        (
            "error_403.json",
            "Account expired",
            {"fault": Fault.LOCKED_OUT, "status": 403, "retry_after": None, "ambiguous": False},
        ),
        (
            "error_404.json",
            "Unknown endpoint or method",
            {"fault": Fault.REFUSED, "status": 404, "retry_after": None, "ambiguous": False},
        ),
        (
            "error_429.json",  # its error is an object
            "rate limit",
            {"fault": Fault.PASSING, "status": 429, "retry_after": 10.0, "ambiguous": False},
        ),
        (
            "error_500.json",
            "Internal server error",
            {"fault": Fault.PASSING, "status": 500, "retry_after": None, "ambiguous": True},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("error_") else "",
)
def test_an_error_says_what_may_help(
    wire: responses.RequestsMock,
    ortto: OrttoClient,
    answer: Load,
    fixture: str,
    words: str,
    expected: dict[str, object],
) -> None:
    status = int(fixture[6:9])
    wire.post(f"{API}/activities/create", status=status, body=answer(fixture))

    with pytest.raises(ApiError) as caught:
        ortto.create_activities([ZOE])

    assert str(caught.value) == f"Ortto: POST /activities/create answered {status}: {words}"
    assert vars(caught.value) == {**expected, "vendor": "ortto"}
    assert KEY not in repr(caught.value)


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ('{"error": {"message": null, "try-in-seconds": "4"}}', 4.0),
        ('{"error": {"try-in-seconds": null}}', 7.0),
        ('{"error": null}', 7.0),
        ('{"error": [1]}', 7.0),
        ("<html>slow down</html>", 7.0),
    ],
)
def test_a_429_in_another_form_is_still_one(
    wire: responses.RequestsMock, ortto: OrttoClient, body: str, seconds: float
) -> None:
    wire.post(f"{API}/activities/create", status=429, body=body, headers={"Retry-After": "7"})

    with pytest.raises(ApiError) as caught:
        ortto.create_activities([ZOE])

    assert str(caught.value) == f"Ortto: POST /activities/create answered 429: {body}"
    assert (caught.value.fault, caught.value.retry_after) == (Fault.PASSING, seconds)


# -- reading people ---------------------------------------------------------------------------------------------

BY_IDS = f"{API}/person/get-by-ids"
FIELDS = ["str::email", "str:cm:kommo-lead-id"]


def test_people_are_read_by_their_ids(wire: responses.RequestsMock, ortto: OrttoClient, answer: Load) -> None:
    wire.post(
        BY_IDS,
        body=answer("get_by_ids_200.json"),
        match=[matchers.header_matcher({"X-Api-Key": KEY, "Content-Type": "application/json"})],
    )

    assert ortto.find_people([ONE, TWO, THREE]) == {
        ONE: FoundPerson("zoe@example.com", 41500011),
        TWO: FoundPerson(),
    }
    assert sent(wire) == [("POST", BY_IDS, {"contact_ids": [ONE, TWO, THREE], "fields": FIELDS})]


@pytest.mark.parametrize(
    ("fields", "person"),
    [
        ({"str::email": "zoe@"}, FoundPerson()),
        ({"str::email": 7, "str:cm:kommo-lead-id": 7}, FoundPerson(lead_id=7)),
        ({"str:cm:kommo-lead-id": "Квалификация"}, FoundPerson()),
        ({"str:cm:kommo-lead-id": "0"}, FoundPerson()),
    ],
)
def test_what_is_no_address_and_no_deal_is_left_out(
    wire: responses.RequestsMock, ortto: OrttoClient, fields: dict[str, Any], person: FoundPerson
) -> None:
    wire.post(BY_IDS, json={"contacts": {ONE: {"id": ONE, "fields": fields}}})

    assert ortto.find_people([ONE]) == {ONE: person}


@pytest.mark.parametrize("body", ['{"contacts": {}}', '{"contacts": null}'])
def test_nobody_may_be_known(wire: responses.RequestsMock, ortto: OrttoClient, body: str) -> None:
    wire.post(BY_IDS, body=body)

    assert ortto.find_people([ONE]) == {}


def test_people_are_asked_for_once_and_a_hundred_at_a_time(
    wire: responses.RequestsMock, ortto: OrttoClient
) -> None:
    ids = [f"{number:024}" for number in range(101)]
    for part in (ids[:100], ids[100:]):
        wire.post(BY_IDS, json={"contacts": {one: {"id": one, "fields": {}} for one in part}})

    assert ortto.find_people([*ids, *ids]) == dict.fromkeys(ids, FoundPerson())
    assert [body["contact_ids"] for _, _, body in sent(wire)] == [ids[:100], ids[100:]]


def test_words_that_are_no_id_are_nobody_and_not_asked_for(ortto: OrttoClient) -> None:
    with responses.RequestsMock() as nothing_may_go_out:
        assert ortto.find_people([]) == {}
        assert ortto.find_people(["", "7", "{{ people.id }}", f"{ONE}0", f"{ONE}\n"]) == {}
        assert len(nothing_may_go_out.calls) == 0


def test_a_read_needs_no_leave_to_write(wire: responses.RequestsMock) -> None:
    wire.post(BY_IDS, json={"contacts": {}})

    assert OrttoClient(API, KEY, may_write=lambda: False).find_people([ONE]) == {}


@pytest.mark.parametrize(
    ("status", "fault", "retry_after"),
    [
        (400, Fault.REFUSED, None),
        (401, Fault.LOCKED_OUT, None),
        (404, Fault.REFUSED, None),
        (429, Fault.PASSING, 10.0),
        (500, Fault.PASSING, None),
    ],
)
def test_a_read_that_fails_says_what_may_help(
    wire: responses.RequestsMock,
    ortto: OrttoClient,
    answer: Load,
    status: int,
    fault: Fault,
    retry_after: float | None,
) -> None:
    wire.post(BY_IDS, status=status, body=answer(f"error_{status}.json"))

    with pytest.raises(ApiError, match=f"^Ortto: POST /person/get-by-ids answered {status}: ") as caught:
        ortto.find_people([ONE])

    assert (caught.value.fault, caught.value.status, caught.value.retry_after) == (fault, status, retry_after)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "OK",
        "[]",
        "{}",
        f'{{"contacts": [{{"id": "{ONE}"}}]}}',
        f'{{"contacts": {{"{ONE}": null}}}}',
        f'{{"contacts": {{"{ONE}": {{"fields": null}}}}}}',
    ],
)
def test_people_of_an_unexpected_shape_are_an_error(
    wire: responses.RequestsMock, ortto: OrttoClient, body: str
) -> None:
    wire.post(BY_IDS, body=body)

    with pytest.raises(
        ApiError, match="Ortto: the answer to POST /person/get-by-ids has an unexpected shape"
    ) as caught:
        ortto.find_people([ONE])

    assert caught.value.fault == Fault.PASSING


def test_the_sandbox_knows_the_people_that_were_written(town: Town) -> None:
    client = ortto_client(town)
    client.create_activities([ZOE])
    kim = town.ortto.add_person("kim@example.com")
    zoe = next(person["id"] for person in town.ortto.state()["people"] if person["id"] != kim)

    assert client.find_people([ONE, zoe, kim]) == {
        zoe: FoundPerson("zoe@example.com", 41500011),
        kim: FoundPerson("kim@example.com"),
    }
    assert client.find_people([ONE]) == {}


# -- merging people ---------------------------------------------------------------------------------------------


def test_people_are_merged_by_email_in_one_call(wire: responses.RequestsMock, ortto: OrttoClient) -> None:
    wire.post(
        f"{API}/person/merge",
        json={"people": [{"person_id": "0069b1c2d3e4f5a6b7c8d901", "status": "created"}, {"status": "merged"}]},
    )

    people = [Person("zoe@example.com", {"str::first": "Zoë"}), Person("kim@example.com", {})]
    assert ortto.merge_people(people) == ["", ""]

    assert sent(wire) == [
        (
            "POST",
            f"{API}/person/merge",
            {
                "people": [
                    {"fields": {"str::email": "zoe@example.com", "str::first": "Zoë"}},
                    {"fields": {"str::email": "kim@example.com"}},
                ],
                "merge_by": ["str::email"],
                "merge_strategy": 2,
            },
        )
    ]


def test_people_that_are_refused_within_a_200_are_told_apart(
    wire: responses.RequestsMock, ortto: OrttoClient, answer: Load
) -> None:
    wire.post(f"{API}/person/merge", body=answer("merge_people_200__one_invalid.json"))

    people = [Person("zoe@example.com", {"str:cm:nope": "x"}), Person("kim@example.com", {})]
    assert ortto.merge_people(people) == [
        "failed to validate field str:cm:nope in schema: str:cm:nope: Object not found",
        "",
    ]
