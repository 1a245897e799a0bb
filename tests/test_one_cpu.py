"""The service keeps to one processor, and leaves it where others work. Real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs
from support import Service, eventually

from app import one_cpu

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="there is one processor"
)

BUSY = "import os, sys\nos.sched_setaffinity(0, [int(sys.argv[1])])\nwhile True: pass"


def processors(service: Service) -> list[set[int]]:
    """Return where each thread of the worker may run."""
    (worker,) = service.workers()
    return [os.sched_getaffinity(thread.id) for thread in worker.threads()]


def kept_on_one(service: Service) -> set[int] | None:
    """Return the processor on which all threads are; None while they may run on several."""
    found = processors(service)
    return found[0] if len(found[0]) == 1 and found == [found[0]] * len(found) else None


@pytest.mark.alone
def test_the_service_keeps_to_one_processor_and_leaves_one_that_is_taken(
    start_service: Callable[..., Service],
) -> None:
    service = start_service({"app.one_cpu.CHOICE_SECONDS": 0.5})
    (first,) = eventually(lambda: kept_on_one(service))
    others = subprocess.Popen([sys.executable, "-c", BUSY, str(first)])
    try:
        eventually(lambda: kept_on_one(service) not in (None, {first}))
    finally:
        others.kill()
        others.wait()


def test_where_it_may_not_choose_it_says_so_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(task: int, processors: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with capture_logs() as said:
        one_cpu.stay()
    assert said == [
        {
            "event": "the process is not kept on one processor",
            "log_level": "warning",
            "error": "[Errno 1] Operation not permitted",
        }
    ]
