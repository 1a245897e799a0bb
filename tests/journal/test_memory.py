"""What people did before: the first of its kind, the last sign of life, and an open with its click."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from parts import WEBHOOK, Clock, Desk, email_event

from app.events import Action, Event, Job, Kind, Lane, Outcome, Owed, Response, Seen, SeenClick, Source, State, Step
from app.journal import Journal, Settlement
from app.journal.store import MEMORY_SECONDS

OPEN, CLICK, LEFT = Kind.EMAIL_OPENED, Kind.EMAIL_CLICKED, Kind.UNSUBSCRIBED
EMAIL = "zoe@memory.example"
AT = 1_770_000_000.0
MOMENTS = 10.0


@pytest.fixture
def journal(database_url: str) -> Iterator[Journal]:
    made = Journal(database_url)
    yield made
    made.close()


def did(kind: Kind, at: float = AT, campaign: str = "News", **more: object) -> Event:
    """Return the event of a person who did something at a time."""
    event = email_event(int(at), email=EMAIL, kind=kind, campaign=campaign)
    data = replace(event.data, **more)  # type: ignore[arg-type]
    return replace(event, data=data, occurred_at=at, dedupe_key=f"{kind}-{campaign}-{at}-{sorted(more)}")


def seen(journal: Journal, *events: Event, who: str = EMAIL) -> list[Seen]:
    """Write events down and return what was known at each; ids begin with 1."""
    Desk(journal).record(*events)
    batch = journal.claim(Lane.RESOLVE, "kommo", 250, now=Clock()())
    journal.release(batch)
    found = journal.remember(dict.fromkeys((job.id for job in batch), who), batch, moments=MOMENTS)
    return [found[job.id] for job in batch]


def test_the_first_of_a_kind_in_a_campaign_is_the_first_and_the_second_is_not(journal: Journal) -> None:
    found = seen(journal, did(OPEN), did(OPEN, AT + 60), did(CLICK, AT + 120), did(OPEN, AT + 180, "Other"))

    assert [one.first for one in found] == [True, False, True, True]


def test_a_campaign_is_the_same_whatever_its_case_and_accents(journal: Journal) -> None:
    found = seen(journal, did(OPEN, campaign="Café NEWS"), did(OPEN, AT + 60, "cafe\u0301 news"))

    assert [one.first for one in found] == [True, False]


def test_asking_again_gives_the_same_answer(journal: Journal) -> None:
    first = seen(journal, did(OPEN), did(OPEN, AT + 60))

    assert seen(journal) == first
    assert [one.first for one in first] == [True, False]


def test_the_silence_before_is_measured_to_the_last_open_or_click(journal: Journal) -> None:
    found = seen(
        journal,
        did(OPEN),
        did(LEFT, AT + 100),
        did(CLICK, AT + 500, first=False),
        did(OPEN, AT + 600, "Other", machine=True),
        did(CLICK, AT + 1000),
    )

    assert [one.quiet_seconds for one in found] == [None, 100, 500, None, 500]


@pytest.mark.parametrize(
    ("kinds", "after", "partner"),
    [
        pytest.param((OPEN, CLICK), 4.0, (1, None), id="a click after its open"),
        pytest.param((CLICK, OPEN), 4.0, (0, 1), id="an open after its click"),
        pytest.param((OPEN, CLICK), -4.0, (1, None), id="their times crossed"),
        pytest.param((OPEN, CLICK), 11.0, (0, None), id="much later"),
        pytest.param((OPEN, OPEN), 4.0, (0, None), id="two opens"),
        pytest.param((LEFT, CLICK), 4.0, (0, None), id="no open"),
    ],
)
def test_an_open_and_a_click_moments_apart_are_partners(
    journal: Journal, kinds: tuple[Kind, Kind], after: float, partner: tuple[int, int | None]
) -> None:
    found = seen(journal, did(kinds[0]), did(kinds[1], AT + after))[1]

    assert (found.open_id, found.click and found.click.event_id) == partner


def test_of_a_click_it_is_known_what_it_was_and_what_came_before_it(journal: Journal) -> None:
    click = did(CLICK, AT + 60, first=False)

    found = seen(journal, did(CLICK), click, did(OPEN, AT + 61))[-1]

    assert found.click == SeenClick(2, click.data, Seen(first=False, quiet_seconds=60))  # type: ignore[arg-type]


def test_a_click_in_another_campaign_is_no_partner(journal: Journal) -> None:
    assert seen(journal, did(OPEN), did(CLICK, AT + 1, "Other"))[1] == Seen(first=True, quiet_seconds=1)


def test_a_person_who_is_found_only_later_is_noted_then(journal: Journal) -> None:
    nameless = [replace(event, data=replace(event.data, email=None, person_id="p1")) for event in (did(OPEN),)]  # type: ignore[arg-type]

    assert seen(journal, *nameless) == [Seen()]
    later = [replace(did(OPEN, AT + 60), order_key="email:z")]
    assert [one.first for one in seen(journal, *later)] == [True, False]


def test_consent_of_a_person_who_is_found_only_later_is_noted_then(journal: Journal) -> None:
    event = did(LEFT)
    seen(journal, replace(event, data=replace(event.data, email=None, person_id="p1")))  # type: ignore[arg-type]

    assert journal.unsubscribed([EMAIL]) == {EMAIL: (Source.ENCHARGE,)}


def test_memory_outlives_the_events_and_is_forgotten_after_a_year(journal: Journal) -> None:
    seen(journal, did(OPEN), did(LEFT, AT + 1))
    _settle_all(journal)

    assert journal.purge(Clock()() + 1) == 2
    assert [one.first for one in seen(journal, did(OPEN, AT + 60))] == [False]

    _settle_all(journal)
    journal.purge(Clock()() + 1 + MEMORY_SECONDS)
    assert [one.first for one in seen(journal, did(OPEN, AT + 120))] == [True]
    assert journal.unsubscribed([EMAIL]) == {EMAIL: (Source.ENCHARGE,)}, "consent is never forgotten"


def _settle_all(journal: Journal, owed: tuple[Owed, ...] = ()) -> list[Job]:
    batch = journal.claim(Lane.RESOLVE, "kommo", 250, now=Clock()())
    done = Outcome(State.DONE, owed=owed)
    journal.settle([Settlement(job, done) for job in batch], now=Clock()())
    return batch


def test_what_was_made_is_found_by_its_scope_and_by_its_event(journal: Journal) -> None:
    action = Action("call", "task", text="Call", cooldown=60, scope="task:lead:1")
    note = Action("note", "note", text="Clicked")
    (event_id,) = Desk(journal).record(did(CLICK))
    _settle_all(journal, (Owed(Lane.KOMMO, "lead:1", Response(1, None, (action, note))),))
    (job,) = journal.claim(Lane.KOMMO, "kommo", 10, now=Clock()())
    assert journal.claim_cooldown("task:lead:1", job, 60, now=AT)
    assert (journal.made_under(["task:lead:1"]), journal.made_by([event_id])) == ({}, {event_id: {}})

    journal.write_steps({job.id: {"call": Step(finished=True, note="77"), "note": Step(finished=False)}}, job.token)

    assert journal.made_under(["task:lead:1", "task:lead:2"]) == {"task:lead:1": "77"}
    assert journal.made_by([event_id, 99]) == {event_id: {"call": "77"}}


def test_what_is_no_email_activity_is_not_remembered(journal: Journal) -> None:
    other = did(Kind.OTHER)
    journal.record(WEBHOOK, [(other, "not an event we act on")], now=AT)

    assert seen(journal, did(OPEN, AT + 60)) == [Seen()]
