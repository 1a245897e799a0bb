"""Why a rule does not match, and why an action comes to nothing: in words, from the decision itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from parts import email_event, rules_of

from app.events import Contact, Context, EmailActivity, Event, Kind, Lead, Seen
from app.mapping import Rules

RULES = """
version: 1
stages:
  - {stage: qualified, pipeline: 7, status: 70}
rules:
  - when: {pipeline: 8}
    do: [note]
  - when: {stage: [qualified, 71]}
    do: [note]
  - when: {tag: partner}
    do: [note]
  - when: {field: {contact.POSITION: [CEO]}}
    do: [note]
  - when: {subject: offer, link: [pricing*2026]}
    do: [note]
  - when: {quiet: 30d, first: true}
    do: [note]
  - when: {campaign: pricing}
    do: [note, call, last, mark, unset]
actions:
  note: {note: {text: "{link}"}}
  call: {task: {text: "Call"}}
  last: {field: {id: 9, value: "{link}"}}
  mark: {tag: {on: contact, name: Hot}}
  unset: {field: {id: $KOMMO_CF_EMAIL_STATUS, value: x}}
"""
VARIABLES: dict[str, int | None] = {"KOMMO_CF_EMAIL_ACTIVITY": None, "KOMMO_CF_EMAIL_STATUS": None}
LEAD = Lead(5, "Order", status_id=79, pipeline_id=7)
ZOE = Contact(6, "Zoë", emails=("zoe@example.com",), tags=("vip", "EU"), fields={"POSITION": "Owner"})
BEFORE = Seen(first=False, quiet_seconds=60.0)


@pytest.fixture
def rules(tmp_path: Path) -> Rules:
    return rules_of(tmp_path / "mapping.yaml", RULES, VARIABLES)


def click() -> tuple[Event, EmailActivity]:
    event = email_event(email="zoe@example.com", campaign="Pricing", kind=Kind.EMAIL_CLICKED)
    assert isinstance(event.data, EmailActivity)
    return event, event.data


def test_each_condition_that_does_not_hold_is_named(rules: Rules) -> None:
    told = rules.activities.judge(*click(), Context(LEAD, ZOE, email="zoe@example.com"), BEFORE)
    assert [judgement.unmet for judgement in told] == [
        ("pipeline: the deal is in 7",),
        ("stage: the deal is in 79, which is not in the mapping",),
        ("tag: the contact has vip, EU",),
        ("field: contact.POSITION is 'Owner'",),
        ("subject: it is 'Pricing'", "link: it is empty"),
        ("first: it is not the first of its kind in this campaign", "quiet: the person did something 60 s before"),
        (),
    ]
    assert [judgement.number for judgement in told] == [1, 2, 3, 4, 5, 6, 7]
    assert told[1].when == {"stage": ["qualified", 71]}


def test_nobody_and_nothing_are_named_too(rules: Rules) -> None:
    told = rules.activities.judge(*click(), Context(), Seen())
    assert [judgement.unmet for judgement in told[:4]] == [
        ("pipeline: there is no deal",),
        ("stage: there is no deal",),
        ("tag: no contact",),
        ("field: contact.POSITION is empty",),
    ]


def test_an_action_that_comes_to_nothing_says_why(rules: Rules) -> None:
    assert rules.activities.left_out(*click(), Context(LEAD, None), BEFORE) == {
        "note": "its text is empty",
        "last": "its text is empty",
        "mark": "there is no contact to do it on",
        "unset": "switched off: the id of its field is not set",
    }
    assert rules.activities.left_out(*click(), Context(None, ZOE), BEFORE)["call"] == "there is no deal to do it on"


def test_what_is_left_out_is_not_planned(rules: Rules) -> None:
    plan = rules.plan(click()[0], Context(LEAD, ZOE, email="zoe@example.com"), [], BEFORE)
    assert isinstance(plan, tuple)
    assert [action.name for action in plan[0].plan.actions] == ["call", "mark"]  # type: ignore[union-attr]
