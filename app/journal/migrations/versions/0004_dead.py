"""An index of what is dead: it is counted with every scrape and every look for an alert."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

DEAD = sa.text("state = 'dead'")


def upgrade() -> None:
    op.create_index("jobs_dead", "jobs", ["event_id"], sqlite_where=DEAD, postgresql_where=DEAD)
