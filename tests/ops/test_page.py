"""The page: who gets in, what is shown and found, what is hidden, and what a replay needs. On both databases."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from html import unescape
from typing import Any

import pytest
from a_day import DOWN, REFUSED, UNMAPPED, live_through
from databases import run_sql
from flask import Flask
from flask.testing import FlaskClient
from ops_support import AUTH, TOKEN
from support import FORM, JSON, SECRET
from werkzeug.test import TestResponse

from app import EXTENSION, create_app
from app.events import (
    Contact,
    Context,
    EmailActivity,
    Event,
    Failure,
    Kind,
    Lane,
    Lead,
    Outcome,
    Owed,
    Response,
    Source,
    StageChange,
    State,
    Step,
    Webhook,
)
from app.journal import Journal, Settlement
from app.settings import Settings


@pytest.fixture
def configured(configured: Settings, database_url: str) -> Settings:
    return replace(configured, database_url=database_url, ops_tokens=(TOKEN,))


@pytest.fixture
def journal(app: Flask) -> Journal:
    return app.extensions[EXTENSION]._journal


@pytest.fixture
def stranger(app: Flask, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    """A client without the token, who is not kept waiting."""
    monkeypatch.setattr("app.strangers.WAIT_SECONDS", 0)
    return app.test_client()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client that sends the token as browsers do."""
    made = app.test_client()
    made.environ_base["HTTP_AUTHORIZATION"] = AUTH["Authorization"]
    return made


def stage(lead_id: int) -> Event:
    change = StageChange(lead_id, 61_000_102, 7_100_010)
    return Event(Source.KOMMO, Kind.STAGE_CHANGED, change, f"lead:{lead_id}", f"stage:{lead_id}")


def record(journal: Journal, *events: Event, body: bytes = b"{}", content_type: str = JSON) -> list[int]:
    webhook = Webhook(Source.KOMMO, content_type, body)
    found = journal.record(webhook, [(event, None) for event in events], now=time.time())
    return [item.event.id for item in found]


def dead(journal: Journal, event: Event, words: str = "Kommo: 400: no such deal", **webhook: Any) -> int:
    """Record an event whose job of the kommo lane is dead after a failure that passed; return its id."""
    (event_id,) = record(journal, event, **webhook)
    now = time.time()
    (job,) = journal.claim(Lane.RESOLVE, "kommo", 1, now=now)
    contact = Contact(52, "Zoë <i>Example</i>", emails=("zoe@example.com",))
    context = Context(Lead(9, "Order"), contact, email="zoe@example.com")
    owed = (Owed(Lane.KOMMO, "lead:9", Response(9, 52, ())),)
    journal.settle([Settlement(job, Outcome(State.DONE, context=context, owed=owed))], now=now)
    (job,) = journal.claim(Lane.KOMMO, "kommo", 1, now=now)
    passing = Settlement(job, Outcome(State.PENDING, "Kommo: 503"), now, True, failure=Failure("passing", 503, 1.5))
    journal.settle([passing], now=now)
    (job,) = journal.claim(Lane.KOMMO, "kommo", 1, now=now + 1)
    refused = Settlement(job, Outcome(State.DEAD, words), failure=Failure("refused", 400, 0.2))
    journal.settle([replace(refused, steps={"task": Step(True, "6900100"), "note": Step(False)})], now=now + 1)
    return event_id


def text_of(answer: TestResponse) -> str:
    """Return what a page shows, without tags."""
    assert answer.status_code == 200, answer.text
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", answer.text)).split())


def ids_on(answer: TestResponse) -> list[int]:
    """Return the ids of the events that a page lists."""
    assert answer.status_code == 200, answer.text
    return [int(found) for found in re.findall(r'class="open" href="/ops/events/(\d+)"', answer.text)]


# -- who gets in --


def test_it_is_off_without_a_token(configured: Settings) -> None:
    app = create_app(replace(configured, ops_tokens=()))
    for path in ("/ops", "/ops/now", "/ops/events/1", "/ops/replay", "/ops/static/ops.css"):
        for headers in (AUTH, {}, {"Authorization": "Basic YW55Ym9keTo="}):
            assert app.test_client().open(path, headers=headers).status_code == 404
    assert app.test_client().post("/ops/replay", headers=AUTH).status_code == 404
    app.extensions[EXTENSION].close()


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"Authorization": "Basic"}, id="an empty header"),
        pytest.param({"Authorization": "Basic YW55Ym9keTo="}, id="an empty password"),
        pytest.param({"Authorization": "Basic b3BzLXRva2VuLTAxMjM0NTY3ODk6"}, id="the token as the user's name"),
        pytest.param({"Authorization": "Basic YW55Ym9keTpvcHMtdG9rZW4tMDEyMzQ1Njc4"}, id="a part of the token"),
        pytest.param({"Authorization": "Basic YW55Ym9keTrDqcOpw6nDqcOpw6nDqcOp"}, id="not ASCII"),
        pytest.param({"Authorization": "Bearer ops-token-9876543210"}, id="another token"),
        pytest.param({"X-Webhook-Secret": SECRET}, id="the secret of webhooks"),
        pytest.param({"Authorization": f"Bearer {SECRET}"}, id="the secret of webhooks as a token"),
    ],
)
def test_nobody_gets_in_without_the_token(app: Flask, stranger: FlaskClient, headers: dict[str, str]) -> None:
    rules = [rule for rule in app.url_map.iter_rules() if rule.rule.startswith("/ops")]
    assert len(rules) >= 6
    for rule in rules:
        path = rule.rule.replace("<int:event_id>", "1").replace("<path:filename>", "ops.css")
        for method in rule.methods or ():
            answer = stranger.open(path, method=method, headers=headers)
            assert (answer.status_code, answer.headers["WWW-Authenticate"][:5]) == (401, "Basic"), (method, path)


def test_the_token_may_come_as_a_bearer_token(stranger: FlaskClient) -> None:
    assert stranger.get("/ops", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_browsers_are_told_to_keep_frame_and_load_nothing(client: FlaskClient, stranger: FlaskClient) -> None:
    answers = [client.get(path) for path in ("/ops", "/ops/events/1", "/ops/static/ops.js")]
    answers += [stranger.get("/ops"), client.post("/ops/replay")]
    assert [answer.status_code for answer in answers] == [200, 404, 200, 401, 403]
    for answer in answers:
        assert answer.headers["Content-Security-Policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store"
        answer.close()


# -- what is shown --


def test_an_empty_journal_says_what_to_do(client: FlaskClient) -> None:
    assert client.get("/ops/").status_code == 200
    shown = text_of(client.get("/ops"))
    assert "No event has come yet. Move a deal in Kommo" in shown
    assert "nothing is owed" in shown
    assert "0 events in the last 24 hours" in shown
    assert "Nothing was done in the last 24 hours." in shown


def test_a_day_is_told_in_figures_and_charts(client: FlaskClient, journal: Journal) -> None:
    live_through(journal, now=time.time(), events=90)
    figures = journal.figures()
    shown = text_of(client.get("/ops"))
    assert f"waiting {sum(lane.waiting for lane in figures.lanes.values())} " in shown
    assert f"dead {figures.dead} " in shown
    assert f"skipped {figures.skipped} " in shown
    assert re.search(r"90 events in the last 24 hours, at most \d+ in an hour; 2 ended dead\.", shown)
    assert re.search(
        r"Half of all was usually done within 0\.\d s; in the slowest hour 19 of 20 within \d+ min\.", shown
    )
    assert "Kommo healthy" in shown
    assert re.search(rf"Ortto paused .*until \d\d:\d\d:\d\d \(in \d+ (?:s|min)\): {re.escape(DOWN)}", shown)
    assert all(words in text_of(client.get("/ops?state=skipped")) for words in (UNMAPPED, "no active deal"))


def test_a_vendor_whose_jobs_are_tried_again_is_not_healthy(client: FlaskClient, journal: Journal) -> None:
    record(journal, stage(1))
    (job,) = journal.claim(Lane.RESOLVE, "kommo", 1, now=time.time())
    again = Settlement(job, Outcome(State.PENDING, "Kommo: 503"), time.time() + 60, True)
    journal.settle([again], now=time.time())
    assert "Kommo retrying 1 waiting, 1 tried before" in text_of(client.get("/ops"))


def test_the_story_of_an_event_is_whole(client: FlaskClient, journal: Journal) -> None:
    click = EmailActivity(email="zoe@example.com", campaign="Pricing 2026", link="https://example.com/p")
    event = Event(Source.ENCHARGE, Kind.EMAIL_CLICKED, click, "email:zoe@example.com", "click-1", 1_767_607_800.0)
    body = b"leads%5Bstatus%5D%5B0%5D%5Bid%5D=9&note=%D0%9F%D1%80%D0%B8%D0%B2%D0%B5%D1%82"
    event_id = dead(journal, event, body=body, content_type=FORM)
    shown = text_of(client.get(f"/ops/events/{event_id}"))
    for words in (
        f"#{event_id} email clicked dead",
        "Pricing 2026",
        "zoe@example.com",
        "deal 9",
        "Happened 2026-01-05 10:10:00",
        "Known by click-1",
        "task 6900100",
        "note begun",
        "HTTP 503, passing tried again later Kommo: 503",
        "HTTP 400, refused given up Kommo: 400: no such deal",
        "leads[status][0][id] 9",
        "note Привет",
        f"{FORM}, {len(body)} bytes",
        '"name": "Order"',
        '"contact_id": 52',
    ):
        assert words in shown
    assert (
        f'action="/ops/replay"><input type="hidden" name="id" value="{event_id}"'
        in client.get(f"/ops/events/{event_id}").text
    )


def test_an_event_links_to_those_that_came_with_it(client: FlaskClient, journal: Journal) -> None:
    first, second, third = record(journal, stage(1), stage(2), stage(3))
    shown = client.get(f"/ops/events/{second}").text
    assert f'<a href="/ops/events/{first}">#{first}</a>, <a href="/ops/events/{third}">#{third}</a>' in shown


@pytest.mark.parametrize("event_id", ["4711", str(2**63), "9" * 40])
def test_an_event_that_is_not_there_is_named(client: FlaskClient, event_id: str) -> None:
    answer = client.get(f"/ops/events/{event_id}")
    assert (answer.status_code, f"There is no event {event_id}" in answer.text) == (404, True)


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        (JSON, b'{"a": {"b": "\xc3\xa9"}}', '"b": "é"'),
        (JSON, b'{"a": ', '{"a":'),
        ("text/plain", b"\xff\xfe nonsense", "�� nonsense"),
        ("", b"", "no content type, 0 bytes"),
        (FORM, b'{"mislabelled": true}', '"mislabelled": true'),
        (FORM, b"&".join(b"a[%d]=1" % number for number in range(500)), "… and 100 more fields."),
        (JSON, b'["' + b"x" * 70_000 + b'"]', "more characters."),
        (JSON, b"[" * 5000, "[[["),
    ],
)
def test_any_body_is_shown(
    client: FlaskClient, journal: Journal, content_type: str, body: bytes, words: str
) -> None:
    (event_id,) = record(journal, stage(1), body=body, content_type=content_type)
    assert words in text_of(client.get(f"/ops/events/{event_id}"))


def test_a_journal_that_cannot_be_read_is_said(client: FlaskClient, database_url: str) -> None:
    run_sql(database_url, "ALTER TABLE attempts RENAME TO elsewhere")
    run_sql(database_url, "ALTER TABLE events RENAME TO away")
    answer = client.get("/ops/events/1")
    assert (answer.status_code, "The journal does not answer" in answer.text) == (503, True)
    assert "SELECT" not in answer.text


# -- what is found --


@pytest.fixture
def told(journal: Journal) -> dict[str, int]:
    """Four events by what is told of them."""
    click = EmailActivity(email="ann@example.test", campaign="Große Preise 100%")
    clicked = Event(Source.ENCHARGE, Kind.EMAIL_CLICKED, click, "email:ann@example.test", "click")
    return {
        "clicked": dead(journal, clicked),
        "moved": dead(journal, stage(5)),
        "waits": record(journal, stage(6))[0],
        "elsewhere": record(journal, replace(stage(7), source=Source.ORTTO))[0],
    }


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("", ["elsewhere", "waits", "moved", "clicked"]),
        ("q=6", ["waits"]),
        ("q=9", ["moved", "clicked"]),  # for that deal something was done
        ("q=+ANN@example.test+", ["clicked"]),
        ("q=zoe@example.com", ["moved", "clicked"]),  # known from Kommo only
        ("q=an_@example.test", []),
        ("q=grosse+PREISE", ["clicked"]),
        ("q=100%25", ["clicked"]),
        ("q=preise+_00", []),
        ("q=%23{moved}", ["moved"]),
        ("state=dead", ["moved", "clicked"]),
        ("state=pending", ["elsewhere", "waits"]),
        ("state=skipped", []),
        ("state=done", ["moved", "clicked"]),
        ("source=ortto", ["elsewhere"]),
        ("since=1h", ["elsewhere", "waits", "moved", "clicked"]),
        ("until=1h", []),
        ("q=9&state=dead&source=kommo&since=2d", ["moved"]),
    ],
)
def test_events_are_found(client: FlaskClient, told: dict[str, int], asked: str, found: list[str]) -> None:
    answer = client.get(f"/ops?{asked.format(**told)}")
    assert ids_on(answer) == [told[name] for name in found]
    if not found:
        assert "No event fits." in answer.text


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("since=soon", "'soon' is neither like 30m, 6h or 2d (ago) nor an ISO date."),
        ("state=lost", "'lost' is not a valid State"),
        ("source=fax", "'fax' is not a valid Source"),
        ("q=%23abc", "'abc' is not a number that an event or a deal can have."),
        ("q=99999999999999999999", "is not a number"),
        ("below=-1", "'-1' is not a number"),
    ],
)
@pytest.mark.usefixtures("told")
def test_what_cannot_be_asked_is_named_and_finds_nothing(client: FlaskClient, asked: str, words: str) -> None:
    answer = client.get(f"/ops?{asked}")
    assert words in text_of(answer)
    assert ids_on(answer) == []
    assert client.get(f"/ops/replay?{asked}").status_code == 400


def test_pages_neither_repeat_nor_skip_while_events_come(client: FlaskClient, journal: Journal) -> None:
    before = record(journal, *(stage(number) for number in range(1, 131)))
    answer = client.get("/ops?source=kommo")
    seen, watch = ids_on(answer), unescape(re.search(r'data-watch="([^"]+)"', answer.text)[1])  # type: ignore[index]
    later: list[int] = []
    while older := re.search(r'rel="next" href="([^"]+)"', answer.text):
        later += record(journal, *(stage(1_000 + len(later) + number) for number in range(30)))
        answer = client.get(unescape(older[1]))
        seen += ids_on(answer)
    assert seen == sorted(before, reverse=True)
    assert len(later) == 60
    assert "60 new events: show" in client.get(watch).text
    assert ids_on(client.get("/ops?source=kommo"))[0] == max(later)


def test_only_new_events_that_fit_are_announced(client: FlaskClient, journal: Journal) -> None:
    record(journal, stage(1))
    watch = re.search(r'data-watch="([^"]+)"', client.get("/ops?q=2").text)
    assert watch is not None
    record(journal, stage(3))
    assert "new event" not in client.get(unescape(watch[1])).text
    record(journal, stage(2))
    assert "1 new event: show" in client.get(unescape(watch[1])).text


# -- what is hidden --

PLANTED = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}'


def test_nothing_that_came_in_becomes_a_part_of_the_page(client: FlaskClient, journal: Journal) -> None:
    said = EmailActivity(
        "zoe@example.com", campaign=PLANTED, subject=PLANTED, link=f"javascript:{PLANTED}", name=PLANTED
    )
    event = Event(Source.ENCHARGE, Kind.EMAIL_CLICKED, said, f"email:{PLANTED}", f"key {PLANTED}")
    event_id = dead(journal, event, PLANTED, body=f'{{"a": {PLANTED}}}'.encode())
    form = dead(journal, stage(77), PLANTED, body=f"{PLANTED}={PLANTED}".encode(), content_type=FORM)
    journal.pause("kommo", time.time() + 60, PLANTED)
    paths = ["/ops", "/ops/now", f"/ops/events/{event_id}", f"/ops/events/{form}", "/ops/replay?state=dead"]
    paths += [f"/ops?{name}={PLANTED}" for name in ("q", "state", "source", "since", "until", "below")]
    for path in paths:
        shown = client.get(path).text
        assert "<script>" not in shown
        assert "<img" not in shown
        assert "Zoë <i>" not in shown
        assert 'href="javascript:' not in shown
        assert "&lt;script&gt;" in shown or path.startswith("/ops?"), path


def test_secrets_are_shown_nowhere(client: FlaskClient, journal: Journal, configured: Settings) -> None:
    known = [secret for secret in configured.hidden if len(secret) >= 8]
    assert len(known) >= 5
    password, jwt = "Hunter2hunter2", "eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl"
    foreign = [password, jwt, "sk_live_51abc", "PRV-1234-secret", "QWxhZGRpbjpv"]
    said = {
        "token": password,
        "deep": [{"apiKey": "sk_live_51abc"}],
        "url": f"https://x.example/?secret={password}&a=1",
        "jwt": jwt,
        "key": "PRV-1234-secret",
        "h": "Authorization: Basic QWxhZGRpbjpv",
        "ours": " ".join(known),
    }
    json_body = json.dumps(said)
    form_body = f"secret={password}&a[api_key]=sk_live_51abc&url=https%3A%2F%2Fx.example%2F%3Ftoken%3D{password}"
    activity = EmailActivity(
        "zoe@example.com", campaign=f"Token {TOKEN}", link=f"https://x.example/?token={password}"
    )
    words = f"Ortto: 401: bad key PRV-1234-secret, Authorization: Bearer {password}, {known[0]}"
    clicked = Event(Source.ORTTO, Kind.EMAIL_CLICKED, activity, "email:zoe@example.com", "key")
    ids = [
        dead(journal, clicked, words, body=json_body.encode()),
        dead(journal, stage(1), words, body=json_body[:-3].encode()),  # no JSON any more
        dead(journal, stage(2), words, body=form_body.encode(), content_type=FORM),
    ]
    journal.pause("ortto", time.time() + 60, words)
    for path in ("/ops", "/ops/now", "/ops/replay?state=dead", *(f"/ops/events/{event_id}" for event_id in ids)):
        shown = unescape(client.get(path).text)
        assert [secret for secret in known + foreign if secret in shown] == [], path
        assert "•••" in shown
    assert "zoe@example.com" in client.get(f"/ops/events/{ids[0]}").text


# -- replay --


def confirmed(client: FlaskClient, asked: str) -> dict[str, str]:
    """Return the form of a confirmation page."""
    shown = client.get(f"/ops/replay?{asked}")
    assert shown.status_code == 200, shown.text
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', shown.text))


def states(journal: Journal, event_id: int) -> dict[str, str]:
    story = journal.story(event_id)
    assert story is not None
    return {job.lane: job.state for job in story.event.jobs}


def test_a_replay_is_confirmed_and_done(client: FlaskClient, journal: Journal) -> None:
    event_id = dead(journal, stage(5))
    shown = text_of(client.get(f"/ops/replay?id={event_id}"))
    assert "Replay 1 event? 1 job becomes due again and is carried out by the running service." in shown
    assert f"#{event_id} stage changed Qualification deal 9 zoe@example.com kommo Kommo: 400: no such deal" in shown
    assert states(journal, event_id) == {"resolve": "done", "kommo": "dead"}

    answer = client.post("/ops/replay", data=confirmed(client, f"id={event_id}"), follow_redirects=True)

    assert answer.request.path == f"/ops/events/{event_id}"
    assert "Due again: 1 job. The running service carries it out." in text_of(answer)
    assert "taken up again by a person" in text_of(answer)
    assert states(journal, event_id) == {"resolve": "done", "kommo": "pending"}


def test_a_selection_and_all_that_fit_are_replayed(client: FlaskClient, journal: Journal) -> None:
    first, second, third = (dead(journal, stage(number)) for number in (1, 2, 3))
    (waits,) = record(journal, stage(4))
    form = confirmed(client, f"id={first}&id={third}&id={waits}")
    assert "1 of the chosen have no dead or skipped job" in client.get(f"/ops/replay?id={first}&id={waits}").text
    answer = client.post("/ops/replay", data=form, follow_redirects=True)
    assert "Due again: 2 jobs." in text_of(answer)
    assert [states(journal, event_id)["kommo"] for event_id in (first, second, third)] == [
        "pending",
        "dead",
        "pending",
    ]

    answer = client.post("/ops/replay", data=confirmed(client, "state=dead"), follow_redirects=True)
    assert states(journal, second)["kommo"] == "pending"
    assert "Nothing to take up" in text_of(client.get("/ops/replay?state=dead"))


def test_of_very_many_only_so_many_are_replayed_at_once(
    client: FlaskClient, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.ops.routes.REPLAYED_AT_ONCE", 2)
    ids = [dead(journal, stage(number)) for number in (1, 2, 3)]
    shown = client.get("/ops/replay?state=dead")
    assert "Only the newest of them" in shown.text
    assert confirmed(client, "state=dead")["ids"] == f"{ids[2]},{ids[1]}"


def test_a_second_press_does_nothing(client: FlaskClient, journal: Journal) -> None:
    event_id = dead(journal, stage(5))
    form = confirmed(client, f"id={event_id}")
    client.post("/ops/replay", data=form)
    answer = client.post("/ops/replay", data=form, follow_redirects=True)
    assert "Nothing was taken up" in text_of(answer)


def test_a_form_that_the_old_token_signed_is_taken_while_the_token_is_replaced(
    client: FlaskClient, journal: Journal, configured: Settings
) -> None:
    event_id = dead(journal, stage(5))
    form = confirmed(client, f"id={event_id}")
    cookie = client.get_cookie("relay_ops", path="/ops")
    assert cookie is not None
    new = "the-next-token-0123456789"
    for tokens, status in (((new,), 403), ((new, TOKEN), 303)):
        app = create_app(replace(configured, ops_tokens=tokens))
        other = app.test_client()
        other.set_cookie("relay_ops", cookie.value, path="/ops")
        answer = other.post("/ops/replay", data=form, headers={"Authorization": f"Bearer {new}"})
        app.extensions[EXTENSION].close()
        assert answer.status_code == status
    assert states(journal, event_id)["kommo"] == "pending"


BROWSER = {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}


@pytest.mark.parametrize(
    ("change", "headers"),
    [
        pytest.param({"signature": ""}, BROWSER, id="no signature"),
        pytest.param({"signature": "0" * 64}, BROWSER, id="another signature"),
        pytest.param({"signature": "é"}, BROWSER, id="a strange signature"),
        pytest.param({"ids": "1,2"}, BROWSER, id="other events than were confirmed"),
        pytest.param({}, {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, id="from another site"),
        pytest.param({}, {"Sec-Fetch-Site": "same-site"}, id="from a neighbour's host"),
        pytest.param({}, {"Origin": "https://evil.example"}, id="from another origin, by an old browser"),
        pytest.param({}, {"Origin": "null"}, id="from nowhere"),
        pytest.param({}, {**BROWSER, "Cookie": "relay_ops=guessed"}, id="with another cookie"),
        pytest.param({}, {**BROWSER, "Cookie": ""}, id="without the cookie"),
    ],
)
def test_what_another_site_makes_a_browser_send_is_refused(
    app: Flask, client: FlaskClient, journal: Journal, change: dict[str, str], headers: dict[str, str]
) -> None:
    event_id = dead(journal, stage(5))
    form = confirmed(client, f"id={event_id}")
    sender = client
    if "Cookie" in headers:
        sender = app.test_client(use_cookies=False)
    answer = sender.post("/ops/replay", data=form | change, headers={**AUTH, **headers})
    assert (answer.status_code, states(journal, event_id)["kommo"]) == (403, "dead")
    # It is only that: the same form is taken when nothing is wrong.
    assert client.post("/ops/replay", data=form, headers=BROWSER).status_code == 303


def test_the_cookie_is_for_the_page_alone(client: FlaskClient, journal: Journal) -> None:
    event_id = dead(journal, stage(5))
    plain = client.get(f"/ops/replay?id={event_id}").headers["Set-Cookie"]
    assert all(words in plain for words in ("HttpOnly", "Path=/ops", "SameSite=Strict"))
    assert "Secure" not in plain
    secure = client.get(f"/ops/replay?id={event_id}", headers={"X-Forwarded-Proto": "https"}).headers["Set-Cookie"]
    assert "Secure" in secure
    assert TOKEN not in secure


def test_nothing_is_replayed_by_looking(client: FlaskClient, journal: Journal) -> None:
    event_id = dead(journal, stage(5))
    form = confirmed(client, f"id={event_id}")
    for path in (f"/ops/replay?ids={event_id}&signature={form['signature']}", f"/ops/events/{event_id}", "/ops"):
        client.get(path)
    assert states(journal, event_id)["kommo"] == "dead"


@pytest.mark.parametrize("asked", ["", "id=abc", "id=-1", "id=" + "9" * 30, "id="])
def test_a_replay_of_nothing_is_refused(client: FlaskClient, asked: str) -> None:
    assert client.get(f"/ops/replay?{asked}").status_code == 400


def test_refused_words_of_a_day_can_be_found_and_replayed(client: FlaskClient, journal: Journal) -> None:
    live_through(journal, now=time.time(), events=90, paused=False)
    shown = text_of(client.get("/ops/replay?state=dead"))
    assert shown.count(REFUSED) == 2
