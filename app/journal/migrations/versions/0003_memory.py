"""What people did before, and whether they may be written to: kept for longer than the events that said so."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "sightings",
        sa.Column("id", ID, primary_key=True),
        sa.Column("event_id", ID, unique=True),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("campaign", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_index("sightings_of_person", "sightings", ["who", "id"])
    op.create_index("sightings_by_age", "sightings", ["at"])
    op.create_table(
        "consents",
        sa.Column("email", sa.Text, primary_key=True),
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("unsubscribed", sa.Integer, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("event_id", ID, nullable=False),
    )
