"""The rate limit as its callers feel it: they wait, in one process and over several."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from app.clients.throttle import Throttle
from app.journal import Journal


def test_callers_of_two_processes_share_one_limit(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'journal.db'}"
    with closing(Journal(url)) as one, closing(Journal(url)) as other:
        waits: list[Callable[[], None]] = [Throttle(journal, "kommo", 20).wait for journal in (one, other)]

        def call(number: int) -> float:
            waits[number % 2]()
            return time.time()

        with ThreadPoolExecutor(10) as pool:
            went = sorted(pool.map(call, range(50)))

    assert min(late - early for early, late in zip(went, went[20:], strict=False)) >= 1.0
    assert 2.1 <= went[-1] - went[0] < 30


def test_another_vendor_does_not_wait(tmp_path: Path) -> None:
    with closing(Journal(f"sqlite:///{tmp_path / 'journal.db'}")) as journal:
        began = time.monotonic()
        for vendor in ("kommo", "encharge", "ortto"):
            Throttle(journal, vendor, 0.1).wait()

    assert time.monotonic() - began < 10
