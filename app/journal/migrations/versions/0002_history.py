"""Indexes for looking back and for forgetting: by deal, by age, by webhook."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_index("events_by_receipt", "events", ["received_at"])
    op.create_index("events_of_webhook", "events", ["webhook_id"])
    op.create_index("jobs_of_key", "jobs", ["order_key"])
