"""Alembic's way in: runs the migrations on the connection that `app.journal.schema` hands over."""

from alembic import context

from app.journal.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
