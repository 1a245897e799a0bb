"""What the page shows and searches: failed attempts, addresses and campaigns, and what was skipped."""

import json
import unicodedata

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
BATCH = 500  # events that are read and filled at once
SKIPPED = sa.text("state = 'skipped'")
LONGEST = 200  # characters by which campaigns are found


def upgrade() -> None:
    op.create_table(
        "attempts",
        sa.Column("id", ID, primary_key=True),
        sa.Column("job_id", ID, sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("fault", sa.Text, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("words", sa.Text, nullable=False),
    )
    op.create_index("attempts_of_job", "attempts", ["job_id", "id"])
    op.create_index("jobs_skipped", "jobs", ["event_id"], sqlite_where=SKIPPED, postgresql_where=SKIPPED)
    for name in ("email", "other_emails", "campaign"):
        op.add_column("events", sa.Column(name, sa.Text))
    fill(op.get_bind())
    for name in ("email", "other_emails", "campaign"):
        known = sa.text(f"{name} IS NOT NULL")
        op.create_index(f"events_by_{name}", "events", [name, "id"], sqlite_where=known, postgresql_where=known)


def fill(connection: sa.Connection) -> None:
    """Take addresses and campaigns out of what older versions wrote down."""
    some = sa.text(
        "SELECT id, data, context FROM events WHERE id > :after ORDER BY id LIMIT :batch"
    )
    change = sa.text(
        "UPDATE events SET email = :email, other_emails = :other_emails, campaign = :campaign WHERE id = :id"
    )
    after = -1
    while rows := connection.execute(some, {"after": after, "batch": BATCH}).all():
        after = rows[-1].id
        found = [told for row in rows if (told := said(row))]
        if found:
            connection.execute(change, found)


def said(row: sa.Row[tuple[int, str, str]]) -> dict[str, object] | None:
    """Return what one event says of people and campaigns, or None if nothing."""
    data, context = json.loads(row.data), json.loads(row.context or "{}")
    emails = list((context.get("contact") or {}).get("emails") or ())
    email = data.get("email") or context.get("email") or next(iter(emails), None)
    others = sorted({*emails, context.get("email")} - {email, None, ""})
    campaign = unicodedata.normalize("NFC", data.get("campaign") or "").casefold()[:LONGEST]
    if not email and not campaign:
        return None
    return {
        "id": row.id,
        "email": email or None,
        "other_emails": f" {' '.join(others)} " if others else None,
        "campaign": campaign or None,
    }
