"""The fake Encharge behaves as the vendor's pages and public code say."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
from flask import Flask

from sandbox.courier import Courier, Target
from sandbox.encharge import Encharge

NOW = 1_780_000_000.123
NOW_TEXT = "2026-05-28T20:26:40.123Z"
MARTA = "Marta.Keller@northbay-logistics.example"
PROPOSAL = "Proposal follow-up - May"


class Api:
    """Calls one host with a key."""

    def __init__(self, base: str, key: str) -> None:
        self.base = base
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["X-Encharge-Token"] = key

    def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> requests.Response:
        options |= {"json": body} if body is not None else {}
        return self.session.request(method, f"{self.base}{path}", timeout=30, **options)


class Inbox(ThreadingHTTPServer):
    """Receives webhooks; the frame's courier says when all have come."""

    daemon_threads = True

    def __init__(self) -> None:
        inbox = self
        self.got: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []

        class Receive(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                inbox.got.append(json.loads(body))
                inbox.headers.append(dict(self.headers))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Receive)
        self.url = f"http://127.0.0.1:{self.server_port}/in"


@pytest.fixture(scope="module")
def running() -> Iterator[Encharge]:
    courier = Courier()
    vendor = Encharge(courier, clock=lambda: NOW)
    vendor.start()
    vendor.ingest.start()
    yield vendor
    vendor.stop()
    vendor.ingest.stop()
    courier.stop()


@pytest.fixture
def encharge(running: Encharge) -> Encharge:
    running.reset()
    running.target = None
    return running


@pytest.fixture
def api(encharge: Encharge) -> Iterator[Api]:
    made = Api(f"{encharge.url}/v1", encharge.api_key)
    yield made
    made.session.close()


@pytest.fixture
def ingest(encharge: Encharge) -> Iterator[Api]:
    made = Api(f"{encharge.ingest.url}/v1", encharge.write_key)
    yield made
    made.session.close()


@pytest.fixture
def inbox(encharge: Encharge) -> Iterator[Inbox]:
    server = Inbox()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    encharge.target = Target(server.url)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def levers(encharge: Encharge) -> Any:
    app = Flask("control")
    app.register_blueprint(encharge.control)
    return app.test_client()


def message(answer: requests.Response) -> str:
    error = answer.json()["error"]
    assert set(error) <= {"message", "markdown", "traceId", "errorCode", "stack"}
    return str(error["message"])


def received(encharge: Encharge, inbox: Inbox) -> list[dict[str, Any]]:
    assert encharge.courier.wait()
    got, inbox.got = inbox.got, []
    return got


# -- keys and paths ----------------------------------------------------------------------------------------


def test_a_call_without_key_is_refused_in_the_rest_envelope(api: Api) -> None:
    answer = api("GET", "/accounts/info", headers={"X-Encharge-Token": None})
    assert answer.status_code == 401
    assert message(answer) == "User not logged in: Unauthorized request: no authentication given"


def test_a_key_that_is_no_jwt_is_refused_with_its_error_code(api: Api, encharge: Encharge) -> None:
    answer = api("GET", "/accounts/info", headers={"X-Encharge-Token": encharge.write_key})
    assert answer.status_code == 401
    assert message(answer) == "Token without payload (should be JWT token)."
    assert answer.json()["error"]["errorCode"] == 10082


def test_an_account_may_have_ended(api: Api, encharge: Encharge) -> None:
    encharge.switch(account="canceled")
    assert api("GET", "/accounts/info").json()["status"] == "canceled"
    encharge.reset()
    assert api("GET", "/accounts/info").json()["status"] == "active"


def test_somebody_elses_jwt_is_refused(api: Api) -> None:
    answer = api("GET", "/accounts/info", headers={"X-Encharge-Token": "a.b.c"})
    assert answer.status_code == 401
    assert "errorCode" not in answer.json()["error"]


def test_the_key_is_taken_from_the_query_too(api: Api, encharge: Encharge) -> None:
    answer = api("GET", f"/accounts/info?token={encharge.api_key}", headers={"X-Encharge-Token": None})
    assert answer.status_code == 200


def test_bearer_is_refused_in_the_documented_dialect_only(api: Api, encharge: Encharge) -> None:
    headers = {"X-Encharge-Token": None, "Authorization": f"Bearer {encharge.api_key}"}
    assert api("GET", "/accounts/info", headers=headers).status_code == 401
    encharge.switch(dialect="article")
    assert api("GET", "/accounts/info", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nowhere"),
        ("POST", "/events"),
        ("GET", "/broadcasts/501/activity"),
        ("GET", "/event-subscriptions"),
        ("PUT", "/people"),
    ],
)
def test_unknown_paths_and_verbs_answer_html_even_without_key(api: Api, method: str, path: str) -> None:
    answer = api(method, path, headers={"X-Encharge-Token": None})
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert f"<pre>Cannot {method} /v1{path}</pre>" in answer.text


def test_a_body_that_is_no_json_is_refused_in_the_envelope(api: Api) -> None:
    answer = api("POST", "/people", data="{", headers={"Content-Type": "application/json"})
    assert (answer.status_code, message(answer)) == (400, "Bad Request")


@pytest.mark.parametrize("status", [401, 403, 422, 429, 500])
def test_injected_faults_use_the_rest_envelope(api: Api, encharge: Encharge, status: int) -> None:
    encharge.faults.add(status=status, times=1)
    answer = api("GET", "/accounts/info")
    assert (answer.status_code, bool(message(answer))) == (status, True)
    assert ("stack" in answer.json()["error"]) is (status == 500)


# -- people ------------------------------------------------------------------------------------------------


def test_an_array_upsert_answers_users_with_all_keys_at_top_level(api: Api) -> None:
    person = {"email": MARTA, "firstName": "Marta", "lastName": "Keller", "kommo_lead_id": 7, "tags": "a,b"}
    answer = api("POST", "/people", [person])
    (user,) = answer.json()["users"]
    assert answer.status_code == 200
    assert user == {
        "id": user["id"],
        "leadScore": 0,
        "createdAt": NOW_TEXT,
        "updatedAt": NOW_TEXT,
        "lastActivity": NOW_TEXT,
        "email": MARTA,
        "firstName": "Marta",
        "lastName": "Keller",
        "kommo_lead_id": 7,
        "name": "Marta Keller",
        "tags": "a,b",
    }


def test_one_bare_object_answers_user(api: Api) -> None:
    as_json = api("POST", "/people", {"email": MARTA}).json()["user"]
    as_form = api("POST", "/people", data={"email": MARTA.lower(), "kommo_stage": "Won"}).json()["user"]
    assert (as_json["email"], as_json["tags"]) == (MARTA, None)
    assert (as_form["id"], as_form["kommo_stage"]) == (as_json["id"], "Won")


def test_people_are_matched_by_id_then_user_id_then_lower_cased_email(api: Api) -> None:
    first = api("POST", "/people", {"email": MARTA, "userId": "kommo-1"}).json()["user"]["id"]
    people = [{"id": first}, {"userId": "kommo-1"}, {"email": MARTA.upper()}, {"email": "new@x.example"}]
    ids = [user["id"] for user in api("POST", "/people", people).json()["users"]]
    assert ids[:3] == [first] * 3
    assert ids[3] != first


def test_a_second_user_id_on_an_email_makes_a_second_person(api: Api) -> None:
    first = api("POST", "/people", {"email": MARTA}).json()["user"]["id"]
    claimed = api("POST", "/people", {"email": MARTA, "userId": 1}).json()["user"]
    other = api("POST", "/people", {"email": MARTA, "userId": 2}).json()["user"]
    assert (claimed["id"], claimed["userId"]) == (first, "1")
    assert other["id"] != first
    assert api("POST", "/people", {"email": MARTA}).json()["user"]["id"] == first


def test_a_changed_email_is_found_and_the_old_one_is_not(api: Api) -> None:
    person = api("POST", "/people", {"email": MARTA, "userId": "1"}).json()["user"]
    api("POST", "/people", {"userId": "1", "email": "m@new.example"})
    assert api("GET", f"/people?people[0][email]={MARTA}").json() == {"users": []}
    (found,) = api("GET", "/people?people[0][email]=m@new.example").json()["users"]
    assert found["id"] == person["id"]


@pytest.mark.parametrize(
    "bad",
    [
        {"firstName": "Nobody"},
        "marta@x.example",
        {"email": 7},
        {"email": ""},
        {"email": "x@y.example", "note": "x" * 5001},
        {"email": "x@y.example", **{f"note{n}": "x" * 4900 for n in range(42)}},
    ],
)
def test_one_bad_item_refuses_the_whole_upsert(api: Api, encharge: Encharge, bad: Any) -> None:
    answer = api("POST", "/people", [{"email": MARTA}, bad])
    assert (answer.status_code, bool(message(answer))) == (422, True)
    assert encharge.state()["people"] == []


def test_a_nested_fields_is_one_value_but_the_article_spreads_it(api: Api, encharge: Encharge) -> None:
    body = {"email": MARTA, "fields": {"kommo_stage": "Won"}}
    documented = api("POST", "/people", body).json()["user"]
    assert documented["fields"] == {"kommo_stage": "Won"}
    assert "kommo_stage" not in documented
    encharge.reset()
    encharge.switch(dialect="article")
    spread = api("POST", "/people", body).json()["user"]
    assert spread["kommo_stage"] == "Won"
    assert "fields" not in spread


def test_an_upsert_overwrites_what_it_gives_and_adds_tags(api: Api) -> None:
    api("POST", "/people", {"email": MARTA, "city": "Bonn", "title": "CEO", "tags": "a"})
    user = api("POST", "/people", {"email": MARTA, "city": "", "tags": ["b", "a"]}).json()["user"]
    assert (user["city"], user["title"], user["tags"]) == ("", "CEO", "a,b")


def test_some_people_are_read_by_bracketed_query(api: Api, encharge: Encharge) -> None:
    one = encharge.add_person(MARTA, userId="7", city="Bonn")
    two = encharge.add_person("two@x.example")
    query = f"people[0][userId]=7&people[1][id]={two}&people[2][email]=who@x.example"
    assert api("GET", f"/people?{query}&attributes=email,city").json() == {
        "users": [{"id": one, "email": MARTA, "city": "Bonn"}, {"id": two, "email": "two@x.example"}]
    }


def test_an_unknown_person_among_those_read_may_make_it_a_404(api: Api, encharge: Encharge) -> None:
    one = encharge.add_person(MARTA)
    encharge.switch(unknown_people="404")
    assert len(api("GET", f"/people?people[0][id]={one}").json()["users"]) == 1
    answer = api("GET", f"/people?people[0][id]={one}&people[1][id]=who")
    assert (answer.status_code, message(answer)) == (404, "Person not found.")


def test_a_read_that_selects_nobody_is_refused(api: Api) -> None:
    assert api("GET", f"/people?email={MARTA}").status_code == 422


def test_all_people_come_in_pages_under_another_key(api: Api, encharge: Encharge) -> None:
    for number in range(105):
        encharge.add_person(f"p{number:03}@x.example", rank=number if number else None)
    assert len(api("GET", "/people/all").json()["people"]) == 100
    assert len(api("GET", "/people/all?limit=50&offset=100").json()["people"]) == 5
    path = "/people/all?limit=2&offset=1&sort=rank&order=desc&attributes=rank&ignoreAnonymous=true"
    assert [person.get("rank") for person in api("GET", path).json()["people"]] == [104, 103]
    assert api("GET", "/people/all?limit=many").status_code == 422


def test_deleting_archives_and_force_erases(api: Api, encharge: Encharge) -> None:
    person = encharge.add_person(MARTA)
    path = f"/people?people[0][email]={MARTA}"
    answer = api("DELETE", path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert api("GET", path).json() == {"users": []}
    assert api("GET", f"{path}&includeArchived=true").json()["users"][0]["id"] == person
    assert [archived["id"] for archived in encharge.state()["archived"]] == [person]
    assert api("DELETE", f"{path}&force=true").status_code == 204
    assert api("GET", f"{path}&includeArchived=true").json() == {"users": []}
    assert api("POST", "/people", {"email": MARTA}).json()["user"]["id"] != person


def test_an_upsert_brings_an_archived_person_back(api: Api, encharge: Encharge) -> None:
    person = encharge.add_person(MARTA)
    api("DELETE", f"/people?people[0][id]={person}")
    assert api("POST", "/people", {"email": MARTA}).json()["user"]["id"] == person
    assert encharge.state()["archived"] == []


def test_unsubscribing_by_query_sets_the_field(api: Api, encharge: Encharge) -> None:
    encharge.add_person(MARTA)
    answer = api("POST", f"/people/unsubscribe?email={MARTA}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert encharge.state()["people"][0]["unsubscribed"] is True
    assert api("POST", "/people/unsubscribe").status_code == 422
    assert api("POST", "/people/unsubscribe?id=nobody").status_code == 404


# -- tags, fields, segments, account -----------------------------------------------------------------------


def test_tags_are_added_and_removed_by_comma_lists(api: Api, encharge: Encharge) -> None:
    encharge.add_person(MARTA, userId="7", tags="vip")
    added = api("POST", "/tags", {"tag": "a, b", "email": MARTA})
    assert (added.status_code, added.content) == (201, b"")
    assert encharge.state()["people"][0]["tags"] == "vip,a,b"
    removed = api("DELETE", "/tags", {"tag": "a,vip", "userId": "7"})
    assert (removed.status_code, removed.content) == (204, b"")
    assert encharge.state()["people"][0]["tags"] == "b"
    assert encharge.state()["tags"] == {"vip": 0, "a": 0, "b": 1}
    assert api("GET", "/tags-management").json()["tags"][2] == {
        "tag": "b",
        "color": None,
        "description": None,
        "createdAt": NOW_TEXT,
        "count": 1,
    }


@pytest.mark.parametrize(
    ("body", "status"),
    [({"tag": "a", "email": "who@x.example"}, 404), ({"email": MARTA}, 422), ({"tag": "a"}, 422), ([], 422)],
)
def test_tagging_needs_a_tag_and_a_known_person(api: Api, encharge: Encharge, body: Any, status: int) -> None:
    encharge.add_person(MARTA)
    for method in ("POST", "DELETE"):
        answer = api(method, "/tags", body)
        assert (answer.status_code, bool(message(answer))) == (status, True)


def test_unknown_keys_become_fields(api: Api) -> None:
    api("POST", "/people", {"email": MARTA, "kommo_stgae": "Won", "kommo_lead_id": 7, "vip": True, "x": {}})
    fields = {field["name"]: field for field in api("GET", "/fields").json()["items"]}
    assert fields["kommo_stgae"] == {
        "name": "kommo_stgae",
        "title": "kommo_stgae",
        "type": "string",
        "format": None,
        "readOnly": False,
        "array": False,
        "enum": None,
        "enumNames": None,
        "allowNewEnumValues": False,
        "displayType": "text",
    }
    assert [fields[name]["type"] for name in ("kommo_lead_id", "vip", "x")] == ["number", "boolean", "any"]
    assert fields["unsubscribed"]["type"] == "boolean"


def test_fields_are_created_changed_and_deleted(api: Api, encharge: Encharge) -> None:
    new = {"name": "kommo_stage", "title": "Stage", "type": "string", "readOnly": False, "array": False}
    (created,) = api("POST", "/fields", [new]).json()["items"]
    assert created == {**created, **new}
    encharge.add_person(MARTA, kommo_stage="Won")
    changed = api("PATCH", "/fields/kommo_stage", {"title": "Deal stage", "name": "other"}).json()["field"]
    assert (changed["name"], changed["title"]) == ("kommo_stage", "Deal stage")
    assert api("DELETE", "/fields/kommo_stage").status_code == 204
    assert "kommo_stage" not in encharge.state()["people"][0]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/fields", {"name": "a", "type": "string"}, 422),
        ("POST", "/fields", [{"name": "a"}], 422),
        ("POST", "/fields", [{"type": "string"}], 422),
        ("POST", "/fields", [{"name": "email", "type": "string"}], 422),
        ("PATCH", "/fields/nope", {}, 404),
        ("DELETE", "/fields/nope", None, 404),
        ("DELETE", "/fields/email", None, 422),
    ],
)
def test_wrong_fields_are_refused(api: Api, method: str, path: str, body: Any, status: int) -> None:
    answer = api(method, path, body)
    assert (answer.status_code, bool(message(answer))) == (status, True)


def test_segments_list_their_people(api: Api, encharge: Encharge) -> None:
    encharge.add_person(MARTA)
    gone = encharge.add_person("gone@x.example", unsubscribed=True)
    assert [segment["id"] for segment in api("GET", "/segments").json()["segments"]] == [1, 2]
    assert len(api("GET", "/segments/1/people").json()["people"]) == 2
    assert api("GET", "/segments/2/people?attributes=id").json() == {"people": [{"id": gone}]}
    assert api("GET", "/segments/9/people").status_code == 404
    assert api("GET", "/segments/x/people").status_code == 422


def test_the_account_tells_how_many_people_it_has(api: Api, encharge: Encharge) -> None:
    encharge.add_person(MARTA)
    info = api("GET", "/accounts/info").json()
    assert (info["status"], info["peopleCount"]) == ("active", 1)


# -- event subscriptions -----------------------------------------------------------------------------------


def subscribe(api: Api, inbox: Inbox, *event_types: str) -> list[int]:
    bodies = [{"eventType": event_type, "url": inbox.url} for event_type in event_types]
    answers = [api("POST", "/event-subscriptions", body) for body in bodies]
    assert [answer.status_code for answer in answers] == [201] * len(bodies)
    return [answer.json()["subscription"]["id"] for answer in answers]


def test_a_new_person_is_told_with_fields_under_data(api: Api, encharge: Encharge, inbox: Inbox) -> None:
    subscribe(api, inbox, "newUser", "updatedUser")
    user = api("POST", "/people", {"email": MARTA, "kommo_lead_id": 7}).json()["user"]
    assert received(encharge, inbox) == [
        {
            "eventType": "newUser",
            "eventPayload": {},
            "endUserData": [
                {
                    "id": user["id"],
                    "leadScore": 0,
                    "createdAt": NOW_TEXT,
                    "updatedAt": NOW_TEXT,
                    "lastActivity": NOW_TEXT,
                    "email": MARTA,
                    "data": {"kommo_lead_id": 7},
                }
            ],
        }
    ]
    assert inbox.headers[0]["Content-Type"] == "application/json"
    assert not [name for name in inbox.headers[0] if "signature" in name.lower()]


def test_a_change_is_told_with_the_old_person(api: Api, encharge: Encharge, inbox: Inbox) -> None:
    encharge.add_person(MARTA, firstName="Marta", lastName="Keller", kommo_stage="Proposal sent")
    subscribe(api, inbox, "updatedUser")
    api("POST", "/people", [{"email": MARTA, "lastName": "Keller-Roth", "kommo_stage": "Won"}])
    (body,) = received(encharge, inbox)
    assert body["eventPayload"] == {
        "changedFields": {
            "lastName": {"oldValue": "Keller", "newValue": "Keller-Roth"},
            "kommo_stage": {"oldValue": "Proposal sent", "newValue": "Won"},
            "name": {"oldValue": "Marta Keller", "newValue": "Marta Keller-Roth"},
        },
        "source": "api",
    }
    (person,) = body["endUserData"]
    assert (person["lastName"], person["data"]) == ("Keller", {"kommo_stage": "Proposal sent"})


def test_an_upsert_that_changes_nothing_is_not_told(api: Api, encharge: Encharge, inbox: Inbox) -> None:
    encharge.add_person(MARTA, city="Bonn", tags="a")
    subscribe(api, inbox, "updatedUser", "added-tag-a")
    api("POST", "/people", {"email": MARTA, "city": "Bonn", "tags": "a"})
    assert received(encharge, inbox) == []


def test_tags_are_told_with_the_id_only(api: Api, encharge: Encharge, inbox: Inbox) -> None:
    person = encharge.add_person(MARTA)
    subscribe(api, inbox, "added-tag-a", "removed-tag-a")
    api("POST", "/tags", {"tag": "a,b", "email": MARTA})
    added = received(encharge, inbox)
    api("DELETE", "/tags", {"tag": "a,b", "email": MARTA})
    api("DELETE", "/tags", {"tag": "a", "email": MARTA})
    removed = received(encharge, inbox)
    data = {"eventPayload": {"tag": "a"}, "endUserData": [{"id": person}]}
    assert added == [{"eventType": "added-tag-a", **data}]
    assert removed == [{"eventType": "removed-tag-a", **data}]


@pytest.mark.parametrize("way", ["endpoint", "upsert", "act"])
def test_leaving_all_mail_is_told_once(api: Api, encharge: Encharge, inbox: Inbox, way: str) -> None:
    encharge.add_person(MARTA)
    subscribe(api, inbox, "unsubscribedUser")
    encharge.target = None
    for _ in range(2):
        if way == "endpoint":
            api("POST", f"/people/unsubscribe?email={MARTA}")
        elif way == "upsert":
            api("POST", "/people", {"email": MARTA, "unsubscribed": True})
        else:
            encharge.act(MARTA, "unsubscribed")
    (body,) = received(encharge, inbox)
    assert (body["eventType"], body["eventPayload"]) == ("unsubscribedUser", {})
    assert body["endUserData"][0]["unsubscribed"] is True


def test_subscriptions_double_and_end(api: Api, encharge: Encharge, inbox: Inbox) -> None:
    first, second = subscribe(api, inbox, "newUser", "newUser")
    encharge.add_person(MARTA)
    assert len(received(encharge, inbox)) == 2
    assert api("DELETE", f"/event-subscriptions/{first}").status_code == 204
    encharge.add_person("two@x.example")
    assert len(received(encharge, inbox)) == 1
    assert [subscription["id"] for subscription in encharge.state()["subscriptions"]] == [second]
    assert api("DELETE", f"/event-subscriptions/{first}").status_code == 404
    assert api("DELETE", "/event-subscriptions/first").status_code == 422


def test_the_older_specs_target_url_is_taken_too(api: Api, encharge: Encharge) -> None:
    body = {"eventType": "newUser", "targetUrl": "https://x.example/in"}
    number = api("POST", "/event-subscriptions", body).json()["subscription"]["id"]
    assert encharge.state()["subscriptions"] == [
        {"id": number, "eventType": "newUser", "url": "https://x.example/in"},
    ]


@pytest.mark.parametrize(
    "body", [{"eventType": "emailOpened", "url": "https://x.example"}, {"eventType": "newUser"}, []]
)
def test_subscriptions_need_a_known_type_and_an_address(api: Api, body: Any) -> None:
    answer = api("POST", "/event-subscriptions", body)
    assert (answer.status_code, bool(message(answer))) == (422, True)


# -- broadcasts, hooks, the article's dialect --------------------------------------------------------------


def test_broadcasts_give_totals_that_count_each_person_once(api: Api, encharge: Encharge) -> None:
    encharge.add_person(MARTA)
    encharge.add_person("two@x.example")
    encharge.act("two@x.example", "bounced")
    for event in ("opened", "opened", "clicked", "clicked"):
        encharge.act(MARTA, event)
    proposal, news = api("GET", "/broadcasts").json()["items"]
    assert proposal == {
        "id": 501,
        "name": PROPOSAL,
        "status": "sent",
        "audience": {"type": "segment", "segmentId": 1},
        "emailId": 3101,
        "sendAt": NOW_TEXT,
        "peopleEntered": 2,
        "peopleExited": 2,
        "cachedMetric": {
            "updatedAt": NOW_TEXT,
            "isStale": False,
            "data": {"delivered": 1, "open": 1, "click": 1},
        },
    }
    assert (news["name"], news["peopleEntered"]) == ("Product news 14", 0)


def test_a_broadcast_is_sent(api: Api) -> None:
    assert api("POST", "/broadcasts/502/send").json()["item"]["name"] == "Product news 14"
    assert api("POST", "/broadcasts/9/send").status_code == 404
    assert api("POST", "/broadcasts/x/send").status_code == 422


def test_a_flows_receive_webhook_address_needs_no_key(api: Api, encharge: Encharge) -> None:
    assert api("POST", "/hooks/abc", {"a": 1}, headers={"X-Encharge-Token": None}).status_code == 200
    assert api("GET", "/hooks/abc?a=1", headers={"X-Encharge-Token": None}).status_code == 200
    assert encharge.state()["hooks"] == [
        {"at": NOW, "hook": "abc", "body": {"a": 1}},
        {"at": NOW, "hook": "abc", "body": {"a": "1"}},
    ]


def test_the_articles_dialect_records_events_and_lists_activity(api: Api, encharge: Encharge) -> None:
    encharge.switch(dialect="article")
    body = {"name": "deal_won", "email": MARTA, "properties": {"lead": 7}}
    assert api("POST", "/events", body).status_code == 200
    assert encharge.state()["events"] == [{"at": NOW, **body}]
    encharge.act(MARTA, "clicked", link="https://x.example/p")
    assert api("GET", "/broadcasts/501/activity").json() == {
        "activity": [{"at": NOW_TEXT, "event": "clicked", "email": MARTA, "link": "https://x.example/p"}]
    }
    assert api("POST", "/events", {"email": MARTA}).status_code == 422
    assert api("POST", "/events", {"name": "deal_won"}).status_code == 422


# -- ingest ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "/"])
def test_ingest_writes_the_person_and_records_the_event(ingest: Api, encharge: Encharge, path: str) -> None:
    encharge.add_person(MARTA, tags="a")
    user = {"email": MARTA.lower(), "kommo_stage": "Won", "tags": "b"}
    body = {"name": "deal_won", "user": user, "properties": {"lead": 7}, "sourceIp": "192.0.2.1"}
    assert ingest("POST", path, body).status_code == 200
    (person,) = encharge.state()["people"]
    assert (person["kommo_stage"], person["tags"], person["ip"]) == ("Won", "a,b", "192.0.2.1")
    assert encharge.ingest.state() == {
        "events": [{"at": NOW, "name": "deal_won", "email": MARTA.lower(), "properties": {"lead": 7}}],
        "objects": [],
    }


def test_ingest_takes_the_write_key_from_the_path(ingest: Api, encharge: Encharge) -> None:
    body = {"name": "deal_won", "user": {"userId": "7"}}
    answer = ingest("POST", f"/{encharge.write_key}", body, headers={"X-Encharge-Token": None})
    assert answer.status_code == 200
    assert encharge.state()["events"] == [{"at": NOW, "name": "deal_won", "email": None, "properties": {}}]


def test_ingest_reads_the_segment_destinations_shape(ingest: Api, encharge: Encharge) -> None:
    body = {"type": "track", "event": "deal_won", "email": MARTA, "properties": {"lead": 7}, "messageId": "1"}
    assert ingest("POST", "/", body).status_code == 200
    assert encharge.state()["events"] == [
        {"at": NOW, "name": "deal_won", "email": MARTA, "properties": {"lead": 7}}
    ]


def test_identify_alias_and_group_are_no_events(ingest: Api, encharge: Encharge) -> None:
    ingest("POST", "/", {"name": "identify", "user": {"email": MARTA, "city": "Bonn"}})
    alias = {"name": "alias", "previousEmail": MARTA, "user": {"email": "m@new.example", "userId": "7"}}
    ingest("POST", "/", alias)
    ingest("POST", "/", {"name": "group", "objectType": "company", "properties": {"name": "Northbay"}})
    state = encharge.state()
    (person,) = state["people"]
    assert (person["email"], person["userId"], person["city"]) == ("m@new.example", "7", "Bonn")
    assert state["events"] == []
    assert state["objects"] == [
        {"at": NOW, "objectType": "company", "email": None, "properties": {"name": "Northbay"}}
    ]


@pytest.mark.parametrize(
    ("key", "status", "error"),
    [
        (None, 400, "Missing Encharge write key."),
        ("sandbox.encharge.key", 400, "Can't find this account."),
    ],
)
def test_ingest_refuses_other_keys_with_a_plain_string(
    ingest: Api, key: str | None, status: int, error: str
) -> None:
    answer = ingest("POST", "/", {"name": "x", "user": {"email": MARTA}}, headers={"X-Encharge-Token": key})
    assert (answer.status_code, answer.json()) == (status, {"error": error})


def test_only_ingest_is_shut_on_the_growth_plan(ingest: Api, api: Api, encharge: Encharge) -> None:
    encharge.switch(plan="growth")
    answer = ingest("POST", "/", {"name": "x", "user": {"email": MARTA}})
    assert (answer.status_code, type(answer.json()["error"])) == (403, str)
    assert api("POST", "/people", {"email": MARTA}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"user": {"email": MARTA}},
        {"name": "x"},
        {"name": "x", "user": {"city": "Bonn"}},
        {"name": "x", "user": "marta"},
        {"name": "x", "user": {"email": MARTA}, "properties": "lead 7"},
        {"name": "x", "user": {"email": MARTA, "note": "x" * 5001}},
    ],
)
def test_ingest_refuses_incomplete_events(ingest: Api, encharge: Encharge, body: Any) -> None:
    answer = ingest("POST", "/", body)
    assert (answer.status_code, type(answer.json()["error"])) == (400, str)
    assert encharge.state()["events"] == []


def test_ingest_takes_json_only(ingest: Api) -> None:
    assert ingest("POST", "/", data={"name": "x"}).status_code == 400


def test_ingest_has_one_endpoint(ingest: Api) -> None:
    answer = ingest("GET", "/")
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert ingest("POST", "/people/all").status_code == 404


def test_ingest_has_faults_of_its_own(ingest: Api, api: Api, encharge: Encharge) -> None:
    encharge.ingest.faults.add(status=500, times=1)
    assert api("GET", "/accounts/info").status_code == 200
    assert ingest("POST", "/", {}).json() == {"error": "Internal Server Error"}


# -- levers ------------------------------------------------------------------------------------------------


def test_a_flow_posts_the_rows_as_text_and_leaves_unresolved_tags(encharge: Encharge, inbox: Inbox) -> None:
    known = {"firstName": "Marta", "userId": "kommo-7712", "kommo_lead_id": 40518833, "kommo_stage": ""}
    marta = encharge.add_person(MARTA, **known)
    jonas = encharge.add_person("jonas@x.example")
    encharge.act(MARTA.lower(), "opened")
    opened = received(encharge, inbox)
    encharge.act("jonas@x.example", "clicked", broadcast="Demo invitation", link="https://x.example/p")
    clicked = received(encharge, inbox)
    assert opened == [
        {
            "event": "email_opened",
            "email": MARTA,
            "person_id": marta,
            "user_id": "kommo-7712",
            "first_name": "Marta",
            "broadcastName": PROPOSAL,
            "kommo_lead_id": "40518833",
            "kommo_stage": "",
        }
    ]
    assert clicked == [
        {
            "event": "email_link_clicked",
            "email": "jonas@x.example",
            "person_id": jonas,
            "user_id": "{{person.userId}}",
            "first_name": "{{person.firstName}}",
            "broadcastName": "Demo invitation",
            "kommo_lead_id": "{{person.kommo_lead_id}}",
            "kommo_stage": "{{person.kommo_stage}}",
            "link": "https://x.example/p",
        }
    ]


def test_the_rows_of_a_flow_can_be_typed_anew(encharge: Encharge, inbox: Inbox, levers: Any) -> None:
    encharge.add_person(MARTA, vip=True)
    rows = {"who": "<{{person.email}}>", "vip": "{{ person.vip }}"}
    assert levers.post("/encharge/flow", json=rows).json == rows
    encharge.act(MARTA, "bounced")
    assert received(encharge, inbox) == [{"event": "email_bounced", "who": f"<{MARTA}>", "vip": "true"}]
    with pytest.raises(ValueError, match="must be text"):
        encharge.set_flow_rows({"a": 1})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("event", "name"),
    [
        ("opened", "email_opened"),
        ("clicked", "email_link_clicked"),
        ("unsubscribed", "user_unsubscribed"),
        ("resubscribed", "user_subscribed"),
        ("bounced", "email_bounced"),
    ],
)
def test_the_articles_shape_tells_whether_it_is_the_first(
    encharge: Encharge, inbox: Inbox, event: str, name: str
) -> None:
    encharge.add_person(MARTA)
    encharge.act(MARTA, event, shape="article", first=False)
    assert received(encharge, inbox) == [
        {"event": name, "email": MARTA, "broadcastName": PROPOSAL, "isFirstEvent": False}
    ]


def test_the_stream_gives_unix_milliseconds_and_the_mails_id(encharge: Encharge, inbox: Inbox) -> None:
    person = encharge.add_person(MARTA)
    encharge.act(MARTA, "clicked", shape="stream", link="https://x.example/p")
    assert received(encharge, inbox) == [
        {
            "name": "emailClicked",
            "type": "email",
            "id": person,
            "email": MARTA,
            "properties": {"emailId": 3101, "link": "https://x.example/p"},
            "timestamp": 1_780_000_000_123,
        }
    ]


@pytest.mark.parametrize(
    ("event", "name", "properties"),
    [
        ("opened", "emailOpened", {"emailId": 3101}),
        ("bounced", "emailBounced", {"emailId": 3101}),
        ("unsubscribed", "unsubscribedUser", {}),
        (
            "resubscribed",
            "updatedUser",
            {"changedFields": {"unsubscribed": {"oldValue": None, "newValue": False}}},
        ),
    ],
)
def test_the_stream_names_each_event(
    encharge: Encharge, inbox: Inbox, event: str, name: str, properties: dict[str, Any]
) -> None:
    encharge.add_person(MARTA)
    encharge.act(MARTA, event, shape="stream")
    (body,) = received(encharge, inbox)
    assert (body["name"], body["properties"]) == (name, properties)


def test_the_subscription_shape_posts_to_the_target(encharge: Encharge, inbox: Inbox) -> None:
    person = encharge.add_person(MARTA, kommo_lead_id=7)
    encharge.act(MARTA, "unsubscribed", shape="subscription")
    assert received(encharge, inbox) == [
        {
            "eventType": "unsubscribedUser",
            "eventPayload": {},
            "endUserData": [
                {
                    "id": person,
                    "leadScore": 0,
                    "createdAt": NOW_TEXT,
                    "updatedAt": NOW_TEXT,
                    "lastActivity": NOW_TEXT,
                    "email": MARTA,
                    "unsubscribed": True,
                    "data": {"kommo_lead_id": 7},
                }
            ],
        }
    ]


def test_unsubscribing_and_coming_back_sets_the_field(encharge: Encharge) -> None:
    encharge.add_person(MARTA)
    seen = []
    for event in ("unsubscribed", "resubscribed"):
        encharge.act(MARTA, event)
        seen.append(encharge.state()["people"][0]["unsubscribed"])
    assert seen == [True, False]


def test_a_second_open_fires_again_unless_switched_off(encharge: Encharge, inbox: Inbox) -> None:
    encharge.add_person(MARTA)
    for every_open, expected in ((True, 2), (False, 1)):
        encharge.switch(every_open=every_open)
        for _ in range(2):
            encharge.act(MARTA, "opened", broadcast=f"mail {every_open}")
        assert len(received(encharge, inbox)) == expected


def test_headers_of_the_target_are_sent(encharge: Encharge, inbox: Inbox) -> None:
    encharge.target = Target(inbox.url, {"X-Secret": "s"})
    encharge.add_person(MARTA)
    encharge.act(MARTA, "opened")
    received(encharge, inbox)
    assert inbox.headers[0]["X-Secret"] == "s"


@pytest.mark.parametrize(
    ("given", "options", "problem"),
    [
        ((MARTA, "read"), {}, ValueError),
        ((MARTA, "opened"), {"shape": "round"}, ValueError),
        ((MARTA, "opened"), {"shape": "subscription"}, ValueError),
        (("who@x.example", "opened"), {}, KeyError),
    ],
)
def test_wrong_acts_are_refused(
    encharge: Encharge, given: tuple[str, str], options: dict[str, str], problem: type[Exception]
) -> None:
    encharge.add_person(MARTA)
    with pytest.raises(problem):
        encharge.act(*given, **options)  # type: ignore[arg-type]
    assert encharge.state()["activity"] == {}


@pytest.mark.parametrize("fields", [{"email": ""}, {"email": MARTA, "note": "x" * 5001}])
def test_wrong_people_are_refused(encharge: Encharge, fields: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        encharge.add_person(fields.pop("email"), **fields)


@pytest.mark.parametrize(
    "values",
    [{"every_open": False, "dialect": "latin"}, {"plan": "free"}, {"every_open": 2}, {"color": "red"}],
)
def test_wrong_switches_are_refused(encharge: Encharge, values: dict[str, Any]) -> None:
    before = encharge.switches()
    with pytest.raises(ValueError):
        encharge.switch(**values)
    assert encharge.switches() == before


def test_the_levers_have_routes(encharge: Encharge, inbox: Inbox, levers: Any) -> None:
    person = levers.post("/encharge/people", json={"email": MARTA, "city": "Bonn"}).json["id"]
    assert encharge.state()["people"][0] == {**encharge.state()["people"][0], "id": person, "city": "Bonn"}
    assert levers.post("/encharge/act", json={"email": MARTA, "event": "opened"}).json == {}
    assert len(received(encharge, inbox)) == 1
    switches = {
        "dialect": "article",
        "plan": "growth",
        "account": "trial",
        "every_open": False,
        "unknown_people": "404",
    }
    assert levers.post("/encharge/switches", json=switches).json == switches
    assert levers.get("/encharge/switches").json == switches


def test_a_reset_restores_the_seeded_start(api: Api, ingest: Api, encharge: Encharge, inbox: Inbox) -> None:
    start = encharge.state()
    subscribe(api, inbox, "newUser")
    ingest("POST", "/", {"name": "x", "user": {"email": MARTA, "own": 1, "tags": "a"}})
    encharge.act(MARTA, "opened")
    encharge.switch(dialect="article", plan="growth", every_open=False, unknown_people="404")
    encharge.faults.add(status=500)
    assert encharge.courier.wait()
    encharge.reset()
    assert encharge.state() == start
    assert (encharge.faults.list(), encharge.count(), encharge.ingest.count()) == ([], 0, 0)


def test_the_state_is_a_copy(encharge: Encharge) -> None:
    encharge.state()["fields"].clear()
    assert encharge.state()["fields"]


def test_the_ids_are_the_same_in_every_run(encharge: Encharge) -> None:
    first = encharge.add_person(MARTA)
    encharge.reset()
    assert encharge.add_person(MARTA) == first


def test_many_writers_at_once_lose_nothing(encharge: Encharge, api: Api) -> None:
    def write(number: int) -> int:
        answer = requests.post(
            f"{api.base}/people",
            json=[{"email": f"p{number % 50}@x.example", f"field{number}": number}],
            headers={"X-Encharge-Token": encharge.api_key},
            timeout=30,
        )
        return answer.status_code

    with ThreadPoolExecutor(16) as pool:
        statuses = set(pool.map(write, range(300)))
    people = encharge.state()["people"]
    assert (statuses, len(people)) == ({200}, 50)
    assert sum(key.startswith("field") for person in people for key in person) == 300
