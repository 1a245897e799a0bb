"""What is fuzzed holds: on every input that is kept, on new ones for a minute, and it is seen when it does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from app.events import EmailActivity, Event, Ignored, Kind, Reading, Repeat, Source
from app.webhooks.bodies import BodyError
from fuzz import engines, forms, grown, mapping, plans, texts, values, webhooks
from fuzz.targets import TARGETS, Target

ROOT = Path(__file__).parent.parent
SECONDS = 60  # of fuzzing in all
MOST_KEPT = 600
LARGEST_KEPT = 2048

# -- what is kept --


@pytest.mark.parametrize("name", TARGETS)
def test_every_kept_input_holds(name: str) -> None:
    for path, data in TARGETS[name].inputs().items():
        try:
            TARGETS[name].check(data)
        except Exception as error:
            raise AssertionError(f"{path} breaks {name}") from error


def test_every_target_keeps_inputs_and_all_of_them_are_few_and_small() -> None:
    kept = [path for target in TARGETS.values() for path in target.folders[0].iterdir()]
    assert {path.parent.name for path in kept} == set(TARGETS)
    assert len(kept) <= MOST_KEPT
    assert [path for path in kept if path.stat().st_size > LARGEST_KEPT] == []


@pytest.mark.parametrize("recipe", sorted(TARGETS["grown"].folders[0].iterdir()), ids=lambda path: path.name)
def test_the_largest_body_costs_no_more_than_the_limits(recipe: Path) -> None:
    grown.grow_and_read(recipe.read_bytes(), grown.LARGEST)


# -- new ones --


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_new_breaks_it_either(name: str) -> None:
    seconds = round(SECONDS / len(TARGETS))
    command = [sys.executable, "-m", "fuzz", "--target", name, "--seconds", str(seconds)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_a_command_without_an_end_is_refused() -> None:
    done = subprocess.run([sys.executable, "-m", "fuzz"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "Say when to end" in done.stderr) == (2, True)


# -- what is broken is seen --


def fragile(data: bytes) -> None:
    assert b"status_id" not in data


FRAGILE = Target("fragile", "breaks at a word", fragile, lambda: (b"status_id",))
GUIDED = """
import sys
sys.path.insert(0, "tests")
import fuzz.guided
from test_fuzz import FRAGILE
fuzz.guided.TARGETS = {"fragile": FRAGILE}
folder = sys.argv[1]
sys.argv[1:] = ["fragile", "-runs=100000", "-seed=1", f"-dict={folder}/words", f"-artifact_prefix={folder}/"]
fuzz.guided.main()
"""


def test_hypothesis_finds_what_breaks_a_target_and_writes_it_down(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engines, "FOUND", tmp_path)
    monkeypatch.setattr(Target, "folders", [])

    assert engines.run("hypothesis", FRAGILE, runs=2000, seconds=0, seed=1) == 1

    assert (tmp_path / "fragile" / "broke").read_bytes() == b"status_id"
    assert "broke breaks fragile" in capsys.readouterr().out
    harmless = replace(FRAGILE, check=lambda data: None)
    assert engines.run("hypothesis", harmless, runs=300, seconds=0, seed=1) == 0


@pytest.mark.skipif(find_spec("atheris") is None, reason="there is no atheris for this Python and system")
def test_atheris_finds_what_breaks_a_target_and_writes_it_down(tmp_path: Path) -> None:
    (tmp_path / "words").write_text('"status_id"\n')
    command = [sys.executable, "-c", GUIDED, str(tmp_path)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)

    assert done.returncode != 0
    (found,) = tmp_path.glob("crash-*")
    assert b"status_id" in found.read_bytes()


ACTIVITY = EmailActivity(email="a@b.c", lead_id=1, name="opened")
EVENT = Event(
    Source.ENCHARGE, Kind.EMAIL_OPENED, ACTIVITY, "lead:1", "encharge:1", occurred_at=1.0, received_at=webhooks.NOW
)
BAD_READINGS: dict[str, Callable[[], Reading]] = {
    "another exception": lambda: {}["no such key"],  # type: ignore[dict-item]
    "a refusal of two lines": lambda: _refuse("a\nb"),
    "a refusal with an address": lambda: _refuse("a@b.c is no address"),
    "a long refusal": lambda: _refuse("a" * 500),
    "an id of 65 bits": lambda: _reading(data=replace(ACTIVITY, lead_id=2**63)),
    "no id": lambda: _reading(data=replace(ACTIVITY, lead_id=0)),
    "a yes for an id": lambda: _reading(data=replace(ACTIVITY, lead_id=True)),
    "an address that is none": lambda: _reading(data=replace(ACTIVITY, email="A@b.c ")),
    "a tag": lambda: _reading(data=replace(ACTIVITY, campaign="{{name}}")),
    "a NUL": lambda: _reading(data=replace(ACTIVITY, subject="a\0b")),
    "half a character": lambda: _reading(data=replace(ACTIVITY, link="\ud800")),
    "a long link": lambda: _reading(data=replace(ACTIVITY, link="x" * 2001)),
    "a kind that is not ours": lambda: _reading(kind="opened"),
    "a stage change": lambda: _reading(kind=Kind.STAGE_CHANGED),
    "another vendor": lambda: _reading(source=Source.ORTTO),
    "a long key": lambda: _reading(dedupe_key="x" * 201),
    "no key": lambda: _reading(dedupe_key=None),
    "a long scope": lambda: _reading(dedupe_key=None, repeat=Repeat("x" * 201, "", 1)),
    "a time that is none": lambda: _reading(occurred_at=-1.0),
    "ignored for no reason": lambda: Reading(ignored=(Ignored("kind", ""),)),
    "a fault of two lines": lambda: Reading(faults=("a\r\nb",)),
    "too many": lambda: Reading(events=(EVENT,) * 10_001),
}


def _refuse(words: str) -> Reading:
    raise BodyError(words)


def _reading(**changes: Any) -> Reading:
    return Reading(events=(replace(EVENT, **changes),))


@pytest.mark.parametrize("name", BAD_READINGS)
def test_a_reader_that_breaks_a_promise_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(webhooks.READERS, Source.ENCHARGE, lambda webhook, **around: BAD_READINGS[name]())
    with pytest.raises((AssertionError, LookupError, UnicodeEncodeError)):
        webhooks.check(Source.ENCHARGE, b"x")


def test_a_reader_that_keeps_its_promises_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(webhooks.READERS, Source.ENCHARGE, lambda webhook, **around: Reading(events=(EVENT,)))
    webhooks.check(Source.ENCHARGE, b"x")


def test_a_reader_that_says_another_thing_the_second_time_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter(Reading(events=(replace(EVENT, dedupe_key=f"k{number}"),)) for number in range(100))
    monkeypatch.setitem(webhooks.READERS, Source.ENCHARGE, lambda webhook, **around: next(said))
    body = next(body for body in (b"%d" % number for number in range(100)) if webhooks.is_read_twice(body))
    with pytest.raises(AssertionError, match="two things"):
        webhooks.check(Source.ENCHARGE, body)


def test_a_reader_that_takes_time_by_the_square_of_a_body_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(webhook: Any, **_around: Any) -> Reading:
        return Reading(events=(EVENT,) if sum(range(len(webhook.body) ** 2 // 4)) else ())

    monkeypatch.setitem(webhooks.READERS, Source.ENCHARGE, slow)
    with pytest.raises(AssertionError, match="are allowed"):
        grown.grow_and_read(b"encharge\nx%%y%%", 10_000)


def test_a_form_that_loses_a_value_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "parse_form", lambda text: {"a": "1"})
    forms.check(b"a=1")
    with pytest.raises(AssertionError, match="are 1"):
        forms.check(b"a=1&b=1")


def test_an_address_in_two_spellings_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    values.check(b" A@b.c")
    monkeypatch.setattr(values, "clean_email", lambda text: text + " ")
    with pytest.raises(AssertionError, match="cleaned again"):
        values.check(b"a@b.c")


def test_a_value_that_is_read_as_a_placeholder_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    template = b"Hello {campaign}%%{email}"
    texts.check(template)
    monkeypatch.setattr("app.mapping.texts.flat", lambda text: text.replace("{email}", plans.CANARY))
    with pytest.raises(AssertionError, match="read as a placeholder"):
        texts.check(template)


def test_a_template_that_cannot_be_filled_in_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.mapping.rows._template", str)
    monkeypatch.setattr("app.mapping.texts.render", lambda template, words: template)
    monkeypatch.setattr("app.mapping.activity_rules.render", lambda template, words: template)
    with pytest.raises(AssertionError, match="not filled in"):
        texts.check(b"Hello {campaign}%%x")


def test_a_loader_that_names_no_line_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise mapping.MappingError(("mapping.yaml is wrong.",))

    mapping.check(b"stages: 1")
    monkeypatch.setattr(mapping, "parse", refuse)
    with pytest.raises(AssertionError, match="no line"):
        mapping.check(b"stages: 1")
