"""Who lets us into a vendor's account by OAuth: sealed tokens, and which process changes them now."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "logins",
        sa.Column("vendor", sa.Text, primary_key=True),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("sealed", sa.Text, nullable=False),
        sa.Column("issued_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("holder", sa.Text),
        sa.Column("lease_until", sa.Double, nullable=False, server_default="0"),
        sa.Column("fault", sa.Text, nullable=False, server_default=""),
        sa.Column("fault_at", sa.Double, nullable=False, server_default="0"),
    )
