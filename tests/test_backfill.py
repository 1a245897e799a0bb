"""The walk through Kommo's deals, against the town over real sockets."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from databases import journal_at, run_sql
from parts import FIELDS, WEBHOOK, Desk, encharge_client, kommo_client, ortto_client, rules_of, stage_event
from scripts import Script
from support import NEGOTIATION, PIPELINE, PROPOSAL_SENT, QUALIFIED, ROOT, arrived

from app import mapping
from app.backfill import UNDER_WAY, Backfill, BackfillError, Order, Place, Tally, Upsert
from app.events import LOST, WON, Lane, StageChange, StageNews, stage_repeat
from app.flows import Flow
from app.flows.resolve import ResolveFlow
from app.flows.stage_changes import CurrentStages, EnchargeFlow, TellerFlow
from app.journal import Journal
from app.mapping import Rules
from sandbox.town import Town

WHOLESALE, FIRST_CALL = 7_100_020, 61_000_201
LONG_AGO = 1_700_000_000  # before anything that the town was seeded with
SEEDED = 10  # deals in the town that are not deleted


class Watcher:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.resumed_at: list[int] = []
        self.shares: list[tuple[int, int]] = []
        self.whys: list[str] = []

    def resumed(self, place: Place) -> None:
        self.resumed_at.append(place.tally.deals)

    def progress(self, tally: Tally, total: int) -> None:
        self.shares.append((tally.deals, total))

    def waiting(self, why: str) -> None:
        self.whys.append(why)


class Scene:
    """A town, a journal, and walks through them. Nobody waits: `slept` says for how long they would have."""

    def __init__(self, town: Town, journal: Journal, rules: Rules, url: str) -> None:
        self.url = url
        self.town = town
        self.journal = journal
        self.rules = rules
        self.watcher = Watcher()
        self.slept: list[float] = []
        self.on_sleep: Callable[[], object] = lambda: None
        self.upserts = self.fresh_upserts()

    def fresh_upserts(self) -> dict[Lane, Upsert]:
        """Return the writes to both platforms, as the service makes them."""
        return {Lane.ENCHARGE: encharge_client(self.town).upsert, Lane.ORTTO: ortto_client(self.town).upsert}

    def walk(self, *, restart: bool = False, key: str = "backfill:test", **order: Any) -> Tally:
        """Walk to the end."""
        return self.backfill(key=key, **order).run(restart=restart)

    def backfill(self, key: str = "backfill:test", **order: Any) -> Backfill:
        def sleep(seconds: float) -> None:
            self.slept.append(seconds)
            self.on_sleep()

        kommo = kommo_client(self.town)
        return Backfill(
            kommo, self.rules, self.journal, self.upserts, Order(key, **order), self.watcher, sleep=sleep
        )

    def before(self, lane: Lane, act: Callable[[Sequence[StageNews]], object]) -> None:
        """Have something happen before each write of a lane."""
        upsert = self.upserts[lane]

        def acting(news: Sequence[StageNews]) -> Any:
            act(news)
            return upsert(news)

        self.upserts[lane] = acting

    def stages(self) -> dict[str, str]:
        """Return each person's stage at Encharge, and see that Ortto has the same people."""
        found = arrived(self.town)
        ortto = sorted(person["str::email"] for person in found.get("ortto_people", []))
        stages = {person["email"]: person["kommo_current_stage"] for person in found.get("encharge_people", [])}
        assert sorted(stages) == ortto
        return stages


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """An SQLite file: what the walk asks of the journal is tested on both databases there."""
    return f"sqlite:///{tmp_path / 'journal.db'}"


@pytest.fixture
def journal(database_url: str) -> Iterator[Journal]:
    made = journal_at(database_url)
    yield made
    made.close()


@pytest.fixture
def scene(town: Town, journal: Journal, database_url: str) -> Scene:
    town.kommo.switch(rate=0)
    return Scene(town, journal, mapping.load(ROOT / "config/mapping.yaml", FIELDS), database_url)


def add_deal(
    town: Town, name: str, status: int = QUALIFIED, *, at: float = LONG_AGO, contact: int | None = None, **more: Any
) -> int:
    """Add a deal that was last changed at a time, with a contact `<name>@old.example` unless one is given."""
    clock, town.kommo.clock = town.kommo.clock, lambda: at
    try:
        contact = contact or town.kommo.add_contact(name, [f"{name}@old.example"])
        return town.kommo.add_deal(name, status, contact_ids=[contact], **more)
    finally:
        town.kommo.clock = clock


def add_deals(town: Town, count: int, *, a_second: float = 1) -> dict[int, str]:
    """Add deals, so many a second; return the emails by deal."""
    return {
        add_deal(town, f"p{number}", at=LONG_AGO + number / a_second): f"p{number}@old.example"
        for number in range(count)
    }


# -- who arrives, and how ------------------------------------------------------------------------------------------


def test_a_person_arrives_as_by_a_stage_change(scene: Scene) -> None:
    scene.walk()

    found = arrived(scene.town)
    assert set(found) == {"encharge_people", "ortto_people"}
    (zoe,) = [person for person in found["encharge_people"] if person["email"] == "zoe@example.com"]
    assert zoe == {
        "email": "zoe@example.com",
        "firstName": "Zoë",
        "lastName": "Example",
        "kommo_lead_id": "41500011",
        "kommo_current_stage": "qualified",
        "jobTitle": "Owner",
        "companySize": "12",
        "industry": "Food",
    }
    (zoe,) = [person for person in found["ortto_people"] if person["str::email"] == "zoe@example.com"]
    assert zoe == {
        "str::email": "zoe@example.com",
        "str::first": "Zoë",
        "str::last": "Example",
        "str:cm:kommo-lead-id": "41500011",
        "str:cm:kommo-stage": "Qualification",
        "str:cm:job-title": "Owner",
        "int:cm:company-size": 12,
        "str:cm:industry": "Food",
    }


def test_two_thousand_deals_cost_few_calls_and_all_arrive(scene: Scene) -> None:
    deals = add_deals(scene.town, 2_000, a_second=3)

    tally = scene.walk()

    assert set(scene.stages()) >= set(deals.values())
    calls = scene.town.kommo.count()
    assert calls <= 0.02 * len(deals)
    assert scene.town.kommo.count(path="/api/v4/contacts") <= 9
    assert scene.town.ortto.count() <= 2_000 / 100 + 10
    assert (tally.deals, tally.refusals) == (2_000 + SEEDED, 0)
    assert scene.watcher.shares[0] == (0, 2_000 + SEEDED)
    assert scene.watcher.shares[-1] == (2_000 + SEEDED, 2_000 + SEEDED)


def test_what_is_not_carried_over_is_counted_by_reason(scene: Scene) -> None:
    town = scene.town
    nobody = town.kommo.add_contact("No address", ["not an address"])
    add_deal(town, "unreachable", contact=nobody)
    town.kommo.add_deal("nobody", QUALIFIED)
    add_deal(town, "wholesale", FIRST_CALL, pipeline_id=WHOLESALE)
    add_deal(town, "lost", LOST)

    tally = scene.walk()

    assert tally.skipped == {
        "the contact has no valid email": 1,
        "the deal has no contact": 1,
        "stage 61000201 of pipeline 7100020 is not in the mapping": 1,
        "stage 61000101 of pipeline 7100010 is not in the mapping": 3,
        "won or lost": 2,
    }
    assert tally.written == {"encharge": 6, "ortto": 6}


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        pytest.param({"stage": "negotiation"}, {"c"}, id="stage"),
        pytest.param({"stage": "won"}, {"won"}, id="a stage of closed deals in every pipeline"),
        pytest.param({"stage": "won", "pipeline_ids": (WHOLESALE,)}, {"won"}, id="stage and pipeline"),
        pytest.param({"stage": "won", "pipeline_ids": (PIPELINE,)}, set(), id="stage and another pipeline"),
        pytest.param({"pipeline_ids": (WHOLESALE,)}, set(), id="pipeline"),
        pytest.param({"pipeline_ids": (WHOLESALE, PIPELINE)}, {"a", "b", "c"}, id="pipelines"),
        pytest.param({"since": LONG_AGO + 10.0}, {"b", "c"}, id="since"),
        pytest.param({"since": LONG_AGO + 5.0, "until": LONG_AGO + 15.0}, {"b"}, id="from, to"),
    ],
)
def test_deals_are_chosen(scene: Scene, order: dict[str, Any], expected: set[str]) -> None:
    for number, (name, status) in enumerate({"a": QUALIFIED, "b": PROPOSAL_SENT, "c": NEGOTIATION}.items()):
        add_deal(scene.town, name, status, at=LONG_AGO + 10 * number)
    add_deal(scene.town, "won", WON, pipeline_id=WHOLESALE, at=LONG_AGO + 30)

    scene.walk(**order)

    ours = {email.removesuffix("@old.example") for email in scene.stages() if email.endswith("@old.example")}
    assert ours == expected


def test_one_stage_is_asked_for_at_kommo(scene: Scene) -> None:
    tally = scene.walk(stage="qualified")

    assert tally.deals == sum(tally.skipped.values()) + tally.written["ortto"] == 4


# -- a person with several deals -----------------------------------------------------------------------------------


def test_a_person_with_several_deals_is_written_once_for_the_one_changed_last(scene: Scene) -> None:
    town = scene.town
    ann = town.kommo.add_contact("Ann", ["ann@old.example"])
    add_deal(town, "first", QUALIFIED, contact=ann)
    add_deals(town, 300)  # so that her deals stand on different pages
    add_deal(town, "last", NEGOTIATION, contact=ann, at=LONG_AGO + 1_000)
    add_deal(town, "unmapped", FIRST_CALL, pipeline_id=WHOLESALE, contact=ann, at=LONG_AGO + 2_000)
    add_deal(town, "closed", WON, contact=ann, at=LONG_AGO + 3_000)
    boss = add_deal(town, "boss", PROPOSAL_SENT, at=LONG_AGO + 4_000)
    with town.kommo.changing():
        town.kommo.account.leads[boss].contact_ids.append(ann)
    written: list[str] = []
    scene.before(Lane.ENCHARGE, lambda news: written.extend(item.stage for item in news if "ann@old" in item.email))

    tally = scene.walk()

    assert written == ["negotiation"]
    assert scene.stages()["ann@old.example"] == "negotiation"
    assert tally.skipped["another deal of the person was changed later"] == 1


def test_two_contacts_with_one_address_end_with_the_deal_changed_last(scene: Scene) -> None:
    for number, status in enumerate((NEGOTIATION, QUALIFIED)):
        contact = scene.town.kommo.add_contact("Ann", ["ann@old.example"])
        add_deal(scene.town, "deal", status, contact=contact, at=LONG_AGO + number)

    scene.walk()

    assert scene.stages()["ann@old.example"] == "qualified"


def test_a_platform_that_is_not_told_of_the_latest_stage_keeps_the_one_before(scene: Scene, tmp_path: Path) -> None:
    text = f"""
version: 1
stages:
  - {{stage: qualified, status: {QUALIFIED}}}
  - {{stage: proposal_sent, status: {PROPOSAL_SENT}, ortto: false}}
"""
    scene.rules = rules_of(tmp_path / "mapping.yaml", text)
    ann = scene.town.kommo.add_contact("Ann", ["ann@old.example"])
    add_deal(scene.town, "first", QUALIFIED, contact=ann)
    add_deal(scene.town, "last", PROPOSAL_SENT, contact=ann, at=LONG_AGO + 1)

    scene.walk(until=LONG_AGO + 1)

    assert scene.stages()["ann@old.example"] == "proposal_sent"
    assert scene.town.ortto.person("ann@old.example")["fields"]["str:cm:kommo-stage"] == "qualified"


# -- what changes under way ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("a_second", [2, 100, 300, 1_000_000])
def test_deals_that_go_or_move_under_way_make_it_miss_no_other(scene: Scene, a_second: float) -> None:
    deals = add_deals(scene.town, 800, a_second=a_second)
    ids = sorted(deals)
    pages = {0: ids[0:30], 3: ids[260:290], 6: ids[40:41]}  # three writes a page
    calls = itertools.count()
    moved: list[int] = []

    def change(_: object) -> None:
        """Delete some deals, and move one, that stand on pages already read."""
        some = pages.get(next(calls), [])
        for deal in some[1:]:
            scene.town.kommo.delete_deal(deal)
        for deal in some[:1]:
            scene.town.kommo.move(deal, NEGOTIATION)
            moved.append(deal)

    scene.before(Lane.ENCHARGE, change)
    scene.walk()

    stages = scene.stages()
    left = {email: deal for deal, email in deals.items() if deal in scene.town.kommo.account.leads}
    assert left.keys() - stages.keys() == set()
    assert len(left) == 800 - 2 * 29
    assert [stages[deals[deal]] for deal in moved] == ["negotiation"] * 3


def test_a_deal_that_moves_after_it_was_read_ends_in_its_new_stage(scene: Scene) -> None:
    deal = add_deal(scene.town, "late")
    scene.before(
        Lane.ORTTO, lambda news: scene.town.kommo.move(deal, NEGOTIATION) if news[0].lead_id == deal else None
    )

    scene.walk(stage=None, since=LONG_AGO, until=None)

    assert scene.stages()["late@old.example"] == "negotiation"


def win(scene: Scene, deal: int) -> None:
    """Have a deal won, and its webhook recorded."""
    scene.town.kommo.move(deal, WON)
    scene.journal.record(WEBHOOK, [(stage_event(deal, WON), None)], now=time.time())


def test_a_deal_that_is_won_while_its_person_is_written_ends_as_won(scene: Scene) -> None:
    deal = add_deal(scene.town, "late")
    first = itertools.count()
    scene.before(Lane.ORTTO, lambda _: win(scene, deal) if next(first) == 0 else None)

    tally = scene.walk()

    assert scene.stages()["late@old.example"] == "won"
    assert scene.town.ortto.person("late@old.example")["fields"]["str:cm:kommo-stage"] == "Won"
    assert tally.written == {"encharge": 7, "ortto": 7}


def test_a_deal_that_is_won_before_a_write_that_fails_ends_as_won(scene: Scene) -> None:
    deal = add_deal(scene.town, "late")
    scene.before(Lane.ORTTO, lambda _: win(scene, deal) if not scene.slept else None)
    scene.town.ortto.faults.add(status=503, times=1)

    scene.walk()

    assert scene.stages()["late@old.example"] == "won"


# -- refusals ------------------------------------------------------------------------------------------------------


NO_SUCH_FIELD = f"""
version: 1
stages:
  - {{stage: qualified, status: {QUALIFIED}}}
fields:
  - {{from: contact.POSITION, ortto: "str:cm:nope"}}
"""


@pytest.fixture
def unfit(scene: Scene, tmp_path: Path) -> Scene:
    """A mapping with a field that Ortto does not have: it refuses whoever has a position."""
    scene.rules = rules_of(tmp_path / "mapping.yaml", NO_SUCH_FIELD)
    return scene


def add_people(town: Town, count: int, **fields: str) -> None:
    """Add deals, each with a person who has these fields, changed after those that are there."""
    for number in range(count):
        name = f"{'-'.join(fields.values()) or 'plain'}{number}"
        contact = town.kommo.add_contact(name, [f"{name}@old.example"], fields=fields)
        add_deal(town, name, contact=contact, at=LONG_AGO + len(town.kommo.account.leads))


def test_refused_persons_are_named_and_the_others_arrive(unfit: Scene) -> None:
    add_people(unfit.town, 3, POSITION="boss")
    add_people(unfit.town, 150)

    tally = unfit.walk(stage="qualified", until=LONG_AGO + 1_000)

    words = "failed to validate field str:cm:nope in schema: str:cm:nope: Object not found"
    assert [(item.vendor, item.email, item.words) for item in tally.refused] == [
        ("ortto", f"boss{number}@old.example", words) for number in range(3)
    ]
    assert (tally.refusals, tally.written) == (3, {"encharge": 153, "ortto": 150})
    assert len(unfit.town.ortto.state()["people"]) == 150


def test_a_vendor_that_refuses_everybody_is_asked_little_and_the_walk_stops_there(unfit: Scene) -> None:
    unfit.town.ortto.switch(ban=True)  # after 15 bad calls
    add_people(unfit.town, 120, POSITION="boss")

    with pytest.raises(BackfillError, match=r"Object not found.*\nOrtto refuses everybody"):
        unfit.walk(since=LONG_AGO)

    assert unfit.town.ortto.count() == 4

    unfit.rules = mapping.load(ROOT / "config/mapping.yaml", FIELDS)
    assert unfit.walk(since=LONG_AGO).written["ortto"] == 120 + 6


def test_many_bad_persons_in_a_row_are_got_through_although_ortto_locks_out_for_bad_calls(
    unfit: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfit.town.ortto.switch(ban=True)
    monkeypatch.setattr(unfit.town.ortto, "clock", lambda: time.time() + sum(unfit.slept))
    add_people(unfit.town, 200)
    add_people(unfit.town, 30, POSITION="boss")

    tally = unfit.walk(until=LONG_AGO + 1_000)

    assert (tally.refusals, tally.written) == (30, {"encharge": 230, "ortto": 200})
    assert len(unfit.slept) > 1


def test_a_few_bad_persons_at_the_start_do_not_stop_it(unfit: Scene) -> None:
    add_people(unfit.town, 2, POSITION="boss")

    tally = unfit.walk(until=LONG_AGO + 1_000)

    assert (tally.refusals, tally.written) == (2, {"encharge": 2})


def test_one_bad_person_that_makes_encharge_refuse_the_call_stands_alone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad(method: str, path: str, body: Any) -> str | None:
        return "no: p0" if any(person["email"] == "p0@old.example" for person in body) else None

    monkeypatch.setattr(scene.town.encharge, "faults", Script(bad=bad))
    add_deals(scene.town, 120)

    tally = scene.walk(until=LONG_AGO + 1_000)

    assert [(item.vendor, item.email) for item in tally.refused] == [("encharge", "p0@old.example")]
    assert tally.written == {"encharge": 119, "ortto": 120}


def test_a_contact_that_kommo_does_not_read_is_skipped_with_its_words(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_deals(scene.town, 4)
    bad = max(scene.town.kommo.account.contacts)
    answers = Script(
        bad=lambda method, path, body: "no: him" if f"contacts/{bad}" in path or f"={bad}" in path else None
    )
    monkeypatch.setattr(scene.town.kommo, "faults", answers)

    tally = scene.walk(until=LONG_AGO + 1_000)

    assert tally.written["ortto"] == 3
    (reason,) = tally.skipped
    assert "no: him" in reason


# -- what goes wrong on the way ------------------------------------------------------------------------------------


def test_an_outage_is_waited_out_with_growing_pauses_and_nobody_is_lost(scene: Scene) -> None:
    deals = add_deals(scene.town, 600)
    scene.town.ortto.faults.add(status=503)
    scene.on_sleep = lambda: scene.town.ortto.faults.clear() if len(scene.slept) == 3 else None

    scene.walk()

    assert set(scene.stages()) >= set(deals.values())
    assert [round(seconds) for seconds in scene.slept] == [1, 2, 4]
    assert "answered 503" in scene.watcher.whys[0]
    assert scene.town.encharge.count() <= 12  # those whom it had taken were not sent to it again


def test_a_vendor_is_left_alone_for_as_long_as_it_asks(scene: Scene) -> None:
    scene.town.kommo.faults.add(status=429, times=1)

    scene.walk()

    assert [round(seconds) for seconds in scene.slept] == [300]


def test_a_vendor_that_the_service_leaves_alone_is_not_asked(scene: Scene) -> None:
    scene.journal.pause("ortto", time.time() + 3600, "Ortto: 503")
    held = scene.town.kommo.count()

    def end() -> None:
        assert scene.town.kommo.count() == held
        run_sql(scene.url, "UPDATE lanes SET paused_until = 0")

    scene.on_sleep = end
    scene.walk()

    assert scene.watcher.whys == ["Ortto: 503"]
    assert len(scene.stages()) == 6


def test_a_wrong_key_stops_it_and_the_same_order_goes_on_from_there(scene: Scene) -> None:
    deals = add_deals(scene.town, 600)
    calls = itertools.count()
    scene.before(Lane.ORTTO, lambda _: scene.town.ortto.switch(disconnected=next(calls) == 4))

    with pytest.raises(BackfillError, match="answered 401"):
        scene.walk()
    before = scene.town.encharge.count()
    scene.upserts = scene.fresh_upserts()
    scene.town.ortto.switch(disconnected=False)
    tally = scene.walk()

    assert set(scene.stages()) >= set(deals.values())
    assert tally.deals == 600 + SEEDED
    assert tally.written == {"encharge": 606, "ortto": 606}
    assert scene.watcher.resumed_at == [250]
    assert scene.town.encharge.count() - before < before + 5


def test_another_order_and_a_restart_begin_anew(scene: Scene) -> None:
    add_deals(scene.town, 300)
    calls = itertools.count()
    scene.before(Lane.ORTTO, lambda _: scene.town.ortto.switch(disconnected=next(calls) == 3))
    with pytest.raises(BackfillError):
        scene.walk()
    scene.town.ortto.switch(disconnected=False)
    scene.upserts = scene.fresh_upserts()

    assert scene.walk(key="backfill:other").deals == 300 + SEEDED
    del scene.upserts[Lane.ORTTO]
    assert scene.walk().deals == 300 + SEEDED
    scene.upserts = scene.fresh_upserts()
    assert scene.walk(restart=True).deals == 300 + SEEDED
    assert scene.watcher.resumed_at == []
    assert scene.journal.bookmark("backfill:test:encharge+ortto") is None


def test_refusals_and_counts_outlive_a_stop(unfit: Scene) -> None:
    add_people(unfit.town, 3, POSITION="boss")
    add_people(unfit.town, 300)
    calls = itertools.count()

    def interrupt(_: object) -> None:
        if next(calls) == 3:
            raise KeyboardInterrupt

    unfit.before(Lane.ENCHARGE, interrupt)
    with pytest.raises(KeyboardInterrupt):
        unfit.walk(until=LONG_AGO + 1_000)
    # What is erased from the journal must not come back from a walk's memory.
    noted = unfit.journal.bookmark("backfill:test:encharge+ortto")
    assert noted
    assert "@old.example" not in noted
    unfit.upserts = unfit.fresh_upserts()

    tally = unfit.walk(until=LONG_AGO + 1_000)

    assert unfit.watcher.resumed_at == [250]
    assert [(item.email, item.lead_id > 0) for item in tally.refused] == [("", True)] * 3
    assert (tally.refusals, len(tally.refused), tally.written) == (3, 3, {"encharge": 303, "ortto": 300})


def test_a_dry_run_writes_nothing_and_leaves_no_trace(scene: Scene) -> None:
    add_deals(scene.town, 300)
    walk = scene.backfill(dry_run=True)

    tally = walk.run()

    assert tally.written == {"encharge": 306, "ortto": 306}
    assert [(lane, news.email) for lane, news in walk.samples[:2]] == [
        (Lane.ENCHARGE, "p0@old.example"),
        (Lane.ENCHARGE, "p1@old.example"),
    ]
    assert arrived(scene.town) == {}
    assert run_sql(scene.url, "SELECT count(*) FROM cooldowns") == [(0,)]


def test_without_a_destination_there_is_nothing_to_do(scene: Scene) -> None:
    scene.upserts = {}

    with pytest.raises(BackfillError, match="set ENCHARGE_API_KEY or ORTTO_API_KEY"):
        scene.walk()


# -- events --------------------------------------------------------------------------------------------------------


def deliver_all(scene: Scene) -> None:
    """Carry what the journal owes, as the service does."""
    desk, kommo = Desk(scene.journal), kommo_client(scene.town)
    stages = CurrentStages(kommo, scene.rules)
    lanes: dict[Lane, Flow] = {
        Lane.RESOLVE: ResolveFlow(kommo, scene.rules, list(scene.upserts)),
        Lane.ENCHARGE: EnchargeFlow(encharge_client(scene.town), stages),
        Lane.ORTTO: TellerFlow(Lane.ORTTO, ortto_client(scene.town), stages),
    }
    for lane, flow in lanes.items():
        while desk.carry(flow, lane):
            pass


def test_events_are_recorded_delivered_and_not_repeated_on_the_same_day(scene: Scene) -> None:
    deals = add_deals(scene.town, 20)

    assert scene.walk(events=True).written == {"events": 26}
    again = scene.walk(events=True)
    assert (again.written, again.skipped["its event is in the journal already"]) == ({}, 26)
    deliver_all(scene)

    found = arrived(scene.town)
    assert Counter(event["email"] for event in found["encharge_events"]) >= Counter(deals.values())
    assert {event["name"] for event in found["encharge_events"] if "old" in event["email"]} == {
        "deal_moved_to_qualified"
    }
    assert len(found["ortto_activities"]) == len(found["encharge_events"]) == 26
    assert run_sql(scene.url, "SELECT DISTINCT state FROM jobs") == [("done",)]


def test_events_of_the_next_day_are_sent_again(scene: Scene) -> None:
    scene.walk(events=True)
    tomorrow = scene.backfill(events=True)
    tomorrow.place.begun += 86_400

    assert tomorrow.run().written == {"events": 6}


def test_a_run_that_goes_on_after_midnight_keeps_its_day(scene: Scene) -> None:
    add_deals(scene.town, 300)
    walk = scene.backfill(events=True)
    walk.place.begun -= 86_400
    record = scene.journal.record
    calls = itertools.count()

    def interrupted(*arguments: Any, **more: Any) -> Any:
        recorded = record(*arguments, **more)
        if next(calls) == 1:
            raise KeyboardInterrupt
        return recorded

    scene.journal.record = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        walk.run()

    tally = scene.walk(events=True)

    assert run_sql(scene.url, "SELECT count(*) FROM events") == [(306,)]
    assert tally.written["events"] + tally.skipped["its event is in the journal already"] == 306


def test_of_a_deal_that_moves_under_way_the_new_stage_is_told_once(scene: Scene) -> None:
    del scene.upserts[Lane.ENCHARGE]
    scene.on_sleep = lambda: deliver_all(scene)
    deals = add_deals(scene.town, 300)
    moving = min(deals)
    record = scene.journal.record
    calls = itertools.count()

    def moved(*arguments: Any, **more: Any) -> Any:
        """Let a deal of the first page move before the second is read, and its webhook come."""
        recorded = record(*arguments, **more)
        if next(calls) == 0:
            scene.town.kommo.move(moving, NEGOTIATION)
            event = stage_event(moving, NEGOTIATION)
            repeat = stage_repeat(StageChange(moving, NEGOTIATION, PIPELINE), 60)
            record(WEBHOOK, [(replace(event, repeat=repeat), None)], now=time.time())
        return recorded

    scene.journal.record = moved  # type: ignore[method-assign]
    tally = scene.walk(events=True)

    assert tally.skipped["its event is in the journal already"] == 1
    query = "SELECT data FROM events WHERE order_key = :key ORDER BY id"
    told = run_sql(scene.url, query, key=f"lead:{moving}")
    assert [json.loads(data)["status_id"] for (data,) in told] == [QUALIFIED, NEGOTIATION]


def test_events_do_not_pile_up_before_what_happens_now(scene: Scene) -> None:
    del scene.upserts[Lane.ENCHARGE]  # which takes one event a call
    add_deals(scene.town, 900)
    most: list[int] = []

    def deliver() -> None:
        most.append(run_sql(scene.url, "SELECT count(*) FROM jobs WHERE state = 'pending'")[0][0])
        deliver_all(scene)

    scene.on_sleep = deliver
    assert scene.walk(events=True).written == {"events": 906}
    deliver_all(scene)

    assert max(most) <= 2 * UNDER_WAY
    assert "flask work" in scene.watcher.whys[0]
    assert len(arrived(scene.town)["ortto_activities"]) == 906


def test_a_dry_run_of_events_says_how_many_would_go_where(scene: Scene) -> None:
    assert scene.walk(events=True, dry_run=True).written == {"encharge": 6, "ortto": 6}
    assert run_sql(scene.url, "SELECT count(*) FROM events") == [(0,)]
