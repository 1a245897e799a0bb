"""The journal's statements, built once: building one costs more than running it.

Names of parameters that are columns too end in an underscore.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ColumnElement,
    Executable,
    FromClause,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from app.events import LOGGED, Kind, Lane
from app.journal.tables import attempts, consents, cooldowns, events, jobs, lanes, sightings, webhooks

ATTEMPTS_KEPT = 100  # of a job: a vendor that locks us out for weeks is asked every five minutes

# Spelled out, not bound: SQLite uses a partial index only for a literal condition.
PENDING: ColumnElement[str] = literal_column("'pending'")
OWED = jobs.c.state == PENDING
DEAD: ColumnElement[bool] = jobs.c.state == literal_column("'dead'")
SKIPPED: ColumnElement[bool] = jobs.c.state == literal_column("'skipped'")


def now() -> ColumnElement[float]:
    """Return the parameter that holds the time of the statement."""
    return bindparam("now", type_=jobs.c.due_at.type)


# -- webhooks in --

FIND_EVENTS = select(events.c.id, events.c.dedupe_key).where(
    events.c.dedupe_key.in_(bindparam("dedupe_keys", expanding=True))
)
LATEST_OF_SCOPES = select(cooldowns).where(cooldowns.c.key.in_(bindparam("keys", expanding=True)))
LATEST_OF_SCOPE = select(cooldowns.c.holder, cooldowns.c.until).where(cooldowns.c.key == bindparam("key_"))
HOLDER = select(cooldowns.c.holder).where(cooldowns.c.key == bindparam("key_"))
LOGGED_DEALS = (
    select(jobs.c.order_key)
    .join(events, events.c.id == jobs.c.event_id)
    .where(
        jobs.c.order_key.in_(bindparam("order_keys", expanding=True)),
        jobs.c.lane == literal_column(f"'{Lane.RESOLVE}'"),
        events.c.dedupe_key.startswith(LOGGED),
    )
    .distinct()
)
# With something to return, many rows are one statement. They come back in any order: what is told besides the id
# says which is which.
ADD_WEBHOOKS = insert(webhooks).returning(webhooks)
ADD_EVENTS = insert(events).returning(events.c.id, events.c.dedupe_key)
ADD_JOBS = insert(jobs).returning(jobs.c.id)

# -- jobs --

_earlier = jobs.alias("earlier")


def _leased(rows: FromClause) -> ColumnElement[bool]:
    """Say whether somebody holds a job. A lease that ends too far ahead was given under a clock that was wrong."""
    return rows.c.lease_until.between(bindparam("lease_now"), bindparam("lease_far"))


_ahead = select(_earlier.c.id).where(
    _earlier.c.lane == jobs.c.lane,
    _earlier.c.order_key == jobs.c.order_key,
    _earlier.c.state == PENDING,
    _earlier.c.id < jobs.c.id,
)
_behind_another = _ahead.exists()
_held_back = _ahead.where(or_(_earlier.c.due_at > now(), _leased(_earlier))).exists()
_claimable = (
    jobs.c.lane == bindparam("lane_"),
    OWED,
    jobs.c.due_at <= now(),
    ~_leased(jobs),
    ~_held_back,
)
CLAIMABLE = (
    select(
        jobs,
        events.c.source,
        events.c.kind,
        events.c.dedupe_key,
        events.c.order_key.label("event_order_key"),
        events.c.occurred_at,
        events.c.received_at,
        events.c.data,
    )
    .join(events, events.c.id == jobs.c.event_id)
    .where(*_claimable)
    .order_by(jobs.c.id)
    .limit(bindparam("limit"))
    # Rows that a person's session holds are passed over, not waited for (PostgreSQL).
    .with_for_update(of=jobs, skip_locked=True)
)
UNDER_WAY = select(jobs.c.id).where(OWED, jobs.c.owner.is_not(None), _leased(jobs))
ANYTHING_CLAIMABLE = select(jobs.c.id).where(*_claimable).limit(1)
LEASE = (
    update(jobs)
    .where(jobs.c.id.in_(bindparam("job_ids", expanding=True)))
    .values(owner=bindparam("holder"), lease_until=bindparam("until_"))
)

# Fencing: nothing is written for a job that another process has taken over.
_OURS = and_(jobs.c.id == bindparam("job_id"), jobs.c.owner == bindparam("holder"), OWED)
_ALL_OURS = and_(jobs.c.id.in_(bindparam("job_ids", expanding=True)), jobs.c.owner == bindparam("holder"), OWED)
OURS = select(jobs.c.id).where(_ALL_OURS)
ENDED = select(jobs.c.id).where(jobs.c.id.in_(bindparam("job_ids", expanding=True)), ~OWED)
RENEW = update(jobs).where(_ALL_OURS).values(lease_until=bindparam("until_"))
WRITE_STEPS = update(jobs).where(_ALL_OURS).values(steps=bindparam("steps_")).returning(jobs.c.id)
_steps_or_as_they_are = func.coalesce(bindparam("steps_", type_=jobs.c.steps.type), jobs.c.steps)
TRY_AGAIN = (
    update(jobs)
    .where(_OURS)
    .values(
        owner=None,
        lease_until=0.0,
        reason=bindparam("reason_"),
        due_at=bindparam("due_at_"),
        attempts=jobs.c.attempts + bindparam("failures"),
        steps=_steps_or_as_they_are,
    )
)
END = (
    update(jobs)
    .where(_ALL_OURS)
    .values(
        owner=None,
        lease_until=0.0,
        reason=bindparam("reason_"),
        state=bindparam("state_"),
        settled_at=bindparam("settled_at_"),
        steps=_steps_or_as_they_are,
    )
)
ADD_ATTEMPTS = insert(attempts).returning(attempts.c.id)
_crowded = select(attempts.c.job_id).group_by(attempts.c.job_id).having(func.count() > ATTEMPTS_KEPT)
_newest_first = func.row_number().over(partition_by=attempts.c.job_id, order_by=attempts.c.id.desc())
_numbered = select(attempts.c.id, _newest_first.label("place")).where(attempts.c.job_id.in_(_crowded)).subquery()
FORGET_OLDEST_ATTEMPTS = delete(attempts).where(
    attempts.c.id.in_(select(_numbered.c.id).where(_numbered.c.place > ATTEMPTS_KEPT))
)
SET_CONTEXT = (
    update(events)
    .where(events.c.id == bindparam("event_id_"))
    .values(
        context=bindparam("context_"),
        email=bindparam("email_", type_=events.c.email.type),
        other_emails=bindparam("other_emails_", type_=events.c.other_emails.type),
    )
)
RELEASE = update(jobs).where(_ALL_OURS).values(owner=None, lease_until=0.0)
HURRY = (
    update(jobs)
    .where(jobs.c.lane == bindparam("lane_"), OWED, jobs.c.due_at > now(), jobs.c.attempts > 0)
    .values(due_at=now())
)
FREE_COOLDOWN = delete(cooldowns).where(
    cooldowns.c.key == bindparam("key_"), cooldowns.c.holder == bindparam("holder_")
)
DROP_BOOKMARK = delete(cooldowns).where(cooldowns.c.key == bindparam("key_"))
NEXT_DUE = select(
    func.min(case((jobs.c.due_at > jobs.c.lease_until, jobs.c.due_at), else_=jobs.c.lease_until))
).where(jobs.c.lane == bindparam("lane_"), OWED, ~_behind_another)
MOVED_SINCE = (
    select(jobs.c.order_key, func.max(func.coalesce(events.c.occurred_at, events.c.received_at)).label("at"))
    .join(events, events.c.id == jobs.c.event_id)
    .where(
        jobs.c.order_key.in_(bindparam("order_keys", expanding=True)),
        events.c.kind == Kind.STAGE_CHANGED.value,
        events.c.received_at >= bindparam("since"),
    )
    .group_by(jobs.c.order_key)
)
STEPS_OF_KEY = select(jobs.c.steps).where(jobs.c.order_key == bindparam("order_key_"))

# A retry that comes too early costs a call; one that waits for the time of a wrong clock may wait for years.
DUE_AT_ONCE = (
    update(jobs)
    .where(OWED, or_(jobs.c.due_at > bindparam("furthest"), and_(jobs.c.attempts == 0, jobs.c.due_at > now())))
    .values(due_at=now())
)

# Takes the write lock and changes nothing.
TOUCH = delete(cooldowns).where(cooldowns.c.key == "")

LATEST_ENDING = (
    select(jobs.c.lane, jobs.c.state, jobs.c.reason, jobs.c.settled_at)
    .where(jobs.c.lane == bindparam("lane_"), jobs.c.settled_at.is_not(None))
    .order_by(jobs.c.settled_at.desc(), jobs.c.id.desc())
    .limit(1)
)

# -- what people did before --

SIGHTING = select(sightings).where(sightings.c.event_id == bindparam("event_id_"))
SIGHTED = select(sightings.c.event_id).where(sightings.c.event_id.in_(bindparam("event_ids", expanding=True)))
_acts = sightings.c.kind.in_([Kind.EMAIL_OPENED.value, Kind.EMAIL_CLICKED.value])
_before = and_(sightings.c.who == bindparam("who_"), sightings.c.id < bindparam("id_"))
SEEN_BEFORE = (
    select(sightings.c.id)
    .where(_before, sightings.c.kind == bindparam("kind_"), sightings.c.campaign == bindparam("campaign_"))
    .limit(1)
)
LAST_ACT = select(func.max(sightings.c.at)).where(_before, _acts)
PARTNER = (
    select(sightings.c.event_id, sightings.c.kind, events.c.data)
    .join(events, events.c.id == sightings.c.event_id)
    .where(
        _before,
        _acts,
        sightings.c.campaign == bindparam("campaign_"),
        sightings.c.kind != bindparam("kind_"),
        sightings.c.at.between(bindparam("from_"), bindparam("to_")),
    )
    .order_by(sightings.c.id.desc())
    .limit(1)
)
UNSUBSCRIBED = (
    select(consents.c.email, consents.c.source)
    .where(consents.c.email.in_(bindparam("emails", expanding=True)), consents.c.unsubscribed == 1)
    .order_by(consents.c.source)
)
# What a cooldown's holder made of the action that claimed it stands in the ledger of its job.
HOLDERS = select(cooldowns.c.key, cooldowns.c.holder).where(
    cooldowns.c.key.in_(bindparam("keys", expanding=True)), cooldowns.c.holder.like("job:%")
)
LEDGERS = select(jobs.c.id, jobs.c.plan, jobs.c.steps).where(jobs.c.id.in_(bindparam("job_ids", expanding=True)))
LEDGERS_OF_EVENTS = select(jobs.c.event_id, jobs.c.steps).where(
    jobs.c.event_id.in_(bindparam("event_ids", expanding=True)), jobs.c.lane == bindparam("lane_")
)

# -- vendors --

END_PAUSES = update(lanes).where(lanes.c.paused_until > bindparam("until_")).values(paused_until=now())

PAUSED_UNTIL = select(lanes.c.paused_until).where(lanes.c.vendor == bindparam("vendor_"))
CALLS = select(lanes.c.calls).where(lanes.c.vendor == bindparam("vendor_"))
ALL_CALLS = select(lanes.c.vendor, lanes.c.calls)
PAUSES = select(lanes).where(lanes.c.paused_until > now())


class Upserts:
    """The statements that say ON CONFLICT, in the words of one database."""

    def __init__(self, dialect: str) -> None:
        add: Any = sqlite.insert if dialect == "sqlite" else postgresql.insert
        set_scope = add(cooldowns)
        self.set_scope: Executable = set_scope.on_conflict_do_update(
            index_elements=[cooldowns.c.key],
            set_={"holder": set_scope.excluded.holder, "until": set_scope.excluded.until},
        )
        claim = add(cooldowns)
        self.claim_cooldown: Executable = claim.on_conflict_do_update(
            index_elements=[cooldowns.c.key],
            set_={"holder": claim.excluded.holder, "until": claim.excluded.until},
            where=or_(cooldowns.c.until <= now(), cooldowns.c.holder == claim.excluded.holder),
        ).returning(cooldowns.c.key)
        self.sight: Executable = add(sightings).on_conflict_do_nothing(index_elements=[sightings.c.event_id])
        said = add(consents)
        new, old = said.excluded, consents.c
        self.set_consent: Executable = said.on_conflict_do_update(
            index_elements=[old.email, old.source],
            set_={"unsubscribed": new.unsubscribed, "at": new.at, "event_id": new.event_id},
            # The latest counts, whenever it comes; of two at the same time the stricter.
            where=or_(new.at > old.at, and_(new.at == old.at, new.unsubscribed > old.unsubscribed)),
        )
        said = add(consents)
        new = said.excluded
        # What has no time of its own is the latest when it comes, even if our clock was set back since.
        self.set_consent_now: Executable = said.on_conflict_do_update(
            index_elements=[old.email, old.source],
            set_={
                "unsubscribed": new.unsubscribed,
                "at": case((new.at > old.at, new.at), else_=old.at),
                "event_id": new.event_id,
            },
        )
        pause = add(lanes)
        self.pause: Executable = pause.on_conflict_do_update(
            index_elements=[lanes.c.vendor],
            set_={"paused_until": pause.excluded.paused_until, "reason": pause.excluded.reason},
            where=lanes.c.paused_until < pause.excluded.paused_until,
        )
        calls = add(lanes)
        self.set_calls: Executable = calls.on_conflict_do_update(
            index_elements=[lanes.c.vendor], set_={"calls": calls.excluded.calls}
        )
