"""`flask export` and `flask forget`: all that is held of a person, told and erased, on both databases."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from databases import run_sql
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner
from held import everything, on_disk
from support import FORM, JSON, QUALIFIED, ROOT, Service, eventually, stage_hook

from app import EXTENSION, create_app
from app.events import Contact, Context, EmailActivity, Lane, Lead, Outcome, State
from app.journal import Journal, Settlement, traces
from app.settings import Settings
from sandbox.town import Town

ZOE, ZOE_HOME, ZOE_DEAL, ZOE_CONTACT = "zoe@example.com", "zoe.private@example.org", 41_500_011, 52_300_021
ZOE_ID, ADA = "3b0c1f52-7d0e-4a7e-9c55-0f6b2d84a977", "ada@example.com"
CLICK = {
    "event": "email_link_clicked",
    "email": "Zoe@Example.com",
    "person_id": ZOE_ID,
    "eventId": "e1",
    "broadcastName": "Pricing for Zoë",
    "linkUrl": "https://example.com/?who=zoe%40example.com",
}
ORTTO_OPEN = {
    "webhook_id": "w1",
    "activity": {
        "id": "act-zoe-1",
        "field_id": "act::o",
        "attr": {"str::s": "A word to Zoë"},
        "created": "2026-03-03T10:00:00Z",
    },
    "contact": {"contact_id": "ort-zoe-9", "email": ZOE},
}
ORTTO_LEFT = {"type": "unsubscribed", "person": {"fields": {"str::email": ZOE}}}
# One body that tells of two people.
TWO = {
    "eventType": "unsubscribedUser",
    "endUserData": [
        {"email": ZOE, "id": ZOE_ID},
        {"email": ADA, "id": "enc-ada-1"},
    ],
}
UNKNOWN = {
    "event": "email_opened",
    "person_id": ZOE_ID,
    "eventId": "e2",
    "broadcastName": "Pricing",
}
ZOES = (
    "zoe@example.com",
    "zoe%40example.com",
    ZOE_ID,
    "ort-zoe-9",
    "Zoë",
    "Zo\\u00eb",
    ZOE_HOME,
)


@pytest.fixture
def app(configured: Settings, database_url: str, town: Town) -> Iterator[Flask]:
    town.kommo.switch(rate=0)
    made = create_app(replace(configured, database_url=database_url, kommo_rate_limit=1_000))
    yield made
    made.extensions[EXTENSION].close()


@pytest.fixture
def journal(app: Flask) -> Journal:
    found: Journal = app.extensions[EXTENSION]._journal
    return found


@pytest.fixture
def runner(app: Flask) -> FlaskCliRunner:
    return app.test_cli_runner()


@pytest.fixture
def post(client: FlaskClient) -> Callable[..., dict[str, Any]]:
    def post(route: str, body: bytes | dict[str, Any], content_type: str = JSON) -> dict[str, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = client.post(f"/webhooks/{route}", data=data, content_type=content_type)
        assert answer.status_code == 200, answer.text
        said: dict[str, Any] = answer.json or {}
        return said

    return post


Told = list[tuple[str, bytes | dict[str, Any], str]]


@pytest.fixture
def told(post: Callable[..., dict[str, Any]]) -> Told:
    """Events 1: Zoë's deal moves. 2, 3: she clicks, opens. 4: leaves. 5, 6: she and Ada leave. 7: Ada's deal moves.

    8: her deal enters a stage that is not in the mapping, told with its name.
    """
    unmapped = stage_hook(ZOE_DEAL, status=99) + f"&leads[status][0][name]={quote('Order of Zoë')}".encode()
    bodies: Told = [
        ("kommo", stage_hook(ZOE_DEAL, status=QUALIFIED, at=int(time.time()) - 60), FORM),
        ("encharge", CLICK, JSON),
        ("ortto", ORTTO_OPEN, JSON),
        ("ortto", ORTTO_LEFT, JSON),
        ("encharge", TWO, JSON),
        ("kommo", stage_hook(41_500_014, status=QUALIFIED, at=int(time.time()) - 50), FORM),
        ("kommo", unmapped, FORM),
    ]
    for body in bodies:
        post(*body)
    return bodies


def run(runner: FlaskCliRunner, *command: str, code: int = 0, say: str | None = None) -> str:
    result = runner.invoke(args=list(command), input=say, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def stands(text: str | bytes, words: tuple[str, ...] = ZOES) -> list[str]:
    """Return which of the words stand in a text, in any case."""
    plain = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return [word for word in words if word.lower() in plain.lower()]


# -- erasing -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("told")
def test_a_forgotten_person_stands_nowhere_any_more(
    runner: FlaskCliRunner, database_url: str, client: FlaskClient
) -> None:
    assert set(ZOES) - {"Zo\\u00eb"} <= set(stands(everything(database_url)))

    output = run(runner, "forget", "--email", " Zoe@Example.com ", "--yes")

    assert "Erased: 6 events, 6 webhooks' bodies, 4 remembered activities, 2 consents." in output
    assert f"Kommo had more addresses of this contact, which --email takes as well: {ZOE_HOME}." in output
    assert "1 webhook told of others too" in output
    assert stands(everything(database_url)) == []
    if database_url.startswith("sqlite"):
        assert stands(on_disk(database_url)) == []
    # What is left: that something came, which deal moved when, and all that is Ada's.
    left = run_sql(database_url, "SELECT id, kind, order_key, email FROM events ORDER BY id")
    assert left == [
        (1, "stage_changed", f"lead:{ZOE_DEAL}", None),
        (2, "email_clicked", "forgotten", None),
        (3, "email_opened", "forgotten", None),
        (4, "unsubscribed", "forgotten", None),
        (5, "unsubscribed", "forgotten", None),
        (6, "unsubscribed", f"email:{ADA}", ADA),
        (7, "stage_changed", "lead:41500014", ADA),
        (8, "stage_changed", f"lead:{ZOE_DEAL}", None),
    ]
    assert run_sql(database_url, "SELECT email, source FROM consents") == [(ADA, "encharge")]
    assert "Nothing is held of this person." in run(runner, "forget", "--email", ZOE, "--yes")


@pytest.mark.usefixtures("told")
def test_the_story_of_a_forgotten_event_can_still_be_told(runner: FlaskCliRunner, journal: Journal) -> None:
    run(runner, "forget", "--email", ZOE, "--yes")

    whole = journal.story(2)
    assert whole
    assert (whole.content_type, whole.body, whole.context, whole.plans) == ("text/plain", b"forgotten", None, {})
    assert journal.particulars([2])[2].data == EmailActivity()

    (shown,) = [line for line in run(runner, "events").splitlines() if line.split()[0] == "2"]
    assert shown.endswith("resolve done (forgotten), kommo done (forgotten)")
    assert json.loads(run(runner, "events", "2", "--json"))["data"] == {}
    assert "Nothing to take up" in run(runner, "replay", "--state", "skipped", "--yes")


def test_a_webhook_of_a_forgotten_person_that_comes_again_is_a_duplicate(
    told: Told, runner: FlaskCliRunner, post: Callable[..., dict[str, Any]], town: Town, database_url: str
) -> None:
    before = town.kommo.state()["tasks"], town.kommo.state()["notes"], town.encharge.state()["events"]
    run(runner, "forget", "--email", ZOE, "--yes")

    for body in told:
        assert {entry["status"] for entry in post(*body)["events"]} == {"duplicate"}, body

    assert (town.kommo.state()["tasks"], town.kommo.state()["notes"], town.encharge.state()["events"]) == before
    assert stands(everything(database_url)) == []


@pytest.mark.usefixtures("told")
def test_what_was_never_looked_up_is_found_by_the_platforms_id(
    runner: FlaskCliRunner, post: Callable[..., dict[str, Any]], database_url: str, town: Town
) -> None:
    town.encharge.faults.add(status=503)
    post("encharge", UNKNOWN)

    output = run(runner, "forget", "--email", ZOE, "--yes")

    assert "event 9: resolve" in output
    assert stands(everything(database_url)) == []


def test_what_is_owed_is_told_and_dropped_only_once_it_is_confirmed(
    runner: FlaskCliRunner, post: Callable[..., dict[str, Any]], town: Town, database_url: str
) -> None:
    down = town.ortto.faults.add(status=503)
    post("kommo", stage_hook(ZOE_DEAL, status=QUALIFIED), FORM)
    before = everything(database_url)

    asked = run(runner, "forget", "--email", ZOE, say="n\n", code=1)
    dry = run(runner, "forget", "--email", ZOE, "--dry-run")

    for output in (asked, dry):
        assert "Still owed, and not delivered any more once this is erased (1):" in output
        assert "  event 1: ortto (Ortto: " in output
    assert stands(everything(database_url)) == stands(before)
    run(runner, "forget", "--email", ZOE, say="y\n")
    states = run_sql(database_url, "SELECT lane, state, reason FROM jobs ORDER BY id")
    assert states == [
        ("resolve", "done", "forgotten"),
        ("encharge", "done", "forgotten"),
        ("ortto", "done", "forgotten before it was delivered"),
    ]
    down.status = 0
    post("kommo", stage_hook(41_500_014, status=QUALIFIED), FORM)
    eventually(lambda: town.ortto.state()["activities"])
    assert [activity["email"] for activity in town.ortto.state()["activities"]] == [ADA]


@pytest.mark.usefixtures("told")
def test_where_others_name_the_person_a_word_takes_the_place_of_the_address(
    runner: FlaskCliRunner, database_url: str
) -> None:
    """A vendor's answer about somebody else, a walk's notes, the reason of a pause, a deal of two people."""
    ((ada,),) = run_sql(database_url, "SELECT id FROM jobs WHERE event_id = 7 AND lane = 'ortto'")
    context = json.dumps({"contact": {"id": 1, "name": "Zoë", "emails": [ZOE]}})
    answer = "like ZOE@example.com, not xzoe@example.com"
    run_sql(database_url, "UPDATE jobs SET reason = :words WHERE id = :id", words=answer, id=ada)
    attempt = (
        "INSERT INTO attempts (job_id, at, seconds, outcome, fault, words) VALUES (:id, 1, 1, 'dead', '', :words)"
    )
    run_sql(database_url, attempt, words="see zoe%40example.com", id=ada)
    cooldown = "INSERT INTO cooldowns (key, holder, until) VALUES (:key, :holder, 1)"
    run_sql(database_url, cooldown, key="backfill:x", holder=json.dumps([ZOE]))
    run_sql(database_url, cooldown, key=f"of {ZOE}", holder="x")
    run_sql(database_url, "INSERT INTO lanes (vendor, reason) VALUES ('custom', :words)", words=f"no {ZOE}")
    run_sql(database_url, "UPDATE events SET context = :context WHERE id = 6", context=context)

    output = run(runner, "forget", "--email", ZOE, "--yes")

    places = "(1 in attempts, 2 in cooldowns, 1 in events, 1 in jobs, 1 in lanes)"
    assert f"the address in rows that are not theirs {places}" in output
    reasons = run_sql(database_url, "SELECT reason FROM jobs WHERE id = :id", id=ada)
    assert reasons == [("like forgotten, not xzoe@example.com",)]
    assert run_sql(database_url, "SELECT words FROM attempts") == [("see forgotten",)]
    assert run_sql(database_url, "SELECT key, holder FROM cooldowns WHERE until = 1") == [
        ("backfill:x", '["forgotten"]')
    ]
    assert run_sql(database_url, "SELECT reason FROM lanes WHERE vendor = 'custom'") == [("no forgotten",)]
    assert run_sql(database_url, "SELECT context, email FROM events WHERE id = 6") == [(None, ADA)]


def test_whoever_shares_a_persons_letters_is_left_alone(
    runner: FlaskCliRunner, post: Callable[..., dict[str, Any]], database_url: str
) -> None:
    others = ("xzoe@example.com", "zoe@example.com.au", "zo@example.com", "zoe_@example.com")
    for number, email in enumerate(others):
        post("encharge", {"event": "email_opened", "email": email, "eventId": number})
    before = everything(database_url)

    assert "Nothing is held of this person." in run(runner, "forget", "--email", ZOE, "--yes")

    assert everything(database_url) == before


def test_what_is_being_looked_up_for_a_person_is_waited_for(
    runner: FlaskCliRunner, journal: Journal, database_url: str, post: Callable[..., dict[str, Any]]
) -> None:
    """Its process knows whose deal it is, and the journal does not yet."""
    # No carrier takes it.
    run_sql(database_url, "INSERT INTO lanes (vendor, paused_until) VALUES ('kommo', :at)", at=time.time() + 200)
    post("kommo", stage_hook(ZOE_DEAL, status=QUALIFIED), FORM)
    now = time.time()
    (job,) = journal.claim(Lane.RESOLVE, "nobody", 10, now=now)
    context = Context(Lead(ZOE_DEAL), Contact(ZOE_CONTACT, "Zoë", emails=(ZOE,)), email=ZOE)
    post("encharge", {**CLICK, "eventId": "e7"})  # there is something to ask about

    def settle() -> None:
        time.sleep(0.5)
        journal.settle([Settlement(job, Outcome(State.DONE, context=context))], now=time.time())

    late = threading.Thread(target=settle)
    late.start()
    run(runner, "forget", "--email", ZOE, "--yes")
    late.join()

    assert stands(everything(database_url)) == []


def test_an_address_that_is_none_is_refused(runner: FlaskCliRunner) -> None:
    assert "'zoe' is not an email address." in run(runner, "forget", "--email", "zoe", code=2)
    assert "Missing option '--email'" in run(runner, "forget", code=2)


def test_a_large_file_is_written_anew_only_when_asked(
    runner: FlaskCliRunner, told: Told, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "QUICK_BYTES", 0)
    is_sqlite = database_url.startswith("sqlite")
    if is_sqlite:
        leave_copies(Path(database_url.removeprefix("sqlite:///")))

    output = run(runner, "forget", "--email", ZOE, "--yes", code=int(is_sqlite))

    assert ("copies may be left" in output) == is_sqlite
    assert stands(everything(database_url)) == []
    run(runner, "forget", "--email", ZOE, "--vacuum")
    if is_sqlite:
        assert stands(on_disk(database_url), (ZOE,)) == []


def leave_copies(path: Path) -> None:
    """Leave an address in pages of SQLite's file that nothing uses, as other builds of SQLite do."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("CREATE TABLE old (words TEXT)")
        connection.execute("INSERT INTO old VALUES (?)", [ZOE * 1_000])
        connection.execute("DROP TABLE old")


def flask(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, as `docker exec` does."""
    return subprocess.run(
        [sys.executable, "-m", "flask", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "FLASK_APP": "app:create_command_line", **service.variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_it_works_beside_the_running_service(
    start_service: Callable[..., Service], database_url: str, town: Town
) -> None:
    """Webhooks of others come in all the while; not one is refused, and none of theirs is lost."""
    service = start_service(DATABASE_URL=database_url)
    service.post("encharge", json.dumps(CLICK).encode(), JSON)
    service.post("kommo", stage_hook(ZOE_DEAL, status=QUALIFIED), FORM)
    codes: list[int] = []
    over = threading.Event()

    def others() -> None:
        while not over.is_set():
            body = {"event": "email_opened", "email": f"p{len(codes)}@crowd.example", "eventId": len(codes)}
            codes.append(service.post("encharge", json.dumps(body).encode(), JSON).status_code)
            time.sleep(0.1)

    thread = threading.Thread(target=others)
    thread.start()
    try:
        eventually(lambda: len(codes) > 5)
        done = flask(service, "forget", "--email", ZOE, "--yes")
    finally:
        over.set()
        thread.join()

    assert (done.returncode, done.stderr) == (0, "")
    assert set(codes) == {200}
    count = "SELECT count(*) FROM events WHERE kind = 'email_opened' AND order_key != 'forgotten'"
    assert run_sql(database_url, count) == [(len(codes),)]
    assert stands(everything(database_url)) == []
    if database_url.startswith("sqlite"):
        assert stands(on_disk(database_url), (ZOE,)) == []
    again = service.post("encharge", json.dumps(CLICK).encode(), JSON)
    assert again.json()["status"] == "duplicate"
    assert len(town.kommo.state()["tasks"]) == 1


# -- telling -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("told")
def test_an_export_tells_all_of_a_person_and_nothing_of_others(runner: FlaskCliRunner) -> None:
    told = json.loads(run(runner, "export", "--email", ZOE))

    assert [event["id"] for event in told["events"]] == [1, 2, 3, 4, 5, 8]
    assert told["emails"] == [ZOE]
    assert told["other_addresses"] == [ZOE_HOME]
    assert told["exported_at"].startswith("20")
    moved, clicked, *_, left, unmapped = told["events"]
    assert moved["looked_up"]["contact"]["name"] == "Zoë Example"
    assert [(job["lane"], job["state"]) for job in moved["jobs"]] == [
        ("resolve", "done"),
        ("encharge", "done"),
        ("ortto", "done"),
    ]
    assert moved["jobs"][1]["plan"]["email"] == ZOE
    assert json.loads(clicked["webhook"]["body"]) == CLICK
    assert clicked["data"]["link"] == CLICK["linkUrl"]
    assert clicked["received_at"].endswith("+00:00")
    assert left["webhook"]["body"] == "(it tells of other people too)"
    assert "Order%20of%20Zo%C3%AB" in unmapped["webhook"]["body"]
    assert [(item["kind"], item["campaign"]) for item in told["activities_remembered"]] == [
        ("email_clicked", "pricing for zoë"),
        ("email_opened", "a word to zoë"),
        ("unsubscribed", ""),
        ("unsubscribed", ""),
    ]
    assert sorted((item["at"], item["unsubscribed"]) for item in told["consents"]) == [
        ("encharge", True),
        ("ortto", True),
    ]
    assert ADA not in json.dumps(told)


def test_the_contact_of_somebody_elses_deal_is_not_told(
    runner: FlaskCliRunner, post: Callable[..., dict[str, Any]]
) -> None:
    """A webhook that names Zoë's deal, and an address that Kommo does not know."""
    body = {"event": "email_opened", "email": "guest@example.net", "kommo_lead_id": str(ZOE_DEAL), "eventId": "1"}
    post("encharge", {**body, "broadcastName": "Pricing"})

    (event,) = json.loads(run(runner, "export", "--email", "guest@example.net"))["events"]
    assert (event["looked_up"]["contact"], event["looked_up"]["lead"]["id"]) == (None, ZOE_DEAL)
    # For the deal's contact it is no event of theirs: their part of it goes, and the rest stays.
    assert json.loads(run(runner, "export", "--email", ZOE))["events"] == []
    run(runner, "forget", "--email", ZOE, "--yes")
    (event,) = json.loads(run(runner, "export", "--email", "guest@example.net"))["events"]
    assert (event["looked_up"], event["data"]["email"]) == (None, "guest@example.net")


@pytest.mark.usefixtures("told")
def test_an_export_into_a_file_is_for_its_owner_only_and_overwrites_nothing(
    runner: FlaskCliRunner, tmp_path: Path
) -> None:
    path = tmp_path / "zoe.json"

    assert run(runner, "export", "--email", ZOE, "--output", str(path)) == f"{path}: 6 events.\n"

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text(encoding="utf-8"))["emails"] == [ZOE]
    again = run(runner, "export", "--email", ZOE, "--output", str(path), code=1)
    assert again == f"Error: {path} is there already: name a new file.\n"


def test_of_somebody_unknown_there_is_nothing(runner: FlaskCliRunner) -> None:
    told = json.loads(run(runner, "export", "--email", "nobody@example.test"))
    assert (told["events"], told["activities_remembered"], told["consents"]) == ([], [], [])
