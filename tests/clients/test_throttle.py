"""The rate limit as its callers feel it: they wait, in one process and over several."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from app.clients.throttle import Throttle
from app.journal import Journal

LIMIT = 20
ABOUT_A_SECOND = 0.85  # a thread may be woken late
ATTEMPTS = 5  # or very late, on a busy machine: one good run of some will do
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


def went(journals: list[Journal], callers: int, calls: int, vendor: str) -> list[float]:
    """Return when the calls of many callers went, all of which call as soon as they may."""
    throttles = [Throttle(journal, vendor, LIMIT) for journal in journals]
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
    def run(vendor: str) -> bool:
        times = went(journals, 10, 5, vendor)
        return shortest(times) >= ABOUT_A_SECOND and times[-1] - times[0] < 30

    assert any(run(f"vendor {number}") for number in range(ATTEMPTS))


def test_what_waited_for_a_slow_disk_does_not_go_together_with_the_next_second(
    journals: list[Journal], path: Path
) -> None:
    def run(vendor: str) -> bool:
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            threading.Timer(0.5, lambda: holder.execute("ROLLBACK")).start()
            return shortest(went(journals, 3 * LIMIT, 1, vendor)) >= ABOUT_A_SECOND

    assert any(run(f"vendor {number}") for number in range(ATTEMPTS))


def test_another_vendor_does_not_wait(journals: list[Journal]) -> None:
    began = time.monotonic()
    for vendor in ("kommo", "encharge", "ortto"):
        Throttle(journals[0], vendor, 0.1).wait()

    assert time.monotonic() - began < 10
