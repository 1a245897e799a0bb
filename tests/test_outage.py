"""Vendors that hang, fail or refuse, and the service stopped or killed: nothing is lost, nothing is done twice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from flask.testing import FlaskClient
from support import (
    FORM,
    JSON,
    NEGOTIATION,
    PROPOSAL_SENT,
    QUALIFIED,
    Service,
    add_deals,
    arrived,
    at_once,
    environment,
    eventually,
    in_the_end,
    pass_time,
    rows,
    stage_hook,
)

from app.flows.stage_changes import EVENTS_AT_ONCE
from sandbox.town import Town

ANSWER_SECONDS = 8.0  # it is 2, and the machine may be slow; who waits for a vendor that hangs, waits for 10
QUICK_SECONDS = 3.0  # the same for the quickest of several
MARTA = 40_518_833
CLICK = {"event": "email_link_clicked", "email": "marta.keller@northbay-logistics.example", "event_id": "c1"}
INGEST, ACTIVITIES = ("ingest", "/v1"), ("ortto", "/v1/activities/create")
LEADS = ("kommo", "/api/v4/leads")


@pytest.fixture
def env(town: Town, tmp_path: Path, database_url: str) -> dict[str, str]:
    """The whole way holds on both databases."""
    return {**environment(town, tmp_path), "DATABASE_URL": database_url}


def timed(call: Callable[[], requests.Response]) -> tuple[float, str]:
    """Make a call; return the seconds it took and the answer's status."""
    began = time.monotonic()
    answer = call()
    assert answer.status_code == 200
    return time.monotonic() - began, answer.json()["status"]


def _assert_in_time(answers: list[tuple[float, str]]) -> None:
    took = [seconds for seconds, _ in answers]
    assert min(took) < QUICK_SECONDS
    assert max(took) < ANSWER_SECONDS


def events_of(town: Town) -> list[str]:
    return [event["properties"]["stage"] for event in arrived(town).get("encharge_events", [])]


def activities_of(town: Town) -> list[str]:
    return [activity["attributes"]["str:cm:stage"] for activity in arrived(town).get("ortto_activities", [])]


def stages_of(town: Town, name: str) -> list[str]:
    """Return the stage that a person shows at Encharge, and that at Ortto."""
    found = arrived(town)
    people = found.get("encharge_people", [])
    stages = [person["kommo_current_stage"] for person in people if person["email"].startswith(name)]
    people = found.get("ortto_people", [])
    return stages + [person["str:cm:kommo-stage"] for person in people if person["str::email"].startswith(name)]


# -- a vendor that hangs ------------------------------------------------------------------------------------------


HANGS = {
    INGEST: (activities_of, ["negotiation", "Qualification"]),
    ACTIVITIES: (events_of, ["qualified", "Negotiation"]),
    LEADS: (None, ["negotiation", "Negotiation"]),
}


@pytest.mark.alone
def test_a_vendor_that_hangs_holds_no_answer_and_no_other_vendor(tmp_path: Path) -> None:
    """Each vendor hangs in a town of its own, all at the same time: a call is given up after 10 s only."""
    folders = [tmp_path / vendor for vendor, _ in HANGS]
    at_once([partial(hang, *hung, *HANGS[hung], folder) for hung, folder in zip(HANGS, folders, strict=True)], 3)


def hang(
    vendor: str, path: str, other: Callable[[Town], list[str]] | None, stages: list[str], folder: Path
) -> None:
    """Have a vendor hang; `other` is what arrives meanwhile, `stages` those of the person at the end.

    The deal moves on meanwhile: so does the person at the vendor that hung, but not the event.
    """
    folder.mkdir()
    with Town() as town, closing(Service(environment(town, folder), folder / "service.log")) as service:
        service.wait_until_ready()
        town.kommo.move(MARTA, QUALIFIED)
        town.vendors[vendor].faults.add(path=path, seconds=30, drop=True)

        answers = [timed(partial(service.post, "kommo", stage_hook(MARTA, status=QUALIFIED), FORM))]
        town.kommo.move(MARTA, NEGOTIATION)
        hooks = [partial(service.post, "kommo", stage_hook(deal), FORM) for deal in add_deals(town, 5)]
        answers += at_once([partial(timed, hook) for hook in hooks], 5)

        assert [status for _, status in answers] == ["accepted"] * 6
        _assert_in_time(answers)
        if other:
            eventually(lambda: len(other(town)) == 6)
            assert {len(events_of(town)), len(activities_of(town))} == {0, 6}
        town.vendors[vendor].faults.clear()
        eventually(lambda: len(events_of(town)) == len(activities_of(town)) == 6, 60)
        assert events_of(town) == ["qualified"] * 6
        assert activities_of(town) == ["Qualification"] * 6
        assert stages_of(town, "marta") == stages


@pytest.mark.parametrize("held", [INGEST, ACTIVITIES], ids=["encharge", "ortto"])
def test_stages_arrive_in_their_order_though_the_first_was_held_back(
    held: tuple[str, str], service: Service, town: Town
) -> None:
    vendor, path = held
    town.vendors[vendor].faults.add(path=path, status=503, times=1)
    at = int(time.time())
    for number, status in enumerate((QUALIFIED, PROPOSAL_SENT, NEGOTIATION)):
        town.kommo.move(MARTA, status)
        service.post("kommo", stage_hook(MARTA, status=status, at=at + number), FORM)

    eventually(lambda: len(events_of(town)) == len(activities_of(town)) == 3)

    assert events_of(town) == ["qualified", "proposal_sent", "negotiation"]
    assert activities_of(town) == ["Qualification", "Proposal sent", "Negotiation"]
    assert stages_of(town, "marta") == ["negotiation", "Negotiation"]


def test_stages_of_one_webhook_arrive_in_their_order_though_the_first_failed(service: Service, town: Town) -> None:
    """A relay may gather what it passes on; one of the calls fails while the next ones would go through."""
    town.vendors["ingest"].faults.add(status=503, times=1)
    moves = (QUALIFIED, PROPOSAL_SENT, NEGOTIATION)
    at = int(time.time())
    hooks = [stage_hook(MARTA, status=status, at=at + number) for number, status in enumerate(moves)]
    body = b"&".join(hook.replace(b"%5B0%5D", b"%%5B%d%%5D" % number) for number, hook in enumerate(hooks))

    answer = service.post("kommo", body, FORM)

    assert [entry["status"] for entry in answer.json()["events"]] == ["accepted"] * 3
    eventually(lambda: len(events_of(town)) == len(activities_of(town)) == 3)
    assert events_of(town) == ["qualified", "proposal_sent", "negotiation"]
    assert activities_of(town) == ["Qualification", "Proposal sent", "Negotiation"]


def test_stages_arrive_in_their_order_through_two_processes(
    start_service: Callable[..., Service], town: Town
) -> None:
    """The second process may not overtake the first one, which waits for a slow vendor."""
    slow, quick = start_service(), start_service()
    for vendor, path in (INGEST, ACTIVITIES):
        town.vendors[vendor].faults.add(path=path, seconds=2, times=1)
    at = int(time.time())

    first = slow.post("kommo", stage_hook(MARTA, status=QUALIFIED, at=at), FORM)
    second = quick.post("kommo", stage_hook(MARTA, status=PROPOSAL_SENT, at=at + 1), FORM)

    assert {first.json()["status"], second.json()["status"]} <= {"accepted", "delivered"}
    eventually(lambda: len(events_of(town)) == len(activities_of(town)) == 2)
    assert events_of(town) == ["qualified", "proposal_sent"]
    assert activities_of(town) == ["Qualification", "Proposal sent"]


def test_when_all_waiting_places_are_taken_the_next_one_is_answered_at_once(
    start_service: Callable[..., Service], town: Town, env: dict[str, str]
) -> None:
    """Four threads have two places; the other two stay free to write down what comes in."""
    service = start_service(WEB_THREADS="4", REPLY_BUDGET_SECONDS="1.9")
    told = []

    def the_third_does_not_wait() -> bool:
        """On a busy machine it may come too late to overtake, now and then; if it waited, it never would."""
        town.kommo.faults.add(path="/api/v4/leads", seconds=4, times=1)
        deals = list(add_deals(town, 3))
        told.extend(deals)
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(service.post, "kommo", stage_hook(deal), FORM) for deal in deals[:2]]
            eventually(lambda: rows(env, "SELECT count(*) FROM events") == [(len(told) - 1,)])

            third = service.post("kommo", stage_hook(deals[2]), FORM)

            overtaken = not any(future.done() for future in waiting)
            answers = [answer.json()["status"] for answer in (third, *(future.result() for future in waiting))]
        eventually(lambda: len(events_of(town)) == len(activities_of(town)) == len(told))
        return overtaken and answers == ["accepted"] * 3

    assert any(the_third_does_not_wait() for _ in range(4))


# -- a vendor that fails ------------------------------------------------------------------------------------------

FAILS_ONCE = {
    "500": {"status": 500},
    "429": {"status": 429, "headers": {"Retry-After": "2"}},
    "drops before it has done it": {"drop": True},
    "drops after it has done it": {"drop": True, "after": True},
    "500 after it has done it": {"status": 500, "after": True},
}


@pytest.mark.parametrize("fault", FAILS_ONCE)
def test_what_failed_once_arrives_once(fault: str, service: Service, town: Town) -> None:
    """Each call fails at its first time, at every vendor."""
    wrong: dict[str, Any] = {**FAILS_ONCE[fault], "times": 1}
    # In its own words Ortto says when to come again, and Kommo's always ask for five minutes.
    town.ortto.switch(try_in_seconds=2)
    town.kommo.switch(rate_html=True)
    for vendor, path in (LEADS, ("kommo", "/api/v4/tasks"), INGEST, ACTIVITIES):
        # The write of a task, not the reading of those there are.
        method = "POST" if path.endswith("tasks") else ""
        town.vendors[vendor].faults.add(path=path, method=method, **wrong)
    if "after" in wrong:
        town.kommo.faults.add(path="/api/v4/leads/notes", **wrong)

    service.post("kommo", stage_hook(MARTA, status=PROPOSAL_SENT), FORM)
    service.post("encharge", json.dumps(CLICK).encode(), JSON)

    everything = {
        "encharge_people": 1,
        "encharge_events": 1,
        "ortto_people": 1,
        "ortto_activities": 1,
        "tasks": 1,
        "notes": 1,
    }

    eventually(lambda: not owed(service))
    assert all(not vendor.faults.list() for vendor in town.vendors.values()), "not every fault was met"
    counts = {name: len(what) for name, what in arrived(town).items()}
    assert counts == everything
    if fault == "429":
        _assert_waited(town, 2.0)


def owed(service: Service) -> list[tuple[Any, ...]]:
    """Return the jobs that are still owed."""
    return rows(service.variables, "SELECT lane, reason FROM jobs WHERE state = 'pending'")


def _assert_waited(town: Town, seconds: float) -> None:
    """After a 429, nothing may be sent to that vendor for as long as it asked."""
    for name in ("kommo", "ingest", "ortto"):
        calls = list(town.vendors[name].calls)
        refused = [number for number, call in enumerate(calls) if call.status == 429]
        assert refused, name
        waits = [calls[number + 1].at - calls[number].at for number in refused]
        assert min(waits) >= seconds - 0.1, (name, waits)


MAPPING_OF_A_TYPO = """
version: 1
stages:
  - {stage: qualified, pipeline: 7100010, status: 61000102}
fields:
  - {from: contact.POSITION, ortto: str:cm:no-such-field}
"""


def test_a_refused_item_is_dead_with_the_vendors_words_and_stops_no_other(
    start_service: Callable[..., Service], town: Town, tmp_path: Path
) -> None:
    """Ortto refuses a whole batch for one person's unknown field."""
    mapping = tmp_path / "typo.yaml"
    mapping.write_text(MAPPING_OF_A_TYPO)
    service = start_service(MAPPING_FILE=str(mapping))
    good = add_deals(town, 4)
    chief = town.kommo.add_contact("Chief", ["chief@burst.example"], fields={"POSITION": "Chief"})
    bad = town.kommo.add_deal("Bad", QUALIFIED, contact_ids=[chief])
    first, *rest = good

    answer = in_the_end(service, service.post("kommo", stage_hook(first, bad, *rest), FORM))

    assert answer["status"] == "accepted"
    assert [entry["status"] for entry in answer["events"]] == [
        "delivered",
        "dead",
        "delivered",
        "delivered",
        "delivered",
    ]
    assert "Ortto: POST /activities/create answered 400" in answer["events"][1]["reason"]
    assert "no-such-field" in answer["events"][1]["reason"]
    found = arrived(town)
    assert sorted(activity["email"] for activity in found["ortto_activities"]) == sorted(good.values())
    emails = sorted([*good.values(), "chief@burst.example"])
    assert sorted(event["email"] for event in found["encharge_events"]) == emails


ONLY_ENCHARGE = [("encharge", "pending"), ("ortto", "done"), ("resolve", "done")]
ONLY_ORTTO = [("encharge", "done"), ("ortto", "pending"), ("resolve", "done")]


@pytest.mark.parametrize(
    ("vendor", "status", "expected"),
    [
        pytest.param("kommo", 401, [("resolve", "pending")], id="kommo 401"),
        pytest.param("kommo", 402, [("resolve", "pending")], id="kommo 402"),
        pytest.param("ingest", 401, ONLY_ENCHARGE, id="encharge 401"),
        pytest.param("ortto", 401, ONLY_ORTTO, id="ortto 401"),
        pytest.param("ortto", 403, ONLY_ORTTO, id="ortto 403"),
    ],
)
def test_a_key_that_is_refused_pauses_its_vendor_and_loses_nothing(
    vendor: str,
    status: int,
    expected: list[tuple[str, str]],
    client: FlaskClient,
    env: dict[str, str],
    town: Town,
) -> None:
    town.vendors[vendor].faults.add(status=status)
    hook = stage_hook(MARTA, status=PROPOSAL_SENT)

    answer = client.post("/webhooks/kommo", data=hook, content_type=FORM)
    eventually(lambda: rows(env, "SELECT vendor FROM lanes WHERE paused_until > 0"))

    assert answer.json["status"] == "accepted"
    (event,) = answer.json["events"]
    assert (event["status"], str(status) in event["reason"]) == ("accepted", True)
    eventually(lambda: rows(env, "SELECT lane, state FROM jobs ORDER BY lane") == expected)
    ((paused, until, reason),) = rows(env, "SELECT vendor, paused_until, reason FROM lanes WHERE paused_until > 0")
    assert (paused, until) == (vendor.replace("ingest", "encharge"), pytest.approx(time.time() + 300, abs=60))
    assert f"answered {status}" in reason
    calls = len(town.vendors[vendor].calls)
    began = time.monotonic()
    again = client.post("/webhooks/kommo", data=stage_hook(MARTA, status=NEGOTIATION), content_type=FORM)
    assert (again.json["status"], "is paused" in again.json["events"][0]["reason"]) == (
        "accepted",
        vendor != "kommo",
    )
    assert time.monotonic() - began < ANSWER_SECONDS
    assert len(town.vendors[vendor].calls) == calls

    town.vendors[vendor].faults.clear()
    pass_time(env)
    eventually(lambda: len(events_of(town)) == len(activities_of(town)) == 2)


# -- the service itself -------------------------------------------------------------------------------------------


def all_down(town: Town) -> None:
    for vendor in town.vendors.values():
        vendor.faults.add(drop=True)


def all_up(town: Town) -> None:
    for vendor in town.vendors.values():
        vendor.faults.clear()


def test_what_was_accepted_while_all_vendors_were_down_is_delivered_after_a_restart(
    start_service: Callable[..., Service], town: Town, env: dict[str, str]
) -> None:
    all_down(town)
    deals = add_deals(town, 3)
    service = start_service()
    posts = [partial(service.post, "kommo", stage_hook(deal), FORM) for deal in deals]
    posts.append(partial(service.post, "encharge", json.dumps(CLICK).encode(), JSON))
    answers = at_once([partial(timed, post) for post in posts], 4)
    assert [status for _, status in answers] == ["accepted"] * 4
    _assert_in_time(answers)

    service.stop()
    assert service.process.returncode == 0
    assert arrived(town) == {}
    all_up(town)
    start_service()

    eventually(
        lambda: (
            {name: len(what) for name, what in arrived(town).items()}
            == {
                "encharge_people": 3,
                "encharge_events": 3,
                "ortto_people": 3,
                "ortto_activities": 3,
                "tasks": 1,
                "notes": 1,
            }
        )
    )
    assert "Traceback" not in service.log()


def test_a_service_that_is_asked_to_stop_finishes_what_it_is_doing(
    start_service: Callable[..., Service], town: Town, env: dict[str, str]
) -> None:
    service = start_service()
    town.ortto.faults.add(path=ACTIVITIES[1], seconds=4, times=1)
    answer = service.post("kommo", stage_hook(MARTA, status=PROPOSAL_SENT), FORM)
    assert answer.json()["status"] == "accepted"

    service.stop()

    assert service.process.returncode == 0
    assert rows(env, "SELECT lane, state FROM jobs ORDER BY lane") == [
        ("encharge", "done"),
        ("ortto", "done"),
        ("resolve", "done"),
    ]
    assert len(town.ortto.calls) == 1


def test_a_service_killed_in_the_middle_of_a_burst_loses_nothing_it_answered(
    start_service: Callable[..., Service], town: Town, env: dict[str, str]
) -> None:
    """What got no answer is sent again by Kommo, and so by us; Ortto hears of each deal once."""
    town.ortto.faults.add(path=ACTIVITIES[1], seconds=6, times=1)  # so something is under way for sure
    deals = add_deals(town, 50)
    at = int(time.time())
    answered: list[int] = []
    service = start_service()

    def post(deal: int) -> None:
        with suppress(requests.RequestException):
            if service.post("kommo", stage_hook(deal, at=at), FORM).ok:
                answered.append(deal)

    with ThreadPoolExecutor(10) as pool:
        for deal in list(deals)[:40]:
            pool.submit(post, deal)
        eventually(lambda: len(answered) >= 5)
        service.kill()
    pass_time(env)
    owed = rows(env, "SELECT count(*) FROM jobs WHERE state = 'pending'")
    assert owed != [(0,)]
    known = {int(key.removeprefix("lead:")) for (key,) in rows(env, "SELECT order_key FROM events")}
    assert set(answered) <= known

    again = start_service()
    left = set(deals) - set(answered)
    at_once([partial(again.post, "kommo", stage_hook(deal, at=at), FORM) for deal in left], 16)

    emails = sorted(deals.values())
    eventually(lambda: rows(env, "SELECT count(*) FROM jobs WHERE state = 'done'") == [(150,)])
    found = arrived(town)
    assert sorted(activity["email"] for activity in found["ortto_activities"]) == emails
    assert sorted(person["email"] for person in found["encharge_people"]) == emails
    # What was under way when the power went may have been done, 8 at once, and Encharge cannot tell a repeat.
    assert {event["email"] for event in found["encharge_events"]} == set(emails)
    assert len(found["encharge_events"]) <= 50 + EVENTS_AT_ONCE
    if env["DATABASE_URL"].startswith("sqlite"):
        assert rows(env, "PRAGMA integrity_check") == [("ok",)]
