"""Bad bodies, bad callers, a journal that cannot be written, bad settings: a clear answer, and nothing is lost."""

from __future__ import annotations

import gzip
import json
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from support import (
    FORM,
    JSON,
    ROOT,
    SECRET,
    Service,
    environment,
    eventually,
    in_the_end,
    journal_file,
    rows,
    stage_hook,
)

from sandbox.town import Town

MIB = 1024 * 1024
EMAIL = "canary.bird@mine.example"  # in many bodies below; never in the log


@pytest.fixture(scope="module")
def one_service(running_town: Town, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for the whole table: that it still answers after each is a part of the test."""
    folder = tmp_path_factory.mktemp("bad-input")
    service = Service(environment(running_town, folder), folder / "service.log")
    service.wait_until_ready()
    yield service
    service.kill()


def deep(levels: int) -> bytes:
    return b'{"leads":' + b"[" * levels + b"]" * levels + b"}"


def nested_key(levels: int) -> bytes:
    return b"leads[status]" + b"[0]" * levels + b"[id]=1"


TOO_LARGE = "The body is larger than 1048576 bytes: send it in parts."
KOMMOS = "The body is none of Kommo's: it has no entries like leads[status][0][id] (a form) or "
ORTTOS = "The body is none of Ortto's: it needs activity.field_id (an activity), type and person (a dynamic "
NAMELESS = "The body names no event: send 'event' with email_opened, email_link_clicked or "

KOMMO = {
    "empty": (b"", FORM, 400, "The body is empty."),
    "only spaces": (b" \r\n ", FORM, 400, "The body is empty."),
    "not a form": (b"hello", "text/plain", 400, KOMMOS),
    "an image": (b"\x89PNG\r\n\x1a\n\x00\x00", "image/png", 400, "The body is not UTF-8 (see its byte 0)"),
    "truncated JSON": (b'{"leads": {"status": [{"id"', JSON, 400, "The body is not JSON: "),
    "JSON of another kind": (b"[1, 2]", JSON, 400, "The body must be a JSON object and is a list."),
    "null": (b"null", JSON, 400, "The body must be a JSON object and is null."),
    "a form called JSON": (b"a=b", JSON, 400, "The body is not JSON: "),
    "no status": (b"leads[status][0][id]=1", FORM, 400, "leads.status[0].status_id is missing"),
    "no numbers": (
        f"leads[status][0][id]={EMAIL}&leads[status][0][status_id]=142".encode(),
        FORM,
        400,
        "leads.status[0].id is not an id: an email address",
    ),
    "a negative number": (
        b"leads[add][7][id]=-5&leads[add][7][status_id]=142",
        FORM,
        400,
        "leads.add[7].id is not an id: '-5'",
    ),
    "an endless number": (
        b'{"leads": {"status": [{"id": ' + b"9" * 5000 + b"}]}}",
        JSON,
        400,
        "more than 4300 digits",
    ),
    "not a number": (b'{"leads": {"status": [{"id": NaN, "status_id": 1}]}}', JSON, 400, "is not an id: NaN"),
    "deals that are none": (b'{"leads": {"status": ["a", 1]}}', JSON, 400, "leads.status[0] is not a deal: 'a'"),
    "10,000 keys": (
        b"&".join(b"key%d=%d" % (number, number) for number in range(10_000)),
        FORM,
        400,
        KOMMOS,
    ),
    "100,000 keys": (b"&".join([b"a=1"] * 100_000), FORM, 400, "The body has more than 20000 fields."),
    "deep JSON": (deep(100_000), JSON, 400, "The body is nested too deep."),
    "a deep form": (nested_key(500), FORM, 400, "is nested deeper than 12 levels."),
    "invalid UTF-8": (b"leads[status][0][id]=\xff\xfe", FORM, 400, "The body is not UTF-8 (see its byte 21)"),
    "invalid percent-encoding": (
        b"leads[status][0][id]=%ff%fe",
        FORM,
        400,
        "percent-encoded value that is not UTF-8",
    ),
    "two values of a key": (
        b'{"leads": {"status": []}, "leads": {"status": [{"id": "x"}]}}',
        JSON,
        400,
        "leads.status[0].id is not an id: 'x'",
    ),
    "many parts": (
        b'--b\r\nContent-Disposition: form-data; name="leads[status][0][id]"\r\n\r\n1\r\n' * 9000,
        "multipart/form-data; boundary=b",
        400,
        KOMMOS,
    ),
    "2 MiB": (b"x" * 2 * MIB, FORM, 413, TOO_LARGE),
    "1 MiB and a byte": (b"x" * (MIB + 1), FORM, 413, TOO_LARGE),
}
ENCHARGE = {
    "empty": (b"", JSON, 400, "The body is empty."),
    "not JSON": (b"<html></html>", "text/html", 400, NAMELESS),
    "truncated": (f'{{"event": "email_opened", "email": "{EMAIL}'.encode(), JSON, 400, "The body is not JSON: "),
    "no event": (json.dumps({"email": EMAIL}).encode(), JSON, 400, NAMELESS),
    "an empty list": (b"[]", JSON, 400, "The body is an empty list."),
    "a text": (b'"email_opened"', JSON, 400, "The body must be an object and is 'email_opened'."),
    "a list of texts": (b'["a", "b"]', JSON, 400, "[0]: The body must be an object and is 'a'."),
    "10,001 entries": (json.dumps([{}] * 10_001).encode(), JSON, 400, "The body has more than 10000 entries."),
    "deep": (deep(100_000), JSON, 400, "The body is nested too deep."),
    "invalid UTF-8": (b'{"event": "\xff"}', JSON, 400, "The body is not UTF-8 (see its byte 11)"),
    "2 MiB": (b"x" * 2 * MIB, JSON, 413, TOO_LARGE),
}
ORTTO = {
    "empty": (b"", JSON, 400, "The body is empty."),
    "a form": (b"type=email.opened", FORM, 400, "The body is not JSON: "),
    "truncated": (b'{"activity": {"field_id"', JSON, 400, "The body is not JSON: "),
    "no shape of Ortto's": (json.dumps({"hello": EMAIL}).encode(), JSON, 400, ORTTOS),
    "a list": (b"[]", JSON, 400, "The body must be a JSON object and is a list."),
    "10,000 keys": (json.dumps({f"k{n}": n for n in range(10_000)}).encode(), JSON, 400, ORTTOS),
    "deep": (deep(100_000), JSON, 400, "The body is nested too deep."),
    "invalid UTF-8": (b"\xff", JSON, 400, "The body is not UTF-8 (see its byte 0)"),
    # What is refused with 413, Ortto sends again for days.
    "2 MiB": (b"x" * 2 * MIB, JSON, 400, TOO_LARGE),
}
TABLE = {
    (route, name): row
    for route, rows_of_it in (("kommo", KOMMO), ("encharge", ENCHARGE), ("ortto", ORTTO))
    for name, row in rows_of_it.items()
}


@pytest.mark.parametrize(("route", "name"), TABLE, ids=[" ".join(key) for key in TABLE])
def test_a_bad_body_gets_a_clear_answer(route: str, name: str, one_service: Service) -> None:
    body, content_type, status, words = TABLE[route, name]
    before = _recorded(one_service)

    answer = one_service.post(route, body, content_type)

    said = answer.json()
    assert (answer.status_code, list(said)) == (status, ["error"])
    assert words in said["error"]
    assert len(said["error"]) < 400
    assert _recorded(one_service) == before
    assert _still_answers(one_service)
    assert _log_is_clean(one_service)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "GZIP, identity", "x-unknown"])
def test_a_packed_body_is_refused_and_never_unpacked(encoding: str, one_service: Service) -> None:
    """Two bytes of gzip can become two thousand."""
    bomb = gzip.compress(b"leads[status][0][id]=1&leads[status][0][status_id]=142&x=" + b"x" * 50 * MIB)
    for route in ("kommo", "encharge", "ortto"):
        answer = one_service.post(route, bomb, FORM, **{"Content-Encoding": encoding})
        said = {"error": "The body is compressed (see its Content-Encoding): send it as it is."}
        assert (answer.status_code, answer.json()) == (400, said)
    plain = one_service.post("kommo", b"contacts[update][0][id]=5", FORM, **{"Content-Encoding": "identity"})
    assert plain.status_code == 200


def _recorded(service: Service) -> list[tuple[int]]:
    return rows(service.variables, "SELECT count(*) FROM webhooks")


def _still_answers(service: Service) -> bool:
    ignored = service.post("kommo", b"contacts[update][0][id]=5", FORM)
    return (ignored.status_code, ignored.json()["status"]) == (200, "ignored")


def _log_is_clean(service: Service) -> bool:
    """Say whether the log has the last refusal, no trace of an error of ours, and nothing that is secret."""
    log = service.log()
    secret = [
        SECRET,
        EMAIL,
        *(service.variables[name] for name in service.variables if name.endswith(("_KEY", "_TOKEN"))),
    ]
    found = [word for word in [*secret, "Traceback", '"level": "error"'] if word in log]
    lines = [line for line in log.splitlines() if '"event": "webhook"' in line]
    return not found and '"error": ""' not in lines[-2]


# -- what `requests` would not send -----------------------------------------------------------------------------


def raw(service: Service, request: bytes, *, close: bool = False) -> tuple[int, dict[str, str]]:
    """Send bytes as they are; return the status and the JSON of the answer. `close`: send no more after them."""
    address = urlsplit(service.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        with suppress(ConnectionError):  # an answer may come before all is sent
            connection.sendall(request)
            if close:
                connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answer:
            status = int(answer.readline().split()[1])
            length = 0
            while line := answer.readline().strip():
                name, _, value = line.decode().partition(":")
                length = int(value) if name.lower() == "content-length" else length
            return status, json.loads(answer.read(length))


def head(route: str, *lines: str, secret: str = SECRET) -> bytes:
    wanted = [f"POST /webhooks/{route} HTTP/1.1", "Host: relay", f"Content-Type: {FORM}", *lines]
    if secret:
        wanted.append(f"X-Webhook-Secret: {secret}")
    return "\r\n".join([*wanted, "", ""]).encode()


def in_chunks(body: bytes) -> bytes:
    parts = [body[start : start + 65536] for start in range(0, len(body), 65536)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize(("route", "status"), [("kommo", 413), ("encharge", 413), ("ortto", 400)])
def test_a_chunked_body_that_is_too_large_is_refused_and_not_cut(
    route: str, status: int, one_service: Service
) -> None:
    """Cut at the limit, it would still be a form, and the deals behind the cut would be lost."""
    before = _recorded(one_service)
    body = stage_hook(41_500_011) + b"&pad=" + b"x" * MIB + b"&leads[status][1][id]=41500012"

    answer = raw(one_service, head(route, "Transfer-Encoding: chunked") + in_chunks(body))

    assert answer == (status, {"error": TOO_LARGE})
    assert _recorded(one_service) == before
    assert _still_answers(one_service)


def test_a_chunked_body_of_a_proxy_is_taken(one_service: Service) -> None:
    hook = b"contacts[update][0][id]=5"

    status, answer = raw(one_service, head("kommo", "Transfer-Encoding: chunked") + in_chunks(hook))

    assert (status, answer["status"]) == (200, "ignored")


@pytest.mark.parametrize("route", ["kommo", "encharge", "ortto"])
def test_a_body_that_is_cut_off_on_its_way_is_refused(route: str, one_service: Service) -> None:
    """Cut in the middle of a number, it would be a form that names another deal."""
    body = b"leads[status][0][status_id]=142&leads[status][0][id]=415000"
    before = _recorded(one_service)

    answer = raw(one_service, head(route, "Content-Length: 61") + body, close=True)

    assert answer == (400, {"error": "The body was cut off: 59 of its 61 bytes came. Send it again."})
    assert _recorded(one_service) == before


@pytest.mark.parametrize("route", ["kommo", "kommo/stage", "encharge", "ortto"])
@pytest.mark.parametrize("secret", ["", "x" * 22], ids=["without a secret", "with a wrong one"])
def test_a_caller_without_the_secret_is_answered_with_the_body_unread(
    route: str, secret: str, one_service: Service
) -> None:
    """The body never comes here."""
    status, answer = raw(one_service, head(route, "Content-Length: 500000", secret=secret))

    assert status == 401
    assert answer["error"].startswith("The webhook's secret is missing or wrong")
    assert _still_answers(one_service)


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["kommo", f"kommo/{SECRET}", "encharge", "ortto"])
def test_a_wrong_method_is_refused(method: str, path: str, one_service: Service) -> None:
    answer = requests.request(method, f"{one_service.url}/webhooks/{path}", timeout=30)

    assert (answer.status_code, list(answer.json())) == (405, ["error"])


def test_an_unknown_path_is_refused_in_json(one_service: Service) -> None:
    answer = requests.post(f"{one_service.url}/webhooks/nobody", timeout=30)

    assert (answer.status_code, list(answer.json())) == (404, ["error"])


def test_a_hook_of_another_account_is_ignored(one_service: Service) -> None:
    answer = one_service.post("kommo", stage_hook(41_500_011).replace(b"examplebakery", b"another"), FORM)

    assert answer.json() == {
        "status": "ignored",
        "events": [
            {
                "id": None,
                "kind": "account",
                "status": "ignored",
                "reason": "sent by the account 'another'; this service works for 'examplebakery'",
            }
        ],
    }


def test_a_bad_deal_among_good_ones_is_named_and_stops_none(service: Service, town: Town) -> None:
    body = stage_hook(41_500_011) + b"&leads[status][1][id]=none&leads[status][1][status_id]=142"

    answer = in_the_end(service, service.post("kommo", body, FORM))

    assert [(entry["status"], entry["reason"]) for entry in answer["events"]] == [
        ("delivered", ""),
        ("ignored", "leads.status[1].id is not an id: 'none'"),
    ]


def test_the_log_of_work_that_fails_holds_no_secret_and_no_address(service: Service, town: Town) -> None:
    """Every way a secret can come, every vendor failing, and an address in the body."""
    for vendor in town.vendors.values():
        vendor.faults.add(status=401)
    body = json.dumps({"event": "email_opened", "email": EMAIL, "broadcastName": "pricing"}).encode()
    for path in ("encharge", f"encharge/{SECRET}", f"encharge?secret={SECRET}", f"ortto/{SECRET}/more"):
        service.post(path, body, JSON)
    service.post("kommo", stage_hook(41_500_011), FORM)
    requests.post(f"{service.url}/webhooks/kommo", auth=("user", SECRET), timeout=30)

    log = eventually(lambda: '"event": "vendor paused"' in service.log() and service.log())

    secret = [value for name, value in service.variables.items() if name.endswith(("_SECRET", "_KEY", "_TOKEN"))]
    assert len(secret) == 7
    assert [word for word in [*secret, EMAIL, "zoe@example.com"] if word in log] == []


# -- the journal ------------------------------------------------------------------------------------------------


def test_a_journal_that_cannot_be_written_is_a_503_and_works_again_after(service: Service, town: Town) -> None:
    hook = stage_hook(41_500_011)
    with closing(sqlite3.connect(journal_file(service.variables), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()

        refused = service.post("kommo", hook, FORM)
        ready = requests.get(f"{service.url}/readyz", timeout=30)

        assert (refused.status_code, refused.json()) == (
            503,
            {"error": "The journal cannot be written now: send it again later."},
        )
        # What the database says is in the log: anybody may ask here.
        words = "it cannot be read and written: see the log"
        failing = {"status": "failing", "failing": [{"check": "journal", "error": words}]}
        assert (ready.status_code, ready.json()) == (503, failing)
        assert "not ready" in service.log()
        assert time.monotonic() - began < 9  # the journal's own patience is 10 s a write
        assert requests.get(f"{service.url}/healthz", timeout=30).status_code == 200
        other.execute("ROLLBACK")

    again = eventually(lambda: (answer := service.post("kommo", hook, FORM)).ok and answer)
    # What was refused may have been written all the same, when the lock was let go.
    assert again.json()["status"] in ("delivered", "accepted", "duplicate")
    eventually(lambda: len(town.ortto.state()["activities"]) == 1)
    eventually(lambda: requests.get(f"{service.url}/readyz", timeout=30).ok)


# -- settings and mapping ---------------------------------------------------------------------------------------

TYPO = """version: 1
stages:
  - stage: qualified
    statsu: 61000102
"""


@pytest.mark.parametrize(
    ("variables", "mapping", "sentences"),
    [
        pytest.param(
            {"KOMMO_ACCESS_TOKEN": "", "KOMMO_RATE_LIMIT": "seven", "KOMMO_WEBHOOK_SECRETS": "x" * 20},
            None,
            [
                "KOMMO_ACCESS_TOKEN is not set: ",
                "KOMMO_RATE_LIMIT must be a number like 7, not 'seven'.",
                "KOMMO_WEBHOOK_SECRETS is not a setting: did you mean KOMMO_WEBHOOK_SECRET?",
            ],
            id="settings",
        ),
        pytest.param({}, TYPO, ["line 4", "statsu", "did you mean 'status'?"], id="mapping"),
        pytest.param({}, "stages: [", ["line 1"], id="not YAML"),
        pytest.param({"MAPPING_FILE": "/nowhere/mapping.yaml"}, None, ["/nowhere/mapping.yaml"], id="no mapping"),
        pytest.param(
            {"DATABASE_URL": "sqlite:////proc/journal.db"}, None, ["journal"], id="no place for a journal"
        ),
    ],
)
def test_a_bad_setting_ends_the_server_with_its_sentences(
    variables: dict[str, str], mapping: str | None, sentences: list[str], env: dict[str, str], tmp_path: Path
) -> None:
    changed = {**env, **variables}
    if mapping is not None:
        (tmp_path / "mapping.yaml").write_text(mapping)
        changed["MAPPING_FILE"] = str(tmp_path / "mapping.yaml")
    service = Service(changed, tmp_path / "service.log")

    service.process.wait(60)  # it ends by itself

    log = service.log()
    service.stop()
    assert service.process.returncode != 0
    assert [sentence for sentence in ["Kommo Relay cannot start:", *sentences] if sentence not in log] == []
    assert "Traceback" not in log
    assert "Booting worker" not in log


def test_a_bad_setting_ends_a_command_in_the_same_words(env: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flask", "work"],
        cwd=ROOT,
        env={**env, "PATH": "", "KOMMO_ACCESS_TOKEN": ""},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode != 0
    assert "KOMMO_ACCESS_TOKEN is not set: " in done.stderr
    assert "Traceback" not in done.stderr
