"""The rate limit as its callers feel it: they wait, in one process and over several, the urgent ones less."""

from __future__ import annotations

import os
import re
import sqlite3
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from statistics import median

import nursery
import pytest
from support import eventually

from app.clients.errors import ApiError, Fault
from app.clients.kommo import KommoClient
from app.clients.throttle import Priority, Throttle
from app.events import Turn
from app.journal import Journal
from sandbox.town import Town

ROOT = Path(__file__).parent.parent.parent
LIMIT = 20
ABOUT_A_SECOND = 0.9  # a call that is woken late gives its place up; a moment later it may still be held up
TASKS, STAGES, BACKFILL = Priority
pytestmark = pytest.mark.alone


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journals(path: Path) -> Iterator[list[Journal]]:
    """Two processes on one journal."""
    made = [Journal(f"sqlite:///{path}") for _ in range(2)]
    yield made
    for journal in made:
        journal.close()


def went(journals: list[Journal], callers: int, calls: int) -> list[float]:
    """Return when the calls of many callers went, all of which call as soon as they may."""
    throttles = [Throttle(journal, "kommo", LIMIT, priority) for journal in journals for priority in Priority]
    start = threading.Barrier(callers)

    def call(number: int) -> list[float]:
        start.wait()
        times = []
        for _ in range(calls):
            throttles[number % len(throttles)].wait()
            times.append(time.time())
        return times

    with ThreadPoolExecutor(callers) as pool:
        return sorted(at for times in pool.map(call, range(callers)) for at in times)


def shortest(times: list[float]) -> float:
    """Return the shortest time in which one call more than the limit went."""
    return min(late - early for early, late in zip(times, times[LIMIT:], strict=False))


def test_callers_of_two_processes_share_one_limit(journals: list[Journal]) -> None:
    times = went(journals, callers=12, calls=5)

    assert shortest(times) >= ABOUT_A_SECOND
    assert times[-1] - times[0] < 30


def test_what_waited_for_a_slow_disk_does_not_go_together_with_the_next_second(
    journals: list[Journal], path: Path
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        threading.Timer(0.5, lambda: holder.execute("ROLLBACK")).start()
        times = went(journals, callers=3 * LIMIT, calls=1)

    assert shortest(times) >= ABOUT_A_SECOND


def test_another_vendor_does_not_wait(journals: list[Journal]) -> None:
    began = time.monotonic()
    for vendor in ("kommo", "encharge", "ortto"):
        Throttle(journals[0], vendor, 0.1, TASKS).wait()

    assert time.monotonic() - began < 10


CALLER = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from app.clients.throttle import Priority, Throttle
from app.journal import Journal

url, limit, priority, threads = sys.argv[1], float(sys.argv[2]), Priority[sys.argv[3]], int(sys.argv[4])
journal = Journal(url)
throttle = Throttle(journal, "kommo", limit, priority)

def call(_):
    asked = time.time()
    throttle.wait()
    return asked, time.time()

print("ready", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(threads) as pool:
    for times in pool.map(call, range(10 * threads)):
        print(*times)
journal.close()
"""


class Caller:
    """A process whose threads make ten calls each in a row once it is told to."""

    def __init__(self, folder: Path, url: str, priority: Priority, threads: int) -> None:
        self._said = folder / f"{uuid.uuid4().hex}.txt"
        listens, speaks = os.pipe()
        self._speaks = os.fdopen(speaks, "w")
        command = [sys.executable, "-c", CALLER, url, str(LIMIT), priority.name, str(threads)]
        with os.fdopen(listens) as stdin, self._said.open("w") as stdout:
            self._process = nursery.Process(command, cwd=ROOT, env={}, stdin=stdin, stdout=stdout)
        eventually(lambda: self._said.read_text().startswith("ready"))

    def call(self, wait: float) -> list[tuple[float, float]]:
        """Have it call after a while; return when it asked and when each call went."""
        time.sleep(wait)
        with self._speaks:
            self._speaks.write("go\n")
        assert self._process.wait(90) == 0
        _, *lines = self._said.read_text().splitlines()
        return [(float(asked), float(at)) for asked, at in map(str.split, lines)]


def test_processes_keep_one_limit_and_the_urgent_one_goes_first(database_url: str, tmp_path: Path) -> None:
    """A backfill of ten threads in two processes wants all there is; a third process has ten tasks to write."""
    busy = [Caller(tmp_path, database_url, BACKFILL, 5) for _ in range(2)]
    urgent = Caller(tmp_path, database_url, TASKS, 1)
    with ThreadPoolExecutor(3) as pool:
        heard = [pool.submit(one.call, wait=1.0 if one is urgent else 0.0) for one in (urgent, *busy)]
        tasks, *backfills = [future.result() for future in heard]
    backfill = [at for calls in backfills for _, at in calls]

    times = sorted([*backfill, *(at for _, at in tasks)])
    assert len(times) == 110
    assert shortest(times) >= ABOUT_A_SECOND
    # In the order of asking, ten others would go before each task.
    before = [sum(asked < other < at for other in backfill) for asked, at in tasks]
    assert median(before) <= 4, before


def test_one_refusal_by_kommo_slows_all_its_clients_down(journals: list[Journal], town: Town) -> None:
    """Others use the account so much that nothing is left of the seven calls a second, until they stop."""
    town.kommo.switch(others=7.0)
    tasks, stages = Throttle(journals[0], "kommo", 7, TASKS), Throttle(journals[1], "kommo", 7, STAGES)
    writer = KommoClient(town.kommo.url, town.kommo.token, throttle=tasks.wait, refused=tasks.refused)
    reader = writer.paced(stages.wait, stages.refused)

    def read(client: KommoClient) -> str:
        try:
            client.leads([1])
        except ApiError as error:
            return str(error)
        return "read"

    results = [read(writer) for _ in range(8)]
    assert results[:7] == ["read"] * 7
    assert results[7].startswith("Kommo: GET /leads/1 answered 429")

    # In its own words it wants no calls for five minutes: it gets none, whoever wants to call.
    assert re.fullmatch(r"Kommo: not asked: it wants no calls for \d+ s, after too many", read(reader))
    assert town.kommo.count() == 8
    town.kommo.switch(others=0.0)
    later = time.time() + 300
    went = [journals[1].let_go("kommo", 7, TASKS, str(number), now=later).at for number in range(4)]
    assert went == [later, later, later, pytest.approx(later + 3 * 1.08 / 3.5, abs=0.1)]


# -- on a clock of its own ----------------------------------------------------------------------------------------


class Desk:
    """A booking that says what it is told to, on a clock that only sleeping moves, and `slow` answers."""

    def __init__(self, *turns: Turn, later: Callable[[float], float | None] = lambda at: at) -> None:
        self.now = 1000.0
        self.slow: list[float] = []
        self.asked: list[float] = []
        self._turns = list(turns)
        self._later = later
        self._last = 0.0

    def let_go(
        self, vendor: str, per_second: float, priority: Priority, holder: str, *, now: float, ahead: float
    ) -> Turn:
        self.asked.append(now + ahead)
        self.now += self.slow.pop(0) if self.slow else 0.0
        turn = self._turns.pop(0) if self._turns else Turn(now + ahead)
        self._last = turn.at
        return turn

    def turn_of(self, vendor: str, holder: str) -> float | None:
        return self._later(self._last)

    def slow_down(self, vendor: str, per_second: float, *, retry_after: float, now: float) -> float | None:
        self.asked.append(retry_after)
        return None

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def throttle(self) -> Throttle:
        return Throttle(self, "kommo", 7, TASKS, clock=lambda: self.now, sleep=self.sleep)


def test_a_call_waits_for_its_place() -> None:
    desk = Desk(Turn(1000.5))
    desk.throttle().wait()

    assert (desk.now, len(desk.asked)) == (1000.5, 1)


def test_a_call_whose_place_was_taken_goes_in_its_later_one() -> None:
    desk = Desk(Turn(1000.5), later=lambda at: 1000.8)
    desk.throttle().wait()

    assert (desk.now, len(desk.asked)) == (1000.8, 1)


def test_a_place_that_is_gone_is_asked_for_again() -> None:
    desk = Desk(Turn(1000.5), later=lambda at: None)
    desk.throttle().wait()

    assert desk.asked == [1000.0, 1000.5]


@pytest.mark.parametrize(("taken", "again"), [(True, True), (False, False)])
def test_a_taken_place_counts_only_if_it_was_heard_of_before_its_time(*, taken: bool, again: bool) -> None:
    """Who had it may have gone by then. One's own place may be heard of a moment late."""
    desk = Desk(Turn(1000.5, taken=taken))
    desk.slow = [0.49]
    desk.throttle().wait()

    assert (len(desk.asked) == 2) == again


def test_who_is_told_or_woken_too_late_gives_the_place_up() -> None:
    told_late, woken_late = Desk(Turn(1000.0)), Desk(Turn(1000.5))
    told_late.slow = [0.1]
    told_late.throttle().wait()
    woken_late.sleep = lambda seconds: setattr(woken_late, "now", woken_late.now + seconds + 0.1)  # type: ignore[method-assign]
    woken_late.throttle().wait()

    assert told_late.asked == [1000.0, pytest.approx(1000.3)]  # twice what it took is booked ahead
    assert woken_late.asked == [1000.0, pytest.approx(1000.6)]


def test_nothing_is_asked_while_the_vendor_wants_no_calls() -> None:
    desk = Desk(Turn(1240.0, closed=True))

    with pytest.raises(
        ApiError, match=r"^Kommo: not asked: it wants no calls for 240 s, after too many$"
    ) as caught:
        desk.throttle().wait()

    error = caught.value
    assert (error.fault, error.vendor, error.retry_after, error.ambiguous) == (Fault.PASSING, "kommo", 240.0, False)


def test_a_refusal_without_a_time_closes_for_none() -> None:
    desk = Desk()
    desk.throttle().refused(None)
    desk.throttle().refused(30.0)

    assert desk.asked == [0.0, 30.0]
