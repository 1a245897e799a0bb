"""Kommo's API: each call's exact request, what is read from its answer, and what its errors mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

import pytest
import responses
from responses import matchers

from app.clients.errors import ApiError, Fault
from app.clients.kommo import (
    Account,
    Change,
    Choice,
    Hook,
    KommoClient,
    LoggedMove,
    NewNote,
    NewTask,
    Position,
    User,
    token_expiry,
)
from app.events import Company, Contact, Lead

URL = "https://examplebakery.kommo.com"
API = f"{URL}/api/v4"
TOKEN = "s3cr3t-t0ken-0123456789"
HAL, PROBLEM = "application/hal+json", "application/problem+json"

Load = Callable[[str], bytes]


@pytest.fixture
def wire() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def kommo() -> KommoClient:
    return KommoClient(URL, TOKEN)


@pytest.fixture
def answer(load_fixture: Load) -> Load:
    return lambda name: load_fixture(f"kommo/api/{name}")


def filtered(*ids: int, rest: str = "") -> str:
    """Return the query of a list by ids: brackets arrive percent-encoded, as any HTTP library sends them."""
    return "&".join(f"filter%5Bid%5D%5B%5D={wanted}" for wanted in ids) + rest


def sent(wire: responses.RequestsMock) -> list[tuple[str | None, str | None, Any]]:
    """Return the requests that went out: method, whole URL, JSON body."""
    return [
        (call.request.method, call.request.url, json.loads(call.request.body) if call.request.body else None)
        for call in wire.calls
    ]


AUTHORIZED = matchers.header_matcher({"Authorization": f"Bearer {TOKEN}", "Accept": "application/json"})

ORDER = Lead(
    id=41500011,
    name="Website order #1042",
    status_id=61000102,
    pipeline_id=7100010,
    price=1500,
    responsible_user_id=9200001,
    updated_at=1767607800,
    contact_ids=(52300021, 52300020),  # the main one first, though Kommo names it last
    company_id=52300099,
    tags=("trial",),
    fields={"800101": "Team"},
)
ZOE = Contact(
    id=52300021,
    name="Zoë Example",
    first_name="Zoë",
    last_name="Example",
    emails=("zoe@example.com", "zoe@home.example"),
    tags=("vip",),
    company_id=52300099,
    fields={
        "800202": "Head of Sales",
        "POSITION": "Head of Sales",
        "800203": "no address",
        "EMAIL": "no address",
    },
)


# -- reads ------------------------------------------------------------------------------------------------------


def test_one_deal_is_read_by_its_id(wire: responses.RequestsMock, kommo: KommoClient, answer: Load) -> None:
    wire.get(f"{API}/leads/41500011", body=answer("lead_200.json"), content_type=HAL, match=[AUTHORIZED])

    assert kommo.leads([41500011, 41500011]) == {41500011: ORDER}
    assert sent(wire) == [("GET", f"{API}/leads/41500011?with=contacts", None)]


def test_deals_are_read_in_one_call_page_after_page(
    wire: responses.RequestsMock, kommo: KommoClient, answer: Load
) -> None:
    for page in (1, 2):
        wire.get(f"{API}/leads", body=answer(f"leads_200__page_{page}.json"), content_type=HAL, match=[AUTHORIZED])

    found = kommo.leads([41500012, 41500011, 41599999])

    assert found == {
        41500011: Lead(
            id=41500011,
            name="Website order #1042",
            status_id=61000102,
            pipeline_id=7100010,
            price=1500,
            responsible_user_id=9200001,
            updated_at=1767607800,
            contact_ids=(52300021,),
        ),
        41500012: Lead(
            id=41500012,
            status_id=142,
            pipeline_id=7100020,
            responsible_user_id=9200002,
            updated_at=1767607900,
            tags=("Квалификация",),
        ),
    }
    query = filtered(41500011, 41500012, 41599999, rest="&with=contacts&limit=250")
    assert sent(wire) == [("GET", f"{API}/leads?{query}", None), ("GET", f"{API}/leads?{query}&page=2", None)]


def test_more_deals_than_a_page_holds_are_read_in_parts(wire: responses.RequestsMock, kommo: KommoClient) -> None:
    wire.get(f"{API}/leads", status=204)
    wire.get(f"{API}/leads", status=204)
    ids = range(4_000_000_000, 4_000_000_251)

    assert kommo.leads(ids) == {}
    assert sent(wire) == [
        ("GET", f"{API}/leads?{filtered(*ids[:250], rest='&with=contacts&limit=250')}", None),
        ("GET", f"{API}/leads?{filtered(ids[250], rest='&with=contacts&limit=250')}", None),
    ]
    # What nginx takes as one request line by default; ids of ten digits just fit.
    assert len(f"GET {wire.calls[0].request.path_url} HTTP/1.1\r\n") <= 8192


@pytest.mark.parametrize("read", ["leads", "contacts", "companies"])
def test_no_ids_cost_no_call(wire: responses.RequestsMock, kommo: KommoClient, read: str) -> None:
    assert getattr(kommo, read)([]) == {}
    assert sent(wire) == []


@pytest.mark.parametrize("read", ["leads", "contacts", "companies"])
@pytest.mark.parametrize("ids", [[1], [1, 2]], ids=["one", "several"])
def test_unknown_ids_are_missing(
    wire: responses.RequestsMock, kommo: KommoClient, read: str, ids: list[int]
) -> None:
    wire.get(f"{API}/{read}" + ("/1" if len(ids) == 1 else ""), status=204)

    assert getattr(kommo, read)(ids) == {}


def test_one_unknown_id_may_also_be_answered_404(
    wire: responses.RequestsMock, kommo: KommoClient, answer: Load
) -> None:
    wire.get(f"{API}/leads/7", status=404, body=answer("error_404.json"), content_type=PROBLEM)
    wire.get(f"{API}/leads", status=204)

    assert kommo.leads([7]) == {}
    assert [url for _, url, _ in sent(wire)] == [
        f"{API}/leads/7?with=contacts",
        f"{API}/leads?{filtered(7, rest='&with=contacts&limit=250')}",
    ]


def test_an_account_that_is_gone_is_no_unknown_id(wire: responses.RequestsMock, kommo: KommoClient) -> None:
    wire.get(f"{API}/leads/7", status=404, body="<h1>no such account</h1>")
    wire.get(f"{API}/leads", status=404, body="<h1>no such account</h1>")

    with pytest.raises(ApiError) as caught:
        kommo.leads([7])

    assert str(caught.value) == "Kommo: GET /leads answered 404: <h1>no such account</h1>"


def test_a_contact_is_read_with_its_emails_cleaned(
    wire: responses.RequestsMock, kommo: KommoClient, answer: Load
) -> None:
    wire.get(f"{API}/contacts/52300021", body=answer("contact_200.json"), content_type=HAL, match=[AUTHORIZED])

    assert kommo.contacts([52300021]) == {52300021: ZOE}
    assert sent(wire) == [("GET", f"{API}/contacts/52300021", None)]


def test_contacts_are_read_in_one_call(wire: responses.RequestsMock, kommo: KommoClient, answer: Load) -> None:
    body = {"_embedded": {"contacts": [json.loads(answer("contact_200.json"))]}}
    wire.get(f"{API}/contacts", json=body, match=[AUTHORIZED])

    assert kommo.contacts([52300021, 52300020]) == {52300021: ZOE}
    assert sent(wire) == [("GET", f"{API}/contacts?{filtered(52300020, 52300021, rest='&limit=250')}", None)]


def test_a_company_is_read(wire: responses.RequestsMock, kommo: KommoClient, answer: Load) -> None:
    wire.get(f"{API}/companies/52300099", body=answer("company_200.json"), content_type=HAL, match=[AUTHORIZED])

    assert kommo.companies([52300099]) == {
        52300099: Company(id=52300099, name="Example Bakery", fields={"800301": "Food", "INDUSTRY": "Food"})
    }
    assert sent(wire) == [("GET", f"{API}/companies/52300099", None)]


def test_a_search_by_email_keeps_only_who_has_exactly_that_email(
    wire: responses.RequestsMock, kommo: KommoClient, answer: Load
) -> None:
    wire.get(f"{API}/contacts", body=answer("contacts_200__query.json"), content_type=HAL, match=[AUTHORIZED])

    assert kommo.contacts_by_email("zoe@example.com") == [
        Contact(
            id=52300021,
            name="Zoë Example",
            first_name="Zoë",
            last_name="Example",
            emails=("zoe@example.com",),
            lead_ids=(41500011, 41500012),
            fields={"800203": "ZOE@example.com", "EMAIL": "ZOE@example.com"},
        )
    ]
    assert sent(wire) == [("GET", f"{API}/contacts?query=zoe%40example.com&with=leads&limit=250", None)]


def test_a_search_by_email_may_find_nobody(wire: responses.RequestsMock, kommo: KommoClient) -> None:
    wire.get(f"{API}/contacts", status=204)

    assert kommo.contacts_by_email("a+b@example.com") == []
    assert sent(wire) == [("GET", f"{API}/contacts?query=a%2Bb%40example.com&with=leads&limit=250", None)]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(["leads"], id="a list"),
        pytest.param("words", id="a text"),
        pytest.param({"_embedded": None}, id="nothing embedded"),
        pytest.param({"_embedded": {"leads": [{"id": 1}]}}, id="a deal without a stage"),
        pytest.param({"_embedded": {"leads": [None]}}, id="no deal"),
    ],
)
def test_an_answer_of_another_shape_is_an_error_of_the_vendor(
    wire: responses.RequestsMock, kommo: KommoClient, body: object
) -> None:
    wire.get(f"{API}/leads", json=body)

    with pytest.raises(ApiError, match=r"^Kommo: the answer to GET /leads has an unexpected shape \(") as caught:
        kommo.leads([1, 2])

    assert caught.value.fault == Fault.PASSING


# -- writes -----------------------------------------------------------------------------------------------------


def test_tasks_are_added_in_one_call_and_their_ids_matched(
    wire: responses.RequestsMock, kommo: KommoClient, answer: Load
) -> None:
    wire.post(f"{API}/tasks", body=answer("add_tasks_200.json"), content_type=HAL, match=[AUTHORIZED])
    tasks = [
        NewTask(lead_id=41500011, text="Call Zoë", due_at=1767615000, task_type=1, user_id=9200001),
        NewTask(lead_id=41500012, text="Call", due_at=1767615001, task_type=2, user_id=None),
    ]

    assert kommo.add_tasks(tasks) == [6900031, 6900032]
    assert sent(wire) == [
        (
            "POST",
            f"{API}/tasks",
            [
                {
                    "entity_type": "leads",
                    "entity_id": 41500011,
                    "task_type_id": 1,
                    "text": "Call Zoë",
                    "complete_till": 1767615000,
                    "responsible_user_id": 9200001,
                    "request_id": "0",
                },
                {
                    "entity_type": "leads",
                    "entity_id": 41500012,
                    "task_type_id": 2,
                    "text": "Call",
                    "complete_till": 1767615001,
                    "request_id": "1",
                },
            ],
        )
    ]


def test_notes_are_added_in_one_call(wire: responses.RequestsMock, kommo: KommoClient, answer: Load) -> None:
    wire.post(f"{API}/leads/notes", body=answer("add_notes_200.json"), content_type=HAL, match=[AUTHORIZED])

    assert kommo.add_notes([NewNote(entity_id=41500011, text="clicked")]) == [8800041]
    assert sent(wire) == [
        (
            "POST",
            f"{API}/leads/notes",
            [{"entity_id": 41500011, "note_type": "common", "params": {"text": "clicked"}, "request_id": "0"}],
        )
    ]


@pytest.mark.parametrize(
    "body",
    ['{"_embedded": {"notes": [{"id": 7}]}}', "[]", '"done"', "null", "", "done", '{"_embedded": null}'],
)
def test_what_an_answer_to_adding_does_not_name_has_no_id(
    wire: responses.RequestsMock, kommo: KommoClient, body: str
) -> None:
    wire.post(f"{API}/leads/notes", body=body)

    assert kommo.add_notes([NewNote(entity_id=1, text="a")]) == [None]


def test_an_answer_to_adding_is_read_item_by_item(wire: responses.RequestsMock, kommo: KommoClient) -> None:
    made = [None, {"id": 9, "request_id": "2"}, {"id": "odd", "request_id": "1"}, {"id": 7, "request_id": "0"}]
    wire.post(f"{API}/leads/notes", json={"_embedded": {"notes": made}})

    assert kommo.add_notes([NewNote(1, "a"), NewNote(2, "b"), NewNote(3, "c")]) == [7, None, 9]


@pytest.mark.parametrize(
    ("change", "item"),
    [
        pytest.param(
            Change(7, fields={800110: "opened", 800111: "Unsubscribed"}),
            {
                "id": 7,
                "custom_fields_values": [
                    {"field_id": 800110, "values": [{"value": "opened"}]},
                    {"field_id": 800111, "values": [{"value": "Unsubscribed"}]},
                ],
            },
            id="fields",
        ),
        pytest.param(
            Change(7, add_tags=("Email Unsubscribed", "b")),
            {"id": 7, "tags_to_add": [{"name": "Email Unsubscribed"}, {"name": "b"}]},
            id="tags added, never _embedded.tags",
        ),
        pytest.param(
            Change(7, remove_tags=("a",)),
            {"id": 7, "tags_to_delete": [{"name": "a"}]},
            id="tags deleted, never _embedded.tags",
        ),
        pytest.param(
            Change(7, {1: "x"}, ("a",), ("b",)),
            {
                "id": 7,
                "custom_fields_values": [{"field_id": 1, "values": [{"value": "x"}]}],
                "tags_to_add": [{"name": "a"}],
                "tags_to_delete": [{"name": "b"}],
            },
            id="all at once",
        ),
    ],
)
@pytest.mark.parametrize(("entity", "update"), [("leads", "update_leads"), ("contacts", "update_contacts")])
def test_only_what_changes_is_sent(
    wire: responses.RequestsMock,
    kommo: KommoClient,
    answer: Load,
    entity: str,
    update: str,
    change: Change,
    item: dict[str, object],
) -> None:
    wire.patch(f"{API}/{entity}", body=answer("update_leads_200.json"), content_type=HAL, match=[AUTHORIZED])

    assert getattr(kommo, update)([change, Change(8, {2: "y"})]) is None
    other = {"id": 8, "custom_fields_values": [{"field_id": 2, "values": [{"value": "y"}]}]}
    assert sent(wire) == [("PATCH", f"{API}/{entity}", [item, other])]


# -- errors -----------------------------------------------------------------------------------------------------

CALLS: dict[str, tuple[str, str, Callable[[KommoClient], object]]] = {
    "leads": ("GET", "/leads/1", lambda kommo: kommo.leads([1])),
    "contacts": ("GET", "/contacts", lambda kommo: kommo.contacts([1, 2])),
    "companies": ("GET", "/companies/1", lambda kommo: kommo.companies([1])),
    "contacts_by_email": ("GET", "/contacts", lambda kommo: kommo.contacts_by_email("a@b.example")),
    "add_tasks": ("POST", "/tasks", lambda kommo: kommo.add_tasks([NewTask(1, "a", 2, 1, None)])),
    "add_notes": ("POST", "/leads/notes", lambda kommo: kommo.add_notes([NewNote(1, "a")])),
    "update_leads": ("PATCH", "/leads", lambda kommo: kommo.update_leads([Change(1, {2: "a"})])),
    "update_contacts": ("PATCH", "/contacts", lambda kommo: kommo.update_contacts([Change(1, {2: "a"})])),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_call_raises_the_vendors_words(
    wire: responses.RequestsMock, kommo: KommoClient, answer: Load, name: str
) -> None:
    method, path, call = CALLS[name]
    wire.add(method, f"{API}{path}", status=401, body=answer("error_401.json"), content_type=PROBLEM)

    with pytest.raises(ApiError) as caught:
        call(kommo)

    assert str(caught.value) == f"Kommo: {method} {path} answered 401: Invalid user name or password"
    assert caught.value.fault == Fault.LOCKED_OUT
    assert TOKEN not in repr(caught.value)


@pytest.mark.parametrize(
    ("fixture", "words", "expected"),
    [
        (
            "error_400.json",
            "Request validation failed; custom_fields_values.0.values.0.value: "
            "The value you selected is not a valid choice. (NotSupportedChoice)",
            {"fault": Fault.REFUSED, "status": 400, "retry_after": None, "ambiguous": False},
        ),
        (
            "error_402.json",
            "Payment Required",
            {"fault": Fault.LOCKED_OUT, "status": 402, "retry_after": None, "ambiguous": False},
        ),
        (
            "error_403.html",
            "<html> <head><title>403 Forbidden</title></head> <body> <center><h1>403 Forbidden</h1></center>",
            {"fault": Fault.PASSING, "status": 403, "retry_after": 30.0, "ambiguous": False},
        ),
        (
            "error_404.json",
            "Page not found.",
            {"fault": Fault.REFUSED, "status": 404, "retry_after": None, "ambiguous": False},
        ),
        (
            "error_422.json",
            "Limit 250 per page",
            {"fault": Fault.REFUSED, "status": 422, "retry_after": None, "ambiguous": False},
        ),
        (
            "error_429.json",
            "Too many requests",
            {"fault": Fault.PASSING, "status": 429, "retry_after": 300.0, "ambiguous": False},
        ),
        (
            "error_500.json",
            "Internal server error",
            {"fault": Fault.PASSING, "status": 500, "retry_after": None, "ambiguous": True},
        ),
        (
            "error_504.html",
            "<html> <head><title>504 Gateway Time-out</title></head> <body> <center><h1>504 Gateway",
            {"fault": Fault.PASSING, "status": 504, "retry_after": None, "ambiguous": True},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and "error_" in value else "",
)
def test_an_error_says_what_may_help(
    wire: responses.RequestsMock,
    kommo: KommoClient,
    answer: Load,
    fixture: str,
    words: str,
    expected: dict[str, object],
) -> None:
    kind = PROBLEM if fixture.endswith("json") else "text/html"
    wire.patch(f"{API}/leads", status=int(fixture[6:9]), body=answer(fixture), content_type=kind)

    with pytest.raises(ApiError) as caught:
        kommo.update_leads([Change(1, {2: "a"})])

    assert str(caught.value) == f"Kommo: PATCH /leads answered {fixture[6:9]}: {words}"
    assert vars(caught.value) == {**expected, "vendor": "kommo"}


def test_every_fault_that_kommo_finds_is_told(wire: responses.RequestsMock, kommo: KommoClient) -> None:
    faults = [
        {"request_id": "0", "errors": [{"code": "A", "path": "x.0", "detail": "one."}]},
        {"request_id": "1", "errors": [{"code": "B", "path": "y", "detail": "two."}, {"code": "C"}]},
    ]
    wire.post(f"{API}/tasks", status=400, json={"title": "Bad Request", "validation-errors": faults})

    with pytest.raises(ApiError) as caught:
        kommo.add_tasks([])

    assert str(caught.value) == ("Kommo: POST /tasks answered 400: Bad Request; x.0: one. (A); y: two. (B); :  (C)")


@pytest.mark.parametrize("body", ['{"detail": {"odd": 1}}', '{"validation-errors": null, "detail": null}', "[]"])
def test_an_error_in_another_form_is_still_an_error(
    wire: responses.RequestsMock, kommo: KommoClient, body: str
) -> None:
    wire.post(f"{API}/tasks", status=400, body=body)

    with pytest.raises(ApiError) as caught:
        kommo.add_tasks([])

    assert (str(caught.value), caught.value.fault) == (f"Kommo: POST /tasks answered 400: {body}", Fault.REFUSED)


def test_an_error_on_the_second_page_is_an_error(
    wire: responses.RequestsMock, kommo: KommoClient, answer: Load
) -> None:
    wire.get(f"{API}/leads", body=answer("leads_200__page_1.json"), content_type=HAL)
    wire.get(f"{API}/leads", status=429, body=answer("error_429.json"), content_type=PROBLEM)

    with pytest.raises(ApiError) as caught:
        kommo.leads([41500011, 41500012])

    assert (caught.value.fault, caught.value.retry_after) == (Fault.PASSING, 300.0)


def test_every_page_waits_for_its_place(wire: responses.RequestsMock, answer: Load) -> None:
    waits: list[str] = []
    kommo = KommoClient(URL, TOKEN, throttle=lambda: waits.append("waited"))
    for page in (1, 2):
        wire.get(f"{API}/leads", body=answer(f"leads_200__page_{page}.json"), content_type=HAL)

    kommo.leads([41500011, 41500012])

    assert len(waits) == 2


def test_chosen_deals_are_listed_in_the_order_of_their_last_change(
    wire: responses.RequestsMock, kommo: KommoClient, answer: Load
) -> None:
    wire.get(f"{API}/leads", body=answer("leads_200__page_1.json"), content_type=HAL)
    wire.get(f"{API}/leads", status=204)
    choice = Choice((7100010, 7100020), stage=(7100010, 61000102), since=1767600000, until=1767700000)

    leads, more = kommo.leads_page(choice, 1)

    assert ([(lead.id, lead.contact_ids, lead.updated_at) for lead in leads], more) == (
        [(41500011, (52300021,), 1767607800)],
        True,
    )
    assert kommo.leads_page(Choice(), 2) == ([], False)
    first, second = (unquote(str(url)) for _, url, _ in sent(wire))
    assert first == (
        f"{API}/leads?filter[pipeline_id][]=7100010&filter[pipeline_id][]=7100020"
        "&filter[statuses][0][pipeline_id]=7100010&filter[statuses][0][status_id]=61000102"
        "&filter[updated_at][from]=1767600000&filter[updated_at][to]=1767700000"
        "&order[updated_at]=asc&with=contacts&limit=250&page=1"
    )
    assert second == f"{API}/leads?order[updated_at]=asc&with=contacts&limit=250&page=2"


@pytest.mark.parametrize("count", [0, 1, 249, 250, 251, 500, 1_000, 1_001, 4_875, 20_000])
@pytest.mark.parametrize("always_next", [False, True], ids=["exact", "a full last page has a next one"])
def test_deals_are_counted_by_looking_for_the_last_page(
    wire: responses.RequestsMock, kommo: KommoClient, count: int, always_next: bool
) -> None:
    def page(request: Any) -> tuple[int, dict[str, str], str]:
        number = int(request.params["page"])
        held = max(0, min(250, count - 250 * (number - 1)))
        if not held:
            return 204, {}, ""
        more = count > 250 * number or (always_next and held == 250)
        leads = [{"id": item, "status_id": 1, "pipeline_id": 1} for item in range(held)]
        links = {"next": {"href": "…"}} if more else {}
        return 200, {}, json.dumps({"_links": links, "_embedded": {"leads": leads}})

    wire.add_callback(responses.GET, f"{API}/leads", page, content_type=HAL)

    assert kommo.count_leads(Choice()) == count
    assert len(wire.calls) <= 15


def test_contacts_come_with_the_ids_of_their_deals_if_wanted(
    wire: responses.RequestsMock, kommo: KommoClient, answer: Load
) -> None:
    wire.get(f"{API}/contacts", body=answer("contacts_200__query.json"), content_type=HAL)

    kommo.contacts([52300021, 52300022], with_leads=True)

    assert sent(wire)[0][1] == f"{API}/contacts?{filtered(52300021, 52300022)}&with=leads&limit=250"


# -- the log of events ------------------------------------------------------------------------------------------

LOGGED = "filter%5Btype%5D=lead_added%2Clead_status_changed&filter%5Bentity%5D=lead"


def test_the_log_is_read_page_after_page(wire: responses.RequestsMock, kommo: KommoClient, answer: Load) -> None:
    for page in (1, 2):
        wire.get(
            f"{API}/events", body=answer(f"events_200__page_{page}.json"), content_type=HAL, match=[AUTHORIZED]
        )

    found = list(kommo.moves(1767600000, 1767610000))

    assert found == [
        LoggedMove(
            id="01kb2m8y0000000000000000c3",
            lead_id=41500011,
            at=1767607800.0,
            after=Position(61000201, 7100020),
            before=Position(61000101, 7100010),
        ),
        LoggedMove(
            id="01kb2m8x0000000000000000b2", lead_id=41500012, at=1767607700.0, after=Position(142, 7100010)
        ),
        LoggedMove(id="01kb2m8w0000000000000000a1", lead_id=41500011, at=1767607200.0, after=None),
    ]
    ends = "filter%5Bcreated_at%5D%5Bfrom%5D=1767600000&filter%5Bcreated_at%5D%5Bto%5D=1767610000&limit=100"
    assert sent(wire) == [
        ("GET", f"{API}/events?{LOGGED}&{ends}", None),
        ("GET", f"{API}/events?{LOGGED}&{ends}&page=2", None),
    ]


def test_the_log_up_to_now_may_be_empty(wire: responses.RequestsMock, kommo: KommoClient) -> None:
    wire.get(f"{API}/events", status=204)

    assert list(kommo.moves(1767600000)) == []
    ends = "filter%5Bcreated_at%5D%5Bfrom%5D=1767600000&limit=100"
    assert sent(wire) == [("GET", f"{API}/events?{LOGGED}&{ends}", None)]


def test_the_log_of_deals_is_asked_for_ten_at_a_time(wire: responses.RequestsMock, kommo: KommoClient) -> None:
    wire.get(f"{API}/events", status=204)
    wire.get(f"{API}/events", status=204)

    assert kommo.moves_of(range(1, 12)) == []
    deals = [f"filter%5Bentity_id%5D%5B%5D={number}" for number in range(1, 12)]
    asked = "filter%5Btype%5D=lead_status_changed&filter%5Bentity%5D=lead"
    assert sent(wire) == [
        ("GET", f"{API}/events?{asked}&{'&'.join(deals[:10])}&limit=100", None),
        ("GET", f"{API}/events?{asked}&{deals[10]}&limit=100", None),
    ]


@pytest.mark.parametrize(
    "item", [{"id": "1"}, {"id": "1", "entity_id": 2, "created_at": 3, "value_after": [4]}, []]
)
def test_an_unexpected_entry_of_the_log_is_an_error(
    wire: responses.RequestsMock, kommo: KommoClient, item: Any
) -> None:
    wire.get(f"{API}/events", json={"_embedded": {"events": [item]}})

    with pytest.raises(ApiError, match="the answer to GET /events has an unexpected shape") as caught:
        list(kommo.moves(1767600000))
    assert caught.value.fault == Fault.PASSING


# -- the account's webhooks -------------------------------------------------------------------------------------

DESTINATION = "https://relay.example.com/webhooks/kommo/secret-0123456789"


def test_webhooks_are_listed(wire: responses.RequestsMock, kommo: KommoClient, answer: Load) -> None:
    wire.get(f"{API}/webhooks", body=answer("webhooks_200.json"), content_type=HAL, match=[AUTHORIZED])

    assert kommo.webhooks() == [
        Hook(DESTINATION, ("status_lead", "add_lead"), disabled=True),
        Hook("https://other.example.com/", ("note_lead",)),
    ]
    assert sent(wire) == [("GET", f"{API}/webhooks", None)]


def test_no_webhook_is_an_empty_list(wire: responses.RequestsMock, kommo: KommoClient) -> None:
    wire.get(f"{API}/webhooks", status=204)

    assert kommo.webhooks() == []


@pytest.mark.parametrize("status", [200, 201])
def test_a_webhook_is_set(wire: responses.RequestsMock, kommo: KommoClient, status: int) -> None:
    made = {"id": 900051, "destination": DESTINATION, "disabled": False, "settings": ["add_lead"]}
    wire.post(f"{API}/webhooks", json=made, status=status, content_type=HAL, match=[AUTHORIZED])

    assert kommo.set_webhook(DESTINATION, ["add_lead"]) == Hook(DESTINATION, ("add_lead",))
    body = {"destination": DESTINATION, "settings": ["add_lead"]}
    assert sent(wire) == [("POST", f"{API}/webhooks", body)]


def test_a_webhook_that_was_set_without_a_word_is_set(wire: responses.RequestsMock, kommo: KommoClient) -> None:
    wire.post(f"{API}/webhooks", body="")

    assert kommo.set_webhook(DESTINATION, ["add_lead"]) is None


def test_a_webhook_is_deleted_by_its_address(wire: responses.RequestsMock, kommo: KommoClient) -> None:
    wire.delete(f"{API}/webhooks", status=204, match=[AUTHORIZED])

    kommo.delete_webhook(DESTINATION)

    assert sent(wire) == [("DELETE", f"{API}/webhooks", {"destination": DESTINATION})]


def test_the_account_and_its_users_are_told(wire: responses.RequestsMock, kommo: KommoClient) -> None:
    wire.get(f"{API}/account", json={"id": 1, "name": "Acme", "subdomain": "acme"}, match=[AUTHORIZED])
    users = [
        {"id": 5, "name": "Ines", "rights": {"is_active": True}},
        {"id": 6, "name": "Omar", "rights": {"is_active": False}},
        {"id": 7, "name": "Ada"},
    ]
    wire.get(f"{API}/users", json={"_embedded": {"users": users}}, match=[AUTHORIZED])

    assert kommo.account() == Account("Acme", "acme")
    assert kommo.users() == [User(5, "Ines", True), User(6, "Omar", False), User(7, "Ada", True)]
    assert [url for _, url, _ in sent(wire)] == [f"{API}/account", f"{API}/users?limit=250"]


@pytest.mark.parametrize(
    ("token", "expires"),
    [
        ("e30.eyJleHAiOjE3OTU1MTQxMjl9.c2ln", 1_795_514_129.0),  # {"exp":1795514129}
        ("e30.eyJleHAiOiIxNzk1NTE0MTI5In0.c2ln", 1_795_514_129.0),  # as text
        ("e30.e30.c2ln", None),  # {}
        ("e30.W10.c2ln", None),  # []
        ("e30.!!!.c2ln", None),
        ("e30.eyJleHAiOm51bGx9.c2ln", None),
        ("a-plain-token", None),
        ("", None),
    ],
)
def test_a_token_tells_its_end_if_it_can(token: str, expires: float | None) -> None:
    assert token_expiry(token) == expires
