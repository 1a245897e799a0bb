"""Batches of stage changes: what stands in the ledger after each failure, what is sent again, and what is not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from databases import journal_at
from parts import Clock, Desk, encharge_client, kommo_client, ortto_client, rules_of, stage_event
from scripts import ANSWERS, OK, Script
from support import NEGOTIATION, PIPELINE, PROPOSAL_SENT, QUALIFIED, add_deals, arrived

from app.clients.encharge import EnchargeClient, Person
from app.clients.errors import ApiError, Fault
from app.events import DONE, HELD, Lane, Outcome, State, Step
from app.flows import Flow, Ledger, Result
from app.flows.resolve import ResolveFlow
from app.flows.stage_changes import (
    EVENTS_AT_ONCE,
    FOUND,
    FRESH_SECONDS,
    SENT_AGAIN,
    CurrentStages,
    EnchargeFlow,
    TellerFlow,
)
from app.journal import Journal, JournalError, Search
from app.journal.store import LEASE_SECONDS
from app.mapping import Rules
from sandbox.town import Town

UNMAPPED = 61_000_101
MAPPING = f"""
version: 1
stages:
  - {{stage: qualified, pipeline: {PIPELINE}, status: {QUALIFIED}, label: Qualification}}
  - {{stage: proposal_sent, pipeline: {PIPELINE}, status: {PROPOSAL_SENT}, label: Proposal sent}}
  - {{stage: negotiation, pipeline: {PIPELINE}, status: {NEGOTIATION}, label: Negotiation}}
"""
BEGUN, FINISHED = Step(finished=False), Step(finished=True)
NOTHING: dict[str, Step] = {}
DOUBT = {"event": BEGUN}
NOWHERE = "http://127.0.0.1:9/v1"  # nobody listens there


@dataclass
class Bench:
    """Two flows at a desk: events are resolved as they are written down."""

    town: Town
    desk: Desk
    rules: Rules
    clock: Clock
    flows: dict[Lane, Flow] = field(default_factory=dict)

    def use(self, lane: Lane, client: Any = None, **options: bool) -> None:
        """Set a lane's flow up, with another client or with options."""
        stages = CurrentStages(kommo_client(self.town), self.rules, self.clock)
        if lane == Lane.ENCHARGE:
            self.flows[lane] = EnchargeFlow(client or encharge_client(self.town), stages, **options)
        else:
            self.flows[lane] = TellerFlow(lane, client or ortto_client(self.town), stages, **options)

    def enter(self, *moves: tuple[int, int]) -> list[int]:
        """Have webhooks tell that deals entered stages; return the events' ids."""
        events = [stage_event(lead_id, status, number) for number, (lead_id, status) in enumerate(moves)]
        ids = self.desk.record(*events)
        resolve = ResolveFlow(kommo_client(self.town), self.rules, (Lane.ENCHARGE, Lane.ORTTO), clock=self.clock)
        self.desk.carry(resolve, Lane.RESOLVE)
        return ids

    def carry(self, lane: Lane) -> dict[int, Result]:
        return self.desk.carry(self.flows[lane], lane)


@pytest.fixture
def bench(town: Town, tmp_path: Path) -> Iterator[Bench]:
    town.kommo.switch(rate=0)
    journal = journal_at(f"sqlite:///{tmp_path / 'journal.db'}")
    clock = Clock()
    made = Bench(town, Desk(journal, clock), rules_of(tmp_path / "mapping.yaml", MAPPING), clock)
    made.use(Lane.ENCHARGE)
    made.use(Lane.ORTTO)
    yield made
    journal.close()


@pytest.fixture
def deals(town: Town) -> list[int]:
    return list(add_deals(town, 4))


def said(results: Mapping[int, Result]) -> list[tuple[str, str]]:
    """Return the states of the results and their words, in the order of the events."""
    return [_said(results[event_id]) for event_id in sorted(results)]


def _said(result: Result) -> tuple[str, str]:
    if isinstance(result, ApiError):
        return ("dead" if result.fault == Fault.REFUSED else "again"), str(result)
    return result.state.value, result.reason


def events_of(town: Town) -> list[tuple[str, str]]:
    """Return the lead and the stage of the events that Encharge has."""
    return [
        (e["properties"]["lead_id"], e["properties"]["stage"]) for e in arrived(town).get("encharge_events", [])
    ]


def activities_of(town: Town) -> list[tuple[str, str]]:
    """Return the lead and the stage of the activities that Ortto has."""
    found = [activity["attributes"] for activity in arrived(town).get("ortto_activities", [])]
    return [(attributes["str:cm:lead-id"], attributes["str:cm:stage"]) for attributes in found]


HEARD: dict[Lane, Callable[[Town], list[tuple[str, str]]]] = {
    Lane.ENCHARGE: events_of,
    Lane.ORTTO: activities_of,
}
LATEST = {Lane.ENCHARGE: "negotiation", Lane.ORTTO: "Negotiation"}
FIRST = {Lane.ENCHARGE: "qualified", Lane.ORTTO: "Qualification"}


# -- Encharge: what stands in the ledger --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "steps", "times", "words"),
    [
        pytest.param("429", NOTHING, 1, "", id="429"),
        pytest.param("500", DOUBT, 1, SENT_AGAIN, id="500"),
        pytest.param("500, done", DOUBT, 1, FOUND, id="500 but done"),
        pytest.param("a page of 502", DOUBT, 1, SENT_AGAIN, id="a gateway's page"),
        pytest.param("dropped", DOUBT, 1, SENT_AGAIN, id="dropped"),
        pytest.param("dropped, done", DOUBT, 1, FOUND, id="dropped but done"),
    ],
)
def test_an_event_that_may_have_been_sent_is_looked_for_before_it_is_sent_again(
    answer: str, steps: dict[str, Step], times: int, words: str, bench: Bench, deals: list[int]
) -> None:
    """Encharge knows no key to tell repeats by, and shows no events; but the person tells the last one."""
    (event,) = bench.enter((deals[0], QUALIFIED))
    bench.town.encharge.ingest.faults.add(**ANSWERS[answer], times=1)

    failed = bench.carry(Lane.ENCHARGE)
    steps_between = bench.desk.steps(Lane.ENCHARGE)
    done = bench.carry(Lane.ENCHARGE)

    assert [state for state, _ in said(failed)] == ["again"]
    assert steps_between == {event: steps}
    assert done == {event: Outcome(State.DONE, words)}
    assert events_of(bench.town) == [(str(deals[0]), "qualified")] * times
    assert bench.town.encharge.count("POST") == 0, "the event carries its person"
    assert bench.town.encharge.count("GET", "/v1/people") == (1 if steps else 0)


def test_an_event_that_was_found_lets_the_next_ones_of_its_deal_go(bench: Bench, deals: list[int]) -> None:
    first, second = bench.enter((deals[0], QUALIFIED), (deals[0], PROPOSAL_SENT))
    bench.town.encharge.ingest.faults.add(**ANSWERS["dropped, done"], times=1)

    bench.carry(Lane.ENCHARGE)
    done = bench.carry(Lane.ENCHARGE)

    assert done == {first: Outcome(State.DONE, FOUND), second: DONE}
    assert events_of(bench.town) == [(str(deals[0]), "qualified"), (str(deals[0]), "proposal_sent")]


def test_an_event_that_cannot_be_looked_for_waits_and_holds_up_its_own_deal_alone(
    bench: Bench, deals: list[int]
) -> None:
    (first,) = bench.enter((deals[0], QUALIFIED))
    bench.town.encharge.ingest.faults.add(**ANSWERS["dropped, done"], times=1)
    bench.carry(Lane.ENCHARGE)
    second, other = bench.enter((deals[0], PROPOSAL_SENT), (deals[1], PROPOSAL_SENT))
    bench.town.encharge.faults.add(status=503, times=1)

    waiting = bench.carry(Lane.ENCHARGE)
    done = bench.carry(Lane.ENCHARGE)

    assert isinstance(waiting.pop(first), ApiError)
    assert waiting == {second: HELD, other: DONE}
    assert done == {first: Outcome(State.DONE, FOUND), second: DONE}
    assert events_of(bench.town) == [
        (str(deals[0]), "qualified"),
        (str(deals[1]), "proposal_sent"),
        (str(deals[0]), "proposal_sent"),
    ]


def test_the_intents_of_a_batch_are_written_at_once_and_its_ends_with_the_settlement(
    bench: Bench, deals: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    events = bench.enter(*((deal, QUALIFIED) for deal in deals))
    written: list[int] = []
    write_steps = bench.desk.journal.write_steps

    def count(ledgers: Mapping[int, Mapping[str, Step]], token: str) -> set[int]:
        written.append(len(ledgers))
        return write_steps(ledgers, token)

    monkeypatch.setattr(bench.desk.journal, "write_steps", count)

    assert bench.carry(Lane.ENCHARGE) == dict.fromkeys(events, DONE)
    assert written == [len(deals)]


def test_an_event_is_ticked_off_on_disk_before_the_next_of_its_deal_is_sent(
    bench: Bench, deals: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The person tells the last one only: after a death between the two, the first could not be found."""
    first, second = bench.enter((deals[0], QUALIFIED), (deals[0], PROPOSAL_SENT))
    seen: list[dict[int, dict[str, str]]] = []
    client = encharge_client(bench.town)
    track = client.track

    def look(*args: Any, **more: Any) -> None:
        stories = bench.desk.journal.find(Search())
        seen.append({story.id: job.steps for story in stories for job in story.jobs if job.lane == Lane.ENCHARGE})
        track(*args, **more)

    monkeypatch.setattr(client, "track", look)
    bench.use(Lane.ENCHARGE, client)

    assert bench.carry(Lane.ENCHARGE) == {first: DONE, second: DONE}
    assert seen == [
        {first: {"event": "begun"}, second: {}},
        {first: {"event": "done"}, second: {"event": "begun"}},
    ]


def test_an_event_after_which_another_one_came_is_sent_again(bench: Bench, town: Town) -> None:
    """The person tells the last event only: nothing is lost, and it is said that there may be two."""
    ((deal, email),) = add_deals(town, 1).items()
    (event,) = bench.enter((deal, QUALIFIED))
    bench.town.encharge.ingest.faults.add(**ANSWERS["dropped, done"], times=1)
    bench.carry(Lane.ENCHARGE)
    encharge_client(town).track(
        Person(email, "", "", {}), event="e", properties={"lead_id": "0", "stage": ""}, key="of another deal"
    )

    assert bench.carry(Lane.ENCHARGE) == {event: Outcome(State.DONE, SENT_AGAIN)}


def test_an_event_to_a_host_that_does_not_listen_was_certainly_not_sent(bench: Bench, deals: list[int]) -> None:
    town = bench.town
    keys = (town.encharge.api_key, town.encharge.write_key)
    bench.use(Lane.ENCHARGE, EnchargeClient(f"{town.encharge.url}/v1", NOWHERE, *keys))
    (event,) = bench.enter((deals[0], QUALIFIED))

    failed = bench.carry(Lane.ENCHARGE)

    assert said(failed) == [("again", "Encharge Ingest: no connection to POST / (ConnectionError)")]
    assert bench.desk.steps(Lane.ENCHARGE) == {event: NOTHING}


def test_a_doubt_outlives_attempts_that_certainly_failed(bench: Bench, deals: list[int], monkeypatch: Any) -> None:
    (event,) = bench.enter((deals[0], QUALIFIED))
    script = Script(["dropped", "429", OK])
    monkeypatch.setattr(bench.town.encharge.ingest, "faults", script)

    bench.carry(Lane.ENCHARGE)
    bench.carry(Lane.ENCHARGE)
    steps_between = bench.desk.steps(Lane.ENCHARGE)
    done = bench.carry(Lane.ENCHARGE)

    assert steps_between == {event: DOUBT}
    assert done == {event: Outcome(State.DONE, SENT_AGAIN)}


@pytest.mark.parametrize(
    ("answer", "steps"),
    [pytest.param("500", {}, id="500"), pytest.param("dropped, done", {}, id="dropped but done")],
)
def test_persons_are_written_again_before_their_event(
    answer: str, steps: dict[str, Step], bench: Bench, deals: list[int]
) -> None:
    """An upsert may be repeated: nothing needs to be known of the first one."""
    bench.use(Lane.ENCHARGE, by_tag=True)
    (event,) = bench.enter((deals[0], QUALIFIED))
    bench.town.encharge.faults.add(**ANSWERS[answer], times=1)

    bench.carry(Lane.ENCHARGE)
    assert bench.town.encharge.count("POST", "/v1/tags") == 0
    assert bench.desk.steps(Lane.ENCHARGE) == {event: steps}

    assert bench.carry(Lane.ENCHARGE) == {event: DONE}
    assert bench.town.encharge.count("POST", "/v1/tags") == 1


def test_a_person_whom_encharge_refuses_stops_nobody_else(bench: Bench, deals: list[int], monkeypatch: Any) -> None:
    def bad(method: str, path: str, body: Any) -> str | None:
        return "no such person" if "person2@burst.example" in str(body) else None

    monkeypatch.setattr(bench.town.encharge.ingest, "faults", Script(bad=bad))
    bench.enter(*((deal, QUALIFIED) for deal in deals))

    results = bench.carry(Lane.ENCHARGE)

    refusal = ("dead", "Encharge Ingest: POST / answered 400: no such person")
    assert said(results) == [("done", ""), ("done", ""), refusal, ("done", "")]
    assert sorted(events_of(bench.town)) == [(str(deal), "qualified") for deal in deals if deal != deals[2]]


# -- order --------------------------------------------------------------------------------------------------------

THREE = (QUALIFIED, PROPOSAL_SENT, NEGOTIATION)


def _refuse_first(town: Town, lane: Lane, answer: Mapping[str, Any]) -> None:
    vendor = town.encharge.ingest if lane == Lane.ENCHARGE else town.ortto
    vendor.faults.add(**answer, times=1)


def test_the_later_events_of_a_deal_wait_for_the_first_and_other_deals_do_not(
    bench: Bench, deals: list[int], monkeypatch: Any
) -> None:
    first, other = deals[:2]

    def own(body: Any) -> Any:
        return answers if body["properties"]["lead_id"] == str(first) else iter(())

    answers = iter(["500"])
    monkeypatch.setattr(bench.town.encharge.ingest, "faults", Script(own=own))
    bench.enter(*((deal, status) for status in THREE for deal in (first, other)))

    results = bench.carry(Lane.ENCHARGE)

    assert [state for state, _ in said(results)] == ["again", "done", "pending", "done", "pending", "done"]
    assert list(results.values()).count(HELD) == 2
    assert [lead for lead, _ in events_of(bench.town)] == [str(other)] * 3
    bench.carry(Lane.ENCHARGE)
    assert [stage for lead, stage in events_of(bench.town) if lead == str(first)] == [
        "qualified",
        "proposal_sent",
        "negotiation",
    ]


def test_nothing_more_is_sent_after_the_first_error_that_is_about_the_vendor(bench: Bench) -> None:
    bench.enter(*((deal, QUALIFIED) for deal in add_deals(bench.town, EVENTS_AT_ONCE * 3)))
    bench.town.encharge.ingest.faults.add(status=429, body="Too Many Requests", headers={"Retry-After": "30"})
    sent: list[str] = []
    client = encharge_client(bench.town)
    track = client.track

    def count(person: Person, **more: Any) -> None:
        sent.append(person.email)
        track(person, **more)

    client.track = count  # type: ignore[method-assign]
    bench.use(Lane.ENCHARGE, client)

    results = bench.carry(Lane.ENCHARGE)

    assert {state for state, _ in said(results)} == {"again"}
    assert 1 <= len(sent) <= EVENTS_AT_ONCE  # those that were in flight with the first one
    assert set(map(str, bench.desk.steps(Lane.ENCHARGE).values())) == {"{}"}  # none is in doubt
    bench.town.encharge.ingest.faults.clear()


def test_an_error_leaves_a_batch_only_after_all_of_its_calls_have_ended(
    bench: Bench, deals: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.enter(*((deal, status) for status in (QUALIFIED, PROPOSAL_SENT) for deal in deals[:2]))
    client = encharge_client(bench.town)
    track, ended = client.track, list[str]()

    def slow(person: Person, **more: Any) -> None:
        if more["properties"]["lead_id"] == str(deals[1]):
            time.sleep(0.5)
        track(person, **more)
        ended.append(more["properties"]["lead_id"])

    def fail(self: Ledger, *args: Any, **more: Any) -> None:
        raise JournalError("locked")

    client.track = slow  # type: ignore[method-assign]
    bench.use(Lane.ENCHARGE, client)
    monkeypatch.setattr(Ledger, "finish", fail)

    with pytest.raises(JournalError):
        bench.carry(Lane.ENCHARGE)
    assert str(deals[1]) in ended


@pytest.mark.parametrize("lane", [Lane.ENCHARGE, Lane.ORTTO])
def test_a_refused_event_lets_the_next_one_of_its_deal_go(
    lane: Lane, bench: Bench, deals: list[int], monkeypatch: Any
) -> None:
    def bad(method: str, path: str, body: Any) -> str | None:
        return "no such stage" if "roposal" in str(body) else None

    vendor = bench.town.encharge.ingest if lane == Lane.ENCHARGE else bench.town.ortto
    monkeypatch.setattr(vendor, "faults", Script(bad=bad))
    bench.enter(*((deals[0], status) for status in THREE))

    results = bench.carry(lane)

    assert [state for state, _ in said(results)] == ["done", "dead", "done"]
    assert said(results)[1][1].endswith("answered 400: no such stage")
    heard = events_of(bench.town) if lane == Lane.ENCHARGE else activities_of(bench.town)
    assert [stage.lower() for _, stage in heard] == [
        "qualified" if lane == Lane.ENCHARGE else "qualification",
        "negotiation",
    ]


def test_after_a_failure_amid_a_refused_batch_nothing_later_is_sent(
    bench: Bench, deals: list[int], monkeypatch: Any
) -> None:
    """Ortto refuses the batch for one item; while it is halved, the first half fails: the second must wait."""
    first, bad_deal = deals[0], deals[1]
    calls: list[int] = []

    def bad(method: str, path: str, body: Any) -> str | None:
        calls.append(len(body["activities"]))
        return "no such deal" if str(bad_deal) in str(body) else None

    monkeypatch.setattr(bench.town.ortto, "faults", Script(["429"], bad=bad))
    bench.enter((first, QUALIFIED), (bad_deal, QUALIFIED), (first, PROPOSAL_SENT), (deals[2], QUALIFIED))

    results = bench.carry(Lane.ORTTO)

    assert calls == [4, 2, 1]
    assert [state for state, _ in said(results)] == ["again", "again", "pending", "again"]
    assert activities_of(bench.town) == []
    results = bench.carry(Lane.ORTTO)
    assert [state for state, _ in said(results)] == ["done", "dead", "done", "done"]
    assert [stage for lead, stage in activities_of(bench.town) if lead == str(first)] == [
        "Qualification",
        "Proposal sent",
    ]


@pytest.mark.parametrize("lane", [Lane.ENCHARGE, Lane.ORTTO])
def test_a_job_that_another_process_has_taken_over_is_left_alone(
    lane: Lane, bench: Bench, deals: list[int], tmp_path: Path
) -> None:
    bench.enter((deals[0], QUALIFIED))
    batch = bench.desk.claim(lane)
    bench.clock.put_forward(LEASE_SECONDS + 1)
    other = Desk(Journal(f"sqlite:///{tmp_path / 'journal.db'}"), bench.clock)
    assert [job.id for job in other.claim(lane)] == [job.id for job in batch]

    results = bench.flows[lane].carry(batch, Ledger(bench.desk.journal, batch))

    assert list(results.values()) == [HELD]
    assert (events_of(bench.town), activities_of(bench.town)) == ([], [])
    other.journal.close()


# -- Ortto --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "steps"),
    [
        pytest.param("429", {}, id="429"),
        pytest.param("500", {"event": BEGUN}, id="500"),
        pytest.param("500, done", {"event": BEGUN}, id="500 but done"),
        pytest.param("a page of 502", {"event": BEGUN}, id="a gateway's page"),
        pytest.param("dropped", {"event": BEGUN}, id="dropped"),
        pytest.param("dropped, done", {"event": BEGUN}, id="dropped but done"),
    ],
)
def test_ortto_tells_repeats_by_their_key(
    answer: str, steps: dict[str, Step], bench: Bench, deals: list[int]
) -> None:
    (event,) = bench.enter((deals[0], QUALIFIED))
    bench.town.ortto.faults.add(**ANSWERS[answer], times=1)

    bench.carry(Lane.ORTTO)
    steps_between = bench.desk.steps(Lane.ORTTO)
    done = bench.carry(Lane.ORTTO)

    assert steps_between == {event: steps}
    assert done == {event: DONE}
    assert activities_of(bench.town) == [(str(deals[0]), "Qualification")]
    assert bench.town.ortto.state()["counters"]["duplicates"] == int("done" in answer)


@pytest.mark.parametrize("partial", [False, True], ids=["the whole batch", "that one alone"])
def test_one_activity_that_ortto_refuses_stops_no_other(
    partial: bool, bench: Bench, town: Town, tmp_path: Path
) -> None:
    """Ortto may refuse a whole batch for one item, or only that item."""
    bench.rules = rules_of(
        tmp_path / "typo.yaml", MAPPING + "fields:\n  - {from: contact.POSITION, ortto: str:cm:no-such-field}\n"
    )
    bench.use(Lane.ORTTO)
    chief = town.kommo.add_contact("Chief", ["chief@burst.example"], fields={"POSITION": "Chief"})
    bad = town.kommo.add_deal("Bad", QUALIFIED, contact_ids=[chief])
    good = list(add_deals(town, 6))
    town.ortto.switch(partial=partial)
    bench.enter(*((deal, QUALIFIED) for deal in [*good[:3], bad, *good[3:]]))

    results = bench.carry(Lane.ORTTO)

    states = [state for state, _ in said(results)]
    assert states == ["done", "done", "done", "dead", "done", "done", "done"]
    assert "str:cm:no-such-field" in said(results)[3][1]
    assert activities_of(town) == [(str(deal), "Qualification") for deal in good]
    assert town.ortto.state()["counters"]["duplicates"] == 0


# -- tags, the article's dialect ----------------------------------------------------------------------------------


def test_as_a_tag_an_event_may_be_sent_again_unseen(bench: Bench, deals: list[int]) -> None:
    bench.use(Lane.ENCHARGE, by_tag=True)
    bench.enter((deals[0], QUALIFIED), (deals[0], PROPOSAL_SENT))
    bench.town.encharge.faults.add(path="/v1/tags", **ANSWERS["dropped, done"], times=1)

    assert [state for state, _ in said(bench.carry(Lane.ENCHARGE))] == ["again", "pending"]
    assert list(bench.carry(Lane.ENCHARGE).values()) == [DONE, DONE]

    assert events_of(bench.town) == []
    (person,) = bench.town.encharge.state()["people"]
    assert person["tags"] == "deal_moved_to_qualified,deal_moved_to_proposal_sent"


def test_in_the_articles_dialect_the_same_arrives(bench: Bench, deals: list[int]) -> None:
    bench.town.encharge.switch(dialect="article")
    bench.use(Lane.ENCHARGE, encharge_client(bench.town, "article"))
    bench.enter((deals[0], QUALIFIED))

    assert list(bench.carry(Lane.ENCHARGE).values()) == [DONE]

    sent = [(call.method, call.path, call.body) for call in bench.town.encharge.calls]
    event = {
        "name": "deal_moved_to_qualified",
        "email": "person0@burst.example",
        "properties": {
            "lead_id": str(deals[0]),
            "stage": "qualified",
            "pipeline_id": PIPELINE,
            "deal_value": 100,
        },
    }
    person = {
        "email": "person0@burst.example",
        "firstName": "Person",
        "lastName": "person0@burst.example",
        "fields": {"kommo_lead_id": str(deals[0]), "kommo_current_stage": "qualified"},
    }
    assert sent == [("POST", "/v1/people", person), ("POST", "/v1/events", event)]
    assert bench.town.encharge.ingest.count() == 0
    assert events_of(bench.town) == [(str(deals[0]), "qualified")]


# -- only the latest ----------------------------------------------------------------------------------------------


def superseded_by(event_id: int) -> tuple[str, str]:
    return "skipped", f"only the latest stage is sent: event {event_id} stands for it"


@pytest.mark.parametrize("lane", [Lane.ENCHARGE, Lane.ORTTO])
def test_only_the_latest_of_a_deals_waiting_stages_is_sent(lane: Lane, bench: Bench, deals: list[int]) -> None:
    bench.use(lane, latest_only=True)
    *_, latest = bench.enter(*((deals[0], status) for status in THREE))
    (other,) = bench.enter((deals[1], QUALIFIED))

    results = bench.carry(lane)

    assert said(results) == [superseded_by(latest), superseded_by(latest), ("done", ""), ("done", "")]
    assert other in results
    assert sorted(HEARD[lane](bench.town)) == [(str(deals[0]), LATEST[lane]), (str(deals[1]), FIRST[lane])]


@pytest.mark.parametrize("lane", [Lane.ENCHARGE, Lane.ORTTO])
def test_an_earlier_stage_that_may_have_been_sent_is_not_skipped(
    lane: Lane, bench: Bench, deals: list[int]
) -> None:
    bench.use(lane, latest_only=True)
    bench.enter((deals[0], QUALIFIED))
    _refuse_first(bench.town, lane, ANSWERS["dropped"])
    bench.carry(lane)
    middle, latest = bench.enter((deals[0], PROPOSAL_SENT), (deals[0], NEGOTIATION))

    results = bench.carry(lane)

    words = SENT_AGAIN if lane == Lane.ENCHARGE else ""
    assert said(results) == [("done", words), superseded_by(latest), ("done", "")]
    assert middle in results
    assert [stage for _, stage in HEARD[lane](bench.town)] == [FIRST[lane], LATEST[lane]]


@pytest.mark.parametrize("lane", [Lane.ENCHARGE, Lane.ORTTO])
def test_an_earlier_stage_that_certainly_was_not_sent_is_skipped(
    lane: Lane, bench: Bench, deals: list[int]
) -> None:
    """As after an outage: the main case of it."""
    bench.use(lane, latest_only=True)
    bench.enter((deals[0], QUALIFIED))
    _refuse_first(bench.town, lane, ANSWERS["429"])
    bench.carry(lane)
    (latest,) = bench.enter((deals[0], NEGOTIATION))

    results = bench.carry(lane)

    assert said(results) == [superseded_by(latest), ("done", "")]
    assert HEARD[lane](bench.town) == [(str(deals[0]), LATEST[lane])]


# -- the stage of now ---------------------------------------------------------------------------------------------


def stages_of_persons(town: Town) -> list[str]:
    found = arrived(town)
    # Encharge hears of several people at once, in no order.
    people = sorted(found.get("encharge_people", []), key=lambda person: str(person["email"]))
    return [person["kommo_current_stage"] for person in people] + [
        person["str:cm:kommo-stage"] for person in found.get("ortto_people", [])
    ]


def test_a_deal_that_was_just_read_is_not_read_again(bench: Bench, deals: list[int]) -> None:
    bench.enter((deals[0], QUALIFIED))
    calls = bench.town.kommo.count()
    bench.town.kommo.move(deals[0], NEGOTIATION)

    bench.carry(Lane.ENCHARGE)
    bench.carry(Lane.ORTTO)

    assert bench.town.kommo.count() == calls
    assert stages_of_persons(bench.town) == ["qualified", "Qualification"]


@pytest.mark.parametrize(
    ("now", "stages"),
    [
        pytest.param(NEGOTIATION, ["negotiation", "Negotiation"], id="it has moved on"),
        pytest.param(UNMAPPED, ["qualified", "Qualification"], id="to a stage without a name"),
        pytest.param(None, ["qualified", "Qualification"], id="it was deleted"),
    ],
)
def test_a_late_delivery_writes_the_persons_stage_of_now(
    now: int | None, stages: list[str], bench: Bench, deals: list[int]
) -> None:
    bench.enter((deals[0], QUALIFIED), (deals[1], QUALIFIED))
    bench.clock.put_forward(FRESH_SECONDS + 1)
    if now is None:
        bench.town.kommo.delete_deal(deals[0])
    else:
        bench.town.kommo.move(deals[0], now)

    bench.carry(Lane.ENCHARGE)
    bench.carry(Lane.ORTTO)

    assert stages_of_persons(bench.town) == [stages[0], "qualified", stages[1], "Qualification"]
    # Two deals are in no order to one another.
    assert sorted(events_of(bench.town)) == [(str(deal), "qualified") for deal in deals[:2]]
    assert sorted(activities_of(bench.town)) == [(str(deal), "Qualification") for deal in deals[:2]]


def test_the_newest_news_of_a_deal_stands_for_its_person(bench: Bench, deals: list[int]) -> None:
    """Two moves were read at two times; both wait."""
    bench.enter((deals[0], QUALIFIED))
    bench.town.kommo.move(deals[0], PROPOSAL_SENT)
    bench.enter((deals[0], PROPOSAL_SENT))

    bench.carry(Lane.ENCHARGE)
    bench.carry(Lane.ORTTO)

    assert stages_of_persons(bench.town) == ["proposal_sent", "Proposal sent"]
    assert [stage for _, stage in events_of(bench.town)] == ["qualified", "proposal_sent"]


@pytest.mark.parametrize("lane", [Lane.ENCHARGE, Lane.ORTTO])
def test_a_late_delivery_waits_while_kommo_does_not_answer(lane: Lane, bench: Bench, deals: list[int]) -> None:
    events = bench.enter((deals[0], QUALIFIED), (deals[1], QUALIFIED))
    bench.clock.put_forward(FRESH_SECONDS + 1)
    bench.town.kommo.faults.add(status=500, times=1)

    failed = bench.carry(lane)

    assert [state for state, _ in said(failed)] == ["again", "again"]
    assert {str(result).split(":")[0] for result in failed.values()} == {"Kommo"}
    assert bench.carry(lane) == dict.fromkeys(events, DONE)


@pytest.mark.parametrize("lane", [Lane.ENCHARGE, Lane.ORTTO])
def test_a_deal_that_kommo_refuses_to_read_stops_no_other(
    lane: Lane, bench: Bench, deals: list[int], monkeypatch: Any
) -> None:
    def bad(method: str, path: str, body: Any) -> str | None:
        return "not this one" if str(deals[1]) in path else None

    bench.enter(*((deal, QUALIFIED) for deal in deals))
    bench.clock.put_forward(FRESH_SECONDS + 1)
    monkeypatch.setattr(bench.town.kommo, "faults", Script(bad=bad))

    results = bench.carry(lane)

    good = [(state, words) for number, (state, words) in enumerate(said(results)) if number != 1]
    assert good == [("done", "")] * 3
