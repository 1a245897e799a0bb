"""Whatever the rules and whatever comes: a plan or a reason, and texts that a salesperson can read."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from parts import FIELDS, email_event

from app.events import Company, Contact, Context, EmailActivity, Kind, Lead, Response, Seen, SeenClick, Source
from app.mapping.columns import UNSTORABLE
from app.mapping.person_fields import ortto_value
from app.mapping.rows import EMAIL_KINDS, EMAIL_SOURCES, PLACEHOLDERS, MappingRows
from app.mapping.rules import Rules

AT = 1_770_000_000.0
KOMMO_VALUES = ("lead.price", "company.name", "contact.POSITION", "lead.800101", "company.COMPANY_SIZE")

# What strangers send: braces, template tags, line breaks, control characters, nothing at all.
foreign = st.text(
    st.one_of(st.sampled_from("{}\n\r\t\0%$*'\"é Щ‮"), st.characters(exclude_categories=["Cs"])), max_size=30
)
sayable = foreign.map(lambda text: UNSTORABLE.sub("", text)).filter(str.strip)  # in a mapping file
words = st.lists(st.one_of(sayable, st.sampled_from(["a", "*", "a*b", "pric"])), min_size=1)
pieces = st.one_of(
    st.sampled_from([f"{{{name}}}" for name in (*PLACEHOLDERS, *KOMMO_VALUES)]),
    st.sampled_from(["Call ", ": ", "\n", "'", "–"]),
)
templates = st.lists(pieces, min_size=1, max_size=8).map("".join).filter(str.strip)
some = st.fixed_dictionaries


def optional(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keys)


conditions = optional(
    source=st.sampled_from(EMAIL_SOURCES),
    event=st.lists(st.sampled_from(EMAIL_KINDS), min_size=1),
    campaign=words,
    subject=words,
    link=words,
    first=st.booleans(),
    quiet=st.sampled_from(["30m", "2d"]),
    stage=st.lists(st.sampled_from(["qualified", 61_000_102, 143]), min_size=1),
    pipeline=st.lists(st.sampled_from([7_100_010, 7_100_020]), min_size=1),
    tag=words,
    field=st.dictionaries(st.sampled_from(KOMMO_VALUES), words, max_size=2),
)
places = st.sampled_from(["lead", "contact"])
tasks = st.tuples(
    some({"text": templates}),
    optional(
        due_in=st.sampled_from(["1h", "3d"]),
        assign_to=st.sampled_from(["owner", 7, {"7100010": 7, "other": "owner"}, {}]),
        cooldown=st.sampled_from(["0s", "24h"]),
        cooldown_for=st.sampled_from(["deal", "kind"]),
        within_cooldown=st.sampled_from(["nothing", "extend"]),
    ),
).map(lambda parts: {"task": parts[0] | parts[1]})
notes = st.tuples(templates, st.sampled_from(["0s", "10m"])).map(
    lambda parts: {"note": {"text": parts[0], "gather": parts[1]}}
)
fields = st.tuples(
    templates.filter(lambda text: len(text) < 200), st.sampled_from([5, "$KOMMO_CF_EMAIL_STATUS"])
).map(lambda parts: {"field": {"id": parts[1], "value": parts[0]}})
tags = st.tuples(places, st.sampled_from(["tag", "untag"])).map(
    lambda parts: {parts[1]: {"on": parts[0], "name": "x"}}
)
actions = st.dictionaries(st.sampled_from("abcd"), st.one_of(tasks, notes, fields, tags), min_size=1)
files = actions.flatmap(
    lambda named: some(
        {
            "stages": st.just([{"stage": "qualified", "status": 61_000_102}]),
            "actions": st.just(named),
            "rules": st.lists(
                some({"when": conditions, "do": st.lists(st.sampled_from(sorted(named)), min_size=1)}), max_size=4
            ),
            "time_zone": st.sampled_from(["UTC", "Europe/Berlin", "Pacific/Apia"]),
            "without_active_deal": st.sampled_from(["skip", "contact"]),
            "one_signal": st.sampled_from(["0s", "10s"]),
        }
    )
)
texts = st.one_of(st.just(""), foreign)
activities = st.builds(
    EmailActivity,
    email=st.sampled_from([None, "zoe@example.com"]),
    lead_id=st.sampled_from([None, 1]),
    person_id=st.one_of(st.none(), foreign),
    campaign=texts,
    subject=texts,
    link=st.one_of(st.none(), foreign),
    first=st.sampled_from([None, True, False]),
    machine=st.booleans(),
)
values = st.dictionaries(
    st.sampled_from(["POSITION", "800101", "COMPANY_SIZE"]),
    st.one_of(st.none(), st.booleans(), st.integers(), foreign, st.lists(foreign), st.floats(allow_nan=False)),
)
contacts = st.builds(
    Contact,
    id=st.just(2),
    name=foreign,
    first_name=foreign,
    emails=st.sampled_from([(), ("zoe@example.com",)]),
    tags=st.lists(foreign).map(tuple),
    fields=values,
)
leads = st.builds(
    Lead,
    id=st.just(1),
    name=foreign,
    status_id=st.sampled_from([61_000_102, 9]),
    pipeline_id=st.sampled_from([7_100_010, 7_100_020]),
    responsible_user_id=st.sampled_from([None, 7]),
    fields=values,
)
contexts = st.builds(
    Context,
    lead=st.one_of(st.none(), leads),
    contact=st.one_of(st.none(), contacts),
    company=st.one_of(st.none(), st.builds(Company, id=st.just(3), name=foreign, fields=values)),
    email=st.sampled_from(["", "zoe@example.com"]),
)
seen = st.builds(
    Seen,
    first=st.booleans(),
    quiet_seconds=st.one_of(st.none(), st.floats(0, 1e7)),
    open_id=st.sampled_from([0, 7]),
    click=st.one_of(
        st.none(), st.builds(SeenClick, event_id=st.just(8), activity=activities, seen=st.just(Seen()))
    ),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(files, activities, contexts, seen, st.sampled_from(EMAIL_KINDS), st.sampled_from(EMAIL_SOURCES))
def test_every_activity_gives_a_plan_or_a_reason(
    file: dict[str, Any], activity: EmailActivity, context: Context, before: Seen, kind: str, source: str
) -> None:
    rules = Rules(MappingRows.model_validate(file), FIELDS)
    event = email_event(kind=Kind(kind), source=Source(source))
    event = replace(event, data=activity, occurred_at=AT)

    refusal = rules.refusal(event)
    plan = rules.plan(event, context, (), before)

    reasons = [words for words in (refusal, plan) if isinstance(words, str)]
    assert all(reasons), "a reason says something"
    if isinstance(plan, str):
        return
    (owed,) = plan
    assert isinstance(owed.plan, Response)
    assert owed.plan.actions
    assert owed.plan.lead_id or owed.plan.contact_id
    names = [action.name for action in owed.plan.actions]
    assert len(names) == len(set(names)), "an action happens once"
    for action in owed.plan.actions:
        assert action.text.strip() == action.text != ""
        assert not set(action.text) & set("{}\0\r\t"), action.text
        assert "None" not in action.text, action.text
        assert action.kind in ("note", "tag", "untag") or owed.plan.lead_id


FIELD_TYPES = {
    "str": str,
    "txt": str,
    "int": int,
    "bol": bool,
    "dtz": dict,
    "tme": str,
    "phn": dict,
    "geo": dict,
    "sst": list,
    "obj": dict,
}
moments = st.one_of(
    st.datetimes(timezones=st.one_of(st.none(), st.timezones())).map(str),
    st.datetimes(timezones=st.timezones()).map(lambda moment: moment.isoformat()),
    st.sampled_from(["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "0033-04-03", "2026-W01-1"]),
    st.integers(-(10**12), 10**12).map(str),
)
of_kommo = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    foreign,
    moments,
    st.lists(foreign, max_size=2),
    st.dictionaries(foreign, foreign, max_size=2),
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(FIELD_TYPES)), of_kommo)
def test_every_value_of_kommo_is_one_of_the_fields_type_or_left_out(kind: str, value: Any) -> None:
    taken = ortto_value(f"{kind}:cm:x", value)

    assert taken is None or type(taken) is FIELD_TYPES[kind]
    json.dumps(taken)
    if kind == "tme" and taken is not None:
        assert re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", taken)
