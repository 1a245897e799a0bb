"""The journal's tables, as the newest migration leaves them. Times are Unix seconds; JSON is stored as text."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData()

# SQLite numbers rows by itself only for a column spelled INTEGER.
Id = BigInteger().with_variant(Integer, "sqlite")

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Id, primary_key=True),
    Column("source", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("received_at", Double, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", Id, primary_key=True),
    Column("webhook_id", Id, ForeignKey("webhooks.id"), nullable=False),
    Column("source", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("dedupe_key", Text, nullable=False, unique=True),
    Column("order_key", Text, nullable=False),
    Column("occurred_at", Double),
    Column("received_at", Double, nullable=False),
    Column("data", Text, nullable=False),
    Column("context", Text),
    # For looking up only: the person's address, others of theirs (a space around each), the campaign's name folded.
    Column("email", Text),
    Column("other_emails", Text),
    Column("campaign", Text),
)
for _name in ("email", "other_emails", "campaign"):
    _known = text(f"{_name} IS NOT NULL")
    Index(f"events_by_{_name}", events.c[_name], events.c.id, sqlite_where=_known, postgresql_where=_known)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("event_id", Id, ForeignKey("events.id"), nullable=False),
    Column("lane", Text, nullable=False),
    Column("order_key", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("due_at", Double, nullable=False),
    Column("owner", Text),  # the process that holds the lease
    Column("lease_until", Double, nullable=False, server_default="0"),
    Column("plan", Text),
    Column("steps", Text, nullable=False, server_default="{}"),
    Column("reason", Text, nullable=False, server_default=""),  # why skipped, dead or not yet done
    Column("created_at", Double, nullable=False),
    Column("settled_at", Double),
    UniqueConstraint("event_id", "lane"),
)

# Only what is still owed is indexed for the claim: its cost does not grow with the journal.
OWED = text("state = 'pending'")
for name, columns in {
    "jobs_by_age": (jobs.c.lane, jobs.c.id),
    "jobs_by_key": (jobs.c.lane, jobs.c.order_key, jobs.c.id),
    "jobs_by_due": (jobs.c.lane, jobs.c.due_at),
}.items():
    Index(name, *columns, sqlite_where=OWED, postgresql_where=OWED)

GIVEN_UP = text("state = 'dead'")
Index("jobs_dead", jobs.c.event_id, sqlite_where=GIVEN_UP, postgresql_where=GIVEN_UP)
SKIPPED = text("state = 'skipped'")
Index("jobs_skipped", jobs.c.event_id, sqlite_where=SKIPPED, postgresql_where=SKIPPED)

# Forgetting goes by age, and looks for the events of each webhook.
Index("events_by_receipt", events.c.received_at)
Index("events_of_webhook", events.c.webhook_id)

# What happened to a deal, and what stands there already.
Index("jobs_of_key", jobs.c.order_key)

# Attempts that did not end well, and when a person had a job taken up again: how a job stands tells only the last.
attempts = Table(
    "attempts",
    metadata,
    Column("id", Id, primary_key=True),
    Column("job_id", Id, ForeignKey("jobs.id"), nullable=False),
    Column("at", Double, nullable=False),
    Column("seconds", Double, nullable=False),  # that the batch took
    Column("outcome", Text, nullable=False),  # how it left the job, or `replayed`
    Column("fault", Text, nullable=False),
    Column("status", Integer),
    Column("words", Text, nullable=False),
)
Index("attempts_of_job", attempts.c.job_id, attempts.c.id)

cooldowns = Table(
    "cooldowns",
    metadata,
    # `task:lead:41500011`, `repeat:kommo:lead:41500011`, `twin:4711:log`, `backfill:…`
    Column("key", Text, primary_key=True),
    Column("holder", Text, nullable=False),  # the job or fingerprint it was claimed for, or a walk's place
    Column("until", Double, nullable=False),
)

# One row for each email activity of a person, in the order of receipt: what is the first of its kind, and when they
# last did something, is asked long after the events themselves are forgotten.
sightings = Table(
    "sightings",
    metadata,
    Column("id", Id, primary_key=True),
    Column("event_id", Id, unique=True),  # empty once the event is forgotten: its id may be given again
    Column("who", Text, nullable=False),  # the email address, or what stands for a person without one
    Column("kind", Text, nullable=False),
    Column("campaign", Text, nullable=False),
    Column("at", Double, nullable=False),
)
Index("sightings_of_person", sightings.c.who, sightings.c.id)
Index("sightings_by_age", sightings.c.at)

# The latest that each platform said of an address. It is never forgotten: a person who left stays so.
consents = Table(
    "consents",
    metadata,
    Column("email", Text, primary_key=True),
    Column("source", Text, primary_key=True),
    Column("unsubscribed", Integer, nullable=False),
    Column("at", Double, nullable=False),
    Column("event_id", Id, nullable=False),
)

lanes = Table(
    "lanes",
    metadata,
    Column("vendor", Text, primary_key=True),
    Column("paused_until", Double, nullable=False, server_default="0"),
    Column("reason", Text, nullable=False, server_default=""),
    Column("calls", Text, nullable=False, server_default="[]"),  # the budget of calls: budget.py
)

# One row for each vendor into whose account somebody has logged in: logins.py.
logins = Table(
    "logins",
    metadata,
    Column("vendor", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("sealed", Text, nullable=False),  # both tokens, encrypted; "" after a logout
    Column("issued_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),  # of the access token
    Column("version", Integer, nullable=False),
    Column("holder", Text),  # who is about to change them
    Column("lease_until", Double, nullable=False, server_default="0"),
    Column("fault", Text, nullable=False, server_default=""),
    Column("fault_at", Double, nullable=False, server_default="0"),
)
