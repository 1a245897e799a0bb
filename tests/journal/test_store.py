"""The journal on real databases: what is recorded, who gets which job, what is settled, paused and forgotten."""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from databases import run_sql
from journal_events import CONTEXT, NOW, RESPONSE, WEBHOOK, claim, click, keys, news, owed, record, stage
from sqlalchemy import Engine
from sqlalchemy import event as sqlalchemy_event

from app.events import DONE, HELD, Job, Lane, Outcome, Owed, Priority, Repeat, State, Step, Turn, skipped
from app.journal import Journal, JournalError, Pause, Recorded, Settlement, schema
from app.journal.store import LEASE_SECONDS

HOUR, DAY = 3600.0, 86400.0
GENEROUS_SECONDS = 30


# About SQLite's files and plans.
only_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def path(database_url: str) -> Path:
    """Where SQLite's file lies."""
    return Path(database_url.removeprefix("sqlite:///"))


@pytest.fixture
def open_journal(database_url: str) -> Iterator[Callable[[], Journal]]:
    """Open the journal once more, as another process would."""
    opened: list[Journal] = []

    def open_one() -> Journal:
        opened.append(Journal(database_url))
        return opened[-1]

    yield open_one
    for journal in opened:
        journal.close()


@pytest.fixture
def journal(open_journal: Callable[[], Journal]) -> Journal:
    return open_journal()


@pytest.fixture
def other(open_journal: Callable[[], Journal], journal: Journal) -> Journal:
    return open_journal()


def settle(
    journal: Journal, job: Job, outcome: Outcome = DONE, *, now: float = NOW, **how: Any
) -> list[Settlement]:
    return journal.settle([Settlement(job, outcome, **how)], now=now)


def again(journal: Journal, job: Job, due_at: float, reason: str = "no answer") -> list[Settlement]:
    """Leave a job to be tried again."""
    return settle(journal, job, Outcome(State.PENDING, reason), due_at=due_at, failed=True)


def lanes_jobs(journal: Journal, lane: Lane, *leads: int) -> list[Job]:
    """Record deals, resolve them into jobs of a lane and claim those."""
    record(journal, *(stage(lead) for lead in leads))
    for job in claim(journal):
        settle(journal, job, Outcome(State.DONE, owed=(owed(lane, int(job.order_key[5:])),)))
    return claim(journal, lane=lane)


# -- record -----------------------------------------------------------------------------------------------------


def test_what_is_recorded_is_claimed_as_it_was(journal: Journal) -> None:
    events = [stage(41500011, "a"), click("zoe@example.com", "b")]

    recorded = record(journal, *events)

    assert recorded == [
        Recorded(replace(events[0], id=1, received_at=NOW)),
        Recorded(replace(events[1], id=2, received_at=NOW)),
    ]
    assert claim(journal) == [
        Job(1, Lane.RESOLVE, recorded[0].event, "lead:41500011", attempts=0, created_at=NOW),
        Job(2, Lane.RESOLVE, recorded[1].event, "email:zoe@example.com", attempts=0, created_at=NOW),
    ]


def test_a_webhooks_body_is_kept_byte_by_byte(journal: Journal, database_url: str) -> None:
    body = bytes(range(256))

    journal.record(replace(WEBHOOK, body=body), [(stage(1), None), (stage(2), None)], now=NOW)

    assert run_sql(database_url, "SELECT source, content_type, body, received_at FROM webhooks") == [
        ("kommo", "application/x-www-form-urlencoded", body, NOW)
    ]


def test_the_same_dedupe_key_finds_the_first_event(journal: Journal, other: Journal, database_url: str) -> None:
    first = record(journal, stage(1, "a"))

    assert record(other, stage(1, "a"), stage(2, "b"), stage(2, "b"), now=NOW + 99) == [
        Recorded(replace(stage(1, "a"), id=first[0].event.id), duplicate=True),
        Recorded(replace(stage(2, "b"), id=2, received_at=NOW + 99)),
        Recorded(replace(stage(2, "b"), id=2), duplicate=True),
    ]
    assert keys(claim(journal, now=NOW + 99)) == ["lead:1", "lead:2"]


def test_a_webhook_of_nothing_but_duplicates_is_not_kept(journal: Journal, database_url: str) -> None:
    record(journal, stage(1, "a"))

    record(journal, stage(1, "a"))

    assert run_sql(database_url, "SELECT count(*) FROM webhooks") == [(1,)]


def test_events_without_a_key_are_never_the_same(journal: Journal) -> None:
    recorded = record(journal, stage(1), stage(1))

    assert [(item.event.id, item.duplicate) for item in recorded] == [(1, False), (2, False)]


def test_one_event_sent_many_times_at_once_is_recorded_once(
    journal: Journal, other: Journal, database_url: str
) -> None:
    start = threading.Barrier(20)

    def send(number: int) -> Recorded:
        start.wait()
        return record([journal, other][number % 2], stage(1, "a"))[0]

    with ThreadPoolExecutor(20) as pool:
        recorded = list(pool.map(send, range(20)))

    assert sorted(item.duplicate for item in recorded) == [False] + [True] * 19
    assert {item.event.id for item in recorded} == {1}
    assert run_sql(database_url, "SELECT count(*) FROM jobs") == [(1,)]


def test_what_was_refused_from_the_start_is_kept_but_not_owed(journal: Journal, database_url: str) -> None:
    recorded = journal.record(WEBHOOK, [(stage(1), "stage 61000102 is not mapped"), (stage(2), None)], now=NOW)

    assert [item.refused for item in recorded] == ["stage 61000102 is not mapped", ""]
    assert keys(claim(journal)) == ["lead:2"]
    assert run_sql(database_url, "SELECT state, reason, settled_at FROM jobs WHERE event_id = 1") == [
        ("skipped", "stage 61000102 is not mapped", NOW)
    ]


A, B = ("kommo:lead:1", "61000101"), ("kommo:lead:1", "61000102")
ELSEWHERE = ("kommo:lead:2", "61000101")


@pytest.mark.parametrize(
    ("came", "repeats"),
    [
        pytest.param([(A, 0), (A, 1)], [False, True], id="the same again"),
        pytest.param([(A, 0), (A, 599)], [False, True], id="within the window"),
        pytest.param([(A, 0), (A, 600)], [False, False], id="after the window"),
        pytest.param(
            [(A, 0), (A, 400), (A, 800)], [False, True, False], id="a repeat does not lengthen the window"
        ),
        pytest.param([(A, 0), (B, 1), (A, 2)], [False, False, False], id="another stage in between"),
        pytest.param([(A, 0), (B, 1), (B, 2), (A, 3)], [False, False, True, False], id="and its repeat"),
        pytest.param([(A, 0), (ELSEWHERE, 1), (A, 2)], [False, False, True], id="another deal in between"),
    ],
)
def test_an_event_without_an_id_repeats_only_the_latest_of_its_scope(
    journal: Journal, came: list[tuple[tuple[str, str], float]], repeats: list[bool]
) -> None:
    recorded = [
        record(journal, stage(1, repeat=Repeat(scope, fingerprint, 600)), now=NOW + at)[0]
        for (scope, fingerprint), at in came
    ]

    assert [item.duplicate for item in recorded] == repeats
    firsts = {}
    for item, ((scope, fingerprint), _) in zip(recorded, came, strict=True):
        if not item.duplicate:
            firsts[scope, fingerprint] = item.event.id
        assert item.event.id == firsts[scope, fingerprint]


def test_the_window_is_that_of_the_later_event(journal: Journal) -> None:
    def came(seconds: int, at: float) -> bool:
        return record(journal, stage(1, repeat=Repeat("s", "f", seconds)), now=NOW + at)[0].duplicate

    assert [came(10, 0), came(600, 100), came(10, 200)] == [False, True, False]


def test_a_repeat_is_found_within_one_webhook(journal: Journal) -> None:
    repeat = Repeat("s", "f", 600)

    recorded = record(journal, stage(1, repeat=repeat), stage(1, repeat=repeat))

    assert [(item.event.id, item.duplicate) for item in recorded] == [(1, False), (1, True)]


# -- claim ------------------------------------------------------------------------------------------------------


def test_the_oldest_come_first_up_to_the_limit(journal: Journal) -> None:
    record(journal, *(stage(lead) for lead in (5, 3, 5, 4)))

    assert keys(claim(journal, 3)) == ["lead:5", "lead:3", "lead:5"]
    assert keys(claim(journal, 3)) == ["lead:4"]
    assert claim(journal) == []


def test_a_lane_hands_out_its_own_jobs_only(journal: Journal) -> None:
    jobs = lanes_jobs(journal, Lane.KOMMO, 1)
    record(journal, stage(2))

    assert [(job.lane, job.plan) for job in jobs] == [(Lane.KOMMO, RESPONSE)]
    assert keys(claim(journal)) == ["lead:2"]
    assert claim(journal, lane=Lane.ORTTO) == []


def test_a_waiting_job_holds_back_its_key_and_nothing_else(journal: Journal) -> None:
    record(journal, stage(1), stage(1), stage(2))
    first, *_ = claim(journal, 1)
    again(journal, first, NOW + 60)

    [unblocked] = claim(journal)
    assert unblocked.order_key == "lead:2"
    settle(journal, unblocked)
    assert claim(journal, now=NOW + 59) == []
    later = claim(journal, now=NOW + 60)
    assert [(job.id, job.attempts) for job in later] == [(1, 1), (2, 0)]


def test_a_job_in_other_hands_holds_back_its_key_and_nothing_else(journal: Journal, other: Journal) -> None:
    record(journal, stage(1), stage(1), stage(2))
    mine = claim(journal, 1)

    assert keys(claim(other)) == ["lead:2"]
    settle(journal, mine[0])
    assert [job.id for job in claim(other)] == [2]


def test_a_dead_job_lets_the_next_one_go(journal: Journal) -> None:
    record(journal, stage(1), stage(1))
    first, *_ = claim(journal, 1)
    settle(journal, first, Outcome(State.DEAD, "refused"))

    assert [job.id for job in claim(journal)] == [2]


def test_a_waiting_job_of_one_lane_holds_back_no_other_lane(journal: Journal) -> None:
    job, *_ = lanes_jobs(journal, Lane.ORTTO, 1)
    again(journal, job, NOW + 60)
    record(journal, stage(1))

    assert keys(claim(journal)) == ["lead:1"]


def test_nothing_is_claimed_twice_however_many_try(journal: Journal, other: Journal) -> None:
    record(journal, *(stage(lead) for lead in range(200)))
    start = threading.Barrier(16)

    def take(number: int) -> list[int]:
        start.wait()
        taken = []
        while jobs := claim([journal, other][number % 2], 7):
            taken += [job.id for job in jobs]
        return taken

    with ThreadPoolExecutor(16) as pool:
        taken = [job_id for jobs in pool.map(take, range(16)) for job_id in jobs]

    assert sorted(taken) == list(range(1, 201))


def test_a_lease_that_is_over_can_be_claimed_by_another_process(journal: Journal, other: Journal) -> None:
    record(journal, stage(1))
    claimed = claim(journal)

    assert claim(other, now=NOW + LEASE_SECONDS - 0.1) == []
    assert claim(other, now=NOW + LEASE_SECONDS) == claimed


def test_a_lease_that_is_over_by_the_clock_alone_is_left_and_not_overtaken(
    journal: Journal, other: Journal
) -> None:
    record(journal, stage(1), stage(1), stage(2))
    claim(journal, 1)

    claimed = other.claim(Lane.RESOLVE, "kommo", 250, now=NOW + LEASE_SECONDS, take_over=False)

    assert keys(claimed) == ["lead:2"]


def test_released_jobs_can_be_claimed_at_once(journal: Journal, other: Journal) -> None:
    record(journal, stage(1), stage(2))
    held = claim(journal, 1)
    kept = claim(other, 1)

    # What another claim holds is not this one's to release.
    journal.release([*held, *(replace(job, token=held[0].token) for job in kept)])

    assert keys(claim(other)) == ["lead:1"]
    assert len(settle(other, kept[0])) == 1


def test_a_hurried_lane_tries_again_at_once_what_has_failed(journal: Journal) -> None:
    record(journal, stage(1), stage(2))
    failed, held = claim(journal)
    again(journal, failed, NOW + HOUR)
    settle(journal, held, HELD, due_at=NOW + HOUR)
    other_lane, *_ = lanes_jobs(journal, Lane.ORTTO, 3)
    again(journal, other_lane, NOW + HOUR)

    journal.hurry(Lane.RESOLVE, now=NOW)

    assert keys(claim(journal)) == ["lead:1"]
    assert claim(journal, lane=Lane.ORTTO) == []


def test_a_renewed_lease_goes_on(journal: Journal, other: Journal) -> None:
    record(journal, stage(1), stage(2))
    claimed = claim(journal)

    journal.renew(claimed[:1], now=NOW + 50)

    assert keys(claim(other, now=NOW + 50 + LEASE_SECONDS - 0.1)) == ["lead:2"]


def test_a_lease_that_was_lost_is_not_renewed(journal: Journal, other: Journal) -> None:
    record(journal, stage(1))
    claimed = claim(journal)
    claim(other, now=NOW + LEASE_SECONDS)

    journal.renew(claimed, now=NOW + 10 * LEASE_SECONDS)

    assert keys(claim(journal, now=NOW + 2 * LEASE_SECONDS)) == ["lead:1"]


def test_nothing_is_claimed_while_the_vendor_is_paused(journal: Journal, other: Journal) -> None:
    record(journal, stage(1))
    other.pause("kommo", NOW + 30, "429")

    assert claim(journal, now=NOW + 29.9) == []
    assert journal.claim(Lane.RESOLVE, "ortto", 9, now=NOW) != []
    record(journal, stage(2))
    assert keys(claim(journal, now=NOW + 30)) == ["lead:2"]


def test_next_due_is_when_a_job_is_due_or_its_lease_ends(journal: Journal) -> None:
    assert journal.next_due(Lane.RESOLVE) is None
    record(journal, stage(1), stage(2))
    assert journal.next_due(Lane.RESOLVE) == NOW
    first, second = claim(journal)
    assert journal.next_due(Lane.RESOLVE) == NOW + LEASE_SECONDS
    again(journal, first, NOW + 7)
    assert journal.next_due(Lane.RESOLVE) == NOW + 7
    settle(journal, first)  # no longer ours: nothing happens
    settle(journal, second)
    assert journal.next_due(Lane.RESOLVE) == NOW + 7
    assert journal.next_due(Lane.ORTTO) is None


def test_the_longest_waiting_due_job_is_known(journal: Journal) -> None:
    record(journal, stage(1), now=NOW + 5)
    record(journal, stage(2), now=NOW)

    assert [journal.oldest_due({}, now=at) for at in (NOW - 1, NOW, NOW + 9)] == [None, NOW, NOW]


# -- settle -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "how", "row"),
    [
        pytest.param(DONE, {}, ("done", "", 0, NOW, NOW + 3), id="done"),
        pytest.param(skipped("no email"), {}, ("skipped", "no email", 0, NOW, NOW + 3), id="skipped"),
        pytest.param(Outcome(State.DEAD, "422"), {}, ("dead", "422", 0, NOW, NOW + 3), id="dead"),
        pytest.param(
            Outcome(State.PENDING, "500"),
            {"due_at": NOW + 60, "failed": True},
            ("pending", "500", 1, NOW + 60, None),
            id="tried again",
        ),
        pytest.param(
            HELD,
            {"due_at": NOW + 3},
            ("pending", "waits for an earlier one of its key", 0, NOW + 3, None),
            id="held back: no fault of its own",
        ),
    ],
)
def test_a_job_is_left_as_it_was_settled(
    journal: Journal, database_url: str, outcome: Outcome, how: dict[str, Any], row: tuple[Any, ...]
) -> None:
    record(journal, stage(1))
    settlement = Settlement(claim(journal)[0], outcome, **how)

    assert journal.settle([settlement], now=NOW + 3) == [settlement]
    assert run_sql(
        database_url, "SELECT state, reason, attempts, due_at, settled_at, owner, lease_until FROM jobs"
    ) == [(*row, None, 0.0)]


def test_a_job_that_another_process_has_taken_over_is_not_settled(
    journal: Journal, other: Journal, database_url: str
) -> None:
    record(journal, stage(1), stage(2))
    lost, kept = claim(journal)
    settle(journal, kept, Outcome(State.PENDING, ""), due_at=NOW + DAY)
    (taken,) = claim(other, now=NOW + LEASE_SECONDS)
    outcome = Outcome(State.DONE, context=CONTEXT, owed=(owed(Lane.ORTTO, 1),))

    assert settle(journal, lost, outcome, now=NOW + LEASE_SECONDS) == []
    assert journal.write_steps({lost.id: {"event": Step(finished=True)}}, lost.token) == set()
    assert run_sql(database_url, "SELECT id, lane, state, steps FROM jobs ORDER BY id") == [
        (1, "resolve", "pending", "{}"),
        (2, "resolve", "pending", "{}"),
    ]
    assert run_sql(database_url, "SELECT context FROM events") == [(None,), (None,)]
    assert len(settle(other, taken, outcome)) == 1


def test_an_earlier_claim_of_the_same_process_writes_nothing_either(journal: Journal) -> None:
    record(journal, stage(1))
    (earlier,) = claim(journal)
    journal.release([earlier])
    (later,) = claim(journal)

    assert journal.write_steps({earlier.id: {"event": Step(finished=True)}}, earlier.token) == set()
    assert not journal.renew([earlier], now=NOW)
    assert settle(journal, earlier) == []
    assert len(settle(journal, later)) == 1


def test_a_job_is_settled_once(journal: Journal) -> None:
    record(journal, stage(1))
    job, *_ = claim(journal)

    assert len(settle(journal, job, Outcome(State.DEAD, "422"))) == 1
    assert settle(journal, job) == []
    assert again(journal, job, NOW) == []


def test_a_lease_that_is_over_but_was_not_taken_is_still_ours(journal: Journal) -> None:
    record(journal, stage(1))
    job, *_ = claim(journal)

    assert len(settle(journal, job, now=NOW + 10 * LEASE_SECONDS)) == 1


def test_what_was_found_and_what_follows_come_with_the_settlement(journal: Journal, database_url: str) -> None:
    record(journal, stage(41500011))
    job, *_ = claim(journal)
    follows = (owed(Lane.ENCHARGE, 41500011), owed(Lane.ORTTO, 41500011), owed(Lane.KOMMO, 41500011))

    settle(journal, job, Outcome(State.DONE, context=CONTEXT, owed=follows), now=NOW + 1)

    claimed = [claim(journal, lane=item.lane, now=NOW + 1) for item in follows]
    event = replace(job.event)
    assert claimed == [
        [Job(2, Lane.ENCHARGE, event, "lead:41500011", 0, NOW + 1, news(41500011))],
        [Job(3, Lane.ORTTO, event, "lead:41500011", 0, NOW + 1, news(41500011))],
        [Job(4, Lane.KOMMO, event, "lead:41500011", 0, NOW + 1, RESPONSE)],
    ]
    [(context,)] = run_sql(database_url, "SELECT context FROM events")
    assert '"name":"Order"' in context


def test_a_settlement_that_cannot_be_written_leaves_nothing_behind_but_a_dead_job(
    journal: Journal, database_url: str
) -> None:
    """Two jobs of one event in one lane cannot be: the second insert fails after the first has been made."""
    record(journal, stage(1))
    job, *_ = claim(journal)
    twice = Outcome(State.DONE, context=CONTEXT, owed=(owed(Lane.ORTTO, 1), owed(Lane.ORTTO, 1)))

    settle(journal, job, twice)

    assert run_sql(database_url, "SELECT state, context FROM jobs JOIN events ON events.id = event_id") == [
        ("dead", None)
    ]


# -- steps and cooldowns ----------------------------------------------------------------------------------------


def test_steps_are_there_for_the_next_attempt(journal: Journal, other: Journal) -> None:
    jobs = lanes_jobs(journal, Lane.KOMMO, 1, 2)
    steps = {"task": Step(finished=True, note="6900031"), "note": Step(finished=False)}

    ledgers = {jobs[0].id: steps, jobs[1].id: {}, 999: steps}
    assert journal.write_steps(ledgers, jobs[0].token) == {jobs[0].id, jobs[1].id}
    taken_over = claim(other, lane=Lane.KOMMO, now=NOW + LEASE_SECONDS)
    assert [job.steps for job in taken_over] == [steps, {}]


@pytest.fixture
def tasks(journal: Journal) -> list[Job]:
    return lanes_jobs(journal, Lane.KOMMO, *range(1, 21))


def test_a_cooldown_is_claimed_by_exactly_one_of_many(journal: Journal, other: Journal, tasks: list[Job]) -> None:
    start = threading.Barrier(20)

    def attempt(number: int) -> bool:
        start.wait()
        return [journal, other][number % 2].claim_cooldown("task:lead:1", tasks[number], DAY, now=NOW)

    with ThreadPoolExecutor(20) as pool:
        claimed = list(pool.map(attempt, range(20)))

    assert sorted(claimed) == [False] * 19 + [True]


def test_a_cooldown_is_its_holders_until_it_ends(journal: Journal, other: Journal, tasks: list[Job]) -> None:
    def attempt(number: int, at: float, key: str = "task:lead:1") -> bool:
        return [journal, other][number].claim_cooldown(key, tasks[number], DAY, now=NOW + at)

    assert attempt(0, 0)
    assert not attempt(1, 1)
    assert attempt(1, 1, "task:lead:2")
    assert attempt(0, 2), "its holder may claim it again"
    assert not attempt(1, DAY + 1.9), "which begins it anew"
    assert attempt(1, DAY + 2)
    assert not attempt(0, DAY + 3)


def test_a_cooldown_is_given_back_by_its_holder_only(journal: Journal, tasks: list[Job]) -> None:
    journal.claim_cooldown("task:lead:1", tasks[0], DAY, now=NOW)
    journal.claim_cooldown("task:lead:2", tasks[0], DAY, now=NOW)

    journal.free_cooldown("task:lead:1", tasks[1])
    assert not journal.claim_cooldown("task:lead:1", tasks[2], DAY, now=NOW)

    journal.free_cooldown("task:lead:1", tasks[0])
    assert journal.claim_cooldown("task:lead:1", tasks[2], DAY, now=NOW)
    assert not journal.claim_cooldown("task:lead:2", tasks[2], DAY, now=NOW)


@pytest.mark.parametrize("outcome", [Outcome(State.DEAD, "400"), DONE, Outcome(State.PENDING, "500")])
def test_settling_gives_no_cooldown_back(journal: Journal, tasks: list[Job], outcome: Outcome) -> None:
    """A task may have been made although the job is dead for its note."""
    journal.claim_cooldown("task:lead:1", tasks[0], DAY, now=NOW)

    settle(journal, tasks[0], outcome, due_at=NOW)

    assert not journal.claim_cooldown("task:lead:1", tasks[2], DAY, now=NOW)


# -- vendors ----------------------------------------------------------------------------------------------------


def test_a_pause_is_seen_by_all_and_never_shortened(journal: Journal, other: Journal) -> None:
    journal.pause("kommo", NOW + 300, "403: blocked")
    other.pause("kommo", NOW + 30, "429: slow down")
    other.pause("ortto", NOW + 10, "504")

    assert journal.pauses(now=NOW) == {
        "kommo": Pause(NOW + 300, "403: blocked"),
        "ortto": Pause(NOW + 10, "504"),
    }
    assert journal.pauses(now=NOW + 10) == {"kommo": Pause(NOW + 300, "403: blocked")}
    other.pause("kommo", NOW + 301, "403: still blocked")
    assert other.pauses(now=NOW + 300) == {"kommo": Pause(NOW + 301, "403: still blocked")}
    assert journal.pauses(now=NOW + 301) == {}


def test_a_pause_and_the_calls_of_a_vendor_do_not_undo_each_other(journal: Journal) -> None:
    let_go(journal, per_second=1)
    journal.pause("kommo", NOW + 30, "429")

    assert let_go(journal, per_second=1).at == pytest.approx(NOW + 1.08)
    assert journal.pauses(now=NOW) == {"kommo": Pause(NOW + 30, "429")}


def test_calls_go_at_once_up_to_the_limit_and_then_wait(journal: Journal) -> None:
    went = [round(let_go(journal).at - NOW, 3) for _ in range(16)]

    assert went == [0.0] * 7 + [1.08] * 7 + [2.16] * 2
    assert let_go(journal, "ortto").at == NOW


@pytest.mark.parametrize(("per_second", "n", "window"), [(7, 7, 1.0), (1, 1, 1.0), (0.5, 1, 2.0), (2.5, 2, 0.8)])
def test_no_window_ever_sees_more_calls_than_the_limit(
    journal: Journal, other: Journal, per_second: float, n: int, window: float
) -> None:
    """Two processes with many threads, whose clocks differ, each calling again as soon as it may."""
    start = threading.Barrier(12)
    turns = min(10, int(4 * per_second))  # a minute's calls at most: what is booked further ahead is not believed

    def call(number: int) -> list[float]:
        start.wait()
        skew = [0.0, -0.7, 0.4][number % 3]
        times = [NOW]
        for _ in range(turns):
            turn = let_go([journal, other][number % 2], per_second=per_second, now=times[-1] + skew)
            times.append(turn.at)
        return times[1:]

    with ThreadPoolExecutor(12) as pool:
        went = sorted(at for times in pool.map(call, range(12)) for at in times)

    assert min(late - early for early, late in zip(went, went[n:], strict=False)) >= window
    # And it wastes nothing: all went about as soon as the limit allows.
    assert went[-1] - went[0] <= 12 * turns / n * window * 1.05 + 3


def test_a_more_urgent_call_takes_the_place_of_another_process(journal: Journal, other: Journal) -> None:
    for _ in range(7):
        let_go(journal, priority=Priority.BACKFILL)
    waiting = let_go(journal, priority=Priority.BACKFILL, holder="backfill")

    urgent = let_go(other, holder="task", now=NOW + 0.95)

    assert (urgent.at, urgent.taken) == (waiting.at, True)
    assert other.turn_of("kommo", "task") == waiting.at
    assert journal.turn_of("kommo", "backfill") == pytest.approx(waiting.at + 1.08 / 7)
    assert journal.turn_of("kommo", "nobody") is None


def test_a_refusal_slows_all_processes_down(journal: Journal, other: Journal) -> None:
    let_go(journal, holder="before")
    assert journal.slow_down("kommo", 7, retry_after=20, now=NOW + 1) == 3.5
    assert other.slow_down("kommo", 7, retry_after=20, now=NOW + 1.5) is None

    turn = let_go(other, now=NOW + 2)
    assert (turn.at, turn.closed) == (NOW + 21.5, True)
    assert journal.turn_of("kommo", "before") is None
    went = [let_go([journal, other][number % 2], now=NOW + 21.5).at - NOW - 21.5 for number in range(4)]
    assert went == [0.0, 0.0, 0.0, pytest.approx(3 * 1.08 / 3.5)]


def let_go(
    journal: Journal,
    vendor: str = "kommo",
    *,
    per_second: float = 7,
    priority: Priority = Priority.TASKS,
    holder: str = "",
    now: float = NOW,
) -> Turn:
    return journal.let_go(vendor, per_second, priority, holder or uuid.uuid4().hex, now=now)


# -- purge ------------------------------------------------------------------------------------------------------


def test_old_events_are_forgotten_with_their_bodies_except_what_is_owed(
    journal: Journal, database_url: str
) -> None:
    record(journal, stage(1, "done"))
    record(journal, stage(2, "owed"))
    record(journal, stage(3, "dead"), stage(4, "half"))
    record(journal, stage(5, "new"), now=NOW + DAY)
    for job in claim(journal):
        if job.order_key in ("lead:1", "lead:3"):
            settle(journal, job, Outcome(State.DEAD if job.order_key == "lead:3" else State.DONE))
        elif job.order_key == "lead:4":
            settle(journal, job, Outcome(State.DONE, owed=(owed(Lane.ORTTO, 4),)))

    assert journal.purge(NOW + 1) == 2

    assert run_sql(database_url, "SELECT dedupe_key FROM events ORDER BY id") == [("owed",), ("half",), ("new",)]
    assert run_sql(database_url, "SELECT lane, order_key FROM jobs ORDER BY id") == [
        ("resolve", "lead:2"),
        ("resolve", "lead:4"),
        ("resolve", "lead:5"),
        ("ortto", "lead:4"),
    ]
    assert run_sql(database_url, "SELECT id FROM webhooks ORDER BY id") == [(2,), (3,), (4,)]
    assert keys(claim(journal, lane=Lane.ORTTO, now=NOW + LEASE_SECONDS)) == ["lead:4"]


def test_what_was_forgotten_is_new_again(journal: Journal, database_url: str) -> None:
    repeat = Repeat("kommo:lead:1", "61000102", 40 * 86400)
    record(journal, stage(1, "a"), stage(2, repeat=repeat))
    for job in claim(journal):
        settle(journal, job)

    assert journal.purge(NOW + 1) == 2
    assert run_sql(database_url, "SELECT (SELECT count(*) FROM webhooks), (SELECT count(*) FROM cooldowns)") == [
        (0, 0)
    ]
    recorded = record(journal, stage(1, "a"), stage(2, repeat=repeat), now=NOW + DAY)
    assert [item.duplicate for item in recorded] == [False, False]


def test_a_cooldown_outlives_a_purge_until_it_ends(journal: Journal, tasks: list[Job]) -> None:
    journal.claim_cooldown("task:lead:1", tasks[0], DAY, now=NOW)

    journal.purge(NOW + DAY - 1)

    assert not journal.claim_cooldown("task:lead:1", tasks[1], DAY, now=NOW + DAY - 1)


# -- when the database does not do its part ---------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have SQLite wait for a lock for a moment only, so that the tests need not wait either."""
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.2)


@pytest.fixture
def locked(journal: Journal, path: Path) -> Iterator[sqlite3.Connection]:
    """Another program that holds the write lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        yield holder


@only_sqlite
@pytest.mark.usefixtures("impatient", "locked")
@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda journal: record(journal, stage(1)), id="record"),
        pytest.param(lambda journal: journal.check(), id="check"),
        pytest.param(lambda journal: journal.pause("kommo", NOW, "429"), id="pause"),
        pytest.param(lambda journal: let_go(journal), id="let_go"),
        pytest.param(lambda journal: journal.slow_down("kommo", 7, retry_after=0, now=NOW), id="slow_down"),
        pytest.param(lambda journal: journal.write_steps({1: {}}, ""), id="write_steps"),
        pytest.param(lambda journal: journal.settle([], now=NOW), id="settle"),
        pytest.param(lambda journal: journal.purge(NOW), id="purge"),
    ],
)
def test_a_locked_database_is_told_in_time(journal: Journal, write: Callable[[Journal], object]) -> None:
    began = time.monotonic()

    with pytest.raises(JournalError, match=r"^the journal cannot be written: .*database is locked"):
        write(journal)

    assert time.monotonic() - began < 8


@only_sqlite
def test_a_caller_waits_no_longer_than_it_says(journal: Journal, locked: sqlite3.Connection) -> None:
    began = time.monotonic()
    with pytest.raises(JournalError, match=r"^the journal did not commit within 0\.2 s$"):
        journal.record(WEBHOOK, [(stage(1, "a"), None)], now=NOW, seconds=0.2)
    with pytest.raises(JournalError, match=r"^the journal did not commit within 0\.1 s$"):
        journal.check(seconds=0.1)
    assert time.monotonic() - began < 8

    locked.execute("ROLLBACK")

    # It may have been written all the same, and is found by its key if the vendor tries again.
    assert record(journal, stage(1, "a"))[0].event.id == 1
    assert keys(claim(journal)) == ["lead:1"]


@only_sqlite
@pytest.mark.usefixtures("impatient")
def test_it_can_be_read_while_it_is_locked_and_written_afterwards(
    journal: Journal, locked: sqlite3.Connection
) -> None:
    assert journal.pauses(now=NOW) == {}
    assert journal.next_due(Lane.RESOLVE) is None
    with pytest.raises(JournalError):
        record(journal, stage(1))

    locked.execute("ROLLBACK")

    record(journal, stage(1))
    assert keys(claim(journal)) == ["lead:1"]


@only_sqlite
def test_a_journal_whose_tables_are_gone_says_so(journal: Journal, path: Path) -> None:
    with closing(sqlite3.connect(path)) as vandal:
        vandal.execute("PRAGMA foreign_keys = OFF")
        vandal.execute("DROP TABLE jobs")

    with pytest.raises(JournalError, match=r"^the journal cannot be read: .*no such table: jobs"):
        claim(journal)
    with pytest.raises(JournalError, match=r"^the journal cannot be written: .*no such table: jobs"):
        record(journal, stage(1))


# -- the cost of a claim ----------------------------------------------------------------------------------------


@pytest.fixture
def statements() -> Iterator[list[tuple[str, Any]]]:
    """Every statement that goes to any database, with its parameters."""
    seen: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        seen.append((statement, parameters))

    sqlalchemy_event.listen(Engine, "before_cursor_execute", note)
    yield seen
    sqlalchemy_event.remove(Engine, "before_cursor_execute", note)


def plans(path: Path, statements: list[tuple[str, Any]], word: str) -> list[str]:
    """Return SQLite's plan, step by step, of each statement that has a word in it."""
    with closing(sqlite3.connect(path)) as connection:
        return [
            step[3]
            for statement, parameters in statements
            if word in statement
            for step in connection.execute(
                f"EXPLAIN QUERY PLAN {statement}", parameters[0] if isinstance(parameters, list) else parameters
            )
        ]


@only_sqlite
def test_a_claim_looks_only_at_what_is_owed(
    journal: Journal, path: Path, statements: list[tuple[str, Any]]
) -> None:
    """Its cost must not grow with what is finished: SQLite's plan is the same on an old journal and a new one."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO webhooks VALUES (1, 'kommo', '', x'', ?)", (NOW,))
        connection.executemany(
            "INSERT INTO events (id, webhook_id, source, kind, dedupe_key, order_key, received_at, data)"
            " VALUES (?, 1, 'kommo', 'stage_changed', ?, ?, ?, '{\"lead_id\": 1, \"status_id\": 1}')",
            [(number, f"old:{number}", f"lead:{number % 500}", NOW) for number in range(1, 20_001)],
        )
        connection.executemany(
            "INSERT INTO jobs (event_id, lane, order_key, state, due_at, created_at)"
            " VALUES (?, 'resolve', ?, 'done', ?, ?)",
            [(number, f"lead:{number % 500}", NOW, NOW) for number in range(1, 20_001)],
        )
    record(journal, stage(1), stage(1), stage(2))
    statements.clear()

    assert keys(claim(journal)) == ["lead:1", "lead:1", "lead:2"]

    steps = plans(path, statements, "jobs")
    assert {step for step in steps if "jobs" in step or "earlier" in step} <= {
        "SEARCH jobs USING COVERING INDEX jobs_by_due (lane=? AND due_at<?)",
        "SEARCH jobs USING INDEX jobs_by_due (lane=? AND due_at<?)",
        "SEARCH jobs USING INDEX jobs_by_age (lane=?)",
        "SEARCH earlier USING INDEX jobs_by_key (lane=? AND order_key=? AND id<?)",
        "SEARCH jobs USING INTEGER PRIMARY KEY (rowid=?)",
    }
    assert [step for step in steps if "jobs_by_key" in step] != []
    assert [step for step in steps if step.startswith("SCAN")] == []


@only_sqlite
def test_what_is_asked_while_idle_looks_only_at_what_is_owed(
    journal: Journal, path: Path, statements: list[tuple[str, Any]]
) -> None:
    claim(journal)
    journal.next_due(Lane.RESOLVE)
    journal.oldest_due({}, now=NOW)

    steps = plans(path, statements, "FROM jobs")

    assert len(steps) >= 3
    assert [step for step in steps if step.startswith("SCAN")] == []
    assert [step for step in steps if step.startswith("SEARCH") and "INDEX jobs_by_" not in step] == []


@only_sqlite
def test_forgetting_does_not_search_all_events_for_each_webhook(
    journal: Journal, path: Path, statements: list[tuple[str, Any]]
) -> None:
    record(journal, stage(1))
    settle(journal, claim(journal)[0])
    statements.clear()

    journal.purge(NOW + 1)

    steps = plans(path, statements, "DELETE FROM webhooks")
    assert [step for step in steps if "SCAN events" in step or step.startswith("SEARCH events USING AUTO")] == []
    # SQLite looks up the children of each row it deletes, too.
    with closing(sqlite3.connect(path)) as connection:
        children = connection.execute(
            "EXPLAIN QUERY PLAN SELECT 1 FROM events WHERE webhook_id = ?", (1,)
        ).fetchall()
    assert [step[3] for step in children if step[3].startswith("SCAN")] == []


def test_an_outcome_that_can_never_be_written_is_dead_and_the_others_of_its_batch_are_settled(
    journal: Journal,
) -> None:
    record(journal, stage(1), stage(2), stage(3))
    first, second, third = claim(journal)
    twice = Outcome(State.DONE, owed=(Owed(Lane.ORTTO, "lead:2", news(2)), Owed(Lane.ORTTO, "lead:2", news(2))))

    settled = journal.settle([Settlement(first, DONE), Settlement(second, twice), Settlement(third, DONE)], now=NOW)

    assert [item.outcome.state for item in settled] == [State.DONE, State.DEAD, State.DONE]
    assert settled[1].outcome.reason.startswith("internal error: its outcome cannot be written: ")
    assert journal.claim(Lane.ORTTO, "ortto", 10, now=NOW) == []


def test_a_bookmark_is_kept_replaced_dropped_and_forgotten_when_it_is_old(journal: Journal) -> None:
    assert journal.bookmark("backfill:1") is None
    journal.set_bookmark("backfill:1", "page 1", now=NOW)
    journal.set_bookmark("backfill:2", "page 7", now=NOW)
    journal.set_bookmark("backfill:1", "page 2", now=NOW + 1)
    assert (journal.bookmark("backfill:1"), journal.bookmark("backfill:2")) == ("page 2", "page 7")

    journal.drop_bookmark("backfill:1")
    assert (journal.bookmark("backfill:1"), journal.bookmark("backfill:2")) == (None, "page 7")

    journal.purge(NOW)
    assert journal.bookmark("backfill:2") == "page 7"
    journal.purge(NOW + 1)
    assert journal.bookmark("backfill:2") is None
