"""Pipelines, fields and activities: each call's exact request, and what is read from the documented answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import responses

from app.clients.encharge import EnchargeClient
from app.clients.errors import ApiError, Fault
from app.clients.fields import ACTIVITY, Field
from app.clients.kommo import KnownStage, KommoClient, Pipeline
from app.clients.ortto import OrttoClient

KOMMO, ENCHARGE, ORTTO = "https://acme.kommo.com/api/v4", "https://api.encharge.io/v1", "https://api.ap3api.com/v1"
MOVED = "act:cm:crm-stage-changed"


@pytest.fixture
def wire() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def kommo() -> KommoClient:
    return KommoClient("https://acme.kommo.com", "token-1")


@pytest.fixture
def encharge() -> EnchargeClient:
    return EnchargeClient(ENCHARGE, "https://ingest.encharge.io/v1", "key", None)


@pytest.fixture
def ortto() -> OrttoClient:
    return OrttoClient(ORTTO, "PRV-key")


def sent(wire: responses.RequestsMock) -> list[tuple[str | None, str | None, Any]]:
    return [
        (call.request.method, call.request.url, json.loads(call.request.body) if call.request.body else None)
        for call in wire.calls
    ]


# -- Kommo --


def test_pipelines_come_in_kommos_order_with_their_stages(wire: responses.RequestsMock, kommo: KommoClient) -> None:
    stages = [
        {"id": 142, "name": "Won", "sort": 10000, "type": 0},
        {"id": 61, "name": "New", "sort": 20, "type": 0},
        {"id": 60, "name": "Incoming leads", "sort": 10, "type": 1, "is_editable": False},
    ]
    pipelines = [
        {"id": 8, "name": "Old", "sort": 2, "is_archive": True, "_embedded": {"statuses": []}},
        {"id": 7, "name": "Sales", "sort": 1, "is_archive": False, "_embedded": {"statuses": stages}},
    ]
    wire.get(f"{KOMMO}/leads/pipelines", json={"_total_items": 2, "_embedded": {"pipelines": pipelines}})

    first, second = kommo.pipelines()

    incoming = KnownStage(60, "Incoming leads", incoming=True)
    assert first == Pipeline(7, "Sales", (incoming, KnownStage(61, "New"), KnownStage(142, "Won")))
    assert second == Pipeline(8, "Old", (), archived=True)
    assert sent(wire) == [("GET", f"{KOMMO}/leads/pipelines", None)]


def test_deal_fields_are_read_page_after_page(wire: responses.RequestsMock, kommo: KommoClient) -> None:
    enums = [{"id": 1, "value": "Team", "sort": 1}, {"id": 2, "value": "Solo", "sort": 2}]
    first = {"id": 800101, "name": "Plan", "type": "select", "code": None, "enums": enums}
    second = {"id": 800110, "name": "Last email activity", "type": "text", "enums": None}
    for body in (
        {"_links": {"next": {"href": "…"}}, "_embedded": {"custom_fields": [first]}},
        {"_links": {}, "_embedded": {"custom_fields": [second]}},
    ):
        wire.get(f"{KOMMO}/leads/custom_fields", json=body)

    assert kommo.deal_fields() == [
        Field("800101", "Plan", "select", ("Team", "Solo")),
        Field("800110", "Last email activity", "text"),
    ]
    assert [url for _, url, _ in sent(wire)] == [
        f"{KOMMO}/leads/custom_fields?limit=250",
        f"{KOMMO}/leads/custom_fields?limit=250&page=2",
    ]


def test_no_deal_field_is_an_empty_list(wire: responses.RequestsMock, kommo: KommoClient) -> None:
    wire.get(f"{KOMMO}/leads/custom_fields", status=204)
    assert kommo.deal_fields() == []


def test_a_deal_field_is_made(wire: responses.RequestsMock, kommo: KommoClient) -> None:
    made = {"id": 800111, "name": "Email status", "type": "text", "enums": None}
    wire.post(f"{KOMMO}/leads/custom_fields", json={"_total_items": 1, "_embedded": {"custom_fields": [made]}})
    assert kommo.add_deal_fields(["Email status"], "text") == [Field("800111", "Email status", "text")]
    assert sent(wire) == [("POST", f"{KOMMO}/leads/custom_fields", [{"name": "Email status", "type": "text"}])]


# -- Encharge --


def test_person_fields_are_listed_by_their_api_names(
    wire: responses.RequestsMock, encharge: EnchargeClient
) -> None:
    items = [
        {"name": "kommo_lead_id", "title": "Kommo lead ID", "type": "string", "array": False},
        {"name": "colors", "title": None, "type": "string", "array": True},
    ]
    wire.get(f"{ENCHARGE}/fields", json={"items": items})
    assert encharge.person_fields() == [
        Field("kommo_lead_id", "Kommo lead ID", "string"),
        Field("colors", "colors", "string[]"),
    ]


def test_a_person_field_is_made_under_its_exact_name(
    wire: responses.RequestsMock, encharge: EnchargeClient
) -> None:
    asked = {"name": "jobTitle", "title": "Job title", "type": "string", "readOnly": False, "array": False}
    wire.post(f"{ENCHARGE}/fields", json={"items": [asked]})
    assert encharge.add_person_field("jobTitle", "Job title", "string") == Field("jobTitle", "Job title", "string")
    assert sent(wire) == [("POST", f"{ENCHARGE}/fields", [asked])]


# -- Ortto --


def test_the_schema_has_fields_and_activities_with_their_attributes(
    wire: responses.RequestsMock, ortto: OrttoClient
) -> None:
    value = {"id": "int:cm:deal-value", "name": "deal-value", "display_type": "currency"}
    spaces = {
        "": {"id": "", "fields": {"str::email": {"id": "str::email", "name": "Email", "display_type": "email"}}},
        "cm": {
            "id": "cm",
            "fields": {
                MOVED: {"id": MOVED, "name": "crm-stage-changed", "display_type": "activity", "attributes": [value]}
            },
        },
    }
    wire.post(f"{ORTTO}/instance-schema/get", json={"namespaces": spaces})
    assert ortto.schema() == [
        Field("str::email", "Email", "email"),
        Field(MOVED, "crm-stage-changed", ACTIVITY),
        Field("int:cm:deal-value", "deal-value", "currency", of=MOVED),
    ]
    assert sent(wire) == [("POST", f"{ORTTO}/instance-schema/get", {"namespaces": []})]


def test_a_custom_field_is_made_and_its_id_read_back(wire: responses.RequestsMock, ortto: OrttoClient) -> None:
    made = {"name": "Kommo lead ID", "field_id": "str:cm:kommo-lead-id", "display_type": "text"}
    wire.post(f"{ORTTO}/person/custom-field/create", json=made)
    assert ortto.add_person_field("Kommo lead ID", "text") == Field("str:cm:kommo-lead-id", "Kommo lead ID", "text")
    assert sent(wire) == [
        ("POST", f"{ORTTO}/person/custom-field/create", {"name": "Kommo lead ID", "type": "text"})
    ]


def test_an_activity_is_made_and_its_ids_read_back(wire: responses.RequestsMock, ortto: OrttoClient) -> None:
    attribute = {
        "name": "deal-value",
        "field_id": "int:cm:deal-value",
        "display_type": "currency",
        "liquid_name": "…",
    }
    made = {"name": "crm-stage-changed", "activity_field_id": MOVED, "state": "live", "attributes": [attribute]}
    wire.post(f"{ORTTO}/definitions/activity/create", json={"custom_activity": made})
    assert ortto.add_activity("crm-stage-changed", {"deal-value": "currency"}) == [
        Field(MOVED, "crm-stage-changed", ACTIVITY),
        Field("int:cm:deal-value", "deal-value", "currency", of=MOVED),
    ]
    body = {
        "name": "crm-stage-changed",
        "icon_id": "flag-activities-illustration-icon",
        "attributes": [{"name": "deal-value", "display_type": "currency"}],
    }
    assert sent(wire) == [("POST", f"{ORTTO}/definitions/activity/create", body)]


# -- all --


@pytest.mark.parametrize(
    ("method", "url", "call"),
    [
        ("GET", f"{KOMMO}/leads/pipelines", lambda k, e, o: k.pipelines()),
        ("GET", f"{KOMMO}/leads/custom_fields", lambda k, e, o: k.deal_fields()),
        ("POST", f"{KOMMO}/leads/custom_fields", lambda k, e, o: k.add_deal_fields(["a"], "text")),
        ("GET", f"{ENCHARGE}/fields", lambda k, e, o: e.person_fields()),
        ("POST", f"{ENCHARGE}/fields", lambda k, e, o: e.add_person_field("a", "A", "string")),
        ("POST", f"{ORTTO}/instance-schema/get", lambda k, e, o: o.schema()),
        ("POST", f"{ORTTO}/person/custom-field/create", lambda k, e, o: o.add_person_field("a", "text")),
        ("POST", f"{ORTTO}/definitions/activity/create", lambda k, e, o: o.add_activity("a", {})),
    ],
)  # fmt: skip
def test_an_answer_of_another_shape_is_an_error_and_no_traceback(
    wire: responses.RequestsMock,
    kommo: KommoClient,
    encharge: EnchargeClient,
    ortto: OrttoClient,
    method: str,
    url: str,
    call: Callable[[KommoClient, EnchargeClient, OrttoClient], object],
) -> None:
    wire.add(
        method,
        url,
        json={"_embedded": {"pipelines": [{}], "custom_fields": [{}]}, "items": [{}], "namespaces": [1]},
    )
    with pytest.raises(ApiError, match="unexpected shape") as caught:
        call(kommo, encharge, ortto)
    assert caught.value.fault == Fault.PASSING
