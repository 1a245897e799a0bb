"""`flask setup` as a process, against the sandbox: plan, making, reading back, faults, what is left to people."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nursery
import pytest
from support import ROOT
from test_command_line import APP
from test_docs import filled

from app import guardian, settings
from app.clients.kommo import KommoClient
from app.events import EmailActivity, Kind, Source, Webhook
from app.webhooks import encharge, ortto
from sandbox.kommo.fields import Field
from sandbox.ortto import schema
from sandbox.town import Town

URL = "https://relay.example.com"
SECRETS = {
    f"{vendor}_WEBHOOK_SECRET": f"{vendor.lower()}-secret-0123456789" for vendor in ("KOMMO", "ENCHARGE", "ORTTO")
}
ENCHARGES = ["kommo_lead_id", "kommo_current_stage", "kommo_last_event", "jobTitle", "companySize", "industry"]
ORTTOS = [
    "str:cm:kommo-lead-id",
    "str:cm:kommo-stage",
    "str:cm:job-title",
    "int:cm:company-size",
    "str:cm:industry",
]
MOVED = "act:cm:crm-stage-changed"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def new(town: Town) -> Town:
    """A town in whose accounts nothing is set up yet."""
    town.forget_relay()
    return town


@pytest.fixture
def run(town: Town, tmp_path: Path) -> Run:
    """Run the command in a folder of its own, with the town's keys, secrets, and a public address.

    Neither Kommo nor the command keeps a limit, unless a test says so.
    """
    (tmp_path / "cwd").mkdir()
    town.kommo.switch(rate=0)

    def started(*options: str, answer: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        given = {
            "MAPPING_FILE": str(ROOT / "config" / "mapping.yaml"),
            "PUBLIC_URL": URL,
            "KOMMO_RATE_LIMIT": "50",
            **town.environment(),
            **SECRETS,
            **variables,
        }
        return nursery.run(
            [sys.executable, "-m", "flask", "setup", *options],
            cwd=tmp_path / "cwd",
            env={"PYTHONPATH": str(ROOT), "FLASK_APP": APP, **{name: one for name, one in given.items() if one}},
            answer=answer,
        )

    return started


@pytest.fixture
def dotenv(tmp_path: Path, run: Run) -> Path:
    return tmp_path / "cwd" / ".env"


def rows(done: subprocess.CompletedProcess[str], mark: str) -> list[str]:
    """Return the lines of the plan, or of the deeds, with a mark."""
    return re.findall(rf"^  {mark} +(.+)$", done.stdout, re.MULTILINE)


def kommo_fields(town: Town) -> dict[str, int]:
    return {field.name: number for number, field in town.kommo.account.fields["leads"].by_id.items()}


def ortto_fields(town: Town) -> list[str]:
    return [*town.ortto._account.schema.custom, *town.ortto._account.schema.definitions]


def encharge_fields(town: Town) -> list[str]:
    return [name for name in town.encharge.people.fields if name in ENCHARGES]


def writes(town: Town) -> int:
    """Return how many calls changed something; Ortto reads by POST too."""
    reads = town.ortto.count("POST", "/v1/instance-schema/get")
    return sum(vendor.count("POST") + vendor.count("DELETE") for vendor in town.vendors.values()) - reads


class TestMaking:
    def test_all_is_made_and_the_second_time_nothing(self, run: Run, new: Town, dotenv: Path) -> None:
        new.kommo.switch(rate=7)
        done = run("--yes", "--write-env", KOMMO_RATE_LIMIT="")

        assert (done.returncode, done.stderr, rows(done, "wrong"), rows(done, "FAILED")) == (0, "", [], [])
        assert new.kommo.count(status=429) == 0
        assert rows(done, "done") == [*rows(done, "to do"), "set KOMMO_CF_EMAIL_ACTIVITY, KOMMO_CF_EMAIL_STATUS"]
        made = kommo_fields(new)
        (hook,) = new.kommo.hooks.by_url.values()
        assert hook.url == f"{URL}/webhooks/kommo/{SECRETS['KOMMO_WEBHOOK_SECRET']}"
        assert sorted(hook.settings) == ["add_lead", "status_lead"]
        assert encharge_fields(new) == ENCHARGES
        assert ortto_fields(new) == [*ORTTOS, MOVED]
        attributes = new.ortto._account.schema.definitions[MOVED]["attributes"]
        assert [(one["field_id"], one["display_type"]) for one in attributes] == [
            ("str:cm:lead-id", "text"),
            ("str:cm:stage", "text"),
            ("int:cm:deal-value", "currency"),
        ]
        assert dotenv.read_text() == (
            f"KOMMO_CF_EMAIL_ACTIVITY={made['Last email activity']}\nKOMMO_CF_EMAIL_STATUS={made['Email status']}\n"
        )

        before, written = writes(new), dotenv.read_bytes()
        again = run("--yes", "--write-env")
        assert (again.returncode, again.stderr) == (0, "")
        assert "\nNothing to do.\n" in again.stdout
        assert (rows(again, "to do"), writes(new), dotenv.read_bytes()) == ([], before, written)

    def test_a_newcomer_needs_only_the_keys(
        self, run: Run, new: Town, dotenv: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nothing = dict.fromkeys(SECRETS, "")
        dotenv.write_text("# mine\nKOMMO_WEBHOOK_SECRET=   # made by setup\nLOG_FORMAT=console\n")

        done = run("--yes", "--write-env", **nothing)

        assert (done.returncode, done.stderr) == (0, "")
        lines = dotenv.read_text().splitlines()
        assert lines[0] == "# mine"
        assert re.fullmatch(r"KOMMO_WEBHOOK_SECRET=[0-9a-f]{48}   # made by setup", lines[1])
        assert lines[2] == "LOG_FORMAT=console"
        made = {name: value for name, _, value in (line.split(" ")[0].partition("=") for line in lines[1:])}
        assert done.stdout.count(made["KOMMO_WEBHOOK_SECRET"]) == 0
        monkeypatch.chdir(dotenv.parent)
        for name, value in {**new.environment(), "PUBLIC_URL": URL}.items():
            monkeypatch.setenv(name, value)
        told = settings.load()  # the service would start with it
        hooks = KommoClient(told.kommo_api_url, told.kommo_access_token).webhooks()
        assert guardian.remedy(hooks, told.kommo_webhook_secrets, URL) is None
        assert told.mapping_variables == {
            "KOMMO_CF_EMAIL_ACTIVITY": kommo_fields(new)["Last email activity"],
            "KOMMO_CF_EMAIL_STATUS": kommo_fields(new)["Email status"],
        }
        # The same again: no new secret, no second webhook.
        again = run("--yes", "--write-env", **nothing)
        assert "\nNothing to do.\n" in again.stdout
        assert dotenv.read_text().splitlines() == lines

    def test_nothing_is_made_unless_one_agrees(self, run: Run, new: Town, dotenv: Path) -> None:
        dry = run("--dry-run", "--write-env")
        assert (dry.returncode, dry.stderr) == (0, "")
        assert rows(dry, "to do") == [
            "make deal field 'Last email activity', type text",
            "make deal field 'Email status', type text",
            f"make webhook {URL}/webhooks/kommo/<KOMMO_WEBHOOK_SECRET>, for status_lead, add_lead",
            *(f"make person field {name}, type string" for name in ENCHARGES),
            *(f"make person field {name}, type {kind}" for name, kind in zip(
                ORTTOS, ["text", "text", "text", "integer", "text"], strict=True
            )),
            f"make activity {MOVED}",
        ]  # fmt: skip
        assert "\nNothing was made.\n" in dry.stdout
        refused = run("--write-env", answer="n\n")
        assert (refused.returncode, "Do this? [y/N]" in refused.stdout) == (1, True)
        assert (writes(new), dotenv.exists()) == (0, False)

    def test_ids_are_printed_where_the_file_is_not_to_be_touched(self, run: Run, new: Town, dotenv: Path) -> None:
        done = run(answer="y\n")
        made = kommo_fields(new)
        assert done.returncode == 0
        assert f"KOMMO_CF_EMAIL_ACTIVITY={made['Last email activity']}\n" in done.stdout
        assert f"KOMMO_CF_EMAIL_STATUS={made['Email status']}\n" in done.stdout
        assert not dotenv.exists()

    def test_a_field_that_is_there_by_its_name_is_taken(self, run: Run, town: Town, dotenv: Path) -> None:
        done = run("--yes", "--write-env", KOMMO_CF_EMAIL_STATUS="5")
        assert "set KOMMO_CF_EMAIL_STATUS=800111" in rows(done, "to do")
        assert "KOMMO_CF_EMAIL_STATUS=800111\n" in dotenv.read_text()
        assert town.kommo.count("POST", "/api/v4/leads/custom_fields") == 0

    def test_an_id_that_is_only_to_be_set_is_printed(self, run: Run, town: Town) -> None:
        assert run("--yes").returncode == 0
        done = run("--yes", KOMMO_CF_EMAIL_STATUS="800111")
        assert done.returncode == 0
        assert "\nPut this into .env (--write-env does it):\nKOMMO_CF_EMAIL_ACTIVITY=800110\n" in done.stdout
        assert "Nothing to do" not in done.stdout

    def test_a_webhook_is_switched_on_and_completed(self, run: Run, town: Town) -> None:
        assert run("--yes").returncode == 0
        (hook,) = town.kommo.hooks.by_url.values()
        hook.disabled = True
        assert any(row.startswith("switch on webhook") for row in rows(run("--dry-run"), "to do"))
        assert run("--yes").returncode == 0
        assert not next(iter(town.kommo.hooks.by_url.values())).disabled
        next(iter(town.kommo.hooks.by_url.values())).settings = ["add_lead", "update_lead"]
        assert any(row.startswith("complete webhook") for row in rows(run("--yes"), "done"))
        (hook,) = town.kommo.hooks.by_url.values()
        assert sorted(hook.settings) == ["add_lead", "status_lead", "update_lead"]

    def test_a_vendor_that_is_off_is_left_alone(self, run: Run, new: Town) -> None:
        done = run(
            "--yes", ENCHARGE_API_KEY="", ENCHARGE_WRITE_KEY="", ENCHARGE_WEBHOOK_SECRET="", ORTTO_API_KEY=""
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "Encharge is off: ENCHARGE_API_KEY is not set." in done.stdout
        assert (new.encharge.count(), new.ortto.count(), "For you to do" in done.stdout) == (0, 0, False)


class TestTrouble:
    def test_one_vendor_down_does_not_stop_the_others(self, run: Run, new: Town) -> None:
        new.encharge.faults.add(drop=True)
        done = run("--yes")
        assert done.returncode == 1
        assert any("Encharge: no answer to GET /fields" in row for row in rows(done, "wrong"))
        assert (len(new.kommo.hooks.by_url), ortto_fields(new)) == (1, [*ORTTOS, MOVED])
        new.encharge.faults.clear()
        assert run("--yes", **{f"KOMMO_CF_{name}": str(number) for name, number in zip(
            ("EMAIL_ACTIVITY", "EMAIL_STATUS"), list(kommo_fields(new).values())[-2:], strict=True
        )}).returncode == 0  # fmt: skip
        assert encharge_fields(new) == ENCHARGES

    def test_one_that_fails_in_the_middle_is_left_and_finished_the_next_time(self, run: Run, new: Town) -> None:
        new.ortto.faults.add(path="/v1/person/custom-field/create", status=503, times=1)
        done = run("--yes")
        assert done.returncode == 1
        assert any("answered 503" in row for row in rows(done, "FAILED"))
        assert any(row.startswith("5 more: not tried after that") for row in rows(done, "FAILED"))
        assert (ortto_fields(new), encharge_fields(new)) == ([], ENCHARGES)
        assert run("--yes").returncode == 0
        assert ortto_fields(new) == [*ORTTOS, MOVED]

    def test_lacking_rights_are_named(self, run: Run, new: Town) -> None:
        new.kommo.switch(admin=False)
        done = run("--yes")
        assert done.returncode == 1
        said = [*rows(done, "wrong"), *rows(done, "FAILED")]
        assert any("GET /webhooks answered 403" in row and "of an administrator" in row for row in said)
        assert any("make deal field 'Last email activity'" in row and "administrator" in row for row in said)
        assert ortto_fields(new) == [*ORTTOS, MOVED]

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("KOMMO_ACCESS_TOKEN", "check KOMMO_ACCESS_TOKEN"),
            ("ENCHARGE_API_KEY", "check ENCHARGE_API_KEY"),
            ("ORTTO_API_KEY", "check ORTTO_API_KEY, and ORTTO_REGION"),
        ],
    )
    def test_a_wrong_key_is_named(self, run: Run, town: Town, name: str, words: str) -> None:
        done = run("--dry-run", **{name: "not.a.key"})
        assert done.returncode == 1
        assert any(words in row for row in rows(done, "wrong"))

    @pytest.mark.parametrize("status", [400, 423])
    def test_what_was_archived_at_ortto(self, run: Run, new: Town, status: int) -> None:
        assert run("--yes").returncode == 0
        new.ortto._account.schema.archive_definition({"activity_field_id": MOVED})
        done = run("--yes")
        assert done.returncode == 1
        (row,) = rows(done, "FAILED")
        assert row.startswith(f"make activity {MOVED}: ")
        assert "it is archived, or another kind of thing. Restore it in Ortto" in row

    def test_a_wrong_type_is_told_with_what_to_do(self, run: Run, town: Town) -> None:
        fields = town.kommo.account.fields["leads"]
        fields.by_id[800_111] = Field(800_111, "Email status", "date")
        town.encharge.people.fields["kommo_lead_id"] = {
            **town.encharge.people.fields["email"], "name": "kommo_lead_id", "type": "number"
        }  # fmt: skip
        town.ortto._account.schema.custom["int:cm:company-size"].display_type = "decimal"
        for attribute in town.ortto._account.schema.definitions[MOVED]["attributes"]:
            if attribute["name"] == "deal-value":
                attribute["display_type"] = "integer"
        done = run("--yes")
        assert done.returncode == 1
        wrong = "\n".join(rows(done, "wrong"))
        assert "deal field 'Email status' is of type date and must be text or textarea" in wrong
        assert "person field kommo_lead_id is of type number and must be string or any" in wrong
        assert "person field int:cm:company-size is of type decimal and must be integer" in wrong
        assert f"attribute int:cm:deal-value of {MOVED} is of type integer and must be currency or decimal" in wrong

    def test_an_id_that_is_not_ours_is_told_after_making(
        self, run: Run, new: Town, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = {"Kommo stage": "kommo-stage-2", "Job title": "job_title", "deal-value": "deal-value-1"}
        monkeypatch.setattr(schema, "slug", lambda name, slug=schema.slug: other.get(name) or slug(name))
        done = run("--yes")
        assert done.returncode == 1
        failed = "\n".join(rows(done, "FAILED"))
        assert "as str:cm:kommo-stage-2, and we write str:cm:kommo-stage. Delete it" in failed
        assert "as str:cm:job_title, and we write str:cm:job-title. Write str:cm:job_title into" in failed
        assert "as int:cm:deal-value-1, and we write int:cm:deal-value." in failed

    def test_without_a_public_address_the_webhook_is_left_to_people(self, run: Run, new: Town) -> None:
        done = run("--yes", PUBLIC_URL="")
        assert done.returncode == 1
        assert any("or set PUBLIC_URL and run this again" in row for row in rows(done, "wrong"))
        assert "https://<PUBLIC_URL>/webhooks/ortto" in done.stdout
        assert new.kommo.hooks.by_url == {}
        new.kommo.hook(f"https://other.example/webhooks/kommo/{SECRETS['KOMMO_WEBHOOK_SECRET']}")
        assert "webhook" in rows(run("--dry-run", PUBLIC_URL=""), "there")

    def test_missing_secrets_are_named_where_none_may_be_written(self, run: Run, new: Town) -> None:
        done = run("--dry-run", **dict.fromkeys(SECRETS, ""))
        assert done.returncode == 1
        wrong = "\n".join(rows(done, "wrong"))
        for name in SECRETS:
            assert f"{name} is not set: --write-env makes one" in wrong

    def test_a_bad_secret_is_never_sent_nor_replaced(self, run: Run, new: Town, dotenv: Path) -> None:
        done = run("--yes", "--write-env", KOMMO_WEBHOOK_SECRET="short")
        assert done.returncode == 1
        assert any("KOMMO_WEBHOOK_SECRET is shorter than 16" in row for row in rows(done, "wrong"))
        assert new.kommo.hooks.by_url == {}
        assert "KOMMO_WEBHOOK_SECRET" not in dotenv.read_text()

    def test_a_secret_in_a_file_that_cannot_be_read_is_not_made_anew(
        self, run: Run, new: Town, dotenv: Path
    ) -> None:
        done = run("--yes", "--write-env", KOMMO_WEBHOOK_SECRET="", KOMMO_WEBHOOK_SECRET_FILE="/nowhere/secret")
        assert done.returncode == 1
        assert any("KOMMO_WEBHOOK_SECRET_FILE names /nowhere/secret" in row for row in rows(done, "wrong"))
        assert new.kommo.hooks.by_url == {}
        assert "KOMMO_WEBHOOK_SECRET" not in dotenv.read_text()

    def test_a_bad_public_address_leaves_the_webhook_to_people(self, run: Run, new: Town) -> None:
        done = run("--yes", PUBLIC_URL="relay.example.com")
        assert done.returncode == 1
        assert any("PUBLIC_URL must be a plain http:// or https:// address" in row for row in rows(done, "wrong"))
        assert new.kommo.hooks.by_url == {}

    def test_a_broken_mapping_file_is_named_and_the_rest_is_made(self, run: Run, new: Town, tmp_path: Path) -> None:
        path = tmp_path / "mapping.yaml"
        path.write_text("version: 2\n")
        done = run("--yes", MAPPING_FILE=str(path))
        assert done.returncode == 1
        assert f"{path} line 1: version must be 1: this is the only version there is." in rows(done, "wrong")
        assert (encharge_fields(new), ortto_fields(new)) == (ENCHARGES[:3], [*ORTTOS[:2], MOVED])

    def test_a_broken_dotenv_stops_it(self, run: Run, new: Town, dotenv: Path) -> None:
        dotenv.write_text("A=1\nB='open\n")
        done = run("--yes", "--write-env")
        assert done.returncode == 1
        assert ".env line 2 cannot be understood" in done.stderr
        assert (writes(new), dotenv.read_text()) == (0, "A=1\nB='open\n")

    def test_a_dotenv_that_cannot_be_written_is_told_before_anything_is_made_with_a_new_secret(
        self, run: Run, new: Town, dotenv: Path
    ) -> None:
        dotenv.write_text("# mine\n")
        dotenv.chmod(0o444)
        done = run("--yes", "--write-env", KOMMO_WEBHOOK_SECRET="")
        assert done.returncode == 1
        assert ".env was not changed: .env cannot be written (it is read-only)." in done.stderr
        assert (writes(new), dotenv.read_text()) == (0, "# mine\n")


class TestHandingOver:
    def test_secrets_are_shown_only_if_asked_for(self, run: Run, town: Town) -> None:
        hidden, shown = run("--dry-run"), run("--dry-run", "--show-secrets")
        for name, secret in SECRETS.items():
            assert secret not in hidden.stdout + hidden.stderr
            assert (f"<{name}>" in hidden.stdout, secret in shown.stdout) == (True, True)
        for name in ("KOMMO_ACCESS_TOKEN", "ENCHARGE_API_KEY", "ENCHARGE_WRITE_KEY", "ORTTO_API_KEY"):
            assert town.environment()[name] not in shown.stdout + shown.stderr

    def test_a_secret_that_is_not_written_down_is_not_shown(self, run: Run, new: Town, dotenv: Path) -> None:
        dry = run("--dry-run", "--write-env", "--show-secrets", ORTTO_WEBHOOK_SECRET="")
        assert "X-Webhook-Secret: <ORTTO_WEBHOOK_SECRET>" in dry.stdout
        assert SECRETS["ENCHARGE_WEBHOOK_SECRET"] in dry.stdout
        done = run("--yes", "--write-env", "--show-secrets", ORTTO_WEBHOOK_SECRET="")
        (secret,) = re.findall(r"X-Webhook-Secret: ([0-9a-f]{48})\n", done.stdout)
        assert f"ORTTO_WEBHOOK_SECRET={secret}\n" in dotenv.read_text()

    def test_what_is_to_be_pasted_is_understood_when_it_comes(self, run: Run, town: Town) -> None:
        done = run("--dry-run", "--show-secrets")
        first, second = (
            json.loads(block)
            for block in re.findall(r"^ {6}(\{\n.*?\n {6}\})$", done.stdout, re.MULTILINE | re.DOTALL)
        )
        for source, reader, body, kind in (
            (Source.ENCHARGE, encharge.read, first, Kind.EMAIL_OPENED),
            (Source.ORTTO, ortto.read, second, Kind.EMAIL_CLICKED),
        ):
            (event,) = reader(Webhook(source, "application/json", filled(json.dumps(body))), now=0).events
            assert isinstance(event.data, EmailActivity)
            assert (event.kind, event.data.lead_id, event.data.email) == (kind, 41500011, "nora@example.test")
        for name, line in (
            ("ENCHARGE", f"      {URL}/webhooks/encharge?secret={SECRETS['ENCHARGE_WEBHOOK_SECRET']}\n"),
            ("ORTTO", f"      {URL}/webhooks/ortto\n"),
            ("ORTTO", f"      X-Webhook-Secret: {SECRETS['ORTTO_WEBHOOK_SECRET']}\n"),
        ):
            assert line in done.stdout, name
