"""How a person is found whatever their address looks like, and that nothing of them comes back from memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from held import everything
from journal_events import NOW, claim, click, record, stage

from app.events import (
    Action,
    Context,
    EmailActivity,
    Event,
    Failure,
    Kind,
    Lane,
    Outcome,
    Owed,
    Repeat,
    Response,
    Source,
    State,
    Step,
)
from app.journal import Journal, Settlement, Unfinished
from app.journal.erasure import raw_spelled, spelled

ANN, BOB = "ann@example.test", "bob@example.test"


@pytest.fixture
def journal(database_url: str) -> Iterator[Journal]:
    made = Journal(database_url)
    yield made
    made.close()


def forget(journal: Journal, *emails: str) -> None:
    journal.forget(journal.holdings(emails, now=NOW), now=NOW)


@pytest.mark.parametrize(
    "text",
    [
        "ann@example.test",
        "<ANN@Example.TEST>",
        "email=ann%40example.test&x=1",
        "?to=ANN%40EXAMPLE.TEST",
        r'{"email": "ann\u0040example.test"}',
        r"first line\nann@example.test",
        "hello%20ann%40example.test",
        "Write to ann@example.test.",
        "a ann@example.test b bob@example.test",
    ],
)
def test_an_address_is_found_however_it_is_spelled(text: str) -> None:
    assert spelled([ANN]).search(text)
    assert raw_spelled([BOB, ANN]).search(b"joined" + text.encode() + b"joined")


@pytest.mark.parametrize(
    "text",
    [
        "joann@example.test",
        "jo.ann@example.test",
        "jo-ann@example.test",
        "jo+ann@example.test",
        "ann@example.test.uk",
        "ann@example.tests",
        "ann@example-test",
        "annexample.test",
    ],
)
def test_another_address_is_not_taken_for_it(text: str) -> None:
    assert not spelled([ANN]).search(text)


@pytest.mark.parametrize(
    "text", ["zoë+a@büro.example", "ZOË%2Ba@B%C3%9Cro.example", r"zo\u00eb+a@b\u00fcro.example"]
)
def test_an_address_with_other_letters_is_found_too(text: str) -> None:
    assert spelled(["zoë+a@büro.example"]).search(text)
    assert raw_spelled(["zoë+a@büro.example"]).search(text.encode())


def test_nothing_is_written_any_more_by_who_still_has_a_forgotten_person_in_memory(
    journal: Journal, database_url: str
) -> None:
    record(journal, click(ANN, "k1"), click(BOB, "k2"))
    job, other = claim(journal)
    held = journal.holdings([ANN], now=NOW)
    assert held.unfinished == (Unfinished(job.event.id, "resolve", "", held=True),)
    journal.forget(held, now=NOW)

    # All that a process which holds the job may still write down for it.
    told = Response(1, 2, (Action("note", "note", f"{ANN} clicked"),))
    outcome = Outcome(State.DONE, ANN, Context(email=ANN), (Owed(Lane.KOMMO, f"email:{ANN}", told),))
    journal.remember({job.id: ANN, other.id: BOB}, [job, other], moments=10)
    assert not journal.claim_cooldown(f"consent:{ANN}", job, 60, now=NOW)
    assert journal.write_steps({job.id: {"note": Step(True, ANN)}}, job.token) == set()
    assert not journal.renew([job], now=NOW)
    failure = Failure("refused", 400, 0.1)
    assert journal.settle([Settlement(job, outcome, failure=failure)], now=NOW) == []
    assert journal.settle([Settlement(job, Outcome(State.PENDING, ANN), failure=failure)], now=NOW) == []

    assert ANN not in everything(database_url)
    assert journal.claim_cooldown(f"consent:{BOB}", other, 60, now=NOW)
    assert len(journal.settle([Settlement(other, Outcome(State.DONE))], now=NOW)) == 1


def test_what_others_wait_for_goes_on(journal: Journal) -> None:
    """A forgotten job of a deal holds back the later ones no more."""
    record(journal, stage(1, "a"))
    (job,) = claim(journal)
    journal.settle([Settlement(job, Outcome(State.PENDING, f"no {ANN}"), due_at=NOW + 3600, failed=True)], now=NOW)
    about = Event(Source.ENCHARGE, Kind.EMAIL_OPENED, EmailActivity(email=ANN, lead_id=1), "lead:1", "b")
    record(journal, about, stage(1, "c"))
    assert claim(journal) == []
    forget(journal, ANN)
    assert claim(journal) == []  # the deal's own move still is the first
    assert [job.event.id for job in claim(journal, now=NOW + 3601)] == [1, 3]


@pytest.mark.parametrize("key", ["encharge:opened:ann@example.test:1", None])
def test_the_same_webhook_again_is_a_duplicate_of_the_erased_event(
    journal: Journal, database_url: str, key: str | None
) -> None:
    repeat = None if key else Repeat("encharge:opened:digest", "digest", 300)
    event = Event(Source.ENCHARGE, Kind.EMAIL_OPENED, EmailActivity(email=ANN), f"email:{ANN}", key, repeat=repeat)
    (first,) = record(journal, event)
    forget(journal, ANN)

    (again,) = record(journal, event, now=NOW + 10)

    assert (again.duplicate, again.event.id) == (True, first.event.id)
    forget(journal, ANN)  # once more: its key is left as it is
    assert record(journal, event, now=NOW + 20)[0].duplicate
    assert ANN not in everything(database_url)


def test_forgotten_events_are_purged_like_others(journal: Journal) -> None:
    record(journal, click(ANN, "k1"))
    forget(journal, ANN)

    assert journal.purge(NOW + 1) == 1
    assert not record(journal, click(ANN, "k1"), now=NOW + 2)[0].duplicate


def test_more_events_than_a_part_are_all_erased(journal: Journal, database_url: str) -> None:
    record(journal, *(click(ANN, f"k{number}") for number in range(450)), click(BOB, "b"))
    heard: list[tuple[int, int]] = []
    held = journal.holdings([ANN], now=NOW)

    journal.forget(held, now=NOW, heard=lambda done, total: heard.append((done, total)))

    assert heard == [(200, 450), (400, 450), (450, 450)]
    assert ANN not in everything(database_url)
    assert BOB in everything(database_url)


def test_two_addresses_are_forgotten_at_once(journal: Journal, database_url: str) -> None:
    record(journal, click(ANN, "a"), click(BOB, "b"), click("eve@example.test", "c"))

    forget(journal, ANN, BOB)

    left = everything(database_url)
    assert (ANN in left, BOB in left, "eve@example.test" in left) == (False, False, True)
