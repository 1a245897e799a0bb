"""The rules, row by row: a webhook, the rules, how Kommo stands, what came before → what is written into Kommo.

Every row runs the whole way: webhook in, answer out, calls over real sockets to the sandbox's Kommo. Only the clock
is set: it is Tuesday, 3 March 2026, 10:00 UTC, until a row says `later`. `reads` counts the calls that only read.
Marta, Zoë and Ada live in the sandbox; contact 2001 and deals 1001 to 1003 are a row's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
from house import (
    ACTIVITY,
    ADA,
    ADA_FORM,
    ADA_TASTING,
    DAY,
    HOUR,
    INES,
    LOST,
    MARTA,
    MARTA_CONTACT,
    MARTA_DEAL,
    MINUTE,
    NEWSLETTER,
    OMAR,
    PLAN,
    SALES,
    SHIPPED,
    STATUS,
    WHOLESALE,
    WHOLESALE_STAGE,
    WON,
    ZOE,
    ZOE_CONTACT,
    ZOE_DEAL,
    ZOE_WON,
    Hook,
    House,
    Step,
    Write,
    at,
    captured,
    contact,
    deal,
    deleted,
    encharge,
    fields,
    filled,
    later,
    move_in,
    moved,
    note,
    note_longer,
    ortto,
    tagged,
    tags,
    task,
    task_longer,
    the_task_is_completed,
    the_task_is_deleted,
    untags,
)
from parts import FIELDS, rules_of
from support import NEGOTIATION, PROPOSAL_SENT

from app.mapping import Rules
from sandbox.town import Town

# -- rules -------------------------------------------------------------------------------------------------------

ACTIONS = """
actions:
  call: {task: {text: "Call {name}"}}
  tell: {note: {text: "{email} {did}"}}
  mark: {tag: {name: Warm}}
"""


def when(condition: str, do: str = "tell", head: str = "") -> str:
    """Return a mapping file with one rule for what is said; two named stages."""
    stages = f"stages: [{{stage: proposal_sent, status: {PROPOSAL_SENT}}}, {{stage: won, status: {WON}}}]"
    return f"{head}\n{stages}\nrules:\n  - {{when: {{{condition}}}, do: [{do}]}}\n{ACTIONS}"


def action(body: str, head: str = "", condition: str = "") -> str:
    """Return a mapping file that does one thing whatever happens."""
    return f"{head}\nrules:\n  - {{when: {{{condition}}}, do: [it]}}\nactions:\n  it: {body}\n"


# -- the table ---------------------------------------------------------------------------------------------------

DELIVERED = ("delivered", [""])
Answer = tuple[str, list[str]]


def ignored(*reasons: str) -> Answer:
    return "ignored", list(reasons)


@dataclass(frozen=True)
class Row:
    """What comes of a webhook: the answer, and the calls to Kommo."""

    says: str
    hook: Hook
    given: Sequence[Step] = ()
    rules: str = SHIPPED
    answer: Answer = DELIVERED
    writes: Sequence[Write] = ()
    reads: int = 0
    custom_fields: bool = True  # whether the deal's custom fields are set up
    leaves: dict[int, list[str]] = field(default_factory=dict)  # the tags that contacts have in the end


PRICING = "Pricing 2026"
OFFER = "Your offer"
MARTA_SAYS = f"Encharge: Marta Keller ({MARTA})"
HURRY = "Follow up within 1–2 hours, while it is fresh."
NO_DEAL = "no active deal: neither the deal it names nor a contact with this email has one"
NORA = "nora@example.net"

click, opened = encharge("email_clicked"), encharge("email_opened")
unsubscribes, resubscribes = encharge("unsubscribed"), encharge("resubscribed")
ortto_open, ortto_click = ortto("act::o"), ortto("act::c")
ortto_unsubscribes, ortto_resubscribes = ortto("act::u-all"), ortto("act::s-all")


def no_rule(hook: str, rest: str = f"with campaign '{PRICING}'") -> Answer:
    """Return the answer to what no rule is for; `hook`: as "email_clicked from encharge"."""
    return ignored(f"no rule is for {hook} {rest}")


def not_here(hook: str = "email_clicked from encharge") -> Answer:
    return no_rule(hook, "of this deal, contact and history")


def nothing_to_do(actions: str) -> Answer:
    why = "for want of a field's id, a deal, a contact, or words to write"
    return ignored(f"nothing to do in Kommo: {actions} switched off, {why}")


def shipped_task(text: str, number: int = MARTA_DEAL, **more: Any) -> Write:
    return task(number, f"{text}. {HURRY}", **more)


def told(number: int = MARTA_DEAL, email: str = MARTA, did: str = "clicked a link") -> Write:
    """Return the note of the rules made by `when`."""
    return note(number, f"{email} {did}")


TASK_AND_NOTE = [
    shipped_task(f"{MARTA_SAYS} clicked a link in '{PRICING}'"),
    note(MARTA_DEAL, f"{MARTA_SAYS} clicked a link: '{PRICING}'"),
]
TELLS = [told()]
CALL = task(MARTA_DEAL, "Call Marta Keller")
BERLIN = "time_zone: Europe/Berlin"
OFFICE = f'{BERLIN}\nworking_hours: {{days: mon-fri, from: "09:00", to: "18:00"}}'
EXTENDS = action('{task: {text: "{did}: {campaign}", within_cooldown: extend}}')
GATHERS = action('{note: {text: "{did}: {campaign}", gather: 10m}}')
BY_KIND = action('{task: {text: "{did}", cooldown_for: kind}}')
EACH_PIPELINE = action(f"{{task: {{text: Call, assign_to: {{{WHOLESALE}: {OMAR}, other: {INES}}}}}}}")

SHIPPED_RULES = [
    Row(
        "an Encharge click: a task in two hours for the deal's owner, and a note",
        click,
        writes=TASK_AND_NOTE,
        reads=2,
    ),
    Row(
        "an Encharge click on a link: the note tells which",
        encharge("email_link_clicked", link="https://a.example/p?x=1"),
        writes=[
            TASK_AND_NOTE[0],
            note(MARTA_DEAL, f"{MARTA_SAYS} clicked a link: '{PRICING}' https://a.example/p?x=1"),
        ],
        reads=2,
    ),
    Row(
        "an Encharge open of a proposal, whatever its capitals: a task and a note",
        encharge("email_opened", campaign="Your PROPOSAL, May"),
        writes=[
            shipped_task(f"{MARTA_SAYS} opened an email in 'Your PROPOSAL, May'"),
            note(MARTA_DEAL, f"{MARTA_SAYS} opened an email: 'Your PROPOSAL, May'"),
        ],
        reads=2,
    ),
    Row(
        "an Encharge open of a newsletter: nothing, and Kommo is not even asked",
        encharge("email_opened", campaign="Newsletter"),
        answer=no_rule("email_opened from encharge", "with campaign 'Newsletter'"),
    ),
    Row(
        "an Ortto open: a note and the last activity, no task",
        ortto_open,
        writes=[
            note(MARTA_DEAL, f"Ortto: Marta Keller ({MARTA}) opened an email: '{OFFER}'"),
            fields({MARTA_DEAL: f"email_opened: {OFFER}"}, ACTIVITY),
        ],
        reads=3,
    ),
    Row(
        "an Ortto click whose activity the deal shows already: only the note",
        ortto_click,
        [filled(MARTA_DEAL, ACTIVITY, f"email_clicked: {OFFER}")],
        writes=[note(MARTA_DEAL, f"Ortto: Marta Keller ({MARTA}) clicked a link: '{OFFER}'")],
        reads=3,
    ),
    Row(
        "a bounce: a note",
        encharge("bounced"),
        writes=[note(MARTA_DEAL, f"{MARTA_SAYS} did not get an email (it bounced): '{PRICING}'")],
        reads=2,
    ),
    Row(
        "a journey completed: a note",
        ortto("act::lj", str__cn="Welcome"),
        writes=[note(MARTA_DEAL, f"Ortto: Marta Keller ({MARTA}) completed a journey: 'Welcome'")],
        reads=2,
    ),
    Row(
        "without the custom fields: an Ortto open is a note, and that is all",
        ortto_open,
        custom_fields=False,
        writes=[note(MARTA_DEAL, f"Ortto: Marta Keller ({MARTA}) opened an email: '{OFFER}'")],
        reads=2,
    ),
    Row(
        "without the custom fields: an unsubscribe still tags the contact",
        unsubscribes,
        custom_fields=False,
        writes=[tags(MARTA_CONTACT)],
        reads=3,
    ),
    Row(
        "without the custom field: a rule that does nothing else says so",
        click,
        rules=action("{field: {id: $KOMMO_CF_EMAIL_STATUS, value: Hot}}"),
        custom_fields=False,
        answer=nothing_to_do("it"),
    ),
]

NOISE = [
    Row(
        "a click that Encharge calls not the first: nothing",
        encharge("email_clicked", isFirstEvent=False),
        answer=ignored("not the first event of its kind"),
    ),
    Row(
        "a click that Encharge calls the first: told",
        encharge("email_clicked", isFirstEvent=True),
        writes=TASK_AND_NOTE,
        reads=2,
    ),
    Row(
        "an unsubscribe counts, first or not",
        encharge("unsubscribed", isFirstEvent="false"),
        writes=[fields({MARTA_DEAL: "Unsubscribed"}), tags(MARTA_CONTACT)],
        reads=4,
    ),
    Row(
        "an open by a machine: nothing",
        ortto("act::o", bol__m=True),
        answer=ignored("opened or clicked by a machine"),
    ),
    Row(
        "a click by a machine: nothing",
        ortto("act::c", bol__m="true"),
        answer=ignored("opened or clicked by a machine"),
    ),
    Row(
        "the very same webhook again: nothing",
        captured("ortto/04-activity-email-clicked.json"),
        [captured("ortto/04-activity-email-clicked.json")],
        answer=("duplicate", ["the same as event 1"]),
    ),
    Row(
        "nobody is named: nothing",
        encharge("email_clicked", None),
        answer=ignored("no email address and no deal id"),
    ),
    Row(
        "only Encharge's own id is named, and Encharge is not connected: nothing, and why",
        encharge("email_clicked", None, person_id="7f3a"),
        answer=ignored("no email address: Encharge tells none for this person, or its API key is not set"),
    ),
    Row(
        "an event of no concern: nothing",
        encharge("page visited"),
        answer=ignored("'page visited' is not an event we act on"),
    ),
    Row(
        "our own write of a person comes back from Encharge: nothing",
        captured("encharge/subscription_updatedUser.json"),
        answer=ignored("a change made through Encharge's API, such as our own"),
    ),
    Row(
        "our own activity comes back from Ortto: nothing",
        captured("ortto/11-activity-of-our-own.json"),
        answer=ignored("an activity that this service writes"),
    ),
    *[
        Row(
            f"our own {what} comes back from Kommo: nothing",
            captured(f"kommo/{file}"),
            [click],
            answer=ignored("1 of them; only leads.status and leads.add are carried on"),
        )
        for what, file in (
            ("tag on a contact", "contact_update.form"),
            ("field of a deal", "lead_update_account_last.form"),
            ("note", "lead_note.form"),
            ("task", "task_update_completed.form"),
        )
    ],
]

THE_RIGHT_DEAL = [
    Row(
        "the deal that the webhook names, though another was touched later",
        encharge("email_clicked", kommo_lead_id=str(MARTA_DEAL)),
        [later(HOUR), deal(1_001, MARTA_CONTACT)],
        when(""),
        writes=TELLS,
        reads=2,
    ),
    Row(
        "the deal that the webhook names, without an address",
        encharge("email_clicked", None, kommo_lead_id=MARTA_DEAL),
        rules=when(""),
        writes=TELLS,
        reads=2,
    ),
    Row(
        "no deal named, several active: the one touched last",
        click,
        [
            later(HOUR),
            deal(1_001, MARTA_CONTACT),
            deal(1_002, MARTA_CONTACT),
            later(HOUR),
            moved(1_001, NEGOTIATION),
        ],
        when(""),
        writes=[told(1_001)],
        reads=2,
    ),
    *[
        Row(
            f"the deal touched last is {how}: the active one before it",
            click,
            [later(HOUR), deal(1_001, MARTA_CONTACT), end],
            when(""),
            writes=TELLS,
            reads=2,
        )
        for how, end in (("won", moved(1_001, WON)), ("lost", moved(1_001, LOST)), ("deleted", deleted(1_001)))
    ],
    Row(
        "the deal named is won: the contact's active one",
        encharge("email_clicked", ZOE, kommo_lead_id=ZOE_WON),
        rules=when(""),
        writes=[told(ZOE_DEAL, ZOE)],
        reads=4,
    ),
    Row(
        "the deal named is won, without an address: its contact's active one",
        encharge("email_clicked", None, kommo_lead_id=ZOE_WON),
        rules=when(""),
        writes=[told(ZOE_DEAL, ZOE)],
        reads=4,
    ),
    Row(
        "the deal named is deleted: the contact's other one",
        encharge("email_clicked", ADA, kommo_lead_id=ADA_TASTING),
        [deleted(ADA_TASTING)],
        when(""),
        writes=[told(ADA_FORM, ADA)],
        reads=3,
    ),
    Row(
        "the deal named is of another account: by the address",
        encharge("email_clicked", kommo_lead_id=99),
        rules=when(""),
        writes=TELLS,
        reads=3,
    ),
    Row(
        "two contacts with one address: whoever has the deal touched last",
        click,
        [later(HOUR), contact(2_001, MARTA, "Nora Berg"), deal(1_001, 2_001)],
        action('{note: {text: "{name}: {lead}"}}'),
        writes=[note(1_001, "Nora Berg: Deal 1001")],
        reads=2,
    ),
    Row(
        "a contact whose address only looks like it: not that one",
        click,
        [later(HOUR), contact(2_001, f"x{MARTA}"), deal(1_001, 2_001)],
        when(""),
        writes=TELLS,
        reads=2,
    ),
    Row(
        "a contact's second address, in capitals: found",
        encharge("email_clicked", "Zoe.Private@Example.org"),
        rules=when(""),
        writes=[told(ZOE_DEAL, "zoe.private@example.org")],
        reads=2,
    ),
    Row(
        "a deal of two people: the one with the address is named",
        encharge("email_clicked", NORA, kommo_lead_id=1_001),
        [contact(2_001, NORA), deal(1_001, [MARTA_CONTACT, 2_001])],
        action('{note: {text: "{name}"}}'),
        writes=[note(1_001, "Nora Berg")],
        reads=2,
    ),
    Row("a stranger: nothing", encharge("email_clicked", NORA), answer=ignored(NO_DEAL), reads=1),
    Row(
        "a contact without a deal: nothing",
        encharge("email_clicked", NORA),
        [contact(2_001, NORA)],
        answer=ignored(NO_DEAL),
        reads=1,
    ),
    Row(
        "a contact without a deal, and the rules want the contact: its note and its tag, no task",
        encharge("email_clicked", NORA),
        [contact(2_001, NORA)],
        when("", "call, tell, mark", "without_active_deal: contact"),
        writes=[note(2_001, f"{NORA} clicked a link", "contacts"), tags(2_001, name="Warm")],
        reads=2,
    ),
    Row(
        "only closed deals, and the rules want the contact: its note",
        click,
        [moved(MARTA_DEAL, LOST)],
        when("", head="without_active_deal: contact"),
        writes=[note(MARTA_CONTACT, f"{MARTA} clicked a link", "contacts")],
        reads=2,
    ),
    Row(
        "a stranger, and the rules want the contact: nothing",
        encharge("email_clicked", NORA),
        rules=when("", head="without_active_deal: contact"),
        answer=ignored(NO_DEAL),
        reads=1,
    ),
]

CONDITIONS = [
    Row("source: ortto, and Ortto says it", ortto_click, rules=when("source: ortto"), writes=TELLS, reads=2),
    Row(
        "source: ortto, and Encharge says it",
        click,
        rules=when("source: ortto"),
        answer=no_rule("email_clicked from encharge"),
    ),
    Row("event: one of two", click, rules=when("event: [bounced, email_clicked]"), writes=TELLS, reads=2),
    Row("event: another", opened, rules=when("event: email_clicked"), answer=no_rule("email_opened from encharge")),
    Row(
        "campaign: a word of it, capitals and accents apart",
        encharge("email_clicked", campaign="Offre d'E\u0301TE\u0301"),
        rules=when("campaign: [nope, été]"),
        writes=TELLS,
        reads=2,
    ),
    Row(
        "campaign: no word of it",
        click,
        rules=when("campaign: [demo]"),
        answer=no_rule("email_clicked from encharge"),
    ),
    Row("campaign: a * for anything in between", click, rules=when('campaign: "pri*20*6"'), writes=TELLS, reads=2),
    Row(
        "campaign: a * never turns words round",
        click,
        rules=when('campaign: "2026*pricing"'),
        answer=no_rule("email_clicked from encharge"),
    ),
    Row("subject: a word of Ortto's", ortto_click, rules=when("subject: offer"), writes=TELLS, reads=2),
    Row(
        "subject: another",
        ortto_click,
        rules=when("subject: invoice"),
        answer=no_rule("email_clicked from ortto", f"with campaign '{OFFER}'"),
    ),
    Row(
        "link: a * in the address",
        encharge("email_clicked", link="https://www.a.example/en/DEMO?u=1"),
        rules=when('link: ["pricing", "a.example/*/demo"]'),
        writes=TELLS,
        reads=2,
    ),
    Row(
        "link: another page",
        encharge("email_clicked", link="https://a.example/blog"),
        rules=when("link: [pricing, demo]"),
        answer=no_rule("email_clicked from encharge"),
    ),
    Row(
        "link: one is wanted, and none is told",
        click,
        rules=when("link: pricing"),
        answer=no_rule("email_clicked from encharge"),
    ),
    Row(
        "link: a * alone is any link",
        encharge("email_clicked", link="https://a.example/blog"),
        rules=when('link: "*"'),
        writes=TELLS,
        reads=2,
    ),
    Row(
        "link: a * alone, and none is told",
        click,
        rules=when('link: "*"'),
        answer=no_rule("email_clicked from encharge"),
    ),
    Row(
        "first: the first click in a campaign",
        click,
        [opened, encharge("email_clicked", campaign="Other")],
        when("first: true, event: email_clicked", head="one_signal: 0s"),
        writes=TELLS,
        reads=2,
    ),
    Row("first: the second one", click, [click, later(DAY)], when("first: true"), answer=not_here(), reads=2),
    Row(
        "first: somebody else's click does not count",
        click,
        [encharge("email_clicked", ZOE)],
        when("first: true"),
        writes=TELLS,
        reads=2,
    ),
    Row(
        "first: what a machine did does not count",
        ortto_open,
        [ortto("act::o", bol__m=True)],
        when("first: true"),
        writes=[told(did="opened an email")],
        reads=2,
    ),
    Row(
        "first: false is for the later ones",
        click,
        [click, later(DAY)],
        when("first: false"),
        writes=TELLS,
        reads=2,
    ),
    Row("first: false is not for the first", click, rules=when("first: false"), answer=not_here(), reads=2),
    Row("quiet: nothing ever before", click, rules=when("quiet: 30d"), writes=TELLS, reads=2),
    Row(
        "quiet: nothing for 30 days",
        click,
        [ortto_open, later(30 * DAY)],
        when("quiet: 30d, event: email_clicked"),
        writes=TELLS,
        reads=2,
    ),
    Row(
        "quiet: an open 29 days ago, at the other platform",
        click,
        [ortto_open, later(29 * DAY)],
        when("quiet: 30d, event: email_clicked"),
        answer=not_here(),
        reads=2,
    ),
    Row(
        "quiet: the open just before the click has ended it",
        click,
        [opened, later(5)],
        when("quiet: 30d, event: email_clicked"),
        answer=not_here(),
        reads=2,
    ),
    Row(
        "quiet: the open that ends it, where both are named",
        opened,
        [later(5)],
        when("quiet: 30d, event: [email_opened, email_clicked]"),
        writes=[told(did="opened an email")],
        reads=2,
    ),
    Row(
        "quiet: a bounce is nothing that the person did",
        click,
        [encharge("bounced")],
        when("quiet: 30d, event: email_clicked"),
        writes=TELLS,
        reads=2,
    ),
    Row("stage: by its name", click, rules=when("stage: [won, proposal_sent]"), writes=TELLS, reads=2),
    Row("stage: by its number", click, rules=when(f"stage: {PROPOSAL_SENT}"), writes=TELLS, reads=2),
    Row(
        "stage: the deal has left it",
        click,
        [moved(MARTA_DEAL, NEGOTIATION)],
        when("stage: proposal_sent"),
        answer=not_here(),
        reads=2,
    ),
    Row("pipeline: this one", click, rules=when(f"pipeline: [{WHOLESALE}, {SALES}]"), writes=TELLS, reads=2),
    Row(
        "pipeline: another",
        click,
        [moved(MARTA_DEAL, WHOLESALE_STAGE, WHOLESALE)],
        when(f"pipeline: {SALES}"),
        answer=not_here(),
        reads=2,
    ),
    Row(
        "tag: one that the contact has, in whatever capitals",
        encharge("email_clicked", ZOE),
        rules=when("tag: [partner, VIP]"),
        writes=[told(ZOE_DEAL, ZOE)],
        reads=2,
    ),
    Row("tag: one that the contact has not", click, rules=when("tag: vip"), answer=not_here(), reads=2),
    Row(
        "field: of the contact",
        encharge("email_clicked", ZOE),
        rules=when("field: {contact.POSITION: [ceo, owner]}"),
        writes=[told(ZOE_DEAL, ZOE)],
        reads=2,
    ),
    Row(
        "field: of the contact, another value",
        encharge("email_clicked", ZOE),
        rules=when("field: {contact.POSITION: ceo}"),
        answer=not_here(),
        reads=2,
    ),
    Row(
        "field: of the contact, empty",
        click,
        rules=when("field: {contact.POSITION: owner}"),
        answer=not_here(),
        reads=2,
    ),
    Row(
        "field: a checkbox that is ticked",
        encharge("email_clicked", ZOE),
        rules=when(f'field: {{lead.{NEWSLETTER}: "yes"}}'),
        writes=[told(ZOE_DEAL, ZOE)],
        reads=2,
    ),
    Row(
        "field: a price of nothing",
        encharge("email_clicked", ADA),
        rules=when('field: {lead.price: "0"}'),
        writes=[told(ADA_TASTING, ADA)],
        reads=2,
    ),
    Row(
        "field: of the deal and of its company, both hold",
        encharge("email_clicked", ZOE),
        rules=when(f"field: {{lead.{PLAN}: Team, company.INDUSTRY: food}}"),
        writes=[told(ZOE_DEAL, ZOE)],
        reads=3,
    ),
    Row(
        "field: of the deal and of its company, one holds",
        encharge("email_clicked", ZOE),
        rules=when(f"field: {{lead.{PLAN}: Team, company.INDUSTRY: steel}}"),
        answer=not_here(),
        reads=3,
    ),
    Row(
        "two rules match: every action, each once, in the order of the file",
        click,
        rules=f"rules: [{{do: [tell, mark]}}, {{when: {{event: email_clicked}}, do: [call, tell]}}]\n{ACTIONS}",
        writes=[CALL, *TELLS, tags(MARTA_CONTACT, name="Warm")],
        reads=3,
    ),
]

TASKS = [
    Row(
        "due_in: a day, and a meeting",
        click,
        rules=action("{task: {text: Meet, due_in: 1d, type: 2}}"),
        writes=[task(MARTA_DEAL, "Meet", due="03-04 10:00", kind=2)],
        reads=2,
    ),
    Row(
        "due_at: later today, on the team's clock",
        click,
        rules=action('{task: {text: Call, due_at: "16:30"}}', BERLIN),
        writes=[task(MARTA_DEAL, "Call", due="03-03 15:30")],
        reads=2,
    ),
    Row(
        "due_at: past for today, so tomorrow",
        click,
        rules=action('{task: {text: Call, due_at: "09:30"}}', BERLIN),
        writes=[task(MARTA_DEAL, "Call", due="03-04 08:30")],
        reads=2,
    ),
    Row(
        "working hours: within them, as due",
        click,
        rules=action("{task: {text: Call}}", OFFICE),
        writes=[task(MARTA_DEAL, "Call", due="03-03 12:00")],
        reads=2,
    ),
    Row(
        "working hours: a click at 23:00 is due next morning",
        click,
        [later(12 * HOUR)],
        action("{task: {text: Call}}", OFFICE),
        writes=[task(MARTA_DEAL, "Call", due="03-04 08:00")],
        reads=2,
    ),
    Row(
        "working hours: a click on Friday evening is due on Monday",
        click,
        [later(3 * DAY + 7 * HOUR)],
        action("{task: {text: Call}}", OFFICE),
        writes=[task(MARTA_DEAL, "Call", due="03-09 08:00")],
        reads=2,
    ),
    Row(
        "assign_to: the owner of the deal of now",
        click,
        [deal(1_001, MARTA_CONTACT, responsible_user_id=OMAR)],
        action("{task: {text: Call}}"),
        writes=[task(1_001, "Call", user=OMAR)],
        reads=2,
    ),
    Row(
        "assign_to: always the same user",
        click,
        rules=action(f"{{task: {{text: Call, assign_to: {OMAR}}}}}"),
        writes=[task(MARTA_DEAL, "Call", user=OMAR)],
        reads=2,
    ),
    Row(
        "assign_to: the user of the deal's pipeline",
        click,
        [moved(MARTA_DEAL, WHOLESALE_STAGE, WHOLESALE)],
        EACH_PIPELINE,
        writes=[task(MARTA_DEAL, "Call", user=OMAR)],
        reads=2,
    ),
    Row(
        "assign_to: the user of all other pipelines",
        click,
        [deal(1_001, MARTA_CONTACT, responsible_user_id=OMAR)],
        EACH_PIPELINE,
        writes=[task(1_001, "Call", user=INES)],
        reads=2,
    ),
    Row(
        "cooldown: a second click within a day is only a note",
        click,
        [click, later(DAY - 1)],
        writes=TASK_AND_NOTE[1:],
        reads=2,
    ),
    Row(
        "cooldown: a click a day later is a task again",
        click,
        [click, later(DAY)],
        writes=[shipped_task(f"{MARTA_SAYS} clicked a link in '{PRICING}'", due="03-04 12:00"), TASK_AND_NOTE[1]],
        reads=2,
    ),
    Row(
        "cooldown: another deal has its own",
        encharge("email_clicked", ZOE),
        [click],
        when("", "call"),
        writes=[task(ZOE_DEAL, "Call Zoë Example")],
        reads=2,
    ),
    Row(
        "cooldown: 0 is a task each",
        click,
        [click],
        action("{task: {text: Call, cooldown: 0}}"),
        writes=[task(MARTA_DEAL, "Call")],
        reads=2,
    ),
    Row(
        "cooldown_for: kind, so the click after an open has its task",
        click,
        [opened, later(MINUTE)],
        BY_KIND,
        writes=[task(MARTA_DEAL, "clicked a link", due="03-03 12:01")],
        reads=2,
    ),
    Row("cooldown_for: kind, and the second click has none", click, [click, later(MINUTE)], BY_KIND, reads=2),
    Row(
        "within_cooldown: extend, so the open task tells the second click too",
        encharge("email_clicked", campaign="Demo"),
        [click, later(HOUR)],
        EXTENDS,
        writes=[task_longer(f"clicked a link: {PRICING}", "clicked a link: Demo")],
        reads=3,
    ),
    Row(
        "within_cooldown: extend, and the same words are not said twice",
        click,
        [click, later(HOUR)],
        EXTENDS,
        reads=3,
    ),
    Row(
        "within_cooldown: extend, but the task is completed: it stays as it is",
        encharge("email_clicked", campaign="Demo"),
        [click, the_task_is_completed, later(HOUR)],
        EXTENDS,
        reads=3,
    ),
    Row(
        "within_cooldown: extend, but the task is deleted: no other is made",
        encharge("email_clicked", campaign="Demo"),
        [click, the_task_is_deleted, later(HOUR)],
        EXTENDS,
        reads=3,
    ),
    Row(
        "within_cooldown: extend, but the task is full: it stays as it is",
        encharge("email_clicked", campaign="e" * 250),
        [encharge("email_clicked", campaign=letter * 250) for letter in "abcd"],
        action(f'{{task: {{text: "{"{campaign}" * 7}", within_cooldown: extend}}}}'),
        reads=3,
    ),
    Row(
        "within_cooldown: extend, and the cooldown is over: a task of its own",
        click,
        [click, later(DAY)],
        EXTENDS,
        writes=[task(MARTA_DEAL, f"clicked a link: {PRICING}", due="03-04 12:00")],
        reads=2,
    ),
]

NOTES_FIELDS_TAGS = [
    Row(
        "gather: a second click within ten minutes is a line of the first one's note",
        encharge("email_clicked", campaign="Demo"),
        [click, later(9 * MINUTE)],
        GATHERS,
        writes=[note_longer(f"clicked a link: {PRICING}", "clicked a link: Demo")],
        reads=3,
    ),
    Row(
        "gather: the note is full, so the next click has a note of its own",
        encharge("email_clicked", campaign="e" * 250),
        [encharge("email_clicked", campaign=letter * 250) for letter in "abcd"],
        action(f'{{note: {{text: "{"{campaign}" * 7}", gather: 10m}}}}'),
        writes=[note(MARTA_DEAL, "e" * 1_750)],
        reads=3,
    ),
    Row(
        "gather: ten minutes later it is a note of its own",
        encharge("email_clicked", campaign="Demo"),
        [click, later(10 * MINUTE)],
        GATHERS,
        writes=[note(MARTA_DEAL, "clicked a link: Demo")],
        reads=2,
    ),
    Row(
        "gather: another deal has its own note",
        encharge("email_clicked", ZOE),
        [click],
        GATHERS,
        writes=[note(ZOE_DEAL, f"clicked a link: {PRICING}")],
        reads=2,
    ),
    Row(
        "gather: on a contact without a deal too",
        encharge("email_clicked", NORA, "Demo"),
        [contact(2_001, NORA), encharge("email_clicked", NORA)],
        GATHERS.replace("\n", "\nwithout_active_deal: contact\n", 1),
        writes=[note_longer(f"clicked a link: {PRICING}", "clicked a link: Demo", on="contacts")],
        reads=2,
    ),
    Row("without gather: a note each", click, [click], when(""), writes=TELLS, reads=2),
    Row(
        "field: by its number, cut to what Kommo takes",
        encharge("email_clicked", campaign="ж" * 400),
        rules=action(f'{{field: {{id: {STATUS}, value: "{{campaign}}{{campaign}}"}}}}'),
        writes=[fields({MARTA_DEAL: "ж" * 249 + "…" + "ж" * 4 + "…"})],
        reads=3,
    ),
    Row(
        "field: the same value stands there",
        click,
        [filled(MARTA_DEAL, STATUS, "Hot")],
        action(f"{{field: {{id: {STATUS}, value: Hot}}}}"),
        reads=3,
    ),
    Row(
        "tag: on the contact, beside the one that was there",
        encharge("email_clicked", ZOE),
        rules=when("", "mark"),
        writes=[tags(ZOE_CONTACT, name="Warm")],
        reads=3,
        leaves={ZOE_CONTACT: ["vip", "Warm"]},
    ),
    Row(
        "tag: it is there already",
        click,
        [tagged(MARTA_CONTACT, "Warm")],
        when("", "mark"),
        reads=3,
        leaves={MARTA_CONTACT: ["Warm"]},
    ),
    Row(
        "tag: on the deal",
        click,
        rules=action("{tag: {on: lead, name: Warm}}"),
        writes=[tags(MARTA_DEAL, name="Warm", on="leads")],
        reads=3,
    ),
    Row(
        "untag: off the deal, the others stay",
        encharge("email_clicked", ZOE),
        rules=action("{untag: {on: lead, name: EU}}"),
        writes=[untags(ZOE_DEAL, name="EU", on="leads")],
        reads=3,
    ),
    Row("untag: it is not there", click, rules=action("{untag: {on: contact, name: Cold}}"), reads=3),
    Row(
        "tag: a deal without a contact has nobody to tag",
        encharge("email_clicked", None, kommo_lead_id=1_001),
        [deal(1_001, [])],
        when("", "mark"),
        answer=nothing_to_do("mark"),
        reads=1,
    ),
]

ONE_SIGNAL = [
    Row(
        "a click seconds after its open: told in the note of the open",
        ortto_click,
        [ortto_open, later(9)],
        when(""),
        writes=[note_longer(f"{MARTA} opened an email", f"{MARTA} clicked a link")],
        reads=3,
    ),
    Row(
        "an open seconds after its click: nothing",
        ortto_open,
        [ortto_click, later(9)],
        when(""),
        answer=ignored("one signal with the click of event 1"),
        reads=2,
    ),
    Row(
        "a click a while after the open: a note of its own",
        ortto_click,
        [ortto_open, later(11)],
        when(""),
        writes=TELLS,
        reads=2,
    ),
    Row(
        "an open a while after the click: told",
        ortto_open,
        [ortto_click, later(11)],
        when(""),
        writes=[told(did="opened an email")],
        reads=2,
    ),
    Row(
        "a click in another campaign: a note of its own",
        encharge("email_clicked", campaign="Demo"),
        [opened],
        when(""),
        writes=TELLS,
        reads=2,
    ),
    Row(
        "an open after a click that no rule is for: told",
        opened,
        [click],
        when("event: email_opened"),
        writes=[told(did="opened an email")],
        reads=2,
    ),
    Row(
        "an open after a click that Encharge calls not the first: told",
        opened,
        [encharge("email_clicked", isFirstEvent=False)],
        when(""),
        writes=[told(did="opened an email")],
        reads=2,
    ),
    Row(
        "an open after a click on another page than the rules want: told",
        opened,
        [encharge("email_clicked", link="https://a.example/blog")],
        f"rules: [{{when: {{event: email_opened}}, do: tell}}, {{when: {{link: pricing}}, do: tell}}]\n{ACTIONS}",
        writes=[told(did="opened an email")],
        reads=2,
    ),
    Row(
        "an open after a click on the page that the rules want: nothing",
        opened,
        [encharge("email_clicked", link="https://a.example/pricing")],
        f"rules: [{{when: {{event: email_opened}}, do: tell}}, {{when: {{link: pricing}}, do: tell}}]\n{ACTIONS}",
        answer=ignored("one signal with the click of event 1"),
        reads=2,
    ),
    Row(
        "an open after a click that was not the first of its campaign, as the rules want it: told",
        opened,
        [click, later(DAY), click],
        f"rules: [{{when: {{event: email_opened}}, do: tell}}, {{when: {{first: true}}, do: tell}}]\n{ACTIONS}",
        writes=[told(did="opened an email")],
        reads=2,
    ),
    Row(
        "an open after a click that ended a quiet time: nothing",
        opened,
        [click],
        f"rules: [{{when: {{event: email_opened}}, do: tell}}, {{when: {{quiet: 30d}}, do: tell}}]\n{ACTIONS}",
        answer=ignored("one signal with the click of event 1"),
        reads=2,
    ),
    Row(
        "a click after an open that no rule is for: a note of its own",
        click,
        [opened],
        when("event: email_clicked"),
        writes=TELLS,
        reads=2,
    ),
    Row("one_signal: 0s, so each is told", click, [opened], when("", head="one_signal: 0s"), writes=TELLS, reads=2),
    Row(
        "the click happened seconds after the open, and is heard of an hour later",
        at(click, "10:00:05"),
        [at(opened, "10:00:00"), later(HOUR)],
        when(""),
        writes=[note_longer(f"{MARTA} opened an email", f"{MARTA} clicked a link")],
        reads=3,
    ),
    Row(
        "the open is heard of after the click it came before: nothing",
        at(opened, "10:00:00"),
        [at(click, "10:00:05"), later(HOUR)],
        when(""),
        answer=ignored("one signal with the click of event 1"),
        reads=2,
    ),
]

UNSUBSCRIBED, SUBSCRIBED = fields({MARTA_DEAL: "Unsubscribed"}), fields({MARTA_DEAL: "Subscribed"})
STILL_ENCHARGE, STILL_ORTTO = ignored("still unsubscribed at Encharge"), ignored("still unsubscribed at Ortto")

CONSENT = [
    Row(
        "unsubscribed: the tag on the contact, the status on the deal",
        unsubscribes,
        writes=[UNSUBSCRIBED, tags(MARTA_CONTACT)],
        reads=4,
        leaves={MARTA_CONTACT: ["Email Unsubscribed"]},
    ),
    Row(
        "unsubscribed: the tag that was there before stays",
        encharge("unsubscribed", ZOE),
        writes=[fields({ZOE_DEAL: "Unsubscribed"}), tags(ZOE_CONTACT)],
        reads=4,
        leaves={ZOE_CONTACT: ["vip", "Email Unsubscribed"]},
    ),
    Row(
        "unsubscribed at the other platform too: nothing is left to write",
        ortto_unsubscribes,
        [unsubscribes],
        reads=4,
    ),
    Row(
        "subscribed again: tag and status undone",
        resubscribes,
        [unsubscribes, later(DAY)],
        writes=[SUBSCRIBED, untags(MARTA_CONTACT)],
        reads=4,
        leaves={MARTA_CONTACT: []},
    ),
    Row(
        "subscribed again at Encharge, still unsubscribed at Ortto: stays",
        resubscribes,
        [unsubscribes, ortto_unsubscribes, later(DAY)],
        answer=STILL_ORTTO,
        reads=2,
        leaves={MARTA_CONTACT: ["Email Unsubscribed"]},
    ),
    Row(
        "subscribed again at Ortto, unsubscribed at Encharge only: stays",
        ortto_resubscribes,
        [unsubscribes, later(DAY)],
        answer=STILL_ENCHARGE,
        reads=2,
        leaves={MARTA_CONTACT: ["Email Unsubscribed"]},
    ),
    Row(
        "subscribed again at both, one after the other: undone",
        ortto_resubscribes,
        [unsubscribes, ortto_unsubscribes, later(DAY), resubscribes],
        writes=[SUBSCRIBED, untags(MARTA_CONTACT)],
        reads=4,
        leaves={MARTA_CONTACT: []},
    ),
    Row(
        "unsubscribed anew after all: shown again",
        unsubscribes,
        [unsubscribes, later(DAY), resubscribes, later(DAY)],
        writes=[UNSUBSCRIBED, tags(MARTA_CONTACT)],
        reads=4,
    ),
    Row(
        "an unsubscribe that comes late: it was undone since",
        at(unsubscribes, "09:00:00"),
        [at(resubscribes, "09:30:00")],
        answer=ignored("subscribed again since"),
        reads=2,
        leaves={MARTA_CONTACT: []},
    ),
    Row(
        "a resubscription that comes late: it was undone since",
        at(resubscribes, "09:00:00"),
        [at(unsubscribes, "09:30:00")],
        answer=STILL_ENCHARGE,
        reads=2,
        leaves={MARTA_CONTACT: ["Email Unsubscribed"]},
    ),
    Row(
        "an unsubscribe that is dated years ahead: a resubscription undoes it all the same",
        resubscribes,
        [encharge("unsubscribed", occurred_at="2090-01-01T00:00:00Z"), later(DAY)],
        writes=[SUBSCRIBED, untags(MARTA_CONTACT)],
        reads=4,
        leaves={MARTA_CONTACT: []},
    ),
    Row(
        "both at the same moment: the stricter",
        at(resubscribes, "09:00:00"),
        [at(unsubscribes, "09:00:00")],
        answer=STILL_ENCHARGE,
        reads=2,
        leaves={MARTA_CONTACT: ["Email Unsubscribed"]},
    ),
    Row(
        "two contacts with the address, three active deals: all of them; a won one not",
        unsubscribes,
        [contact(2_001, MARTA), deal(1_001, 2_001), deal(1_002, 2_001), deal(1_003, 2_001), moved(1_003, WON)],
        writes=[
            fields({1_001: "Unsubscribed", 1_002: "Unsubscribed", MARTA_DEAL: "Unsubscribed"}),
            tags(2_001, MARTA_CONTACT),
        ],
        reads=4,
    ),
    Row(
        "the deal named by the webhook, and every other of the address",
        encharge("unsubscribed", kommo_lead_id=MARTA_DEAL),
        [later(HOUR), deal(1_001, MARTA_CONTACT)],
        writes=[fields({1_001: "Unsubscribed", MARTA_DEAL: "Unsubscribed"}), tags(MARTA_CONTACT)],
        reads=6,
    ),
    Row(
        "one deal shows it already: only the other is written",
        unsubscribes,
        [deal(1_001, MARTA_CONTACT), filled(MARTA_DEAL, STATUS, "Unsubscribed")],
        writes=[fields({1_001: "Unsubscribed"}), tags(MARTA_CONTACT)],
        reads=4,
    ),
    Row(
        "unsubscribed without an active deal: nothing",
        encharge("unsubscribed", NORA),
        [contact(2_001, NORA)],
        answer=ignored(NO_DEAL),
        reads=1,
    ),
    Row(
        "unsubscribed without an active deal, and the rules want the contact: its tag",
        encharge("unsubscribed", NORA),
        [contact(2_001, NORA)],
        f"without_active_deal: contact\n{SHIPPED.replace('without_active_deal: skip', '')}",
        writes=[tags(2_001)],
        reads=2,
    ),
]

TEXTS = [
    Row(
        "a text with fields of contact, company and deal",
        encharge("email_clicked", ZOE),
        rules=action('{note: {text: "{contact.POSITION} of {company.name} ({company.INDUSTRY}), {lead.800101}"}}'),
        writes=[note(ZOE_DEAL, "Owner of Example Bakery Ltd (Food), Team")],
        reads=3,
    ),
    Row(
        "a text with fields that are empty: nothing stands there, never None",
        click,
        rules=action(f'{{note: {{text: "[{{contact.POSITION}}{{company.name}}{{lead.{PLAN}}}]"}}}}'),
        writes=[note(MARTA_DEAL, "[]")],
        reads=2,
    ),
    Row(
        "a text with the deal, its price and its stage",
        click,
        rules="stages: [{stage: proposal_sent, status: 61000103, label: Proposal sent}]"
        + action('{note: {text: "{lead} ({lead_id}): {price} {lead.price}, {stage}"}}'),
        writes=[note(MARTA_DEAL, f"Marta Keller: trial ({MARTA_DEAL}): 900 900, Proposal sent")],
        reads=2,
    ),
    Row(
        "a text with a stage that has no name here",
        click,
        rules=action('{note: {text: "{stage}"}}'),
        writes=[note(MARTA_DEAL, f"stage {PROPOSAL_SENT}")],
        reads=2,
    ),
    Row(
        "a text with the time on the team's clock",
        at(click, "23:30:00"),
        rules=action('{note: {text: "{time}"}}', BERLIN),
        writes=[note(MARTA_DEAL, "2026-03-04 00:30")],
        reads=2,
    ),
    Row(
        "a text with a checkbox",
        encharge("email_clicked", ZOE),
        rules=action(f'{{note: {{text: "{{lead.{NEWSLETTER}}}"}}}}'),
        writes=[note(ZOE_DEAL, "yes")],
        reads=2,
    ),
    Row(
        "a campaign with braces and line breaks: one line, and no brace",
        encharge("email_clicked", campaign="{{email}}\n{0}"),
        rules=action('{note: {text: "{campaign}"}}'),
        writes=[note(MARTA_DEAL, "(0)")],
        reads=2,
    ),
    Row(
        "a text that comes out empty is left out",
        click,
        rules=action('{note: {text: "{link}"}}'),
        answer=nothing_to_do("it"),
        reads=2,
    ),
]

TABLE = [
    *SHIPPED_RULES,
    *NOISE,
    *THE_RIGHT_DEAL,
    *CONDITIONS,
    *TASKS,
    *NOTES_FIELDS_TAGS,
    *ONE_SIGNAL,
    *CONSENT,
    *TEXTS,
]


# -- the rows, run ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def read_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Row], Rules]:
    """Give the rules of rows; each text is read once: that takes longer than carrying out what it says."""
    path = tmp_path_factory.mktemp("rules") / "mapping.yaml"

    @cache
    def read(text: str, with_fields: bool) -> Rules:
        return rules_of(path, text, FIELDS if with_fields else dict.fromkeys(FIELDS))

    return lambda row: read(row.rules, row.custom_fields)


@pytest.fixture
def house(town: Town) -> Iterator[House]:
    made = House(town, client=None)
    clock, town.kommo.clock = town.kommo.clock, made.clock
    town.kommo.switch(rate=0)
    yield made
    town.kommo.clock = clock


@pytest.mark.parametrize("row", [pytest.param(row, id=row.says) for row in TABLE])
def test_the_row_holds(row: Row, house: House, read_once: Callable[[Row], Rules], env: dict[str, str]) -> None:
    dispatcher = move_in(house, read_once(row), env)
    try:
        for step in row.given:
            answer = step(house)
            assert not isinstance(step, Hook) or answer.status_code == 200
        house.town.kommo.calls.clear()

        answer = row.hook(house)
    finally:
        dispatcher.close()

    reasons = [entry["reason"] for entry in answer.json["events"]]
    assert (answer.status_code, answer.json["status"], reasons) == (200, *row.answer)
    calls = house.calls()
    assert [call for call in calls if call[0] != "GET"] == list(row.writes)
    assert sum(call[0] == "GET" for call in calls) == row.reads
    contacts = house.town.kommo.state()["contacts"]
    found = {key: [tag["name"] for tag in contacts[str(key)]["_embedded"]["tags"]] for key in row.leaves}
    assert found == row.leaves


def test_no_two_rows_say_the_same() -> None:
    sayings = [row.says for row in TABLE]
    assert len(sayings) == len(set(sayings)) >= 60
