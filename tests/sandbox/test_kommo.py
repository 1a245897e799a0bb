"""The fake Kommo answers, refuses and sends webhooks as the real one does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

import pytest
import requests
from flask import Flask

from sandbox.courier import Courier
from sandbox.kommo import Kommo

ORDER, WHOLESALE_DEAL, DELETED, NEW_DEAL = 41500011, 41500012, 41500013, 41500015
ZOE, COMPANY = 52300021, 52300099
SALES, WHOLESALE = 7100010, 7100020
NEW, QUALIFIED, PROPOSAL, WON, LOST = 61000101, 61000102, 61000103, 142, 143
FIRST_CALL = 61000201
NOW = 1_790_000_000
CHOICE = "The value you selected is not a valid choice."
NOT_EXPECTED = "This field was not expected."
MISSING = "This field is missing."


class Inbox:
    """A receiver of webhooks that answers as told."""

    def __init__(self) -> None:
        inbox = self
        self.statuses: list[int] = []
        self.status = 200
        self.silent = False
        self.closed = threading.Event()
        self.received: list[tuple[dict[str, str], list[tuple[str, str]]]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                inbox.received.append((dict(self.headers), parse_qsl(body, keep_blank_values=True)))
                if inbox.silent:
                    inbox.closed.wait(60)
                self.send_response(inbox.statuses.pop(0) if inbox.statuses else inbox.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/in"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def forms(self) -> list[dict[str, str]]:
        """Return the bodies that came."""
        return [dict(pairs) for _, pairs in self.received]

    def stop(self) -> None:
        """Stop listening."""
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()


class Api:
    """A caller with the token."""

    def __init__(self, kommo: Kommo) -> None:
        self._base = f"{kommo.url}/api/v4"
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {kommo.token}"

    def __call__(self, method: str, path: str, json: Any = None) -> requests.Response:
        return self.session.request(method, f"{self._base}{path}", json=json, timeout=30)

    def get(self, path: str) -> Any:
        """Return the data at a path."""
        answer = self("GET", path)
        assert answer.status_code == 200, answer.text
        assert answer.headers["Content-Type"] == "application/hal+json"
        return answer.json()

    def ids(self, path: str) -> list[int]:
        """Return the ids in a list, empty for a 204."""
        answer = self("GET", path)
        if answer.status_code == 204:
            return []
        [items] = answer.json()["_embedded"].values()
        return [item["id"] for item in items]


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    inbox = Inbox()
    yield inbox
    inbox.stop()


@pytest.fixture
def moment() -> list[float]:
    return [float(NOW)]


@pytest.fixture(scope="module")
def server() -> Iterator[Kommo]:
    kommo = Kommo(Courier(threads=1))
    kommo.courier.stop()
    kommo.start()
    yield kommo
    kommo.stop()


@pytest.fixture
def kommo(server: Kommo, moment: list[float]) -> Iterator[Kommo]:
    server.courier = Courier(threads=8)
    server.clock = lambda: moment[0]
    server.reset()
    server.rate = 0
    yield server
    server.courier.stop()


@pytest.fixture
def api(kommo: Kommo) -> Iterator[Api]:
    api = Api(kommo)
    yield api
    api.session.close()


@pytest.fixture
def sent(kommo: Kommo, inbox: Inbox) -> Callable[[], list[dict[str, str]]]:
    """Wait for the webhooks and return their bodies."""

    def wait() -> list[dict[str, str]]:
        assert kommo.courier.wait()
        return inbox.forms

    return wait


def refusal(path: str, code: str = "NotSupportedChoice", detail: str = CHOICE, request_id: str = "0") -> Any:
    """Return the body of a refused write with one error."""
    return {
        "validation-errors": [
            {"request_id": request_id, "errors": [{"code": code, "path": path, "detail": detail}]}
        ],
        "title": "Bad Request",
        "type": "https://httpstatus.es/400",
        "status": 400,
        "detail": "Request validation failed",
    }


def problem(status: int, title: str, detail: str) -> Any:
    """Return the body of a plain refusal."""
    return {"title": title, "type": f"https://httpstatus.es/{status}", "status": status, "detail": detail}


# -- refusals of every call -----------------------------------------------------------------------------------


def test_a_call_without_the_token_is_refused(kommo: Kommo) -> None:
    answer = requests.get(f"{kommo.url}/api/v4/account", timeout=30)
    assert answer.status_code == 401
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json() == problem(401, "Unauthorized", "Invalid user name or password")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("POST", "/notes", 404),
        ("POST", f"/contacts/{ZOE}", 405),
        ("DELETE", f"/leads/{ORDER}", 405),
        ("DELETE", "/tasks/1", 405),
    ],
)
def test_an_unknown_path_or_method_is_a_problem(api: Api, method: str, path: str, status: int) -> None:
    answer = api(method, path, [{}])
    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_the_eighth_call_in_a_second_is_too_many(kommo: Kommo, api: Api, moment: list[float]) -> None:
    kommo.switch(rate=7.0)
    statuses = [api("GET", "/account").status_code for _ in range(8)]
    assert statuses == [200] * 7 + [429]
    answer = api("GET", "/account")
    assert answer.json() == {
        **problem(429, "Too Many Requests", "Too Many Requests"),
        "retry_after": 300,
    }
    moment[0] += 1
    assert api("GET", "/account").status_code == 200


def test_other_integrations_use_the_same_limit(kommo: Kommo, api: Api, moment: list[float]) -> None:
    kommo.switch(rate=7.0, others=4.0)
    assert [api("GET", "/account").status_code for _ in range(8)] == [200] * 7 + [429]
    moment[0] += 1
    assert [api("GET", "/account").status_code for _ in range(4)] == [200] * 3 + [429]
    kommo.switch(others=9.0)
    moment[0] += 60
    assert api("GET", "/account").status_code == 429


def test_the_refusal_over_the_rate_may_be_a_page(kommo: Kommo, api: Api) -> None:
    kommo.switch(rate=1.0, rate_html=True)
    api("GET", "/account")
    answer = api("GET", "/account")
    assert (answer.status_code, answer.headers["Content-Type"]) == (429, "text/html")
    assert "nginx" in answer.text


def test_repeated_refusals_block_everything_for_a_while(kommo: Kommo, api: Api, moment: list[float]) -> None:
    kommo.switch(rate=1.0, block_after=3, block_seconds=5)
    statuses = [api("GET", "/account").status_code for _ in range(6)]
    assert statuses == [200, 429, 429, 429, 403, 403]
    moment[0] += 4.9
    blocked = api("GET", "/leads")
    assert (blocked.status_code, blocked.headers["Content-Type"]) == (403, "text/html")
    moment[0] += 0.2
    assert api("GET", "/account").status_code == 200
    assert (kommo.count(status=429), kommo.count(status=403)) == (3, 3)


def test_refusals_over_a_minute_apart_do_not_block(kommo: Kommo, api: Api, moment: list[float]) -> None:
    kommo.switch(rate=0.001, block_after=2)
    statuses = []
    for _ in range(4):
        statuses.append(api("GET", "/account").status_code)
        moment[0] += 61
    assert statuses == [200, 429, 429, 429]


def test_a_fault_answers_in_kommos_own_words(kommo: Kommo, api: Api) -> None:
    kommo.faults.add(status=402, times=1)
    answer = api("GET", "/account")
    assert answer.json() == problem(402, "Payment Required", "Account is not paid")


# -- reading --------------------------------------------------------------------------------------------------


def test_the_account_tells_whose_token_it_is(kommo: Kommo, api: Api) -> None:
    account = api.get("/account?with=task_types")
    assert {key: account[key] for key in ("id", "subdomain", "current_user_id")} == {
        "id": 30900001,
        "subdomain": "examplebakery",
        "current_user_id": 9200001,
    }
    assert [task["id"] for task in account["_embedded"]["task_types"]] == [1, 2]


def test_a_lead_reads_as_documented(kommo: Kommo, api: Api) -> None:
    base = f"{kommo.url}/api/v4"
    lead = api.get(f"/leads/{ORDER}?with=contacts")
    plan = lead["custom_fields_values"][0]
    assert plan == {
        "field_id": 800101,
        "field_name": "Plan",
        "field_code": None,
        "field_type": "select",
        "values": [{"value": "Team", "enum_id": 510203, "enum_code": None}],
        "is_computed": False,
    }
    assert lead == {
        "id": ORDER,
        "name": "Website order #1042",
        "price": 1500,
        "responsible_user_id": 9200001,
        "group_id": 0,
        "status_id": QUALIFIED,
        "pipeline_id": SALES,
        "loss_reason_id": None,
        "created_by": 9200001,
        "updated_by": 9200001,
        "created_at": 1767607200,
        "updated_at": 1767607800,
        "closed_at": None,
        "closest_task_at": None,
        "is_deleted": False,
        "custom_fields_values": lead["custom_fields_values"],
        "score": None,
        "account_id": 30900001,
        "labor_cost": None,
        "is_price_computed": False,
        "_links": {"self": {"href": f"{base}/leads/{ORDER}"}},
        "_embedded": {
            "tags": [{"id": 70011, "name": "trial", "color": None}, {"id": 70012, "name": "EU", "color": None}],
            "companies": [{"id": COMPANY, "_links": {"self": {"href": f"{base}/companies/{COMPANY}"}}}],
            "contacts": [{"id": ZOE, "is_main": True, "_links": {"self": {"href": f"{base}/contacts/{ZOE}"}}}],
        },
    }


def test_contacts_come_only_when_asked_for_and_empty_fields_are_null(api: Api) -> None:
    lead = api.get(f"/leads/{WHOLESALE_DEAL}")
    assert lead["_embedded"] == {"tags": [], "companies": []}
    assert lead["custom_fields_values"] is None
    assert lead["closed_at"] == 1767607900


@pytest.mark.parametrize(
    "path",
    [
        "/leads/1",
        f"/leads/{DELETED}",
        "/contacts/1",
        "/companies/1",
        "/tasks/1",
        "/leads/pipelines/1",
        "/leads/1/links",
        "/leads?filter[id][]=1",
        "/leads/notes",
        "/webhooks",
        "/tasks",
        "/companies/tags",
        "/events?filter[type]=lead_restored",
        "/leads?page=9",
    ],
)
def test_an_empty_list_or_an_unknown_id_is_a_204_without_a_body(api: Api, path: str) -> None:
    answer = api("GET", path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert "Content-Type" not in answer.headers


def test_pages_are_followed_by_their_next_link(kommo: Kommo, api: Api) -> None:
    base = kommo.url + "/api/v4"
    every = api.ids("/leads")
    found, path = [], "/leads?limit=4&order[id]=asc"
    while path:
        page = api.get(path)
        assert "_total_items" not in page
        found += [lead["id"] for lead in page["_embedded"]["leads"]]
        path = page["_links"].get("next", {}).get("href", "").removeprefix(base)
    assert found == every
    assert len(every) > 8


def test_a_page_has_50_and_at_most_250(kommo: Kommo, api: Api) -> None:
    for number in range(300):
        kommo.add_deal(f"Deal {number}", NEW)
    assert len(api.ids("/leads")) == 50
    assert len(api.ids("/leads?limit=1000")) == 250


@pytest.mark.parametrize(
    "path", ["/leads?limit=0", "/leads?page=x", "/leads?order[color]=asc", "/leads?filter[id][]=x"]
)
def test_a_bad_query_is_refused(api: Api, path: str) -> None:
    assert api("GET", path).status_code == 400


def test_more_than_250_in_a_filter_or_a_write_is_a_422(api: Api) -> None:
    path = "/leads?" + "&".join(f"filter[id][]={number}" for number in range(251))
    for answer in (api("GET", path), api("POST", "/leads", [{"name": "x"}] * 251)):
        assert answer.json() == problem(422, "Unprocessable Entity", "Limit 250 per page")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (f"filter[id][]={ORDER}&filter[id][]={NEW_DEAL}", [ORDER, NEW_DEAL]),
        (f"filter[id][0]={ORDER}", [ORDER]),
        (f"filter[statuses][0][pipeline_id]={SALES}&filter[statuses][0][status_id]={WON}", [WHOLESALE_DEAL]),
        (f"filter[statuses][0][pipeline_id]={WHOLESALE}&filter[statuses][0][status_id]={WON}", []),
        (f"filter[pipeline_id][]={WHOLESALE}", []),
        ("filter[updated_at][from]=1767607800&filter[updated_at][to]=1767607900", [ORDER, WHOLESALE_DEAL]),
        ("filter[responsible_user_id][]=9200002", []),
        ("query=TASTING", [NEW_DEAL]),
        ("query=spring_camp", [ORDER]),
        ("filter[updated_at][from]=1767607800&order[updated_at]=desc&limit=2", [NEW_DEAL, 41500014]),
        ("with=only_deleted", [DELETED]),
    ],
)
def test_leads_are_filtered(api: Api, query: str, expected: list[int]) -> None:
    assert api.ids(f"/leads?{query}") == expected


def test_incoming_leads_are_hidden_unless_filtered(kommo: Kommo, api: Api) -> None:
    incoming = kommo.add_deal("Form", 61000100)
    assert incoming not in api.ids("/leads")
    assert api.ids(f"/leads?filter[id][]={incoming}") == [incoming]
    path = f"/leads?filter[statuses][0][pipeline_id]={SALES}&filter[statuses][0][status_id]=61000100"
    assert api.ids(path) == [incoming]


def test_a_contact_is_found_loosely_and_names_its_leads(api: Api) -> None:
    page = api.get("/contacts?query=ZOE.PRIV&with=leads")
    [contact] = page["_embedded"]["contacts"]
    assert [lead["id"] for lead in contact["_embedded"]["leads"]] == [ORDER, WHOLESALE_DEAL]
    [email] = [field for field in contact["custom_fields_values"] if field["field_code"] == "EMAIL"]
    assert email["values"] == [
        {"value": "zoe@example.com", "enum_id": 520201, "enum_code": "WORK"},
        {"value": "zoe.private@example.org", "enum_id": 520202, "enum_code": "PRIV"},
    ]
    assert len(api.ids("/contacts?query=keller")) == 2


def test_a_new_contact_is_found_by_query_only_after_the_lag(kommo: Kommo, api: Api, moment: list[float]) -> None:
    kommo.switch(query_lag_seconds=10)
    contact_id = kommo.add_contact("Lag Example", ["lag@example.com"])
    assert api.ids("/contacts?query=lag@example.com") == []
    assert api.ids(f"/contacts?filter[id][]={contact_id}") == [contact_id]
    moment[0] += 10
    assert api.ids("/contacts?query=lag@example.com") == [contact_id]


def test_links_name_the_main_contact(api: Api) -> None:
    links = api.get(f"/leads/{ORDER}/links")
    assert links["_embedded"]["links"] == [
        {"to_entity_id": ZOE, "to_entity_type": "contacts", "metadata": {"main_contact": True}},
        {"to_entity_id": COMPANY, "to_entity_type": "companies", "metadata": None},
    ]
    path = f"/leads/{ORDER}/links?filter[to_entity_id]={ZOE}&filter[to_entity_type]=contacts"
    assert api.get(path)["_total_items"] == 1
    assert api("GET", f"/leads/{ORDER}/links?filter[to_entity_id]={ZOE}").status_code == 400


def test_won_and_lost_are_in_every_pipeline(api: Api) -> None:
    pipelines = api.get("/leads/pipelines")["_embedded"]["pipelines"]
    stages = {p["id"]: [s["id"] for s in p["_embedded"]["statuses"]] for p in pipelines}
    assert stages == {
        SALES: [61000100, NEW, QUALIFIED, PROPOSAL, 61000104, WON, LOST],
        WHOLESALE: [61000200, FIRST_CALL, 61000202, WON, LOST],
    }
    assert api.get(f"/leads/pipelines/{WHOLESALE}")["name"] == "Wholesale"
    assert api.ids(f"/leads/pipelines/{WHOLESALE}/statuses") == stages[WHOLESALE]
    assert api.get(f"/leads/pipelines/{WHOLESALE}/statuses/61000202")["name"] == "Квалификация"


# -- writing leads, contacts, companies -----------------------------------------------------------------------


def test_a_lead_is_made_with_its_request_id(kommo: Kommo, api: Api) -> None:
    lead = {
        "name": "Fair",
        "price": 10,
        "pipeline_id": WHOLESALE,
        "status_id": FIRST_CALL,
        "custom_fields_values": [{"field_code": "UTM_SOURCE", "values": [{"value": "fair"}]}],
        "_embedded": {"contacts": [{"id": ZOE}], "tags": [{"name": "new"}, {"id": 70011}]},
        "request_id": "a1",
    }
    answer = api("POST", "/leads", [lead, {}])
    made = answer.json()["_embedded"]["leads"]
    assert [item["request_id"] for item in made] == ["a1", "1"]
    first, second = (api.get(f"/leads/{item['id']}?with=contacts") for item in made)
    assert (first["name"], first["pipeline_id"], first["created_at"]) == ("Fair", WHOLESALE, NOW)
    assert [tag["name"] for tag in first["_embedded"]["tags"]] == ["new", "trial"]
    assert [contact["id"] for contact in first["_embedded"]["contacts"]] == [ZOE]
    assert (second["pipeline_id"], second["status_id"]) == (SALES, NEW)


def test_an_id_in_a_post_makes_a_new_contact_all_the_same(api: Api) -> None:
    answer = api("POST", "/contacts", [{"id": ZOE, "first_name": "Zed", "last_name": "New"}])
    [made] = answer.json()["_embedded"]["contacts"]
    assert made["id"] != ZOE
    assert api.get(f"/contacts/{made['id']}")["name"] == "Zed New"


@pytest.mark.parametrize(
    ("item", "path", "code", "detail"),
    [
        ({"account_id": 1}, "account_id", "FieldNotExpected", NOT_EXPECTED),
        ({"price": "12"}, "price", "InvalidType", "This value should be of type int."),
        ({"status_id": 1}, "status_id", "NotSupportedChoice", CHOICE),
        ({"status_id": 61000100}, "status_id", "NotSupportedChoice", CHOICE),
        ({"pipeline_id": WHOLESALE, "status_id": PROPOSAL}, "status_id", "NotSupportedChoice", CHOICE),
        ({"pipeline_id": 5}, "pipeline_id", "NotSupportedChoice", CHOICE),
        ({"responsible_user_id": 5}, "responsible_user_id", "NotSupportedChoice", CHOICE),
        ({"tags_to_add": [{}]}, "tags_to_add.0.name", "FieldMissing", MISSING),
        ({"_embedded": {"tags": [{"id": 5}]}}, "_embedded.tags.0.id", "NotSupportedChoice", CHOICE),
        ({"_embedded": {"tags": [{"id": {}}]}}, "_embedded.tags.0.id", "NotSupportedChoice", CHOICE),
        ({"_embedded": {"contacts": []}}, "_embedded.contacts", "FieldNotExpected", NOT_EXPECTED),
    ],
)
def test_a_bad_change_is_refused_at_its_path(api: Api, item: Any, path: str, code: str, detail: str) -> None:
    before = api.get(f"/leads/{ORDER}")
    answer = api("PATCH", f"/leads/{ORDER}", item)
    assert (answer.status_code, answer.json()) == (400, refusal(path, code, detail))
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert api.get(f"/leads/{ORDER}") == before


@pytest.mark.parametrize(
    ("field", "path", "code", "detail"),
    [
        ({"field_id": 1, "values": []}, "field_id", "NotSupportedChoice", CHOICE),
        ({"field_id": [1], "values": []}, "field_id", "NotSupportedChoice", CHOICE),
        ({"field_code": "NO", "values": []}, "field_code", "NotSupportedChoice", CHOICE),
        ({"values": []}, "field_id", "FieldMissing", MISSING),
        ({"field_id": 800101, "values": [{"value": "Huge"}]}, "values.0.value", "NotSupportedChoice", CHOICE),
        ({"field_id": 800101, "values": [{"enum_id": 1}]}, "values.0.enum_id", "NotSupportedChoice", CHOICE),
        (
            {"field_id": 800101, "values": [{"value": "Team", "enum_code": None}]},
            "values.0.enum_code",
            "FieldNotExpected",
            NOT_EXPECTED,
        ),
        (
            {"field_id": 800110, "values": [{"value": 5}]},
            "values.0.value",
            "InvalidType",
            "This value should be of type string.",
        ),
        (
            {"field_id": 800103, "values": [{"value": "soon"}]},
            "values.0.value",
            "InvalidType",
            "This value should be of type timestamp.",
        ),
        (
            {"field_id": 800104, "values": [{"value": "yes"}]},
            "values.0.value",
            "InvalidType",
            "This value should be of type bool.",
        ),
    ],
)
def test_a_bad_field_value_is_refused_at_its_path(api: Api, field: Any, path: str, code: str, detail: str) -> None:
    answer = api("PATCH", f"/leads/{ORDER}", {"custom_fields_values": [field]})
    assert answer.json() == refusal(f"custom_fields_values.0.{path}", code, detail)


def test_one_bad_item_refuses_the_whole_batch(kommo: Kommo, api: Api) -> None:
    before = kommo.state()
    answer = api("PATCH", "/leads", [{"id": ORDER, "price": 1}, {"id": 5, "request_id": "x"}])
    assert answer.json() == refusal("id", request_id="x")
    assert kommo.state() == before


@pytest.mark.parametrize(
    ("method", "path", "body", "detail"),
    [
        ("POST", "/leads", [], "Request data can not be empty"),
        ("POST", "/leads", {"name": "x"}, "Request data must be an array of objects"),
        ("POST", "/tasks", {"text": "x"}, "Request data must be an array of objects"),
        ("PATCH", f"/leads/{ORDER}", [{"price": 1}], "Request data must be an object"),
        ("PATCH", f"/leads/{ORDER}", {}, "Request data can not be empty"),
        ("POST", "/webhooks", [{"destination": "x"}], "Request data must be an object"),
    ],
)
def test_arrays_and_objects_are_not_interchangeable(
    api: Api, method: str, path: str, body: Any, detail: str
) -> None:
    answer = api(method, path, body)
    assert (answer.status_code, answer.json()) == (400, problem(400, "Bad Request", detail))


def test_changing_an_unknown_entity_is_a_404(api: Api) -> None:
    assert api("PATCH", "/leads/1", {"price": 1}).status_code == 404
    assert api("PATCH", f"/leads/{DELETED}", {"price": 1}).status_code == 404


def test_a_single_change_is_answered_in_either_shape(kommo: Kommo, api: Api) -> None:
    bare = api("PATCH", f"/contacts/{ZOE}", {"name": "Zoë E."}).json()
    assert bare == {
        "id": ZOE,
        "name": "Zoë E.",
        "updated_at": NOW,
        "is_deleted": False,
        "is_unsorted": False,
        "_links": {"self": {"href": f"{kommo.url}/api/v4/contacts/{ZOE}"}},
    }
    kommo.switch(patch_wrapped=True)
    wrapped = api("PATCH", f"/contacts/{ZOE}", {"name": "Zoë E."}).json()
    assert wrapped["_embedded"] == {"contacts": [{**bare, "request_id": "0"}]}


def test_a_written_field_replaces_its_values_and_leaves_the_others(api: Api) -> None:
    emails = [{"value": "new@example.com", "enum_code": "OTHER"}]
    api("PATCH", f"/contacts/{ZOE}", {"custom_fields_values": [{"field_code": "EMAIL", "values": emails}]})
    fields = {f["field_code"]: f["values"] for f in api.get(f"/contacts/{ZOE}")["custom_fields_values"]}
    assert fields["EMAIL"] == [{"value": "new@example.com", "enum_id": 520203, "enum_code": "OTHER"}]
    assert fields["POSITION"] == [{"value": "Owner"}]
    assert api.ids("/contacts?query=zoe@example.com") == []


def test_null_clears_a_field(api: Api) -> None:
    values = [{"field_id": number, "values": None} for number in (800101, 800102, 800103, 800104, 800105)]
    api("PATCH", f"/leads/{ORDER}", {"custom_fields_values": values})
    assert api.get(f"/leads/{ORDER}")["custom_fields_values"] is None


@pytest.mark.parametrize(
    ("field_id", "written", "read"),
    [
        (800101, {"value": "Solo"}, {"value": "Solo", "enum_id": 510201, "enum_code": None}),
        (800101, {"enum_id": 510202}, {"value": "Duo", "enum_id": 510202, "enum_code": None}),
        (800103, {"value": "2026-01-12T00:00:00+00:00"}, {"value": 1768176000}),
        (800103, {"value": 1768176000}, {"value": 1768176000}),
        (800104, {"value": False}, {"value": False}),
        (800110, {"value": "Открыл письмо"}, {"value": "Открыл письмо"}),
    ],
)
def test_values_read_as_their_kind(api: Api, field_id: int, written: Any, read: Any) -> None:
    api("PATCH", f"/leads/{ORDER}", {"custom_fields_values": [{"field_id": field_id, "values": [written]}]})
    fields = {f["field_id"]: f["values"] for f in api.get(f"/leads/{ORDER}")["custom_fields_values"]}
    assert fields[field_id] == [read]


def test_numbers_read_as_text(api: Api) -> None:
    value = {"field_code": "COMPANY_SIZE", "values": [{"value": 40}]}
    assert api("PATCH", "/companies", [{"id": COMPANY, "custom_fields_values": [value]}]).status_code == 200
    assert api.get(f"/companies/{COMPANY}")["custom_fields_values"][0]["values"] == [{"value": "40"}]
    assert api.ids(f"/companies?filter[id][]={COMPANY}") == [COMPANY]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"_embedded": {"tags": [{"name": "hot"}]}}, ["hot"]),
        ({"_embedded": {"tags": None}}, []),
        ({"tags_to_add": [{"name": "hot"}, {"name": "EU"}]}, ["trial", "EU", "hot"]),
        ({"tags_to_delete": [{"name": "trial"}, {"name": "never"}]}, ["EU"]),
        ({"_embedded": {"tags": [{"id": 70012}]}, "tags_to_add": [{"name": "hot"}]}, ["EU"]),
    ],
)
def test_tags_are_replaced_added_or_deleted(api: Api, item: Any, expected: list[str]) -> None:
    assert api("PATCH", f"/leads/{ORDER}", item).status_code == 200
    assert [tag["name"] for tag in api.get(f"/leads/{ORDER}")["_embedded"]["tags"]] == expected


def test_a_tag_of_the_same_name_keeps_its_id(api: Api) -> None:
    made = [api("POST", "/leads/tags", [{"name": "hot"}, {"name": "trial"}]).json() for _ in range(2)]
    ids = [[tag["id"] for tag in answer["_embedded"]["tags"]] for answer in made]
    assert ids[0] == ids[1]
    assert ids[0][1] == 70011
    assert api.ids("/leads/tags?filter[name]=hot") == [ids[0][0]]
    assert api.ids("/contacts/tags") == [71001]


def test_closing_sets_the_date_and_reopening_clears_it(api: Api) -> None:
    api("PATCH", f"/leads/{ORDER}", {"status_id": LOST, "loss_reason_id": 7})
    lost = api.get(f"/leads/{ORDER}")
    assert (lost["closed_at"], lost["loss_reason_id"], lost["updated_at"]) == (NOW, 7, NOW)
    api("PATCH", f"/leads/{ORDER}", {"pipeline_id": WHOLESALE, "status_id": FIRST_CALL, "updated_by": 0})
    lead = api.get(f"/leads/{ORDER}")
    assert (lead["closed_at"], lead["loss_reason_id"], lead["updated_by"]) == (None, None, 0)
    assert lead["pipeline_id"] == WHOLESALE


# -- tasks, notes, fields -------------------------------------------------------------------------------------


def test_a_task_is_made_listed_and_completed(kommo: Kommo, api: Api) -> None:
    task = {
        "text": "Call",
        "complete_till": NOW + 60,
        "entity_id": ORDER,
        "entity_type": "leads",
        "responsible_user_id": 9200002,
        "request_id": "t",
    }
    [made] = api("POST", "/tasks", [task]).json()["_embedded"]["tasks"]
    assert made["request_id"] == "t"
    number = made["id"]
    assert api.get(f"/tasks/{number}") == {
        "id": number,
        "created_by": 9200001,
        "updated_by": 9200001,
        "created_at": NOW,
        "updated_at": NOW,
        "responsible_user_id": 9200002,
        "group_id": 0,
        "entity_id": ORDER,
        "entity_type": "leads",
        "duration": 0,
        "is_completed": False,
        "task_type_id": 1,
        "text": "Call",
        "result": [],
        "complete_till": NOW + 60,
        "account_id": 30900001,
        "_links": {"self": {"href": f"{kommo.url}/api/v4/tasks/{number}"}},
    }
    assert api.get(f"/leads/{ORDER}")["closest_task_at"] == NOW + 60
    path = f"/tasks?filter[entity_type]=leads&filter[entity_id][]={ORDER}&filter[is_completed]="
    assert (api.ids(path + "0"), api.ids(path + "1")) == ([number], [])
    answer = api("PATCH", f"/tasks/{number}", {"is_completed": True, "result": {"text": "Done"}})
    assert answer.json()["id"] == number
    assert (api.ids(path + "0"), api.ids(path + "1")) == ([], [number])
    assert api.get(f"/tasks/{number}")["result"] == {"text": "Done"}
    assert api.ids("/tasks?filter[responsible_user_id][]=9200001") == []


@pytest.mark.parametrize(
    ("more", "path", "code", "detail"),
    [
        ({"responsible_user_id": 7}, "responsible_user_id", "NotSupportedChoice", CHOICE),
        ({"task_type_id": 9}, "task_type_id", "NotSupportedChoice", CHOICE),
        ({"entity_id": ORDER}, "entity_type", "FieldMissing", MISSING),
        ({"entity_id": 1, "entity_type": "leads"}, "entity_id", "NotSupportedChoice", CHOICE),
        ({"colour": 1}, "colour", "FieldNotExpected", NOT_EXPECTED),
        ({"complete_till": "soon"}, "complete_till", "InvalidType", "This value should be of type int."),
    ],
)
def test_a_bad_task_is_refused_at_its_path(api: Api, more: Any, path: str, code: str, detail: str) -> None:
    answer = api("POST", "/tasks", [{"text": "Call", "complete_till": NOW, **more}])
    assert answer.json() == refusal(path, code, detail)


def test_a_task_needs_text_and_a_date(api: Api) -> None:
    [item] = api("POST", "/tasks", [{"entity_id": ORDER, "entity_type": "leads"}]).json()["validation-errors"]
    assert [error["path"] for error in item["errors"]] == ["text", "complete_till"]
    assert api("GET", f"/tasks?filter[entity_id][]={ORDER}").status_code == 400


@pytest.mark.parametrize("own_path", [False, True])
def test_notes_are_made_on_either_path_and_read_back(kommo: Kommo, api: Api, own_path: bool) -> None:
    note = {"note_type": "common", "params": {"text": "a & b\n+ ж"}}
    if own_path:
        answer = api("POST", f"/leads/{ORDER}/notes", [note])
    else:
        answer = api("POST", "/leads/notes", [{**note, "entity_id": ORDER}])
    [made] = answer.json()["_embedded"]["notes"]
    links = {"self": {"href": f"{kommo.url}/api/v4/leads/{ORDER}/notes/{made['id']}"}}
    assert made == {"id": made["id"], "entity_id": ORDER, "request_id": "0", "_links": links}
    [read] = api.get(f"/leads/{ORDER}/notes?filter[note_type]=common&order[id]=desc")["_embedded"]["notes"]
    assert (read["params"], read["created_by"], read["note_type"]) == (note["params"], 9200001, "common")
    assert api.ids(f"/leads/notes?filter[entity_id][]={ORDER}") == [made["id"]]
    assert api.ids("/leads/notes?filter[note_type]=sms_in") == []
    assert api.ids(f"/leads/{NEW_DEAL}/notes") == []


@pytest.mark.parametrize(
    ("note", "path", "code", "detail"),
    [
        ({"entity_id": ORDER, "note_type": "common", "params": {}}, "params.text", "FieldMissing", MISSING),
        ({"note_type": "common", "params": {"text": "x"}}, "entity_id", "FieldMissing", MISSING),
        (
            {"entity_id": 1, "note_type": "common", "params": {"text": "x"}},
            "entity_id",
            "NotSupportedChoice",
            CHOICE,
        ),
        ({"entity_id": ORDER, "note_type": "loud", "params": {}}, "note_type", "NotSupportedChoice", CHOICE),
        (
            {"entity_id": ORDER, "entity_type": "leads", "note_type": "common", "params": {"text": "x"}},
            "entity_type",
            "FieldNotExpected",
            NOT_EXPECTED,
        ),
    ],
)
def test_a_bad_note_is_refused_at_its_path(api: Api, note: Any, path: str, code: str, detail: str) -> None:
    assert api("POST", "/leads/notes", [note]).json() == refusal(path, code, detail)


def test_a_note_on_an_unknown_lead_is_a_404(api: Api) -> None:
    note = {"note_type": "common", "params": {"text": "x"}}
    assert api("POST", "/leads/1/notes", [note]).status_code == 404


def test_a_custom_field_is_made_and_takes_values(kommo: Kommo, api: Api) -> None:
    field = {"name": "Size", "type": "select", "code": "SIZE", "enums": [{"value": "S", "sort": 1}]}
    [made] = api("POST", "/leads/custom_fields", [field]).json()["_embedded"]["custom_fields"]
    assert (made["enums"][0]["value"], made["entity_type"]) == ("S", "leads")
    values = [{"field_code": "SIZE", "values": [{"value": "S"}]}]
    assert api("PATCH", f"/leads/{ORDER}", {"custom_fields_values": values}).status_code == 200
    assert made["id"] in api.ids("/leads/custom_fields?filter[type][0]=select")
    assert api("POST", "/leads/custom_fields", [field]).json() == refusal("code")
    assert api("POST", "/leads/custom_fields", [{"name": "x", "type": "y"}]).json() == refusal("type")
    kommo.switch(admin=False)
    assert api("POST", "/leads/custom_fields", [field]).status_code == 403


# -- events ---------------------------------------------------------------------------------------------------


def test_a_stage_change_is_logged_with_both_pipelines(kommo: Kommo, api: Api) -> None:
    kommo.move(ORDER, FIRST_CALL, WHOLESALE, by=9200002)
    [event] = api.get("/events?filter[type]=lead_status_changed")["_embedded"]["events"]
    base = f"{kommo.url}/api/v4"
    assert event == {
        "id": event["id"],
        "type": "lead_status_changed",
        "entity_id": ORDER,
        "entity_type": "lead",
        "created_by": 9200002,
        "created_at": NOW,
        "value_after": [{"lead_status": {"id": FIRST_CALL, "pipeline_id": WHOLESALE}}],
        "value_before": [{"lead_status": {"id": QUALIFIED, "pipeline_id": SALES}}],
        "account_id": 30900001,
        "_links": {"self": {"href": f"{base}/events/{event['id']}"}},
        "_embedded": {"entity": {"id": ORDER, "_links": {"self": {"href": f"{base}/leads/{ORDER}"}}}},
    }


def test_events_are_filtered_and_come_newest_first(kommo: Kommo, api: Api, moment: list[float]) -> None:
    for status_id in (PROPOSAL, WON):
        moment[0] += 10
        kommo.move(ORDER, status_id)
    kommo.move(NEW_DEAL, WON)

    def seen(query: str) -> list[tuple[int, int]]:
        answer = api("GET", f"/events?filter[type]=lead_status_changed&{query}")
        items = answer.json()["_embedded"]["events"] if answer.status_code == 200 else []
        return [(item["entity_id"], item["value_after"][0]["lead_status"]["id"]) for item in items]

    assert seen("") == [(NEW_DEAL, WON), (ORDER, WON), (ORDER, PROPOSAL)]
    assert seen("limit=1&page=2") == [(ORDER, WON)]
    assert seen(f"filter[entity]=lead&filter[entity_id][]={ORDER}") == [(ORDER, WON), (ORDER, PROPOSAL)]
    assert seen(f"filter[created_at][from]={NOW + 5}&filter[created_at][to]={NOW + 15}") == [(ORDER, PROPOSAL)]
    after = "filter[value_after][leads_statuses][0]"
    assert seen(f"{after}[pipeline_id]={SALES}&{after}[status_id]={PROPOSAL}") == [(ORDER, PROPOSAL)]
    assert seen("filter[created_by][]=9200002") == []
    ten = "&".join(f"filter[entity_id][]={number}" for number in range(11))
    assert api("GET", f"/events?filter[entity]=lead&{ten}").status_code == 400
    assert api("GET", "/events?filter[entity_id][]=1").status_code == 400


# -- webhooks: registration -----------------------------------------------------------------------------------


def test_a_webhook_is_registered_updated_and_deleted(kommo: Kommo, api: Api, moment: list[float]) -> None:
    url = "https://relay.example.test/hook?a=1,2"
    body = {"destination": url, "settings": ["status_lead", "add_lead"], "sort": 10}
    made = api("POST", "/webhooks", body).json()
    assert made == {
        "id": made["id"],
        "destination": url,
        "created_at": NOW,
        "updated_at": NOW,
        "account_id": 30900001,
        "created_by": 9200001,
        "sort": 10,
        "disabled": False,
        "settings": ["status_lead", "add_lead"],
    }
    moment[0] += 5
    again = api("POST", "/webhooks", {"destination": url, "settings": ["note_lead"]}).json()
    assert again == {**made, "updated_at": NOW + 5, "settings": ["note_lead"]}
    listed = api("GET", "/webhooks").json()
    assert (listed["_total_items"], listed["_embedded"]["webhooks"]) == (1, [again])
    assert api("GET", "/webhooks?filter[destination]=https://other.test").status_code == 204
    deleted = api("DELETE", "/webhooks", {"destination": url})
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert api("DELETE", "/webhooks", {"destination": url}).status_code == 404


@pytest.mark.parametrize(
    ("body", "path", "code", "detail"),
    [
        ({"destination": "https://x.test"}, "settings", "FieldMissing", MISSING),
        ({"settings": ["add_lead"]}, "destination", "FieldMissing", MISSING),
        ({"destination": "https://x.test", "settings": ["lead.moved"]}, "settings.0", "NotSupportedChoice", CHOICE),
        (
            {"destination": "https://x.invalid/", "settings": ["add_lead"]},
            "destination",
            "InvalidUrl",
            "Invalid URL",
        ),
        ({"destination": "here", "settings": ["add_lead"]}, "destination", "InvalidUrl", "Invalid URL"),
    ],
)
def test_a_bad_webhook_is_refused(api: Api, body: Any, path: str, code: str, detail: str) -> None:
    assert api("POST", "/webhooks", body).json() == refusal(path, code, detail)


def test_only_administrators_and_only_a_hundred_webhooks(kommo: Kommo, api: Api) -> None:
    for number in range(100):
        kommo.hook(f"https://x.test/{number}")
    body = {"destination": "https://x.test/100", "settings": ["add_lead"]}
    assert api("POST", "/webhooks", body).status_code == 422
    assert api("POST", "/webhooks", {**body, "destination": "https://x.test/99"}).status_code == 200
    kommo.switch(admin=False)
    assert [api(method, "/webhooks", body).status_code for method in ("GET", "POST", "DELETE")] == [403] * 3


def test_users_are_told_to_administrators_only(kommo: Kommo, api: Api) -> None:
    kommo.inactive_users.add(9_200_002)
    body = api("GET", "/users").json()
    found = [(user["id"], user["name"], user["rights"]["is_active"]) for user in body["_embedded"]["users"]]
    assert found == [(9_200_001, "Ines Example", True), (9_200_002, "Omar Example", False)]
    assert body["_total_items"] == 2
    assert len(api("GET", "/users?limit=1").json()["_embedded"]["users"]) == 1
    kommo.reset()
    assert kommo.inactive_users == set()
    kommo.switch(admin=False)
    assert api("GET", "/users").status_code == 403


# -- webhooks: what is sent -----------------------------------------------------------------------------------

ACCOUNT = {
    "account[subdomain]": "examplebakery",
    "account[id]": "30900001",
    "account[_links][self]": "https://examplebakery.amocrm.com",
}


def test_a_move_sends_the_whole_lead_as_a_form(kommo: Kommo, inbox: Inbox, sent: Any) -> None:
    kommo.hook(inbox.url, ("status_lead",))
    kommo.move(ORDER, PROPOSAL, by=0)
    [form] = sent()
    lead = {
        "id": str(ORDER),
        "name": "Website order #1042",
        "status_id": str(PROPOSAL),
        "old_status_id": str(QUALIFIED),
        "price": "1500",
        "responsible_user_id": "9200001",
        "last_modified": str(NOW),
        "modified_user_id": "0",
        "created_user_id": "9200001",
        "date_create": "1767607200",
        "pipeline_id": str(SALES),
        "tags][0][id": "70011",
        "tags][0][name": "trial",
        "tags][1][id": "70012",
        "tags][1][name": "EU",
        "account_id": "30900001",
        "custom_fields][0][id": "800101",
        "custom_fields][0][name": "Plan",
        "custom_fields][0][values][0][value": "Team",
        "custom_fields][0][values][0][enum": "510203",
        "custom_fields][1][id": "800102",
        "custom_fields][1][name": "Interests",
        "custom_fields][1][values][0][value": "Bread",
        "custom_fields][1][values][0][enum": "510301",
        "custom_fields][1][values][1][value": "Cakes & tarts",
        "custom_fields][1][values][1][enum": "510302",
        "custom_fields][2][id": "800103",
        "custom_fields][2][name": "Demo date",
        "custom_fields][2][values][0": "1768176000",
        "custom_fields][3][id": "800104",
        "custom_fields][3][name": "Newsletter",
        "custom_fields][3][values][0][value": "1",
        "custom_fields][4][id": "800105",
        "custom_fields][4][name": "utm_source",
        "custom_fields][4][values][0][value": "spring_campaign",
        "custom_fields][4][code": "UTM_SOURCE",
        "created_at": "1767607200",
        "updated_at": str(NOW),
    }
    expected = {**ACCOUNT, **{f"leads[status][0][{key}]": value for key, value in lead.items()}}
    assert list(form.items()) == list(expected.items())
    headers, _ = inbox.received[0]
    assert headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert headers["User-Agent"] == "amoCRM-Webhooks/3.0"
    assert headers["Accept-Encoding"] == "gzip"
    assert len(headers["X-Amocrm-Requestid"]) == 36


def test_the_account_may_stand_last(kommo: Kommo, inbox: Inbox, sent: Any) -> None:
    kommo.switch(account_last=True)
    kommo.hook(inbox.url)
    kommo.move(WHOLESALE_DEAL, LOST)
    [form] = sent()
    assert list(form)[-3:] == list(ACCOUNT)


def test_a_move_sends_update_and_status_apart_and_a_thin_pipeline_hook(
    kommo: Kommo, inbox: Inbox, sent: Any
) -> None:
    kommo.hook(f"{inbox.url}/settings", ("update_lead", "status_lead"))
    kommo.hook(f"{inbox.url}/dp", kind="dp", status_ids=[WON])
    kommo.move(ORDER, PROPOSAL)
    assert sorted(next(key for key in form if "leads" in key) for form in sent()) == [
        "leads[status][0][id]",
        "leads[update][0][id]",
    ]
    kommo.move(ORDER, WON)
    [thin] = [form for form in sent() if "account[_links][self]" not in form]
    assert thin == {
        "leads[status][0][id]": str(ORDER),
        "leads[status][0][status_id]": str(WON),
        "leads[status][0][pipeline_id]": str(SALES),
        "leads[status][0][old_status_id]": str(PROPOSAL),
        "leads[status][0][old_pipeline_id]": str(SALES),
        "account[id]": "30900001",
        "account[subdomain]": "examplebakery",
    }


def test_moving_to_where_it_is_already_sends_nothing(kommo: Kommo, inbox: Inbox, sent: Any) -> None:
    kommo.hook(inbox.url, ("status_lead", "update_lead"))
    kommo.move(ORDER, QUALIFIED)
    assert sent() == []


def test_a_bulk_move_puts_several_leads_in_one_body(kommo: Kommo, inbox: Inbox, sent: Any) -> None:
    kommo.hook(inbox.url, ("status_lead",))
    deals = [kommo.add_deal(f"Deal {number}", NEW) for number in range(5)]
    kommo.move_many(deals, FIRST_CALL, WHOLESALE, per_hook=2)
    moved = [
        [value for key, value in form.items() if key.endswith("][id]") and key.count("[") == 3] for form in sent()
    ]
    assert sorted(moved) == sorted([list(map(str, deals[0:2])), list(map(str, deals[2:4])), [str(deals[4])]])


def test_a_new_deal_is_announced_unless_quiet(kommo: Kommo, inbox: Inbox, sent: Any) -> None:
    kommo.hook(f"{inbox.url}/settings", ("add_lead",))
    kommo.hook(f"{inbox.url}/dp", kind="dp")
    kommo.add_deal("Quiet", NEW)
    assert sent() == []
    deal = kommo.add_deal("", NEW, quiet=False)
    full, thin = sorted(sent(), key=len, reverse=True)
    assert full["leads[add][0][name]"] == ""
    assert thin == {
        "leads[add][0][id]": str(deal),
        "leads[add][0][status_id]": str(NEW),
        "leads[add][0][pipeline_id]": str(SALES),
        "account[id]": "30900001",
        "account[subdomain]": "examplebakery",
    }


def test_a_deleted_deal_is_gone_and_announced(kommo: Kommo, api: Api, inbox: Inbox, sent: Any) -> None:
    kommo.hook(inbox.url, ("delete_lead",))
    kommo.delete_deal(ORDER)
    assert sent() == [
        {
            **ACCOUNT,
            "leads[delete][0][id]": str(ORDER),
            "leads[delete][0][status_id]": str(QUALIFIED),
            "leads[delete][0][pipeline_id]": str(SALES),
        }
    ]
    assert api("GET", f"/leads/{ORDER}").status_code == 204
    contact = api.get(f"/contacts/{ZOE}?with=leads")
    assert [lead["id"] for lead in contact["_embedded"]["leads"]] == [WHOLESALE_DEAL]


def test_changes_through_the_api_raise_webhooks_too(kommo: Kommo, api: Api, inbox: Inbox, sent: Any) -> None:
    settings = ["update_lead", "status_lead", "responsible_lead", "add_lead", "note_lead", "add_task"]
    settings += ["update_task", "update_contact", "update_company", "note_contact", "add_contact"]
    kommo.hook(inbox.url, settings)
    api("POST", "/leads", [{"name": "x"}])
    api("PATCH", f"/leads/{ORDER}", {"status_id": WON, "responsible_user_id": 9200002})
    api("POST", "/contacts", [{"name": "x"}])
    api("PATCH", f"/contacts/{ZOE}", {"responsible_user_id": 9200002})
    api("PATCH", f"/companies/{COMPANY}", {"name": "Ltd"})
    api("POST", "/leads/notes", [{"entity_id": ORDER, "note_type": "common", "params": {"text": "a\nb"}}])
    api("POST", f"/contacts/{ZOE}/notes", [{"note_type": "common", "params": {"text": "c"}}])
    task = {"text": "Call", "complete_till": NOW, "entity_id": ORDER, "entity_type": "leads"}
    [made] = api("POST", "/tasks", [task]).json()["_embedded"]["tasks"]
    api("PATCH", f"/tasks/{made['id']}", {"is_completed": True, "result": {"text": "Agreed"}})
    forms = {tuple(key.split("[")[:2]): form for form in sent() for key in form if "account" not in key[:7]}
    assert sorted(forms) == [
        ("contacts", "add]"),
        ("contacts", "note]"),
        ("contacts", "update]"),
        ("leads", "add]"),
        ("leads", "note]"),
        ("leads", "responsible]"),
        ("leads", "status]"),
        ("leads", "update]"),
        ("task", "add]"),
        ("task", "update]"),
    ]
    assert len(inbox.forms) == 11
    assert forms["leads", "responsible]"]["leads[responsible][0][old_responsible_user_id]"] == "9200001"
    assert forms["leads", "note]"]["leads[note][0][note][text]"] == "a\nb"
    assert forms["contacts", "note]"]["contacts[note][0][type]"] == "contact"
    assert forms["task", "update]"]["task[update][0][result][text]"] == "Agreed"
    people = [form for form in inbox.forms if "contacts[update][0][id]" in form]
    zoe, company = sorted(people, key=lambda form: form["contacts[update][0][type]"] == "company")
    assert zoe["contacts[update][0][old_responsible_user_id]"] == "9200001"
    assert zoe["contacts[update][0][custom_fields][2][values][1][value]"] == "zoe.private@example.org"
    assert zoe["contacts[update][0][custom_fields][3][values][0][value]"] == "12.01.1990"
    assert zoe[f"contacts[update][0][linked_leads_id][{ORDER}][ID]"] == str(ORDER)
    assert zoe["contacts[update][0][company_name]"] in ("Example Bakery Ltd", "Ltd")
    assert company["contacts[update][0][id]"] == str(COMPANY)


def test_a_radio_field_has_no_index(kommo: Kommo, api: Api, inbox: Inbox, sent: Any) -> None:
    field = {"name": "Way", "type": "radiobutton", "code": "WAY", "enums": [{"value": "Pick up"}]}
    api("POST", "/leads/custom_fields", [field])
    kommo.hook(inbox.url, ("add_lead",))
    kommo.add_deal("+ & é", NEW, fields={"WAY": "Pick up"}, quiet=False)
    [form] = sent()
    assert form["leads[add][0][name]"] == "+ & é"
    assert form["leads[add][0][custom_fields][0][values][value]"] == "Pick up"


# -- webhooks: delivery ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statuses", "attempts"),
    [
        ([500] * 9, 5),
        ([499] * 9, 5),
        ([404] * 9, 3),
        ([302] * 9, 3),
        ([503, 200], 2),
        ([500, 500, 400, 200], 3),
        ([204], 1),
    ],
)
def test_retries_follow_the_answer(
    kommo: Kommo, inbox: Inbox, sent: Any, statuses: list[int], attempts: int
) -> None:
    kommo.courier.switches.retry_scale = 0.00001
    inbox.statuses = statuses
    kommo.hook(inbox.url)
    kommo.move(ORDER, WON)
    assert len(sent()) == attempts
    assert len({headers["X-Amocrm-Requestid"] for headers, _ in inbox.received}) == 1


@pytest.mark.parametrize(("again", "attempts"), [(True, 5), (False, 1)])
def test_pipeline_hooks_are_retried_four_times_or_never(
    kommo: Kommo, inbox: Inbox, sent: Any, again: bool, attempts: int
) -> None:
    kommo.switch(dp_retries=again)
    kommo.courier.switches.retry_scale = 0.00001
    inbox.status = 404
    kommo.hook(inbox.url, kind="dp")
    kommo.move(ORDER, WON)
    assert len(sent()) == attempts


def test_a_hook_is_disabled_after_more_than_a_hundred_bad_answers_in_two_hours(
    kommo: Kommo, api: Api, inbox: Inbox, sent: Any, moment: list[float]
) -> None:
    inbox.status = 500
    kommo.hook(inbox.url)

    def fail(times: int) -> None:
        for number in range(times):
            kommo.move(ORDER, PROPOSAL if number % 2 else WON)
        kommo.move(ORDER, QUALIFIED)
        sent()

    fail(50)
    moment[0] += 7201
    fail(99)
    assert api.get("/webhooks")["_embedded"]["webhooks"][0]["disabled"] is False
    kommo.move(ORDER, WON)
    assert kommo.courier.wait()
    assert api.get("/webhooks")["_embedded"]["webhooks"][0]["disabled"] is True
    count = len(inbox.received)
    kommo.move(ORDER, NEW)
    assert len(sent()) == count
    kommo.switch(saving_enables=False)
    body = {"destination": inbox.url, "settings": ["status_lead"]}
    assert api("POST", "/webhooks", body).json()["disabled"] is True
    kommo.switch(saving_enables=True)
    assert api("POST", "/webhooks", body).json()["disabled"] is False
    kommo.move(ORDER, WON)
    assert len(sent()) == count + 1


def test_a_pipeline_hook_pauses_after_more_than_a_hundred_bad_answers(
    kommo: Kommo, inbox: Inbox, sent: Any
) -> None:
    inbox.status = 500
    kommo.hook(inbox.url, kind="dp")
    for number in range(101):
        kommo.move(ORDER, PROPOSAL if number % 2 else WON)
    sent()
    [hook] = kommo.state()["hooks"]
    assert (hook["bad_answers"], hook["paused_until"], hook["disabled"]) == (101, NOW + 300, False)


def test_no_answer_in_two_seconds_is_a_failure(kommo: Kommo, inbox: Inbox) -> None:
    inbox.silent = True
    kommo.hook(inbox.url)
    kommo.move(ORDER, WON)
    assert kommo.courier.wait()
    assert [delivery.status for delivery in kommo.courier.deliveries] == [0]


def test_writers_at_once_lose_nothing(kommo: Kommo) -> None:
    def write(number: int) -> list[int]:
        own = Api(kommo)
        answers = [
            own("POST", "/leads", [{"name": f"{number}", "tags_to_add": [{"name": "x"}]}]) for _ in range(10)
        ]
        own.session.close()
        return [answer.json()["_embedded"]["leads"][0]["id"] for answer in answers]

    before = len(kommo.account.leads)
    with ThreadPoolExecutor(8) as pool:
        made = [lead_id for ids in pool.map(write, range(8)) for lead_id in ids]
    assert len(set(made)) == 80
    assert len(kommo.account.leads) == before + 80


# -- levers ---------------------------------------------------------------------------------------------------


def test_levers_make_people_companies_and_deals(kommo: Kommo, api: Api) -> None:
    company = kommo.add_company("Mill", fields={"COMPANY_SIZE": 12, "INDUSTRY": "Flour"})
    first = kommo.add_contact("Una Example", ["una@example.com", "u@example.org"], company_id=company)
    second = kommo.add_contact("", first_name="Dua", last_name="Example", contact_id=77)
    deal = kommo.add_deal(
        "Flour",
        FIRST_CALL,
        pipeline_id=WHOLESALE,
        contact_ids=(first, second),
        fields={"800101": "Solo", 800102: ["Bread", "Catering"]},
        deal_id=99,
        price=5,
    )
    lead = api.get(f"/leads/{deal}?with=contacts")
    assert [(c["id"], c["is_main"]) for c in lead["_embedded"]["contacts"]] == [(first, True), (77, False)]
    assert [len(field["values"]) for field in lead["custom_fields_values"]] == [1, 2]
    assert api.get(f"/contacts/{second}")["name"] == "Dua Example"
    contact = api.get(f"/contacts/{first}?with=leads")
    assert [v["value"] for v in contact["custom_fields_values"][0]["values"]] == [
        "una@example.com",
        "u@example.org",
    ]
    assert contact["_embedded"]["companies"][0]["id"] == company
    assert kommo.state()["companies"][str(company)]["name"] == "Mill"


@pytest.mark.parametrize(
    ("lever", "arguments"),
    [
        ("add_deal", {"name": "x", "status_id": 1}),
        ("add_deal", {"name": "x", "status_id": NEW, "contact_ids": [1]}),
        ("add_deal", {"name": "x", "status_id": NEW, "deal_id": DELETED}),
        ("add_deal", {"name": "x", "status_id": NEW, "responsible_user_id": 1}),
        ("add_deal", {"name": "x", "status_id": NEW, "fields": {"NO": 1}}),
        ("add_deal", {"name": "x", "status_id": NEW, "fields": {800101: "Huge"}}),
        ("add_deal", {"name": "x", "status_id": NEW, "price": "much"}),
        ("add_contact", {"name": 5}),
        ("add_contact", {"name": "x", "contact_id": ZOE}),
        ("add_contact", {"name": "x", "company_id": 1}),
        ("move", {"deal_id": 1, "status_id": WON}),
        ("move", {"deal_id": ORDER, "status_id": FIRST_CALL}),
        ("move", {"deal_id": ORDER, "status_id": WON, "by": 1}),
        ("move_many", {"deal_ids": [ORDER], "status_id": WON, "per_hook": 0}),
        ("delete_deal", {"deal_id": DELETED}),
        ("hook", {"url": "nowhere"}),
        ("hook", {"url": "https://x.test", "settings": ["lead.moved"]}),
        ("hook", {"url": "https://x.test", "settings": "status_lead"}),
        ("hook", {"url": "https://x.test", "kind": "chat"}),
        ("hook", {"url": "https://x.test", "kind": "dp", "status_ids": [1]}),
        ("switch", {"speed": 1}),
        ("switch", {"rate": "fast"}),
        ("switch", {"rate_html": 1}),
    ],
)
def test_a_lever_pulled_wrongly_says_so_and_changes_nothing(
    kommo: Kommo, lever: str, arguments: dict[str, Any]
) -> None:
    before = kommo.state()
    with pytest.raises((KeyError, ValueError)):
        getattr(kommo, lever)(**arguments)
    assert kommo.state() == before


def test_levers_work_over_the_control_server(kommo: Kommo, api: Api, inbox: Inbox, sent: Any) -> None:
    app = Flask("control")
    app.register_blueprint(kommo.control)
    control = app.test_client()
    company = control.post("/kommo/companies", json={"name": "Mill"}).json["id"]
    person = {"name": "Una Example", "emails": ["una@example.com"], "company_id": company}
    contact = control.post("/kommo/contacts", json=person).json["id"]
    deal = {"name": "Flour", "status_id": NEW, "contact_ids": [contact], "fields": {"800101": "Solo"}}
    first = control.post("/kommo/deals", json=deal).json["id"]
    second = control.post("/kommo/deals", json=deal).json["id"]
    settings = ["status_lead", "delete_lead"]
    assert "id" in control.post("/kommo/hooks", json={"url": inbox.url, "settings": settings}).json
    control.post(f"/kommo/deals/{first}/move", json={"status_id": QUALIFIED, "by": 9200002})
    control.post("/kommo/move", json={"deal_ids": [first, second], "status_id": WON, "per_hook": 2})
    control.delete(f"/kommo/deals/{second}")
    assert control.post("/kommo/switches", json={"rate": 3}).json["rate"] == 3
    assert control.get("/kommo/switches").json == kommo.switches()
    assert len(sent()) == 3
    assert api.get(f"/leads/{first}")["status_id"] == WON


def test_reset_restores_the_start(kommo: Kommo, api: Api) -> None:
    kommo.reset()
    kommo.rate = 0
    before = kommo.state()
    kommo.hook("https://x.test")
    api("PATCH", f"/contacts/{ZOE}", {"name": "x", "tags_to_add": [{"name": "y"}]})
    kommo.delete_deal(ORDER)
    kommo.switch(patch_wrapped=True)
    kommo.reset()
    kommo.rate = 0
    assert kommo.state() == before
    assert api.get("/contacts?query=zoe@example.com")["_embedded"]["contacts"][0]["name"] == "Zoë Example"


def test_the_people_of_all_examples_have_a_lead(api: Api) -> None:
    leads = {
        "marta.keller@northbay-logistics.example": 40518833,
        "tomas.ibarra@cedarworks.example": 39900417,
        "jonas.weir@plainfieldtools.example": 40518834,
        "ann.keller@example.test": 7351,
        "bo.lind@example.test": 7420,
        "chi.mori@example.test": 7498,
    }
    for email, lead_id in leads.items():
        [contact] = api.get(f"/contacts?query={email}&with=leads")["_embedded"]["contacts"]
        assert [lead["id"] for lead in contact["_embedded"]["leads"]] == [lead_id]
        assert api.get(f"/leads/{lead_id}")["status_id"] not in (WON, LOST)


def test_a_pipeline_can_be_archived(api: Api, kommo: Kommo) -> None:
    kommo.account.pipelines[WHOLESALE].is_archive = True
    pipelines = api.get("/leads/pipelines")["_embedded"]["pipelines"]
    assert {pipeline["id"]: pipeline["is_archive"] for pipeline in pipelines} == {SALES: False, WHOLESALE: True}


def test_what_is_made_for_a_relay_can_be_taken_away(api: Api, kommo: Kommo) -> None:
    kommo.hook("https://relay.example.com/webhooks/kommo/secret-0123456789")
    kommo.forget_relay()
    assert kommo.hooks.by_url == {}
    names = [field["name"] for field in api.get("/leads/custom_fields")["_embedded"]["custom_fields"]]
    assert names == ["Plan", "Interests", "Demo date", "Newsletter", "utm_source"]


def test_another_account_has_other_ids_of_its_stages(api: Api, kommo: Kommo) -> None:
    before = api.get("/leads/pipelines")["_embedded"]["pipelines"]
    kommo.renumber_stages(1_000)
    after = api.get("/leads/pipelines")["_embedded"]["pipelines"]
    assert [pipeline["id"] for pipeline in after] == [SALES + 1_000, WHOLESALE + 1_000]
    for old, new in zip(before, after, strict=True):
        for one, other in zip(old["_embedded"]["statuses"], new["_embedded"]["statuses"], strict=True):
            own = 0 if one["id"] in (WON, LOST) else 1_000
            assert (other["id"], other["name"]) == (one["id"] + own, one["name"])
    kommo.move(41_500_011, 61_001_103)
    lead = api.get("/leads/41500011")
    assert (lead["pipeline_id"], lead["status_id"]) == (SALES + 1_000, 61_001_103)
