"""What becomes of an event under the rules of a mapping file: nothing that anybody does makes them fail.

`foreign` stands for everything that other people write: it holds braces, template tags and line breaks already.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from zlib import crc32

from app.events import (
    Action,
    Company,
    Contact,
    Context,
    EmailActivity,
    Event,
    Kind,
    Lane,
    Lead,
    Owed,
    Response,
    Seen,
    SeenClick,
    Source,
    StageChange,
)
from app.mapping.rows import EMAIL_KINDS
from app.mapping.rules import Rules
from fuzz.oracles import storable

NOW = 1_772_700_000.0
CANARY = "canary@fuzz.example"  # the address: in no text that does not ask for it
LONGEST_TEXT = 2000 * 260  # a template of nothing but placeholders, each filled
LANES = (Lane.ENCHARGE, Lane.ORTTO)
FIELDS: dict[str, int | None] = {"KOMMO_CF_EMAIL_ACTIVITY": 800_110, "KOMMO_CF_EMAIL_STATUS": None}
NASTY = (
    "",
    "{email}",
    "{link}\r\n{{x}}\0 {lead.name}",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "-0.000",
)

ODD: tuple[object, ...] = (1, -1.5, 10**30, True, None, ["x"], {"v": {}}, [], {}, "0", "1e5", "-62135596800")


def check_rules(rules: Rules, foreign: str) -> None:
    """Have events of every kind planned; fail if one raises, or makes a text that cannot be written."""
    for context in contexts(foreign):
        for event in _events(rules, foreign):
            check_event(rules, event, context)


def check_event(rules: Rules, event: Event, context: Context) -> None:
    """Plan one event; fail if what comes of it cannot be stored, or shows a template to people."""
    refusal = rules.refusal(event)
    assert refusal is None or refusal.strip(), "refused without a reason"
    if event.kind is Kind.OTHER:
        assert refusal, "nothing can be done about what is none of our events"
        return
    plan = rules.plan(event, context, LANES, _seen(event))
    if isinstance(plan, str):
        assert plan.strip(), "skipped without a reason"
        return
    for owed in plan:
        _check_owed(owed)
    if isinstance(event.data, EmailActivity):
        rules.activities.judge(event, event.data, context, _seen(event))


def _check_owed(owed: Owed) -> None:
    storable(owed.order_key, 330)
    if isinstance(owed.plan, Response):
        assert owed.plan.actions
        for action in owed.plan.actions:
            _check_action(action)


def _check_action(action: Action) -> None:
    storable(action.text, LONGEST_TEXT)
    assert action.text == action.text.strip() != "", f"{action.text!r} is no text"
    assert not set(action.text) & set("{}"), f"a template that was not filled in: {action.text!r}"
    # A template may hold tabs, as it may hold lines; what is filled in has neither.
    assert not any(ord(char) < 32 and char not in "\n\t" for char in action.text), (
        f"a control character in {action.text!r}"
    )


def _events(rules: Rules, foreign: str) -> Iterator[Event]:
    for kind in map(Kind, EMAIL_KINDS):
        source = Source.ORTTO if kind is Kind.EMAIL_OPENED else Source.ENCHARGE
        yield email_event(kind, source, foreign)
    for stage in rules.stages[:3]:
        change = StageChange(1, stage.status_id, stage.pipeline_id)
        yield Event(Source.KOMMO, Kind.STAGE_CHANGED, change, "lead:1", "k", received_at=NOW)


def email_event(kind: Kind, source: Source, foreign: str) -> Event:
    """Return an email activity all of whose words are foreign."""
    activity = EmailActivity(
        email=CANARY, lead_id=1, person_id="p", campaign=foreign, subject=foreign, link=foreign, name=foreign
    )
    return Event(source, kind, activity, "lead:1", "k", occurred_at=NOW, received_at=NOW)


def contexts(foreign: str) -> Iterator[Context]:
    """Return what Kommo may know: nothing, everything in foreign words, odd values, no deal."""
    yield Context()
    yield (whole := _whole(foreign, foreign))
    yield _whole(foreign, ODD[crc32(foreign.encode("utf-8", "replace")) % len(ODD)])
    yield replace(whole, lead=None)


def _whole(foreign: str, value: object) -> Context:
    values = {"POSITION": value, "800101": value, "1": value, "COMPANY_SIZE": value}
    contact = Contact(2, name=foreign, first_name=foreign, emails=(CANARY,), tags=(foreign,), fields=values)
    lead = Lead(1, name=foreign, status_id=61_000_102, pipeline_id=7_100_010, price=5, fields=values)
    return Context(lead, contact, Company(3, name=foreign, fields=values), email=CANARY)


def _seen(event: Event) -> Seen:
    if event.kind is not Kind.EMAIL_OPENED or not isinstance(event.data, EmailActivity):
        return Seen(open_id=7)
    return Seen(first=False, quiet_seconds=1.0, click=SeenClick(8, event.data, Seen()))
