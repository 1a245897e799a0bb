"""What the journal says of a run, read from outside."""

from __future__ import annotations

import contextlib
import json
import time

from bench.chaos.load import START
from bench.chaos.processes import Database

OWED = "SELECT count(*) FROM jobs WHERE state = 'pending'"


def wait_until_settled(database: Database, seconds: float) -> int:
    """Wait so many seconds at most until no job is owed; return how many still are, -1 if it never answered."""
    owed = -1
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            owed = int(database.rows(OWED)[0][0])
        if owed == 0:
            break
        time.sleep(0.2)
    return owed


def dead(database: Database) -> list[str]:
    """Return the jobs that were given up: whose, in which lane, why. Raises OSError."""
    rows = database.rows(
        "SELECT events.order_key, jobs.lane, jobs.reason FROM jobs JOIN events ON events.id = jobs.event_id "
        "WHERE jobs.state = 'dead'"
    )
    return [" ".join(map(str, row)) for row in rows]


def sent_again(database: Database) -> set[tuple[int, int]]:
    """Return deal and stage of the events at Encharge of which the journal says that they may be there twice.

    Raises OSError.
    """
    rows = database.rows(
        "SELECT events.data FROM jobs JOIN events ON events.id = jobs.event_id "
        "WHERE jobs.lane = 'encharge' AND jobs.steps LIKE '%sent again%'"
    )
    return {(data["lead_id"], data["status_id"] - START) for row in rows for data in [json.loads(row[0])]}
