"""`flask doctor` finds what is wrong and says what to do; it changes nothing and shows no secret."""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from databases import lay_new_journal, run_sql
from flask import Flask, redirect
from letting_in import code_of, make_access
from parts import encharge_client, stage_event
from support import QUALIFIED, ROOT, Service, eventually, free_port, journal_file, stage_hook

from app import accounts, make_doctor, mapping, settings
from app.cli import doctor as command
from app.clients.http import Http
from app.doctor import Colour, Doctor, Line
from app.doctor.lines import green, red
from app.events import Lane, Outcome, Source, State, Webhook
from app.journal import Journal, Settlement
from sandbox.server import Server
from sandbox.town import Town

SECRETS = {
    "KOMMO_WEBHOOK_SECRET": "8f0e6bd24c7a19f35e88ab06d1c2974be3f50a6d",
    "ENCHARGE_WEBHOOK_SECRET": "c4d1907ae52fb863e09d7741fa3c8b25600e9dbf",
    "ORTTO_WEBHOOK_SECRET": "27b9fe8c05d4a6316ef08d92c74be15fa08c63d9",
    "OPS_TOKEN": "e9a2705fc86d1b4e37f90a58bd6c2e14f07d83b5",
}
AWAY = "http://127.0.0.1:9"  # where nobody listens
ORDER = 41_500_011


@dataclass
class Site:
    """A whole setting in which all is well, and what a test does to it."""

    town: Town
    env: dict[str, str]
    folder: Path
    patch: pytest.MonkeyPatch
    closing: list[Callable[[], Any]] = field(default_factory=list)

    def set_up(self) -> None:
        """Have at the vendors what `flask setup` would make there, and a journal."""
        rules = mapping.load(Path(self.env["MAPPING_FILE"]), settings.load(self.env).mapping_variables)
        client = encharge_client(self.town)
        for need in accounts.encharge_needs(rules):
            client.add_person_field(need.id, need.name, need.kind)
        self.hook()
        lay_new_journal(self.env["DATABASE_URL"])

    def hurry(self) -> None:
        """Let neither Kommo nor us keep a limit. That we keep it is held where all is well."""
        self.env["KOMMO_RATE_LIMIT"] = "50"
        self.town.kommo.switch(rate=0)

    def hook(self, at: str = AWAY, secret: str = SECRETS["KOMMO_WEBHOOK_SECRET"], **more: Any) -> None:
        self.town.kommo.hooks.by_url.clear()
        self.town.kommo.hook(f"{at}/webhooks/kommo/{secret}", **more)

    def rules(self, old: str, new: str) -> None:
        """Change the mapping file."""
        text = Path(self.env["MAPPING_FILE"]).read_text(encoding="utf-8")
        assert old in text
        self.env["MAPPING_FILE"] = str(self.folder / "mapping.yaml")
        Path(self.env["MAPPING_FILE"]).write_text(text.replace(old, new, 1), encoding="utf-8")

    def token(self, days: float) -> None:
        """Use a token that ends so many days from now."""
        claims = json.dumps({"exp": int(time.time() + days * 86_400), "aud": "client"}).encode()
        token = f"eyJhbGciOiJSUzI1NiJ9.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.c2lnbmF0dXJl"
        self.env["KOMMO_ACCESS_TOKEN"] = token
        self.patch.setattr(self.town.kommo, "token", token)

    def journal(self, work: Callable[[Journal], Any]) -> None:
        with closing(Journal(self.env["DATABASE_URL"])) as journal:
            work(journal)

    def examine(self) -> list[Line]:
        return make_doctor(settings.survey(self.env)).examine()

    def run(self, *options: str) -> Result:
        made = command.make_command(lambda: make_doctor(settings.survey(self.env)))
        return CliRunner().invoke(made, options, catch_exceptions=False)


@pytest.fixture
def site(town: Town, env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(town, {**env, **SECRETS}, tmp_path, monkeypatch)
    made.set_up()
    yield made
    for close in made.closing:
        close()


def log_in(site: Site, **then: str) -> None:
    """Let the service in by OAuth; `then`: settings that change afterwards."""
    site.env.update(site.town.oauth_environment())
    site.journal(lambda journal: make_access(journal, site.town.kommo.url).log_in(code_of(site.town)))
    site.env.update(then)


# -- faults, and what is said of them ------------------------------------------------------------------------------


def settle(site: Site, reason: str, lane: Lane = Lane.RESOLVE) -> None:
    """Have a job refused for good."""

    def work(journal: Journal) -> None:
        now = time.time()
        journal.record(Webhook(Source.KOMMO, "text/plain", b""), [(stage_event(ORDER, QUALIFIED), None)], now=now)
        (job,) = journal.claim(Lane.RESOLVE, "kommo", 1, now=now)
        run_sql(site.env["DATABASE_URL"], f"UPDATE jobs SET lane = '{lane}'")  # noqa: S608
        journal.settle([Settlement(job, Outcome(State.DEAD, reason))], now=now)

    site.journal(work)


def wait_for_long(site: Site) -> None:
    told = [(stage_event(ORDER, QUALIFIED), None)]
    site.journal(
        lambda journal: journal.record(Webhook(Source.KOMMO, "text/plain", b""), told, now=time.time() - 3_600)
    )


def pause(site: Site, vendor: str, reason: str) -> None:
    site.journal(lambda journal: journal.pause(vendor, time.time() + 300, reason))


def lock(site: Site) -> None:
    connection = sqlite3.connect(journal_file(site.env), isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    site.closing.append(connection.close)


def spoil(site: Site) -> None:
    for ending in ("", "-wal", "-shm"):
        journal_file(site.env).with_name(f"journal.db{ending}").unlink(missing_ok=True)
    journal_file(site.env).write_bytes(b"no database at all " * 100)


def no_folder(site: Site) -> None:
    (site.folder / "file").write_text("")
    site.env["DATABASE_URL"] = f"sqlite:///{site.folder}/file/journal.db"


def disk(site: Site, free: int) -> None:
    usage = namedtuple("usage", "total used free")(10**12, 0, free)
    site.patch.setattr(shutil, "disk_usage", lambda path: usage)


def redirecting(site: Site) -> None:
    app = Flask("elsewhere")
    app.add_url_rule("/<path:path>", "away", lambda path: redirect("https://relay.example.com/"))
    server = Server("127.0.0.1", 0, app)
    site.closing.append(server.stop)
    at_home(site, server.url)


def at_home(site: Site, url: str) -> None:
    """Say that we are to be reached there, to Kommo too."""
    site.env["PUBLIC_URL"] = url
    site.hook(url)


def encharge_type(site: Site) -> None:
    with site.town.encharge.lock:
        site.town.encharge.people.fields["kommo_lead_id"]["type"] = "number"


def no_encharge_field(site: Site) -> None:
    with site.town.encharge.lock:
        del site.town.encharge.people.fields["industry"]


def ortto_without(site: Site, field_id: str) -> None:
    site.rules("ortto: str:cm:job-title", f"ortto: {field_id}")


def assign(site: Site, user: int) -> None:
    site.rules("assign_to: owner\n", f"assign_to: {user}\n")


def no_stages(site: Site) -> None:
    site.env["MAPPING_FILE"] = str(site.folder / "mapping.yaml")
    Path(site.env["MAPPING_FILE"]).write_text("version: 1\n")


def hang(site: Site) -> None:
    """Have Ortto answer its next call too late; what is too late is sooner than in life."""
    site.patch.setattr(
        Http.__init__, "__kwdefaults__", {**(Http.__init__.__kwdefaults__ or {}), "read_seconds": 1.0}
    )
    site.town.ortto.faults.add(seconds=3.0, times=1)


def user_leaves(site: Site) -> None:
    site.town.kommo.inactive_users.add(9_200_002)
    assign(site, 9_200_002)


R, Y = Colour.RED, Colour.YELLOW
PLANTED: dict[str, tuple[Callable[[Site], Any], str, Colour, str, str]] = {
    # name: what is done, and the line's topic, colour, words and remedy
    "no token": (
        lambda site: site.env.pop("KOMMO_ACCESS_TOKEN"),
        "settings", R, "KOMMO_ACCESS_TOKEN is not set", "put the long-lived token",
    ),
    "a typo in a name": (
        lambda site: site.env.update(ORTTO_REGON="eu"),
        "settings", R, "ORTTO_REGON is not a setting", "did you mean ORTTO_REGION?",
    ),
    "no destination": (
        lambda site: site.env.update(ENCHARGE_API_KEY="", ENCHARGE_WRITE_KEY="", ORTTO_API_KEY=""),
        "settings", R, "neither Encharge nor Ortto has a key", "Set ENCHARGE_API_KEY or ORTTO_API_KEY.",
    ),
    "a placeholder": (
        lambda site: site.env.update(ORTTO_WEBHOOK_SECRET="change-me-please-31415926535"),
        "secrets", R, "ORTTO_WEBHOOK_SECRET looks like a placeholder", "openssl rand -hex 24",
    ),
    "a secret that repeats itself": (
        lambda site: site.env.update(OPS_TOKEN="abcdefgh0123" * 3),
        "secrets", R, "OPS_TOKEN repeats itself", "openssl rand -hex 24`, set it and restart.",
    ),
    "a short secret": (
        lambda site: site.env.update(ENCHARGE_WEBHOOK_SECRET="k9f2m4x7q1z8w3r6"),
        "secrets", Y, "ENCHARGE_WEBHOOK_SECRET has 16 characters", "openssl rand -hex 24",
    ),
    "one secret for two": (
        lambda site: site.env.update(ORTTO_WEBHOOK_SECRET=SECRETS["ENCHARGE_WEBHOOK_SECRET"]),
        "secrets", Y, "ENCHARGE_WEBHOOK_SECRET and ORTTO_WEBHOOK_SECRET are the same", "a secret of its own",
    ),
    "a wrong line in the mapping file": (
        lambda site: site.rules("event: email_clicked", "event: email_klicked"),
        "mapping file", R, "email_klicked", "Correct that line",
    ),
    "no stages": (
        no_stages, "mapping file", Y, "it maps no stage: no deal goes anywhere", "Write your stages into it.",
    ),
    "a journal of a newer version": (
        lambda site: run_sql(site.env["DATABASE_URL"], "UPDATE alembic_version SET version_num = '9999'"),
        "journal", R, "has schema 9999, made by a newer version", "Install that version",
    ),
    "a locked journal": (lock, "journal", R, "the journal", "who else has it open"),
    "no database": (spoil, "journal", R, "cannot be opened (DATABASE_URL)", "put back a copy"),
    "no place for a journal": (no_folder, "journal", R, "cannot be made there", "Make the folder"),
    "no database server": (
        lambda site: site.env.update(DATABASE_URL="postgresql://relay@127.0.0.1:9/relay"),
        "journal", R, "cannot be opened (DATABASE_URL)", "Correct DATABASE_URL",
    ),
    "a full disk": (lambda site: disk(site, 5 * 10**7), "disk", R, "48 MB free", "Make room on the disk"),
    "a disk that fills up": (lambda site: disk(site, 5 * 10**8), "disk", Y, "477 MB free", "Make room on the disk"),
    "a job that waits for long": (
        wait_for_long, "waiting jobs", R, "1, the oldest due for 60 minutes", "Is the service running?",
    ),
    "a dead job": (
        lambda site: settle(site, "Kommo: no"),
        "dead jobs", Y, "1 were refused for good", "flask replay --state dead",
    ),
    "a vendor that is left alone": (
        lambda site: pause(site, "ortto", "Ortto: answered 401"),
        "paused vendors", R, "ortto is left alone until", "once the cause is mended",
    ),
    "a token that has expired": (
        lambda site: site.token(-3), "kommo token", R, "expired on 20", "Make a new long-lived token",
    ),
    "a token that expires soon": (
        lambda site: site.token(12.5), "kommo token", Y, "in 12 days", "Make a new long-lived token",
    ),
    "nobody has logged in": (
        lambda site: site.env.update(site.town.oauth_environment()),
        "kommo token", R, "nobody has logged in", "Run `flask kommo login`.",
    ),
    "a login with another secret": (
        lambda site: log_in(site, KOMMO_CLIENT_SECRET="another-secret"),
        "kommo token", R, "the login was made with another KOMMO_CLIENT_SECRET", "Run `flask kommo login`.",
    ),
    "a token that Kommo refuses": (
        lambda site: site.env.update(KOMMO_ACCESS_TOKEN="another"),
        "kommo account", R, "answered 401", "Check KOMMO_ACCESS_TOKEN, and KOMMO_SUBDOMAIN",
    ),
    "a token of another account": (
        lambda site: site.env.update(KOMMO_SUBDOMAIN="acme"),
        "kommo account", R, "'examplebakery', and KOMMO_SUBDOMAIN says 'acme'", "Set KOMMO_SUBDOMAIN=examplebakery",
    ),
    "a plan that has ended": (
        lambda site: site.town.kommo.faults.add(status=402),
        "kommo account", R, "answered 402", "must be paid first",
    ),
    "Kommo is down": (
        lambda site: site.town.kommo.faults.add(drop=True),
        "kommo account", R, "no answer to GET /account", "Look at the vendor's status page",
    ),
    "no administrator": (
        lambda site: site.town.kommo.switch(admin=False),
        "kommo webhook", R, "answered 403", "must be the token of an administrator",
    ),
    "no webhook": (
        lambda site: site.town.kommo.hooks.by_url.clear(),
        "kommo webhook", R, "Kommo has no webhook that leads here with our secret", "Run `flask setup`",
    ),
    "a webhook that is switched off": (
        lambda site: setattr(next(iter(site.town.kommo.hooks.by_url.values())), "disabled", True),
        "kommo webhook", R, "Kommo has switched our webhook off", "save it again",
    ),
    "a webhook without an event": (
        lambda site: site.hook(settings=["status_lead"]),
        "kommo webhook", R, "does not send add_lead", "choose it",
    ),
    "a webhook with another secret": (
        lambda site: site.hook(secret="0123456789abcdef0123"),
        "kommo webhook", R, "has another secret than KOMMO_WEBHOOK_SECRET", "Run `flask setup`",
    ),
    "a deal field that is not there": (
        lambda site: site.env.update(KOMMO_CF_EMAIL_STATUS="800999"),
        "kommo fields", R, "KOMMO_CF_EMAIL_STATUS is 800999, which is no deal field", "Put 800111 there",
    ),
    "a deal field of another type": (
        lambda site: site.env.update(KOMMO_CF_EMAIL_ACTIVITY="800104"),
        "kommo fields", R, "is of type checkbox and must be text or textarea", "set KOMMO_CF_EMAIL_ACTIVITY",
    ),
    "a deal field that nobody named": (
        lambda site: site.env.update(KOMMO_CF_EMAIL_STATUS=""),
        "kommo fields", Y, "KOMMO_CF_EMAIL_STATUS is not set", "Put 800111 there",
    ),
    "a stage that is gone": (
        lambda site: site.rules("status: 61000104", "status: 61000199"),
        "kommo stages", R, "negotiation: Kommo has no live stage 61000199 in pipeline 7100010", "flask stages",
    ),
    "a user who never was": (
        lambda site: assign(site, 123), "kommo users", R, "user 123, who is not in Kommo", "9200001 Ines Example",
    ),
    "a user who left": (
        user_leaves, "kommo users", R, "user 9200002, who is switched off in Kommo", "9200001 Ines Example",
    ),
    "a wrong key of Encharge": (
        lambda site: site.env.update(ENCHARGE_API_KEY="wrong.key"),
        "encharge account", R, "answered 401", "Check ENCHARGE_API_KEY",
    ),
    "an Encharge account that has ended": (
        lambda site: site.town.encharge.switch(account="trialExpired"),
        "encharge account", R, "its plan is trialExpired", "Renew it",
    ),
    "Encharge's field of another type": (
        encharge_type, "encharge fields", R, "kommo_lead_id is of type number", "run `flask setup`",
    ),
    "a field that Encharge lacks": (
        no_encharge_field, "encharge fields", Y, "Encharge has no person field industry", "Run `flask setup`",
    ),
    "a wrong key of Ortto": (
        lambda site: site.env.update(ORTTO_API_KEY="PRIVATE-wrong"),
        "ortto account", R, "answered 401", "ORTTO_REGION: a key is good in its own region only",
    ),
    "a field that Ortto lacks": (
        lambda site: ortto_without(site, "str:cm:shoe-size"),
        "ortto fields", R, "Ortto has no person field str:cm:shoe-size", "Run `flask setup`",
    ),
    "an activity that Ortto lacks": (
        lambda site: site.rules("label: Negotiation\n", "label: Negotiation\n    ortto: act:cm:crm-moved\n"),
        "ortto fields", R, "Ortto has no activity act:cm:crm-moved", "Run `flask setup`",
    ),
    "Ortto hangs": (
        hang,
        "ortto account", R, "no answer in time", "Look at the vendor's status page",
    ),
    "nobody at our address": (
        lambda site: at_home(site, f"http://127.0.0.1:{free_port()}"),
        "public url", R, "cannot be reached", "Is the service running",
    ),
    "somebody else at our address": (
        lambda site: at_home(site, site.town.encharge.url), "public url", R, "404", "Look at the reverse proxy",
    ),
    "our address leads elsewhere": (
        redirecting, "public url", R, "leads elsewhere (302)", "Set PUBLIC_URL to the address that it leads to",
    ),
    "an address without encryption": (
        lambda site: at_home(site, f"http://127.0.0.2:{free_port()}"),
        "public url", Y, "is not encrypted", "Use https://",
    ),
    "Kommo calls another address": (
        lambda site: (site.env.update(PUBLIC_URL=f"http://127.0.0.1:{free_port()}")),
        "kommo webhook", R, "leads to http://127.0.0.1:9, and PUBLIC_URL is", "Run `flask setup`",
    ),
    "a clock that is wrong": (
        lambda site: [setattr(vendor, "ahead", 900.0) for vendor in site.town.vendors.values()],
        "clock", R, "Encharge is +900 s, Kommo is +900 s, Ortto is +900 s", "NTP",
    ),
    "a clock that drifts": (
        lambda site: [setattr(vendor, "ahead", -60.0) for vendor in site.town.vendors.values()],
        "clock", Y, "Ortto is -60 s", "NTP",
    ),
}  # fmt: skip
"""At least 25, of every part."""
ALSO = {
    "an address without encryption": {("public url", R)},
    "Kommo calls another address": {("public url", R)},
    "a journal of a newer version": set(),
    "a token that has expired": set(),
}


def bad(lines: list[Line]) -> list[Line]:
    """Return what is not well, but for our public address, which most tests do not set."""
    return [
        line
        for line in lines
        if line.colour in (R, Y) and not (line.topic == "public url" and "PUBLIC_URL is not set" in line.words)
    ]


@pytest.mark.parametrize("name", PLANTED)
def test_it_finds_what_is_wrong_and_nothing_else(name: str, site: Site) -> None:
    plant, topic, colour, words, remedy = PLANTED[name]
    site.hurry()
    plant(site)

    found = bad(site.examine())

    named = [line for line in found if line.topic == topic and words in line.words]
    assert [(line.topic, line.colour) for line in named] == [(topic, colour)], found
    assert remedy in named[0].remedy
    assert {(line.topic, line.colour) for line in found} == {(topic, colour), *ALSO.get(name, set())}


def test_all_is_well_where_nothing_was_planted(site: Site) -> None:
    assert bad(site.examine()) == []


def test_there_are_enough_faults() -> None:
    assert len(PLANTED) >= 25


# -- what Encharge takes can be told only afterwards ---------------------------------------------------------------

GROWTH = "Encharge Ingest: POST / answered 403: API events are not available on your plan."
WRONG_KEY = "Encharge Ingest: POST / answered 400: Can't find this account."


def test_the_plan_and_the_write_key_are_not_tried(site: Site) -> None:
    (line,) = [line for line in site.examine() if line.topic == "encharge events"]
    assert (line.colour, list(site.town.encharge.ingest.calls)) == (Colour.GREY, [])
    assert "cannot be tried without making one" in line.words


def test_a_plan_without_events_is_named(site: Site) -> None:
    pause(site, "encharge", GROWTH)
    (line,) = [line for line in bad(site.examine()) if line.topic == "encharge events"]
    assert line.colour == R
    assert "set ENCHARGE_EVENTS=tag" in line.remedy


def test_a_wrong_write_key_is_named(site: Site) -> None:
    settle(site, WRONG_KEY, Lane.ENCHARGE)
    (line,) = [line for line in bad(site.examine()) if line.topic == "encharge events"]
    assert line.colour == R
    assert "Check ENCHARGE_WRITE_KEY" in line.remedy


def test_tags_need_no_plan(site: Site) -> None:
    site.env["ENCHARGE_EVENTS"] = "tag"
    (line,) = [line for line in site.examine() if line.topic == "encharge events"]
    assert line.colour == Colour.GREEN


# -- the whole -----------------------------------------------------------------------------------------------------


def test_all_green_beside_a_running_service(site: Site, start_service: Callable[..., Service]) -> None:
    service = start_service(**site.env)
    site.env["PUBLIC_URL"] = service.url
    site.hook(service.url)
    secret = {"X-Webhook-Secret": SECRETS["KOMMO_WEBHOOK_SECRET"]}
    sent = service.post("kommo", stage_hook(ORDER), "application/x-www-form-urlencoded", **secret)
    assert sent.json()["status"] in ("delivered", "accepted")
    eventually(lambda: run_sql(site.env["DATABASE_URL"], "SELECT 1 FROM jobs WHERE state = 'pending'") == [])

    result = site.run("--strict")

    lines = result.output.splitlines()
    assert [line for line in lines[:-2] if not line.startswith("green ")] == []
    assert (result.exit_code, lines[-1]) == (0, f"{len(lines) - 2} green")
    assert f"{service.url} leads to us, and takes our secret" in result.output
    assert "the last one was taken" in result.output
    assert "not in the mapping file, so nothing comes of them: Sales: New, Wholesale: First call" in result.output
    # What it sent to us was let in, and not written down.
    assert run_sql(site.env["DATABASE_URL"], "SELECT count(*) FROM webhooks") == [(1,)]


def test_a_relay_with_another_secret_is_told_from_ours(site: Site, start_service: Callable[..., Service]) -> None:
    service = start_service(**{**site.env, "KOMMO_WEBHOOK_SECRET": "f35e88ab06d1c2974be3f50a6d8f0e6bd24c7a19"})
    at_home(site, service.url)
    (line,) = bad(site.examine())
    assert (line.topic, line.colour) == ("public url", R)
    assert "has another KOMMO_WEBHOOK_SECRET" in line.words


def test_a_program_that_says_ok_is_not_taken_for_us(site: Site) -> None:
    app = Flask("another")
    app.add_url_rule("/healthz", "health", lambda: {"status": "ok"})
    server = Server("127.0.0.1", 0, app)
    site.closing.append(server.stop)
    at_home(site, server.url)
    (line,) = bad(site.examine())
    assert f"at {server.url} something else answers" in line.words


def test_the_exit_code_tells_red_from_yellow(site: Site) -> None:
    site.token(12.5)
    assert (site.run().exit_code, site.run("--strict").exit_code) == (0, 1)
    site.hook(settings=["add_lead"])
    assert site.run().exit_code == 1


def test_one_check_is_one_line_whatever_it_says(site: Site) -> None:
    site.env["DATABASE_URL"] = "postgresql://relay@127.0.0.1:9/relay"
    *lines, empty, _ = site.run().output.splitlines()
    assert empty == ""
    assert [line for line in lines if line.split()[0] not in ("green", "yellow", "red", "?")] == []


def test_json_has_every_line(site: Site) -> None:
    site.town.kommo.switch(admin=False)
    result = site.run("--json")
    told = [json.loads(line) for line in result.output.splitlines()]
    assert result.exit_code == 1
    (red_line,) = [line for line in told if line["colour"] == "red"]
    assert red_line == {
        "topic": "kommo webhook",
        "colour": "red",
        "words": red_line["words"],
        "remedy": "KOMMO_ACCESS_TOKEN must be the token of an administrator.",
    }


def test_nothing_is_set_and_every_check_says_so() -> None:
    lines = make_doctor(settings.survey({"MAPPING_FILE": str(ROOT / "config" / "mapping.yaml")})).examine()
    wanted = {"settings", "mapping file", "journal", "kommo account", "public url", "clock"}
    assert wanted - {line.topic for line in lines} == set()
    assert [line.words for line in lines if line.topic == "settings"][:2] == [
        "KOMMO_SUBDOMAIN is not set",
        "KOMMO_ACCESS_TOKEN is not set",
    ]


def test_it_changes_nothing_and_makes_nothing(site: Site) -> None:
    site.env["DATABASE_URL"] = f"sqlite:///{site.folder}/new/journal.db"
    before = state(site.town)
    site.town.kommo.hooks.by_url.clear()
    before = state(site.town)
    site.examine()
    assert state(site.town) == before
    assert not (site.folder / "new").exists()
    wrote = [
        (call.method, call.path)
        for vendor in site.town.vendors.values()
        for call in vendor.calls
        if call.method != "GET" and call.path not in ("/v1/instance-schema/get", "/v1/fields")
    ]
    assert wrote == []


def state(town: Town) -> dict[str, Any]:
    return {name: json.loads(json.dumps(vendor.state(), default=str)) for name, vendor in town.vendors.items()}


def test_an_older_journal_is_left_as_it_is(site: Site) -> None:
    run_sql(site.env["DATABASE_URL"], "UPDATE alembic_version SET version_num = '0001'")
    (line,) = [line for line in site.examine() if line.topic == "journal"]
    assert line.colour == Colour.GREEN
    assert "has schema 0001: the next start brings it to" in line.words
    assert run_sql(site.env["DATABASE_URL"], "SELECT version_num FROM alembic_version") == [("0001",)]


@pytest.mark.parametrize(
    "name", ["no webhook", "a webhook with another secret", "nobody at our address", "a wrong key of Ortto"]
)
def test_no_secret_is_shown(name: str, site: Site) -> None:
    site.hurry()
    PLANTED[name][0](site)
    shown = site.run().output + site.run("--json").output
    keys = [value for key, value in site.env.items() if key.endswith(("_KEY", "_TOKEN", "_SECRET"))]
    assert [key for key in (*keys, "0123456789abcdef0123") if key in shown] == []


def test_every_vendor_is_looked_at_though_the_others_hang(site: Site) -> None:
    for vendor in (site.town.kommo, site.town.encharge):
        vendor.faults.add(status=500)
    topics = {line.topic: line.colour for line in site.examine()}
    assert (topics["kommo account"], topics["encharge account"], topics["ortto fields"]) == (R, R, Colour.GREEN)


# -- the rounds ----------------------------------------------------------------------------------------------------


def test_a_group_that_hangs_is_left_behind_with_what_it_said() -> None:
    def hangs() -> Iterator[Line]:
        yield green("one", "well")
        time.sleep(5)

    began = time.monotonic()
    lines = Doctor({"slow": hangs, "quick": lambda: [green("two", "well")]}, seconds=0.2).examine()
    assert time.monotonic() - began < 3
    assert [(line.topic, line.colour) for line in lines] == [
        ("one", Colour.GREEN),
        ("slow", R),
        ("two", Colour.GREEN),
    ]


def test_a_fault_of_ours_does_not_stop_the_others() -> None:
    def fails() -> Iterator[Line]:
        yield red("one", "ill", "mend it")
        raise RuntimeError("no")

    lines = Doctor({"first": fails, "second": lambda: [green("two", "well")]}).examine()
    assert [line.words for line in lines] == ["ill", "internal error: RuntimeError: no", "well"]


def test_groups_are_looked_at_side_by_side() -> None:
    def slow() -> Iterator[Line]:
        time.sleep(0.5)
        yield green("slow", "well")

    began = time.monotonic()
    Doctor({str(number): slow for number in range(6)}).examine()
    assert time.monotonic() - began < 2
