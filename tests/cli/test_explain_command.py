"""`flask explain`: what it says would be sent is what is sent, and it changes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from databases import run_sql
from flask import Flask
from flask.testing import FlaskCliRunner
from support import PIPELINE, PROPOSAL_SENT, QUALIFIED, ROOT, SECRET, Service, eventually, stage_hook

from app import EXTENSION, create_app, settings
from app.journal import Journal
from app.settings import Settings
from sandbox.town import Town
from sandbox.vendor import Vendor

ORDER, CLOSED, DELETED, UNMAPPED = 41_500_011, 41_500_012, 41_500_013, 41_500_014
ZOE = "zoe@example.com"
KEYS = ("x-encharge-token", "x-api-key", "authorization")
TABLES = ("webhooks", "events", "jobs", "cooldowns", "sightings", "consents")

# Due at a time on the wall: the same to the second, whenever it is asked.
RULES = """
version: 1
stages:
  - {stage: qualified, pipeline: 7100010, status: 61000102, label: Qualification}
  - {stage: proposal_sent, pipeline: 7100010, status: 61000103}
  - {stage: won, status: 142, ortto: false}
fields:
  - {from: company.INDUSTRY, encharge: industry, ortto: "str:cm:industry"}
rules:
  - when: {event: [email_clicked, email_opened], source: encharge, campaign: [pricing]}
    do: [call, note, last]
  - when: {event: email_clicked, stage: proposal_sent}
    do: [note]
  - when: {event: email_clicked, tag: partner, first: true}
    do: [note]
  - when: {source: ortto, event: email_clicked}
    do: [note, last]
  - when: {event: unsubscribed}
    do: [mark, status]
actions:
  call: {task: {text: "Call {name}: {campaign} {link}", due_at: "09:00", cooldown: 24h}}
  note: {note: {text: "{platform}: {name} {did}: {campaign}, «Квалификация»"}}
  last: {field: {id: $KOMMO_CF_EMAIL_ACTIVITY, value: "{event}: {campaign}"}}
  mark: {tag: {on: contact, name: Email Unsubscribed}}
  status: {field: {id: $KOMMO_CF_EMAIL_STATUS, value: Unsubscribed}}
"""


@pytest.fixture
def env(env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The service's settings, with rules whose effects are the same at any second."""
    path = tmp_path / "mapping.yaml"
    path.write_text(RULES, encoding="utf-8")
    return {**env, "MAPPING_FILE": str(path)}


@pytest.fixture
def start_app(env: dict[str, str]) -> Iterator[Callable[..., Flask]]:
    """Make the app in this process, beside a service that may run."""
    made: list[Flask] = []

    def start(**variables: str) -> Flask:
        made.append(create_app(settings.load({**env, **variables})))
        return made[-1]

    yield start
    for app in made:
        app.extensions[EXTENSION].close()


@pytest.fixture
def runner(start_app: Callable[..., Flask]) -> FlaskCliRunner:
    return start_app().test_cli_runner()


def explain(runner: FlaskCliRunner, *options: str) -> dict[str, Any]:
    result = runner.invoke(args=["explain", "--json", *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    told: dict[str, Any] = json.loads(result.output)
    return told


def text_of(runner: FlaskCliRunner, *options: str) -> str:
    result = runner.invoke(args=["explain", *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


# -- what it says is what is sent ----------------------------------------------------------------------------------


class Wire:
    """Notes each request of the town's vendors, to the last byte."""

    def __init__(self, town: Town, patch: pytest.MonkeyPatch) -> None:
        self.requests: list[dict[str, Any]] = []
        for vendor in town.vendors.values():
            patch.setattr(vendor.app, "wsgi_app", self._noting(vendor, vendor.app.wsgi_app))

    def _noting(self, vendor: Vendor, app: Any) -> Callable[..., Any]:
        def wsgi_app(environ: dict[str, Any], start_response: Any) -> Any:
            body = environ["wsgi.input"].read()
            environ["wsgi.input"] = BytesIO(body)
            query = f"?{environ['QUERY_STRING']}" if environ["QUERY_STRING"] else ""
            headers = {
                name.removeprefix("HTTP_").replace("_", "-").lower(): value
                for name, value in environ.items()
                if name.startswith("HTTP_") or name in ("CONTENT_TYPE", "CONTENT_LENGTH")
            }
            self.requests.append(
                {
                    "method": environ["REQUEST_METHOD"],
                    "url": f"{vendor.url}{environ['PATH_INFO']}{query}",
                    "headers": headers,
                    "body": body.decode(),
                }
            )
            return app(environ, start_response)

        return wsgi_app

    def writes(self) -> list[dict[str, Any]]:
        """Return what was written so far, keys masked as they are to be shown."""
        return _sorted(
            {**request, "headers": _masked(request["headers"])}
            for request in self.requests
            if request["method"] != "GET"
        )


def _masked(headers: dict[str, str]) -> dict[str, str]:
    masked = {
        name: ("Bearer ***" if value.startswith("Bearer ") else "***") if name in KEYS else value
        for name, value in headers.items()
    }
    del masked["host"]  # a part of the URL
    return masked


def _sorted(requests: Any) -> list[dict[str, Any]]:
    return sorted(requests, key=lambda request: (request["url"], request["body"]))


def caught(told: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what would be written, in the form of Wire."""
    (outlook,) = told["now"]
    return _sorted(
        {
            "method": call["method"],
            "url": call["url"],
            "headers": {name.lower(): value for name, value in call["headers"].items()},
            "body": call["body"],
        }
        for deed in outlook["deeds"]
        for call in deed["calls"]
        if call["caught"]
    )


def journal_of(env: dict[str, str]) -> dict[str, Any]:
    """Return all that the journal holds, but the times of the calls to Kommo."""
    return {
        **{table: run_sql(env["DATABASE_URL"], f"SELECT * FROM {table}") for table in TABLES},  # noqa: S608
        "lanes": run_sql(env["DATABASE_URL"], "SELECT vendor, reason FROM lanes WHERE paused_until > 0"),
    }


def state_of(town: Town) -> dict[str, Any]:
    return {name: json.loads(json.dumps(vendor.state(), default=str)) for name, vendor in town.vendors.items()}


CLICK = ("--email", ZOE, "--event", "email_clicked")
CASES: dict[str, tuple[tuple[str, ...], dict[str, str], int]] = {
    "a stage": (("--lead", str(ORDER)), {}, 2),
    "another stage": (("--lead", str(ORDER), "--stage", "proposal_sent"), {}, 2),
    "a stage by its id": (("--lead", str(ORDER), "--status", "142", "--pipeline", "7100010"), {}, 1),
    "a tag": (("--lead", str(ORDER)), {"ENCHARGE_EVENTS": "tag"}, 3),
    "the article's dialect": (("--lead", str(ORDER)), {"ENCHARGE_DIALECT": "article"}, 3),
    "one platform": (("--lead", str(ORDER)), {"ORTTO_API_KEY": ""}, 1),
    "a click": (
        (*CLICK, "--source", "encharge", "--campaign", "Pricing “ü”", "--link", "https://a.example/?b=c"),
        {},
        3,
    ),
    "a click of a named deal": (
        (*CLICK, "--source", "encharge", "--campaign", "PRICING", "--deal", str(ORDER)),
        {},
        3,
    ),
    "Ortto's click": ((*CLICK, "--source", "ortto", "--campaign", "Your offer"), {}, 2),
    "a person who leaves": (("--email", ZOE, "--event", "unsubscribed", "--source", "ortto"), {}, 2),
}


@pytest.mark.parametrize(("options", "variables", "count"), CASES.values(), ids=CASES)
def test_what_it_says_is_sent_to_the_last_byte(
    options: tuple[str, ...],
    variables: dict[str, str],
    count: int,
    town: Town,
    env: dict[str, str],
    start_app: Callable[..., Flask],
    start_service: Callable[..., Service],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    town.encharge.switch(dialect=variables.get("ENCHARGE_DIALECT", "documented"))
    service = start_service(**variables, REPLY_BUDGET_SECONDS="1.9")
    before = journal_of(env), state_of(town)
    wire = Wire(town, monkeypatch)

    told = explain(start_app(**variables).test_cli_runner(), *options)

    assert wire.writes() == []
    assert (journal_of(env), state_of(town)) == before
    (outlook,) = told["now"]
    assert outlook["state"] == "done"
    webhook = outlook["webhook"]
    source = webhook["path"].removeprefix("/webhooks/")
    assert service.post(source, webhook["body"].encode(), webhook["content_type"]).status_code == 200
    eventually(lambda: run_sql(env["DATABASE_URL"], "SELECT 1 FROM jobs WHERE state = 'pending'") == [])
    states = run_sql(env["DATABASE_URL"], "SELECT DISTINCT state FROM jobs")
    assert states == [("done",)]
    assert len(wire.writes()) == count
    assert caught(told) == wire.writes()


def test_no_key_is_shown(runner: FlaskCliRunner, env: dict[str, str]) -> None:
    shown = text_of(runner, "--lead", str(ORDER)) + text_of(runner, "--email", ZOE)
    keys = [value for name, value in env.items() if name.endswith(("_KEY", "_TOKEN", "_SECRET"))]
    assert [key for key in keys if key in shown] == []
    assert "Authorization: Bearer ***" in shown
    assert "X-Encharge-Token: ***" in shown


def test_a_task_of_the_shipped_rules_is_due_as_it_would_be(start_app: Callable[..., Flask]) -> None:
    runner = start_app(MAPPING_FILE=str(ROOT / "config" / "mapping.yaml")).test_cli_runner()
    told = explain(runner, *CLICK, "--source", "encharge", "--campaign", "May")
    (task,) = json.loads(caught(told)[1]["body"])
    assert task["complete_till"] - time.time() == pytest.approx(7200, abs=60)


# -- what it says of why -------------------------------------------------------------------------------------------


def test_a_stage_is_shown_with_its_person_fields_and_names(runner: FlaskCliRunner) -> None:
    shown = text_of(runner, "--lead", str(ORDER))
    for words in (
        "deal 41500011 enters stage 61000102: would be delivered",
        "61000102 of pipeline 7100010: qualified ('Qualification'), Encharge: deal_moved_to_qualified, "
        "Ortto: act:cm:crm-stage-changed",
        "52300021 Zoë Example, zoe@example.com, zoe.private@example.org",
        '"industry": "Food"',
        '"str:cm:kommo-stage": "Qualification"',
        "reads were made, nothing was written or sent",
    ):
        assert words in shown


SKIPS = {
    UNMAPPED: "enters stage 61000101: would be ignored: stage 61000101 of pipeline 7100010 is not in the mapping",
    DELETED: "Kommo has no deal 41500013, or it is deleted: nothing would be sent for it.",
    999: "Kommo has no deal 999, or it is deleted: nothing would be sent for it.",
}


@pytest.mark.parametrize(("lead_id", "words"), SKIPS.items())
def test_a_deal_that_goes_nowhere_says_why(lead_id: int, words: str, runner: FlaskCliRunner) -> None:
    assert words in text_of(runner, "--lead", str(lead_id))


def test_a_deal_without_a_contact_or_an_email_says_so(town: Town, runner: FlaskCliRunner) -> None:
    alone = town.kommo.add_deal("Alone", QUALIFIED)
    silent = town.kommo.add_deal("Silent", QUALIFIED, contact_ids=[town.kommo.add_contact("Sy", ["no address"])])
    assert "would be skipped: the deal has no contact" in text_of(runner, "--lead", str(alone))
    assert "has no valid email" in text_of(runner, "--lead", str(silent))


def test_each_candidate_says_why_it_is_not_the_deal(town: Town, runner: FlaskCliRunner) -> None:
    (outlook,) = explain(runner, *CLICK, "--source", "ortto")["now"]
    assert {item["lead_id"]: item["why"] for item in outlook["candidates"]} == {
        ORDER: "chosen: active, and changed last",
        CLOSED: "no: closed, won",
    }
    (named,) = explain(runner, *CLICK, "--source", "ortto", "--deal", str(CLOSED))["now"]
    assert [(item["lead_id"], item["why"]) for item in named["candidates"]] == [
        (CLOSED, "no: closed, won"),
        (ORDER, "chosen: active, and changed last"),
    ]
    (named,) = explain(runner, *CLICK, "--source", "ortto", "--deal", str(ORDER))["now"]
    assert [item["why"] for item in named["candidates"]] == ["chosen: the webhook names it"]


def test_an_older_deal_says_that_another_was_changed_later(town: Town, runner: FlaskCliRunner) -> None:
    (outlook,) = explain(runner, "--email", "ada@example.com", "--event", "email_clicked", "--source", "ortto")[
        "now"
    ]
    older, chosen = outlook["candidates"]
    assert older["why"] == "no: active, but changed 2026-01-05 10:15:00 UTC, before 2026-01-05 10:16:40 UTC"
    assert chosen["chosen"]


def test_each_rule_says_why_it_does_not_match(runner: FlaskCliRunner) -> None:
    (outlook,) = explain(runner, *CLICK, "--source", "encharge", "--campaign", "May news")["now"]
    assert [rule["unmet"] for rule in outlook["rules"]] == [
        ["campaign: it is 'May news'"],
        ["stage: the deal is in qualified (61000102)"],
        ["tag: the contact has vip"],
        ["source: it is encharge"],
        ["event: it is email_clicked"],
    ]
    assert outlook["reason"] == "no rule is for email_clicked from encharge of this deal, contact and history"


def test_an_action_that_comes_to_nothing_says_why(start_app: Callable[..., Flask]) -> None:
    runner = start_app(KOMMO_CF_EMAIL_ACTIVITY="").test_cli_runner()
    shown = text_of(runner, *CLICK, "--source", "ortto", "--campaign", "Offer")
    assert "left out   last: switched off: the id of its field is not set" in shown


def test_a_person_without_a_deal_says_so(town: Town, runner: FlaskCliRunner) -> None:
    town.kommo.add_contact("Nobody", ["nobody@example.test"])
    shown = text_of(runner, "--email", "nobody@example.test", "--event", "email_clicked", "--source", "ortto")
    assert "would be skipped: no active deal" in shown
    assert "stranger@example.test" not in shown
    shown = text_of(runner, "--email", "stranger@example.test", "--event", "email_clicked", "--source", "ortto")
    assert "contact    none" in shown


def test_without_an_event_it_goes_through_all_of_both_platforms(runner: FlaskCliRunner) -> None:
    outlooks = explain(runner, "--email", ZOE)["now"]
    assert len(outlooks) == 12
    assert {outlook["event"]["source"] for outlook in outlooks} == {"encharge", "ortto"}
    assert sum(outlook["state"] == "done" for outlook in outlooks) == 3  # Ortto's click, and both who leave


def test_a_cooldown_that_holds_a_task_back_is_named(
    service: Service, env: dict[str, str], runner: FlaskCliRunner
) -> None:
    options = (*CLICK, "--source", "encharge", "--campaign", "Pricing")
    body = explain(runner, *options)["now"][0]["webhook"]["body"].encode()
    assert service.post("encharge", body, "application/json").status_code == 200
    eventually(lambda: run_sql(env["DATABASE_URL"], "SELECT 1 FROM jobs WHERE state = 'pending'") == [])

    shown = text_of(runner, *options)

    assert "task on the deal: none: the deal has had one within the cooldown" in shown
    assert f"task:lead:{ORDER} is taken until 2" in shown
    assert "by job 2" in shown
    # The note is written all the same, and what did happen is told below.
    assert "note on the deal: would be made" in shown
    assert shown.index("WHAT DID HAPPEN") < shown.index("event 1: email_clicked from Encharge")


def test_what_a_person_did_before_counts(service: Service, env: dict[str, str], runner: FlaskCliRunner) -> None:
    options = (*CLICK, "--source", "encharge", "--campaign", "May news")
    assert "first" not in str(explain(runner, *options)["now"][0]["rules"][2]["unmet"])
    body = b'{"event": "email_clicked", "email": "zoe@example.com", "broadcastName": "May News"}'
    assert service.post("encharge", body, "application/json").status_code == 200
    eventually(lambda: run_sql(env["DATABASE_URL"], "SELECT 1 FROM sightings"))
    assert (
        "first: it is not the first of its kind in this campaign"
        in explain(runner, *options)["now"][0]["rules"][2]["unmet"]
    )


def test_consent_is_shown_and_decides(service: Service, env: dict[str, str], runner: FlaskCliRunner) -> None:
    left = ("--email", ZOE, "--event", "unsubscribed", "--source", "ortto")
    assert "no platform told of an unsubscription" in text_of(runner, *left)
    body = explain(runner, *left)["now"][0]["webhook"]["body"].encode()
    assert service.post("ortto", body, "application/json").status_code == 200
    eventually(lambda: run_sql(env["DATABASE_URL"], "SELECT 1 FROM jobs WHERE state = 'pending'") == [])
    shown = text_of(runner, "--email", ZOE, "--event", "unsubscribed", "--source", "encharge")
    assert "unsubscribed at Ortto" in shown
    # All is so already: nothing would be sent.
    assert "would send" not in shown


def test_it_says_so_on_both_databases(configured: Settings, database_url: str) -> None:
    """A first click makes a task; the same click now would make none, and nothing of that is written down."""
    app = create_app(replace(configured, database_url=database_url))
    try:
        runner, client = app.test_cli_runner(), app.test_client()
        client.environ_base["HTTP_X_WEBHOOK_SECRET"] = SECRET
        options = (*CLICK, "--source", "encharge", "--campaign", "Pricing")
        told = explain(runner, *options)["now"][0]
        assert told["deeds"][0]["steps"]["call"] == "would be made"
        sent = client.post("/webhooks/encharge", data=told["webhook"]["body"], content_type="application/json")
        assert sent.json is not None
        assert sent.json["status"] == "delivered"
        before = journal_of({"DATABASE_URL": database_url})

        whole = explain(runner, *options)

        told = whole["now"][0]
        assert told["deeds"][0]["steps"]["call"] == "none: the deal has had one within the cooldown"
        assert told["rules"][2]["unmet"][-1] == "first: it is not the first of its kind in this campaign"
        assert [item["id"] for item in whole["past"]] == [1]
        assert journal_of({"DATABASE_URL": database_url}) == before
    finally:
        app.extensions[EXTENSION].close()


# -- troubles ------------------------------------------------------------------------------------------------------


def test_a_vendor_that_is_down_is_named_and_the_past_told_all_the_same(
    service: Service, town: Town, env: dict[str, str], runner: FlaskCliRunner
) -> None:
    assert service.post("kommo", stage_hook(ORDER), "application/x-www-form-urlencoded").status_code == 200
    eventually(lambda: run_sql(env["DATABASE_URL"], "SELECT 1 FROM jobs WHERE state = 'pending'") == [])
    town.kommo.faults.add(status=503)

    shown = text_of(runner, "--lead", str(ORDER))
    assert "answered 503" in shown
    assert "So it is not known in which stage the deal is" in shown
    assert "event 1: stage_changed from Kommo of lead:41500011" in shown
    shown = text_of(runner, "--lead", str(ORDER), "--status", str(QUALIFIED), "--pipeline", str(PIPELINE))
    assert "cannot be delivered now: Kommo: GET /leads/41500011 answered 503" in shown
    assert "The service would try again." in shown
    shown = text_of(runner, *CLICK, "--source", "ortto")
    assert "cannot be delivered now: Kommo: GET /contacts answered 503" in shown


def test_platforms_that_are_down_do_not_matter_to_what_would_be_sent(town: Town, runner: FlaskCliRunner) -> None:
    for vendor in (town.encharge, town.encharge.ingest, town.ortto):
        vendor.faults.add(drop=True)
    assert len(caught(explain(runner, "--lead", str(ORDER)))) == 2


def test_a_vendor_that_is_left_alone_is_named(env: dict[str, str], runner: FlaskCliRunner, town: Town) -> None:
    Journal(env["DATABASE_URL"]).pause("ortto", time.time() + 500, "its key is wrong")
    assert "ortto is left alone until 2" in text_of(runner, "--lead", str(ORDER))
    assert "its key is wrong" in text_of(runner, "--lead", str(ORDER))


# -- what did happen -----------------------------------------------------------------------------------------------


def test_what_did_happen_is_told_from_the_oldest_on(
    service: Service, town: Town, env: dict[str, str], runner: FlaskCliRunner
) -> None:
    town.ortto.faults.add(path="/v1/activities", status=400)
    for number, status in enumerate((QUALIFIED, PROPOSAL_SENT)):
        body = stage_hook(ORDER, status=status, at=1_795_000_000 + number)
        assert service.post("kommo", body, "application/x-www-form-urlencoded").status_code == 200
        eventually(lambda: run_sql(env["DATABASE_URL"], "SELECT 1 FROM jobs WHERE state = 'pending'") == [])

    past = explain(runner, "--lead", str(ORDER))["past"]
    assert [item["id"] for item in past] == [1, 2]
    assert past[0]["data"]["status_id"] == QUALIFIED
    assert past[0]["occurred_at"] == 1_795_000_000
    assert past[0]["context"]["contact"]["emails"] == [ZOE, "zoe.private@example.org"]
    assert [(job["lane"], job["state"]) for job in past[0]["jobs"]] == [
        ("resolve", "done"),
        ("encharge", "done"),
        ("ortto", "dead"),
    ]
    assert [item["id"] for item in explain(runner, "--lead", str(ORDER), "--limit", "1")["past"]] == [2]
    assert explain(runner, "--lead", str(ORDER), "--limit", "0")["past"] == []
    shown = text_of(runner, "--lead", str(ORDER))
    assert "received" in shown
    assert "said       lead_id 41500011, status_id 61000102, pipeline_id 7100010" in shown
    assert "encharge   done" in shown
    assert "event: done" in shown
    assert "ortto      dead: Ortto: POST /activities/create answered 400" in shown
    # A person is found by what Kommo knew.
    assert [item["id"] for item in explain(runner, "--email", ZOE, "--event", "bounced")["past"]] == [1, 2]


# -- options -------------------------------------------------------------------------------------------------------

WRONG = {
    (): "Say --lead ID or --email ADDRESS, one of them.",
    ("--lead", "1", "--email", ZOE): "Say --lead ID or --email ADDRESS, one of them.",
    ("--lead", "1", "--event", "bounced"): "--event does not go with --lead.",
    ("--email", ZOE, "--status", "5"): "--status does not go with --email.",
    ("--lead", "1", "--stage", "won", "--status", "5"): "Say --stage or --status, one of them.",
    ("--lead", "1", "--pipeline", "5"): "--pipeline goes with --status.",
    ("--email", "nobody"): "--email is no address: 'nobody'.",
    ("--lead", "1", "--stage", "nowhere"): "'nowhere' is not one of",
}


@pytest.mark.parametrize(("options", "words"), WRONG.items())
def test_what_makes_no_sense_is_refused(options: tuple[str, ...], words: str, runner: FlaskCliRunner) -> None:
    result = runner.invoke(args=["explain", *options])
    assert result.exit_code == 2
    assert words in result.output
