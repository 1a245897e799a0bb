"""Batches of email activities into Kommo: one task, one note a click, and nothing twice after any failure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from databases import journal_at, run_sql
from parts import Clock, Desk, email_event, kommo_client
from scripts import ANSWERS, OK, Script
from support import add_deals, eventually

from app.clients.errors import ApiError, Fault
from app.clients.kommo import KommoClient, NewTask
from app.events import DONE, HELD, Action, Lane, Plan, Response, Step
from app.events import Event as WebhookEvent
from app.flows import Ledger, Result
from app.flows.email_activity import EmailActivityFlow
from app.flows.kommo_entries import CLOCKS_APART_SECONDS
from app.journal import Journal
from app.journal.store import LEASE_SECONDS
from sandbox.town import Town

DAY = 86_400
OWNER, OTHER_USER = 9_200_001, 9_200_002
ACTIVITY_FIELD, STATUS_FIELD = 800_110, 800_111
TASK = Action("task", "task", text="Call them", due_in=7_200, user_id=OWNER, cooldown=DAY)
NOTE = Action("note", "note", text="Clicked a link")
FIELD = Action("activity", "field", text="Pricing", field_id=ACTIVITY_FIELD)
TAG = Action("tag", "tag", text="Email Unsubscribed", on="contact")
UNTAG = Action("untag", "untag", text="Email Unsubscribed", on="contact")
BEGUN, NO_TASK = Step(finished=False), "none: the deal has had one within the cooldown"

TASKS, NOTES, LEADS, CONTACTS = "/api/v4/tasks", "/api/v4/leads/notes", "/api/v4/leads", "/api/v4/contacts"


@dataclass
class Bench:
    """The flow at a desk: activities are planned as they are told."""

    town: Town
    desk: Desk
    clock: Clock
    flow: EmailActivityFlow
    url: str

    def owe(self, *plans: tuple[WebhookEvent, Plan]) -> list[int]:
        return self.desk.owe(Lane.KOMMO, plans)

    def carry(self, limit: int = 250) -> dict[int, Result]:
        return self.desk.carry(self.flow, Lane.KOMMO, limit)

    def ledger(self, event_id: int) -> dict[str, Any]:
        """Return the ledger of an event's job, whatever became of it."""
        ((steps,),) = run_sql(
            self.url, "SELECT steps FROM jobs WHERE lane = 'kommo' AND event_id = :event_id", event_id=event_id
        )
        return {name: step["note"] if step["finished"] else None for name, step in json.loads(steps).items()}


@pytest.fixture
def bench(town: Town, tmp_path: Path) -> Iterator[Bench]:
    town.kommo.switch(rate=0)
    url = f"sqlite:///{tmp_path / 'journal.db'}"
    journal = journal_at(url)
    clock = Clock()
    yield Bench(town, Desk(journal, clock), clock, EmailActivityFlow(kommo_client(town), clock), url)
    journal.close()


@pytest.fixture
def deals(town: Town) -> list[int]:
    return list(add_deals(town, 4))


def clicked(
    deal: int, *actions: Action, number: int = 0, contact: int | None = None
) -> tuple[WebhookEvent, Response]:
    """Return an activity on a deal and what it asks for."""
    return email_event(number, lead_id=deal), Response(deal, contact, actions)


def text(action: Action, words: str) -> Action:
    """Return the action with another text."""
    return Action(**{**vars(action), "text": words})


def tasks_of(town: Town) -> list[tuple[int, str]]:
    return [(task["entity_id"], task["text"]) for task in town.kommo.state()["tasks"].values()]


def notes_of(town: Town) -> list[tuple[int, str]]:
    return [(note["entity_id"], note["params"]["text"]) for note in town.kommo.state()["notes"]["leads"]]


def fields_of(town: Town, deal: int) -> dict[int, str]:
    fields = town.kommo.state()["leads"][str(deal)]["custom_fields_values"] or []
    return {item["field_id"]: item["values"][0]["value"] for item in fields}


def states(results: Mapping[int, Result]) -> list[str]:
    """Return in a word how each job ended, in the order of the events."""
    return [_state(results[event_id]) for event_id in sorted(results)]


def _state(result: Result) -> str:
    if isinstance(result, ApiError):
        return "dead" if result.fault == Fault.REFUSED else "again"
    return "held" if result is HELD else result.state.value


# -- all goes well ------------------------------------------------------------------------------------------------


def test_a_batch_costs_one_call_for_each_kind_of_write(bench: Bench, deals: list[int]) -> None:
    town = bench.town
    contacts = [int(key) for key, item in town.kommo.state()["contacts"].items() if "burst" in item["name"]]
    events = bench.owe(
        *(
            clicked(deal, TASK, NOTE, FIELD, TAG, contact=contact)
            for deal, contact in zip(deals, contacts, strict=True)
        )
    )

    results = bench.carry()

    assert results == dict.fromkeys(events, DONE)
    assert [(call.method, call.path) for call in town.kommo.calls] == [
        ("POST", TASKS),
        ("POST", NOTES),
        ("GET", LEADS),
        ("PATCH", LEADS),
        ("GET", CONTACTS),
        ("PATCH", CONTACTS),
    ]
    assert tasks_of(town) == [(deal, "Call them") for deal in deals]
    assert notes_of(town) == [(deal, "Clicked a link") for deal in deals]
    assert [fields_of(town, deal) for deal in deals] == [{ACTIVITY_FIELD: "Pricing"}] * 4
    state = town.kommo.state()
    tags = [[tag["name"] for tag in state["contacts"][str(contact)]["_embedded"]["tags"]] for contact in contacts]
    assert tags == [["Email Unsubscribed"]] * 4
    (task, *_), (note, *_) = state["tasks"], state["notes"]["leads"]
    assert bench.ledger(events[0]) == {"task": task, "note": str(note["id"]), "activity": "", "tag": ""}


def test_more_than_kommo_takes_at_once_go_in_several_calls_and_stay_in_order(
    bench: Bench, deals: list[int]
) -> None:
    words = [f"click {number:03}" for number in range(120)]
    bench.owe(*(clicked(deals[0], text(NOTE, word), number=number) for number, word in enumerate(words)))

    assert set(bench.carry().values()) == {DONE}

    assert notes_of(bench.town) == [(deals[0], word) for word in words]
    assert [len(call.body) for call in bench.town.kommo.calls] == [50, 50, 20]


def test_the_task_is_the_owners_and_due_in_time(bench: Bench, deals: list[int]) -> None:
    bench.owe(clicked(deals[0], Action("t", "task", text="Call", due_in=3_600, task_type=2, user_id=OTHER_USER)))

    bench.carry()

    (task,) = bench.town.kommo.state()["tasks"].values()
    found = {key: task[key] for key in ("entity_id", "entity_type", "text", "task_type_id", "responsible_user_id")}
    assert found == {
        "entity_id": deals[0],
        "entity_type": "leads",
        "text": "Call",
        "task_type_id": 2,
        "responsible_user_id": OTHER_USER,
    }
    assert task["complete_till"] == pytest.approx(bench.clock() + 3_600, abs=5)


def test_a_deal_gets_one_task_in_its_cooldown_and_a_note_for_each_click(bench: Bench, deals: list[int]) -> None:
    first, second = bench.owe(clicked(deals[0], TASK, NOTE), clicked(deals[0], TASK, NOTE, number=1))
    bench.carry()
    (third,) = bench.owe(clicked(deals[0], TASK, NOTE, number=2))
    bench.carry()

    assert tasks_of(bench.town) == [(deals[0], "Call them")]
    assert notes_of(bench.town) == [(deals[0], "Clicked a link")] * 3
    assert bench.ledger(first)["task"] in bench.town.kommo.state()["tasks"]
    assert (bench.ledger(second)["task"], bench.ledger(third)["task"]) == (NO_TASK, NO_TASK)

    bench.clock.put_forward(DAY)
    bench.owe(clicked(deals[0], TASK, number=3))
    bench.carry()
    assert tasks_of(bench.town) == [(deals[0], "Call them")] * 2


def test_a_refused_task_does_not_keep_the_deal_from_getting_one(
    bench: Bench, deals: list[int], monkeypatch: Any
) -> None:
    def bad(method: str, path: str, body: Any) -> str | None:
        return "no such type" if "Call nobody" in str(body) else None

    monkeypatch.setattr(bench.town.kommo, "faults", Script(bad=bad))
    bench.owe(clicked(deals[0], text(TASK, "Call nobody"), NOTE))
    assert states(bench.carry()) == ["dead"]

    bench.owe(clicked(deals[0], TASK, number=1))
    assert states(bench.carry()) == ["done"]

    assert tasks_of(bench.town) == [(deals[0], "Call them")]
    assert notes_of(bench.town) == []


def test_a_task_that_was_made_counts_though_its_note_is_refused(
    bench: Bench, deals: list[int], monkeypatch: Any
) -> None:
    def bad(method: str, path: str, body: Any) -> str | None:
        return "no such words" if NOTE.text in str(body) else None

    monkeypatch.setattr(bench.town.kommo, "faults", Script(bad=bad))
    bench.owe(clicked(deals[0], TASK, NOTE))
    assert states(bench.carry()) == ["dead"]

    bench.owe(clicked(deals[0], TASK, number=1))
    assert states(bench.carry()) == ["done"]

    assert tasks_of(bench.town) == [(deals[0], "Call them")]


# -- tasks and notes after a failure ------------------------------------------------------------------------------

WRITES = {"task": (TASK, TASKS, tasks_of), "note": (NOTE, NOTES, notes_of)}


def looks(town: Town, step: str) -> int:
    """Return how often Kommo was asked for the tasks or the notes that stand on deals."""
    paths = [call.path for call in town.kommo.calls if call.method == "GET"]
    return sum(path == TASKS if step == "task" else path.endswith("/notes") for path in paths)


@pytest.mark.parametrize("step", ["task", "note"])
@pytest.mark.parametrize(
    ("answer", "doubt", "writes"),
    [
        pytest.param("429", False, 2, id="429"),
        pytest.param("500", True, 2, id="500"),
        pytest.param("500, done", True, 1, id="500 but done"),
        pytest.param("a page of 502", True, 2, id="a gateway's page"),
        pytest.param("dropped", True, 2, id="dropped"),
        pytest.param("dropped, done", True, 1, id="dropped but done"),
    ],
)
def test_what_may_have_been_written_is_looked_for_before_it_is_written_again(
    step: str, answer: str, doubt: bool, writes: int, bench: Bench, deals: list[int]
) -> None:
    action, path, found = WRITES[step]
    (event,) = bench.owe(clicked(deals[0], action))
    bench.town.kommo.faults.add(method="POST", path=path, **ANSWERS[answer], times=1)

    failed = bench.carry()
    between = bench.ledger(event)
    done = bench.carry()

    assert states(failed) == ["again"]
    assert between == ({step: None} if doubt else {})
    assert done == {event: DONE}
    assert looks(bench.town, step) == int(doubt)
    # A call that is dropped is counted only when its caller may be further already.
    eventually(lambda: bench.town.kommo.count("POST", path) == writes)
    assert found(bench.town) == [(deals[0], action.text)]
    state = bench.town.kommo.state()
    ids = list(state["tasks"]) + [str(note["id"]) for note in state["notes"]["leads"]]
    assert bench.ledger(event) == {step: ids[0]}


@pytest.mark.parametrize("step", ["task", "note"])
def test_what_kommos_answer_does_not_name_is_looked_up_and_added(
    step: str, bench: Bench, deals: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kommo makes two of three, and says so: the third is nobody else's fault, and is made later."""
    action, _, found = WRITES[step]
    name, add = f"add_{step}s", getattr(KommoClient, f"add_{step}s")

    def partly(kommo: KommoClient, items: Sequence[Any], *rest: Any) -> list[int | None]:
        first, last = add(kommo, [items[0], items[2]], *rest)
        return [first, None, last]

    events = bench.owe(*(clicked(deal, action) for deal in deals[:3]))
    with monkeypatch.context() as broken:
        broken.setattr(KommoClient, name, partly)
        assert states(bench.carry()) == ["done", "again", "done"]
    assert bench.ledger(events[1]) == {step: None}

    assert states(bench.carry()) == ["done"]

    assert looks(bench.town, step) == 1
    assert sorted(found(bench.town)) == [(deal, action.text) for deal in sorted(deals[:3])]


@pytest.mark.parametrize("step", ["task", "note"])
def test_what_was_made_without_being_named_is_found_and_not_added_again(
    step: str, bench: Bench, deals: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    action, path, found = WRITES[step]
    name, add = f"add_{step}s", getattr(KommoClient, f"add_{step}s")
    bench.owe(*(clicked(deal, action) for deal in deals[:2]))
    with monkeypatch.context() as broken:
        broken.setattr(KommoClient, name, lambda *given: [None] * len(add(*given)))
        assert states(bench.carry()) == ["again", "again"]

    assert states(bench.carry()) == ["done", "done"]

    assert bench.town.kommo.count("POST", path) == 1
    assert sorted(found(bench.town)) == [(deal, action.text) for deal in sorted(deals[:2])]


def test_a_task_that_was_completed_meanwhile_is_found_too(bench: Bench, deals: list[int]) -> None:
    town = bench.town
    bench.owe(clicked(deals[0], TASK))
    town.kommo.faults.add(method="POST", path=TASKS, **ANSWERS["dropped, done"], times=1)
    bench.carry()
    (task,) = town.kommo.state()["tasks"]
    requests.patch(
        f"{town.kommo.url}{TASKS}/{task}",
        json={"is_completed": True, "result": {"text": "Called them"}},
        headers={"Authorization": f"Bearer {town.kommo.token}"},
        timeout=10,
    ).raise_for_status()

    assert states(bench.carry()) == ["done"]

    assert tasks_of(town) == [(deals[0], "Call them")]


def test_of_several_clicks_in_the_same_words_each_has_its_own_note(bench: Bench, deals: list[int]) -> None:
    """The first is written, the second is not, which nobody knows, and the third and fourth are: all look alike."""
    bench.owe(clicked(deals[0], NOTE))
    bench.carry()
    faults = bench.town.kommo.faults
    bench.owe(clicked(deals[0], NOTE, number=1))
    faults.add(method="POST", path=NOTES, **ANSWERS["dropped"], times=1)
    assert states(bench.carry()) == ["again"]
    assert states(bench.carry()) == ["done"]
    assert len(notes_of(bench.town)) == 2

    third, fourth = bench.owe(clicked(deals[0], NOTE, number=2), clicked(deals[0], NOTE, number=3))
    faults.add(method="POST", path=NOTES, **ANSWERS["dropped, done"], times=1)
    assert states(bench.carry()) == ["again", "held"]
    assert len(notes_of(bench.town)) == 4
    assert states(bench.carry()) == ["done", "done"]

    assert notes_of(bench.town) == [(deals[0], "Clicked a link")] * 4
    ids = [str(note["id"]) for note in bench.town.kommo.state()["notes"]["leads"]]
    assert [bench.ledger(event)["note"] for event in (third, fourth)] == ids[2:]


def test_only_those_of_many_notes_that_did_not_arrive_are_written_again(bench: Bench, deals: list[int]) -> None:
    """Kommo took the first call of 50 but did not say so; the clicks of the second call were never sent."""
    bench.owe(*(clicked(deals[0], NOTE, number=number) for number in range(60)))
    bench.town.kommo.faults.add(method="POST", path=NOTES, **ANSWERS["dropped, done"], times=1)
    assert set(states(bench.carry())) == {"again", "held"}
    assert len(notes_of(bench.town)) == 50

    assert set(states(bench.carry())) == {"done"}

    assert len(notes_of(bench.town)) == 60
    assert looks(bench.town, "note") == 1


def test_an_old_note_in_the_same_words_is_not_taken_for_the_one_that_was_lost(
    bench: Bench, deals: list[int], monkeypatch: Any
) -> None:
    long_ago = bench.clock() - CLOCKS_APART_SECONDS - 60
    with monkeypatch.context() as earlier:
        earlier.setattr(bench.town.kommo, "clock", lambda: long_ago)
        headers = {"Authorization": f"Bearer {bench.town.kommo.token}"}
        note = {"entity_id": deals[0], "note_type": "common", "params": {"text": NOTE.text}}
        requests.post(bench.town.kommo.url + NOTES, json=[note], headers=headers, timeout=10).raise_for_status()
    bench.owe(clicked(deals[0], NOTE))
    bench.town.kommo.faults.add(method="POST", path=NOTES, **ANSWERS["dropped"], times=1)
    bench.carry()

    assert states(bench.carry()) == ["done"]

    assert notes_of(bench.town) == [(deals[0], NOTE.text)] * 2


def test_a_note_of_another_deal_is_not_taken_for_it(bench: Bench, deals: list[int], monkeypatch: Any) -> None:
    """Of one batch, the one was done and the other was not: two calls, each dropped."""
    first, second = deals[:2]
    bench.owe(clicked(first, NOTE))
    bench.town.kommo.faults.add(method="POST", path=NOTES, **ANSWERS["dropped, done"], times=1)
    bench.carry()
    bench.owe(clicked(second, NOTE, number=1))
    with monkeypatch.context() as now:
        now.setattr(bench.town.kommo, "faults", Script([OK, "dropped"]))
        assert states(bench.carry()) == ["done", "again"]

    assert states(bench.carry()) == ["done"]

    assert notes_of(bench.town) == [(first, NOTE.text), (second, NOTE.text)]


def test_while_kommo_cannot_say_what_stands_there_nothing_is_written(bench: Bench, deals: list[int]) -> None:
    events = bench.owe(clicked(deals[0], NOTE), clicked(deals[1], NOTE, number=1))
    faults = bench.town.kommo.faults
    faults.add(method="POST", path=NOTES, **ANSWERS["dropped, done"], times=1)
    bench.carry()
    (fresh,) = bench.owe(clicked(deals[0], text(NOTE, "a later click"), number=2))
    faults.add(method="GET", status=500, times=1)

    results = bench.carry()

    assert states({event: results[event] for event in events}) == ["again", "again"]
    assert results[fresh] is HELD
    assert bench.town.kommo.count("GET") == 1, "a vendor that fails is not asked for the next deal"
    assert states(bench.carry()) == ["done", "done", "done"]
    assert sorted(notes_of(bench.town)) == [
        (deals[0], NOTE.text),
        (deals[0], "a later click"),
        (deals[1], NOTE.text),
    ]


def test_a_deal_whose_notes_kommo_refuses_to_show_stops_no_other(
    bench: Bench, deals: list[int], monkeypatch: Any
) -> None:
    bench.owe(*(clicked(deal, NOTE) for deal in deals[:3]))
    bench.town.kommo.faults.add(method="POST", path=NOTES, **ANSWERS["dropped"], times=1)
    bench.carry()

    def bad(method: str, path: str, body: Any) -> str | None:
        return "not yours" if f"/leads/{deals[1]}/notes" in path else None

    monkeypatch.setattr(bench.town.kommo, "faults", Script(bad=bad))

    assert states(bench.carry()) == ["done", "dead", "done"]

    assert notes_of(bench.town) == [(deals[0], NOTE.text), (deals[2], NOTE.text)]


def test_one_note_that_kommo_refuses_stops_no_other(bench: Bench, deals: list[int]) -> None:
    """A deal that was deleted: Kommo refuses the whole call, and names the item."""
    bench.town.kommo.delete_deal(deals[2])
    bench.owe(*(clicked(deal, NOTE) for deal in deals))

    results = bench.carry()

    assert states(results) == ["done", "done", "dead", "done"]
    assert "NotSupportedChoice" in str([*results.values()][2])
    assert notes_of(bench.town) == [(deal, NOTE.text) for deal in deals if deal != deals[2]]


# -- order --------------------------------------------------------------------------------------------------------


def test_a_later_click_waits_while_an_earlier_one_of_its_deal_has_failed_at_its_task(
    bench: Bench, deals: list[int]
) -> None:
    """The later one has no task to wait for: its note and its field must wait all the same."""
    bench.owe(
        clicked(deals[0], TASK, text(NOTE, "first"), text(FIELD, "first")),
        clicked(deals[0], text(NOTE, "second"), text(FIELD, "second"), number=1),
        clicked(deals[1], text(NOTE, "other"), number=2),
    )
    bench.town.kommo.faults.add(method="POST", path=TASKS, status=500, times=1)

    assert states(bench.carry()) == ["again", "held", "done"]
    assert notes_of(bench.town) == [(deals[1], "other")]
    assert fields_of(bench.town, deals[0]) == {}

    assert states(bench.carry()) == ["done", "done"]
    assert notes_of(bench.town)[1:] == [(deals[0], "first"), (deals[0], "second")]
    assert fields_of(bench.town, deals[0]) == {ACTIVITY_FIELD: "second"}


def test_an_older_value_is_never_written_over_a_newer_one(bench: Bench, deals: list[int], monkeypatch: Any) -> None:
    """Kommo refuses to read one deal; while the rest is read in halves, the first half fails."""
    first, bad_deal = deals[:2]

    def bad(method: str, path: str, body: Any) -> str | None:
        return "not yours" if method == "GET" and str(bad_deal) in path else None

    bench.owe(
        clicked(first, text(FIELD, "older")),
        clicked(bad_deal, FIELD, number=1),
        clicked(first, text(FIELD, "newer"), number=2),
        clicked(deals[2], FIELD, number=3),
    )
    # Only what is not refused takes an answer of the list.
    monkeypatch.setattr(bench.town.kommo, "faults", Script(["500"], bad=bad))

    bench.carry()
    bench.carry()
    bench.carry()

    patched = [item for call in bench.town.kommo.calls if call.method == "PATCH" for item in call.body]
    values = [item["custom_fields_values"][0]["values"][0]["value"] for item in patched if item["id"] == first]
    assert values in (["newer"], ["older", "newer"])
    assert fields_of(bench.town, first) == {ACTIVITY_FIELD: "newer"}
    assert fields_of(bench.town, deals[2]) == {ACTIVITY_FIELD: "Pricing"}


# -- fields and tags ----------------------------------------------------------------------------------------------


def test_only_what_differs_is_written(bench: Bench, deals: list[int]) -> None:
    bench.owe(clicked(deals[0], FIELD))
    bench.carry()
    writes = bench.town.kommo.count("PATCH")

    (event,) = bench.owe(clicked(deals[0], FIELD, number=1))
    assert states(bench.carry()) == ["done"]

    assert bench.town.kommo.count("PATCH") == writes == 1
    assert bench.ledger(event) == {"activity": ""}


def test_several_activities_of_a_deal_are_one_write_of_what_the_last_one_wants(
    bench: Bench, deals: list[int]
) -> None:
    status = Action("status", "field", text="Unsubscribed", field_id=STATUS_FIELD)
    bench.owe(
        clicked(deals[0], text(FIELD, "one"), status),
        clicked(deals[0], text(FIELD, "two"), number=1),
        clicked(deals[0], text(FIELD, "three"), text(status, "Subscribed"), number=2),
    )

    assert states(bench.carry()) == ["done", "done", "done"]

    assert bench.town.kommo.count("PATCH") == 1
    assert fields_of(bench.town, deals[0]) == {ACTIVITY_FIELD: "three", STATUS_FIELD: "Subscribed"}


def test_tags_are_put_on_and_taken_off_beside_those_of_others(bench: Bench, town: Town) -> None:
    zoe, zoes_deal = 52_300_021, 41_500_011

    def tags() -> list[str]:
        return [tag["name"] for tag in town.kommo.state()["contacts"][str(zoe)]["_embedded"]["tags"]]

    bench.owe(clicked(zoes_deal, TAG, contact=zoe))
    bench.carry()
    assert tags() == ["vip", "Email Unsubscribed"]

    bench.owe(clicked(zoes_deal, UNTAG, number=1, contact=zoe))
    bench.carry()
    assert tags() == ["vip"]


def test_a_tag_may_stand_on_the_deal(bench: Bench, town: Town) -> None:
    deal = 41_500_011  # has the tags trial and EU
    bench.owe(
        clicked(deal, Action("hot", "tag", text="Hot", on="lead"), Action("eu", "untag", text="EU", on="lead"))
    )

    assert states(bench.carry()) == ["done"]

    tags = [tag["name"] for tag in town.kommo.state()["leads"][str(deal)]["_embedded"]["tags"]]
    assert tags == ["trial", "Hot"]


def test_a_deal_that_is_gone_wants_nothing(bench: Bench, deals: list[int]) -> None:
    bench.town.kommo.delete_deal(deals[0])
    gone, _ = bench.owe(clicked(deals[0], FIELD), clicked(deals[1], FIELD, number=1))

    assert states(bench.carry()) == ["done", "done"]

    assert bench.ledger(gone) == {"activity": "none: it is gone from Kommo"}
    assert fields_of(bench.town, deals[1]) == {ACTIVITY_FIELD: "Pricing"}


@pytest.mark.parametrize("answer", ["429", "500, done", "dropped, done", "dropped"])
def test_fields_and_tags_may_be_written_again_and_what_is_done_is_not_repeated(
    answer: str, bench: Bench, deals: list[int]
) -> None:
    (event,) = bench.owe(clicked(deals[0], TASK, NOTE, FIELD))
    bench.town.kommo.faults.add(method="PATCH", **ANSWERS[answer], times=1)

    assert states(bench.carry()) == ["again"]
    assert bench.ledger(event).keys() == {"task", "note"}
    assert states(bench.carry()) == ["done"]

    assert (len(tasks_of(bench.town)), len(notes_of(bench.town))) == (1, 1)
    eventually(lambda: bench.town.kommo.count("PATCH") == (1 if "done" in answer else 2))
    assert fields_of(bench.town, deals[0]) == {ACTIVITY_FIELD: "Pricing"}


def test_a_field_that_kommo_refuses_stops_no_other_deal(bench: Bench, deals: list[int]) -> None:
    no_field = Action("activity", "field", text="Pricing", field_id=999_999)
    bench.owe(*(clicked(deal, no_field if deal == deals[1] else FIELD) for deal in deals))

    assert states(bench.carry()) == ["done", "dead", "done", "done"]

    assert [fields_of(bench.town, deal) for deal in deals] == [
        {ACTIVITY_FIELD: "Pricing"},
        {},
        {ACTIVITY_FIELD: "Pricing"},
        {ACTIVITY_FIELD: "Pricing"},
    ]


# -- a lost lease -------------------------------------------------------------------------------------------------


def test_a_job_that_another_process_has_taken_over_is_left_alone(bench: Bench, deals: list[int]) -> None:
    bench.owe(clicked(deals[0], TASK, NOTE))
    batch = bench.desk.claim(Lane.KOMMO)
    bench.clock.put_forward(LEASE_SECONDS + 1)
    other = Desk(Journal(bench.url), bench.clock)
    assert [job.id for job in other.claim(Lane.KOMMO)] == [job.id for job in batch]

    results = bench.flow.carry(batch, Ledger(bench.desk.journal, batch))

    assert [*results.values()] == [HELD]
    assert (tasks_of(bench.town), notes_of(bench.town)) == ([], [])
    other.journal.close()


def test_who_takes_a_job_over_looks_for_what_the_dead_one_may_have_done(bench: Bench, deals: list[int]) -> None:
    """It died after the call and before it ticked it off."""
    (event,) = bench.owe(clicked(deals[0], TASK))
    batch = bench.desk.claim(Lane.KOMMO)
    bench.desk.journal.claim_cooldown(f"task:lead:{deals[0]}", batch[0], DAY, now=bench.clock())
    bench.desk.journal.write_steps({batch[0].id: {"task": BEGUN}}, batch[0].token)
    kommo_client(bench.town).add_tasks([NewTask(deals[0], TASK.text, int(bench.clock()) + 60, 1, OWNER)])
    bench.clock.put_forward(LEASE_SECONDS + 1)
    other = Desk(Journal(bench.url), bench.clock)

    assert other.carry(bench.flow, Lane.KOMMO) == {event: DONE}

    assert tasks_of(bench.town) == [(deals[0], "Call them")]
    other.journal.close()
