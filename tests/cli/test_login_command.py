"""`flask kommo login`, `status`, `logout`: the way in, and a sentence for all that can go wrong on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from click.testing import CliRunner, Result
from letting_in import pass_days
from support import journal_file

from app import make_desk, settings
from app.cli import login as command
from sandbox.kommo.oauth import CLIENT_ID, CLIENT_SECRET, json_web_token
from sandbox.town import Town

Run = Callable[..., Result]


@pytest.fixture
def told(town: Town, env: dict[str, str]) -> dict[str, str]:
    """The settings of somebody who is to log in."""
    town.kommo.switch(rate=0)
    return {**env, **town.oauth_environment()}


@pytest.fixture
def run(told: dict[str, str]) -> Run:
    """Run a command in this process; `answer`: what a person types."""

    def invoke(*arguments: str, answer: str = "") -> Result:
        made = command.make_commands(lambda: make_desk(settings.survey(told)))
        return CliRunner().invoke(made, arguments, input=answer, catch_exceptions=False)

    return invoke


def browse(town: Town, monkeypatch: pytest.MonkeyPatch, change: Callable[[str], str] = lambda where: where) -> None:
    """Have a person open what is printed, in a browser, and paste where it led."""

    def paste(*_: Any, **__: Any) -> str:
        return change(requests.get(printed[-1].strip(), allow_redirects=False, timeout=30).headers["Location"])

    printed: list[str] = []
    echo = command.click.echo

    def hear(message: str = "", **more: Any) -> None:
        printed.extend([message] if message.strip().startswith("http") else [])
        echo(message, **more)

    monkeypatch.setattr(command.click, "echo", hear)
    monkeypatch.setattr(command.click, "prompt", paste)


def test_a_person_logs_in_by_a_browser(
    run: Run, town: Town, told: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    browse(town, monkeypatch)
    done = run("login")
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"    {town.kommo.url}/oauth?client_id={CLIENT_ID}&state=" in done.stdout
    assert done.stdout.endswith(
        "Logged in: the tokens are in the journal.\nExample Bakery (examplebakery) lets us in.\n"
    )
    assert [
        word for pair in town.kommo.oauth.pairs for word in (pair.access, pair.refresh) if word in done.output
    ] == []
    status = run("status")
    assert status.exit_code == 0
    assert [line.split()[0] for line in status.stdout.splitlines()] == ["way", "until", "renewed"]
    assert CLIENT_SECRET not in status.output


@pytest.mark.parametrize("how", ["address", "code"])
def test_a_script_logs_in_with_an_address_or_a_code(run: Run, town: Town, how: str) -> None:
    address = town.kommo.oauth.authorize()
    code = parse_qs(urlsplit(address).query)["code"][0]
    done = run("login", "--code", address if how == "address" else code)
    assert (done.exit_code, done.stderr) == (0, "")


def test_each_login_has_a_state_of_its_own(run: Run, town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    forged = town.kommo.oauth.authorize(state="of-somebody-else")
    browse(town, monkeypatch, lambda _: forged)
    done = run("login")
    assert done.exit_code == 1
    assert "not the answer to this login (its state differs)" in done.stderr
    assert town.kommo.oauth.pairs == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda where: where.replace("examplebakery", "another"), "That is the account another.kommo.com, and the"),
        (lambda where: where.partition("?")[0], "There is no code in that address"),
        (
            lambda where: "https://relay.example.com/?error=access_denied",
            "Kommo says 'access_denied': nobody agreed",
        ),
        (lambda where: "two words", "neither an address nor a code"),
        (lambda where: where.replace("code=def502", "code=abc"), "Cannot decrypt the authorization code"),
    ],
)
def test_what_is_pasted_wrongly_is_told(
    run: Run, town: Town, monkeypatch: pytest.MonkeyPatch, change: Callable[[str], str], sentence: str
) -> None:
    browse(town, monkeypatch, change)
    done = run("login")
    assert done.exit_code == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.output


def test_a_code_that_is_used_or_late_is_told(run: Run, town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    used, late = town.kommo.oauth.authorize(), town.kommo.oauth.authorize()
    assert run("login", "--code", used).exit_code == 0
    assert (
        "Authorization code has been revoked.\nRun `flask kommo login` again" in run("login", "--code", used).stderr
    )
    straight = town.kommo.clock
    monkeypatch.setattr(town.kommo, "clock", lambda: straight() + 20 * 60)
    assert "Authorization code has expired.\nRun `flask kommo login` again" in run("login", "--code", late).stderr


@pytest.mark.parametrize("name", ["KOMMO_CLIENT_ID", "KOMMO_CLIENT_SECRET", "KOMMO_REDIRECT_URI"])
def test_another_integration_is_told(run: Run, town: Town, told: dict[str, str], name: str) -> None:
    told[name] = f"{told[name]}x"
    done = run("login", "--code", town.kommo.oauth.authorize())
    assert done.exit_code == 1
    assert (
        "KOMMO_CLIENT_ID, KOMMO_CLIENT_SECRET or KOMMO_REDIRECT_URI is not that of the integration" in done.stderr
    )
    assert told["KOMMO_CLIENT_SECRET"] not in done.output


def test_without_a_journal_no_code_is_used_up(run: Run, town: Town, told: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told["DATABASE_URL"] = f"sqlite:///{tmp_path / 'file' / 'journal.db'}"
    done = run("login", "--code", town.kommo.oauth.authorize())
    assert done.exit_code == 1
    assert "The tokens could not be kept: DATABASE_URL: the folder of" in done.stderr
    assert town.kommo.oauth.pairs == []


def test_with_a_long_lived_token_there_is_nothing_to_log_in_to(run: Run, told: dict[str, str]) -> None:
    for name in ("KOMMO_CLIENT_ID", "KOMMO_CLIENT_SECRET", "KOMMO_REDIRECT_URI"):
        told[name] = ""
    told["KOMMO_ACCESS_TOKEN"] = json_web_token({"exp": 4_000_000_000})
    assert "There is nothing to log in with: set KOMMO_CLIENT_ID" in run("login").stderr
    status = run("status")
    assert (status.exit_code, status.stdout) == (0, "way      long-lived token\nuntil    2096-10-02 07:06:40 UTC\n")
    told["KOMMO_ACCESS_TOKEN"] = json_web_token({"exp": 1_000_000_000})
    assert "the long-lived token expired on 2001-09-09: make a new" in run("status").stderr
    told["KOMMO_ACCESS_TOKEN"] = "does-not-say"
    assert run("status").stdout == "way      long-lived token\nuntil    unknown\n"


def test_settings_that_are_wrong_are_told(run: Run, told: dict[str, str]) -> None:
    told["KOMMO_CLIENT_SECRET"] = ""
    for arguments in (["login"], ["status"], ["logout", "--yes"]):
        done = run(*arguments)
        assert (done.exit_code, done.stdout) == (1, "")
        assert "KOMMO_CLIENT_SECRET is not set, but KOMMO_CLIENT_ID is" in done.stderr


def test_status_makes_no_journal_and_says_that_nobody_has_logged_in(run: Run, told: dict[str, str]) -> None:
    done = run("status")
    assert done.exit_code == 1
    assert done.stderr == "Error: nobody has logged in: run `flask kommo login`.\n"
    assert run("logout", "--yes").stdout == "Nobody was logged in.\n"
    assert not journal_file(told).exists()


def test_status_says_why_kommo_refuses(run: Run, town: Town, told: dict[str, str]) -> None:
    run("login", "--code", town.kommo.oauth.authorize())
    pass_days(town, told["DATABASE_URL"], 61)
    assert "mind     the login to Kommo expires on" in run("status").stdout
    pass_days(town, told["DATABASE_URL"], 30)
    assert "the login to Kommo expired on" in run("status").stderr


def test_who_logs_out_leaves_no_token(run: Run, town: Town, told: dict[str, str]) -> None:
    run("login", "--code", town.kommo.oauth.authorize())
    assert run("logout", answer="n\n").exit_code == 1
    assert run("logout", answer="y\n").stdout.endswith("Logged out: the tokens are wiped from the journal.\n")
    assert "nobody has logged in" in run("status").stderr


def test_the_address_of_consent_is_kommos_own(told: dict[str, str]) -> None:
    told["KOMMO_API_URL"] = ""
    access = make_desk(settings.survey(told)).access
    assert isinstance(access, command.OAuthAccess)
    address = access.kommo.consent_address("s t")
    assert address == f"https://www.kommo.com/oauth?client_id={CLIENT_ID}&state=s+t&mode=popup"
