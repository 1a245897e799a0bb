"""Log lines: one for each webhook and each job, their form, and what is masked in them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from support import FORM, JSON, ROOT, SECRET, Service, eventually, free_port, in_the_end, stage_hook

from app.logs import QUERY, Veil
from sandbox.town import Town

LEAD = 41_500_011
PAGE = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
CLICK = {"event": "email_link_clicked", "email": "zoe@example.com", "broadcastName": "Pricing"}


def lines(service: Service, event: str = "") -> list[dict[str, Any]]:
    found = [json.loads(line) for line in service.log().splitlines()]
    return [line for line in found if event in ("", line["event"])]


def test_one_line_for_each_webhook_and_each_job(service: Service, town: Town) -> None:
    in_the_end(service, service.post("kommo", stage_hook(LEAD), FORM))
    in_the_end(service, service.post("encharge", json.dumps(CLICK).encode(), JSON))
    service.post("kommo", b"leads[status][0][id]=x", FORM)

    eventually(lambda: len(lines(service, "job")) == 5)
    webhooks = lines(service, "webhook")
    shown = ("vendor", "code", "status", "events", "deals", "emails")
    assert [tuple(line[name] for name in shown) for line in webhooks] == [
        ("kommo", 200, webhooks[0]["status"], [1], [LEAD], []),
        ("encharge", 200, webhooks[1]["status"], [2], [], ["z…@example.com"]),
        ("kommo", 400, "", [], [], []),
    ]
    assert webhooks[2]["error"] == "leads.status[0].id is not an id: 'x'"
    jobs = {(line["event_id"], line["lane"]): line for line in lines(service, "job")}
    told = {key: (line["vendor"], line["deal"], line["email"], line["state"]) for key, line in jobs.items()}
    assert told == {
        (1, "resolve"): ("kommo", LEAD, None, "done"),
        (1, "encharge"): ("encharge", LEAD, "z…@example.com", "done"),
        (1, "ortto"): ("ortto", LEAD, "z…@example.com", "done"),
        (2, "resolve"): ("kommo", None, "z…@example.com", "done"),
        (2, "kommo"): ("kommo", LEAD, "z…@example.com", "done"),
    }
    assert all(isinstance(line["milliseconds"], int) for line in [*webhooks, *jobs.values()])
    # As the page shows them.
    examples = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
    assert [list(example) for example in examples] == [list(webhooks[0]), list(jobs[1, "ortto"])]


def test_a_job_that_was_given_up_is_an_error(service: Service, town: Town) -> None:
    town.ortto.faults.add(status=422, body="no")
    in_the_end(service, service.post("kommo", stage_hook(LEAD), FORM))
    (line,) = [line for line in lines(service, "job") if line["lane"] == "ortto"]
    assert (line["level"], line["state"]) == ("error", "dead")
    assert line["reason"] == "Ortto: POST /activities/create answered 422: no"


def test_the_servers_own_lines_have_the_same_form(service: Service) -> None:
    assert {line["logger"] for line in lines(service) if "gunicorn" in line["event"]} == {"gunicorn.error"}


def test_a_line_for_people_stays_one_line(start_service: Callable[..., Service]) -> None:
    service = start_service(LOG_FORMAT="console")
    body = json.dumps({**CLICK, "event": "x\n2026-11-24T10:00:00.000000Z [error    ] faked"}).encode()
    service.post("encharge", body, JSON)
    service.post("kommo", b"leads[status][0][id]=%0A2026%1B[31m", FORM)
    log = service.log().splitlines()
    assert [line for line in log if not re.match(r"\d{4}-\d\d-\d\dT\S+Z \[\w+ *\] ", line)] == []
    assert len([line for line in log if "] webhook" in line]) == 2
    assert "\x1b" not in service.log()


def test_the_development_server_writes_neither_query_nor_secret(env: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    log = tmp_path / "flask.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "flask", "--app", "wsgi", "run", "--port", str(port)]
        process = subprocess.Popen(
            command, cwd=ROOT, env={"PATH": "", **env}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        eventually(lambda: "Running on" in log.read_text() or process.poll() is not None)
        for path in (f"kommo/{SECRET}?email=zoe@example.com", "kommo/a-wrong-secret-012345", "nowhere?who=zoe"):
            eventually(lambda path=path: _posted(f"http://127.0.0.1:{port}/webhooks/{path}"))
        written = eventually(lambda: (text := log.read_text()).count("POST /") == 3 and text)
    finally:
        process.terminate()
        process.wait(30)
    assert [part for part in (SECRET, "zoe", "a-wrong-secret", "who=") if part in written] == []
    assert '\\"POST /webhooks/kommo/… HTTP/1.1\\" 400' in written or "POST /webhooks/kommo/…" in written


def _posted(url: str) -> bool:
    try:
        requests.post(url, data=b"x", timeout=30)
    except requests.ConnectionError:
        return False
    return True


# -- what is masked -----------------------------------------------------------------------------------------------

MASKED = {
    "an address": ("zoe@example.com", "z…@example.com"),
    "in a sentence": ("to 'zoe.k+x@mail.example.com', twice", "to 'z…@mail.example.com', twice"),
    "two": ("a.b@x.example,c@y.example", "a…@x.example,c…@y.example"),
    "in brackets": ('{"email":"zoe@example.com"}', '{"email":"z…@example.com"}'),
    "encoded": ("/contacts?query=zoe%2Bx%40example.com&page=1", "/c…@example.com&page=1"),
    "in a URL": ("https://x.example/?email=zoe@example.com", "https://x…@example.com"),
    "quoted": ('"zoe k"@example.com', '"z…@example.com'),
    "beyond ASCII": ("жанна@пример.рф", "ж…@пример.рф"),
    "cut off": ("mail to zoe.keller@exam", "mail to z…@exam"),
    "long": ("a" * 300 + "@example.com", "a…@example.com"),
    "none": ("a @ b, 5 @ 7 and @home", "a @ b, 5 @ 7 and @home"),
    "a secret": ("Bearer s3cr3t-t0ken-1 is wrong", "Bearer *** is wrong"),
    "a secret in a secret": ("s3cr3t-t0ken-1-longer", "***"),
    "a path": ("POST /webhooks/kommo/abc HTTP/1.1", "POST /webhooks/kommo/… HTTP/1.1"),
    "the other path": ("/webhooks/kommo/stage/abc?x=1", "/webhooks/kommo/stage/…"),
    "a query": ("/webhooks/ortto?secret=abc", "/webhooks/ortto/…"),
    "what to do": ("add /webhooks/kommo/<KOMMO_WEBHOOK_SECRET>", "add /webhooks/kommo/<KOMMO_WEBHOOK_SECRET>"),
}


@pytest.mark.parametrize(("words", "shown"), MASKED.values(), ids=MASKED)
def test_it_is_masked(words: str, shown: str) -> None:
    assert Veil(("s3cr3t-t0ken-1", "s3cr3t-t0ken-1-longer", "abc")).words(words) == shown


@pytest.mark.parametrize(("emails", "shown"), [("full", "a@b.example"), ("none", "(an email address)")])
def test_addresses_are_shown_as_it_was_told(emails: str, shown: str) -> None:
    assert Veil(emails=emails).words("a@b.example") == shown


def test_whatever_a_value_is_it_is_masked() -> None:
    class Odd:
        def __str__(self) -> str:
            return "about zoe@example.com"

    line = {
        "a": ["zoe@example.com"],
        "b": {"zoe@example.com": ("x", 1)},
        "c": Odd(),
        "d": 1.5,
        "e": None,
        "f": True,
    }
    assert Veil()(None, "", line) == {
        "a": ["z…@example.com"],
        "b": {"z…@example.com": ["x", 1]},
        "c": "about z…@example.com",
        "d": 1.5,
        "e": None,
        "f": True,
    }


def test_the_query_of_a_long_request_line_is_cut_off_quickly() -> None:
    """Whoever can reach the server writes these lines: once they cost the square of their length."""
    began = time.process_time()
    cut = QUERY.sub(r"\1", f'"GET /page?who=zoe HTTP/1.1" 200 "{"A" * 200_000}"')
    assert cut == f'"GET /page HTTP/1.1" 200 "{"A" * 200_000}"'
    assert time.process_time() - began < 1


def test_long_words_are_masked_quickly() -> None:
    words = "a." * 50_000 + " x@y.example " + "%40" * 20_000
    began = time.monotonic()
    assert "x…@y.example" in Veil(("s3cr3t-t0ken-1",)).words(words)
    assert time.monotonic() - began < 1


def test_who_has_written_already_keeps_back_what_is_told_later() -> None:
    code = (
        "import structlog; from app.logs import Veil, configure; log = structlog.get_logger('early')\n"
        "for secret in ('the-first-one', 'the-second-one'):\n"
        "    configure('INFO', 'json', Veil([secret])); log.info(secret)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["***", "***"]
