"""A journal of an older version, with data in it, is brought up to date at start without loss."""

from __future__ import annotations

from typing import Any

from alembic import command
from alembic.config import Config
from journal_events import NOW, claim, click, record, stage
from sqlalchemy import inspect, text

from app.events import Contact, Context, Lane, Outcome, State
from app.journal import Journal, Search, Settlement, schema

FIRST, HEAD = "0001", "0006"

BATCH = 500  # events that the migration fills at once
FOUND_BY = ("email", "other_emails", "campaign")


def downgraded_to_first(url: str) -> None:
    """Turn a journal into what the first version left: later indexes and tables, and the newer number, gone."""
    writer, reader = schema.open_engines(url)
    with writer.begin() as connection:
        for index in ("events_by_receipt", "events_of_webhook", "jobs_of_key", "jobs_dead", "jobs_skipped"):
            connection.execute(text(f"DROP INDEX {index}"))
        for column in FOUND_BY:
            connection.execute(text(f"DROP INDEX events_by_{column}"))
            connection.execute(text(f"ALTER TABLE events DROP COLUMN {column}"))
        for table in ("sightings", "consents", "attempts", "logins"):
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
    assert {"events_by_receipt", "events_of_webhook", "jobs_of_key"} <= indexes
    assert {"jobs_dead", "jobs_skipped", *(f"events_by_{column}" for column in FOUND_BY)} <= indexes


def test_what_an_older_version_wrote_is_found(database_url: str) -> None:
    journal = Journal(database_url)
    contact = Contact(1, "Zoë", emails=("zoe@example.com", "zoe@home.example"))
    # More than are filled at once; what is told is in the second part.
    recorded = record(journal, *(stage(number) for number in range(BATCH + 1)), click("ann@example.test"))
    *_, unread, understood, clicked = claim(journal, 2 * BATCH)
    journal.settle(
        [
            Settlement(understood, Outcome(State.DONE, context=Context(contact=contact, email="zoe@example.com"))),
            Settlement(unread, Outcome(State.DONE, context=Context())),
            Settlement(clicked, Outcome(State.DONE, context=Context(contact=contact, email="ann@example.test"))),
        ],
        now=NOW,
    )
    journal.close()
    downgraded_to_first(database_url)

    journal = Journal(database_url)

    def found(**wanted: Any) -> list[int]:
        return [story.id for story in journal.find(Search(**wanted))]

    moved, click_ = (item.event.id for item in recorded[-2:])
    assert found(email="zoe@example.com") == [click_, moved]
    assert found(email="zoe@home.example") == [click_, moved]
    assert found(email="ann@example.test") == [click_]
    assert found(campaign="предложение “MÄRZ") == [click_]
    assert found(email="home.example") == found(email="nobody@example.test") == []
    journal.close()


def test_the_first_migration_alone_makes_a_journal_that_can_be_upgraded(empty_database_url: str) -> None:
    writer, reader = schema.open_engines(empty_database_url)
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    with writer.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, FIRST)
    writer.dispose()
    reader.dispose()

    Journal(empty_database_url).close()

    assert version_and_indexes(empty_database_url)[0] == HEAD
