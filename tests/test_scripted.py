"""50 deals, 40 changes each, and vendors that answer by a script: all arrives in order, and nothing twice."""

from __future__ import annotations

import itertools
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flask
import pytest
from databases import run_sql
from parts import (
    WEBHOOK,
    Clock,
    email_event,
    encharge_client,
    kommo_client,
    ortto_client,
    rules_of,
    stage_event,
)
from support import QUALIFIED, add_deals, eventually

from app import dispatcher, retry
from app.clients.http import Http
from app.dispatcher import Dispatcher
from app.events import Event, Lane
from app.flows import Flow
from app.flows.email_activity import EmailActivityFlow
from app.flows.resolve import ResolveFlow
from app.flows.stage_changes import SENT_AGAIN, CurrentStages, EnchargeFlow, OrttoFlow
from app.journal import Journal
from app.mapping import Rules
from sandbox.town import Town
from sandbox.vendor import Fault, Faults

SEED = 20_260_105
DEALS, CHANGES = 50, 40
CLICK_EVERY = 4  # of the changes of a deal that has clicks
SPEED = 10  # of the clock: what the vendors ask us to wait passes so much faster
READ_SECONDS = 1.5
LONGER_SECONDS = READ_SECONDS + 0.3
WITHIN_SECONDS = 55.0
AT_ONCE = 5  # of each deal's changes come in one webhook
FIRST_STATUS = 1000

MAPPING = """
version: 1
stages:
  - {{stage: now, status: {now}, label: Now}}
{stages}
rules:
  - when: {{event: email_clicked}}
    do: [task, note, activity]
actions:
  task: {{task: {{text: "Call about {{campaign}}", cooldown: 24h}}}}
  note: {{note: {{text: "Clicked {{campaign}}"}}}}
  activity: {{field: {{id: $KOMMO_CF_EMAIL_ACTIVITY, value: "{{campaign}}"}}}}
"""

# -- what the vendors answer --------------------------------------------------------------------------------------

OK = "ok"
ANSWERS: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "500, done": {"status": 500, "after": True},
    "a page of 502": {"status": 502, "body": "<html>Bad gateway</html>"},
    "429": {"status": 429},
    "429, in a second": {"status": 429, "headers": {"Retry-After": "1"}},
    "dropped": {"drop": True},
    "dropped, done": {"drop": True, "after": True},
    "no answer in time": {"seconds": LONGER_SECONDS, "drop": True},
    "no answer in time, done": {},  # see Script: the work comes first, then the delay
}
SLOW = [name for name in ANSWERS if "in time" in name]
QUICK = [name for name in ANSWERS if name not in SLOW]
UNAMBIGUOUS = {OK, "429", "429, in a second"}


def sequences(chance: random.Random, often: float) -> Iterator[str]:
    """Yield answers without end: now and then one to three failures, and then a good one."""
    while True:
        if chance.random() < often:
            yield from chance.choices(QUICK, k=chance.randint(1, 3))
        yield OK


@dataclass
class Script(Faults):
    """Answers each call of a vendor with the next one of a list; refuses every call that holds a bad item.

    `bad`: the reason why a call is refused for good, or None. `own`: a list for this call alone, by what is in it.
    """

    answers: Iterator[str]
    bad: Callable[[str, str, Any], str | None] = lambda method, path, body: None
    own: Callable[[Any], Iterator[str] | None] = lambda body: None
    given: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def take(self, method: str, path: str) -> Fault | None:
        body = flask.request.get_json(silent=True)
        words = self.bad(method, flask.request.full_path, body)
        if words:
            return Fault(status=400, body=words)
        with self._lock:
            answer = next(self.own(body) or self.answers, OK)
            self.given.append(answer)
        if answer == OK:
            return None
        if answer == "no answer in time, done":

            @flask.after_this_request
            def delay(response: flask.Response) -> flask.Response:
                time.sleep(LONGER_SECONDS)
                return response

            return None
        return Fault(**ANSWERS[answer])


# -- what is to happen --------------------------------------------------------------------------------------------


def name_of(change: int) -> str:
    return f"s{change:02}"


def campaign(deal: int, change: int) -> str:
    return f"offer-{deal}-{change:02}"


@dataclass
class Plot:
    """Who goes through what: the deals with their emails, and what the vendors will never take."""

    emails: dict[int, str]
    chance: random.Random = field(default_factory=lambda: random.Random(SEED))

    def __post_init__(self) -> None:
        deals = list(self.emails)
        self.clicking = set(deals[::5])
        # One deal that Kommo does not read, one whose person Encharge does not take, one whose field Kommo refuses.
        self.unreadable, self.unfit, self.locked = deals[3], deals[7], deals[10]
        others = [deal for deal in deals if deal not in (self.unreadable, self.unfit, self.locked)]
        stages = [(deal, change) for deal in others for change in range(CHANGES) if not self.is_click(deal, change)]
        clicks = [(deal, change) for deal in others for change in range(CHANGES) if self.is_click(deal, change)]
        self.no_events = set(self.chance.sample(stages, 20))
        self.no_activities = set(self.chance.sample(stages, 20))
        self.no_notes = set(self.chance.sample([pair for pair in clicks if pair[1] > CLICK_EVERY], 8))
        troubled = self.chance.sample([pair for pair in stages if pair not in self.no_events], 120)
        self.lists = {pair: self.chance.choices(QUICK, k=self.chance.randint(1, 2)) for pair in troubled}
        for answers, slow in zip(self.lists.values(), SLOW, strict=False):
            answers.insert(1, slow)
        self._left = {pair: iter(answers) for pair, answers in self.lists.items()}

    def is_click(self, deal: int, change: int) -> bool:
        return deal in self.clicking and change % CLICK_EVERY == CLICK_EVERY - 1

    def events(self, deal: int, changes: Iterable[int]) -> list[Event]:
        """Return the events of some of a deal's changes."""
        return [
            email_event(change, lead_id=deal, email=self.emails[deal], campaign=campaign(deal, change))
            if self.is_click(deal, change)
            else stage_event(deal, FIRST_STATUS + change, change)
            for change in changes
        ]

    def stages(self, deal: int, without: set[tuple[int, int]]) -> list[str]:
        """Return the stages of a deal that a destination is to hear of, in order."""
        wanted = (change for change in range(CHANGES) if not self.is_click(deal, change))
        return [name_of(change) for change in wanted if (deal, change) not in without]

    def clicks(self, deal: int) -> list[str]:
        """Return the campaigns of a deal's clicks that make notes, in order."""
        clicks = (change for change in range(CHANGES) if self.is_click(deal, change))
        return [campaign(deal, change) for change in clicks if (deal, change) not in self.no_notes]

    def dead(self) -> set[tuple[str, str]]:
        """Return the jobs that must end dead: lane and dedupe key."""

        def keys(lane: Lane, pairs: Iterable[tuple[int, int]]) -> set[tuple[str, str]]:
            return {(lane.value, str(self.events(*_one(pair))[0].dedupe_key)) for pair in pairs}

        all_of = {deal: {(deal, change) for change in range(CHANGES)} for deal in self.emails}
        clicks = {pair for pair in all_of[self.locked] if self.is_click(*pair)}
        return (
            keys(Lane.RESOLVE, all_of[self.unreadable])
            | keys(Lane.ENCHARGE, self.no_events | all_of[self.unfit])
            | keys(Lane.ORTTO, self.no_activities)
            | keys(Lane.KOMMO, self.no_notes | clicks)
        )

    # -- refusals --

    def refused_by_kommo(self, method: str, path: str, body: Any) -> str | None:
        if method == "GET" and str(self.unreadable) in path:
            return f"no: deal {self.unreadable}"
        texts = {f"Clicked {campaign(*pair)}" for pair in self.no_notes}
        items = body if isinstance(body, list) else []
        for item in items:
            if (item.get("params") or {}).get("text") in texts:
                return "no: a note"
            if item.get("id") == self.locked:
                return "no: a field"
        return None

    def refused_by_encharge(self, method: str, path: str, body: Any) -> str | None:
        people = {person["email"] for person in body}
        return "no: a person" if self.emails[self.unfit] in people else None

    def refused_by_ingest(self, method: str, path: str, body: Any) -> str | None:
        return "no: an event" if _change_of(body["properties"]) in self.no_events else None

    def refused_by_ortto(self, method: str, path: str, body: Any) -> str | None:
        found = {_change_of(item["attributes"], "str:cm:lead-id", "str:cm:stage") for item in body["activities"]}
        return "no: an activity" if found & self.no_activities else None

    def list_of(self, body: Any) -> Iterator[str]:
        """Return the answers to an event; good ones without end when its list is done."""
        return self._left.get(_change_of(body["properties"]), iter(()))


def _one(pair: tuple[int, int]) -> tuple[int, list[int]]:
    deal, change = pair
    return deal, [change]


def _change_of(properties: Any, lead: str = "lead_id", stage: str = "stage") -> tuple[int, int]:
    return int(properties[lead]), int(properties[stage][1:])


# -- the run ------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, town: Town) -> Clock:
    """Time that runs fast for the service and the vendors, and vendors that are given up on early."""
    clock = Clock(SPEED)
    for vendor in town.vendors.values():
        monkeypatch.setattr(vendor, "clock", clock)
    monkeypatch.setitem(Http.__init__.__kwdefaults__, "read_seconds", READ_SECONDS)
    monkeypatch.setattr(retry, "FIRST_SECONDS", 0.1)
    monkeypatch.setattr(retry, "LONGEST_SECONDS", 1.0)
    monkeypatch.setattr(retry, "LONGEST_PAUSE_SECONDS", 0.4)
    monkeypatch.setattr(dispatcher, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(dispatcher, "RENEW_SECONDS", 1.0)  # the lease is 60 s, 6 of them real
    return clock


@pytest.fixture
def plot(town: Town, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Plot:
    """The deals, and vendors that answer by the script."""
    town.kommo.switch(rate=0, rate_html=True)  # in its own words, its 429 asks for five minutes
    plot = Plot(add_deals(town, DEALS, QUALIFIED))
    made = {
        "kommo": Script(sequences(random.Random(SEED + 1), 0.15), plot.refused_by_kommo),
        "encharge": Script(sequences(random.Random(SEED + 2), 0.15), plot.refused_by_encharge),
        "ingest": Script(iter(()), plot.refused_by_ingest, plot.list_of),
        "ortto": Script(sequences(random.Random(SEED + 3), 0.15), plot.refused_by_ortto),
    }
    for name, script in made.items():
        if name != "ingest":
            answers = script.answers
            script.answers = itertools.chain(itertools.islice(answers, 20), SLOW, answers)
        monkeypatch.setattr(town.vendors[name], "faults", script)
    return plot


@pytest.fixture
def rules(tmp_path: Path) -> Rules:
    stages = "\n".join(
        f"  - {{stage: {name_of(change)}, status: {FIRST_STATUS + change}}}" for change in range(CHANGES)
    )
    return rules_of(tmp_path / "mapping.yaml", MAPPING.format(now=QUALIFIED, stages=stages))


@pytest.fixture
def running(database_url: str, town: Town, rules: Rules, clock: Clock, plot: Plot) -> Iterator[Dispatcher]:
    """The dispatcher with all its lanes, at work."""
    journal = Journal(database_url)
    kommo = kommo_client(town)
    stages = CurrentStages(kommo, rules, clock)
    flows: dict[Lane, tuple[str, Flow]] = {
        Lane.RESOLVE: ("kommo", ResolveFlow(kommo, rules, (Lane.ENCHARGE, Lane.ORTTO), clock)),
        Lane.KOMMO: ("kommo", EmailActivityFlow(kommo, clock)),
        Lane.ENCHARGE: ("encharge", EnchargeFlow(encharge_client(town), stages)),
        Lane.ORTTO: ("ortto", OrttoFlow(ortto_client(town), stages)),
    }
    made = Dispatcher(journal, flows, places=1, retention=86_400.0, clock=clock)
    made.start()
    yield made
    made.close()


def test_all_changes_arrive_once_and_in_order_and_only_the_refused_ones_are_dead(
    running: Dispatcher, database_url: str, town: Town, plot: Plot
) -> None:
    deals = list(plot.emails)
    for start, some in itertools.product(range(0, CHANGES, AT_ONCE), (deals[:25], deals[25:])):
        events = [event for deal in some for event in plot.events(deal, range(start, start + AT_ONCE))]
        running.record(WEBHOOK, [(event, None) for event in events], seconds=10)

    def owed() -> int:
        return run_sql(database_url, "SELECT count(*) FROM jobs WHERE state = 'pending'")[0][0]

    eventually(lambda: not owed(), WITHIN_SECONDS)

    dead = run_sql(
        database_url,
        "SELECT lane, dedupe_key, reason FROM jobs JOIN events ON events.id = event_id WHERE state = 'dead'",
    )
    assert {(lane, key) for lane, key, _ in dead} == plot.dead()
    assert {reason for _, _, reason in dead if "no: " not in reason} == set()
    assert run_sql(database_url, "SELECT count(*) FROM events") == [(DEALS * CHANGES,)]
    _assert_ortto(town, plot)
    _assert_encharge(town, plot, database_url)
    _assert_kommo(town, plot)


def _assert_ortto(town: Town, plot: Plot) -> None:
    state = town.ortto.state()
    heard: dict[int, list[str]] = defaultdict(list)
    for activity in state["activities"]:
        heard[int(activity["attributes"]["str:cm:lead-id"])].append(activity["attributes"]["str:cm:stage"])
    readable = [deal for deal in plot.emails if deal != plot.unreadable]
    assert heard == {deal: plot.stages(deal, plot.no_activities) for deal in readable}
    stages = {person["fields"]["str::email"]: person["fields"]["str:cm:kommo-stage"] for person in state["people"]}
    assert stages == {plot.emails[deal]: "Now" for deal in readable}


def _assert_encharge(town: Town, plot: Plot, database_url: str) -> None:
    """An event may come once more for each attempt of which nobody learned the end, next to the first."""
    state = town.encharge.state()
    heard: dict[int, list[str]] = defaultdict(list)
    for event in state["events"]:
        assert event["name"] == f"deal_moved_to_{event['properties']['stage']}"
        heard[int(event["properties"]["lead_id"])].append(event["properties"]["stage"])
    fit = [deal for deal in plot.emails if deal not in (plot.unreadable, plot.unfit)]
    runs = {deal: [(stage, len(list(run))) for stage, run in itertools.groupby(heard[deal])] for deal in heard}
    once = {deal: [stage for stage, _ in run] for deal, run in runs.items()}
    assert once == {deal: plot.stages(deal, plot.no_events) for deal in fit}
    doubtful = {
        pair: [answer for answer in answers if answer not in UNAMBIGUOUS] for pair, answers in plot.lists.items()
    }
    often = {(deal, stage): count for deal, run in runs.items() for stage, count in run}
    expected = {
        (deal, stage): 1 + sum("done" in answer for answer in doubtful.get((deal, int(stage[1:])), []))
        for deal, stage in often
    }
    assert often == expected
    said = run_sql(
        database_url,
        "SELECT dedupe_key FROM jobs JOIN events ON events.id = event_id WHERE reason = :words",
        words=SENT_AGAIN,
    )
    again = [pair for pair, answers in doubtful.items() if answers and pair[0] in fit]
    assert {key for (key,) in said} == {plot.events(*_one(pair))[0].dedupe_key for pair in again}
    stages = {person["email"]: person["kommo_current_stage"] for person in state["people"]}
    assert stages == {plot.emails[deal]: "now" for deal in fit}


def _assert_kommo(town: Town, plot: Plot) -> None:
    state = town.kommo.state()
    notes: dict[int, list[str]] = defaultdict(list)
    for note in state["notes"]["leads"]:
        notes[note["entity_id"]].append(note["params"]["text"])
    clicked = [deal for deal in plot.clicking if deal != plot.unreadable]
    assert notes == {deal: [f"Clicked {name}" for name in plot.clicks(deal)] for deal in clicked}
    tasks = sorted((task["entity_id"], task["text"]) for task in state["tasks"].values())
    assert tasks == sorted((deal, f"Call about {campaign(deal, CLICK_EVERY - 1)}") for deal in clicked)
    fields = {
        deal: [item["values"][0]["value"] for item in lead["custom_fields_values"] or []]
        for deal, lead in ((deal, state["leads"][str(deal)]) for deal in plot.clicking)
    }
    assert fields == {
        deal: [] if deal in (plot.locked, plot.unreadable) else plot.clicks(deal)[-1:] for deal in plot.clicking
    }
