"""The journal: every webhook, event and job, written down before anything else. The only SQL of the service."""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import TypeAdapter
from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    delete,
    func,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import SQLAlchemyError

from app.events import (
    Context,
    EmailActivity,
    Event,
    Job,
    Kind,
    Lane,
    Outcome,
    Owed,
    Response,
    Source,
    StageChange,
    StageNews,
    State,
    Step,
    Webhook,
)
from app.journal import schema
from app.journal.errors import JournalError
from app.journal.tables import cooldowns, events, jobs, lanes, webhooks
from app.journal.writer import WRITE_SECONDS, Writer

T = TypeVar("T")

LEASE_SECONDS = 60.0

# Spelled out, not bound: SQLite uses a partial index only for a literal condition.
PENDING: ColumnElement[str] = literal_column("'pending'")

_stage_change = TypeAdapter(StageChange)
_email_activity = TypeAdapter(EmailActivity)
_context = TypeAdapter(Context)
_steps = TypeAdapter(dict[str, Step])
_news = TypeAdapter(StageNews)
_response = TypeAdapter(Response)


@dataclass(frozen=True)
class Recorded:
    """An event as the journal has it: new, or the first one of which this is a duplicate.

    `refused`: why there is nothing to do for it, if that was clear from the start.
    """

    event: Event
    duplicate: bool = False
    refused: str = ""


@dataclass(frozen=True)
class Settlement:
    """How one job is left: settled, or due again at `due_at` (state `pending`), after a failed attempt or not."""

    job: Job
    outcome: Outcome
    due_at: float = 0.0
    failed: bool = False


@dataclass(frozen=True)
class Pause:
    """A vendor that is left alone for a while."""

    until: float
    reason: str


class Journal:
    """One process's hand on the journal. Every method is safe to call from any thread.

    Methods that write return once the change is committed, and raise JournalError if it could not be.
    """

    def __init__(self, url: str) -> None:
        self._engine, self._reader = schema.open_engines(url)
        schema.upgrade(self._engine)
        self._writer = Writer(self._engine)
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    def close(self) -> None:
        """Commit what is under way and let go of the database."""
        self._writer.close()
        self._engine.dispose()
        self._reader.dispose()

    # -- webhooks in ----------------------------------------------------------------------------------------

    def record(
        self,
        webhook: Webhook,
        found: Sequence[tuple[Event, str | None]],
        *,
        now: float,
        committed: Callable[[list[Recorded]], None] = lambda recorded: None,
        seconds: float = WRITE_SECONDS,
    ) -> list[Recorded]:
        """Write down a webhook, its events and their first jobs; duplicates find the event they repeat.

        Each event comes with the reason why nothing needs to be done for it, or None. `committed` hears what was
        recorded before any job of it can be claimed by this process.
        """

        def work(connection: Connection) -> list[Recorded]:
            webhook_id: int | None = None
            recorded = []
            for event, refusal in found:
                first = _repeated(connection, event, now)
                if first is None:
                    webhook_id = webhook_id or _insert_webhook(connection, webhook, now)
                    event_id = _insert_event(connection, event, webhook_id, now)
                    _insert_job(connection, event_id, Lane.RESOLVE, event.order_key, now, refusal=refusal)
                    recorded.append(Recorded(replace(event, id=event_id, received_at=now), refused=refusal or ""))
                else:
                    recorded.append(Recorded(replace(event, id=first), duplicate=True))
            return recorded

        return self._writer.run(work, committed=committed, seconds=seconds)

    # -- jobs -----------------------------------------------------------------------------------------------

    def claim(self, lane: Lane, vendor: str, limit: int, *, now: float) -> list[Job]:
        """Lease the oldest due jobs of a lane, in order; none while its vendor is paused.

        A job that waits, or that another process holds, keeps back the later ones of its key and nothing else.
        """

        def work(connection: Connection) -> list[Job]:
            if self._paused(connection, vendor, now):
                return []
            earlier = jobs.alias()
            blocked = (
                select(earlier.c.id)
                .where(
                    earlier.c.lane == jobs.c.lane,
                    earlier.c.order_key == jobs.c.order_key,
                    earlier.c.state == PENDING,
                    earlier.c.id < jobs.c.id,
                    or_(earlier.c.due_at > now, earlier.c.lease_until > now),
                )
                .exists()
            )
            rows = connection.execute(
                select(jobs, *_EVENT_COLUMNS)
                .join(events, events.c.id == jobs.c.event_id)
                .where(
                    jobs.c.lane == lane.value,
                    jobs.c.state == PENDING,
                    jobs.c.due_at <= now,
                    jobs.c.lease_until <= now,
                    ~blocked,
                )
                .order_by(jobs.c.id)
                .limit(limit)
            ).mappings()
            claimed = [_job(row) for row in rows]
            if claimed:
                connection.execute(
                    update(jobs)
                    .where(jobs.c.id.in_([job.id for job in claimed]))
                    .values(owner=self.owner, lease_until=now + LEASE_SECONDS)
                )
            return claimed

        if not self._read(lambda connection: _anything_due(connection, lane, now)):
            return []
        return self._writer.run(work)

    def renew(self, claimed: Iterable[Job], *, now: float) -> None:
        """Extend the leases of jobs that are still being carried out."""
        ids = [job.id for job in claimed]
        if ids:
            self._writer.run(
                lambda connection: connection.execute(
                    update(jobs).where(self._mine(ids)).values(lease_until=now + LEASE_SECONDS)
                )
            )

    def write_steps(self, ledgers: Mapping[int, Mapping[str, Step]]) -> set[int]:
        """Write the steps of jobs, by job id; return the ids of the jobs that are still ours."""

        def work(connection: Connection) -> set[int]:
            return {
                job_id
                for job_id, steps in ledgers.items()
                if connection.execute(
                    update(jobs).where(self._mine([job_id])).values(steps=_steps.dump_json(dict(steps)).decode())
                ).rowcount
            }

        return self._writer.run(work)

    def settle(self, settlements: Sequence[Settlement], *, now: float) -> list[Settlement]:
        """Write how jobs ended, with what follows from them; return those that were still ours to settle."""

        def work(connection: Connection) -> list[Settlement]:
            settled = []
            for settlement in settlements:
                if not self._settle(connection, settlement, now):
                    continue
                settled.append(settlement)
                event, outcome = settlement.job.event, settlement.outcome
                if outcome.context is not None:
                    connection.execute(
                        update(events)
                        .where(events.c.id == event.id)
                        .values(context=_context.dump_json(outcome.context).decode())
                    )
                for owed in outcome.owed:
                    _insert_job(connection, event.id, owed.lane, owed.order_key, now, owed=owed)
                if outcome.state == State.DEAD:
                    # A task that was refused must not keep the deal from getting one.
                    connection.execute(delete(cooldowns).where(cooldowns.c.holder == _holder(settlement.job)))
            return settled

        return self._writer.run(work)

    def claim_cooldown(self, key: str, job: Job, seconds: float, *, now: float) -> bool:
        """Claim a cooldown for a job; False if another job holds it and its time is not over."""

        def work(connection: Connection) -> bool:
            held = insert(cooldowns).values(key=key, holder=_holder(job), until=now + seconds)
            taken = connection.execute(
                held.on_conflict_do_update(
                    index_elements=[cooldowns.c.key],
                    set_={"holder": held.excluded.holder, "until": held.excluded.until},
                    where=or_(cooldowns.c.until <= now, cooldowns.c.holder == _holder(job)),
                )
            )
            return taken.rowcount == 1

        return self._writer.run(work)

    def next_due(self, lane: Lane) -> float | None:
        """Return when the next job of a lane is due or its lease ends, or None if none is owed."""
        due = select(func.min(_later(jobs.c.due_at, jobs.c.lease_until)))
        owed = due.where(jobs.c.lane == lane.value, jobs.c.state == PENDING)
        at: float | None = self._read(lambda connection: connection.execute(owed).scalar())
        return at

    # -- vendors --------------------------------------------------------------------------------------------

    def pause(self, vendor: str, until: float, reason: str) -> None:
        """Leave a vendor alone until a time, in all processes; never shortens a pause."""

        def work(connection: Connection) -> None:
            made = insert(lanes).values(vendor=vendor, paused_until=until, reason=reason)
            connection.execute(
                made.on_conflict_do_update(
                    index_elements=[lanes.c.vendor],
                    set_={"paused_until": made.excluded.paused_until, "reason": made.excluded.reason},
                    where=lanes.c.paused_until < until,
                )
            )

        self._writer.run(work)

    def pauses(self, *, now: float) -> dict[str, Pause]:
        """Return the vendors that are paused now."""
        rows = self._read(
            lambda connection: connection.execute(select(lanes).where(lanes.c.paused_until > now)).mappings().all()
        )
        return {row["vendor"]: Pause(row["paused_until"], row["reason"]) for row in rows}

    def let_go(self, vendor: str, per_second: float, *, now: float) -> float:
        """Return when the next call to a vendor may go, and count it: never more than the limit in any second.

        A sliding window over the latest calls of all processes: `n` of them take at least `n / per_second`.
        """
        count = max(1, int(per_second))
        # 5 % more than a second: calls that leave us evenly may bunch up on their way.
        window = count / per_second * 1.05

        def work(connection: Connection) -> float:
            text = connection.scalar(select(lanes.c.calls).where(lanes.c.vendor == vendor))
            calls: list[float] = json.loads(text or "[]")
            at = max(now, calls[0] + window) if len(calls) == count else now
            kept = json.dumps([*calls, at][-count:])
            made = insert(lanes).values(vendor=vendor, calls=kept)
            connection.execute(
                made.on_conflict_do_update(index_elements=[lanes.c.vendor], set_={"calls": made.excluded.calls})
            )
            return at

        return self._writer.run(work)

    # -- looking --------------------------------------------------------------------------------------------

    def check(self, *, seconds: float = WRITE_SECONDS) -> None:
        """Take and release the write lock; raises JournalError if the journal cannot be written."""
        self._writer.run(
            lambda connection: connection.execute(update(lanes).where(lanes.c.vendor == "").values(reason="")),
            seconds=seconds,
        )

    def oldest_due(self, *, now: float) -> float | None:
        """Return since when the longest waiting due job has been waiting, or None."""
        every_lane = jobs.c.lane.in_([lane.value for lane in Lane])
        owed = select(func.min(jobs.c.due_at)).where(every_lane, jobs.c.state == PENDING, jobs.c.due_at <= now)
        at: float | None = self._read(lambda connection: connection.execute(owed).scalar())
        return at

    def purge(self, before: float) -> int:
        """Forget events received before a time, except those that still owe something; return how many."""

        def work(connection: Connection) -> int:
            unfinished = select(jobs.c.event_id).where(jobs.c.state == PENDING)
            old = select(events.c.id).where(events.c.received_at < before, events.c.id.not_in(unfinished))
            ids = list(connection.scalars(old.limit(PURGE_LIMIT)))
            connection.execute(delete(jobs).where(jobs.c.event_id.in_(ids)))
            connection.execute(delete(events).where(events.c.id.in_(ids)))
            connection.execute(
                delete(webhooks).where(
                    webhooks.c.received_at < before,
                    ~select(events.c.id).where(events.c.webhook_id == webhooks.c.id).exists(),
                )
            )
            connection.execute(delete(cooldowns).where(cooldowns.c.until < before))
            return len(ids)

        return self._writer.run(work)

    # -- inside ---------------------------------------------------------------------------------------------

    def _read(self, query: Callable[[Connection], Any]) -> Any:
        try:
            with self._reader.connect() as connection:
                return query(connection)
        except SQLAlchemyError as error:
            raise JournalError(f"the journal cannot be read: {error}") from error

    def _mine(self, ids: Sequence[int]) -> Any:
        return and_(jobs.c.id.in_(ids), jobs.c.owner == self.owner, jobs.c.state == PENDING)

    @staticmethod
    def _paused(connection: Connection, vendor: str, now: float) -> bool:
        until = connection.scalar(select(lanes.c.paused_until).where(lanes.c.vendor == vendor))
        return bool(until and until > now)

    def _settle(self, connection: Connection, settlement: Settlement, now: float) -> bool:
        """Write one settlement; False if the lease was lost to another process (fencing)."""
        job, outcome = settlement.job, settlement.outcome
        values: dict[str, Any] = {"owner": None, "lease_until": 0.0, "reason": outcome.reason}
        if outcome.state == State.PENDING:
            values |= {"due_at": settlement.due_at, "attempts": job.attempts + settlement.failed}
        else:
            values |= {"state": outcome.state.value, "settled_at": now}
        return bool(connection.execute(update(jobs).where(self._mine([job.id])).values(**values)).rowcount)


PURGE_LIMIT = 5_000

_EVENT_COLUMNS = (
    events.c.source,
    events.c.kind,
    events.c.dedupe_key,
    events.c.order_key.label("event_order_key"),
    events.c.occurred_at,
    events.c.received_at,
    events.c.data,
)


def _holder(job: Job) -> str:
    return f"job:{job.id}"


def _later(one: Any, other: Any) -> Any:
    """Return the greater of two columns (SQLite and PostgreSQL spell it differently)."""
    return func.max(one, other)


def _anything_due(connection: Connection, lane: Lane, now: float) -> bool:
    due = select(jobs.c.id).where(jobs.c.lane == lane.value, jobs.c.state == PENDING, jobs.c.due_at <= now)
    return connection.scalar(due.limit(1)) is not None


def _repeated(connection: Connection, event: Event, now: float) -> int | None:
    """Return the id of the event that this one repeats, or None."""
    if event.dedupe_key:
        found = connection.scalar(select(events.c.id).where(events.c.dedupe_key == event.dedupe_key))
        if found is not None:
            return int(found)
    if event.repeat is None:
        return None
    latest = connection.execute(
        select(cooldowns.c.holder, cooldowns.c.until).where(cooldowns.c.key == f"repeat:{event.repeat.scope}")
    ).first()
    if latest is None:
        return None
    event_id, fingerprint = latest.holder.split(" ", 1)
    # Measured from the earlier event, with the window of this one: the two may differ.
    if fingerprint == event.repeat.fingerprint and latest.until + event.repeat.seconds > now:
        return int(event_id)
    return None


def _insert_webhook(connection: Connection, webhook: Webhook, now: float) -> int:
    made = insert(webhooks).values(
        source=webhook.source.value, content_type=webhook.content_type, body=webhook.body, received_at=now
    )
    return int(connection.execute(made.returning(webhooks.c.id)).scalar_one())


def _insert_event(connection: Connection, event: Event, webhook_id: int, now: float) -> int:
    adapter: TypeAdapter[Any] = _stage_change if isinstance(event.data, StageChange) else _email_activity
    made = insert(events).values(
        webhook_id=webhook_id,
        source=event.source.value,
        kind=event.kind.value,
        dedupe_key=event.dedupe_key or f"once:{uuid.uuid4().hex}",
        order_key=event.order_key,
        occurred_at=event.occurred_at,
        received_at=now,
        data=adapter.dump_json(event.data).decode(),
    )
    event_id = int(connection.execute(made.returning(events.c.id)).scalar_one())
    if event.repeat is not None:
        latest = insert(cooldowns).values(
            key=f"repeat:{event.repeat.scope}", holder=f"{event_id} {event.repeat.fingerprint}", until=now
        )
        connection.execute(
            latest.on_conflict_do_update(
                index_elements=[cooldowns.c.key],
                set_={"holder": latest.excluded.holder, "until": latest.excluded.until},
            )
        )
    return event_id


def _insert_job(
    connection: Connection,
    event_id: int,
    lane: Lane,
    order_key: str,
    now: float,
    *,
    refusal: str | None = None,
    owed: Owed | None = None,
) -> None:
    adapter: TypeAdapter[Any] = _news if owed and isinstance(owed.plan, StageNews) else _response
    connection.execute(
        insert(jobs).values(
            event_id=event_id,
            lane=lane.value,
            order_key=order_key,
            state=(State.SKIPPED if refusal else State.PENDING).value,
            due_at=now,
            plan=adapter.dump_json(owed.plan).decode() if owed else None,
            reason=refusal or "",
            created_at=now,
            settled_at=now if refusal else None,
        )
    )


def _job(row: RowMapping | Mapping[str, Any]) -> Job:
    kind, lane = Kind(row["kind"]), Lane(row["lane"])
    data: TypeAdapter[Any] = _stage_change if kind == Kind.STAGE_CHANGED else _email_activity
    plan: TypeAdapter[Any] = _response if lane == Lane.KOMMO else _news
    return Job(
        id=row["id"],
        lane=lane,
        event=Event(
            source=Source(row["source"]),
            kind=kind,
            data=data.validate_json(row["data"]),
            order_key=row["event_order_key"],
            dedupe_key=row["dedupe_key"],
            occurred_at=row["occurred_at"],
            id=row["event_id"],
            received_at=row["received_at"],
        ),
        order_key=row["order_key"],
        attempts=row["attempts"],
        created_at=row["created_at"],
        plan=plan.validate_json(row["plan"]) if row["plan"] else None,
        steps=_steps.validate_json(row["steps"]),
    )
