"""A journal of an older version, with data in it, is brought up to date at start without loss."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from journal_events import NOW, claim, record, stage
from sqlalchemy import inspect, text

from app.events import Lane, State
from app.journal import Journal, Search, schema

FIRST, HEAD = "0001", "0004"


def downgraded_to_first(url: str) -> None:
    """Turn a journal into what the first version left: later indexes and tables, and the newer number, gone."""
    writer, reader = schema.open_engines(url)
    with writer.begin() as connection:
        for index in ("events_by_receipt", "events_of_webhook", "jobs_of_key", "jobs_dead"):
            connection.execute(text(f"DROP INDEX {index}"))
        for table in ("sightings", "consents"):
            connection.execute(text(f"DROP TABLE {table}"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    writer.dispose()
    reader.dispose()


def version_and_indexes(url: str) -> tuple[str, set[str]]:
    writer, reader = schema.open_engines(url)
    with reader.connect() as connection:
        version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        found = [index["name"] for table in ("events", "jobs") for index in inspect(connection).get_indexes(table)]
    writer.dispose()
    reader.dispose()
    return version, {str(name) for name in found}


def test_a_journal_of_the_first_version_keeps_its_data(database_url: str) -> None:
    journal = Journal(database_url)
    record(journal, stage(1), stage(2))
    claim(journal)
    journal.close()
    downgraded_to_first(database_url)
    assert version_and_indexes(database_url)[0] == FIRST

    journal = Journal(database_url)

    found = journal.find(Search())
    assert [(story.id, [(job.lane, job.state) for job in story.jobs]) for story in found] == [
        (2, [(Lane.RESOLVE, State.PENDING)]),
        (1, [(Lane.RESOLVE, State.PENDING)]),
    ]
    # What was held by the process that is gone is taken over when its lease ends.
    assert [job.event.id for job in journal.claim(Lane.RESOLVE, "kommo", 10, now=NOW + 3600)] == [1, 2]
    journal.close()
    version, indexes = version_and_indexes(database_url)
    assert version == HEAD
    assert {"events_by_receipt", "events_of_webhook", "jobs_of_key", "jobs_dead"} <= indexes


def test_the_first_migration_alone_makes_a_journal_that_can_be_upgraded(database_url: str) -> None:
    writer, reader = schema.open_engines(database_url)
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    with writer.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, FIRST)
    writer.dispose()
    reader.dispose()

    Journal(database_url).close()

    assert version_and_indexes(database_url)[0] == HEAD
