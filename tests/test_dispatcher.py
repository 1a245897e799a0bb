"""Lanes, carriers and the requests that wait for them: small flows on a real journal, on both databases."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from databases import run_sql
from journal_events import WEBHOOK, owed, stage
from support import at_once, eventually

from app import crowd, dispatcher, retry
from app.clients.errors import ApiError, Fault
from app.dispatcher import Dispatcher
from app.events import DONE, HELD, Event, Job, Lane, Outcome, State, Step
from app.flows import Ledger, Result, keep_order
from app.journal import Journal, JournalError, Settlement, store
from app.lease import Lease
from app.receipts import Part, Receipt

HOUR, DAY = 3600.0, 86_400.0
LONG = 30.0  # seconds that no test should need
AT_ONCE = 10.0  # seconds: what does not wait for anything needs far less, on however busy a machine
JOBS = "SELECT order_key, lane, state, attempts, reason, owner, lease_until FROM jobs ORDER BY id"


class Told:
    """A flow that does with each job as it is told, keeps what it was given, and waits while its gate is closed."""

    def __init__(self, do: Callable[[Job], Result] = lambda job: DONE) -> None:
        self.do = do
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def carry(self, batch: Sequence[Job], ledger: Ledger) -> Mapping[int, Result]:
        """Carry a batch out."""
        self.batches.append([job.order_key for job in batch])
        self.entered.set()
        assert self.gate.wait(LONG)
        return keep_order(batch, {job.id: self.do(job) for job in batch})

    @property
    def given(self) -> list[str]:
        """Return the keys of all jobs it was given."""
        return [key for batch in self.batches for key in batch]


def onward(*lanes: Lane) -> Callable[[Job], Result]:
    """Return what a resolve flow does that has lanes owe something for each deal."""

    def resolve(job: Job) -> Result:
        lead_id = int(job.order_key.removeprefix("lead:"))
        return Outcome(State.DONE, owed=tuple(owed(lane, lead_id) for lane in lanes))

    return resolve


def failing(fault: Fault = Fault.PASSING, **more: Any) -> Callable[[Job], Result]:
    """Return what a flow does whose vendor fails."""
    return lambda job: ApiError("the vendor's words", fault=fault, **more)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a carrier look, and try again, every few hundredths of a second."""
    monkeypatch.setattr(dispatcher, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(retry, "FIRST_SECONDS", 0.05)


@dataclass
class House:
    """Processes that share a journal, as far as the journal can tell."""

    url: str
    open: list[Dispatcher] = field(default_factory=list)
    journals: list[Journal] = field(default_factory=list)

    def journal(self) -> Journal:
        """Open the journal as another process would."""
        self.journals.append(Journal(self.url))
        return self.journals[-1]

    def process(self, **options: Any) -> Dispatcher:
        """Make a dispatcher with a journal of its own; a flow or a pair of vendor and flow by the lane's name."""
        flows = {lane: options.pop(lane.value) for lane in Lane if lane.value in options}
        lanes = {
            lane: flow if isinstance(flow, tuple) else (f"vendor-{lane}", flow) for lane, flow in flows.items()
        }
        made = Dispatcher(self.journal(), lanes, **{"places": 4, "retention": 30 * DAY, **options})
        self.open.append(made)
        return made

    def rows(self) -> list[dict[str, Any]]:
        """Return how the jobs stand, oldest first."""
        names = ("key", "lane", "state", "attempts", "reason", "owner", "lease_until")
        return [dict(zip(names, row, strict=True)) for row in run_sql(self.url, JOBS)]

    def states(self) -> list[str]:
        return [row["state"] for row in self.rows()]


@pytest.fixture
def house(database_url: str) -> Iterator[House]:
    made = House(database_url)
    yield made
    for process in made.open:
        process.stop(LONG)
    for journal in made.journals:
        journal.close()


def tell(process: Dispatcher, *events: Event) -> Receipt:
    """Write events down."""
    return process.record(WEBHOOK, [(event, None) for event in events], seconds=LONG)


def timed(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


# -- batches ------------------------------------------------------------------------------------------------------


def test_a_batch_is_everything_that_has_gathered_in_the_order_it_came(house: House) -> None:
    flow = Told()
    process = house.process(resolve=flow)
    flow.gate.clear()
    tell(process, stage(1))
    process.start()
    assert flow.entered.wait(LONG)
    for number in range(2, 7):
        tell(process, stage(number), stage(10 * number))

    flow.gate.set()

    eventually(lambda: house.states() == ["done"] * 11)
    assert flow.batches == [
        ["lead:1"],
        [f"lead:{number}" for number in (2, 20, 3, 30, 4, 40, 5, 50, 6, 60)],
    ]


def test_a_batch_holds_no_more_than_its_limit(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "BATCH_LIMIT", 4)
    flow = Told()
    process = house.process(resolve=flow)
    tell(process, *(stage(number) for number in range(10)))

    process.start()

    eventually(lambda: house.states() == ["done"] * 10)
    assert [len(batch) for batch in flow.batches] == [4, 4, 2]


def test_while_a_crowd_comes_in_no_work_begins_and_no_request_waits_for_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are written down and answered sooner, and are one batch then."""
    monkeypatch.setattr(crowd, "MANY", 1)
    monkeypatch.setattr(crowd, "WITHIN_SECONDS", 2 * LONG)
    monkeypatch.setattr(crowd, "CALM_SECONDS", 2 * LONG)
    monkeypatch.setattr(crowd, "LONGEST_SECONDS", 2 * LONG)
    flow = Told()
    process = house.process(resolve=flow)
    process.start()
    receipts = [tell(process, stage(number)) for number in range(10)]

    assert timed(lambda: process.carry_out(receipts[-1], 2 * LONG)) < AT_ONCE
    time.sleep(5 * dispatcher.POLL_SECONDS)
    assert flow.batches == []
    monkeypatch.setattr(crowd, "LONGEST_SECONDS", 0.0)

    eventually(lambda: house.states() == ["done"] * 10)
    assert len(flow.batches) == 1


# -- requests that wait -------------------------------------------------------------------------------------------


def test_a_request_returns_when_all_that_follows_from_it_is_settled(house: House) -> None:
    process = house.process(
        resolve=Told(onward(Lane.ENCHARGE, Lane.ORTTO)),
        encharge=Told(),
        ortto=Told(lambda job: Outcome(State.SKIPPED, "not wanted")),
    )
    event, refused = stage(1, "one"), stage(2, "two")
    receipt = process.record(WEBHOOK, [(event, None), (refused, "not for us")], seconds=LONG)

    took = timed(lambda: process.carry_out(receipt, LONG))

    assert took < AT_ONCE
    assert not receipt.open(receipt.recorded[0].event)
    parts = receipt.parts(receipt.recorded[0].event)
    assert parts[0] == Part(Lane.RESOLVE, State.DONE)
    assert sorted(parts[1:], key=lambda part: part.lane) == [
        Part(Lane.ENCHARGE, State.DONE),
        Part(Lane.ORTTO, State.SKIPPED, "not wanted"),
    ]
    assert receipt.parts(receipt.recorded[1].event) == []
    assert process._waits == {}


def test_a_request_returns_when_its_time_is_up(house: House) -> None:
    slow = Told()
    process = house.process(resolve=Told(onward(Lane.ORTTO)), ortto=slow)
    slow.gate.clear()
    receipt = tell(process, stage(1))
    (event,) = (item.event for item in receipt.recorded)
    process.start()
    eventually(lambda: receipt.parts(event))

    took = timed(lambda: process.carry_out(receipt, 0.3))

    assert 0.3 <= took < 0.3 + AT_ONCE
    assert (receipt.open(event), receipt.parts(event)) == (True, [Part(Lane.RESOLVE, State.DONE)])
    assert process._waits == {}
    slow.gate.set()
    eventually(lambda: house.states() == ["done", "done"])


def test_a_request_for_nothing_new_does_not_wait(house: House) -> None:
    process = house.process(resolve=Told())
    tell(process, stage(1, "the same"))

    receipt = tell(process, stage(1, "the same"))

    assert timed(lambda: process.carry_out(receipt, LONG)) < AT_ONCE
    assert [item.duplicate for item in receipt.recorded] == [True]


def test_when_the_waiting_places_are_taken_the_next_request_returns_at_once(house: House) -> None:
    flow = Told()
    process = house.process(resolve=flow, places=2)
    flow.gate.clear()
    receipts = [tell(process, stage(number)) for number in range(3)]
    waiting = [threading.Thread(target=process.carry_out, args=(receipt, LONG)) for receipt in receipts[:2]]
    for thread in waiting:
        thread.start()
    eventually(lambda: process._places._value == 0)

    took = timed(lambda: process.carry_out(receipts[2], LONG))

    assert took < AT_ONCE
    assert [thread.is_alive() for thread in waiting] == [True, True]
    flow.gate.set()
    for thread in waiting:
        thread.join(LONG)
    assert [thread.is_alive() for thread in waiting] == [False, False]
    # The places are free again.
    assert timed(lambda: process.carry_out(tell(process, stage(9)), LONG)) < AT_ONCE


@pytest.mark.parametrize(
    ("do", "state"),
    [
        pytest.param(failing(Fault.LOCKED_OUT, status=401), State.PENDING, id="locked out"),
        pytest.param(failing(retry_after=60.0, status=429), State.PENDING, id="429"),
        pytest.param(failing(Fault.REFUSED, status=400), State.DEAD, id="refused"),
    ],
)
def test_a_request_does_not_wait_for_what_will_not_be_done_now(
    do: Callable[[Job], Result], state: State, house: House
) -> None:
    process = house.process(resolve=Told(onward(Lane.ORTTO)), ortto=Told(do))
    receipt = tell(process, stage(1))

    took = timed(lambda: process.carry_out(receipt, LONG))

    assert took < AT_ONCE
    (event,) = (item.event for item in receipt.recorded)
    assert receipt.parts(event) == [
        Part(Lane.RESOLVE, State.DONE),
        Part(Lane.ORTTO, state, "the vendor's words"),
    ]


def test_a_paused_vendor_lets_all_that_wait_for_it_go_at_once(house: House) -> None:
    """Another process was told to wait; requests here are waiting for the same vendor, and more come."""
    slow = Told()
    process = house.process(resolve=Told(onward(Lane.ORTTO)), ortto=("ortto", slow), encharge=Told())
    slow.gate.clear()
    first = tell(process, stage(1))
    process.carry_out(first, 0.2)
    assert slow.entered.wait(LONG)
    second = tell(process, stage(2))
    waiting = threading.Thread(target=process.carry_out, args=(second, LONG))
    waiting.start()
    house.journal().pause("ortto", time.time() + HOUR, "429")
    slow.gate.set()

    waiting.join(AT_ONCE)

    assert not waiting.is_alive()
    (event,) = (item.event for item in second.recorded)
    assert second.parts(event)[-1] == Part(Lane.ORTTO, State.PENDING, "ortto is paused: 429")
    third = tell(process, stage(3))
    assert timed(lambda: process.carry_out(third, LONG)) < AT_ONCE
    assert slow.given == ["lead:1"]


def test_while_kommo_is_paused_a_request_is_not_kept_at_all(house: House) -> None:
    process = house.process(resolve=("kommo", Told(failing(Fault.LOCKED_OUT))))
    process.carry_out(tell(process, stage(1)), LONG)

    receipt = tell(process, stage(2))

    assert timed(lambda: process.carry_out(receipt, LONG)) < AT_ONCE


# -- failures -----------------------------------------------------------------------------------------------------


def test_a_fault_of_ours_stops_no_lane_and_loses_nothing(house: House) -> None:
    faults = iter([ZeroDivisionError("of ours"), KeyError("too")])

    def stumble(job: Job) -> Result:
        for fault in faults:
            raise fault
        return DONE

    process = house.process(resolve=Told(onward(Lane.ORTTO, Lane.ENCHARGE)), ortto=Told(stumble), encharge=Told())
    receipt = tell(process, stage(1), stage(2))

    process.carry_out(receipt, LONG)
    parts = {part.reason for item in receipt.recorded for part in receipt.parts(item.event)}

    assert "internal error: ZeroDivisionError: of ours" in parts
    eventually(lambda: house.states() == ["done"] * 6)
    assert [row["attempts"] for row in house.rows() if row["lane"] == "ortto"] == [2, 2]


def test_each_attempt_that_fails_is_kept_with_the_vendors_answer(house: House) -> None:
    answers = iter([("busy", Fault.PASSING, 503), ("no such field", Fault.REFUSED, 400)])

    def stumble(job: Job) -> Result:
        words, fault, status = next(answers)
        return ApiError(words, fault=fault, status=status)

    process = house.process(resolve=Told(onward(Lane.ORTTO)), ortto=Told(stumble))
    process.carry_out(tell(process, stage(1)), LONG)
    eventually(lambda: "dead" in house.states())

    kept = run_sql(
        house.url, "SELECT lane, outcome, fault, status, words FROM attempts JOIN jobs ON job_id = jobs.id"
    )
    assert kept == [
        ("ortto", "pending", "passing", 503, "busy"),
        ("ortto", "dead", "refused", 400, "no such field"),
    ]


def test_what_a_failure_of_the_journal_interrupts_is_taken_up_at_once(house: House) -> None:
    """Not a minute later, when the lease ends."""
    failures = iter([JournalError("the disk is full")])

    def stumble(job: Job) -> Result:
        for failure in failures:
            raise failure
        return DONE

    flow = Told(stumble)
    process = house.process(resolve=flow)
    receipt = tell(process, stage(1), stage(2))

    took = timed(lambda: process.carry_out(receipt, LONG))

    assert took < AT_ONCE
    assert house.states() == ["done", "done"]
    assert [row["attempts"] for row in house.rows()] == [0, 0]
    assert flow.batches == [["lead:1", "lead:2"]] * 2


def test_a_job_behind_a_failed_one_of_its_key_is_held_without_blame(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_SECONDS", HOUR)
    failures = iter([failing()])

    def fail_first(job: Job) -> Result:
        return next(failures, lambda job: DONE)(job)

    flow = Told(fail_first)
    process = house.process(resolve=flow)
    receipt = tell(process, stage(1), stage(2), stage(1))

    process.carry_out(receipt, LONG)

    parts = [receipt.parts(item.event) for item in receipt.recorded]
    assert parts == [
        [Part(Lane.RESOLVE, State.PENDING, "the vendor's words")],
        [Part(Lane.RESOLVE, State.DONE)],
        [Part(Lane.RESOLVE, State.PENDING, HELD.reason)],
    ]
    run_sql(house.url, "UPDATE jobs SET due_at = 0")
    run_sql(house.url, "UPDATE lanes SET paused_until = 0")
    eventually(lambda: house.states() == ["done", "done", "done"])
    assert [row["attempts"] for row in house.rows()] == [1, 0, 0]
    assert flow.batches == [["lead:1", "lead:2", "lead:1"], ["lead:1", "lead:1"]]


@pytest.mark.parametrize(
    ("fault", "state", "attempts"),
    [
        pytest.param(Fault.REFUSED, "dead", 0, id="refused"),
        pytest.param(Fault.LOCKED_OUT, "pending", 0, id="locked out"),
        pytest.param(Fault.PASSING, "pending", 1, id="passing"),
    ],
)
def test_a_failed_job_keeps_the_vendors_words(fault: Fault, state: str, attempts: int, house: House) -> None:
    process = house.process(resolve=Told(failing(fault, retry_after=HOUR)))
    receipt = tell(process, stage(1))

    process.carry_out(receipt, LONG)

    (row,) = house.rows()
    assert row == {
        "key": "lead:1",
        "lane": "resolve",
        "state": state,
        "attempts": attempts,
        "reason": "the vendor's words",
        "owner": None,
        "lease_until": 0.0,
    }


def test_a_vendor_is_left_alone_as_long_as_it_asks_and_others_are_not(house: House) -> None:
    answers = iter([failing(retry_after=HOUR)])
    left_alone, other = Told(lambda job: next(answers, lambda job: DONE)(job)), Told()
    process = house.process(resolve=Told(onward(Lane.ORTTO, Lane.ENCHARGE)), ortto=left_alone, encharge=other)
    process.carry_out(tell(process, stage(1)), LONG)
    process.carry_out(tell(process, stage(2)), LONG)

    eventually(lambda: other.given == ["lead:1", "lead:2"])

    assert left_alone.given == ["lead:1"]
    run_sql(house.url, "UPDATE jobs SET due_at = 0")
    run_sql(house.url, "UPDATE lanes SET paused_until = 0")
    eventually(lambda: house.states() == ["done"] * 6)


@pytest.mark.parametrize(
    ("failures", "state"),
    [
        pytest.param(dispatcher.LONG_STREAK, "done", id="after an outage"),
        pytest.param(1, "pending", id="not after one failure"),
    ],
)
def test_when_an_outage_ends_what_waits_for_a_later_attempt_is_tried_at_once(
    failures: int, state: str, house: House
) -> None:
    """A job that failed all night must not wait for hours more once the vendor is back."""
    journal = house.journal()
    now = time.time()
    journal.record(WEBHOOK, [(stage(1), None)], now=now)
    waiting = journal.claim(Lane.RESOLVE, "kommo", 1, now=now)
    again = Outcome(State.PENDING, "down all night")
    journal.settle([Settlement(job, again, due_at=now + HOUR, failed=True) for job in waiting], now=now)
    answers = iter([failing()] * failures)
    flow = Told(lambda job: next(answers, lambda job: DONE)(job))
    process = house.process(resolve=flow)
    tell(process, stage(2))

    process.start()

    eventually(lambda: house.rows()[1]["state"] == "done")
    if state == "done":
        eventually(lambda: house.rows()[0]["state"] == "done")
    else:
        time.sleep(0.3)
        assert house.rows()[0]["state"] == "pending"


def test_a_job_that_is_held_back_does_not_keep_the_lane_busy(house: House) -> None:
    """The first of a key waits for hours; the second is due now, and cannot be had."""
    journal = house.journal()
    now = time.time()
    journal.record(WEBHOOK, [(stage(1), None)], now=now)
    waiting = journal.claim(Lane.RESOLVE, "kommo", 1, now=now)
    again = Outcome(State.PENDING, "down all night")
    journal.settle([Settlement(job, again, due_at=now + HOUR, failed=True) for job in waiting], now=now)
    journal.record(WEBHOOK, [(stage(1), None)], now=now)

    assert journal.next_due(Lane.RESOLVE) == pytest.approx(now + HOUR)
    assert journal.claim(Lane.RESOLVE, "kommo", 10, now=now) == []


# -- start and stop -----------------------------------------------------------------------------------------------


def carriers() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("lane-")}


def test_nothing_runs_before_it_is_asked_to_and_then_once(house: House) -> None:
    process = house.process(resolve=Told(), ortto=Told())
    receipt = tell(process, stage(1))
    time.sleep(0.1)
    assert (carriers(), house.states()) == (set(), ["pending"])

    at_once([process.start] * 20, 20)

    assert carriers() == {"lane-resolve", "lane-ortto"}
    assert len(process._threads) == 3
    process.carry_out(receipt, LONG)
    assert len(process._threads) == 3
    assert house.states() == ["done"]


def test_a_request_starts_the_carriers(house: House) -> None:
    process = house.process(resolve=Told())

    process.carry_out(tell(process, stage(1)), LONG)

    assert house.states() == ["done"]


def test_a_stopped_dispatcher_does_not_start_again(house: House) -> None:
    process = house.process(resolve=Told())
    process.stop()

    process.start()

    assert carriers() == set()
    assert timed(lambda: process.carry_out(tell(process, stage(1)), 0.2)) < 0.2 + AT_ONCE
    assert house.states() == ["pending"]


def test_a_stop_finishes_the_batch_that_is_under_way_and_begins_no_other(house: House) -> None:
    flow = Told()
    process = house.process(resolve=flow, ortto=Told())
    flow.gate.clear()
    tell(process, stage(1), stage(2))
    process.start()
    assert flow.entered.wait(LONG)
    tell(process, stage(3))
    stopping = threading.Thread(target=process.stop)
    stopping.start()
    time.sleep(0.2)
    assert stopping.is_alive()

    flow.gate.set()
    stopping.join(LONG)

    assert not stopping.is_alive()
    assert carriers() == set()
    assert house.states() == ["done", "done", "pending"]
    assert [(row["owner"], row["lease_until"]) for row in house.rows()] == [(None, 0.0)] * 3


def test_a_stop_releases_nothing_of_a_batch_whose_call_is_still_in_flight(house: House) -> None:
    """Others would send it a second time: they get it when its lease ends, or never, as it ended well."""
    flow = Told()
    process = house.process(resolve=flow)
    flow.gate.clear()
    tell(process, stage(1), stage(2))
    process.start()
    assert flow.entered.wait(LONG)

    assert timed(lambda: process.stop(0.3)) < 0.3 + AT_ONCE

    other = house.journal()
    assert other.claim(Lane.RESOLVE, "kommo", 10, now=time.time()) == []
    flow.gate.set()
    eventually(lambda: not carriers())
    assert house.states() == ["done", "done"]


def in_a_call(house: House) -> tuple[Dispatcher, Told, Lease]:
    """Return a process whose flow has begun a batch and does not end it before its gate is set; its lease holds."""
    lease, flow = Lease(), Told()
    process = house.process(resolve=flow, leases={Lane.RESOLVE: lease})
    flow.gate.clear()
    tell(process, stage(1))
    process.start()
    assert flow.entered.wait(LONG)
    eventually(lease.holds)
    return process, flow, lease


def test_a_stop_ends_sending_before_it_waits(house: House) -> None:
    process, flow, lease = in_a_call(house)

    process.stop(0.1)

    assert not lease.holds()
    lease.extend(Lease.begin(), 60.0)
    assert not lease.holds()
    flow.gate.set()
    eventually(lambda: not carriers())


# -- leases -------------------------------------------------------------------------------------------------------


def test_a_slow_batch_stays_ours_while_it_is_carried(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LEASE_SECONDS", 4.0)
    monkeypatch.setattr(dispatcher, "RENEW_SECONDS", 0.1)
    lease = Lease()
    flow = Told()
    process = house.process(resolve=flow, leases={Lane.RESOLVE: lease})
    other = house.journal()
    flow.gate.clear()
    tell(process, stage(1), stage(2))
    process.start()
    assert flow.entered.wait(LONG)

    until = time.monotonic() + 5
    while time.monotonic() < until:
        assert other.claim(Lane.RESOLVE, "kommo", 10, now=time.time()) == []
        assert lease.holds()
        time.sleep(0.05)
    flow.gate.set()

    eventually(lambda: house.states() == ["done", "done"])
    assert flow.batches == [["lead:1", "lead:2"]]


def test_who_has_lost_a_lease_settles_nothing_and_writes_nothing_more(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after SIGSTOP and SIGCONT: in between, another process took over and finished."""
    monkeypatch.setattr(store, "LEASE_SECONDS", 0.4)
    lease = Lease()
    steps: list[set[int]] = []

    class Slow(Told):
        def carry(self, batch: Sequence[Job], ledger: Ledger) -> Mapping[int, Result]:
            results = super().carry(batch, ledger)
            steps.append(ledger.begin([(job, "task") for job in batch]))
            return results

    flow = Slow(onward(Lane.ORTTO))
    process = house.process(resolve=flow, ortto=Told(), leases={Lane.RESOLVE: lease})
    other = house.journal()
    flow.gate.clear()
    receipt = tell(process, stage(1))
    waiting = threading.Thread(target=process.carry_out, args=(receipt, 2.0))
    waiting.start()
    assert flow.entered.wait(LONG)
    taken = eventually(lambda: other.claim(Lane.RESOLVE, "kommo", 10, now=time.time()))
    assert not lease.holds()
    other.write_steps({taken[0].id: {"task": Step(finished=True, note="theirs")}}, taken[0].token)
    theirs = Outcome(State.SKIPPED, "theirs")
    other.settle([Settlement(job, theirs) for job in taken], now=time.time())

    flow.gate.set()
    waiting.join(LONG)

    assert steps == [set()]
    rows = house.rows()
    assert [(row["lane"], row["state"], row["reason"]) for row in rows] == [("resolve", "skipped", "theirs")]
    (event,) = (item.event for item in receipt.recorded)
    assert (receipt.open(event), receipt.parts(event)) == (True, [])


def test_a_lease_ends_at_once_when_it_turns_out_to_be_anothers(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "RENEW_SECONDS", 0.1)
    _, flow, lease = in_a_call(house)

    run_sql(house.url, "UPDATE jobs SET owner = 'another'")

    eventually(lambda: not lease.holds())
    flow.gate.set()


# -- two processes ------------------------------------------------------------------------------------------------


@dataclass
class Visit:
    """One time that a process had a job in its hands."""

    process: int
    key: str
    event_id: int
    since: float
    until: float
    result: Result


def test_two_processes_never_hold_the_same_job_and_keep_the_order_of_each_key(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vendors that fail now and then, jobs that wait, and two who want them all."""
    monkeypatch.setattr(dispatcher, "BATCH_LIMIT", 7)
    monkeypatch.setattr(retry, "FIRST_SECONDS", 0.01)
    visits: list[Visit] = []

    both = threading.Barrier(2)

    class Visiting:
        def __init__(self, process: int) -> None:
            self._process = process
            self._chance = random.Random(process)
            self._begun = False

        def carry(self, batch: Sequence[Job], ledger: Ledger) -> Mapping[int, Result]:
            since = time.monotonic()
            if not self._begun:
                self._begun = True
                both.wait(LONG)  # or one of them might do all before the other is awake
            time.sleep(self._chance.uniform(0, 0.01))
            chance = [self._chance.random() for _ in batch]
            results = {
                job.id: failing(Fault.PASSING if luck > 0.03 else Fault.REFUSED)(job) if luck < 0.1 else DONE
                for job, luck in zip(batch, chance, strict=True)
            }
            kept = keep_order(batch, results)
            until = time.monotonic()
            for job in batch:
                visits.append(Visit(self._process, job.order_key, job.event.id, since, until, kept[job.id]))
            return kept

    processes = [house.process(resolve=Visiting(number)) for number in range(2)]
    for start in range(0, 300, 20):
        tell(processes[start // 20 % 2], *(stage(number % 15) for number in range(start, start + 20)))
    for process in processes:
        process.start()

    eventually(lambda: "pending" not in house.states(), 60)

    over = [visit for visit in visits if not _tried_again(visit.result)]
    assert len(over) == len({visit.event_id for visit in over}) == 300
    by_key: dict[str, list[Visit]] = defaultdict(list)
    for visit in sorted(visits, key=lambda visit: visit.since):
        by_key[visit.key].append(visit)
    for some in by_key.values():
        finished = [visit.event_id for visit in some if not _tried_again(visit.result)]
        assert finished == sorted(finished)
        overlaps = [
            (one, other)
            for one, other in itertools.pairwise(some)
            if one.process != other.process and other.since < one.until
        ]
        assert overlaps == []
    assert {visit.process for visit in over} == {0, 1}


def _tried_again(result: Result) -> bool:
    return result is HELD or (isinstance(result, ApiError) and result.fault != Fault.REFUSED)


def test_a_pause_holds_in_all_processes(house: House) -> None:
    asked: list[float] = []
    wait = [200.0]  # seconds; more would be taken for a time of a clock that was wrong

    def told_to_wait(job: Job) -> Result:
        asked.append(time.monotonic())
        return failing(retry_after=wait.pop())(job) if wait else DONE

    first, second = (house.process(resolve=("kommo", Told(told_to_wait))) for _ in range(2))
    first.carry_out(tell(first, stage(1)), LONG)
    assert len(asked) == 1

    second.carry_out(tell(second, stage(2)), 0.3)

    assert len(asked) == 1
    wait.append(0.6)
    run_sql(house.url, "UPDATE jobs SET due_at = 0")
    run_sql(house.url, "UPDATE lanes SET paused_until = 0")
    eventually(lambda: house.states() == ["done", "done"])
    assert asked[-1] - asked[1] >= 0.6


def test_the_work_of_one_process_is_seen_by_another(house: House) -> None:
    """A web process that only writes down, and a worker."""
    web, worker = house.process(resolve=Told()), house.process(resolve=Told())
    worker.start()

    tell(web, stage(1))

    eventually(lambda: house.states() == ["done"])
    assert carriers() == {"lane-resolve"}


# -- keeping house ------------------------------------------------------------------------------------------------


def test_what_is_finished_and_old_is_forgotten(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "RENEW_SECONDS", 0.05)
    journal = house.journal()
    long_ago = time.time() - 31 * DAY
    for number in (1, 2):
        journal.record(WEBHOOK, [(stage(number), None)], now=long_ago)
    finished = journal.claim(Lane.RESOLVE, "kommo", 1, now=long_ago)
    journal.settle([Settlement(job, DONE) for job in finished], now=long_ago)
    journal.pause("kommo", time.time() + 200, "so that nothing is carried")
    process = house.process(resolve=("kommo", Told()))
    tell(process, stage(3))

    process.start()

    eventually(lambda: [row["key"] for row in house.rows()] == ["lead:2", "lead:3"])
