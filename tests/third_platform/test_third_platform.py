"""A third email platform, Customer.io, as docs/adding-a-vendor.md adds one: two files and a line, at work.

The service runs as a process of its own from a copy of app/ with these, between the sandbox's Kommo and a fake
Customer.io on a real socket.
"""

from __future__ import annotations

import base64
import difflib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from support import (
    GENEROUS_SECONDS,
    GUNICORN,
    JSON,
    QUALIFIED,
    ROOT,
    SECRET,
    Service,
    add_deals,
    arrived,
    environment,
    eventually,
    free_port,
    in_the_end,
    rows,
    stage_hook,
)

from sandbox.town import Town
from third_platform.vendor import Customerio

HERE = Path(__file__).parent
LINE = '    CUSTOMERIO = "customerio"\n'
PARTS = ("clients/customerio.py", "webhooks/customerio.py")
HOOKS = {
    "email_opened": ("email_opened", "ignored"),  # no rule is for it
    "email_clicked": ("email_clicked", "delivered"),
    "email_bounced": ("bounced", "delivered"),
    "customer_unsubscribed": ("unsubscribed", "delivered"),
    "customer_subscribed": ("resubscribed", "delivered"),
    "email_sent": ("other", "ignored"),
}
MARTA, MARTA_DEAL = "marta.keller@northbay-logistics.example", 40_518_833
ZOE, ZOE_DEAL = "zoe@example.com", 41_500_011
TOMAS_DEAL, JONAS_DEAL = 39_900_417, 40_518_834
CUSTOMERIO_SECRET = "customerio-secret-0123456789"


def add_platform(app: Path) -> None:
    """Do what the document says: copy the client and the reader, and add the line."""
    for part in PARTS:
        shutil.copyfile(HERE / part, app / part)
    events = app / "events.py"
    text = events.read_text(encoding="utf-8")
    last = '    ORTTO = "ortto"\n'
    assert text.count(last) == 1
    events.write_text(text.replace(last, last + LINE), encoding="utf-8")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the service that knows the platform."""
    made = tmp_path_factory.mktemp("house")
    shutil.copytree(ROOT / "app", made / "app", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "wsgi.py", made / "wsgi.py")
    shutil.copytree(ROOT / "config", made / "config")
    add_platform(made / "app")
    return made


class Elsewhere(Service):
    """The service from another folder than ours: what this process has imported is of no use to it."""

    def __init__(self, variables: dict[str, str], folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.variables = variables
        self._log = folder / "service.log"
        self._output = self._log.open("wb")
        self.process = subprocess.Popen(
            GUNICORN,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOST": "127.0.0.1", "PORT": str(port), **variables},
            stdout=self._output,
            stderr=self._output,
        )
        self._session = requests.Session()


@pytest.fixture(scope="module")
def running_customerio() -> Iterator[Customerio]:
    vendor = Customerio()
    vendor.start()
    yield vendor
    vendor.stop()


@pytest.fixture
def customerio(running_customerio: Customerio) -> Customerio:
    running_customerio.reset()
    return running_customerio


@pytest.fixture(scope="module")
def variables(running_town: Town, running_customerio: Customerio, house: Path) -> dict[str, str]:
    """The settings of a service with this platform and no other."""
    off = dict.fromkeys(("ENCHARGE_API_KEY", "ENCHARGE_WRITE_KEY", "ORTTO_API_KEY"), "")
    mapping = house / "config" / "mapping.yaml"
    rules = mapping.read_text(encoding="utf-8")
    rules = rules.replace("source: encharge, event: email_clicked", "source: customerio, event: email_clicked")
    rules = rules.replace("encharge: jobTitle\n", "encharge: jobTitle\n    customerio: job_title\n")
    assert rules.count("customerio") == 2
    mapping.write_text(rules, encoding="utf-8")
    return {
        **environment(running_town, house),
        **off,
        "MAPPING_FILE": str(mapping),
        "CUSTOMERIO_API_KEY": running_customerio.credentials,
        "CUSTOMERIO_API_URL": running_customerio.url,
        "CUSTOMERIO_WEBHOOK_SECRET": CUSTOMERIO_SECRET,
    }


@pytest.fixture(scope="module")
def service(variables: dict[str, str], house: Path) -> Iterator[Service]:
    """One for all tests: each has deals of its own."""
    made = Elsewhere(variables, house)
    try:
        made.wait_until_ready()
        yield made
    finally:
        made.kill()


def hook(service: Service, name: str, secret: str = CUSTOMERIO_SECRET) -> requests.Response:
    """Post a captured webhook, its secret at the end of its URL."""
    return requests.post(
        f"{service.url}/webhooks/customerio/{secret}",
        data=(HERE / "hooks" / f"{name}.json").read_bytes(),
        headers={"Content-Type": JSON},
        timeout=GENEROUS_SECONDS,
    )


def move(service: Service, *deals: int) -> dict[str, Any]:
    """Let deals be qualified; return what the service answers."""
    answer = service.post("kommo", stage_hook(*deals), "application/x-www-form-urlencoded")
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    return said


def flask(variables: dict[str, str], house: Path, *arguments: str) -> str:
    """Run a command; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", *arguments],
        cwd=house,
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        timeout=GENEROUS_SECONDS,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def test_it_costs_one_client_one_reader_and_one_line(house: Path) -> None:
    ours = {path.relative_to(ROOT / "app"): path for path in (ROOT / "app").rglob("*.py")}
    theirs = {path.relative_to(house / "app"): path for path in (house / "app").rglob("*.py")}
    assert sorted(map(str, theirs.keys() - ours.keys())) == sorted(PARTS)
    assert not ours.keys() - theirs.keys()
    changed = [
        line
        for name, path in ours.items()
        for line in difflib.ndiff(path.read_text().splitlines(), theirs[name].read_text().splitlines())
        if line[0] in "+-"
    ]
    assert changed == [f"+ {LINE.rstrip()}"]


def test_every_hook_is_tested() -> None:
    assert {path.stem for path in (HERE / "hooks").iterdir()} == set(HOOKS)


def test_a_stage_arrives_there_and_what_people_do_comes_back(
    service: Service, town: Town, customerio: Customerio
) -> None:
    began = int(time.time())
    assert move(service, MARTA_DEAL, ZOE_DEAL)["status"] in ("delivered", "accepted")
    eventually(lambda: len(customerio.state()["events"]) == 2)
    told = {event["email"]: event for event in customerio.state()["events"].values()}
    assert {key: told[MARTA][key] for key in ("name", "lead_id", "stage", "pipeline_id")} == {
        "name": "deal_moved_to_qualified",
        "lead_id": str(MARTA_DEAL),
        "stage": "qualified",
        "pipeline_id": 7_100_010,
    }
    assert began - 1 <= told[ZOE]["at"] <= time.time()
    person = customerio.state()["people"][MARTA]
    assert (person["first_name"], person["kommo_lead_id"]) == ("Marta", str(MARTA_DEAL))
    assert customerio.state()["people"][ZOE]["job_title"] == "Owner"

    answers = {name: in_the_end(service, hook(service, name)) for name in HOOKS}
    assert {
        name: (answer["events"][0]["kind"], answer["events"][0]["status"]) for name, answer in answers.items()
    } == HOOKS
    found = arrived(town)
    assert [(task["entity_id"], "Customerio" in task["text"]) for task in found["tasks"]] == [(MARTA_DEAL, True)]
    assert [note["entity_id"] for note in found["notes"]] == [MARTA_DEAL, MARTA_DEAL]  # the click, the bounce
    assert found["fields"] == {MARTA_DEAL: {"Email status": "Subscribed"}}
    again = hook(service, "email_clicked").json()
    assert again["status"] == "duplicate"


def test_its_secret_is_asked_for(service: Service, town: Town) -> None:
    known = rows(service.variables, "SELECT count(*) FROM events")
    assert hook(service, "email_clicked", "wrong-secret-0123456789").status_code == 401
    assert hook(service, "email_clicked", SECRET).status_code == 401  # that of the others
    assert rows(service.variables, "SELECT count(*) FROM events") == known


def test_it_is_told_again_what_may_not_have_arrived_and_has_it_once(
    service: Service, customerio: Customerio, town: Town
) -> None:
    customerio.faults.add(path="/api/v2/batch", status=503, after=True, times=1)
    customerio.faults.add(path="/api/v2/batch", status=429, times=1, headers={"Retry-After": "1"})
    move(service, TOMAS_DEAL)
    eventually(lambda: customerio.count("POST", "/api/v2/batch", 200))
    calls = [call for call in customerio.calls if call.path == "/api/v2/batch"]
    assert [call.status for call in calls] == [503, 429, 200]
    assert calls[2].at - calls[1].at >= 1
    assert len(customerio.state()["events"]) == 1


def test_a_refused_key_pauses_its_lane_and_loses_nothing(
    service: Service, customerio: Customerio, variables: dict[str, str], town: Town
) -> None:
    good, customerio.credentials = customerio.credentials, "site:another"
    try:
        move(service, JONAS_DEAL)
        paused = eventually(lambda: rows(variables, "SELECT vendor, reason FROM lanes WHERE paused_until > 0"))
        assert paused[0][0] == "customerio"
        assert "answered 401: Unauthorized" in paused[0][1]
    finally:
        customerio.credentials = good
    rows(variables, "UPDATE jobs SET due_at = 0")
    rows(variables, "UPDATE lanes SET paused_until = 0")
    eventually(lambda: customerio.state()["events"])
    assert [word for word in (good, base64.b64encode(good.encode()).decode()) if word in service.log()] == []


def test_one_that_is_refused_does_not_hold_the_others_back(
    service: Service, town: Town, customerio: Customerio, variables: dict[str, str]
) -> None:
    contact = town.kommo.add_contact("Nobody", ["no@suppressed.example"])
    deal = town.kommo.add_deal("Refused", QUALIFIED, contact_ids=[contact])
    deals = list(add_deals(town, 3))
    move(service, deals[0], deal, *deals[1:])
    eventually(lambda: len(customerio.state()["events"]) == 3)
    query = "SELECT state, reason FROM jobs WHERE lane = 'customerio' AND state <> 'done'"
    assert eventually(lambda: rows(variables, query)) == [("dead", "the person is suppressed")]


def test_the_commands_know_it(variables: dict[str, str], house: Path, customerio: Customerio, town: Town) -> None:
    doctor = flask(variables, house, "doctor", "--json")
    lines = [json.loads(line) for line in doctor.splitlines() if line.startswith("{")]
    (account,) = [line for line in lines if line["topic"] == "customerio account"]
    assert (account["colour"], account["words"]) == ("green", "lets us in, region us")
    plan = flask(variables, house, "setup", "--dry-run")
    assert "/webhooks/customerio/<CUSTOMERIO_WEBHOOK_SECRET>" in plan
    told = flask(variables, house, "explain", "--lead", str(MARTA_DEAL), "--stage", "qualified")
    assert "Customerio: deal_moved_to_qualified" in told
    assert not customerio.state()["events"]
    without = flask({**variables, "CUSTOMERIO_WEBHOOK_SECRET": ""}, house, "events")
    assert "CUSTOMERIO_WEBHOOK_SECRET is not set, but CUSTOMERIO_API_KEY is" in without
