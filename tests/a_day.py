"""A day of a small team in a journal: deals move, mails are clicked, Ortto fails for a while, some is refused.

It is told through the journal itself, at invented times, and is always the same.
"""

from __future__ import annotations

import math
import random
from urllib.parse import urlencode

from app.events import (
    Action,
    Contact,
    Context,
    EmailActivity,
    Event,
    Failure,
    Kind,
    Lane,
    Lead,
    Outcome,
    Owed,
    Response,
    Source,
    StageChange,
    StageNews,
    State,
    Step,
    Webhook,
    skipped,
)
from app.journal import Journal, Settlement

PIPELINE = 7_100_010
STAGES = {61_000_102: "qualified", 61_000_103: "proposal_sent", 61_000_104: "negotiation"}
PEOPLE = [
    ("Zoë Lindqvist", "zoe.lindqvist@harbour-foods.example"),
    ("Marta Keller", "marta.keller@northbay-logistics.example"),
    ("Ada Okafor", "ada.okafor@lumen-clinics.example"),
    ("Ines Duarte", "ines@duarte-vinhos.example"),
    ("Квентин Ли", "quentin.li@orbit-print.example"),
    ("Noor Haddad", "noor.haddad@cedar-analytics.example"),
]
CAMPAIGNS = ["Pricing 2026", "Proposal follow-up", "Spring newsletter", "demo_followup May"]
REFUSED = 'Ortto: POST /person/merge answered 400: field "int:cm:company-size" does not exist on this instance'
DOWN = "Ortto: POST /activities/create answered 503: Service Unavailable"
UNMAPPED = "stage 61000199 of pipeline 7100010 is not in the mapping"
HOURS = 24


def live_through(journal: Journal, *, now: float, events: int = 420, paused: bool = True) -> None:
    """Write the day that ends now."""
    chance = random.Random(7)
    moments = sorted(now - HOURS * 3600 * _hour_of(chance) for _ in range(events))
    for number, at in enumerate(moments):
        if number % 5 == 4:
            _clicks(journal, number, at, chance)
        else:
            _moves(journal, number, at, chance, left=now - at)
    if paused:
        journal.pause("ortto", now + 280, DOWN)


def _hour_of(chance: random.Random) -> float:
    """Return a part of the day, back from now: people work in waves."""
    while True:
        part = chance.random()
        if chance.random() < 0.25 + 0.75 * math.sin(part * math.pi * 2.2) ** 2:
            return part


def _moves(journal: Journal, number: int, at: float, chance: random.Random, *, left: float) -> None:
    lead_id, (name, email) = 41_500_000 + number % 60, PEOPLE[number % len(PEOPLE)]
    unmapped = number % 23 == 0
    status = 61_000_199 if unmapped else list(STAGES)[number % 3]
    change = StageChange(lead_id, status, PIPELINE, 61_000_101)
    event = Event(
        Source.KOMMO, Kind.STAGE_CHANGED, change, f"lead:{lead_id}", f"kommo:{lead_id}:{status}:{number}", at - 1.4
    )
    _record(journal, _kommo_body(change, at), event, at, refusal=UNMAPPED if unmapped else None)
    if unmapped:
        return
    lead = Lead(lead_id, f"Order of {name}", status, PIPELINE, 1200 + 40 * (number % 50))
    context = Context(lead, Contact(52_300_000 + number % 60, name, emails=(email,)), read_at=at + 0.1, email=email)
    first, _, last = name.partition(" ")
    news = StageNews(
        lead_id, email, first, last, STAGES[status], STAGES[status], status, PIPELINE, lead.price,
        f"deal_moved_to_{STAGES[status]}", {}, at,
    )  # fmt: skip
    owed = tuple(Owed(lane, f"lead:{lead_id}", news) for lane in (Lane.ENCHARGE, Lane.ORTTO))
    _settle(journal, Lane.RESOLVE, Outcome(State.DONE, context=context, owed=owed), at + 0.15)
    done = at + 0.3 + chance.expovariate(3)
    _settle(journal, Lane.ENCHARGE, Outcome(State.DONE), done, steps=["person", "event"])
    if number % 61 == 7:
        _settle(journal, Lane.ORTTO, Outcome(State.DEAD, REFUSED), done, failure=Failure("refused", 400, 0.21))
        return
    if 3.2 * 3600 < left < 4.1 * 3600:  # Ortto was down for a while
        for attempt in range(3):
            _fail(journal, at + 1 + 40 * attempt, due_at=at + 41 + 40 * attempt)
        done = at + 130 + chance.random() * 900
    if left < 240:  # and is so again
        _fail(journal, at + 1, due_at=at + 400)
        return
    _settle(journal, Lane.ORTTO, Outcome(State.DONE), done, steps=["person", "activity"])


def _clicks(journal: Journal, number: int, at: float, chance: random.Random) -> None:
    name, email = PEOPLE[number % len(PEOPLE)]
    campaign = CAMPAIGNS[number % len(CAMPAIGNS)]
    said = EmailActivity(
        email=email, campaign=campaign, link="https://www.example.com/pricing?plan=team", first=True
    )
    kind = Kind.UNSUBSCRIBED if number % 45 == 4 else Kind.EMAIL_CLICKED
    body = f'{{"event": "{kind}", "email": "{email}", "broadcastName": "{campaign}"}}'.encode()
    event = Event(Source.ENCHARGE, kind, said, f"email:{email}", f"encharge:{number}", at - 0.8)
    _record(journal, Webhook(Source.ENCHARGE, "application/json", body), event, at)
    lead_id = 41_500_000 + number % 60
    context = Context(Lead(lead_id, f"Order of {name}", 61_000_102, PIPELINE), read_at=at, email=email)
    if number % 35 == 4:
        _settle(journal, Lane.RESOLVE, skipped("no active deal of this person in Kommo", context), at + 0.2)
        return
    response = Response(
        lead_id, None, (Action("call", "task", "Call now", due_in=7200, scope="task", cooldown=86400),)
    )
    owed = (Owed(Lane.KOMMO, f"lead:{lead_id}", response),)
    _settle(journal, Lane.RESOLVE, Outcome(State.DONE, context=context, owed=owed), at + 0.2)
    _settle(journal, Lane.KOMMO, Outcome(State.DONE), at + 0.5 + chance.expovariate(2), steps=["call", "note"])


def _kommo_body(change: StageChange, at: float) -> Webhook:
    fields = {
        "leads[status][0][id]": change.lead_id,
        "leads[status][0][status_id]": change.status_id,
        "leads[status][0][pipeline_id]": change.pipeline_id,
        "leads[status][0][old_status_id]": change.old_status_id,
        "leads[status][0][last_modified]": int(at),
        "account[subdomain]": "examplebakery",
        "account[id]": 30_900_001,
    }
    return Webhook(Source.KOMMO, "application/x-www-form-urlencoded", urlencode(fields).encode())


def _record(journal: Journal, webhook: Webhook, event: Event, at: float, refusal: str | None = None) -> None:
    journal.record(webhook, [(event, refusal)], now=at)


def _fail(journal: Journal, at: float, *, due_at: float) -> None:
    waiting = Outcome(State.PENDING, DOWN)
    for job in journal.claim(Lane.ORTTO, "", 1, now=at, told=True):
        failure = Failure("passing", 503, 0.4)
        journal.settle([Settlement(job, waiting, due_at=due_at, failed=True, failure=failure)], now=at)


def _settle(
    journal: Journal,
    lane: Lane,
    outcome: Outcome,
    at: float,
    *,
    steps: list[str] | None = None,
    failure: Failure | None = None,
) -> None:
    ledger = {step: Step(True, "7001234" if step in ("call", "note") else "") for step in steps or ()}
    for job in journal.claim(lane, "", 10, now=at, told=True):
        ended = Settlement(job, outcome, steps=ledger if steps else None, failure=failure)
        journal.settle([ended], now=at)
