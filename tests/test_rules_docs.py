"""docs/rules.md is true: every block is a mapping file that loads, every row of a table is carried out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from parts import FIELDS, email_event, rules_of
from support import ROOT

from app.events import (
    Action,
    Company,
    Contact,
    Context,
    EmailActivity,
    Event,
    Kind,
    Lead,
    Response,
    Seen,
    SeenClick,
    Source,
)
from app.mapping.due import due_at
from app.mapping.rows import PLACEHOLDERS, NoteRow, TaskRow, WhenRow

PAGE = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
LEAD = Lead(
    41_500_011,
    name="Forty seats",
    status_id=61_000_102,
    pipeline_id=7_100_010,
    price=1500,
    responsible_user_id=9_200_001,
)
ZOE = Contact(
    52_300_021, name="Zoë Example", emails=("zoe@example.com",), tags=("vip",), fields={"POSITION": "Owner"}
)
BAKERY = Company(52_300_099, name="Example Bakery")
DAY = 86_400.0


@dataclass(frozen=True)
class Row:
    """A row of a table, with the block above it."""

    mapping: str
    happens: str
    written: str


def rows() -> Iterator[Row]:
    mapping = ""
    for line in re.split(r"(```yaml\n.*?```|^\|[^\n]*\|$)", PAGE, flags=re.DOTALL | re.MULTILINE):
        if line.startswith("```yaml"):
            mapping = "version: 1\n" + line.removeprefix("```yaml\n").removesuffix("```")
        elif line.startswith("|") and not line.startswith(("| ---", "| what happens")):
            happens, written = line.strip("| ").split(" | ")
            yield Row(mapping, happens.strip(), written.strip())


ROWS = list(rows())


def test_the_page_shows_what_it_should() -> None:
    assert len(ROWS) >= 25
    for name in WhenRow.model_fields:
        assert re.search(rf"\b{name}\b", PAGE), f"`{name}` of `when` is not explained"
    for name in ({*TaskRow.model_fields} | {*NoteRow.model_fields}) - {"text"}:
        assert re.search(rf"\b{name}\b", PAGE), f"`{name}` is not explained"
    for name in PLACEHOLDERS:
        assert f"{{{name}}}" in PAGE, f"{{{name}}} is not explained"


@pytest.mark.parametrize("row", ROWS, ids=[row.happens for row in ROWS])
def test_what_the_page_says_happens(row: Row, tmp_path: Path) -> None:
    rules = rules_of(tmp_path / "mapping.yaml", row.mapping)
    source, kind, *_ = row.happens.split()
    told = {name: a or b for name, a, b in re.findall(r'(\w+)=(?:"([^"]*)"|(\S+))', row.happens)}
    zone = ZoneInfo("Europe/Berlin" if "Europe/Berlin" in row.mapping else "UTC")
    moment = datetime.fromisoformat(told.get("at", "2026-11-24 10:15")).replace(tzinfo=zone)
    event = _event(Source(source), Kind(kind), told, moment.timestamp())

    found = rules.refusal(event)
    if found is None:
        planned = rules.plan(event, _context(told), (), _seen(told))
        found = planned if isinstance(planned, str) else None

    if found is not None:
        assert row.written == f"nothing: {found}"
        return
    assert not isinstance(planned, str)
    assert isinstance(planned[0].plan, Response)
    actions = [_words(action, moment, with_due="(due" in row.written) for action in planned[0].plan.actions]
    assert row.written == "; ".join(actions)


def _event(source: Source, kind: Kind, told: dict[str, str], at: float) -> Event:
    event = email_event(email="zoe@example.com", kind=kind, source=source, campaign=told.get("campaign", ""))
    assert isinstance(event.data, EmailActivity)
    data = replace(event.data, link=told.get("link"), machine=told.get("machine") == "yes")
    return replace(event, data=data, occurred_at=at)


def _context(told: dict[str, str]) -> Context:
    lead = replace(
        LEAD,
        status_id=int(told.get("status", LEAD.status_id)),
        pipeline_id=int(told.get("pipeline", LEAD.pipeline_id)),
    )
    contact = replace(ZOE, tags=(told.get("tag", "vip"),))
    return Context(None if "deal" in told else lead, contact, BAKERY, email="zoe@example.com")


def _seen(told: dict[str, str]) -> Seen:
    quiet = told.get("quiet")
    return Seen(
        first=told.get("first") != "no",
        quiet_seconds=float(quiet.removesuffix("d")) * DAY if quiet else None,
        open_id=7 if "opened" in told else 0,
        click=SeenClick(7, EmailActivity(email="zoe@example.com"), Seen()) if "clicked" in told else None,
    )


def _words(action: Action, now: datetime, *, with_due: bool) -> str:
    """Say what an action writes, as the page does."""
    if action.kind == "task":
        due = datetime.fromtimestamp(due_at(action, now.timestamp()), now.tzinfo).strftime("%Y-%m-%d %H:%M")
        return f"task: {action.text}" + (f" (due {due}, for {action.user_id})" if with_due else "")
    if action.kind == "field":
        return f"field {action.field_id}: {action.text}"
    if action.kind == "note":
        where = " on the contact" if action.on == "contact" else ""
        joined = " (in the note of the open, if there is one)" if action.joins else ""
        gathered = f" (gathered for {action.cooldown // 60} minutes)" if action.cooldown else ""
        return f"note{where}: {action.text}{joined}{gathered}"
    return f"{action.kind} {action.on}: {action.text}"


def test_the_fields_of_the_page_are_those_of_the_tests() -> None:
    assert FIELDS["KOMMO_CF_EMAIL_STATUS"] == 800_111
