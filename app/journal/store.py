"""The journal: every webhook, event and job, written down before anything else. The only SQL of the service."""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sqlalchemy import Connection, Executable, RowMapping, delete, func, select, update
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from app.events import (
    DOUBTFUL,
    Event,
    Failure,
    Job,
    Lane,
    Outcome,
    Priority,
    Seen,
    Source,
    State,
    Step,
    Turn,
    Webhook,
)
from app.journal import erasure, figures, history, logins, memory, particulars, recording, schema, standing, traces
from app.journal import statements as sql
from app.journal.budget import Budget
from app.journal.erasure import Heard, Holdings
from app.journal.errors import JournalError, words
from app.journal.figures import Figures, Hour
from app.journal.history import EventStory, Search, WholeStory
from app.journal.logins import Login
from app.journal.particulars import Particulars
from app.journal.recording import Recorded, Told
from app.journal.rows import (
    Row,
    attempt_row,
    context_row,
    job_row,
    read_job,
    read_steps,
    steps_text,
)
from app.journal.standing import Death, Pause, Standing
from app.journal.tables import attempts, cooldowns, events, jobs, lanes, sightings, webhooks
from app.journal.writer import WRITE_SECONDS, Writer

T = TypeVar("T")
K = TypeVar("K")

LEASE_SECONDS = 60.0
FAR_AHEAD = 1e12  # later than any time
PURGE_LIMIT = 5_000  # events a transaction
MEMORY_SECONDS = 365 * 86400.0  # for how long beyond events what people did is remembered


@dataclass(frozen=True)
class Settlement:
    """How one job is left: settled, or due again at `due_at` (state `pending`), after a failed attempt or not.

    `failed`: it is one of the job's failures. `steps`: its ledger; None: that is on disk already. `failure`: what
    is to be told of the attempt, if it did not end well.
    """

    job: Job
    outcome: Outcome
    due_at: float = 0.0
    failed: bool = False
    steps: Mapping[str, Step] | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Cooldown:
    """Something that one job claimed for a while."""

    until: float
    holder: str  # `job:4711`


@dataclass(frozen=True)
class Ending:
    """How a job ended, and when."""

    state: State
    reason: str
    at: float


@dataclass(frozen=True)
class Progress:
    """How far a vendor's log of events is known, by the vendor's clock: from `since` on, up to `until`."""

    since: float
    until: float


class _RehearsedError(Exception):
    """Nothing of what was recorded is to stay: it was a rehearsal."""

    def __init__(self, recorded: list[Recorded]) -> None:
        super().__init__()
        self.recorded = recorded


class Journal:
    """One process's hand on the journal. Every method is safe to call from any thread.

    Methods that write return once the change is committed, and raise JournalError if it could not be.
    """

    def __init__(self, url: str) -> None:
        self._engine, self._reader = schema.open_engines(url)
        try:
            schema.upgrade(self._engine)
        except JournalError:
            self._engine.dispose()
            self._reader.dispose()
            raise
        self._upserts = sql.Upserts(self._engine.dialect.name)
        self._writer = Writer(self._engine)
        try:
            self.check()
        except JournalError:
            self.close()
            raise
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    def close(self) -> None:
        """Commit what is under way and let go of the database."""
        self._writer.close()
        self._engine.dispose()
        self._reader.dispose()

    # -- webhooks in --

    def record(
        self,
        webhook: Webhook,
        found: Sequence[tuple[Event, str | None]],
        *,
        now: float,
        committed: Callable[[list[Recorded]], None] = lambda recorded: None,
        seconds: float = WRITE_SECONDS,
        rehearse: bool = False,
    ) -> list[Recorded]:
        """Write down a webhook, its events and their first jobs; duplicates find the event they repeat.

        Each event comes with the reason why nothing needs to be done for it, or None. `committed` hears what was
        recorded before any job of it can be claimed by this process. `rehearse`: only say what would be recorded.
        """

        told = Told(webhook, found, now)
        if rehearse:
            try:
                return self._writer.run("rehearse", lambda connection: self._rehearse(connection, told))
            except _RehearsedError as rehearsed:
                return rehearsed.recorded
        if any(event.logged for event, _ in found):
            return self._writer.run(
                "record a log",
                lambda connection: self._record(connection, [told])[0],
                committed=committed,
                seconds=seconds,
            )
        return self._writer.run_together("record", self._record, told, committed=committed, seconds=seconds)

    def _record(self, connection: Connection, batch: Sequence[Told]) -> list[list[Recorded]]:
        return recording.record(connection, self._upserts, batch)

    def _rehearse(self, connection: Connection, told: Told) -> list[Recorded]:
        raise _RehearsedError(self._record(connection, [told])[0])

    # -- jobs --

    def claim(
        self, lane: Lane, vendor: str, limit: int, *, now: float, take_over: bool = True, told: bool = False
    ) -> list[Job]:
        """Lease the oldest due jobs of a lane, in order, under a new token; none while its vendor is paused.

        A job that waits, or that another process holds, keeps back the later ones of its key and nothing else.
        `take_over`: whether a lease that has run out by the clock may be taken for one. `told`: something is due.
        """
        # Never more than a lease ahead; between is inclusive, and 0 is nobody's.
        leases = (now + 0.001, now + 2 * LEASE_SECONDS) if take_over else (0.001, FAR_AHEAD)
        token = f"{self.owner}:{uuid.uuid4().hex}"
        due = {"lane_": lane.value, "now": now, "lease_now": leases[0], "lease_far": leases[1]}

        def work(connection: Connection) -> Sequence[RowMapping]:
            paused_until = connection.execute(sql.PAUSED_UNTIL, {"vendor_": vendor}).scalar()
            if paused_until and paused_until > now:
                return []
            rows = connection.execute(sql.CLAIMABLE, {**due, "limit": limit}).mappings().all()
            if rows:
                lease = {"holder": token, "until_": now + LEASE_SECONDS}
                connection.execute(sql.LEASE, lease | {"job_ids": [row["id"] for row in rows]})
            return rows

        # A look costs little; taking the write lock for nothing would slow everybody.
        if not told and self._scalar(sql.ANYTHING_CLAIMABLE, due) is None:
            return []
        # What they hold is read here: everybody waits for the writer.
        return [read_job(row, token) for row in self._writer.run("claim", work, durable=False)]

    def renew(self, held: Sequence[Job], *, now: float) -> bool:
        """Extend the leases of jobs that are under way; False if some are not their claim's any more."""
        renewals = [
            {"job_ids": job_ids, "holder": token, "until_": now + LEASE_SECONDS}
            for token, job_ids in _by_token(held).items()
        ]

        def work(connection: Connection) -> int:
            return sum(connection.execute(sql.RENEW, renewal).rowcount for renewal in renewals)

        return self._writer.run("renew", work, durable=False) == len(held)

    @property
    def lease_seconds(self) -> float:
        """How long a lease lasts."""
        return LEASE_SECONDS

    def write_steps(self, ledgers: Mapping[int, Mapping[str, Step]], token: str) -> set[int]:
        """Write the steps of jobs, by job id; return the ids of those that this claim still holds."""

        alike = _alike((steps_text(steps), job_id) for job_id, steps in ledgers.items())

        def work(connection: Connection) -> set[int]:
            ours: set[int] = set()
            for steps, job_ids in alike.items():
                written = {"job_ids": job_ids, "holder": token, "steps_": steps}
                ours.update(connection.scalars(sql.WRITE_STEPS, written))
            return ours

        return self._writer.run("write_steps", work)

    def settle(self, settlements: Sequence[Settlement], *, now: float) -> list[Settlement]:
        """Write how jobs ended, with what follows from them; return those that were still ours to settle.

        It need not be on disk: after a power cut a job whose step was begun is looked up at its vendor.
        """

        def work(connection: Connection) -> list[Settlement]:
            ours = self._ours(connection, [settlement.job for settlement in settlements])
            settled = [settlement for settlement in settlements if settlement.job.id in ours]
            self._settle(connection, settled, now)
            return settled

        try:
            return self._writer.run("settle", work, durable=False)
        except JournalError as error:
            if not isinstance(error.__cause__, IntegrityError | DataError):
                raise
            if len(settlements) == 1:
                # What the database will never take must not come back for ever.
                unwritable = Outcome(State.DEAD, f"internal error: its outcome cannot be written: {error}")
                return self.settle([replace(settlements[0], outcome=unwritable, failure=None)], now=now)
        return [settled for one in settlements for settled in self.settle([one], now=now)]

    def claim_cooldown(self, key: str, job: Job, seconds: float, *, now: float) -> bool:
        """Claim a cooldown for a job; False if another job holds it and its time is not over."""
        claim = {"key": key, "holder": _holder(job), "until": now + seconds, "now": now}

        def work(connection: Connection) -> bool:
            # A key may hold the address of a person who has been forgotten since the job was claimed.
            ended = self._ended(connection, [job])
            return not ended and connection.execute(self._upserts.claim_cooldown, claim).first() is not None

        return self._writer.run("claim_cooldown", work, durable=False)

    def free_cooldown(self, key: str, job: Job) -> None:
        """Give back a cooldown that a job claimed for nothing."""
        claim = {"key_": key, "holder_": _holder(job)}
        self._writer.run("free_cooldown", lambda connection: connection.execute(sql.FREE_COOLDOWN, claim))

    def cooldown(self, key: str) -> Cooldown | None:
        """Return until when a cooldown is claimed, and by which job; None: by none."""
        row = self._read(lambda connection: connection.execute(sql.LATEST_OF_SCOPE, {"key_": key}).first())
        return Cooldown(row.until, row.holder) if row else None

    def notes_of(self, order_key: str) -> set[str]:
        """Return what vendors said of all finished steps of a key, in all its jobs."""
        rows = self._read(lambda connection: connection.scalars(sql.STEPS_OF_KEY, {"order_key_": order_key}).all())
        return {step.note for row in rows for step in read_steps(row).values() if step.note}

    def moved_since(self, lead_ids: Collection[int], since: float) -> dict[int, float]:
        """Return when deals last changed their stage, of those with a change that was recorded since a time."""
        keys = {f"lead:{lead_id}": lead_id for lead_id in lead_ids}

        def look(connection: Connection) -> dict[int, float]:
            rows = recording.select_by_keys(connection, sql.MOVED_SINCE, "order_keys", keys, since=since)
            return {keys[row.order_key]: row.at for row in rows}

        moved: dict[int, float] = self._read(look)
        return moved

    # -- what people did before --

    def remember(self, people: Mapping[int, str], batch: Sequence[Job], *, moments: float) -> dict[int, Seen]:
        """Return what the person of each job had done before, by job id; `people`: who it is, by job id.

        Whoever was not known yet when the event was written down is noted now. An open and a click within
        `moments` seconds are partners.
        """
        ids = {job.event.id for job in batch}
        known = set(self._read(lambda connection: connection.scalars(sql.SIGHTED, {"event_ids": list(ids)}).all()))
        new = [job for job in batch if job.event.id not in known and people.get(job.id)]

        def note(connection: Connection) -> None:
            # Of a person who has been forgotten since the jobs were claimed, nothing is noted any more.
            ended = self._ended(connection, new)
            noted = [(job.event, people[job.id], job.event.received_at) for job in new if job.id not in ended]
            memory.remember(connection, self._upserts, noted)

        if new:
            self._writer.run("remember", note)
        found: dict[int, Seen] = self._read(
            lambda connection: {job.id: memory.seen(connection, job.event.id, moments) for job in batch}
        )
        return found

    def foresee(self, event: Event, who: str, *, moments: float, now: float) -> Seen:
        """Return what `remember` would of an event that is not written down; nothing is noted."""
        seen: Seen = self._read(lambda connection: memory.foreseen(connection, event, who, now, moments))
        return seen

    def unsubscribed(self, emails: Collection[str]) -> dict[str, tuple[Source, ...]]:
        """Return the platforms at which addresses are unsubscribed; addresses that are nowhere so are missing."""
        found: dict[str, tuple[Source, ...]] = self._read(
            lambda connection: memory.unsubscribed(connection, emails)
        )
        return found

    def made_under(self, scopes: Collection[str]) -> dict[str, str]:
        """Return what Kommo said of the task or note that was made under each scope: its id, if it said so."""
        found: dict[str, str] = self._read(lambda connection: memory.made_under(connection, scopes))
        return found

    def made_by(self, event_ids: Sequence[int]) -> dict[int, Mapping[str, str]]:
        """Return what Kommo said of each finished step of events, by event id and step."""
        found: dict[int, Mapping[str, str]] = self._read(lambda connection: memory.made_by(connection, event_ids))
        return found

    def release(self, held: Iterable[Job]) -> None:
        """Let go of jobs that are not carried out any more, so that nobody waits for their leases to end."""
        ours = [{"job_ids": job_ids, "holder": token} for token, job_ids in _by_token(held).items()]

        def work(connection: Connection) -> None:
            for claim in ours:
                connection.execute(sql.RELEASE, claim)

        if ours:
            self._writer.run("release", work, durable=False)

    def hurry(self, lane: Lane, *, now: float) -> None:
        """Make the jobs of a lane due that wait for another attempt: their vendor is back."""
        self._writer.run(
            "hurry", lambda connection: connection.execute(sql.HURRY, {"lane_": lane.value, "now": now})
        )

    def clock_was_set_back(self, *, now: float, longest_pause: float, longest_wait: float = 0.0) -> None:
        """Let nothing wait for the time of another clock: vendors are asked again, new jobs are due.

        So are retries that would wait for longer than `longest_wait` seconds.
        """

        def work(connection: Connection) -> None:
            connection.execute(sql.DUE_AT_ONCE, {"now": now, "furthest": now + longest_wait})
            connection.execute(sql.END_PAUSES, {"until_": now + longest_pause, "now": now})
            for vendor, text in connection.execute(sql.ALL_CALLS).all():
                budget = Budget.read(text)
                if budget.since > now + longest_pause:
                    budget.since = now
                    connection.execute(self._upserts.set_calls, {"vendor": vendor, "calls": budget.text()})

        self._writer.run("clock_was_set_back", work)

    def next_due(self, lane: Lane) -> float | None:
        """Return when the next job of a lane is due or its lease ends, or None if none is owed."""
        at: float | None = self._scalar(sql.NEXT_DUE, {"lane_": lane.value})
        return at

    # -- vendors --

    def pause(self, vendor: str, until: float, reason: str) -> None:
        """Leave a vendor alone until a time, in all processes; never shortens a pause."""
        pause = {"vendor": vendor, "paused_until": until, "reason": reason}
        self._writer.run("pause", lambda connection: connection.execute(self._upserts.pause, pause))

    def end_pause(self, vendor: str, *, now: float) -> None:
        """Ask a vendor again at once, and make due what its refusals hold back: somebody has mended the cause."""
        held = update(jobs).where(sql.OWED, jobs.c.due_at > now, jobs.c.reason.startswith(f"{vendor.title()}: "))

        def work(connection: Connection) -> None:
            connection.execute(update(lanes).where(lanes.c.vendor == vendor).values(paused_until=0.0))
            connection.execute(held.values(due_at=now))

        self._writer.run("end_pause", work)

    def pauses(self, *, now: float) -> dict[str, Pause]:
        """Return the vendors that are paused now."""
        found: dict[str, Pause] = self._read(lambda connection: standing.pauses(connection, now))
        return found

    def let_go(
        self, vendor: str, per_second: float, priority: Priority, holder: str, *, now: float, ahead: float = 0.0
    ) -> Turn:
        """Give a call to a vendor its turn in the budget of all processes, not before `ahead` seconds from now.

        `per_second`: the limit of all calls. `holder`: a name for this call that no other one has.
        """
        return self._budget("let_go", vendor, lambda budget: budget.book(now, per_second, priority, holder, ahead))

    def turn_of(self, vendor: str, holder: str) -> float | None:
        """Return when a call may go as things are now: later than first said if more urgent ones came.

        None: not any more.
        """
        return Budget.read(self._scalar(sql.CALLS, {"vendor_": vendor})).held_by(holder)

    def slow_down(self, vendor: str, per_second: float, *, retry_after: float, now: float) -> float | None:
        """Let no calls go for a while, then fewer, as one was refused as one too many.

        Returns how many a second it will be, or None if this belongs to a refusal that was heard of already.
        """

        def refuse(budget: Budget) -> float | None:
            return budget.rate if budget.refuse(now, per_second, retry_after) else None

        return self._budget("slow_down", vendor, refuse)

    def _budget(self, name: str, vendor: str, change: Callable[[Budget], T]) -> T:
        def work(connection: Connection) -> T:
            budget = Budget.read(connection.execute(sql.CALLS, {"vendor_": vendor}).scalar())
            result = change(budget)
            connection.execute(self._upserts.set_calls, {"vendor": vendor, "calls": budget.text()})
            return result

        return self._writer.run(name, work, durable=False)

    # -- long walks --

    def bookmark(self, key: str) -> str | None:
        """Return what was last noted under a key, or None."""
        text: str | None = self._scalar(sql.HOLDER, {"key_": key})
        return text

    def set_bookmark(self, key: str, text: str, *, now: float) -> None:
        """Note how far a long walk has come; forgotten when it is as old as what `purge` forgets."""
        noted = {"key": key, "holder": text, "until": now}
        self._writer.run("set_bookmark", lambda connection: connection.execute(self._upserts.set_scope, noted))

    def keep(self, key: str, text: str) -> None:
        """Note something under a key, to be read by `bookmark`, that is never purged."""
        self.set_bookmark(key, text, now=FAR_AHEAD)

    def drop_bookmark(self, key: str) -> None:
        """Forget what was noted under a key."""
        self._writer.run("drop_bookmark", lambda connection: connection.execute(sql.DROP_BOOKMARK, {"key_": key}))

    # -- the vendors' logs of events --

    def progress(self, log: str) -> Progress | None:
        """Return how far a vendor's log is known; None if it was never looked at."""
        kept = self.bookmark(f"log:{log}")
        return Progress(*json.loads(kept)) if kept else None

    def set_progress(self, log: str, progress: Progress) -> None:
        """Write down how far a vendor's log is known; that is never purged."""
        self.keep(f"log:{log}", json.dumps([progress.since, progress.until]))

    def take_turn(self, name: str, seconds: float, *, now: float) -> bool:
        """Take or keep a turn that one process has at a time, for so many seconds; False if another has it."""
        key = f"turn:{name}"

        def work(connection: Connection) -> bool:
            held = connection.execute(sql.LATEST_OF_SCOPE, {"key_": key}).first()
            # One that ends further ahead was taken by a clock that was wrong.
            if held and held.holder != self.owner and now < held.until <= now + seconds:
                return False
            turn = {"key": key, "holder": self.owner, "until": now + seconds}
            connection.execute(self._upserts.set_scope, turn)
            return True

        return self._writer.run("take_turn", work, durable=False)

    def end_turn(self, name: str) -> None:
        """Let another process have its turn."""
        turn = {"key_": f"turn:{name}", "holder_": self.owner}
        self._writer.run("end_turn", lambda connection: connection.execute(sql.FREE_COOLDOWN, turn))

    # -- tokens that change by themselves --

    def login(self, vendor: str) -> Login | None:
        """Return the tokens for a vendor, sealed; None if nobody has logged in."""
        found: Login | None = self._read(lambda connection: logins.read(connection, vendor))
        return found

    def save_login(self, vendor: str, login: Login) -> None:
        """Write the tokens of somebody who has logged in, in place of whatever is there."""
        self._writer.run("save_login", lambda connection: logins.save(connection, vendor, login))

    def begin_renewal(
        self, vendor: str, version: int, holder: str, seconds: float, *, now: float, take_over: bool = True
    ) -> bool:
        """Note on disk that the tokens of this version are about to be changed for new ones.

        False if they were, or if another holder has begun within `seconds`. `take_over`: whether one that has run
        out by the clock may be taken for one.
        """
        return self._writer.run(
            "begin_renewal",
            lambda connection: logins.begin(connection, vendor, version, holder, seconds, now, take_over=take_over),
        )

    def end_renewal(self, vendor: str, version: int, login: Login) -> bool:
        """Write the tokens that came of those of this version; False if others came of them meanwhile."""
        return self._writer.run("end_renewal", lambda connection: logins.end(connection, vendor, version, login))

    def fail_renewal(self, vendor: str, version: int, holder: str, fault: str, *, now: float) -> bool:
        """Note that no tokens came of those of this version; `fault`: why none ever will, '' if they may.

        False if another holder has taken over meanwhile.
        """
        return self._writer.run(
            "fail_renewal",
            lambda connection: logins.end_in_vain(connection, vendor, version, holder, fault, now),
        )

    def forget_login(self, vendor: str) -> bool:
        """Wipe the tokens for a vendor; False if there were none."""
        return self._writer.run("forget_login", lambda connection: logins.forget(connection, vendor))

    # -- looking --

    def check(self, *, seconds: float = WRITE_SECONDS) -> None:
        """Take and release the write lock; raises JournalError if the journal cannot be written."""
        self._writer.run("check", lambda connection: connection.execute(sql.TOUCH), seconds=seconds)

    def standing(self, vendor: str, per_second: float, *, now: float) -> Standing:
        """Return how the journal stands, with the budget of one vendor whose limit is `per_second`."""

        def look(connection: Connection) -> Standing:
            return Standing(
                queues=standing.queues(connection),
                pauses=standing.pauses(connection, now),
                calls=standing.calls(connection, vendor, per_second, now),
                size=standing.size(connection),
            )

        found: Standing = self._read(look)
        return found

    def dead(self) -> int:
        """Return how many jobs are dead."""
        count: int = self._scalar(standing.ALL_DEAD, {})
        return count

    def died_since(self, since: float) -> list[Death]:
        """Return the jobs that are dead and were given up since a time, oldest first."""
        found: list[Death] = self._read(lambda connection: standing.died_since(connection, since))
        return found

    def oldest_due(self, vendors: Mapping[Lane, str], *, now: float) -> float | None:
        """Return since when the longest waiting due job has been waiting, or None.

        `vendors`: whom each lane needs; what waits for one that is paused does not count.
        """
        paused = self.pauses(now=now)
        moving = jobs.c.lane.in_([lane.value for lane in Lane if vendors.get(lane) not in paused])
        owed = select(func.min(jobs.c.due_at)).where(moving, sql.OWED, jobs.c.due_at <= now)
        at: float | None = self._scalar(owed, {})
        return at

    def endings(self) -> dict[Lane, Ending]:
        """Return how the job ended that was settled last, for each lane that has one."""

        def read(connection: Connection) -> dict[Lane, Ending]:
            return {
                Lane(row.lane): Ending(State(row.state), row.reason, row.settled_at)
                for lane in Lane
                for row in connection.execute(sql.LATEST_ENDING, {"lane_": lane.value})
            }

        found: dict[Lane, Ending] = self._read(read)
        return found

    def find(self, search: Search) -> list[EventStory]:
        """Return the newest events that fit, newest first, with how their jobs stand."""
        found: list[EventStory] = self._read(lambda connection: history.find(connection, search))
        return found

    def particulars(self, event_ids: Sequence[int]) -> dict[int, Particulars]:
        """Return what events said and what Kommo knew of them, by event id."""
        found: dict[int, Particulars] = self._read(lambda connection: particulars.read(connection, event_ids))
        return found

    def story(self, event_id: int) -> WholeStory | None:
        """Return all that is known of an event, or None if there is none with this id."""
        story: WholeStory | None = self._read(lambda connection: history.story(connection, event_id))
        return story

    def count(self, search: Search) -> int:
        """Return how many events fit, at most the search's limit."""
        number: int = self._read(lambda connection: history.count(connection, search))
        return number

    def figures(self) -> Figures:
        """Return what waits and what failed."""
        found: Figures = self._read(figures.now)
        return found

    def hours(self, *, now: float) -> list[Hour]:
        """Return the last 24 hours, the oldest first."""
        found: list[Hour] = self._read(lambda connection: figures.hours(connection, now))
        return found

    def take_up_again(self, event_ids: Sequence[int], *, now: float) -> int:
        """Make dead and skipped jobs of events due again, keeping what they have done; return how many."""
        return self._writer.run(
            "take_up_again", lambda connection: history.take_up_again(connection, event_ids, now)
        )

    def purge(self, before: float) -> int:
        """Forget events received before a time, except those that still owe something; return how many."""

        def work(connection: Connection) -> int:
            unfinished = select(jobs.c.event_id).where(sql.OWED)
            old = select(events.c.id).where(events.c.received_at < before, events.c.id.not_in(unfinished))
            ids = list(connection.scalars(old.limit(PURGE_LIMIT)))
            forgotten = select(jobs.c.id).where(jobs.c.event_id.in_(ids))
            connection.execute(delete(attempts).where(attempts.c.job_id.in_(forgotten)))
            connection.execute(sql.FORGET_OLDEST_ATTEMPTS)
            connection.execute(delete(jobs).where(jobs.c.event_id.in_(ids)))
            connection.execute(delete(events).where(events.c.id.in_(ids)))
            connection.execute(update(sightings).where(sightings.c.event_id.in_(ids)).values(event_id=None))
            connection.execute(
                delete(webhooks).where(
                    webhooks.c.received_at < before,
                    ~select(events.c.id).where(events.c.webhook_id == webhooks.c.id).exists(),
                )
            )
            connection.execute(delete(cooldowns).where(cooldowns.c.until < before))
            connection.execute(delete(sightings).where(sightings.c.at < before - MEMORY_SECONDS))
            return len(ids)

        return self._writer.run("purge", work)

    # -- people --

    def holdings(self, emails: Sequence[str], *, now: float, heard: Heard = lambda done, total: None) -> Holdings:
        """Return where something of a person with these addresses stands; `heard`: how far the look is."""
        found: Holdings = self._read(lambda connection: erasure.find(connection, emails, now, heard))
        return found

    def dossier(self, held: Holdings) -> dict[str, Any]:
        """Return all that is held of a person, as JSON has it."""
        told: dict[str, Any] = self._read(lambda connection: erasure.dossier(connection, held))
        return told

    def under_way(self, *, now: float) -> set[int]:
        """Return the jobs that processes are carrying out, by id."""
        leases = {"lease_now": now, "lease_far": FAR_AHEAD}
        found: set[int] = self._read(lambda connection: set(connection.scalars(sql.UNDER_WAY, leases)))
        return found

    def forget(self, held: Holdings, *, now: float, heard: Heard = lambda done, total: None) -> None:
        """Erase what is held of a person, in parts between which others write; what is owed for them is lost."""

        def erase(deed: Callable[..., None], *what: Any) -> None:
            self._writer.run("forget", lambda connection: deed(connection, *what))

        done = 0
        for some in erasure.parts(held.events):
            erase(erasure.erase_events, some, now)
            done += len(some)
            heard(done, len(held.events))
        for some in erasure.parts(held.webhooks):
            erase(erasure.erase_bodies, some)
        for name, keys in held.mentions.items():
            for some in erasure.parts(keys):
                erase(erasure.erase_mentions, name, some, held.emails)
        erase(erasure.erase_memory, held.emails)

    def traces(self, emails: Sequence[str], *, quick: bool) -> bool:
        """Wipe addresses out of what SQLite's file has no use for; say whether some may be left.

        `quick`: if the file is so large that others would have to wait, leave it as it is. What PostgreSQL keeps
        of rows is its own business.
        """
        left: bool = self._read(lambda connection: traces.wipe(connection, emails, quick=quick))
        return left

    # -- inside --

    def _read(self, query: Callable[[Connection], Any]) -> Any:
        try:
            with self._reader.connect() as connection:
                return query(connection)
        except SQLAlchemyError as error:
            raise JournalError(f"the journal cannot be read: {words(error)}") from error

    def _scalar(self, statement: Any, parameters: Mapping[str, object]) -> Any:
        return self._read(lambda connection: connection.execute(statement, parameters).scalar())

    def _ours(self, connection: Connection, held: Iterable[Job]) -> set[int]:
        """Return which jobs their claims still hold (fencing): in this transaction nobody can take one over."""
        ours: set[int] = set()
        for token, job_ids in _by_token(held).items():
            ours.update(connection.scalars(sql.OURS, {"job_ids": job_ids, "holder": token}))
        return ours

    def _ended(self, connection: Connection, held: Sequence[Job]) -> set[int]:
        """Return which jobs have ended although a process holds them: the person they are about was forgotten."""
        return set(connection.scalars(sql.ENDED, {"job_ids": [job.id for job in held]}))

    def _settle(self, connection: Connection, settled: Sequence[Settlement], now: float) -> None:
        """Write settlements and what follows: a statement for each kind of row, since each has its cost."""
        again: list[Row] = []
        ended: list[tuple[tuple[str, str, str | None, str], int]] = []
        contexts: list[Row] = []
        owed: list[Row] = []
        failed: list[Row] = []
        for settlement in settled:
            job, outcome = settlement.job, settlement.outcome
            steps = None if settlement.steps is None else steps_text(settlement.steps)
            if settlement.failure is not None:
                failed.append(attempt_row(job.id, settlement.failure, outcome, now))
            if outcome.state == State.PENDING:
                again.append(
                    {
                        "job_id": job.id,
                        "holder": job.token,
                        "reason_": outcome.reason,
                        "steps_": steps,
                        "due_at_": settlement.due_at,
                        "failures": int(settlement.failed),
                    }
                )
                continue
            ended.append(((outcome.state.value, outcome.reason, steps, job.token), job.id))
            if outcome.context is not None:
                contexts.append(context_row(job.event, outcome.context))
            doubtful = DOUBTFUL in job.steps
            owed += [job_row(job.event.id, item, now, doubtful=doubtful) for item in outcome.owed]
        _execute(connection, sql.TRY_AGAIN, again)
        for (state, reason, steps, token), job_ids in _alike(ended).items():
            end = {"state_": state, "reason_": reason, "steps_": steps, "settled_at_": now}
            connection.execute(sql.END, end | {"job_ids": job_ids, "holder": token})
        _execute(connection, sql.SET_CONTEXT, contexts)
        _execute(connection, sql.ADD_JOBS, owed)
        _execute(connection, sql.ADD_ATTEMPTS, failed)


def _alike(items: Iterable[tuple[K, int]]) -> dict[K, list[int]]:
    """Return the ids of those that get the same: one statement writes them all."""
    found: dict[K, list[int]] = {}
    for what, item_id in items:
        found.setdefault(what, []).append(item_id)
    return found


def _by_token(held: Iterable[Job]) -> dict[str, list[int]]:
    """Return the ids of jobs by the token of the claim that holds them."""
    return _alike((job.token, job.id) for job in held)


def _execute(connection: Connection, statement: Executable, rows: Sequence[Row]) -> None:
    """Execute a statement for rows, if there are any."""
    if rows:
        connection.execute(statement, rows)


def _holder(job: Job) -> str:
    return f"job:{job.id}"
