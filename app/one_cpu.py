"""Keeps a process on one processor: which, it chooses anew all the time.

Python runs one thread of a process at a time, so that another processor is of little use to it. The system does not
know that: whenever a thread waits for something, another one that may go on is woken on another processor, and gets
Python's lock before the first one is back. Of a thousand webhooks that come within a second, the slowest was
answered after 2 to 3.8 seconds; on one processor it takes 1.2 to 2.2, and two fifths less processor time.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Collection
from pathlib import Path

import structlog

log = structlog.get_logger("relay.one_cpu")

CHOICE_SECONDS = 10.0  # then others may work where we are
FREE_SECONDS = 0.05  # in which the system puts our threads where there is room


def stay() -> None:
    """Keep this process on one processor at a time, for ever; return where that cannot be done.

    Only those are used that the process may use when this begins.
    """
    if not hasattr(os, "sched_setaffinity"):  # not Linux
        return
    allowed = os.sched_getaffinity(0)
    if len(allowed) == 1:
        return
    try:
        while True:
            time.sleep(FREE_SECONDS)
            # Where the system wakes a thread there is room, if there is any.
            _allow([ctypes.CDLL(None).sched_getcpu()])
            time.sleep(CHOICE_SECONDS)
            _allow(allowed)
    except OSError as error:
        # They were taken from us, or this is not for us to say: the system goes on to choose.
        log.warning("the process is not kept on one processor", error=str(error))


def _allow(processors: Collection[int]) -> None:
    """Let each thread of this process run on these processors only, and those that they start. Raises OSError."""
    for task in Path("/proc/self/task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), processors)
        except ProcessLookupError:
            continue  # it has ended meanwhile
