"""/readyz: red when a job is not carried out, and only then."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import requests
from databases import run_sql
from flask import Flask
from parts import VENDORS, Clock, Desk, stage_event
from support import FORM, QUALIFIED, Service, at_once, eventually, stage_hook

from app import EXTENSION, create_app
from app.events import Lane
from app.journal import Journal
from app.ops import health
from app.settings import Settings
from sandbox.town import Town

MINUTES = 15


def ready(journal: Journal, clock: Clock, minutes: int = MINUTES) -> tuple[int, list[str]]:
    """Return what /readyz answers: its status, and what fails."""
    app = Flask(__name__)
    app.register_blueprint(health.make_blueprint(journal, VENDORS, oldest=minutes * 60.0, clock=clock))
    answer = app.test_client().get("/readyz")
    assert answer.json is not None
    return answer.status_code, [item["error"] for item in answer.json["failing"]]


@pytest.fixture
def desk(database_url: str) -> Desk:
    return Desk(Journal(database_url))


def test_a_job_that_has_been_due_for_too_long_makes_it_red(desk: Desk) -> None:
    desk.record(stage_event(1, QUALIFIED))
    desk.clock.put_forward(MINUTES * 60 - 5)
    assert ready(desk.journal, desk.clock) == (200, [])
    desk.clock.put_forward(10)
    assert ready(desk.journal, desk.clock) == (503, ["due for 905 s: is a worker running?"])
    assert ready(desk.journal, desk.clock, minutes=16) == (200, [])
    desk.journal.close()


def test_what_waits_for_a_paused_vendor_does_not(desk: Desk) -> None:
    desk.record(stage_event(1, QUALIFIED))
    desk.clock.put_forward(7200)
    desk.journal.pause("kommo", desk.clock() + 300, "Kommo: GET /leads answered 401: Unauthorized")
    assert ready(desk.journal, desk.clock) == (200, [])
    assert desk.journal.oldest_due(VENDORS, now=desk.clock()) is None
    desk.clock.put_forward(301)
    assert ready(desk.journal, desk.clock)[0] == 503
    desk.journal.close()


def test_a_retry_that_is_due_later_does_not(desk: Desk) -> None:
    desk.record(stage_event(1, QUALIFIED))
    run_due = "UPDATE jobs SET due_at = due_at + 20000"
    with desk.journal._engine.begin() as connection:
        connection.exec_driver_sql(run_due)
    desk.clock.put_forward(7200)
    assert ready(desk.journal, desk.clock) == (200, [])
    desk.journal.close()


def test_a_lane_that_is_switched_off_counts(desk: Desk) -> None:
    """Ortto's key was taken out while something was owed to it: nobody will ever carry it out."""
    desk.record(stage_event(1, QUALIFIED))
    desk.clock.put_forward(7200)
    off = {lane: vendor for lane, vendor in VENDORS.items() if lane != Lane.RESOLVE}
    assert desk.journal.oldest_due(off, now=desk.clock()) is not None
    desk.journal.close()


def test_the_setting_is_the_bound(configured: Settings) -> None:
    app = create_app(replace(configured, overdue_minutes=1))
    client = app.test_client()
    Desk(app.extensions[EXTENSION]._journal).record(stage_event(1, QUALIFIED))
    assert client.get("/readyz").status_code == 200
    run_sql(configured.database_url, "UPDATE jobs SET due_at = due_at - 61")
    eventually(lambda: client.get("/readyz").status_code == 503)  # it is looked at once a second
    app.extensions[EXTENSION].close()


def test_it_looks_once_a_second_however_often_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def look() -> list[dict[str, str]]:
        looks.append(len(looks))
        time.sleep(0.1)
        return [{"look": str(len(looks))}]

    readiness = health._Readiness(look)
    answers = at_once([readiness.failing] * 40, 8)
    assert (len(looks), answers) == (1, [[{"look": "1"}]] * 40)
    monkeypatch.setattr(health, "FRESH_SECONDS", 0)
    readiness._until = 0
    assert [readiness.failing(), readiness.failing()] == [[{"look": "2"}], [{"look": "3"}]]


def test_a_service_that_is_locked_out_goes_on_to_take_webhooks(
    start_service: Callable[..., Service], town: Town
) -> None:
    service = start_service(OVERDUE_MINUTES="1")
    town.kommo.faults.add(status=401)
    service.post("kommo", stage_hook(41_500_011), FORM)
    run_sql(service.variables["DATABASE_URL"], "UPDATE jobs SET due_at = due_at - 1000")
    assert requests.get(f"{service.url}/readyz", timeout=30).status_code == 200
    assert service.post("kommo", stage_hook(41_500_012), FORM).json()["status"] == "accepted"
