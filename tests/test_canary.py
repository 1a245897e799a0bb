"""Canaries: secrets, addresses and bodies that no one could mistake, in every place that a request has.

They must never be seen again: not in the log at its most talkative, nor in metrics, health checks, alerts, errors.
Every field of every body that we know has its turn in tests/test_canary_fields.py.
"""

from __future__ import annotations

import base64
import json
import logging
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

import pytest
import requests
import structlog
from flask import Flask
from flask.testing import FlaskClient
from support import (
    FORM,
    JSON,
    SECRET,
    Service,
    at_once,
    eventually,
    free_port,
    journal_file,
    pass_time,
    stage_hook,
)

from app import EXTENSION, create_app, logs, make_veil, settings
from app.settings import VARIABLES
from sandbox.town import Town

EMAIL = "canary.bird@mine.example"
TOKEN = "canary0token0in0a0request0000000"  # not one of ours: a caller's mistake
WORD = "canary-in-a-body-0123456789abcdef"
SETTINGS = {
    "OPS_TOKEN": "canary0ops0token0000000000000000,canary0old0ops0token000000000000",
    "KOMMO_WEBHOOK_SECRET": f"{SECRET},canary0old0secret0of0kommo000000",
    "ENCHARGE_WEBHOOK_SECRET": f"{SECRET},canary0old0secret0of0encharge000",
    "ORTTO_WEBHOOK_SECRET": f"{SECRET},canary0old0secret0of0ortto000000",
}
# What is not secret: where things are, and how they behave.
OPEN = {name for name in VARIABLES if not name.endswith(("_TOKEN", "_KEY", "_SECRET"))} - {"ALERT_WEBHOOK_URL"}
LEAD = 41_500_011

BODIES: dict[str, dict[str, Any]] = {
    "encharge": {
        "event": "email_link_clicked",
        "email": EMAIL,
        "person_id": "7f3a",
        "broadcastName": f"Proposal {WORD}",
        "subject": f"{WORD} {EMAIL}",
        "link": f"https://mine.example/?token={TOKEN}&email={quote(EMAIL, safe='')}",
        "person": {"email": EMAIL, "name": WORD, "phone": WORD},
        "note": f"{WORD}\n{TOKEN}",
    },
    "ortto": {
        "type": "email.clicked",
        "person": {"fields": {"str::email": EMAIL, "str::first": WORD}},
        "email": {"subject": f"{WORD} {EMAIL}"},
        "link": f"https://mine.example/{TOKEN}",
    },
}


def canaries(variables: dict[str, str]) -> list[str]:
    """Return all that must not be seen."""
    planted = [part for name, value in variables.items() if name not in OPEN for part in value.split(",")]
    where = urlsplit(variables.get("ALERT_WEBHOOK_URL", ""))
    encoded = [base64.b64encode(f"user:{secret}".encode()).decode() for secret in (TOKEN, SECRET)]
    return [
        *planted,
        where.path.strip("/") or TOKEN,
        where.query or TOKEN,
        *encoded,
        EMAIL,
        EMAIL.split("@")[0],
        quote(EMAIL, safe=""),
        TOKEN,
        WORD,
    ]


def seen(text: str, variables: dict[str, str]) -> list[str]:
    return [canary for canary in canaries(variables) if canary in text]


class Chat(BaseHTTPRequestHandler):
    """Hears the alerts, and takes none."""

    told: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.told.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_error(500, f"no: {EMAIL} {self.path}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def chat() -> Iterator[str]:
    Chat.told.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Chat) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(params=["json", "console"])
def talkative(
    request: pytest.FixtureRequest, start_service: Callable[..., Service], town: Town, chat: str
) -> Service:
    """A service that says all it can."""
    town.kommo.switch(rate=0)
    return start_service(
        {"app.alerts.LOOK_SECONDS": 0.5, "app.strangers.WAIT_SECONDS": 0.05},
        **SETTINGS,
        LOG_LEVEL="DEBUG",
        LOG_FORMAT=request.param,
        ALERT_WEBHOOK_URL=f"{chat}/services/canary/of/the/alerts?key=canary0alert0key",
        REPLY_BUDGET_SECONDS="0.5",
    )


def post(service: Service, path: str, body: bytes | None, content_type: str, **options: Any) -> requests.Response:
    headers = {"Content-Type": content_type, **options.pop("headers", {})}
    return requests.post(f"{service.url}{path}", data=body, headers=headers, timeout=60, **options)


CARRIERS = (
    *("Accept", "Cookie", "Forwarded", "From", "If-None-Match", "Origin", "Referer"),
    *("X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "X-Request-ID"),
)
EVERY_HEADER = dict.fromkeys(CARRIERS, f"{TOKEN} {EMAIL} {WORD}")


def strangers(service: Service) -> Iterator[Callable[[], requests.Response]]:
    """Knock with a wrong secret in every place where one can be."""
    body = json.dumps(BODIES["encharge"]).encode()
    agent = {"X-Webhook-Secret": TOKEN, "User-Agent": f"amoCRM {WORD}"}
    bearer = {"Authorization": f"Bearer {TOKEN}", "X-Other": EMAIL}
    for route in ("kommo", "kommo/stage", "encharge", "ortto"):
        path = f"/webhooks/{route}"
        yield partial(post, service, path, body, JSON)
        yield partial(post, service, path, body, JSON, headers=agent)
        yield partial(post, service, path, body, JSON, headers=bearer)
        yield partial(post, service, path, body, JSON, headers=EVERY_HEADER)
        yield partial(post, service, path, body, f"{JSON}; charset={TOKEN}; boundary={EMAIL}")
        yield partial(post, service, path, body, JSON, auth=("user", TOKEN))
        yield partial(post, service, f"{path}?secret={TOKEN}&email={EMAIL}", body, JSON)
        yield partial(post, service, f"{path}/{TOKEN}", body, JSON)
        yield partial(post, service, f"{path}/{TOKEN}/{EMAIL}", body, JSON)
        yield partial(requests.get, f"{service.url}{path}/{SECRET}?email={EMAIL}", timeout=30)
    yield partial(post, service, f"/webhooks/{TOKEN}", body, JSON)
    for path in ("/metrics", "/ops", "/ops/replay", f"/ops/{TOKEN}", f"/{TOKEN}/{EMAIL}", "/healthz", "/readyz"):
        url = f"{service.url}{path}?token={TOKEN}&email={EMAIL}"
        for options in ({}, {"auth": (EMAIL, TOKEN)}, {"headers": bearer}, {"headers": EVERY_HEADER}):
            yield partial(requests.get, url, timeout=30, **options)  # type: ignore[arg-type]


def looks(service: Service) -> Iterator[requests.Response]:
    """Look at all that an operator can look at."""
    bearer = {"Authorization": f"Bearer {SETTINGS['OPS_TOKEN'].partition(',')[0]}"}
    pages = [f"/ops/events/{number}" for number in range(1, 9)]
    for path in ("/ops", "/ops/now", "/ops?state=dead", f"/ops?q={EMAIL}", "/ops/replay?id=1", *pages):
        yield requests.get(f"{service.url}{path}", headers=bearer, timeout=30)


def senders(service: Service) -> Iterator[requests.Response]:
    """Send what is right and what is wrong, with the right secret in every place where it can be."""
    form = stage_hook(LEAD) + f"&leads[status][0][name]={WORD}&account[name]={EMAIL}".encode()
    yield post(service, f"/webhooks/kommo/{SECRET}", form, FORM)
    yield post(service, f"/webhooks/kommo/stage?secret={SECRET}", form, FORM)
    for vendor, body in BODIES.items():
        sent = json.dumps(body).encode()
        yield post(service, f"/webhooks/{vendor}?secret={SECRET}&event=email_opened", sent, JSON)
        yield post(service, f"/webhooks/{vendor}", sent, JSON, auth=("user", SECRET))
        yield post(service, f"/webhooks/{vendor}/{SECRET}", sent[:-9], JSON)
        for wrong in (EMAIL, [WORD], {"event": {WORD: EMAIL}}, {"event": "email_opened", "people": [TOKEN]}):
            answer = post(service, f"/webhooks/{vendor}/{SECRET}", json.dumps(wrong).encode(), JSON)
            yield answer
    for name, value in (("id", EMAIL), ("id", WORD), ("id", f"x\r\n{TOKEN}"), ("status_id", quote(EMAIL))):
        fields = {"id": str(LEAD), "status_id": "142", name: value}
        yield post(
            service,
            f"/webhooks/kommo/{SECRET}",
            "&".join(f"leads[status][0][{key}]={quote(text)}" for key, text in fields.items()).encode(),
            FORM,
        )
    yield post(service, f"/webhooks/kommo/{SECRET}", f"leads[status][{WORD}][x]=1".encode(), FORM)
    yield post(service, f"/webhooks/kommo/{SECRET}", b"\xff" + EMAIL.encode(), FORM)
    yield post(service, f"/webhooks/kommo/{SECRET}", EMAIL.encode() + b"x" * 1024 * 1024, FORM)


def speak_no_http(service: Service) -> None:
    """Send requests that are none, with the secret in their first line; their answers go to who sent them."""
    address = urlsplit(service.url)
    for line in (
        f"POST /webhooks/kommo/{SECRET}?email={EMAIL}",
        f"POST /webhooks/kommo/{TOKEN} HTTP/9.9",
        f"PO ST /webhooks/kommo/{SECRET} HTTP/1.1",
        f"POST /webhooks/kommo/{TOKEN} HTTP/1.1\r\nContent-Length: {TOKEN}",
        f"POST /webhooks/kommo/{SECRET} HTTP/1.1\r\nX-Webhook-Secret {SECRET}",
        f"POST /webhooks/kommo/{SECRET}{'x' * 9000} HTTP/1.1",
    ):
        with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
            connection.sendall(f"{line}\r\nHost: x\r\n\r\n".encode())
            connection.recv(65536)


def echo(variables: dict[str, str], vendor: str) -> str:
    """Return a vendor's debug page: all that it was sent, the key too."""
    keys = [value for name, value in variables.items() if name.startswith(vendor[:5].upper()) and name not in OPEN]
    return f"<html>Traceback of {' '.join(keys)} for {EMAIL} and {quote(EMAIL, safe='')}</html>"


FAULTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "answered 500": lambda page: {"status": 500, "body": page},
    "answered 302": lambda page: {"status": 302, "headers": {"Location": f"https://{TOKEN}.example"}},
    "answered 422": lambda page: {"status": 422, "body": page},
    "not JSON": lambda page: {"status": 200, "body": page, "after": True},
    "no answer": lambda page: {"drop": True},
    "answered 401": lambda page: {"status": 401, "body": json.dumps({"title": page, "error": page})},
}
"""What goes wrong at the vendors, by the words that tell of it."""


def test_no_canary_is_ever_seen_again(talkative: Service, town: Town) -> None:
    variables = talkative.variables
    town.kommo.add_deal(
        f"Deal {WORD}", 61_000_102, price=1, contact_ids=[town.kommo.add_contact(f"{WORD}", [EMAIL])]
    )

    answers = [*at_once(strangers(talkative), 8), *senders(talkative)]
    speak_no_http(talkative)
    for number, (words, fault) in enumerate(FAULTS.items()):
        for vendor in town.vendors.values():
            vendor.faults.clear()
            vendor.faults.add(**fault(echo(variables, vendor.name)))
        answers.append(
            talkative.post("kommo", stage_hook(LEAD, status=142 + number % 2, at=1_790_000_000 + number), FORM)
        )
        for vendor, body in BODIES.items():
            again = json.dumps({**body, "event_id": str(number), "broadcastName": f"Pricing {number}"}).encode()
            answers.append(talkative.post(vendor, again, JSON))
        eventually(lambda words=words: pass_time(variables) or words in talkative.log())
    with closing(sqlite3.connect(journal_file(variables), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        answers.append(talkative.post("kommo", stage_hook(LEAD, at=1_790_001_000), FORM))
        other.execute("ROLLBACK")
    eventually(lambda: "alert was not taken" in talkative.log())

    pages = list(looks(talkative))
    bearer = {"Authorization": f"Bearer {SETTINGS['OPS_TOKEN'].partition(',')[0]}"}
    metrics = requests.get(f"{talkative.url}/metrics", headers=bearer, timeout=30)
    health = [requests.get(f"{talkative.url}/{path}", timeout=30).text for path in ("healthz", "readyz")]
    refusals = "\n".join(answer.text for answer in answers if answer.status_code >= 400)
    log = talkative.log()
    # It did all go this way: else that nothing is seen says nothing.
    assert {200, 400, 401, 404, 405, 413, 503} <= {answer.status_code for answer in answers}
    for words in (*FAULTS, "Invalid request", "not recorded", "c…@mine.example"):
        assert words in log, words
    assert seen(log, variables) == []
    assert seen(metrics.text, variables) == []
    assert seen(refusals, variables) == []
    assert seen("\n".join(health), variables) == []
    assert Chat.told
    assert seen("\n".join(Chat.told), variables) == []
    # Neither an answer nor the page tells a secret, also where a vendor echoes it; the page shows addresses.
    assert {page.status_code for page in pages} == {200}
    secrets = [part for name, value in variables.items() if name not in OPEN for part in value.split(",")]
    told = [answer.text for answer in (*answers, *pages)]
    assert [secret for secret in secrets for text in told if secret in text] == []
    assert any(EMAIL in page.text for page in pages)


def test_what_is_planted_in_the_log_would_be_found(talkative: Service) -> None:
    log = f"{talkative.log()} {EMAIL} {SECRET}"
    assert seen(log, talkative.variables)[:1] == [SECRET]
    assert EMAIL in seen(log, talkative.variables)


# -- errors of our own, in this process ---------------------------------------------------------------------------


@pytest.fixture
def broken(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[tuple[Flask, dict[str, str]]]:
    """An app whose readers and flows fail with all that they know in their errors."""
    variables = {**env, **SETTINGS, "LOG_LEVEL": "DEBUG", "LOG_FORMAT": "json"}
    told = settings.load(variables)

    def fail(*_: object, **__: object) -> Any:
        try:
            raise ValueError(f"{SECRET}\nX: {told.kommo_access_token}")
        except ValueError as error:
            raise RuntimeError(f"about {EMAIL} at /webhooks/kommo/{TOKEN}") from error

    if request.param == "reader":
        monkeypatch.setattr("app.webhooks.encharge.read", fail)
    else:
        monkeypatch.setattr("app.flows.resolve.ResolveFlow.carry", fail)
    made = create_app(told)
    yield made, variables
    made.extensions[EXTENSION].close()


@pytest.mark.parametrize("broken", ["reader", "flow"], indirect=True)
def test_no_canary_is_in_the_traceback_of_an_error_of_ours(
    broken: tuple[Flask, dict[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    app, variables = broken
    client: FlaskClient = app.test_client()

    body = json.dumps(BODIES["encharge"])
    answer = client.post(f"/webhooks/encharge/{SECRET}", data=body, content_type=JSON)
    written = "".join(capfd.readouterr())

    assert "Traceback" in written
    assert "RuntimeError: about c…@mine.example at /webhooks/kommo/…" in written
    assert seen(written, variables) == []
    assert answer.status_code == (500 if b"of the service's own" in answer.data else 200)
    assert [key for key in (SECRET, variables["KOMMO_ACCESS_TOKEN"]) if key in answer.text] == []


def test_addresses_are_whole_where_that_is_asked_for(start_service: Callable[..., Service]) -> None:
    service = start_service(LOG_EMAILS="full")
    service.post("encharge", json.dumps({"event": "email_opened", "email": EMAIL}).encode(), JSON)
    lines = [json.loads(line) for line in service.log().splitlines()]
    (line,) = [line for line in lines if line["event"] == "webhook"]
    assert line["emails"] == [EMAIL]
    assert SECRET not in service.log()


def test_a_journal_that_cannot_be_opened_tells_no_password(env: dict[str, str]) -> None:
    url = f"postgresql://relay:canary0password@127.0.0.1:{free_port()}/relay?sslpassword=canary0other"
    told = settings.load({**env, "DATABASE_URL": url})
    assert {"canary0password", "canary0other"} <= set(told.hidden)
    with pytest.raises(SystemExit) as end:
        create_app(told)
    assert "canary0" not in str(end.value.code)
    assert make_veil(told).words("canary0password canary0other") == "*** ***"


def test_no_line_is_begun_by_what_comes_from_outside(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "x\n2026-11-24 [error] faked\r\u2028\u0085\x1b[31m\x9b\u202e\u2066"
    bare = "faked\u2028\u0085\x1b[31m\x9b"  # without a space: the console's own rules leave it as it is
    for form in ("json", "console"):
        logs.configure("INFO", form)
        structlog.get_logger(form).info("webhook", error=evil, deals=[evil], word=bare)
        logging.getLogger("a.library").error(f"failed: {evil}")
        written = capsys.readouterr().out.splitlines()
        assert len(written) == 2
        for line in written:
            assert not set(line) & set("\x1b\x9b\u2028\x85\u202e\u2066")
            assert "faked" in line


def test_no_line_of_a_traceback_looks_like_one_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO", "console")
    try:
        raise ValueError("x\n2026-11-24T10:00:00.000000Z [error    ] faked \x1b[31m")
    except ValueError:
        structlog.get_logger("traceback").exception("failed")
    first, *rest = capsys.readouterr().out.splitlines()
    assert "failed" in first
    assert any("faked" in line for line in rest)
    assert [line for line in rest if not line.startswith("    ")] == []
    assert not any("\x1b" in line for line in rest)
