"""What all flows share: calls in batches, the order of a key, and the ledger over a real journal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from databases import journal_at
from journal_events import NOW, claim, record, stage

from app.clients.errors import ApiError, Fault
from app.events import DONE, HELD, Event, Job, Kind, Lane, Outcome, Source, StageChange, State, Step, skipped
from app.flows import Ledger, Result, Size, deliver, keep_order, must_wait, read_by_halves
from app.journal import Journal, Settlement
from app.journal.store import LEASE_SECONDS

# -- deliver ----------------------------------------------------------------------------------------------------


class Vendor:
    """Takes batches of numbers; refuses a batch with a bad one, fails at one that it chokes on."""

    def __init__(self, *, bad: Sequence[int] = (), chokes: dict[int, Fault] | None = None) -> None:
        self.calls: list[list[int]] = []
        self.taken: list[int] = []
        self._bad = frozenset(bad)
        self._chokes = chokes or {}

    def call(self, part: Sequence[int]) -> None:
        self.calls.append(list(part))
        for number in part:
            if number in self._chokes:
                raise ApiError(f"choked on {number}", fault=self._chokes[number], status=500, retry_after=9.0)
        refused = self._bad & set(part)
        if refused:
            raise ApiError(f"400: {sorted(refused)}", fault=Fault.REFUSED, status=400)
        self.taken += part


def words(errors: Sequence[ApiError | None]) -> list[str]:
    return [str(error) if error else "" for error in errors]


@pytest.mark.parametrize(
    ("count", "size", "calls"),
    [
        (0, 3, []),
        (1, 3, [[0]]),
        (3, 3, [[0, 1, 2]]),
        (7, 3, [[0, 1, 2], [3, 4, 5], [6]]),
        (3, 1, [[0], [1], [2]]),
    ],
)
def test_as_many_are_sent_at_once_as_the_vendor_takes(count: int, size: int, calls: list[list[int]]) -> None:
    vendor = Vendor()

    assert deliver(range(count), vendor.call, Size(size)) == [None] * count
    assert vendor.calls == calls


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 100])
@pytest.mark.parametrize("size", [1, 2, 3, 50, 100])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999], ids=["first", "middle", "last"])
def test_a_bad_item_is_found_and_the_others_are_taken_once(count: int, size: int, place: float) -> None:
    bad = int(count * place)
    vendor = Vendor(bad=[bad])

    errors = deliver(range(count), vendor.call, Size(size))

    assert words(errors) == [f"400: [{bad}]" if number == bad else "" for number in range(count)]
    assert vendor.taken == [number for number in range(count) if number != bad], "in order, each once"
    assert max(len(part) for part in vendor.calls) <= size


def test_a_bad_item_of_a_hundred_costs_few_calls() -> None:
    vendor = Vendor(bad=[66])

    deliver(range(100), vendor.call, Size(100))

    assert len(vendor.calls) <= 15


def test_many_bad_items_are_all_found() -> None:
    bad = [0, 1, 13, 49, 50, 99]
    vendor = Vendor(bad=bad)

    errors = deliver(range(100), vendor.call, Size(50))

    assert [number for number, error in enumerate(errors) if error] == bad
    assert {error.fault for error in errors if error} == {Fault.REFUSED}
    assert vendor.taken == [number for number in range(100) if number not in bad]


@pytest.mark.parametrize("fault", [Fault.PASSING, Fault.LOCKED_OUT])
def test_after_a_failure_that_is_no_items_fault_nothing_more_is_called(fault: Fault) -> None:
    vendor = Vendor(chokes={4: fault})

    errors = deliver(range(9), vendor.call, Size(3))

    assert words(errors) == ["", "", ""] + ["choked on 4"] * 6
    assert {(error.fault, error.retry_after) for error in errors if error} == {(fault, 9.0)}
    assert vendor.calls == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("fault", [Fault.PASSING, Fault.LOCKED_OUT])
@pytest.mark.parametrize("chokes_on", range(1, 8))
@pytest.mark.parametrize("size", [4, 8])
def test_nor_is_it_while_a_bad_item_is_looked_for(fault: Fault, chokes_on: int, size: int) -> None:
    """The failure strikes only once the batch has been halved: the vendor was well when the search began."""

    class Failing(Vendor):
        def call(self, part: Sequence[int]) -> None:
            if self.calls and chokes_on in part:
                self.calls.append(list(part))
                raise ApiError("choked", fault=fault)
            super().call(part)

    vendor = Failing(bad=[0])

    errors = deliver(range(8), vendor.call, Size(size))

    failed = next(number for number, part in enumerate(vendor.calls) if number and chokes_on in part)
    assert vendor.calls[failed + 1 :] == [], "nothing is called after the failure"
    assert len(errors) == 8
    first = vendor.calls[failed][0]
    assert {str(error) for error in errors[first:]} == {"choked"}, "the rest shares it"
    assert "choked" not in words(errors[:first])


def test_single_items_may_be_refused_in_an_answer() -> None:
    def call(part: Sequence[int]) -> list[str]:
        return ["suppressed" if number == 4 else "" for number in part]

    errors = deliver(range(6), call, Size(3))

    assert words(errors) == ["", "", "", "", "suppressed", ""]
    assert errors[4] is not None
    assert (errors[4].fault, errors[4].ambiguous) == (Fault.REFUSED, False)


# -- order ------------------------------------------------------------------------------------------------------

PASSING = ApiError("504", fault=Fault.PASSING)
LOCKED_OUT = ApiError("401", fault=Fault.LOCKED_OUT)
REFUSED = ApiError("422", fault=Fault.REFUSED)
DEAD = Outcome(State.DEAD, "422")


def job(job_id: int, key: str) -> Job:
    event = Event(Source.KOMMO, Kind.STAGE_CHANGED, StageChange(1, 2), key, None, id=job_id)
    return Job(job_id, Lane.ORTTO, event, key, attempts=0, created_at=NOW)


@pytest.mark.parametrize(
    ("result", "waits"),
    [
        (DONE, False),
        (skipped("why"), False),
        (DEAD, False),
        (REFUSED, False),
        (HELD, True),
        (PASSING, True),
        (LOCKED_OUT, True),
    ],
    ids=["done", "skipped", "dead", "refused", "held", "passing", "locked out"],
)
def test_only_what_is_tried_again_holds_back_the_later_ones_of_its_key(result: Result, waits: bool) -> None:
    batch = [job(1, "a"), job(2, "b"), job(3, "a"), job(4, "a"), job(5, "b")]
    results: dict[int, Result] = {1: result, 2: DONE, 3: DONE, 4: skipped("why"), 5: REFUSED}

    assert must_wait(result) is waits
    assert keep_order(batch, results) == {
        1: result,
        2: DONE,
        3: HELD if waits else DONE,
        4: HELD if waits else skipped("why"),
        5: REFUSED,
    }


def test_a_failure_holds_back_what_comes_after_it_not_what_was_before() -> None:
    batch = [job(1, "a"), job(2, "a"), job(3, "a")]

    assert keep_order(batch, {1: DONE, 2: PASSING, 3: PASSING}) == {1: DONE, 2: PASSING, 3: HELD}


def test_an_empty_batch_has_no_results() -> None:
    assert keep_order([], {}) == {}


# -- the ledger -------------------------------------------------------------------------------------------------


@pytest.fixture
def open_journal(tmp_path: Path) -> Iterator[Callable[[], Journal]]:
    opened: list[Journal] = []

    def open_one() -> Journal:
        opened.append(journal_at(f"sqlite:///{tmp_path / 'journal.db'}"))
        return opened[-1]

    yield open_one
    for journal in opened:
        journal.close()


@pytest.fixture
def journal(open_journal: Callable[[], Journal]) -> Journal:
    made = open_journal()
    record(made, stage(1), stage(2))
    return made


def later(journal: Journal) -> list[Job]:
    """Claim as another process would after the lease."""
    return claim(journal, now=NOW + LEASE_SECONDS)


def test_a_step_that_was_begun_is_known_to_whoever_comes_next(
    journal: Journal, open_journal: Callable[[], Journal]
) -> None:
    batch = claim(journal)
    ledger = Ledger(journal, batch)

    assert ledger.begin([(batch[0], "task"), (batch[0], "note"), (batch[1], "task")]) == {1, 2}
    ledger.finish([(batch[0], "task")], ["6900031"])
    ledger.finish([(batch[1], "task")])

    taken_over = later(open_journal())
    assert [job.steps for job in taken_over] == [
        {"task": Step(finished=True, note="6900031"), "note": Step(finished=False)},
        {"task": Step(finished=True)},
    ]
    again = Ledger(journal, taken_over)
    for known in (ledger, again):
        facts = [(known.finished(batch[0], step), known.begun(batch[0], step)) for step in ("task", "note", "tag")]
        assert facts == [(True, False), (False, True), (False, False)]


def test_a_job_that_was_taken_over_may_not_be_begun(journal: Journal, open_journal: Callable[[], Journal]) -> None:
    batch = claim(journal)
    journal.settle([Settlement(batch[1], DONE)], now=NOW)
    later(open_journal())

    assert Ledger(journal, batch).begin([(batch[0], "task"), (batch[1], "task")]) == set()


def test_the_steps_of_a_job_that_was_taken_over_stay_those_of_its_new_holder(
    journal: Journal, open_journal: Callable[[], Journal]
) -> None:
    batch = claim(journal)
    other = open_journal()
    theirs = later(other)
    Ledger(other, theirs).finish([(theirs[0], "task")], ["7"])

    Ledger(journal, batch).begin([(batch[0], "note")])

    other.release(theirs)
    assert later(other)[0].steps == {"task": Step(finished=True, note="7")}


def test_the_intent_of_a_step_that_did_not_happen_is_taken_back(
    journal: Journal, open_journal: Callable[[], Journal]
) -> None:
    batch = claim(journal)
    ledger = Ledger(journal, batch)
    ledger.begin([(batch[0], "task"), (batch[0], "note")])

    ledger.forget([(batch[0], "task"), (batch[1], "task")])

    assert not ledger.begun(batch[0], "task")
    assert [job.steps for job in later(open_journal())] == [{"note": Step(finished=False)}, {}]


@pytest.mark.parametrize("steps", [{}, {"notes": []}], ids=["steps", "steps and notes"])
def test_nothing_is_written_for_no_steps(journal: Journal, steps: dict[str, Any]) -> None:
    ledger = Ledger(journal, [])

    assert ledger.begin([]) == set()
    ledger.finish([], **steps)


def test_notes_and_steps_must_match(journal: Journal) -> None:
    batch = claim(journal)

    with pytest.raises(ValueError, match="zip"):
        Ledger(journal, batch).finish([(batch[0], "task"), (batch[0], "note")], ["7"])


def test_what_vendors_said_of_a_deal_is_known_to_its_later_jobs(journal: Journal) -> None:
    batch = claim(journal)
    ledger = Ledger(journal, batch)
    ledger.finish([(batch[0], "task"), (batch[0], "note"), (batch[1], "task")], ["7", "", "9"])

    assert journal.notes_of("lead:1") == {"7"}
    assert journal.notes_of("lead:3") == set()


# -- what is too heavy ------------------------------------------------------------------------------------------


class Heavy:
    """A vendor that takes so many items a call and answers 504 to more."""

    def __init__(self, strength: int) -> None:
        self.strength = strength
        self.calls: list[int] = []

    def call(self, items: Sequence[int]) -> dict[int, str]:
        self.calls.append(len(items))
        if len(items) > self.strength:
            raise ApiError("too heavy", fault=Fault.PASSING, status=504, ambiguous=True)
        return dict.fromkeys(items, "read")

    def write(self, items: Sequence[int]) -> None:
        self.call(items)


def test_after_a_504_the_next_attempt_is_lighter_and_later_ones_grow_again() -> None:
    vendor, size = Heavy(20), Size(50)

    attempts = [deliver(range(50), vendor.write, size) for _ in range(3)]

    # What had no clear answer is not sent again at once: it must be looked up first.
    assert [[error is None for error in errors].count(True) for errors in attempts] == [0, 0, 12]
    assert vendor.calls == [50, 25, 12, 24]
    vendor.strength = 50
    assert deliver(range(50), vendor.write, size) == [None] * 50
    assert (vendor.calls[4:], size.now) == ([12, 24, 14], 50)


def test_what_is_too_heavy_to_read_is_read_in_halves() -> None:
    vendor = Heavy(30)

    found, refused = read_by_halves(vendor.call, range(100))

    assert (sorted(found), refused) == (list(range(100)), {})
    assert vendor.calls == [100, 50, 25, 25, 50, 25, 25]


def test_one_that_is_too_heavy_by_itself_is_nobodys_fault() -> None:
    with pytest.raises(ApiError, match="too heavy"):
        read_by_halves(Heavy(0).call, [1, 2])
