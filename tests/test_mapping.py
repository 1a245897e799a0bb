"""Event and context → what is owed: the shipped rules, and the corners of every rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

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
    Source,
    StageChange,
    StageNews,
)
from app.mapping import Rules, load
from app.mapping.rules import person_names

SHIPPED = Path(__file__).parent.parent / "config" / "mapping.yaml"
VARIABLES: dict[str, int | None] = {"KOMMO_CF_EMAIL_ACTIVITY": 800301, "KOMMO_CF_EMAIL_STATUS": 800302}
BOTH = (Lane.ENCHARGE, Lane.ORTTO)

LEAD = Lead(id=41500011, name="Website order", status_id=61000102, pipeline_id=7100010, price=1500)
LEAD = replace(LEAD, responsible_user_id=9200001, contact_ids=(52300021,))
ZOE = Contact(
    id=52300021,
    name="Zoë Example",
    emails=("zoe@example.com", "second@example.com"),
    fields={"POSITION": "Head of Größe"},
)
COMPANY = Company(id=7, name="Bäckerei", fields={"COMPANY_SIZE": "250", "INDUSTRY": "Food"})
CONTEXT = Context(lead=LEAD, contact=ZOE, company=COMPANY, read_at=1767607900.0)


@pytest.fixture(scope="module")
def shipped() -> Rules:
    return load(SHIPPED, VARIABLES)


@pytest.fixture
def rules_of(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Make rules of a text."""

    def make(text: str, variables: dict[str, int | None] = VARIABLES) -> Rules:
        path = tmp_path / "mapping.yaml"
        path.write_text(f"version: 1\n{text}", encoding="utf-8")
        return load(path, variables)

    return make


def stage_event(status_id: int = 61000102, pipeline_id: int | None = 7100010) -> Event:
    change = StageChange(lead_id=41500011, status_id=status_id, pipeline_id=pipeline_id)
    return Event(Source.KOMMO, Kind.STAGE_CHANGED, change, order_key="lead:41500011", dedupe_key=None)


def email_event(source: str = "encharge", kind: str = "email_clicked", **data: Any) -> Event:
    activity = EmailActivity(**{"email": "zoe@example.com", "campaign": "Demo invitation", **data})
    return Event(Source(source), Kind(kind), activity, order_key="email:zoe@example.com", dedupe_key=None)


def news(**changes: Any) -> StageNews:
    return replace(
        StageNews(
            lead_id=41500011,
            email="zoe@example.com",
            first_name="Zoë",
            last_name="Example",
            stage="qualified",
            person_stage="qualified",
            status_id=61000102,
            pipeline_id=7100010,
            deal_value=1500,
            event="deal_moved_to_qualified",
            fields={"jobTitle": "Head of Größe", "companySize": "250", "industry": "Food"},
            read_at=1767607900.0,
        ),
        **{"person_stage": changes.get("stage", "qualified"), **changes},
    )


ORTTO_NEWS = news(
    stage="Qualification",
    event="act:cm:crm-stage-changed",
    fields={"str:cm:job-title": "Head of Größe", "int:cm:company-size": 250, "str:cm:industry": "Food"},
)
TO_ENCHARGE = Owed(Lane.ENCHARGE, "lead:41500011", news())
TO_ORTTO = Owed(Lane.ORTTO, "lead:41500011", ORTTO_NEWS)


# -- stages: which (O2) --

PIPELINES = """
stages:
  - {stage: qualified, pipeline: 1, status: 10}
  - {stage: qualified, pipeline: 2, status: 20}
  - {stage: vip_won, pipeline: 1, status: 142}
  - {stage: won, status: 142}
  - {stage: vip_lost, pipeline: 1, status: 143}
  - {stage: quiet, pipeline: 1, status: 11, encharge: false, ortto: false}
"""


@pytest.mark.parametrize(
    ("pipeline_id", "status_id", "name"),
    [
        pytest.param(1, 10, "qualified", id="by pipeline and status"),
        pytest.param(2, 10, None, id="the status of another pipeline"),
        pytest.param(1, 142, "vip_won", id="the pair comes before the status alone"),
        pytest.param(2, 142, "won", id="the status alone"),
        pytest.param(None, 142, "won", id="won somewhere"),
        pytest.param(2, 143, None, id="lost in another pipeline"),
        pytest.param(None, 143, None, id="lost somewhere is not lost here"),
        pytest.param(None, 20, "qualified", id="without a pipeline a status still says which"),
        pytest.param(1, 99, None, id="unknown"),
    ],
)
def test_a_stage_is_found(rules_of, pipeline_id: int | None, status_id: int, name: str | None) -> None:  # type: ignore[no-untyped-def]
    stage = rules_of(PIPELINES).stage(pipeline_id, status_id)
    assert (stage and stage.name) == name


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        pytest.param(stage_event(10, 1), None, id="mapped"),
        pytest.param(stage_event(99, 1), "stage 99 of pipeline 1 is not in the mapping", id="unmapped"),
        pytest.param(stage_event(99, None), "stage 99 is not in the mapping", id="unmapped, no pipeline"),
        pytest.param(stage_event(143, None), None, id="lost, and only Kommo knows where"),
        pytest.param(stage_event(11, 1), "stage quiet goes neither to Encharge nor to Ortto", id="silenced"),
    ],
)
def test_a_stage_change_is_refused_before_any_network(rules_of, event: Event, reason: str | None) -> None:  # type: ignore[no-untyped-def]
    assert rules_of(PIPELINES).refusal(event) == reason


# -- stages: what is owed (O3-O8) --


@pytest.mark.parametrize(
    ("lanes_on", "owed"),
    [
        pytest.param(BOTH, (TO_ENCHARGE, TO_ORTTO), id="both"),
        pytest.param((Lane.RESOLVE, Lane.KOMMO, Lane.ENCHARGE), (TO_ENCHARGE,), id="Encharge"),
        pytest.param((Lane.ORTTO,), (TO_ORTTO,), id="Ortto"),
        pytest.param((), "stage qualified goes to no platform that is switched on", id="neither"),
    ],
)
def test_a_stage_change_is_owed_to_each_destination_that_is_on(shipped: Rules, lanes_on: Any, owed: object) -> None:
    assert shipped.plan(stage_event(), CONTEXT, lanes_on) == owed


def test_a_destination_can_be_left_out_of_a_stage(rules_of) -> None:  # type: ignore[no-untyped-def]
    rules = rules_of("stages:\n  - {stage: lost, status: 143, label: Проиграно, encharge: false}\n")
    expected = news(stage="Проиграно", status_id=143, event="act:cm:crm-stage-changed", fields={})
    assert rules.plan(stage_event(143), CONTEXT, BOTH) == (Owed(Lane.ORTTO, "lead:41500011", expected),)


@pytest.mark.parametrize(
    ("context", "reason"),
    [
        pytest.param(Context(), "deal 41500011 is gone", id="no deal"),
        pytest.param(replace(CONTEXT, lead=replace(LEAD, is_deleted=True)), "deal 41500011 is gone", id="deleted"),
        pytest.param(replace(CONTEXT, contact=None), "the deal has no contact", id="no contact"),
        pytest.param(
            replace(CONTEXT, contact=replace(ZOE, emails=())), "contact 52300021 has no valid email", id="no email"
        ),
    ],
)
def test_a_deal_without_a_person_is_skipped_with_the_reason(shipped: Rules, context: Context, reason: str) -> None:
    assert shipped.plan(stage_event(), context, BOTH) == reason


def test_a_webhook_without_a_pipeline_takes_the_deals(rules_of) -> None:  # type: ignore[no-untyped-def]
    rules = rules_of("stages:\n  - {stage: lost_here, pipeline: 7100010, status: 143}\n")
    owed = rules.plan(stage_event(143, None), CONTEXT, (Lane.ENCHARGE,))
    expected = news(stage="lost_here", status_id=143, event="deal_moved_to_lost_here", fields={})
    assert owed == (Owed(Lane.ENCHARGE, "lead:41500011", expected),)
    elsewhere = replace(CONTEXT, lead=replace(LEAD, pipeline_id=8))
    assert rules.plan(stage_event(143, None), elsewhere, BOTH) == "stage 143 of pipeline 8 is not in the mapping"


@pytest.mark.parametrize(
    ("contact", "names"),
    [
        pytest.param(Contact(1, name="Ann Keller"), ("Ann", "Keller"), id="split at the first space"),
        pytest.param(Contact(1, name="  Ann   van  Dyk "), ("Ann", "van Dyk"), id="trimmed"),
        pytest.param(Contact(1, name="Мария Иванова-Петрова"), ("Мария", "Иванова-Петрова"), id="Unicode"),
        pytest.param(Contact(1, name="山田\u3000太郎"), ("山田", "太郎"), id="another space"),
        pytest.param(Contact(1, name="Ann"), ("Ann", ""), id="one name"),
        pytest.param(Contact(1), ("", ""), id="none"),
        pytest.param(Contact(1, "Ann Keller", "Anna", "Roth"), ("Anna", "Roth"), id="Kommo's own win"),
        pytest.param(Contact(1, "Ann Keller", first_name="Anna"), ("Anna", "Keller"), id="Kommo's first"),
        pytest.param(Contact(1, "Jan van Dyk", last_name="van Dyk"), ("Jan", "van Dyk"), id="Kommo's last"),
        pytest.param(Contact(1, "Keller", last_name="Keller"), ("", "Keller"), id="a last name is no first"),
    ],
)
def test_a_name_is_split(contact: Contact, names: tuple[str, str]) -> None:
    assert person_names(contact) == names


FIELDS = """
stages:
  - {stage: demo, status: 5}
fields:
"""


@pytest.mark.parametrize(
    ("source", "target", "value", "expected"),
    [
        pytest.param("contact.POSITION", "encharge: x", " CTO ", {"x": "CTO"}, id="text, trimmed"),
        pytest.param("contact.POSITION", "encharge: x", 12.5, {"x": 12.5}, id="a number stays one"),
        pytest.param("contact.POSITION", "encharge: x", 0, {"x": 0}, id="zero is a value"),
        pytest.param("contact.POSITION", "encharge: x", True, {"x": True}, id="a checkbox"),
        pytest.param("contact.POSITION", "encharge: x", " ", {}, id="blank is none"),
        pytest.param("contact.POSITION", "encharge: x", None, {}, id="none"),
        pytest.param("contact.POSITION", "encharge: x", "я" * 5001, {"x": "я" * 5000}, id="too long for Encharge"),
        pytest.param("lead.800101", "encharge: x", "Team", {"x": "Team"}, id="a lead's field by id"),
        pytest.param("company.SIZE", "encharge: x", "S", {"x": "S"}, id="a company's field"),
        pytest.param("company.name", "encharge: x", None, {"x": "Bäckerei"}, id="the company's name"),
        pytest.param("lead.price", "encharge: x", None, {"x": 1500}, id="the price"),
        pytest.param("lead.price", "ortto: 'int:cm:x'", None, {"int:cm:x": 1500000}, id="money in thousandths"),
        pytest.param("lead.price", "ortto: 'str:cm:x'", None, {"str:cm:x": "1500"}, id="money as text"),
        pytest.param("lead.N", "ortto: 'int:cm:x'", "250", {"int:cm:x": 250}, id="a whole number"),
        pytest.param("lead.N", "ortto: 'int:cm:x'", "250.0", {"int:cm:x": 250}, id="whole after all"),
        pytest.param("lead.N", "ortto: 'int:cm:x'", "12.5", {}, id="a fraction"),
        pytest.param("lead.N", "ortto: 'int:cm:x'", "11-50", {}, id="a range"),
        pytest.param("lead.N", "ortto: 'int:cm:x'", "9" * 19, {}, id="too large for Ortto"),
        pytest.param("lead.N", "ortto: 'int:cm:x'", True, {}, id="a checkbox is no number"),
        pytest.param("lead.N", "ortto: 'str:cm:x'", 12.5, {"str:cm:x": "12.5"}, id="a number as text"),
        pytest.param("lead.N", "ortto: 'str:cm:x'", "я" * 300, {"str:cm:x": "я" * 255}, id="too long for Ortto"),
        pytest.param("lead.N", "ortto: 'txt:cm:x'", "я" * 300, {"txt:cm:x": "я" * 300}, id="long text"),
        pytest.param("lead.N", "ortto: 'bol:cm:x'", True, {"bol:cm:x": True}, id="yes"),
        pytest.param("lead.N", "ortto: 'bol:cm:x'", "0", {"bol:cm:x": False}, id="no"),
        pytest.param("lead.N", "ortto: 'bol:cm:x'", "maybe", {}, id="neither"),
        pytest.param("lead.N", "ortto: 'tme:cm:x'", 1772618400, {"tme:cm:x": "2026-03-04T10:00:00Z"}, id="a time"),
        pytest.param(
            "lead.N",
            "ortto: 'tme:cm:x'",
            "2026-03-04T11:00:00+01:00",
            {"tme:cm:x": "2026-03-04T10:00:00Z"},
            id="a time as text",
        ),
        pytest.param("lead.N", "ortto: 'tme:cm:x'", "soon", {}, id="no time"),
        # Found by fuzzing: either would have made every deal of its batch fail.
        pytest.param("lead.N", "ortto: 'tme:cm:x'", "0001-01-01T00:00:00+14:00", {}, id="before the first year"),
        pytest.param("lead.N", "ortto: 'tme:cm:x'", "9999-12-31T23:59:59-14:00", {}, id="after the last year"),
        pytest.param(
            "lead.N",
            "ortto: 'tme:cm:x'",
            "0033-04-03T15:00:00Z",
            {"tme:cm:x": "0033-04-03T15:00:00Z"},
            id="the year 33",
        ),
        pytest.param(
            "lead.N",
            "ortto: 'dtz:cm:x'",
            1772578800,  # midnight of March 4 in Berlin
            {"dtz:cm:x": {"year": 2026, "month": 3, "day": 4, "timezone": "UTC"}},
            id="a date",
        ),
        pytest.param(
            "lead.N",
            "ortto: 'dtz:cm:x'",
            "2026-03-04T00:00:00+01:00",
            {"dtz:cm:x": {"year": 2026, "month": 3, "day": 4, "timezone": "UTC"}},
            id="a date as text",
        ),
        pytest.param(
            "contact.PHONE",
            "ortto: 'phn::phone'",
            "+49 (30) 123456",
            {"phn::phone": {"phone": "4930123456", "parse_with_country_code": True}},
            id="a phone",
        ),
        pytest.param("lead.N", "ortto: 'geo::city'", "Köln", {"geo::city": {"name": "Köln"}}, id="a place"),
        pytest.param("lead.N", "ortto: 'sst:cm:x'", "A", {"sst:cm:x": ["A"]}, id="a choice"),
        pytest.param("lead.N", "ortto: 'obj:cm:x'", {"a": 1}, {"obj:cm:x": {"a": 1}}, id="an object"),
        pytest.param("lead.N", "ortto: 'obj:cm:x'", "a", {}, id="no object"),
    ],
)
def test_a_field_travels(rules_of, source: str, target: str, value: Any, expected: dict[str, Any]) -> None:  # type: ignore[no-untyped-def]
    rules = rules_of(f"{FIELDS}  - {{from: {source}, {target}}}\n")
    fields = {source.partition(".")[2]: value}
    context = Context(
        lead=replace(LEAD, fields=fields),
        contact=replace(ZOE, fields=fields),
        company=replace(COMPANY, fields=fields),
    )
    lane = Lane.ENCHARGE if target.startswith("encharge") else Lane.ORTTO
    (owed,) = rules.plan(stage_event(5), context, (lane,))
    assert owed.plan.fields == expected


def test_a_deal_without_a_company_has_no_company_fields(shipped: Rules) -> None:
    (owed,) = shipped.plan(stage_event(), replace(CONTEXT, company=None), (Lane.ENCHARGE,))
    assert owed.plan == news(fields={"jobTitle": "Head of Größe"})


def test_the_keys_of_the_fields_in_use_are_known(rules_of) -> None:  # type: ignore[no-untyped-def]
    rules = rules_of(
        "fields:\n  - {from: lead.price, encharge: a}\n  - {from: lead.800101, encharge: b}\n"
        "  - {from: contact.POSITION, encharge: c}\n"
    )
    assert (rules.fields_used, rules.needs_companies) == ({"800101", "POSITION"}, False)
    named = rules_of("fields:\n  - {from: company.name, encharge: a}\n")
    assert (named.fields_used, named.needs_companies) == (frozenset(), True)


# -- email activity: the shipped rules (B3, B4) --

NO_DEAL = "no active deal: neither the deal it names nor a contact with this email has one"

TASK = Action(
    "task",
    "task",
    text="Encharge: Zoë Example (zoe@example.com) clicked a link in 'Demo invitation'. "
    "Follow up within 1–2 hours, while it is fresh.",
    due_in=7200,
    task_type=1,
    user_id=9200001,
    cooldown=86400,
    scope="task:lead:41500011",
)
NOTE = Action("note", "note", text="Encharge: Zoë Example (zoe@example.com) clicked a link: 'Demo invitation'")
TAG = Action("unsubscribed_tag", "tag", text="Email Unsubscribed", on="contact")
UNTAG = Action("subscribed_again_tag", "untag", text="Email Unsubscribed", on="contact")


def field_action(name: str, field_id: int, value: str) -> Action:
    return Action(name, "field", text=value, field_id=field_id)


def reworded(action: Action, *changes: tuple[str, str]) -> Action:
    text = action.text
    for old, new in changes:
        text = text.replace(old, new)
    return replace(action, text=text)


SHIPPED_RULES = [
    pytest.param(email_event(), (TASK, NOTE), id="Encharge: a click"),
    pytest.param(
        email_event(link="https://a.example/x?y=1"),
        (TASK, replace(NOTE, text=f"{NOTE.text} https://a.example/x?y=1")),
        id="Encharge: a click, and on what",
    ),
    *[
        pytest.param(
            email_event(kind="email_opened", campaign=campaign),
            tuple(
                reworded(action, ("clicked a link", "opened an email"), ("Demo invitation", campaign))
                for action in (TASK, NOTE)
            ),
            id=f"Encharge: {campaign} opened",
        )
        for campaign in ("Proposal - May", "New PRICING 2026", "q2_Demo_FollowUp_1")
    ],
    pytest.param(
        email_event(kind="email_opened"),
        "no rule is for email_opened from encharge with campaign 'Demo invitation'",
        id="Encharge: another one opened",
    ),
    pytest.param(
        email_event(kind="email_opened", campaign=""), "no rule is for email_opened from encharge", id="unnamed"
    ),
    *[
        pytest.param(
            email_event("ortto", kind),
            (
                reworded(NOTE, ("Encharge", "Ortto"), ("clicked a link", did)),
                field_action("last_activity", 800301, f"{kind}: Demo invitation"),
            ),
            id=f"Ortto: {kind}",
        )
        for kind, did in (("email_opened", "opened an email"), ("email_clicked", "clicked a link"))
    ],
    *[
        pytest.param(
            email_event(source, "unsubscribed"),
            (TAG, field_action("email_status", 800302, "Unsubscribed")),
            id=f"{source}: unsubscribed",
        )
        for source in ("encharge", "ortto")
    ],
    pytest.param(
        email_event("ortto", "resubscribed"),
        (UNTAG, field_action("email_status_subscribed", 800302, "Subscribed")),
        id="resubscribed",
    ),
    pytest.param(
        email_event(kind="journey_completed", campaign="Onboarding"),
        (reworded(NOTE, ("clicked a link", "completed a journey"), ("Demo invitation", "Onboarding")),),
        id="a journey completed",
    ),
    pytest.param(
        email_event("ortto", "bounced"),
        (reworded(NOTE, ("Encharge", "Ortto"), ("clicked a link", "did not get an email (it bounced)")),),
        id="bounced",
    ),
]


@pytest.mark.parametrize(("event", "expected"), SHIPPED_RULES)
def test_the_shipped_rules_do_what_the_article_says(shipped: Rules, event: Event, expected: object) -> None:
    if isinstance(expected, str):
        assert shipped.refusal(event) == expected
        return
    owed = Owed(Lane.KOMMO, "lead:41500011", Response(41500011, 52300021, expected))
    assert (shipped.refusal(event), shipped.plan(event, CONTEXT, BOTH)) == (None, (owed,))


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        pytest.param(
            email_event(kind="other", name="tag\nremoved"), "'tag removed' is not an event we act on", id="other"
        ),
        pytest.param(email_event(first=False), "not the first event of its kind", id="a repeat"),
        pytest.param(email_event(first=True), None, id="the first"),
        pytest.param(email_event(kind="unsubscribed", first=False), None, id="unsubscribing counts always"),
        pytest.param(email_event(machine=True), "opened or clicked by a machine", id="a machine"),
        pytest.param(email_event(email=None), "no email address and no deal id", id="nobody"),
        pytest.param(email_event(email=None, lead_id=5), None, id="a deal is enough"),
    ],
)
def test_an_activity_is_refused_before_any_network(shipped: Rules, event: Event, reason: str | None) -> None:
    assert shipped.refusal(event) == reason


# -- email activity: the corners --


def test_every_rule_that_matches_applies_and_an_action_once(rules_of) -> None:  # type: ignore[no-untyped-def]
    rules = rules_of(
        "rules:\n  - do: [b, a]\n  - {when: {campaign: [nope, ÉTÉ]}, do: [a, c]}\n"
        "  - {when: {source: ortto}, do: [d]}\n"
        "actions:\n" + "".join(f"  {name}: {{note: {{text: {name}}}}}\n" for name in "abcd")
    )
    event = email_event(campaign="Offre d'e\u0301te\u0301")  # the accents apart, as a Mac writes them
    (owed,) = rules.plan(event, CONTEXT, ())
    assert [action.name for action in owed.plan.actions] == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("event", "context", "expected"),
    [
        pytest.param(email_event("ortto", "unsubscribed"), CONTEXT, (TAG,), id="the field is off, the tag stays"),
        pytest.param(
            email_event("ortto", "unsubscribed"),
            replace(CONTEXT, contact=None),
            "nothing to do in Kommo: unsubscribed_tag, email_status switched off, "
            "for want of a field's id, a deal, a contact, or words to write",
            id="nobody to put the tag on",
        ),
        pytest.param(email_event(), Context(contact=ZOE), NO_DEAL, id="no deal"),
    ],
)
def test_actions_that_are_off_are_left_out(event: Event, context: Context, expected: object) -> None:
    rules = load(SHIPPED, dict.fromkeys(VARIABLES))
    plan = rules.plan(event, context, ())
    assert (plan if isinstance(plan, str) else plan[0].plan.actions) == expected


def test_an_event_whose_actions_are_all_off_is_refused(rules_of) -> None:  # type: ignore[no-untyped-def]
    text = "rules:\n  - do: [status]\nactions:\n  status: {field: {id: $KOMMO_CF_EMAIL_STATUS, value: x}}\n"
    reason = (
        "nothing to do in Kommo: status switched off, "
        "for want of a field's id, a deal, a contact, or words to write"
    )
    assert rules_of(text, dict.fromkeys(VARIABLES)).refusal(email_event()) == reason
    assert rules_of(text).refusal(email_event()) is None


def test_a_task_can_be_somebody_elses(rules_of) -> None:  # type: ignore[no-untyped-def]
    rules = rules_of(
        "rules:\n  - do: [call]\n"
        "actions:\n  call: {task: {text: Call, due_in: 1d, type: 2, assign_to: 77, cooldown: 90}}\n"
    )
    (owed,) = rules.plan(email_event(), CONTEXT, ())
    call = Action(
        "call",
        "task",
        text="Call",
        due_in=86400,
        task_type=2,
        user_id=77,
        cooldown=90,
        scope="task:lead:41500011",
    )
    assert owed.plan.actions == (call,)


def render(rules_of, text: str, event: Event, context: Context = CONTEXT, kind: str = "note") -> str:  # type: ignore[no-untyped-def]
    body = f'{{text: "{text}"}}' if kind == "note" else f'{{id: 5, value: "{text}"}}'
    rules = rules_of(f"rules:\n  - do: [say]\nactions:\n  say: {{{kind}: {body}}}\n")
    (owed,) = rules.plan(event, context, ())
    return str(owed.plan.actions[0].text)


@pytest.mark.parametrize(
    ("text", "event", "context", "rendered"),
    [
        pytest.param(
            "{source} {platform} {event} {did} {first_name} {lead} {lead_id} {link}",
            email_event("ortto", "email_opened", link="https://a.example"),
            CONTEXT,
            "ortto Ortto email_opened opened an email Zoë Website order 41500011 https://a.example",
            id="all of them",
        ),
        pytest.param(
            "{name}|{first_name}|{email}|{campaign}|{lead}|{link}",
            email_event(email=None, lead_id=41500011, campaign=""),
            Context(lead=replace(LEAD, name="")),
            "the contact|the contact|no email address|(no campaign name)|deal 41500011|",
            id="none of them",
        ),
        pytest.param(
            "{email}", email_event(email=None, lead_id=1), CONTEXT, "zoe@example.com", id="Kommo's address"
        ),
        pytest.param(
            "{campaign}",
            email_event(campaign="{email} {0} {{x}}"),
            CONTEXT,
            "(email) (0) ((x))",
            id="braces of others",
        ),
        pytest.param(
            "{campaign}",
            email_event(campaign=" Квалификация\r\n\tи\x00 цена\u2028\u202e "),
            CONTEXT,
            "Квалификация и цена",
            id="one line, no control characters",
        ),
        pytest.param(
            "{campaign}", email_event(campaign="👩\u200d💻 سلام"), CONTEXT, "👩\u200d💻 سلام", id="emoji stay whole"
        ),
        pytest.param("{campaign}", email_event(campaign="ж" * 999), CONTEXT, "ж" * 249 + "…", id="cut"),
        pytest.param("A \\n\\n {link} \\nB", email_event(), CONTEXT, "A\n\n\nB", id="our own lines stay"),
    ],
)
def test_a_text_is_filled_in(rules_of, text: str, event: Event, context: Context, rendered: str) -> None:  # type: ignore[no-untyped-def]
    assert render(rules_of, text, event, context) == rendered


def test_a_fields_value_fits_into_kommos_field(rules_of) -> None:  # type: ignore[no-untyped-def]
    value = render(rules_of, "{campaign}{campaign}", email_event(campaign="ж" * 200), kind="field")
    assert value == "ж" * 254 + "…"


# -- the current stage (O7) --


@pytest.mark.parametrize(
    ("lane", "status_id", "stage"),
    [
        pytest.param(Lane.ENCHARGE, 61000104, "negotiation", id="Encharge"),
        pytest.param(Lane.ORTTO, 61000104, "Negotiation", id="Ortto"),
        pytest.param(Lane.ORTTO, 142, "Won", id="won"),
        pytest.param(Lane.ENCHARGE, 99, "qualified", id="a stage without words"),
    ],
)
def test_the_person_gets_the_deals_stage_of_now(shipped: Rules, lane: Lane, status_id: int, stage: str) -> None:
    lead = replace(LEAD, status_id=status_id)
    assert shipped.current(lead, news(), lane) == news(person_stage=stage)


def test_a_deal_that_is_further_on_already_gives_its_person_the_later_stage(shipped: Rules) -> None:
    context = replace(CONTEXT, lead=replace(LEAD, status_id=61000104))
    owed = shipped.plan(stage_event(61000102), context, (Lane.ENCHARGE,))
    assert owed == (Owed(Lane.ENCHARGE, "lead:41500011", news(stage="qualified", person_stage="negotiation")),)
