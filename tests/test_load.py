"""Many at once: no call too many, no effect twice. The service under gunicorn, over real sockets."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from support import (
    FORM,
    JSON,
    Service,
    add_deals,
    arrived,
    at_once,
    environment,
    eventually,
    in_the_end,
    rows,
    stage_hook,
)

from sandbox.town import Town

MARTA = 40_518_833
MARTAS_EMAIL = "marta.keller@northbay-logistics.example"


@pytest.fixture(autouse=True)
def a_little_patience(request: pytest.FixtureRequest, town: Town) -> None:
    """Where other tests keep the machine busy, have Kommo allow 10 calls a second: they bunch up on their way."""
    if not request.node.get_closest_marker("alone"):
        town.kommo.switch(rate=10)


@pytest.fixture
def env(town: Town, tmp_path: Path, database_url: str) -> dict[str, str]:
    """The whole way holds on both databases."""
    return {**environment(town, tmp_path), "DATABASE_URL": database_url}


@pytest.mark.alone
def test_a_burst_arrives_once_each_and_never_asks_kommo_too_often(service: Service, town: Town) -> None:
    """Kommo takes 7 calls a second here: one by one, the 400 for 200 deals would take almost a minute."""
    emails = sorted(add_deals(town, 200).values())
    deals = [int(deal) for deal, lead in town.kommo.state()["leads"].items() if "burst" in lead["name"]]
    began = time.monotonic()

    answers = at_once([partial(service.post, "kommo", stage_hook(deal), FORM) for deal in deals], 32)

    both = (lambda: town.encharge.state()["events"], lambda: town.ortto.state()["activities"])
    eventually(lambda: all(len(what()) >= 200 for what in both))
    seconds = time.monotonic() - began
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["status"] for answer in answers} <= {"delivered", "accepted"}
    found = arrived(town)
    assert sorted(person["email"] for person in found["encharge_people"]) == emails
    assert sorted(event["email"] for event in found["encharge_events"]) == emails
    assert sorted(activity["email"] for activity in found["ortto_activities"]) == emails
    assert town.ortto.state()["counters"]["duplicates"] == 0
    assert town.kommo.count(status=429) == 0
    # The slower the webhooks come in, the smaller are the batches.
    assert town.kommo.count() < 100
    assert seconds < 30


SETTINGS_FORM = stage_hook(MARTA, at=1_767_607_800)
PIPELINE_FORM = "&".join(
    f"{quote_plus(name)}={value}"
    for name, value in {
        "leads[status][0][id]": MARTA,
        "leads[status][0][status_id]": 61_000_103,
        "leads[status][0][pipeline_id]": 7_100_010,
        "account[id]": 30_900_001,
        "account[subdomain]": "examplebakery",
    }.items()
).encode()
FLOW_BODY = {"event": "email_link_clicked", "email": MARTAS_EMAIL, "broadcastName": "Pricing"}
ACTIVITY = {
    "activity": {
        "id": "0069a80c82d7c4b19a3e6f12",
        "field_id": "act::c",
        "created": "2026-03-04T10:42:10Z",
        "attr": {"str::s": "Your offer is ready"},
    },
    "contact": {"email": MARTAS_EMAIL},
    "webhook_id": "69a1c0de5f2b8e0012ab34cd",
}
STAGE = {"encharge_people": 1, "encharge_events": 1, "ortto_people": 1, "ortto_activities": 1}


@pytest.mark.parametrize(
    ("route", "body", "content_type", "effect"),
    [
        pytest.param("kommo", SETTINGS_FORM, FORM, STAGE, id="a settings hook"),
        pytest.param("kommo", PIPELINE_FORM, FORM, STAGE, id="a hook of the Digital Pipeline"),
        pytest.param(
            "encharge", json.dumps(FLOW_BODY).encode(), JSON, {"tasks": 1, "notes": 1}, id="a flow's body"
        ),
        pytest.param("ortto", json.dumps(ACTIVITY).encode(), JSON, {"notes": 1, "fields": 1}, id="an activity"),
    ],
)
def test_the_same_webhook_ten_times_at_once_has_one_effect(
    route: str, body: bytes, content_type: str, effect: dict[str, int], service: Service, town: Town
) -> None:
    answers = at_once([partial(service.post, route, body, content_type)] * 10, 10)

    eventually(lambda: {name: len(what) for name, what in arrived(town).items()} == effect)
    statuses = Counter(in_the_end(service, answer)["status"] for answer in answers)
    assert statuses == {"delivered": 1, "duplicate": 9}
    again = service.post(route, body, content_type)
    assert again.json()["status"] == "duplicate"
    assert {name: len(what) for name, what in arrived(town).items()} == effect


def test_both_of_kommos_hooks_for_one_move_have_one_effect(service: Service, town: Town) -> None:
    """The settings hook and the Digital Pipeline's have no id in common."""
    town.kommo.hook(f"{service.url}/webhooks/kommo/test-secret-0123456789")
    town.kommo.hook(f"{service.url}/webhooks/kommo/stage/test-secret-0123456789", kind="dp")

    town.kommo.move(MARTA, 61_000_104)

    assert town.courier.wait()
    assert len(town.courier.deliveries) == 2
    assert rows(service.variables, "SELECT count(*) FROM events") == [(1,)]
    eventually(lambda: not rows(service.variables, "SELECT 1 FROM jobs WHERE state = 'pending'"))
    assert {name: len(what) for name, what in arrived(town).items()} == STAGE


@pytest.mark.parametrize("processes", [1, 2])
def test_many_clicks_at_once_make_one_task_and_a_note_each(
    processes: int, start_service: Callable[..., Service], town: Town
) -> None:
    services = [start_service() for _ in range(processes)]

    def click(number: int) -> Any:
        body = {**FLOW_BODY, "event_id": f"click-{number}", "kommo_lead_id": str(MARTA)}
        return services[number % processes].post("encharge", json.dumps(body).encode(), JSON)

    answers = at_once([partial(click, number) for number in range(20)], 20)

    assert {answer.status_code for answer in answers} == {200}
    eventually(lambda: len(arrived(town).get("notes", [])) >= 20)
    assert {name: len(what) for name, what in arrived(town).items()} == {"tasks": 1, "notes": 20}
    assert town.kommo.count(status=429) == 0


@pytest.mark.alone
def test_searches_through_two_processes_never_ask_kommo_too_often(
    start_service: Callable[..., Service], town: Town
) -> None:
    """Each person that no webhook names a deal for costs a search: 30 of them, and 7 calls a second."""
    services = [start_service(), start_service()]
    bodies = [{**FLOW_BODY, "email": f"stranger{number}@far.example"} for number in range(30)]
    posts = [
        partial(services[n % 2].post, "encharge", json.dumps(body).encode(), JSON) for n, body in enumerate(bodies)
    ]

    answers = at_once(posts, 15)

    assert {answer.status_code for answer in answers} == {200}
    done = "SELECT count(*) FROM jobs WHERE state = 'skipped'"
    eventually(lambda: rows(services[0].variables, done) == [(30,)])
    assert town.kommo.count("GET", "/api/v4/contacts", 204) == 30
    assert town.kommo.count(status=429) == 0


def test_many_deals_of_one_bulk_action_in_one_webhook_arrive_in_order_of_each_deal(
    service: Service, town: Town
) -> None:
    """Three moves of 100 deals: the stages of every deal arrive in their order."""
    deals = list(add_deals(town, 100, 61_000_101))
    town.kommo.hook(f"{service.url}/webhooks/kommo/test-secret-0123456789")
    for status in (61_000_102, 61_000_103, 61_000_104):
        town.kommo.move_many(deals, status, per_hook=100)
        assert town.courier.wait()

    eventually(lambda: len(town.encharge.state()["events"]) >= 300 and len(town.ortto.state()["activities"]) >= 300)

    found = arrived(town)
    stages: dict[str, list[str]] = {}
    for event in found["encharge_events"]:
        stages.setdefault(event["email"], []).append(event["properties"]["stage"])
    labels: dict[str, list[str]] = {}
    for activity in found["ortto_activities"]:
        labels.setdefault(activity["email"], []).append(activity["attributes"]["str:cm:stage"])
    assert len(stages) == len(labels) == 100
    assert {tuple(order) for order in stages.values()} == {("qualified", "proposal_sent", "negotiation")}
    assert {tuple(order) for order in labels.values()} == {("Qualification", "Proposal sent", "Negotiation")}
    assert {person["kommo_current_stage"] for person in found["encharge_people"]} == {"negotiation"}
    assert {person["str:cm:kommo-stage"] for person in found["ortto_people"]} == {"Negotiation"}
    assert town.kommo.count(status=429) == 0
