"""50 deals, 40 changes each, and vendors that answer by a script: all arrives in order, and nothing twice."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from scripts import OK, QUICK, READ_SECONDS, SLOW, UNAMBIGUOUS, Script
from support import QUALIFIED, add_deals, eventually

from app import dispatcher, retry
from app.clients.http import Http
from app.dispatcher import Dispatcher
from app.events import Event, Lane
from app.flows import Flow
from app.flows.email_activity import EmailActivityFlow
from app.flows.resolve import ResolveFlow
from app.flows.stage_changes import FOUND, SENT_AGAIN, CurrentStages, EnchargeFlow, TellerFlow
from app.journal import Journal
from app.mapping import Rules
from sandbox.town import Town

SEED = 20_260_105
DEALS, CHANGES = 50, 40
CLICK_EVERY = 4  # of the changes of a deal that has clicks
SPEED = 10  # of the clock: what the vendors ask us to wait passes so much faster
WITHIN_SECONDS = 400.0  # on a busy machine; alone it takes a tenth of that
AT_ONCE = 5  # of each deal's changes come in one webhook
FIRST_STATUS = 1000
OWED = "SELECT 1 FROM jobs WHERE state = 'pending' LIMIT 1"
JOBS = "SELECT lane, dedupe_key, state, reason FROM jobs JOIN events ON events.id = event_id"

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


def sequences(chance: random.Random, often: float) -> Iterator[str]:
    """Yield answers without end: now and then one to three failures, and then a good one."""
    while True:
        if chance.random() < often:
            yield from chance.choices(QUICK, k=chance.randint(1, 3))
        yield OK


# -- what is to happen --------------------------------------------------------------------------------------------

Change = tuple[int, int]  # a deal, and which of its changes


def stage_of(change: Change) -> str:
    return f"s{change[1]:02}"


def campaign_of(change: Change) -> str:
    return f"offer-{change[0]}-{change[1]:02}"


def for_encharge(number: int) -> bool:
    """Say whether a stage goes to Encharge, which takes one event a call: every other one does."""
    return number % 2 == 0


@dataclass
class Plot:
    """Who goes through what: the deals with their emails, and what the vendors will never take."""

    emails: dict[int, str]

    def __post_init__(self) -> None:
        chance = random.Random(SEED)
        deals = list(self.emails)
        self.clicking = deals[::5]
        # One deal that Kommo does not read, one whose person Encharge does not take, one whose field Kommo refuses.
        self.unreadable, self.unfit, self.locked = deals[3], deals[7], deals[10]
        changes = [(deal, number) for deal in deals for number in range(CHANGES)]
        self.clicks = [change for change in changes if self.is_click(change)]
        self.stages = [change for change in changes if not self.is_click(change)]
        self.events = [change for change in self.stages if for_encharge(change[1]) and change[0] != self.unfit]
        self.no_events = set(chance.sample(self.of_good_deals(self.events), 20))
        self.no_activities = set(chance.sample(self.of_good_deals(self.stages), 20))
        # The first click of a deal makes its task.
        later = [change for change in self.clicks if change[1] >= CLICK_EVERY]
        self.no_notes = set(chance.sample(self.of_good_deals(later), 8))
        troubled = chance.sample(sorted(set(self.of_good_deals(self.events)) - self.no_events), 120)
        self.lists = {change: chance.choices(QUICK, k=chance.randint(1, 2)) for change in troubled}
        for answers, slow in zip(self.lists.values(), SLOW, strict=False):
            answers.insert(1, slow)
        self._left = {change: iter(answers) for change, answers in self.lists.items()}

    def is_click(self, change: Change) -> bool:
        return change[0] in self.clicking and change[1] % CLICK_EVERY == CLICK_EVERY - 1

    def of_good_deals(self, changes: Iterable[Change]) -> list[Change]:
        return [change for change in changes if change[0] not in (self.unreadable, self.unfit, self.locked)]

    def by_deal(self, changes: Iterable[Change], name: Callable[[Change], str]) -> dict[int, list[str]]:
        """Return what of some changes is to arrive, by deal, in order."""
        found: dict[int, list[str]] = defaultdict(list)
        for change in changes:
            if change[0] != self.unreadable:
                found[change[0]].append(name(change))
        return found

    def event(self, change: Change) -> Event:
        """Return the event of a change, as its webhook would be read."""
        deal, number = change
        if self.is_click(change):
            return email_event(number, lead_id=deal, email=self.emails[deal], campaign=campaign_of(change))
        return stage_event(deal, FIRST_STATUS + number, number)

    def dead(self) -> set[tuple[str, str]]:
        """Return the jobs that must end dead: lane and dedupe key."""
        unfit = {change for change in self.stages if change[0] == self.unfit and for_encharge(change[1])}
        locked = {change for change in self.clicks if change[0] == self.locked}
        changes = {
            Lane.RESOLVE: {(self.unreadable, number) for number in range(CHANGES)},
            Lane.ENCHARGE: self.no_events | unfit,
            Lane.ORTTO: self.no_activities,
            Lane.KOMMO: self.no_notes | locked,
        }
        return {(lane.value, str(self.event(change).dedupe_key)) for lane in changes for change in changes[lane]}

    # -- refusals --

    def refused_by_kommo(self, method: str, path: str, body: Any) -> str | None:
        if method == "GET" and str(self.unreadable) in path:
            return f"no: deal {self.unreadable}"
        texts = {f"Clicked {campaign_of(change)}" for change in self.no_notes}
        items = body if isinstance(body, list) else []
        for item in items:
            if (item.get("params") or {}).get("text") in texts:
                return "no: a note"
            if item.get("id") == self.locked:
                return "no: a field"
        return None

    def refused_by_ingest(self, method: str, path: str, body: Any) -> str | None:
        if body["user"]["email"] == self.emails[self.unfit]:
            return "no: a person"
        return "no: an event" if _change_of(body["properties"]) in self.no_events else None

    def refused_by_ortto(self, method: str, path: str, body: Any) -> str | None:
        found = {_change_of(item["attributes"], "str:cm:lead-id", "str:cm:stage") for item in body["activities"]}
        return "no: an activity" if found & self.no_activities else None

    def list_of(self, body: Any) -> Iterator[str]:
        """Return the answers to an event; good ones without end when its list is done."""
        return self._left.get(_change_of(body["properties"]), iter(()))


def _change_of(properties: Any, lead: str = "lead_id", stage: str = "stage") -> Change:
    return int(properties[lead]), int(properties[stage][1:])


# -- the run ------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, town: Town) -> Clock:
    """Time that runs fast for the service and the vendors, and vendors that are given up on early."""
    clock = Clock(SPEED)
    defaults = Http.__init__.__kwdefaults__ or {}
    for vendor in town.vendors.values():
        monkeypatch.setattr(vendor, "clock", clock)
    monkeypatch.setattr(Http.__init__, "__kwdefaults__", {**defaults, "read_seconds": READ_SECONDS})
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
        "ingest": Script((), plot.refused_by_ingest, plot.list_of),
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
    rows = [(f"s{number:02}", FIRST_STATUS + number, for_encharge(number)) for number in range(CHANGES)]
    stages = "\n".join(
        f"  - {{stage: {stage}, status: {status}{'' if told else ', encharge: false'}}}"
        for stage, status, told in rows
    )
    return rules_of(tmp_path / "mapping.yaml", MAPPING.format(now=QUALIFIED, stages=stages))


@pytest.fixture
def running(database_url: str, town: Town, rules: Rules, clock: Clock, plot: Plot) -> Iterator[Dispatcher]:
    """The dispatcher with all its lanes, at work."""
    journal = Journal(database_url)
    kommo = kommo_client(town)
    stages = CurrentStages(kommo, rules, clock)
    flows: dict[Lane, tuple[str, Flow]] = {
        Lane.RESOLVE: ("kommo", ResolveFlow(kommo, rules, (Lane.ENCHARGE, Lane.ORTTO), clock=clock)),
        Lane.KOMMO: ("kommo", EmailActivityFlow(kommo, clock)),
        Lane.ENCHARGE: ("encharge", EnchargeFlow(encharge_client(town), stages)),
        Lane.ORTTO: ("ortto", TellerFlow(Lane.ORTTO, ortto_client(town), stages)),
    }
    made = Dispatcher(journal, flows, places=1, retention=86_400.0, clock=clock)
    made.start()
    yield made
    made.close()


@pytest.mark.alone
@pytest.mark.timeout(500)
def test_all_changes_arrive_once_and_in_order_and_only_the_refused_ones_are_dead(
    running: Dispatcher, database_url: str, town: Town, plot: Plot
) -> None:
    deals = list(plot.emails)
    for start, some in itertools.product(range(0, CHANGES, AT_ONCE), (deals[:25], deals[25:])):
        events = [plot.event((deal, number)) for deal in some for number in range(start, start + AT_ONCE)]
        running.record(WEBHOOK, [(event, None) for event in events], seconds=60)

    eventually(lambda: not run_sql(database_url, OWED), WITHIN_SECONDS)

    assert run_sql(database_url, "SELECT count(*) FROM events") == [(DEALS * CHANGES,)]
    dead = {(lane, key): reason for lane, key, state, reason in run_sql(database_url, JOBS) if state == "dead"}
    assert set(dead) == plot.dead()
    assert [reason for reason in dead.values() if "answered 400: no: " not in reason] == []
    _assert_ortto(town, plot)
    _assert_encharge(town, plot)
    _assert_said(database_url, plot)
    _assert_kommo(town, plot)


def _assert_ortto(town: Town, plot: Plot) -> None:
    state = town.ortto.state()
    heard: dict[int, list[str]] = defaultdict(list)
    for activity in state["activities"]:
        heard[int(activity["attributes"]["str:cm:lead-id"])].append(activity["attributes"]["str:cm:stage"])
    expected = plot.by_deal((change for change in plot.stages if change not in plot.no_activities), stage_of)
    assert heard == expected
    stages = {person["fields"]["str::email"]: person["fields"]["str:cm:kommo-stage"] for person in state["people"]}
    assert stages == {plot.emails[deal]: "Now" for deal in expected}


def _assert_encharge(town: Town, plot: Plot) -> None:
    """Events come once: what was done but not answered so is found at the person."""
    state = town.encharge.state()
    heard: dict[int, list[str]] = defaultdict(list)
    for event in state["events"]:
        heard[int(event["properties"]["lead_id"])].append(event["properties"]["stage"])
    expected = plot.by_deal((change for change in plot.events if change not in plot.no_events), stage_of)
    assert heard == expected
    stages = {person["email"]: person["kommo_current_stage"] for person in state["people"]}
    assert stages == {plot.emails[deal]: "now" for deal in expected}


def _assert_said(database_url: str, plot: Plot) -> None:
    """The job of every event whose attempt had no clear answer says how it ended."""
    said: dict[str, set[str]] = defaultdict(set)
    for _, key, _, reason in run_sql(database_url, JOBS):
        said[reason].add(key)
    found = {change for change, answers in plot.lists.items() if any("done" in answer for answer in answers)}
    doubtful = {change for change, answers in plot.lists.items() if set(answers) - UNAMBIGUOUS}
    assert said[FOUND] == {plot.event(change).dedupe_key for change in found}
    assert said[SENT_AGAIN] == {plot.event(change).dedupe_key for change in doubtful - found}


def _assert_kommo(town: Town, plot: Plot) -> None:
    state = town.kommo.state()
    notes: dict[int, list[str]] = defaultdict(list)
    for note in state["notes"]["leads"]:
        notes[note["entity_id"]].append(note["params"]["text"])
    taken = [change for change in plot.clicks if change not in plot.no_notes]
    assert notes == plot.by_deal(taken, lambda change: f"Clicked {campaign_of(change)}")
    campaigns = plot.by_deal(taken, campaign_of)
    tasks = sorted((task["entity_id"], task["text"]) for task in state["tasks"].values())
    assert tasks == sorted((deal, f"Call about {names[0]}") for deal, names in campaigns.items())
    leads = {deal: state["leads"][str(deal)]["custom_fields_values"] or [] for deal in campaigns}
    values = {deal: [item["values"][0]["value"] for item in fields] for deal, fields in leads.items()}
    assert values == {deal: [] if deal == plot.locked else names[-1:] for deal, names in campaigns.items()}
