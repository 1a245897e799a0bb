"""`flask backfill`: in this process for what it says, as a process of its own for how it is stopped."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from click.testing import Result
from flask import Flask
from flask.testing import FlaskCliRunner
from support import QUALIFIED, ROOT, arrived, eventually

from app.cli.backfill import progress_words
from sandbox.town import Town
from sandbox.vendor import Fault

BACKFILL = (sys.executable, "-m", "flask", "backfill")
LONG_AGO = 1_700_000_000
SEEDED = 10  # deals in the town that are not deleted; 6 of them are in a mapped stage

Run = Callable[..., Result]


@pytest.fixture
def run(app: Flask) -> Run:
    runner: FlaskCliRunner = app.test_cli_runner()
    return lambda *options, **more: runner.invoke(args=["backfill", *options], **more)


@contextmanager
def started(env: dict[str, str], *options: str, errors: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """Run the command; FLASK_APP comes from .flaskenv."""
    process = subprocess.Popen(
        [*BACKFILL, *options],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **env},
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    try:
        with process:
            yield process
    finally:
        process.kill()


def add_old_deals(town: Town, count: int) -> set[str]:
    """Add deals that were last changed at different times; return the emails of their persons."""
    clock = town.kommo.clock
    emails = [f"p{number}@old.example" for number in range(count)]
    try:
        for number, email in enumerate(emails):
            town.kommo.clock = lambda at=LONG_AGO + number // 3: at  # type: ignore[misc]
            contact = town.kommo.add_contact(f"Person {number}", [email])
            town.kommo.add_deal(f"Deal {number}", QUALIFIED, contact_ids=[contact])
    finally:
        town.kommo.clock = clock
    return set(emails)


def in_ortto(town: Town) -> set[str]:
    return {person["fields"]["str::email"] for person in town.ortto.state()["people"]}


def in_encharge(town: Town) -> set[str]:
    return {person["email"] for person in town.encharge.state()["people"]}


# -- as a process of its own ---------------------------------------------------------------------------------------


def test_after_a_kill_the_same_command_goes_on_and_no_deal_is_missing(town: Town, env: dict[str, str]) -> None:
    emails = add_old_deals(town, 2_000)
    town.ortto.faults.add(seconds=0.3)  # so that it is not done before it is killed
    with started(env) as process:
        eventually(lambda: len(in_ortto(town)) > 600)
        process.kill()
        process.wait()
    before = len(in_ortto(town))
    assert before < 2_000
    town.ortto.faults.clear()
    calls = town.ortto.count()

    with started(env, "--json") as process:
        out, errors = process.communicate(timeout=60)

    assert process.returncode == 0, errors
    assert in_ortto(town) >= emails
    assert in_encharge(town) >= emails
    result = json.loads(out)
    assert (result["status"], result["deals"]) == ("done", 2_000 + SEEDED)
    assert result["written"] == {"encharge": 2_006, "ortto": 2_006}
    resumed = re.match(r"Going on after ([\d,]+) deals of the run begun ", errors)
    assert resumed
    assert 0 < int(resumed[1].replace(",", "")) <= before
    assert town.ortto.count() - calls <= (2_006 - before) / 100 + 10
    assert town.kommo.count() <= 0.02 * 2_000
    assert town.kommo.count(status=429) == 0


def test_ctrl_c_leaves_a_state_that_can_be_resumed_and_says_so(town: Town, env: dict[str, str]) -> None:
    emails = add_old_deals(town, 300)
    town.ortto.faults.add(status=503)
    with started(env) as process:
        assert process.stderr
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "Waiting: Ortto: POST /person/merge answered 503" in line:
                process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert lines[-1] == "Stopped. The same command goes on from here.\n"
    town.ortto.faults.clear()

    with started(env) as process:
        out, _ = process.communicate(timeout=60)

    assert process.returncode == 0
    assert in_ortto(town) >= emails
    assert "Ortto: 306 persons written" in out


def test_on_a_terminal_there_is_a_bar(town: Town, env: dict[str, str]) -> None:
    add_old_deals(town, 300)
    ours, theirs = pty.openpty()
    with started(env, "--dry-run", errors=theirs) as process:
        os.close(theirs)
        process.communicate(timeout=60)
    shown = os.read(ours, 65_536).decode()
    os.close(ours)

    assert process.returncode == 0
    assert "[" + " " * 30 + "] 0 % · 0 of 310 deals" in shown
    assert "\r[########################      ] 80 % · 250 of 310 deals" in shown
    assert "[" + "#" * 30 + "] 310 deals in 0:0" in shown


# -- what it says --------------------------------------------------------------------------------------------------


def test_it_says_what_was_written_where_and_what_was_skipped(town: Town, run: Run) -> None:
    result = run()

    assert (result.exit_code, result.stdout.splitlines()) == (
        0,
        [
            "Encharge: 6 persons written",
            "Ortto: 6 persons written",
            "skipped: 3 deals: stage 61000101 of pipeline 7100010 is not in the mapping",
            "skipped: 1 deals: won or lost",
        ],
    )
    assert result.stderr.splitlines()[0] == "0 % · 0 of 10 deals"
    assert result.stderr.splitlines()[-1].startswith("10 deals in 0:0")
    assert len(in_ortto(town)) == len(in_encharge(town)) == 6


def test_a_dry_run_shows_the_first_persons_and_writes_nothing(town: Town, run: Run) -> None:
    result = run("--dry-run", "--stage", "qualified")

    assert result.exit_code == 0
    said = result.stdout.splitlines()
    assert said[:2] == ["Encharge: 4 persons would be written", "Ortto: 4 persons would be written"]
    assert "The first 8:" in said
    (zoe,) = [line for line in said if line.startswith("ortto") and "zoe@" in line]
    assert zoe.split(maxsplit=4) == [
        "ortto",
        "41500011",
        "Qualification",
        "zoe@example.com",
        "Zoë Example str:cm:job-title=Owner int:cm:company-size=12 str:cm:industry=Food",
    ]
    assert arrived(town) == {}


def test_refused_persons_are_listed_and_the_exit_code_says_so(town: Town, env: dict[str, str], run: Run) -> None:
    # Ortto has the field no more: whoever has a position is refused, the others are not.
    with town.ortto.lock:
        del town.ortto._account.schema.custom["str:cm:job-title"]

    result = run()

    assert result.exit_code == 1
    assert "Ortto: 5 persons written" in result.stdout
    assert result.stdout.splitlines()[-2:] == [
        "Refused: 1. Mend these in Kommo and run it again:",
        "  zoe@example.com (deal 41500011): failed to validate field str:cm:job-title in schema: "
        "str:cm:job-title: Object not found",
    ]


def test_a_wrong_token_is_told_with_kommos_words(town: Town, run: Run) -> None:
    town.kommo.faults.add(status=401)

    result = run("--json")

    assert result.exit_code == 1
    assert json.loads(result.stdout)["status"] == "stopped"
    assert "Kommo: GET /leads answered 401" in result.stderr
    assert result.stderr.splitlines()[-1] == "Stopped. The same command goes on from here."


def test_events_are_asked_for_first(run: Run) -> None:
    result = run("--events", input="n\n")
    assert (result.exit_code, "may start email sequences" in result.stderr) == (1, True)

    result = run("--events", "--yes")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "6 events recorded"

    result = run("--events", "--yes", "--json")
    assert json.loads(result.stdout)["written"] == {}


def test_relative_times_are_one_order_when_they_are_said_again(
    town: Town, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_old_deals(town, 300)
    calls = itertools.count()  # at Encharge, three a page
    monkeypatch.setattr(
        town.encharge.faults, "take", lambda method, path: Fault(status=401) if next(calls) == 3 else None
    )
    monkeypatch.setattr(town.encharge.faults, "any", lambda: True)
    assert run("--since", "9999d").exit_code == 1
    now = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: now)

    assert "Going on after 250 deals" in run("--since", "9999d").stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--stage", "sold"], "'sold' is not one of 'qualified', 'proposal_sent', 'negotiation', 'won', 'lost'"),
        (["--pipeline", "sales"], "'sales' is not a valid integer"),
        (["--since", "soon"], "'soon' is neither like 30m, 6h or 2d (ago) nor an ISO date"),
    ],
)
def test_a_wrong_option_is_named(run: Run, options: list[str], words: str) -> None:
    result = run(*options)

    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


def test_the_help_has_examples(run: Run) -> None:
    text = run("--help").stdout

    assert "flask backfill --pipeline 7100010 --stage qualified --since 90d" in text
    assert "flask backfill --dry-run\n" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((0, 20_000, 0, 0.0), "0 % · 0 of 20,000 deals"),
        ((5_000, 20_000, 5_000, 10.0), "25 % · 5,000 of 20,000 deals · 500/s · 0:30 left"),
        ((5_000, 20_000, 1_000, 1000.0), "25 % · 5,000 of 20,000 deals · 1/s · 4:10:00 left"),
        ((20_000, 20_000, 20_000, 61.0), "20,000 deals in 1:01"),
    ],
)
def test_progress_tells_share_rate_and_time_left(words: tuple[int, int, int, float], expected: str) -> None:
    assert progress_words(*words) == expected
