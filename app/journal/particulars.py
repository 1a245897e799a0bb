"""What an event said, and what Kommo knew of it when it was resolved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, select

from app.events import Context, EmailActivity, Kind, StageChange
from app.journal.rows import read_activity, read_context, read_stage_change
from app.journal.tables import events

IDS_A_STATEMENT = 500  # databases take some thousands of values at most
SAID = select(events.c.id, events.c.kind, events.c.occurred_at, events.c.data, events.c.context).where(
    events.c.id.in_(bindparam("event_ids", expanding=True))
)


@dataclass(frozen=True)
class Particulars:
    """`occurred_at`: as the vendor says it. `context`: None where Kommo was not asked, or not yet."""

    occurred_at: float | None
    data: StageChange | EmailActivity
    context: Context | None


def read(connection: Connection, event_ids: Sequence[int]) -> dict[int, Particulars]:
    """Return the particulars of events, by event id."""
    found: dict[int, Particulars] = {}
    for start in range(0, len(event_ids), IDS_A_STATEMENT):
        for row in connection.execute(SAID, {"event_ids": list(event_ids[start : start + IDS_A_STATEMENT])}):
            data = read_stage_change(row.data) if row.kind == Kind.STAGE_CHANGED else read_activity(row.data)
            found[row.id] = Particulars(row.occurred_at, data, read_context(row.context) if row.context else None)
    return found
