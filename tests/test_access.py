"""The way into Kommo by OAuth: one renewal among many, none lost; what is said, and what is never seen."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import letting_in
import pytest
import structlog
from databases import run_sql
from letting_in import CLIENT_SECRET, DAY, TOKENS, code_of, make_access, pass_days, renewals
from parts import Clock
from support import ROOT, SECRET, Service, at_once, eventually, stage_hook

from app import access as ways
from app import hush
from app.access import KeyWatch, LongLived, OAuthAccess
from app.clients.errors import ApiError, Fault, LoginNeededError
from app.clients.kommo import KommoClient
from app.journal import Journal
from app.logs import Veil
from app.ops.masks import Mask
from sandbox.kommo.oauth import json_web_token
from sandbox.town import Town

FRESH = ways.FRESH_SECONDS + 1


@dataclass
class Home:
    """A journal on one of the databases, with a login in it, and processes that use it."""

    town: Town
    url: str
    folder: Path
    clock: Clock = field(default_factory=Clock)
    journals: list[Journal] = field(default_factory=list)

    def enter(self, **more: Any) -> OAuthAccess:
        """Return another process's way in."""
        self.journals.append(Journal(self.url))
        return make_access(self.journals[-1], self.town.kommo.url, self.clock, **more)

    def client(self, access: OAuthAccess) -> KommoClient:
        return KommoClient(self.town.kommo.url, access)

    def pass_days(self, days: float) -> None:
        pass_days(self.town, self.url, days)

    def versions(self) -> list[tuple[Any, ...]]:
        return run_sql(self.url, "SELECT version, fault FROM logins")


@pytest.fixture
def home(town: Town, database_url: str, tmp_path: Path) -> Iterator[Home]:
    town.kommo.switch(rate=0)
    made = Home(town, database_url, tmp_path)
    made.enter().log_in(code_of(town))
    yield made
    for journal in made.journals:
        journal.close()


@pytest.fixture
def on_sqlite(town: Town, tmp_path: Path) -> Iterator[Home]:
    """For what the database has no part in."""
    town.kommo.switch(rate=0)
    made = Home(town, f"sqlite:///{tmp_path / 'journal.db'}", tmp_path)
    made.enter().log_in(code_of(town))
    yield made
    for journal in made.journals:
        journal.close()


# -- one renewal ---------------------------------------------------------------------------------------------------


def test_another_process_gets_in_with_what_one_has_logged_in_for(home: Home) -> None:
    assert home.client(home.enter()).account().subdomain == "examplebakery"
    assert renewals(home.town) == []


def test_an_expired_token_is_renewed_once_by_threads_of_several_processes(home: Home) -> None:
    home.town.kommo.latency = 0.2  # so that all come while it is renewed
    home.pass_days(1)
    doors = [home.enter() for _ in range(3)]

    tokens = at_once([door.token for door in doors for _ in range(4)], 12)

    assert (renewals(home.town), len(set(tokens))) == ([200], 1)
    assert home.versions() == [(2, "")]
    home.town.kommo.latency = 0
    assert home.client(doors[0]).account().subdomain == "examplebakery"


def test_two_processes_that_start_when_it_has_expired_renew_it_once(home: Home) -> None:
    home.town.kommo.latency = 0.3
    home.pass_days(1)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: process(home).communicate(timeout=60)[0], range(2)))

    assert done == ["examplebakery"] * 2
    assert renewals(home.town) == [200]


def test_it_is_renewed_before_it_ends_while_nobody_waits(on_sqlite: Home) -> None:
    door, other = on_sqlite.enter(), on_sqlite.enter()
    first = door.token()
    on_sqlite.clock.put_forward(0.89 * DAY)
    door.keep_up()
    assert renewals(on_sqlite.town) == []
    on_sqlite.clock.put_forward(0.02 * DAY)
    began = threading.Event()
    on_sqlite.town.kommo.faults.add(path=TOKENS, seconds=0.5)
    renewing = threading.Thread(target=lambda: (began.set(), door.keep_up()))
    renewing.start()
    began.wait()
    started = time.monotonic()
    assert door.token() == first
    assert time.monotonic() - started < 0.2
    renewing.join()
    other.keep_up()

    assert renewals(on_sqlite.town) == [200]
    assert door.token() != first
    assert other.token() == door.token()


def test_an_idle_service_renews_each_day_so_that_the_refresh_token_never_ends(
    on_sqlite: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_sqlite.town.kommo, "clock", on_sqlite.clock)
    watch = KeyWatch(on_sqlite.enter(), on_sqlite.clock)
    for _ in range(100):
        on_sqlite.clock.put_forward(0.95 * DAY)
        watch.look()
    assert renewals(on_sqlite.town) == [200] * 100
    ends = on_sqlite.enter().standing().ends
    assert ends is not None
    assert ends - on_sqlite.clock() == pytest.approx(90 * DAY, abs=60)


def test_a_call_that_is_answered_401_goes_again_once_with_a_new_token(home: Home) -> None:
    door, other = home.enter(), home.enter()
    clients = [home.client(door), home.client(other)]
    for client in clients:
        client.account()
    home.clock.put_forward(FRESH)
    home.town.kommo.oauth.pairs[0].access = "revoked"

    for client in clients:
        assert client.account().subdomain == "examplebakery"

    assert renewals(home.town) == [200]
    assert home.town.kommo.count("GET", "/api/v4/account", 401) == 2


def test_a_token_that_is_refused_although_it_is_new_is_not_renewed_again_and_again(on_sqlite: Home) -> None:
    client = on_sqlite.client(on_sqlite.enter())
    on_sqlite.town.kommo.faults.add(path="/api/", status=401)
    for _ in range(3):
        with pytest.raises(ApiError) as refused:
            client.account()
        assert (refused.value.status, refused.value.fault) == (401, Fault.LOCKED_OUT)
    assert renewals(on_sqlite.town) == []


def test_a_write_that_was_refused_for_its_token_is_made_once(on_sqlite: Home) -> None:
    client = on_sqlite.client(on_sqlite.enter())
    on_sqlite.clock.put_forward(FRESH)
    on_sqlite.town.kommo.oauth.pairs[0].access = "revoked"
    client.set_webhook("https://relay.example.com/webhooks/kommo/x", ["status_lead"])
    assert [hook.destination for hook in client.webhooks()] == ["https://relay.example.com/webhooks/kommo/x"]


# -- nothing is lost -----------------------------------------------------------------------------------------------


def process(home: Home, *order: str) -> subprocess.Popen[str]:
    """Start a process that gets into Kommo once; it dies where the order says."""
    own = home.folder / f"process-{time.monotonic_ns()}"
    own.mkdir()
    if order:
        (own / "kill").write_text(" ".join(order))
    return subprocess.Popen(
        [sys.executable, letting_in.__file__, home.url, home.town.kommo.url, *([str(own)] if order else [])],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


MOMENTS = {
    "begun, not asked": ("begin_renewal", "after", []),
    "asked, not written": ("end_renewal", "before", [200]),
    "written, not used": ("end_renewal", "after", [200]),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_process_that_is_killed_while_it_renews_loses_nothing(home: Home, moment: str) -> None:
    name, when, asked = MOMENTS[moment]
    home.pass_days(1)
    dying = process(home, name, when, "1", "worker", "1")
    output, _ = dying.communicate(timeout=60)
    assert dying.returncode == -signal.SIGKILL, output
    assert renewals(home.town) == asked
    run_sql(home.url, "UPDATE logins SET lease_until = 0")  # its lease is over

    door = home.enter()
    assert home.client(door).account().subdomain == "examplebakery"

    written = moment == "written, not used"
    assert renewals(home.town) == (asked if written else [*asked, 200])
    assert home.versions() == [(2, "")]
    home.pass_days(1)
    assert home.client(home.enter()).account().subdomain == "examplebakery"


def test_without_kommos_grace_a_kill_costs_a_login_and_says_so(on_sqlite: Home) -> None:
    on_sqlite.town.kommo.switch(refresh_grace=False)
    on_sqlite.pass_days(1)
    process(on_sqlite, "end_renewal", "before", "1", "worker", "1").communicate(timeout=60)
    run_sql(on_sqlite.url, "UPDATE logins SET lease_until = 0")
    door = on_sqlite.enter()

    with pytest.raises(LoginNeededError, match=r"Token has been revoked\): run `flask kommo login`"):
        door.token()

    assert renewals(on_sqlite.town) == [200, 401]
    with pytest.raises(LoginNeededError):
        door.token()
    assert renewals(on_sqlite.town) == [200, 401]  # it is not asked again and again
    assert door.standing().fault.endswith("Token has been revoked)")
    door.log_in(code_of(on_sqlite.town))
    assert on_sqlite.client(door).account().subdomain == "examplebakery"
    assert (door.standing().fault, on_sqlite.versions()) == ("", [(2, "")])


@pytest.mark.parametrize(
    "fault", [{"status": 500}, {"drop": True}, {"status": 502, "after": True}, {"drop": True, "after": True}]
)
def test_an_answer_that_was_lost_is_asked_for_again(on_sqlite: Home, fault: dict[str, Any]) -> None:
    on_sqlite.pass_days(1)
    on_sqlite.town.kommo.faults.add(path=TOKENS, times=1, **fault)
    door = on_sqlite.enter()

    with pytest.raises(ApiError) as failed:
        door.token()

    assert failed.value.fault == Fault.PASSING
    assert door.standing().fault == ""
    assert on_sqlite.client(on_sqlite.enter()).account().subdomain == "examplebakery"
    assert on_sqlite.versions() == [(2, "")]


def test_a_journal_that_cannot_be_written_is_tried_again_before_the_token_is_used(
    on_sqlite: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_sqlite.town.kommo.switch(refresh_grace=False)  # the pair in memory is all there is
    on_sqlite.pass_days(1)
    door = on_sqlite.enter()
    journal = on_sqlite.journals[-1]
    run = journal._writer.run

    def full(name: str, *rest: Any, **more: Any) -> Any:
        if name == "end_renewal":
            raise ways.JournalError("disk full")
        return run(name, *rest, **more)

    monkeypatch.setattr(journal._writer, "run", full)
    for _ in range(2):
        with pytest.raises(ApiError, match="disk full"):
            door.token()
    assert [pair.used for pair in on_sqlite.town.kommo.oauth.pairs] == [True, False]
    monkeypatch.undo()

    assert on_sqlite.client(door).account().subdomain == "examplebakery"
    assert renewals(on_sqlite.town) == [200]


@pytest.mark.parametrize("used", [True, False], ids=["refused then", "late with tokens of its own"])
def test_a_process_that_was_frozen_while_another_renewed_changes_nothing(on_sqlite: Home, used: bool) -> None:
    on_sqlite.pass_days(1)
    late, quick = on_sqlite.enter(), on_sqlite.enter()
    on_sqlite.town.kommo.faults.add(path=TOKENS, times=1, seconds=1.5, after=True)
    with ThreadPoolExecutor(1) as pool:
        frozen = pool.submit(late.token)
        eventually(lambda: run_sql(on_sqlite.url, "SELECT holder FROM logins") != [(None,)])
        run_sql(on_sqlite.url, "UPDATE logins SET lease_until = 0")
        token = quick.token()
        if used:
            assert on_sqlite.client(quick).account().subdomain == "examplebakery"
        assert frozen.result(60) == token
    assert renewals(on_sqlite.town) == [200, 401 if used else 200]
    assert on_sqlite.versions() == [(2, "")]


def test_a_lease_that_ran_out_because_the_clock_was_set_is_respected(
    on_sqlite: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_sqlite.pass_days(1)
    working, other = on_sqlite.enter(), on_sqlite.enter()
    monkeypatch.setattr(ways, "WAIT_SECONDS", 1.0)
    on_sqlite.journals[0].begin_renewal("kommo", 1, "somebody", ways.LEASE_SECONDS, now=on_sqlite.clock())
    straight, ahead = time.time, 2 * ways.LEASE_SECONDS
    monkeypatch.setattr(time, "time", lambda: straight() + ahead)
    on_sqlite.clock.put_forward(ahead)
    with pytest.raises(ApiError, match="another process has been changing the token"):
        other.token()
    del working
    assert renewals(on_sqlite.town) == []


@pytest.mark.parametrize("hours", [-48, -2, 30, 24 * 60])
def test_a_clock_that_is_set_costs_a_renewal_at_most(on_sqlite: Home, hours: float) -> None:
    door = on_sqlite.enter()
    client = on_sqlite.client(door)
    client.account()
    on_sqlite.clock.put_forward(hours * 3600)
    for _ in range(3):
        assert client.account().subdomain == "examplebakery"
        door.keep_up()
    on_sqlite.clock.put_forward(-hours * 3600)
    for _ in range(3):
        assert client.account().subdomain == "examplebakery"
        door.keep_up()
    assert len(renewals(on_sqlite.town)) <= 2


# -- refusals ------------------------------------------------------------------------------------------------------


def test_a_refresh_token_that_has_ended_needs_a_person(home: Home) -> None:
    home.pass_days(91)
    with pytest.raises(LoginNeededError) as refused:
        home.client(home.enter()).account()
    assert (refused.value.fault, refused.value.vendor) == (Fault.LOCKED_OUT, "kommo")
    assert home.versions()[0][1].startswith(
        "the token cannot be renewed (Kommo: POST /oauth2/access_token answered"
    )


def test_while_the_access_token_counts_a_refusal_locks_nobody_out(on_sqlite: Home) -> None:
    door = on_sqlite.enter()
    on_sqlite.clock.put_forward(0.95 * DAY)
    on_sqlite.town.kommo.oauth.pairs[0].refresh = "another"
    with pytest.raises(LoginNeededError):
        door.keep_up()
    assert on_sqlite.client(door).account().subdomain == "examplebakery"
    standing = door.standing()
    assert standing.over(on_sqlite.clock())
    assert standing.ends == pytest.approx(on_sqlite.clock() + 0.05 * DAY, abs=60)


def test_a_refusal_by_mistake_mends_itself(on_sqlite: Home) -> None:
    on_sqlite.pass_days(1)
    door = on_sqlite.enter()
    on_sqlite.town.kommo.faults.add(path=TOKENS, times=1, status=401)
    with pytest.raises(LoginNeededError):
        door.token()
    with pytest.raises(LoginNeededError):
        door.token()
    on_sqlite.clock.put_forward(ways.AGAIN_SECONDS)
    assert door.token()
    assert (door.standing().fault, len(renewals(on_sqlite.town))) == ("", 2)


def test_a_plan_that_has_ended_or_a_block_is_no_reason_to_log_in(on_sqlite: Home) -> None:
    on_sqlite.pass_days(1)
    door = on_sqlite.enter()
    for status, body, fault in ((402, None, Fault.LOCKED_OUT), (403, "<html>", Fault.PASSING)):
        on_sqlite.town.kommo.faults.add(path=TOKENS, times=1, status=status, body=body)
        with pytest.raises(ApiError) as refused:
            door.token()
        assert (refused.value.fault, isinstance(refused.value, LoginNeededError)) == (fault, False)
    assert door.token()


def test_nobody_gets_in_who_has_not_logged_in_or_has_logged_out(on_sqlite: Home) -> None:
    door = on_sqlite.enter()
    assert door.token()
    assert door.log_out()
    assert not door.log_out()
    for way in (door, on_sqlite.enter()):
        with pytest.raises(LoginNeededError, match="nobody has logged in: run `flask kommo login`"):
            way.token()
        assert way.standing().fault == "nobody has logged in"
    assert run_sql(on_sqlite.url, "SELECT sealed FROM logins") == [("",)]


def test_another_client_secret_or_account_opens_nothing(on_sqlite: Home) -> None:
    stranger = on_sqlite.enter(secret="another-client-secret")
    with pytest.raises(LoginNeededError, match="another KOMMO_CLIENT_SECRET"):
        stranger.token()
    assert "another KOMMO_CLIENT_SECRET" in stranger.standing().fault
    run_sql(on_sqlite.url, "UPDATE logins SET host = 'other.kommo.com'")
    with pytest.raises(LoginNeededError, match=r"the login is to other\.kommo\.com, not to 127"):
        on_sqlite.enter().token()


def test_a_redirect_does_not_carry_the_client_secret_away(on_sqlite: Home) -> None:
    heard: list[bytes] = []

    class Thief(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Thief) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        on_sqlite.pass_days(1)
        away = {"Location": f"http://127.0.0.1:{server.server_port}/"}
        on_sqlite.town.kommo.faults.add(path=TOKENS, status=307, headers=away)
        door = on_sqlite.enter()
        with pytest.raises(ApiError) as refused:
            door.token()
        server.shutdown()
    assert (heard, refused.value.fault) == ([], Fault.LOCKED_OUT)
    assert door.standing().fault == ""


# -- what is kept from being seen ----------------------------------------------------------------------------------


def secrets_of(town: Town) -> list[str]:
    return [word for pair in town.kommo.oauth.pairs for word in (pair.access, pair.refresh)]


def test_no_token_lies_in_the_journal_in_the_clear(on_sqlite: Home) -> None:
    on_sqlite.pass_days(1)
    on_sqlite.enter().token()
    for journal in on_sqlite.journals:
        journal.close()
    folder = Path(on_sqlite.url.removeprefix("sqlite:///")).parent
    stored = b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())
    assert [word for word in (*secrets_of(on_sqlite.town), CLIENT_SECRET) if word.encode() in stored] == []


def test_no_token_is_seen_in_logs_pages_reprs_or_errors(on_sqlite: Home) -> None:
    on_sqlite.pass_days(1)
    door = on_sqlite.enter()
    door.token()
    words = [*secrets_of(on_sqlite.town), code_of(on_sqlite.town)]
    hush.learn(words[-1])  # as the login does
    text = " ".join(f"token={word}; " for word in words)
    login = on_sqlite.journals[0].login("kommo")
    assert login is not None
    shown = [
        Veil().words(text),
        Mask(()).text(text),
        Mask(()).text(text.replace("token=", "x ")),
        repr(login),
        repr(door._pair),
        repr(door.standing()),
        repr(door),
    ]
    assert [word for word in (*words, login.sealed) if any(word in part for part in shown)] == []

    # A debug page that echoes what it was asked.
    pair = on_sqlite.town.kommo.oauth.pairs[-1]
    on_sqlite.pass_days(1)
    echo = f"<html>{CLIENT_SECRET} {pair.refresh} {pair.access}"
    on_sqlite.town.kommo.faults.add(path=TOKENS, status=500, body=echo)
    with pytest.raises(ApiError) as failed:
        on_sqlite.enter().token()
    assert "*** *** ***" in str(failed.value)


# -- what is said before it ends -----------------------------------------------------------------------------------


def test_the_log_says_at_the_start_and_daily_that_a_long_lived_token_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    straight, began, passed = time.monotonic, time.time(), 0.0
    monkeypatch.setattr(time, "monotonic", lambda: straight() + passed)
    watch = KeyWatch(LongLived(json_web_token({"exp": began + 31 * DAY})), lambda: began + passed)
    said = []
    for days in (0, 2, 0.5, 0.6, 22, 6, 2):
        passed += days * DAY
        with structlog.testing.capture_logs() as logs:
            watch.look()
        said.append([(line["log_level"], re.sub("[0-9]{4}-[0-9-]{5}", "…", line["why"])) for line in logs])
    soon, over = "the long-lived token expires on …, in", "the long-lived token expired on …"
    assert said == [
        [],
        [("warning", f"{soon} 29 days")],
        [],
        [("warning", f"{soon} 28 days")],
        [("warning", f"{soon} 6 days")],
        [("error", over)],
        [("error", over)],
    ]


GARBAGE = [json_web_token({"exp": value}) for value in ("soon", None, [], 1e300, -5, float("nan"))]


@pytest.mark.parametrize("token", ["token-1", "a.b.c", "eyJ.e30.x", "a.W10.c", "..", "ü.ü.ü", *GARBAGE])
def test_a_token_that_does_not_say_when_it_ends_changes_nothing(token: str) -> None:
    way = LongLived(token)
    assert (way.standing().ends, way.standing().level(time.time())) == (None, 0)
    with structlog.testing.capture_logs() as logs:
        KeyWatch(way).look()
    assert logs == []


# -- the whole way -------------------------------------------------------------------------------------------------


def test_a_service_waits_for_a_login_and_then_works_from_day_to_day(
    start_service: Callable[..., Service], town: Town, database_url: str, env: dict[str, str]
) -> None:
    variables = {**town.oauth_environment(), "DATABASE_URL": database_url, "OPS_TOKEN": SECRET}
    service = start_service(**variables)
    told = service._session.get(f"{service.url}/readyz", timeout=30)
    assert (told.status_code, told.json()["needs_a_person"]) == (
        200,
        [{"check": "kommo access", "todo": "run `flask kommo login`"}],
    )
    order = 41_500_011
    answer = service.post("kommo", stage_hook(order), "application/x-www-form-urlencoded").json()
    assert answer["status"] == "accepted"
    eventually(lambda: run_sql(database_url, "SELECT reason FROM jobs WHERE reason != ''"))
    assert run_sql(database_url, "SELECT reason FROM jobs") == [
        ("Kommo: nobody has logged in: run `flask kommo login`",)
    ]

    done = subprocess.run(
        [sys.executable, "-m", "flask", "kommo", "login", "--code", town.kommo.oauth.authorize()],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **env, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Logged in: the tokens are in the journal.\nExample Bakery (examplebakery) lets us in.\n"
    eventually(lambda: run_sql(database_url, "SELECT state FROM jobs") == [("done",)] * 3, 30)
    pass_days(town, database_url, 1)
    service.kill()
    service = start_service(**variables)
    answer = service.post("kommo", stage_hook(order, status=61_000_103), "application/x-www-form-urlencoded")
    assert answer.ok
    eventually(lambda: run_sql(database_url, "SELECT count(*) FROM jobs WHERE state = 'done'") == [(6,)], 30)
    assert renewals(town) == [200]
    assert "needs_a_person" not in service._session.get(f"{service.url}/readyz", timeout=30).json()
    page = service._session.get(f"{service.url}/metrics", headers={"Authorization": f"Bearer {SECRET}"}, timeout=30)
    assert "kommo_relay_kommo_access_expires_timestamp_seconds" in page.text
    seen = service.log() + page.text
    assert [word for word in (*secrets_of(town), CLIENT_SECRET) if word in seen] == []
