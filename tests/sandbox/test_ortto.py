"""The fake Ortto, over real sockets."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import requests
from flask import Flask
from support import eventually

from sandbox.courier import Courier, Switches, Target
from sandbox.ortto import Ortto, limits

NOW = 1_772_618_530.0  # 2026-03-04T10:02:10Z
STAGE_CHANGED = "act:cm:crm-stage-changed"
LEAD_ID = "str:cm:kommo-lead-id"
HEX_24 = re.compile(r"[0-9a-f]{24}")


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Receiver:
    """A user's webhook endpoint that keeps what it gets and answers as told."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.answers: list[tuple[int, bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((dict(self.headers), json.loads(body)))
                status, answer = receiver.answers.pop(0) if receiver.answers else (200, b"{}")
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/webhooks/ortto"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for _, body in self.got]

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Api:
    """A caller with the right key."""

    def __init__(self, ortto: Ortto) -> None:
        self.ortto = ortto
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["X-Api-Key"] = ortto.api_key

    def call(self, path: str, body: Any = None, method: str = "POST", **kwargs: Any) -> requests.Response:
        return self.session.request(method, f"{self.ortto.url}/v1/{path}", json=body, timeout=30, **kwargs)

    def ok(self, path: str, body: Any = None, method: str = "POST") -> Any:
        response = self.call(path, body, method)
        assert response.status_code == 200, response.text
        return response.json()

    def refused(self, status: int, path: str, body: Any = None, method: str = "POST") -> dict[str, Any]:
        """Return the refusal without its request id, after a look at that."""
        response = self.call(path, body, method)
        assert response.status_code == status, response.text
        refusal: dict[str, Any] = response.json()
        assert UUID(refusal.pop("request_id")).version == 4
        assert refusal.pop("code") == status
        return refusal

    def merge(self, fields: dict[str, Any], merge_by: list[str] | None = None, **more: Any) -> dict[str, Any]:
        person: dict[str, Any] = self.ok(
            "person/merge", {"people": [{"fields": fields}], "merge_by": merge_by or ["str::email"], **more}
        )["people"][0]
        return person


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Ortto, Receiver]]:
    """One vendor and one receiver for all tests: to stop a server takes half a second."""
    courier = Courier(threads=4)
    vendor = Ortto(courier, Clock())
    vendor.start()
    receiver = Receiver()
    yield vendor, receiver
    receiver.stop()
    vendor.stop()
    courier.stop()


@pytest.fixture
def ortto(servers: tuple[Ortto, Receiver], clock: Clock) -> Ortto:
    vendor = servers[0]
    vendor.clock = clock
    vendor.target = None
    vendor.courier.switches = Switches()
    vendor.reset()
    return vendor


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def api(ortto: Ortto) -> Iterator[Api]:
    api = Api(ortto)
    yield api
    api.session.close()


@pytest.fixture
def receiver(servers: tuple[Ortto, Receiver], ortto: Ortto) -> Receiver:
    receiver = servers[1]
    receiver.got, receiver.answers = [], []
    ortto.target = Target(receiver.url, {"X-Relay-Secret": "s3cret"})
    return receiver


@pytest.fixture
def ann(ortto: Ortto) -> str:
    return ortto.add_person("ann@example.test", first_name="Ann", last_name="Keller", kommo_lead_id="7351")


def fields_of(ortto: Ortto, email: str) -> dict[str, Any]:
    fields: dict[str, Any] = ortto.person(email)["fields"]
    return fields


def activity(email: str = "ann@example.test", **more: Any) -> dict[str, Any]:
    return {
        "activity_id": STAGE_CHANGED,
        "attributes": {"str:cm:stage": "Qualification", "int:cm:deal-value": 1_250_000},
        "fields": {"str::email": email},
        **more,
    }


def create(*activities: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"activities": list(activities), "merge_by": ["str::email"], **more}


# -- the door -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{"X-Api-Key": None}, {"X-Api-Key": "PRV-other"}])
def test_a_missing_or_wrong_key_is_refused(api: Api, headers: dict[str, Any]) -> None:
    response = api.call("person/get", {}, headers=headers)
    assert response.status_code == 401
    assert response.json()["error"] == "Invalid API key"


def test_a_disconnected_key_is_refused(ortto: Ortto, api: Api) -> None:
    ortto.switch(disconnected=True)
    assert api.refused(401, "person/get", {}) == {"error": "API key is disconnected"}


@pytest.mark.parametrize("path", ["persons/merge", "person", "nothing"])
def test_unknown_paths_are_not_found(api: Api, path: str) -> None:
    assert api.refused(404, path, {}) == {"error": "Unknown endpoint or method"}


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "person/get"), ("PUT", "person/merge"), ("POST", "definitions/activity/modify")]
)
def test_a_wrong_verb_is_not_allowed(api: Api, method: str, path: str) -> None:
    api.refused(405, path, {}, method)


def test_a_needed_body_that_is_absent_is_not_found(api: Api) -> None:
    api.refused(404, "person/merge")


@pytest.mark.parametrize("raw", [b"{", b"[]", b'{"people": NaN}', b'"people"', b"\xff"])
def test_a_body_that_is_no_json_object_is_refused(api: Api, ortto: Ortto, raw: bytes) -> None:
    response = api.session.post(f"{ortto.url}/v1/person/merge", data=raw, timeout=30)
    assert response.status_code == 400


def test_a_body_above_two_megabytes_is_refused_with_the_switched_status(api: Api, ortto: Ortto) -> None:
    big = {"people": [], "padding": "x" * 2_000_000}
    api.refused(400, "person/merge", big)
    ortto.switch(size_status=413)
    api.refused(413, "person/merge", big)


def test_answers_carry_no_rate_limit_headers_and_end_with_a_newline(api: Api) -> None:
    response = api.call("person/get", {})
    assert response.text.endswith("}\n")
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert not [name for name in response.headers if "rate" in name.lower() or name.lower() == "retry-after"]


def test_an_injected_429_has_an_object_as_error(api: Api, ortto: Ortto) -> None:
    ortto.switch(try_in_seconds=7)
    ortto.faults.add(path="/v1/person/merge", status=429, times=1)
    response = api.call("person/merge", {})
    assert response.status_code == 429
    assert response.json() == {"error": {"code": "rate-limit", "message": "rate limit", "try-in-seconds": 7}}


def test_an_injected_503_has_the_usual_envelope(api: Api, ortto: Ortto) -> None:
    ortto.faults.add(status=503, times=1)
    assert api.refused(503, "person/get", {}) == {"error": "Service unavailable"}


def test_calls_above_the_plans_rate_have_to_wait(api: Api, ortto: Ortto, clock: Clock) -> None:
    ortto.switch(rate=2)
    statuses = [api.call("person/get", {}).status_code for _ in range(3)]
    clock.now += 1
    assert [*statuses, api.call("person/get", {}).status_code] == [200, 200, 429, 200]


def test_the_feed_takes_one_call_a_second(api: Api, ortto: Ortto, ann: str, clock: Clock) -> None:
    ortto.switch(rate=30)
    statuses = [api.call("person/get/activities", {"person_id": ann}).status_code for _ in range(2)]
    clock.now += 1
    assert [*statuses, api.call("person/get/activities", {"person_id": ann}).status_code] == [200, 429, 200]


def test_fifteen_bad_requests_in_fifteen_seconds_ban_the_address(api: Api, ortto: Ortto, clock: Clock) -> None:
    ortto.switch(ban=True)
    for _ in range(15):
        api.refused(400, "person/merge", {"people": []})
    banned = api.call("person/get", {})
    assert banned.status_code == 429
    assert banned.json()["error"]["try-in-seconds"] == 15
    clock.now += 15
    api.ok("person/get", {})


def test_fifteen_calls_with_a_bad_key_ban_the_address(api: Api, ortto: Ortto) -> None:
    ortto.switch(ban=True)
    for _ in range(15):
        api.call("person/get", {}, headers={"X-Api-Key": "PRV-other"})
    assert api.call("person/get", {}).status_code == 429


def test_bad_requests_spread_over_time_ban_nobody(api: Api, ortto: Ortto, clock: Clock) -> None:
    ortto.switch(ban=True)
    for _ in range(20):
        api.refused(400, "person/merge", {"people": []})
        clock.now += 2
    api.ok("person/get", {})


def test_too_many_sync_merges_at_once_fail_but_not_those_by_id(
    api: Api, ortto: Ortto, ann: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first merge lasts until the others are answered."""
    ortto.switch(merge_limit=1, merge_seconds=0.3)
    lasting: list[float] = []
    over = threading.Event()

    def last(seconds: float) -> None:
        lasting.append(seconds)
        assert over.wait(30)

    monkeypatch.setattr(limits, "time", SimpleNamespace(sleep=last))
    statuses: list[int] = []

    def merge(merge_by: str, value: str) -> None:
        with requests.Session() as session:
            answer = session.post(
                f"{ortto.url}/v1/person/merge",
                json={"people": [{"fields": {merge_by: value}}], "merge_by": [merge_by]},
                headers={"X-Api-Key": ortto.api_key},
                timeout=30,
            )
        statuses.append(answer.status_code)

    threads = [
        threading.Thread(target=merge, args=("str::email", f"p{number}@example.test")) for number in range(3)
    ]
    threads.append(threading.Thread(target=merge, args=("str::person_id", ann)))
    for thread in threads:
        thread.start()
    eventually(lambda: sorted(statuses) == [200, 503, 503])
    over.set()
    for thread in threads:
        thread.join()
    assert (sorted(statuses), lasting) == ([200, 200, 503, 503], [0.3])


# -- person/merge -------------------------------------------------------------------------------------------


def test_a_person_is_created_then_merged(api: Api, ortto: Ortto) -> None:
    created = api.merge({"str::email": "ann@example.test", LEAD_ID: "7351"})
    assert created == {"person_id": created["person_id"], "status": "created"}
    assert re.fullmatch(r"0069a80322[0-9a-f]{12}00", created["person_id"])
    assert api.merge({"str::email": "ann@example.test", "str::first": "Ann"}) == {**created, "status": "merged"}
    assert ortto.person("ann@example.test") == {
        "id": created["person_id"],
        "created": NOW,
        "seen": NOW,
        "fields": {"str::email": "ann@example.test", LEAD_ID: "7351", "bol::p": True, "str::first": "Ann"},
        "tags": [],
    }


def test_an_unknown_field_refuses_the_person_in_the_recorded_words(api: Api, ortto: Ortto) -> None:
    problem = "failed to validate field str::nope in schema: str::nope: Object not found"
    body = {"people": [{"fields": {"str::email": "ann@example.test", "str::nope": "x"}}]}
    assert api.refused(400, "person/merge", body) == {
        "error": f"No valid contacts provided ({problem})",
        "details": [{"status": "invalid", "error": problem}],
    }
    assert ortto.state()["people"] == []


@pytest.mark.parametrize(
    ("field_id", "value"),
    [
        ("str::email", {"v": "ann@example.test"}),
        ("str::first", 5),
        ("str::first", "x" * 256),
        (LEAD_ID, {"v": "7351"}),
        (LEAD_ID, 7351),
        ("int:cm:company-size", {"v": 12}),
        ("int:cm:company-size", 12.5),
        ("int:cm:company-size", "12"),
        ("int:cm:company-size", True),
        ("bol::p", {"v": True}),
        ("bol::p", "true"),
        ("bol::hb", True),
        ("dtz::b", "2000-01-01"),
        ("phn::phone", "+4930123456"),
        ("geo::city", "Berlin"),
        ("str::kommo_lead_id", "7351"),
        ("str::person_id", "0069a80d40c1e5a07b3f2d00"),
    ],
)
def test_a_value_of_the_wrong_type_or_field_refuses_the_person(api: Api, field_id: str, value: Any) -> None:
    body = {"people": [{"fields": {"str::ei": "1", field_id: value}}], "merge_by": ["str::ei"]}
    refusal = api.refused(400, "person/merge", body)
    assert refusal["details"][0]["error"].startswith(f"failed to validate field {field_id} in schema: {field_id}: ")


def test_values_of_the_right_types_are_taken(api: Api, ortto: Ortto) -> None:
    fields = {
        "str::email": "ann@example.test",
        "int:cm:company-size": 12,
        "bol::gdpr": True,
        "dtz::b": {"year": 2000, "month": 1, "day": 2, "timezone": "Europe/Berlin"},
        "phn::phone": {"c": "49", "n": "30123456"},
        "geo::city": {"name": "Berlin"},
        "str::u-ctx": "Unsubscribed in Kommo",
        "bol::p": False,
    }
    api.merge(fields)
    assert fields_of(ortto, "ann@example.test") == fields


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"people": []},
        {"people": {}},
        {"people": [{"fields": {"str::email": "a@example.test"}}] * 101},
        {"people": ["ann@example.test"]},
        {"people": [{}]},
        {"people": [{"fields": {}}]},
        {"people": [{"fields": {LEAD_ID: "7351"}}], "merge_by": [LEAD_ID]},
        {"people": [{"fields": {"str::email": "a@example.test"}, "tags": "kommo"}]},
        {"people": [{"fields": {"str::email": "a@example.test"}, "location": "Berlin"}]},
        {"people": [{"fields": {"str::email": "a@example.test"}}], "merge_by": ["str::nope"]},
        {"people": [{"fields": {"str::email": "a@example.test"}}], "merge_by": "str::email"},
        {"people": [{"fields": {"str::email": "a@example.test"}}], "merge_by": ["str::email"] * 4},
        {"people": [{"fields": {"str::email": "a@example.test"}}], "merge_by": ["str::person_id", "str::email"]},
        {"people": [{"fields": {"str::email": "a@example.test"}}], "merge_strategy": 4},
        {"people": [{"fields": {"str::email": "a@example.test"}}], "find_strategy": "any"},
        {"people": [{"fields": {"str::person_id": "0069a80d40c1e5a07b3f2d00"}}], "merge_by": ["str::person_id"]},
    ],
)
def test_merges_that_make_no_sense_are_refused(api: Api, ortto: Ortto, body: dict[str, Any]) -> None:
    api.refused(400, "person/merge", body)
    assert ortto.state()["people"] == []


def test_a_malformed_person_id_is_refused_in_the_recorded_words(api: Api) -> None:
    body = {"people": [{"fields": {"str::person_id": "12345"}}], "merge_by": ["str::person_id"]}
    refusal = api.refused(400, "person/merge", body)
    assert "cannot unmarshal into an ID, the length must be 12 or 24 + 2 for hex but it is 7" in refusal["error"]


def test_one_bad_person_of_a_batch_is_answered_in_place_and_the_others_are_merged(api: Api, ortto: Ortto) -> None:
    people = [
        {"fields": {"str::email": "a@example.test", "str::nope": "x"}},
        {"fields": {"str::email": "b@example.test"}},
    ]
    answer = api.ok("person/merge", {"people": people})
    assert [person["status"] for person in answer["people"]] == ["invalid", "created"]
    assert [person["fields"]["str::email"] for person in ortto.state()["people"]] == ["b@example.test"]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (1, {"str::first": "Ann", "str::last": "Keller"}),
        (2, {"str::first": "Anna", "str::last": "Keller"}),
        (3, {"str::first": "Ann"}),
        (None, {"str::first": "Anna", "str::last": "Keller"}),
    ],
)
def test_the_strategy_says_what_happens_to_values(
    api: Api, ortto: Ortto, strategy: int | None, expected: dict[str, str]
) -> None:
    api.merge({"str::email": "ann@example.test", "str::first": "Ann"})
    change = {"str::email": "ann@example.test", "str::first": "Anna", "str::last": "Keller"}
    assert api.merge(change, merge_strategy=strategy)["status"] == "merged"
    assert fields_of(ortto, "ann@example.test") == {"str::email": "ann@example.test", "bol::p": True, **expected}


def test_null_clears_a_value_and_an_empty_string_is_one(api: Api, ortto: Ortto, ann: str) -> None:
    api.merge({"str::email": "ann@example.test", "str::first": None, "str::last": ""})
    api.merge({"str::email": "ann@example.test", "str::first": "Anna", "str::last": "Karl"}, merge_strategy=1)
    fields = fields_of(ortto, "ann@example.test")
    assert (fields["str::first"], fields["str::last"]) == ("Anna", "")


def test_by_default_any_merge_field_finds_the_person_in_the_order_given(api: Api, ann: str) -> None:
    bo = api.merge({"str::email": "bo@example.test", LEAD_ID: "7420"})["person_id"]
    merge_by = [LEAD_ID, "str::email"]
    assert api.merge({LEAD_ID: "7420", "str::email": "ann@example.test"}, merge_by)["person_id"] == bo
    assert api.merge({LEAD_ID: "1", "str::email": "ann@example.test"}, merge_by)["person_id"] == ann


def test_find_strategy_one_goes_on_only_where_the_first_field_is_empty(api: Api, ann: str) -> None:
    merge_by = [LEAD_ID, "str::email"]
    other = api.merge({LEAD_ID: "1", "str::email": "ann@example.test"}, merge_by, find_strategy=1)
    assert other["status"] == "created"
    bo = api.merge({"str::email": "bo@example.test"})["person_id"]
    found = api.merge({LEAD_ID: "2", "str::email": "bo@example.test"}, merge_by, find_strategy=1)
    assert found == {"person_id": bo, "status": "merged"}


def test_find_strategy_two_wants_all_fields_to_match(api: Api, ann: str) -> None:
    merge_by = [LEAD_ID, "str::email"]
    found = api.merge({LEAD_ID: "7351", "str::email": "ann@example.test"}, merge_by, find_strategy=2)
    other = api.merge({LEAD_ID: "1", "str::email": "ann@example.test"}, merge_by, find_strategy=2)
    assert (found["person_id"], other["status"]) == (ann, "created")


def test_alternative_fields_find_a_person_too(api: Api, ann: str) -> None:
    found = api.merge(
        {"str::email": "x@example.test", "str::ei": "7351"}, ["str::ei"], merge_by_alt_fields={"str::ei": LEAD_ID}
    )
    assert found == {"person_id": ann, "status": "merged"}


def test_a_person_named_by_id_may_change_the_email(api: Api, ortto: Ortto, ann: str) -> None:
    merged = api.merge({"str::person_id": ann, "str::email": "ann.k@example.test"}, ["str::person_id"])
    assert merged == {"person_id": ann, "status": "merged"}
    assert ortto.person("ann.k@example.test")["id"] == ann
    with pytest.raises(KeyError):
        ortto.person("ann@example.test")


def test_skip_non_existing_creates_nobody(api: Api, ortto: Ortto) -> None:
    assert api.merge({"str::email": "ann@example.test"}, skip_non_existing=True) == {"status": "skipped"}
    assert ortto.state()["people"] == []


def test_a_suppressed_email_is_refused_only_for_new_people_and_only_on_request(
    api: Api, ortto: Ortto, ann: str
) -> None:
    for email in ("ann@example.test", "bo@example.test", "chi@example.test"):
        ortto.suppress(email)
    body = {"people": [{"fields": {"str::email": "bo@example.test"}}], "suppression_list_field_id": "str::email"}
    assert api.refused(400, "person/merge", body) == {
        "error": "No valid contacts provided (Email is suppressed)",
        "details": [{"status": "suppressed", "error": "Email is suppressed"}],
    }
    known = api.merge({"str::email": "ann@example.test"}, suppression_list_field_id="str::email")
    assert known == {"person_id": ann, "status": "merged"}
    assert api.merge({"str::email": "chi@example.test"})["status"] == "created"


def test_tags_are_added_removed_and_listed(api: Api, ortto: Ortto) -> None:
    person = {"fields": {"str::email": "ann@example.test"}}
    api.ok("person/merge", {"people": [{**person, "tags": ["kommo", "cold"]}]})
    api.ok("person/merge", {"people": [{**person, "tags": ["warm"], "unset_tags": ["cold"]}]})
    assert ortto.person("ann@example.test")["tags"] == ["kommo", "warm"]
    tags = api.ok("tags/get")
    assert [(tag["id"], tag["name"], tag["count"]) for tag in tags] == [
        (1, "kommo", 1),
        (2, "cold", 0),
        (3, "warm", 1),
    ]
    assert [tag["name"] for tag in api.ok("tags/get", {"q": "KOM"})] == ["kommo"]


def test_an_async_merge_is_queued_and_applied_later(api: Api, ortto: Ortto, clock: Clock) -> None:
    ortto.switch(async_seconds=5)
    assert api.merge({"str::email": "ann@example.test"}, **{"async": True}) == {"status": "queued"}
    assert (ortto.state()["people"], ortto.state()["counters"]["queued"]) == ([], 1)
    clock.now += 5
    assert fields_of(ortto, "ann@example.test") == {"str::email": "ann@example.test", "bol::p": True}


def test_an_unsubscribe_by_the_api_shows_in_the_feed(api: Api, ann: str) -> None:
    api.merge({"str::email": "ann@example.test", "bol::p": False, "str::u-ctx": "Unsubscribed in Kommo"})
    [entry] = api.ok("person/get/activities", {"person_id": ann})["activities"]
    assert entry == {
        "id": entry["id"],
        "attr": {"str::is": "API", "str::u-ctx": "Unsubscribed in Kommo"},
        "created_at": "2026-03-04T10:02:10Z",
        "field_id": "act::u-all",
        "render_cmds": [{"content": "Unsubscribed from email"}, {"content": "."}],
    }


# -- activities/create --------------------------------------------------------------------------------------


def test_an_activity_upserts_the_person_and_is_stored(api: Api, ortto: Ortto) -> None:
    sent = activity(created="2026-03-04T10:00:00Z", key="kommo-1")
    sent["fields"][LEAD_ID] = "7351"
    assert api.ok("activities/create", create(sent)) == {
        "activities": [{"status": "queued", "person_status": "queued"}]
    }
    state = ortto.state()
    [stored] = state["activities"]
    assert stored == {
        "id": stored["id"],
        "activity_id": STAGE_CHANGED,
        "person_id": state["people"][0]["id"],
        "email": "ann@example.test",
        "attributes": {"str:cm:stage": "Qualification", "int:cm:deal-value": 1_250_000},
        "created": "2026-03-04T10:00:00Z",
        "key": "kommo-1",
        "received_at": NOW,
        "created_at": NOW - 130,
    }
    assert state["people"][0]["fields"][LEAD_ID] == "7351"
    assert [definition["state"] for definition in state["definitions"]] == ["live"]


def test_the_documented_reply_names_person_and_activity(api: Api, ortto: Ortto) -> None:
    ortto.switch(reply="ingested")
    [created] = api.ok("activities/create", create(activity()))["activities"]
    [updated] = api.ok("activities/create", create(activity()))["activities"]
    ann = ortto.person("ann@example.test")["id"]
    assert created == {
        "person_id": ann,
        "status": "ingested",
        "person_status": "created",
        "activity_id": STAGE_CHANGED,
    }
    assert updated == {**created, "person_status": "updated"}


def test_the_queued_reply_echoes_only_a_person_id_that_was_given(api: Api, ortto: Ortto, ann: str) -> None:
    sent = {**activity(), "person_id": ann, "fields": {"str::nope": "ignored"}}
    assert api.ok("activities/create", create(sent)) == {
        "activities": [{"person_id": ann, "status": "queued", "person_status": "queued"}]
    }
    assert ortto.state()["activities"][0]["person_id"] == ann


def test_async_and_long_backdated_activities_are_queued_in_either_mode(api: Api, ortto: Ortto) -> None:
    ortto.switch(reply="ingested")
    body = create(activity(created="2025-11-01T00:00:00Z"))
    assert api.ok("activities/create", body)["activities"][0]["status"] == "queued"
    assert api.ok("activities/create", create(activity(), **{"async": True}))["activities"][0]["status"] == "queued"


def test_queued_activities_are_applied_after_the_switched_time(api: Api, ortto: Ortto, clock: Clock) -> None:
    ortto.switch(async_seconds=3)
    api.ok("activities/create", create(activity()))
    assert ortto.state()["activities"] == []
    clock.now += 3
    assert len(ortto.state()["activities"]) == 1


def test_merge_by_and_strategy_work_inside_an_activity_too(api: Api, ortto: Ortto, ann: str) -> None:
    sent = activity(merge_by=[LEAD_ID], merge_strategy=1)
    sent["fields"] = {LEAD_ID: "7351", "str::first": "Anna"}
    api.ok("activities/create", {"activities": [sent]})
    assert ortto.state()["activities"][0]["person_id"] == ann
    assert fields_of(ortto, "ann@example.test")["str::first"] == "Ann"


def test_the_strategy_at_the_top_counts_for_all_activities(api: Api, ortto: Ortto, ann: str) -> None:
    sent = activity()
    sent["fields"]["str::first"] = "Anna"
    api.ok("activities/create", create(sent, merge_strategy=1))
    assert fields_of(ortto, "ann@example.test")["str::first"] == "Ann"
    api.ok("activities/create", create(sent))
    assert fields_of(ortto, "ann@example.test")["str::first"] == "Anna"


def test_a_repeat_of_key_and_created_is_answered_as_usual_but_stored_once(api: Api, ortto: Ortto) -> None:
    body = create(activity(key="kommo-1", created="2026-03-04T10:00:00Z"))
    same_moment = create(activity(key="kommo-1", created="2026-03-04T11:00:00+01:00"))
    answers = [api.ok("activities/create", sent) for sent in (body, body, same_moment)]
    assert answers[0] == answers[1] == answers[2]
    assert len(ortto.state()["activities"]) == 1
    assert ortto.state()["counters"] == {"duplicates": 2, "dropped": 0, "queued": 0}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"key": "kommo-1"}, {"key": "kommo-1"}),
        ({"created": "2026-03-04T10:00:00Z"}, {"created": "2026-03-04T10:00:00Z"}),
        ({"key": "k", "created": "2026-03-04T10:00:00Z"}, {"key": "k", "created": "2026-03-04T10:00:01Z"}),
    ],
)
def test_only_key_and_created_together_name_an_event(api: Api, ortto: Ortto, first: Any, second: Any) -> None:
    api.ok("activities/create", create(activity(**first), activity(**second)))
    assert len(ortto.state()["activities"]) == 2


def test_more_than_fifty_events_of_a_contact_in_a_day_are_dropped_silently(
    api: Api, ortto: Ortto, clock: Clock
) -> None:
    body = create(*[activity()] * 60)
    assert len(api.ok("activities/create", body)["activities"]) == 60
    assert (len(ortto.state()["activities"]), ortto.state()["counters"]["dropped"]) == (50, 10)
    clock.now += 86_400
    api.ok("activities/create", create(activity()))
    assert len(ortto.state()["activities"]) == 51


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"activity_id": "act:cm:nope"}, "failed to validate activity act:cm:nope in schema"),
        ({"activity_id": "crm_stage_qualification"}, "failed to validate activity crm_stage_qualification"),
        ({"activity_id": None}, "failed to validate activity None"),
        ({"attributes": {"str:cm:nope": "x"}}, "failed to validate attribute str:cm:nope in schema"),
        ({"attributes": {"str:cm:stage": {"v": "x"}}}, "failed to validate attribute str:cm:stage in schema"),
        ({"attributes": {"int:cm:deal-value": 12.5}}, "failed to validate attribute int:cm:deal-value"),
        ({"attributes": {"dbl::deal_value": 12}}, "failed to validate attribute dbl::deal_value"),
        ({"attributes": {f"str:cm:a{number}": "x" for number in range(16)}}, "at most 15 attributes"),
        ({"attributes": []}, "attributes must be an object"),
        ({"attributes": {"str:cm:stage": "x" * 16_000}}, "at most 16000 bytes"),
        ({"fields": {"str::email": {"v": "ann@example.test"}}}, "failed to validate field str::email"),
        ({"fields": {"str::email": "a@example.test", "str::nope": "x"}}, "str::nope: Object not found"),
        ({"fields": None}, "fields must be an object"),
        ({"fields": {}}, "either email or external id"),
        ({"person_id": "12345"}, "cannot unmarshal into an ID"),
        ({"person_id": "0069a80d40c1e5a07b3f2d00"}, "Object not found"),
        ({"created": "yesterday"}, "RFC 3339"),
        ({"created": "2026-03-04T10:00:00"}, "RFC 3339"),
        ({"created": 1772618400}, "RFC 3339"),
        ({"key": 5}, "key must be a string"),
        ({"location": "Berlin"}, "location must be an object"),
    ],
)
def test_an_activity_that_makes_no_sense_is_refused(
    api: Api, ortto: Ortto, change: dict[str, Any], problem: str
) -> None:
    refusal = api.refused(400, "activities/create", create({**activity(), **change}))
    assert refusal["error"] == f"No valid activities provided ({refusal['details'][0]['error']})"
    assert problem in refusal["details"][0]["error"]
    assert (ortto.state()["activities"], ortto.state()["people"]) == ([], [])


@pytest.mark.parametrize(
    "body",
    [{}, {"activities": []}, create(*[activity()] * 101), create(activity(), merge_strategy=0)],
)
def test_a_call_without_activities_or_with_too_many_is_refused(api: Api, body: dict[str, Any]) -> None:
    api.refused(400, "activities/create", body)


def test_the_conversion_value_is_taken_on_every_activity(api: Api, ortto: Ortto) -> None:
    api.ok("activities/create", create(activity(attributes={"int::v": 15300})))
    assert ortto.state()["activities"][0]["attributes"] == {"int::v": 15300}


def test_one_invalid_activity_refuses_the_batch(api: Api, ortto: Ortto) -> None:
    body = create(activity(), activity(activity_id="act:cm:nope"))
    problem = "failed to validate activity act:cm:nope in schema: act:cm:nope: Object not found"
    assert api.refused(400, "activities/create", body) == {
        "error": f"No valid activities provided ({problem})",
        "details": [{"status": "invalid", "error": problem}],
    }
    assert ortto.state()["activities"] == []


def test_one_invalid_activity_is_answered_in_place_when_switched_so(api: Api, ortto: Ortto) -> None:
    ortto.switch(partial=True)
    body = create(activity(activity_id="act:cm:nope"), activity())
    assert api.ok("activities/create", body)["activities"] == [
        {
            "status": "invalid",
            "error": "failed to validate activity act:cm:nope in schema: act:cm:nope: Object not found",
        },
        {"status": "queued", "person_status": "queued"},
    ]
    assert len(ortto.state()["activities"]) == 1
    api.refused(400, "activities/create", create(activity(activity_id="act:cm:nope")))


# -- definitions and custom fields --------------------------------------------------------------------------


def test_a_definition_is_created_modified_and_archived(api: Api, clock: Clock) -> None:
    body = {
        "name": "Deal won",
        "icon_id": "moneys-illustration-icon",
        "track_conversion_value": True,
        "display_style": {"type": "activity_attribute", "attribute_name": "Won by"},
        "attributes": [{"name": "Won by", "display_type": "text"}, {"name": "sum", "display_type": "decimal"}],
    }
    made = api.ok("definitions/activity/create", body)["custom_activity"]
    assert made == {
        "name": "Deal won",
        "activity_field_id": "act:cm:deal-won",
        "state": "awaiting_implementation",
        "display_mode": {"type": "activity_attribute", "attribute_field_id": "str:cm:won-by"},
        "attributes": [
            {
                "name": "Won by",
                "field_id": "str:cm:won-by",
                "display_type": "text",
                "liquid_name": "activity.custom.deal-won.won-by",
            },
            {
                "name": "sum",
                "field_id": "int:cm:sum",
                "display_type": "decimal",
                "liquid_name": "activity.custom.deal-won.sum",
            },
        ],
        "icon_id": "moneys-illustration-icon",
        "track_conversion_value": True,
        "touch": True,
        "filterable": True,
        "visible_in_feeds": True,
        "created_by": "Public API",
        "created_at": "2026-03-04T10:02:10.000Z",
        "edited_at": "2026-03-04T10:02:10.000Z",
    }
    clock.now += 1
    change = {"activity_field_id": "act:cm:deal-won", "touch": False, "attributes": body["attributes"][:1]}
    modified = api.ok("definitions/activity/modify", change, "PUT")["custom_activity"]
    assert modified == {
        **made,
        "touch": False,
        "attributes": made["attributes"][:1],
        "edited_at": "2026-03-04T10:02:11.000Z",
    }
    named = {"activity_field_id": "act:cm:deal-won"}
    archived = api.ok("definitions/activity/delete", named, "DELETE")
    assert archived == {"archived_activity": "act:cm:deal-won"}
    api.refused(404, "definitions/activity/delete", named, "DELETE")
    api.refused(400, "activities/create", create(activity(activity_id="act:cm:deal-won", attributes={})))


@pytest.mark.parametrize(
    "body",
    [
        {"name": "crm-stage-changed"},
        {"name": ""},
        {"name": "x", "attributes": [{"name": "a", "display_type": "text"}, {"name": "A", "display_type": "text"}]},
        {"name": "x", "attributes": [{"name": "a", "display_type": "dbl"}]},
        {"name": "x", "attributes": [{"display_type": "text"}]},
        {"name": "x", "attributes": [{"name": "a", "display_type": "text", "field_id": "str:cm:nope"}]},
        {"name": "x", "attributes": {}},
    ],
)
def test_definitions_that_make_no_sense_are_refused(api: Api, body: dict[str, Any]) -> None:
    api.refused(400, "definitions/activity/create", body)


def test_a_definition_that_does_not_exist_cannot_be_modified(api: Api) -> None:
    api.refused(404, "definitions/activity/modify", {"name": "nope"}, "PUT")


def test_a_custom_field_is_created_and_listed(api: Api, ortto: Ortto) -> None:
    select = {"name": "Lead Source", "type": "single_select", "values": ["Web", "Fair"], "track_changes": True}
    assert api.ok("person/custom-field/create", select) == {
        "name": "Lead Source",
        "field_id": "str:cm:lead-source",
        "display_type": "single_select",
        "values": ["Web", "Fair"],
    }
    assert api.ok("person/custom-field/create", {"name": "Deal sum", "type": "decimal"}) == {
        "name": "Deal sum",
        "field_id": "int:cm:deal-sum",
        "display_type": "decimal",
    }
    assert api.ok("person/custom-field/get")["fields"][5] == {
        "field": {
            "id": "str:cm:lead-source",
            "name": "Lead Source",
            "display_type": "single_select",
            "liquid_name": "people.custom.lead-source",
            "dic_items": ["Web", "Fair"],
        },
        "tracked_value": True,
    }
    change = {"field_id": "str:cm:lead-source", "add_values": ["Phone"], "remove_values": ["Web"]}
    assert api.ok("person/custom-field/update", change, "PUT") == {
        "field_id": "str:cm:lead-source",
        "values": ["Fair", "Phone"],
        "track_changes": True,
    }
    api.merge({"str::email": "ann@example.test", "int:cm:deal-sum": 12_500})


@pytest.mark.parametrize("status", [423, 400])
def test_a_custom_field_that_exists_is_refused_with_the_switched_status(
    api: Api, ortto: Ortto, status: int
) -> None:
    ortto.switch(duplicate_field_status=status)
    body = {"name": "Kommo lead ID", "type": "text"}
    assert api.refused(status, "person/custom-field/create", body) == {
        "error": "Field Kommo lead ID already exists"
    }


@pytest.mark.parametrize(
    "body",
    [
        {"name": "", "type": "text"},
        {"name": "x", "type": "dbl"},
        {"name": "x", "type": "text", "values": ["a"]},
        {},
    ],
)
def test_custom_fields_that_make_no_sense_are_refused(api: Api, body: dict[str, Any]) -> None:
    api.refused(400, "person/custom-field/create", body)


def test_an_account_has_at_most_a_hundred_custom_fields(api: Api) -> None:
    for number in range(95):
        api.ok("person/custom-field/create", {"name": f"Field {number}", "type": "text"})
    api.refused(400, "person/custom-field/create", {"name": "One more", "type": "text"})


@pytest.mark.parametrize("body", [{"field_id": "str:cm:nope"}, {"field_id": LEAD_ID, "add_values": ["x"]}])
def test_updates_of_custom_fields_that_make_no_sense_are_refused(api: Api, body: dict[str, Any]) -> None:
    api.refused(400, "person/custom-field/update", body, "PUT")


def test_the_schema_shows_built_in_and_custom_fields_and_activities(api: Api) -> None:
    schema = api.ok("instance-schema/get", {"namespaces": []})["namespaces"]
    assert schema[""]["fields"]["str::email"] == {
        "id": "str::email",
        "name": "Email",
        "display_type": "email",
        "liquid_name": "people.email",
    }
    assert schema[""]["fields"]["str::u-ctx"]["read_only"] is True
    assert {"id": "bol::m", "name": "Possible machine click"}.items() <= schema[""]["fields"]["act::c"][
        "attributes"
    ][-1].items()
    custom = api.ok("instance-schema/get", {"namespaces": ["cm"]})["namespaces"]
    assert custom == {"cm": schema["cm"]}
    assert list(custom["cm"]["fields"]) == [
        "str:cm:kommo-lead-id",
        "str:cm:kommo-stage",
        "str:cm:job-title",
        "int:cm:company-size",
        "str:cm:industry",
        STAGE_CHANGED,
    ]
    assert [made["id"] for made in custom["cm"]["fields"][STAGE_CHANGED]["attributes"]] == [
        "str:cm:lead-id",
        "str:cm:stage",
        "int:cm:deal-value",
    ]


# -- reads --------------------------------------------------------------------------------------------------


def test_people_are_found_by_filter_as_a_list(api: Api, ann: str, ortto: Ortto) -> None:
    bo = ortto.add_person("bo@example.test")

    def found(condition: dict[str, Any]) -> list[str]:
        return [person["id"] for person in api.ok("person/get", {"filter": condition})["contacts"]]

    is_ann = {"$str::is": {"field_id": "str::email", "value": "ann@example.test"}}
    is_bo = {"$str::is": {"field_id": "str::email", "value": "bo@example.test"}}
    has_lead = {"$has_any_value": {"field_id": LEAD_ID}}
    assert found(is_ann) == [ann]
    assert found({"$or": [is_ann, is_bo]}) == [bo, ann]
    assert found({"$and": [has_lead, is_bo]}) == []
    assert found({"$and": [has_lead, is_ann]}) == [ann]
    assert found({"$has_no_value": {"field_id": LEAD_ID}}) == [bo]
    assert found({"$str::contains": {"field_id": "str::first", "value": "an"}}) == [ann]
    assert found({"$bol::is": {"field_id": "bol::p", "value": True}}) == [bo, ann]
    ortto.act("bo@example.test", "opened")
    assert found({"$act::has_occurred": {"field_id": "act::o"}}) == [bo]


def test_a_page_of_people_has_the_recorded_shape(api: Api, ann: str, ortto: Ortto) -> None:
    ortto.add_person("bo@example.test", fields={"bol::p": False})
    page = api.ok("person/get", {"limit": 1, "offset": 1, "fields": ["str::email", "str::first", "str::postal"]})
    assert HEX_24.fullmatch(page.pop("cursor_id"))
    assert page == {
        "contacts": [{"id": ann, "fields": {"str::email": "ann@example.test", "str::first": "Ann"}}],
        "meta": {"total_contacts": 2, "total_organizations": 0, "total_matches": 2, "total_subscribers": 1},
        "offset": 1,
        "next_offset": 2,
        "has_more": False,
    }
    assert api.ok("person/get", {"limit": 1})["has_more"] is True
    assert [person["id"] for person in api.ok("person/get", {"q": "keller"})["contacts"]] == [ann]
    ordered = api.ok("person/get", {"sort_by_field_id": "str::email", "sort_order": "asc"})
    assert ordered["contacts"][0]["id"] == ann


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"filter": {"$int::gt": {"field_id": "int:cm:company-size", "value": 1}}}, "Unknown operation $int::gt"),
        ({"filter": {"$str::is": {"field_id": "str::nope", "value": "x"}}}, "str::nope: Object not found"),
        ({"filter": {"$str::is": {"field_id": "str::email", "value": 5}}}, "needs a string"),
        ({"filter": {"$and": {}}}, "$and needs a list"),
        ({"filter": []}, "Invalid filter"),
        ({"limit": 501}, "Invalid limit 501"),
        ({"fields": ["str::nope"]}, "str::nope: Object not found"),
    ],
)
def test_bad_reads_of_people_are_refused(api: Api, body: dict[str, Any], problem: str) -> None:
    assert problem in api.refused(400, "person/get", body)["error"]


def test_people_by_ids_come_as_an_object(api: Api, ann: str) -> None:
    body = {"contact_ids": [ann, "0" * 24], "fields": ["str::email"]}
    assert api.ok("person/get-by-ids", body) == {
        "contacts": {ann: {"id": ann, "fields": {"str::email": "ann@example.test"}}}
    }
    api.refused(400, "person/get-by-ids", {"contact_ids": ["12345"]})
    api.refused(400, "person/get-by-ids", {})


def test_the_feed_is_newest_first(api: Api, ortto: Ortto, ann: str, clock: Clock) -> None:
    assert api.ok("person/get/activities", {"person_id": ann})["activities"] is None
    ortto.act("ann@example.test", "opened")
    clock.now += 60
    ortto.act("ann@example.test", "clicked")
    api.ok("activities/create", create(activity(created="2026-02-01T00:00:00Z")))

    def fed(**more: Any) -> list[str]:
        feed = api.ok("person/get/activities", {"person_id": ann, **more})
        return [entry["field_id"] for entry in feed["activities"]]

    assert fed() == ["act::c", "act::o", STAGE_CHANGED]
    assert fed(activities=["act::o"]) == ["act::o"]
    assert fed(timeframe={"type": "last-7-days"}) == ["act::c", "act::o"]
    page = api.ok("person/get/activities", {"person_id": ann, "limit": 1, "offset": 1})
    assert page["meta"] == {
        "total_activities": 3,
        "field_ids": None,
        "has_more": True,
        "retention": {"type": "time", "max_value": 90},
    }
    assert (page["offset"], page["next_offset"]) == (1, 2)
    api.refused(400, "person/get/activities", {"person_id": ann, "limit": 41})
    api.refused(400, "person/get/activities", {"person_id": "12345"})


def test_subscriptions_tell_the_permissions(api: Api, ann: str, ortto: Ortto) -> None:
    ortto.act("ann@example.test", "unsubscribed")
    assert api.ok(
        "person/subscriptions", {"people": [{"email": "ann@example.test"}, {"email": "x@example.test"}]}
    ) == {
        "people": [
            {
                "person_status": "merged",
                "person_id": ann,
                "email": "ann@example.test",
                "subscriptions": [],
                "email_permissions": False,
                "sms_permissions": False,
                "ios_permissions": False,
                "android_permissions": False,
                "web_permissions": False,
            }
        ]
    }
    api.refused(400, "person/subscriptions", {"people": [{}]})
    api.refused(400, "person/subscriptions", {})


# -- webhooks -----------------------------------------------------------------------------------------------


def test_a_dynamic_webhook_looks_like_our_template(ortto: Ortto, receiver: Receiver, ann: str) -> None:
    ortto.act("ann@example.test", "clicked")
    assert ortto.courier.wait()
    [(headers, body)] = receiver.got
    campaign_id, contact_id, run_id = body.pop("event_id").split("-")
    assert HEX_24.fullmatch(campaign_id)
    assert HEX_24.fullmatch(run_id)
    assert contact_id == ann
    assert body == {
        "type": "email.link_clicked",
        "occurred_at": "2026-03-04T10:02:10Z",
        "person": {"id": ann, "fields": {"str::email": "ann@example.test", LEAD_ID: "7351"}},
        "email": {
            "subject": "Your offer is ready",
            "link": "https://shop.example.test/offer?utm_source=ortto",
        },
    }
    assert (headers["Content-Type"], headers["X-Relay-Secret"]) == ("application/json", "s3cret")


def test_an_article_webhook_wraps_its_values(ortto: Ortto, receiver: Receiver, ann: str) -> None:
    ortto.act("ann@example.test", "opened", subject="March news", shape="article")
    assert ortto.courier.wait()
    assert receiver.bodies == [
        {
            "type": "email.opened",
            "person": {"fields": {"str::email": {"v": "ann@example.test"}, "str::kommo_lead_id": {"v": "7351"}}},
            "email": {"subject": "March news"},
        }
    ]


def test_an_activity_webhook_has_real_attribute_keys(ortto: Ortto, receiver: Receiver, ann: str) -> None:
    ortto.act("ann@example.test", "clicked", shape="activity", machine=True)
    assert ortto.courier.wait()
    [body] = receiver.bodies
    attr = body["activity"]["attr"]
    assert body == {
        "activity": {
            "id": body["activity"]["id"],
            "field_id": "act::c",
            "created": "2026-03-04T10:02:10Z",
            "attr": {
                "idt::c": attr["idt::c"],
                "str::cn": "Offer reminder",
                "str::ct": "journey",
                "idt::ei": attr["idt::ei"],
                "str::asn": "Offer reminder mail",
                "str::s": "Your offer is ready",
                "str::c": "https://shop.example.test/offer",
                "str::rc": "https://shop.example.test/offer?utm_source=ortto",
                "int::li": 2,
                "str::us": "ortto",
                "str::um": "email",
                "str::jsi": "3",
                "idt::jri": attr["idt::jri"],
                "bol::m": True,
            },
        },
        "contact": {
            "contact_id": ann,
            "email": "ann@example.test",
            "first_name": "Ann",
            "last_name": "Keller",
            "kommo_lead_id": "7351",
        },
        "id": body["id"],
        "time": body["time"],
        "webhook_id": ortto.webhook_id,
    }
    assert body["time"].startswith("2026-03-04T10:02:10")
    assert all(HEX_24.fullmatch(text) for text in (body["id"], body["activity"]["id"], attr["idt::c"]))


@pytest.mark.parametrize(
    ("event", "field_id", "keys"),
    [
        ("opened", "act::o", {"str::s", "bol::m"}),
        ("unsubscribed", "act::u-all", {"str::rn", "str::is"}),
        ("resubscribed", "act::s-all", {"str::is"}),
        ("bounced", "act::b", {"str::be", "str::bc", "str::br", "str::bt"}),
        ("journey_completed", "act::lj", {"str::pr", "idt::jri"}),
    ],
)
def test_every_event_has_its_activity_and_attributes(
    ortto: Ortto, receiver: Receiver, ann: str, event: str, field_id: str, keys: set[str]
) -> None:
    ortto.act("ann@example.test", event, shape="activity")
    assert ortto.courier.wait()
    [body] = receiver.bodies
    assert body["activity"]["field_id"] == field_id
    assert keys <= set(body["activity"]["attr"])
    assert ortto.state()["own_activities"][0]["id"] == body["activity"]["id"]


def test_a_person_without_a_name_or_lead_has_no_such_keys(ortto: Ortto, receiver: Receiver) -> None:
    bo = ortto.add_person("bo@example.test")
    ortto.act("bo@example.test", "opened", shape="activity")
    assert ortto.courier.wait()
    assert receiver.bodies[0]["contact"] == {"contact_id": bo, "email": "bo@example.test"}


def test_a_journey_webhook_is_flat_and_carries_the_activity_only_when_switched_so(
    ortto: Ortto, receiver: Receiver, ann: str
) -> None:
    ortto.act("ann@example.test", "opened", shape="journey")
    assert ortto.courier.wait()
    ortto.switch(send_activity=True)
    ortto.act("ann@example.test", "opened", shape="journey")
    assert ortto.courier.wait()
    plain, full = receiver.bodies
    assert plain == {
        "campaign_id": plain["campaign_id"],
        "campaign_name": "Offer reminder",
        "contact_id": ann,
        "email": "ann@example.test",
        "first_name": "Ann",
        "last_name": "Keller",
        "kommo_lead_id": "7351",
        "id": plain["id"],
        "run_id": plain["run_id"],
        "shape_id": "4",
        "shape_title": receiver.url,
        "time": plain["time"],
        "webhook_id": ortto.webhook_id,
    }
    assert full.pop("activity")["field_id"] == "act::o"
    assert full.keys() == plain.keys()
    assert full["campaign_id"] == plain["campaign_id"]
    assert full["run_id"] != plain["run_id"]
    assert full["id"] != plain["id"]


def test_a_playbooks_webhook_names_its_action(ortto: Ortto, receiver: Receiver, ann: str) -> None:
    ortto.act("ann@example.test", "opened", shape="playbook")
    assert ortto.courier.wait(5)
    [body] = receiver.bodies
    assert body == {
        "campaign_id": body["campaign_id"],
        "campaign_name": "Offer reminder",
        "contact_id": ann,
        "email": "ann@example.test",
        "first_name": "Ann",
        "last_name": "Keller",
        "kommo_lead_id": "7351",
        "action_id": "7",
        "action_name": "Send to webhook",
        "time": body["time"],
    }


def test_the_test_button_needs_no_person(ortto: Ortto, receiver: Receiver) -> None:
    ortto.act("", "opened", shape="test")
    assert ortto.courier.wait()
    [body] = receiver.bodies
    assert body == {
        "activity": {
            "id": body["activity"]["id"],
            "field_id": "act::test_webhook",
            "created": "2026-03-04T10:02:10Z",
            "attr": {},
        },
        "contact": {
            "contact_id": "000000000000000000000000",
            "email": "test.contact@example.test",
            "first_name": "Test",
            "last_name": "Contact",
        },
        "id": body["id"],
        "time": body["time"],
        "webhook_id": ortto.webhook_id,
    }


def test_unsubscribing_bouncing_and_resubscribing_change_the_person(ortto: Ortto, ann: str) -> None:
    ortto.act("ann@example.test", "unsubscribed")
    ortto.act("ann@example.test", "bounced")
    fields = fields_of(ortto, "ann@example.test")
    assert (fields["bol::p"], fields["bol::hb"]) == (False, True)
    ortto.act("ann@example.test", "resubscribed")
    assert fields_of(ortto, "ann@example.test")["bol::p"] is True


def test_without_a_target_the_event_happens_and_nothing_is_sent(ortto: Ortto, ann: str) -> None:
    ortto.act("ann@example.test", "opened")
    assert [webhook["outcome"] for webhook in ortto.state()["webhooks"]] == ["no target"]
    with pytest.raises(ValueError, match="set the target first"):
        ortto.act("", "opened", shape="test")


@pytest.mark.parametrize(
    ("status", "attempts"), [(500, 13), (409, 13), (415, 13), (400, 1), (401, 1), (403, 1), (404, 1), (405, 1)]
)
def test_failed_webhooks_are_retried_twelve_times_but_for_five_statuses(
    ortto: Ortto, receiver: Receiver, ann: str, status: int, attempts: int
) -> None:
    ortto.courier.switches.retry_scale = 1e-7
    receiver.answers = [(status, b"{}")] * 20
    ortto.act("ann@example.test", "opened", shape="activity")
    assert ortto.courier.wait()
    [webhook] = ortto.state()["webhooks"]
    assert (webhook["attempts"], webhook["outcome"]) == ([status] * attempts, "failed")
    assert all(body == receiver.bodies[0] for body in receiver.bodies)


def test_a_retried_webhook_that_is_taken_counts_as_delivered(ortto: Ortto, receiver: Receiver, ann: str) -> None:
    ortto.courier.switches.retry_scale = 1e-7
    receiver.answers = [(503, b"")]
    ortto.act("ann@example.test", "opened")
    assert ortto.courier.wait()
    [webhook] = ortto.state()["webhooks"]
    assert (webhook["attempts"], webhook["outcome"]) == ([503, 200], "delivered")


@pytest.mark.parametrize(
    ("shape", "outcome"),
    [("journey", "failed"), ("playbook", "failed"), ("activity", "delivered"), ("dynamic", "delivered")],
)
def test_only_actions_need_json_in_return(
    ortto: Ortto, receiver: Receiver, ann: str, shape: str, outcome: str
) -> None:
    receiver.answers = [(200, b"OK")]
    ortto.act("ann@example.test", "opened", shape=shape)
    assert ortto.courier.wait()
    assert ortto.state()["webhooks"][0]["outcome"] == outcome


@pytest.mark.parametrize(
    ("shape", "first_name"), [("journey", "Overwritten"), ("playbook", "Overwritten"), ("activity", "Ann")]
)
def test_fields_in_the_answer_to_a_journey_are_written_to_the_contact(
    ortto: Ortto, receiver: Receiver, ann: str, shape: str, first_name: str
) -> None:
    receiver.answers = [(200, b'{"fields": {"str::first": "Overwritten"}, "merge_strategy": 2}')]
    ortto.act("ann@example.test", "opened", shape=shape)
    assert ortto.courier.wait()
    assert fields_of(ortto, "ann@example.test")["str::first"] == first_name


def test_bad_fields_in_the_answer_to_a_journey_are_noted(ortto: Ortto, receiver: Receiver, ann: str) -> None:
    receiver.answers = [(200, b'{"fields": {"str::nope": "x"}}')]
    ortto.act("ann@example.test", "opened", shape="journey")
    assert ortto.courier.wait()
    [webhook] = ortto.state()["webhooks"]
    assert (webhook["outcome"], webhook["problem"]) == (
        "delivered",
        "not written back: failed to validate field str::nope in schema: str::nope: Object not found",
    )


def test_changes_by_the_api_come_back_when_activities_are_synced(
    api: Api, ortto: Ortto, receiver: Receiver, ann: str
) -> None:
    api.merge({"str::email": "ann@example.test", "bol::p": False})
    ortto.switch(echo=True)
    api.merge({"str::email": "ann@example.test", "bol::p": True, "str::s-ctx": "Resubscribed in Kommo"})
    assert ortto.courier.wait()
    [body] = receiver.bodies
    assert body["activity"]["field_id"] == "act::s-all"
    assert body["activity"]["attr"] == {"str::is": "API", "str::s-ctx": "Resubscribed in Kommo"}


# -- levers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("email", "event", "shape"),
    [("ann@example.test", "burned", "dynamic"), ("ann@example.test", "opened", "square")],
)
def test_unknown_events_and_shapes_are_a_value_error(
    ortto: Ortto, ann: str, email: str, event: str, shape: str
) -> None:
    with pytest.raises(ValueError, match="must be one of"):
        ortto.act(email, event, shape=shape)


def test_an_act_of_nobody_is_a_key_error(ortto: Ortto) -> None:
    with pytest.raises(KeyError, match="no person with the email"):
        ortto.act("x@example.test", "opened")


def test_adding_a_person_with_a_bad_field_is_a_value_error(ortto: Ortto) -> None:
    with pytest.raises(ValueError, match="Object not found"):
        ortto.add_person("ann@example.test", fields={"str::nope": "x"})


def test_adding_a_person_again_updates_them(ortto: Ortto, ann: str) -> None:
    assert ortto.add_person("ann@example.test", fields={"str:cm:industry": "Shops"}) == ann
    assert fields_of(ortto, "ann@example.test")["str:cm:industry"] == "Shops"


@pytest.mark.parametrize(
    "changes",
    [
        {"nope": 1},
        {"reply": "later"},
        {"partial": 1},
        {"rate": -1},
        {"rate": True},
        {"duplicate_field_status": 409},
        {"async_seconds": "5"},
    ],
)
def test_wrong_switches_are_a_value_error_and_change_nothing(ortto: Ortto, changes: dict[str, Any]) -> None:
    before = ortto.switch()
    with pytest.raises(ValueError):
        ortto.switch(ban=True, **changes)
    assert ortto.switch() == before


def test_the_control_routes_call_the_levers(ortto: Ortto, receiver: Receiver) -> None:
    control = Flask("control")
    control.register_blueprint(ortto.control)
    client = control.test_client()
    person = {"email": "ann@example.test", "first_name": "Ann", "fields": {"str:cm:industry": "Shops"}}
    added = client.post("/ortto/people", json=person).json
    assert client.get("/ortto/people/ann@example.test").json == {**ortto.person("ann@example.test"), **added}
    assert client.post("/ortto/act", json={"email": "ann@example.test", "event": "opened"}).json == {}
    assert client.post("/ortto/suppressions", json={"email": "bo@example.test"}).json == {}
    assert client.post("/ortto/switches", json={"reply": "ingested"}).json == client.get("/ortto/switches").json
    assert ortto.courier.wait()
    assert receiver.bodies[0]["type"] == "email.opened"
    assert ortto.state()["suppressed"] == ["bo@example.test"]
    assert ortto.switches.reply == "ingested"


def test_a_reset_restores_the_start_but_keeps_key_and_target(
    api: Api, ortto: Ortto, receiver: Receiver, ann: str
) -> None:
    start = Ortto(ortto.courier, ortto.clock).state()
    ortto.switch(reply="ingested", rate=1)
    ortto.suppress("bo@example.test")
    ortto.faults.add(status=500)
    api.call("person/custom-field/create", {"name": "More", "type": "text"})
    ortto.reset()
    assert ortto.state() == {**start, "target": {"url": receiver.url, "headers": {"X-Relay-Secret": "s3cret"}}}
    assert (ortto.faults.list(), list(ortto.calls)) == ([], [])


def test_many_callers_at_once_lose_nothing(ortto: Ortto) -> None:
    def send(number: int) -> None:
        caller = Api(ortto)
        for turn in range(10):
            caller.ok("activities/create", create(activity(key=f"{number}-{turn}", created="2026-03-04T10:00:00Z")))
        caller.session.close()

    threads = [threading.Thread(target=send, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = ortto.state()
    assert (len(state["people"]), len(state["activities"])) == (1, 50)


def test_what_is_made_for_a_relay_can_be_taken_away_and_made_again(ortto: Ortto, api: Api) -> None:
    ortto.forget_relay()
    assert "cm" not in api.ok("instance-schema/get", {"namespaces": []})["namespaces"]
    assert api.ok("person/custom-field/get") == {"fields": None}
    made = api.ok("person/custom-field/create", {"name": "Kommo lead ID", "type": "text"})
    assert made["field_id"] == "str:cm:kommo-lead-id"
    activity = api.ok("definitions/activity/create", {"name": "crm-stage-changed", "attributes": []})
    assert activity["custom_activity"]["activity_field_id"] == "act:cm:crm-stage-changed"
